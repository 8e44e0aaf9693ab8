//! Element-wise functions of one value.
//!
//! Exporters write an activation in many ways: `x * sigmoid(x)`, Gelu by the error function or by tanh, hard swish by a clip. Nodes
//! of one value and single numbers are gathered into one expression, which has what the engine can do at once in one piece
//! ([`expr`](super::expr)); it is computed piece by piece.

use std::rc::Rc;

use engine::graph::{Activation, Function, Op, Pairwise, Value};

use super::expr::{self, Expr, Named, Pair, line};
use super::{Args, Importer, View, What};
use crate::error::{Problem, refuse};

/// Nodes of the largest expression; longer chains are computed in between.
const MOST: usize = 64;

/// What LeakyRelu multiplies by where nothing is said.
const LEAK: f32 = 0.01;

impl Importer {
    /// How much an activation's constants may be rounded: as people write them, or to half precision.
    pub(super) fn tolerance(&self) -> f64 {
        if self.half { 1e-3 } else { 1e-5 }
    }

    pub(super) fn unary(&mut self, args: &Args<'_>) -> Result<View, Problem> {
        let call = &args.call;
        let finite = |name: &str, number: f64| match number.is_finite() {
            true => Ok(number as f32),
            false => refuse!("its `{name}` is {number}: a finite number is accepted"),
        };
        let float = |name: &str, default: f64| finite(name, call.float(name, default)?);
        // From version 11 on the bounds of a clip are inputs. One may be infinite.
        let bound = |name: &str, index: usize, default: f32| {
            let given = match args.known(index)? {
                Some(tensor) => match tensor.scalar() {
                    Some(number) => number,
                    None => refuse!("its input {index} is no single number"),
                },
                None => call.float(name, f64::from(default))?,
            };
            finite(name, if given.is_infinite() { given.signum() * f64::from(f32::MAX) } else { given })
        };
        // Other operators are one of the engine's functions of `x`.
        let mut of = None;
        let view = args.view(0)?;
        let named = match call.node.op {
            "Relu" => Named::Activation(Activation::Relu),
            "Sigmoid" => Named::Activation(Activation::Sigmoid),
            "Tanh" => Named::Activation(Activation::Tanh),
            "HardSwish" => Named::Activation(Activation::HardSwish),
            "Swish" => {
                of = Some(float("alpha", 1.0)?);
                Named::Activation(Activation::Sigmoid)
            }
            "Gelu" if call.text("approximate", "none")? == "tanh" => Named::Function(Function::GeluTanh),
            "Gelu" => Named::Activation(Activation::Gelu),
            "LeakyRelu" => Named::Function(Function::LeakyRelu { slope: float("alpha", f64::from(LEAK))? }),
            "PRelu" => match args.constant(1)?.scalar() {
                Some(slope) => Named::Function(Function::LeakyRelu { slope: finite("slope", slope)? }),
                None => refuse!("a slope a channel is not accepted: one for all is"),
            },
            "Elu" => Named::Function(Function::Elu { alpha: float("alpha", 1.0)? }),
            "HardSigmoid" => {
                let (alpha, beta) = (float("alpha", 0.2)?, float("beta", 0.5)?);
                Named::Function(Function::HardSigmoid { alpha, beta })
            }
            "Clip" => {
                let (low, high) = (bound("min", 1, f32::MIN)?, bound("max", 2, f32::MAX)?);
                if low > high {
                    refuse!("its bounds are {low} and {high}");
                }
                Named::Function(Function::Clip { low, high })
            }
            "Mish" => Named::Function(Function::Mish),
            "Softplus" => Named::Softplus,
            "Erf" => Named::Function(Function::Erf),
            "Exp" => Named::Function(Function::Exp),
            "Abs" => Named::Function(Function::Abs),
            "Log" => Named::Log,
            "Sqrt" => Named::Function(Function::Sqrt),
            "Neg" | "Reciprocal" => {
                if let Some(view) = self.norm_unary(call.node.op, &view) {
                    return Ok(view);
                }
                return self.unary_of(call.node.op, view);
            }
            _ => refuse!("this operator is not accepted"),
        };
        if let Some(view) = self.norm_unary(call.node.op, &view) {
            return Ok(view);
        }
        let (view, base, inside) = self.function(view)?;
        let expr = match of {
            Some(alpha) => {
                let sigmoid = expr::named(named, &line(&inside, f64::from(alpha), 0.0));
                expr::product(&inside, &sigmoid, self.tolerance())
            }
            None => expr::named(named, &inside),
        };
        Ok(View { what: What::Function(base, expr), axes: view.axes })
    }

