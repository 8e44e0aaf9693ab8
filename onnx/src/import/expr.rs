//! Functions of one number, as expressions that can be compared.

use std::rc::Rc;

use engine::graph::{Activation, Function, Pairwise};

/// A function of `x`.
#[derive(Debug, Clone)]
pub(super) enum Expr {
    X,
    Number(f64),
    Named(Named, Rc<Expr>),
    Pair(Pair, Rc<Expr>, Rc<Expr>),
}

/// Functions of one number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Named {
    Activation(Activation),
    Function(Function),
    Log,
    Softplus,
}

/// Functions of two numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pair {
    Engine(Pairwise),
    Pow,
}

impl Pair {
    pub(super) fn of(op: &str) -> Option<Self> {
        Some(match op {
            "Add" | "Sum" => Self::Engine(Pairwise::Add),
            "Sub" => Self::Engine(Pairwise::Sub),
            "Mul" => Self::Engine(Pairwise::Mul),
            "Div" => Self::Engine(Pairwise::Div),
            "Max" => Self::Engine(Pairwise::Max),
            "Min" => Self::Engine(Pairwise::Min),
            "Pow" => Self::Pow,
            _ => return None,
        })
    }

    fn at(self, a: f64, b: f64) -> f64 {
        match self {
            Self::Engine(Pairwise::Add) => a + b,
            Self::Engine(Pairwise::Sub) => a - b,
            Self::Engine(Pairwise::Mul) => a * b,
            Self::Engine(Pairwise::Div) => a / b,
            Self::Engine(Pairwise::Max) => a.max(b),
            Self::Engine(Pairwise::Min) => a.min(b),
            Self::Pow => libm::pow(a, b),
        }
    }
}

impl Named {
    fn at(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
        match self {
            Self::Activation(Activation::Relu) => x.max(0.0),
            Self::Activation(Activation::Relu6) => x.clamp(0.0, 6.0),
            Self::Activation(Activation::LeakyRelu) => x.max(0.01 * x),
            Self::Activation(Activation::Gelu) => x * 0.5 * (1.0 + libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Self::Activation(Activation::Silu) => x * sigmoid(x),
            Self::Activation(Activation::HardSwish) => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::Activation(Activation::Sigmoid) => sigmoid(x),
            Self::Activation(Activation::Tanh) => libm::tanh(x),
            Self::Function(Function::Clip { low, high }) => x.max(f64::from(low)).min(f64::from(high)),
            Self::Function(Function::LeakyRelu { slope }) => {
                if x > 0.0 {
                    x
                } else {
                    x * f64::from(slope)
                }
            }
            Self::Function(Function::HardSigmoid { alpha, beta }) => {
                (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
            }
            Self::Function(Function::Elu { alpha }) => {
                if x > 0.0 {
                    x
                } else {
                    f64::from(alpha) * (libm::exp(x) - 1.0)
                }
            }
            Self::Function(Function::GeluTanh) => {
                let inside = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x);
                0.5 * x * (1.0 + libm::tanh(inside))
            }
            Self::Function(Function::Mish) => x * libm::tanh(libm::log1p(libm::exp(x))),
            Self::Function(Function::Exp) => libm::exp(x),
            Self::Function(Function::Sqrt) => x.sqrt(),
            Self::Function(Function::Erf) => libm::erf(x),
            Self::Function(Function::Abs) => x.abs(),
            Self::Log => libm::log(x),
            Self::Softplus => libm::log1p(libm::exp(x)),
        }
    }
}

impl Expr {
    fn at(&self, x: f64) -> f64 {
        match self {
            Self::X => x,
            Self::Number(number) => *number,
            Self::Named(named, of) => named.at(of.at(x)),
            Self::Pair(pair, a, b) => pair.at(a.at(x), b.at(x)),
        }
    }

    pub(super) fn size(&self) -> usize {
        match self {
            Self::X | Self::Number(_) => 1,
            Self::Named(_, of) => 1 + of.size(),
            Self::Pair(_, a, b) => 1 + a.size() + b.size(),
        }
    }

