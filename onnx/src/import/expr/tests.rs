//! Whatever is built is compared with the same formula in `f64`, far from zero too.

use super::*;

/// A formula of the values before it.
type Formula = Box<dyn Fn(&[f64]) -> f64>;

impl Named {
    fn at(self, x: f64) -> f64 {
        let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
        let half = |inside: f64| x * 0.5 * (1.0 + inside);
        match self {
            Self::Activation(Activation::Relu) => x.max(0.0),
            Self::Activation(Activation::Relu6) => x.clamp(0.0, 6.0),
            Self::Activation(Activation::LeakyRelu) => x.max(0.01 * x),
            Self::Activation(Activation::Gelu) => half(libm::erf(x * std::f64::consts::FRAC_1_SQRT_2)),
            Self::Activation(Activation::Silu) => x * sigmoid(x),
            Self::Activation(Activation::HardSwish) => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
            Self::Activation(Activation::Sigmoid) => sigmoid(x),
            Self::Activation(Activation::Tanh) => libm::tanh(x),
            Self::Function(Function::Clip { low, high }) => x.max(f64::from(low)).min(f64::from(high)),
            Self::Function(Function::LeakyRelu { slope }) if x < 0.0 => x * f64::from(slope),
            Self::Function(Function::LeakyRelu { .. }) => x,
            Self::Function(Function::HardSigmoid { alpha, beta }) => {
                (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
            }
            Self::Function(Function::Elu { alpha }) if x < 0.0 => f64::from(alpha) * libm::expm1(x),
            Self::Function(Function::Elu { .. }) => x,
            Self::Function(Function::GeluTanh) => {
                half(libm::tanh((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)))
            }
            Self::Function(Function::Mish) => x * libm::tanh(Self::Softplus.at(x)),
            Self::Function(Function::Exp) => libm::exp(x),
            Self::Function(Function::Sqrt) => x.sqrt(),
            Self::Function(Function::Erf) => libm::erf(x),
            Self::Function(Function::Abs) => x.abs(),
            Self::Log => libm::log(x),
            Self::Softplus => x.max(0.0) + libm::log1p(libm::exp(-x.abs())),
        }
    }
}

impl Pair {
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

impl Expr {
    fn at(&self, x: f64) -> f64 {
        match self {
            Self::X => x,
            Self::Number(number) => *number,
            Self::Line { of, slope, shift } => slope * of.at(x) + shift,
            Self::Clip { of, low, high } => of.at(x).max(*low).min(*high),
            Self::Named(named, of) => named.at(of.at(x)),
            Self::Pair(pair, a, b) => pair.at(a.at(x), b.at(x)),
        }
    }
}

const FULL: f64 = 1e-5;

fn x() -> Rc<Expr> {
    Rc::new(Expr::X)
}

fn number(number: f64) -> Rc<Expr> {
    Rc::new(Expr::Number(number))
}

fn add(a: &Rc<Expr>, b: &Rc<Expr>) -> Rc<Expr> {
    pair(Pair::Engine(Pairwise::Add), a, b, FULL)
}

fn mul(a: &Rc<Expr>, b: &Rc<Expr>) -> Rc<Expr> {
    pair(Pair::Engine(Pairwise::Mul), a, b, FULL)
}

fn div(a: &Rc<Expr>, b: &Rc<Expr>) -> Rc<Expr> {
    pair(Pair::Engine(Pairwise::Div), a, b, FULL)
}

fn function(function: Function, of: &Rc<Expr>) -> Rc<Expr> {
    named(Named::Function(function), of)
}

fn activation(activation: Activation, of: &Rc<Expr>) -> Rc<Expr> {
    named(Named::Activation(activation), of)
}

/// Its name, if it is an activation of `x` itself.
fn name(expr: &Expr) -> Option<Named> {
    match expr {
        Expr::Named(named, of) if matches!(**of, Expr::X) => Some(*named),
        _ => None,
    }
}

#[test]
fn activations_in_parts() {
    let (x, three, six, half, one) = (x(), number(3.0), number(6.0), number(0.5), number(1.0));
    let f32 = |number: f64| self::number(f64::from(number as f32));
    let clipped = function(Function::Clip { low: 0.0, high: 6.0 }, &add(&x, &three));
    let sigmoid = activation(Activation::Sigmoid, &x);
    let erf = add(&function(Function::Erf, &div(&x, &f32(2_f64.sqrt()))), &one);
    let cube = pair(Pair::Pow, &x, &three, FULL);
    let line = add(&x, &mul(&f32(0.044_715), &cube));
    let tanh = add(&activation(Activation::Tanh, &mul(&line, &f32(0.797_884_56))), &one);
    let square = mul(&mul(&f32(0.044_715), &x), &x);
    let other = mul(&mul(&x, &f32(0.797_884_56)), &add(&one, &square));
    let other = add(&one, &activation(Activation::Tanh, &other));
    let softplus = named(Named::Log, &add(&one, &function(Function::Exp, &x)));
    let hard = function(Function::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 }, &x);
    let fraction = add(&one, &function(Function::Exp, &mul(&x, &number(-1.0))));
    let [gelu, silu, swish] = [Activation::Gelu, Activation::Silu, Activation::HardSwish].map(Named::Activation);
    let gelu_tanh = Named::Function(Function::GeluTanh);
    for (index, (expr, expected)) in [
        (mul(&x, &div(&clipped, &six)), swish),
        (div(&mul(&x, &clipped), &six), swish),
        (mul(&mul(&x, &clipped), &f32(1.0 / 6.0)), swish),
        (mul(&div(&x, &six), &clipped), swish),
        (mul(&hard, &x), swish),
        (mul(&x, &sigmoid), silu),
        (div(&x, &fraction), silu),
        (mul(&mul(&x, &half), &erf), gelu),
        (mul(&mul(&erf, &x), &half), gelu),
        (mul(&x, &mul(&half, &erf)), gelu),
        (mul(&mul(&x, &half), &tanh), gelu_tanh),
        (mul(&x, &mul(&half, &other)), gelu_tanh),
        (mul(&x, &activation(Activation::Tanh, &softplus)), Named::Function(Function::Mish)),
        (
            pair(Pair::Engine(Pairwise::Max), &mul(&x, &number(0.25)), &x, FULL),
            Named::Function(Function::LeakyRelu { slope: 0.25 }),
        ),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(name(&expr), Some(expected), "{index}: {expr:?}");
    }
    assert!(matches!(*hard, Expr::Clip { low: 0.0, high: 1.0, .. }), "{hard:?}");
    // Constants of half precision.
    let rough = |number: f64| self::number(half::f16::from_f64(number).to_f64());
    let erf = add(&function(Function::Erf, &div(&x, &rough(2_f64.sqrt()))), &one);
    assert_eq!(name(&pair(Pair::Engine(Pairwise::Mul), &x, &mul(&half, &erf), 1e-3)), Some(gelu));
    assert_eq!(name(&mul(&x, &mul(&half, &erf))), None, "only where there are any");
}

#[test]
fn lookalikes_are_no_activations() {
    let (x, one) = (x(), number(1.0));
    let clip = |low: f32, high: f32, shift: f64| function(Function::Clip { low, high }, &add(&x, &number(shift)));
    let erf = function(Function::Erf, &x);
    for expr in [
        mul(&x, &clip(0.0, 7.0, 3.0)),
        mul(&x, &clip(0.0, 6.0, 2.9)),
        mul(&x, &clip(-1.0, 6.0, 3.0)),
        mul(&x, &add(&erf, &number(0.9))),
        mul(&add(&x, &one), &activation(Activation::Sigmoid, &x)),
        pair(Pair::Engine(Pairwise::Max), &x, &mul(&x, &number(-0.5)), FULL),
    ] {
        assert!(matches!(*expr, Expr::Pair(..)), "{expr:?}");
    }
    // No points are compared: what differs far out is another function.
    let far = function(Function::Clip { low: -20.0, high: 20.0 }, &x);
    assert!(matches!(*far, Expr::Clip { low: -20.0, high: 20.0, .. }));
    let flat = activation(Activation::Sigmoid, &mul(&x, &number(0.02)));
    assert!(matches!(*flat, Expr::Named(Named::Activation(Activation::Sigmoid), _)));
}

/// Random functions built here and as they are written.
#[test]
fn nothing_but_the_form_changes() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut below = |end: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % end
    };
    let names = [
        Named::Activation(Activation::Relu),
        Named::Activation(Activation::Relu6),
        Named::Activation(Activation::Sigmoid),
        Named::Activation(Activation::Tanh),
        Named::Activation(Activation::Silu),
        Named::Function(Function::Erf),
        Named::Function(Function::Abs),
        Named::Function(Function::HardSigmoid { alpha: 0.2, beta: 0.5 }),
        Named::Function(Function::Clip { low: -20.0, high: 7.0 }),
        Named::Function(Function::LeakyRelu { slope: 0.125 }),
        Named::Softplus,
    ];
    let pairs = [Pairwise::Add, Pairwise::Sub, Pairwise::Mul, Pairwise::Div, Pairwise::Max, Pairwise::Min];
    let numbers = [0.5, 3.0, 6.0, -1.0, 1.0, 1.0 / 6.0, -0.01, 100.0, std::f64::consts::FRAC_1_SQRT_2, 1e-7];
    let mut compared = 0;
    for case in 0..4000 {
        let mut built = vec![x()];
        let mut formulas: Vec<Formula> = Vec::new();
        for _ in 0..7 {
            let (at, other) = (below(built.len()), below(built.len()));
            let (expr, formula): (Rc<Expr>, Formula) = match below(4) {
                0 => {
                    let name = names[below(names.len())];
                    (named(name, &built[at]), Box::new(move |values| name.at(values[at])))
                }
                1 | 2 => {
                    let (by, number) = (Pair::Engine(pairs[below(6)]), numbers[below(numbers.len())]);
                    if below(3) == 0 && by != Pair::Engine(Pairwise::Div) {
                        let expr = pair(by, &self::number(number), &built[at], FULL);
                        (expr, Box::new(move |values| by.at(number, values[at])))
                    } else {
                        let expr = pair(by, &built[at], &self::number(number), FULL);
                        (expr, Box::new(move |values| by.at(values[at], number)))
                    }
                }
                _ => {
                    let by = Pair::Engine(pairs[below(6)]);
                    let expr = pair(by, &built[at], &built[other], FULL);
                    (expr, Box::new(move |values| by.at(values[at], values[other])))
                }
            };
            built.push(expr);
            formulas.push(formula);
        }
        for at in [-300.0, -41.5, -3.0, -0.4, 0.3, 2.9, 12.5, 300.0] {
            let mut values = vec![at];
            for formula in &formulas {
                values.push(formula(&values));
            }
            for (expr, expected) in built.iter().zip(&values) {
                // What has grown beyond measure on its way has no digits left to compare.
                if values.iter().any(|value| !value.is_finite() || value.abs() > 1e6) {
                    continue;
                }
                compared += 1;
                let found = expr.at(at);
                let most = values.iter().fold(1.0_f64, |most, value| most.max(value.abs()));
                assert!(
                    (found - expected).abs() <= 1e-4 * most,
                    "case {case} at {at}: {found} is not {expected}: {expr:?}"
                );
            }
        }
    }
    assert!(compared > 50_000, "{compared}");
}
