//! Element-wise functions of one value, recognised by what they compute.
//!
//! Exporters write an activation in many ways: `x * sigmoid(x)`, Gelu by the error function or by tanh, hard swish by a clip. Nodes
//! of one value and single numbers are gathered into one expression; it is compared with the functions that the engine has
//! at some points, and only what is none of them is computed step by step.

use std::rc::Rc;

use engine::graph::{Activation, Function, Op, Pairwise, Value};

use super::expr::{Expr, Named, Pair, substituted};
use super::{Args, Importer, View, What};
use crate::error::{Problem, refuse};

/// Nodes of the largest expression; longer chains are computed in between.
const MOST: usize = 64;

impl Importer {
    /// How far apart functions may be that are taken for one: constants of half precision are rounded.
    pub(super) fn tolerance(&self) -> f64 {
        if self.half { 1e-3 } else { 2e-6 }
    }

    pub(super) fn unary(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let call = &args.call;
        let float = |name: &str, default: f64| call.float(name, default).map(|value| value as f32);
        // From version 11 on the bounds of a clip are inputs.
        let bound = |name: &str, index: usize, default: f32| match args.known(index)? {
            Some(tensor) => match tensor.scalar() {
                Some(number) => Ok(number as f32),
                None => refuse!("its input {index} is no single number"),
            },
            None => float(name, f64::from(default)),
        };
        let x = Rc::new(Expr::X);
        let number = |number: f64| Rc::new(Expr::Number(number));
        let line = |slope: f64| Rc::new(Expr::Pair(Pair::Engine(Pairwise::Mul), x.clone(), number(slope)));
        let named = |named: Named| Expr::Named(named, x.clone());
        let expr = match call.node.op {
            "Relu" => named(Named::Activation(Activation::Relu)),
            "Sigmoid" => named(Named::Activation(Activation::Sigmoid)),
            "Tanh" => named(Named::Activation(Activation::Tanh)),
            "HardSwish" => named(Named::Activation(Activation::HardSwish)),
            "Swish" => Expr::Pair(
                Pair::Engine(Pairwise::Mul),
                x.clone(),
                Rc::new(Expr::Named(Named::Activation(Activation::Sigmoid), line(call.float("alpha", 1.0)?))),
            ),
            "Gelu" if call.text("approximate", "none")? == "tanh" => named(Named::Function(Function::GeluTanh)),
            "Gelu" => named(Named::Activation(Activation::Gelu)),
            "LeakyRelu" => named(Named::Function(Function::LeakyRelu { slope: float("alpha", 0.01)? })),
            "PRelu" => match args.constant(1)?.scalar() {
                Some(slope) => named(Named::Function(Function::LeakyRelu { slope: slope as f32 })),
                None => refuse!("a slope a channel is not accepted: one for all is"),
            },
            "Elu" => named(Named::Function(Function::Elu { alpha: float("alpha", 1.0)? })),
            "HardSigmoid" => {
                let (alpha, beta) = (float("alpha", 0.2)?, float("beta", 0.5)?);
                named(Named::Function(Function::HardSigmoid { alpha, beta }))
            }
            "Clip" => {
                let (low, high) = (bound("min", 1, f32::MIN)?, bound("max", 2, f32::MAX)?);
                if low > high {
                    refuse!("its bounds are {low} and {high}");
                }
                named(Named::Function(Function::Clip { low, high }))
            }
            "Mish" => named(Named::Function(Function::Mish)),
            "Softplus" => named(Named::Softplus),
            "Erf" => named(Named::Function(Function::Erf)),
            "Exp" => named(Named::Function(Function::Exp)),
            "Abs" => named(Named::Function(Function::Abs)),
            "Log" => named(Named::Log),
            "Sqrt" => named(Named::Function(Function::Sqrt)),
            "Neg" => Expr::Pair(Pair::Engine(Pairwise::Mul), x.clone(), number(-1.0)),
            "Reciprocal" => Expr::Pair(Pair::Engine(Pairwise::Div), number(1.0), x.clone()),
            _ => refuse!("this operator is not accepted"),
        };
        let view = args.view(0)?;
        if let Some(view) = self.norm_unary(call.node.op, &view) {
            return Ok(view);
        }
        let (view, base, inside) = self.function(view)?;
        self.compose(view, base, substituted(&expr, &inside))
    }