    /// `a` and `b` if it is `a x + b`.
    pub(super) fn line(&self, tolerance: f64) -> Option<[f64; 2]> {
        let shift = self.at(0.0);
        let slope = self.at(1.0) - shift;
        let fits =
            |x: f64| (self.at(x) - slope * x - shift).abs() <= tolerance * (1.0 + slope.abs() * x.abs() + shift.abs());
        (slope.is_finite() && shift.is_finite() && points().all(fits)).then_some([slope, shift])
    }

    /// The engine's function that it is.
    pub(super) fn named(&self, tolerance: f64) -> Option<Named> {
        let all = [
            Named::Activation(Activation::Relu),
            Named::Activation(Activation::Relu6),
            Named::Activation(Activation::LeakyRelu),
            Named::Activation(Activation::Gelu),
            Named::Activation(Activation::Silu),
            Named::Activation(Activation::HardSwish),
            Named::Activation(Activation::Sigmoid),
            Named::Activation(Activation::Tanh),
            Named::Function(Function::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }),
            Named::Function(Function::GeluTanh),
            Named::Function(Function::Mish),
        ];
        let error = |named: &Named| {
            let one = |x: f64| (self.at(x) - named.at(x)).abs() / (1.0 + named.at(x).abs());
            // What is not a number is no match.
            points().map(one).fold(0.0, |most: f64, error| if error <= most { most } else { error })
        };
        let best = all.into_iter().map(|named| (error(&named), named)).min_by(|a, b| a.0.total_cmp(&b.0))?;
        (best.0 <= tolerance).then_some(best.1)
    }
}

/// Where functions are compared.
fn points() -> impl Iterator<Item = f64> {
    (-40..=40).map(|step| f64::from(step) * 0.31)
}

/// An expression with another in the place of `x`.
pub(super) fn substituted(expr: &Expr, inside: &Rc<Expr>) -> Expr {
    let with = |expr: &Rc<Expr>| match **expr {
        Expr::X => inside.clone(),
        _ => Rc::new(substituted(expr, inside)),
    };
    match expr {
        Expr::X => (**inside).clone(),
        Expr::Number(number) => Expr::Number(*number),
        Expr::Named(named, of) => Expr::Named(*named, with(of)),
        Expr::Pair(pair, a, b) => Expr::Pair(*pair, with(a), with(b)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(pair: Pairwise, a: Rc<Expr>, b: Rc<Expr>) -> Rc<Expr> {
        Rc::new(Expr::Pair(Pair::Engine(pair), a, b))
    }

    fn number(number: f64) -> Rc<Expr> {
        Rc::new(Expr::Number(number))
    }

    fn named(named: Named, of: Rc<Expr>) -> Rc<Expr> {
        Rc::new(Expr::Named(named, of))
    }

    #[test]
    fn activations_in_parts() {
        let x = Rc::new(Expr::X);
        let clip = Named::Function(Function::Clip { low: 0.0, high: 6.0 });
        let sixth = pair(Pairwise::Div, named(clip, pair(Pairwise::Add, x.clone(), number(3.0))), number(6.0));
        assert_eq!(sixth.named(2e-6), Some(Named::Function(Function::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 })));
        let swish = pair(Pairwise::Mul, x.clone(), sixth);
        assert_eq!(swish.named(2e-6), Some(Named::Activation(Activation::HardSwish)));
        let silu = pair(Pairwise::Mul, x.clone(), named(Named::Activation(Activation::Sigmoid), x.clone()));
        assert_eq!(silu.named(2e-6), Some(Named::Activation(Activation::Silu)));
        let erf =
            named(Named::Function(Function::Erf), pair(Pairwise::Div, x.clone(), number(f64::from(2_f32.sqrt()))));
        let gelu =
            pair(Pairwise::Mul, pair(Pairwise::Mul, x.clone(), pair(Pairwise::Add, erf, number(1.0))), number(0.5));
        assert_eq!(gelu.named(2e-6), Some(Named::Activation(Activation::Gelu)));
        assert_eq!(gelu.named(1e-3), Some(Named::Activation(Activation::Gelu)), "not its approximation");
        let line = pair(Pairwise::Sub, pair(Pairwise::Mul, x.clone(), number(3.0)), number(1.0));
        assert_eq!(line.line(2e-6), Some([3.0, -1.0]));
        assert_eq!(gelu.line(1e-3), None);
        let exp = named(Named::Function(Function::Exp), x);
        assert_eq!(exp.named(1e-3), None);
    }
}