    /// `-x`, `1 / x` or the square root.
    pub(super) fn unary_of(&mut self, op: &str, view: View) -> Result<View, Problem> {
        let (view, base, inside) = self.function(view)?;
        let expr = match op {
            "Neg" => line(&inside, -1.0, 0.0),
            "Reciprocal" => {
                expr::pair(Pair::Engine(Pairwise::Div), &Rc::new(Expr::Number(1.0)), &inside, self.tolerance())
            }
            _ => expr::named(Named::Function(Function::Sqrt), &inside),
        };
        Ok(View { what: What::Function(base, expr), axes: view.axes })
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

    /// Computes a function.
    pub(super) fn realise(&mut self, base: Value, expr: &Expr) -> Result<Value, Problem> {
        self.piece(base, expr, &mut Vec::new())
    }

    /// The same of a part of it; `done` are those that are computed.
    fn piece<'a>(&mut self, base: Value, expr: &'a Expr, done: &mut Vec<(&'a Expr, Value)>) -> Result<Value, Problem> {
        if let Some((_, value)) = done.iter().find(|(other, _)| expr.alike(other)) {
            return Ok(*value);
        }
        let value = match expr {
            Expr::X => base,
            Expr::Number(_) => refuse!("it does not depend on the input"),
            Expr::Line { of, slope, shift } => {
                let of = self.piece(base, of, done)?;
                self.affine(of, *slope, *shift)?
            }
            Expr::Clip { of, low, high } => match (&**of, [*low, *high]) {
                (Expr::Line { of, slope, shift }, [0.0, 1.0]) if *slope != 1.0 => {
                    let of = self.piece(base, of, done)?;
                    let function = Function::HardSigmoid { alpha: *slope as f32, beta: *shift as f32 };
                    self.add(Op::Function(function), &[of])?
                }
                (_, bounds) => {
                    let of = self.piece(base, of, done)?;
                    self.clipped(of, bounds)?
                }
            },
            Expr::Named(named, of) => {
                let of = self.piece(base, of, done)?;
                self.named(of, *named)?
            }
            Expr::Pair(Pair::Engine(Pairwise::Div), number, b) if matches!(**number, Expr::Number(_)) => {
                let Expr::Number(number) = **number else { unreachable!("it has been looked at") };
                let b = self.piece(base, b, done)?;
                let shape = self.graph.shape(b).to_vec();
                let number = self.parameter("a number", &shape, vec![number as f32; shape.iter().product()])?;
                let number = self.add(Op::Constant(number), &[])?;
                self.add(Op::Pairwise(Pairwise::Div), &[number, b])?
            }
            Expr::Pair(Pair::Engine(pair), a, b) => {
                let (a, b) = (self.piece(base, a, done)?, self.piece(base, b, done)?);
                self.add(Op::Pairwise(*pair), &[a, b])?
            }
            Expr::Pair(Pair::Pow, a, power) => match **power {
                Expr::Number(power) => {
                    let a = self.piece(base, a, done)?;
                    self.power(a, power)?
                }
                _ => refuse!("a power with a computed exponent is not accepted"),
            },
        };
        done.push((expr, value));
        Ok(value)
    }

    fn power(&mut self, x: Value, power: f64) -> Result<Value, Problem> {
        if power.fract() != 0.0 || !(1.0..=8.0).contains(&power) {
            refuse!("a power of {power} is not accepted: 0.5 and 1 to 8 are");
        }
        let mut y = x;
        for _ in 1..power as usize {
            y = self.add(Op::Pairwise(Pairwise::Mul), &[y, x])?;
        }
        Ok(y)
    }

    fn clipped(&mut self, x: Value, [low, high]: [f64; 2]) -> Result<Value, Problem> {
        let op = match [low, high] {
            [0.0, f64::INFINITY] => Op::Activation(Activation::Relu),
            [0.0, 6.0] => Op::Activation(Activation::Relu6),
            [low, high] => {
                let bound = |bound: f64| bound.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32;
                Op::Function(Function::Clip { low: bound(low), high: bound(high) })
            }
        };
        self.add(op, &[x])
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
            Named::Function(Function::LeakyRelu { slope: LEAK }) => Op::Activation(Activation::LeakyRelu),
            Named::Function(function) => Op::Function(function),
            Named::Log => refuse!("a logarithm is not accepted"),
            Named::Softplus => refuse!("softplus is accepted as a part of mish alone"),
        };
        self.add(op, &[x])
    }
}