    /// A value as a function of one that is computed.
    pub(super) fn function(&mut self, mut view: View) -> Result<(View, Value, Rc<Expr>), Problem> {
        if let What::Function(base, expr) = &view.what {
            let (base, expr) = (*base, expr.clone());
            if expr.size() < MOST {
                return Ok((view, base, expr));
            }
        }
        let base = self.settle(&mut view)?;
        Ok((view, base, Rc::new(Expr::X)))
    }

    /// A view of a function of a value.
    pub(super) fn compose(&mut self, view: View, base: Value, expr: Expr) -> Result<View, Problem> {
        Ok(View { what: What::Function(base, Rc::new(expr)), axes: view.axes })
    }

    /// Computes a function.
    pub(super) fn realise(&mut self, base: Value, expr: &Expr) -> Result<Value, Problem> {
        if let Some([slope, shift]) = expr.line(self.tolerance()) {
            return self.affine(base, slope, shift);
        }
        let direct = match expr {
            Expr::Named(named, of) if matches!(**of, Expr::X) => Some(*named),
            _ => None,
        };
        if let Some(named) = expr.named(self.tolerance()).or(direct) {
            return self.named(base, named);
        }
        match expr {
            Expr::X => Ok(base),
            Expr::Number(_) => refuse!("it does not depend on the input"),
            Expr::Named(named, of) => {
                let of = self.realise(base, of)?;
                self.named(of, *named)
            }
            Expr::Pair(pair, a, b) => match (pair, &**a, &**b) {
                (Pair::Engine(pair), a, Expr::Number(number)) => {
                    let a = self.realise(base, a)?;
                    self.with_number(*pair, a, *number)
                }
                (Pair::Engine(pair), Expr::Number(number), b) => {
                    let b = self.realise(base, b)?;
                    match pair {
                        Pairwise::Sub => self.affine(b, -1.0, *number),
                        Pairwise::Div => {
                            let shape = self.graph.shape(b).to_vec();
                            let values = vec![*number as f32; shape.iter().product()];
                            let number = self.parameter("a number", &shape, values);
                            let number = self.add(Op::Constant(number), &[])?;
                            self.add(Op::Pairwise(Pairwise::Div), &[number, b])
                        }
                        pair => self.with_number(*pair, b, *number),
                    }
                }
                (Pair::Engine(pair), a, b) => {
                    let (a, b) = (self.realise(base, a)?, self.realise(base, b)?);
                    self.add(Op::Pairwise(*pair), &[a, b])
                }
                (Pair::Pow, a, Expr::Number(power)) => {
                    let a = self.realise(base, a)?;
                    self.power(a, *power)
                }
                (Pair::Pow, ..) => refuse!("a power with a computed exponent is not accepted"),
            },
        }
    }

    fn power(&mut self, x: Value, power: f64) -> Result<Value, Problem> {
        if power == 0.5 {
            return self.named(x, Named::Function(Function::Sqrt));
        }
        if power.fract() != 0.0 || !(1.0..=8.0).contains(&power) {
            refuse!("a power of {power} is not accepted: 0.5 and 1 to 8 are");
        }
        let mut y = x;
        for _ in 1..power as usize {
            y = self.add(Op::Pairwise(Pairwise::Mul), &[y, x])?;
        }
        Ok(y)
    }

    fn with_number(&mut self, pair: Pairwise, x: Value, number: f64) -> Result<Value, Problem> {
        match pair {
            Pairwise::Add => self.affine(x, 1.0, number),
            Pairwise::Sub => self.affine(x, 1.0, -number),
            Pairwise::Mul => self.affine(x, number, 0.0),
            Pairwise::Div => self.affine(x, 1.0 / number, 0.0),
            Pairwise::Max => self.named(x, Named::Function(Function::Clip { low: number as f32, high: f32::MAX })),
            Pairwise::Min => self.named(x, Named::Function(Function::Clip { low: f32::MIN, high: number as f32 })),
        }
    }

    /// `slope x + shift`.
    fn affine(&mut self, x: Value, slope: f64, shift: f64) -> Result<Value, Problem> {
        if [slope, shift] == [1.0, 0.0] {
            return Ok(x);
        }
        let [channels, _] = self.dims(x);
        self.scaled(x, Some(&vec![slope as f32; channels]), Some(&vec![shift as f32; channels]))
    }

    fn named(&mut self, x: Value, named: Named) -> Result<Value, Problem> {
        let op = match named {
            Named::Activation(activation) => Op::Activation(activation),
            Named::Function(function) => Op::Function(function),
            Named::Log => refuse!("a logarithm is not accepted"),
            Named::Softplus => refuse!("softplus is accepted as a part of mish alone"),
        };
        self.add(op, &[x])
    }
}
