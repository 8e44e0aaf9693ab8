//! Activations in parts: products of a value and what is squeezed out of it.
//!
//! Each is recognised of `k x` as well: `p` is `x` without its factor, so the shapes here have one `k` that all constants must agree on.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_PI};
use std::rc::Rc;

use engine::graph::{Activation, Function, Pairwise};

use super::{Expr, Named, Pair, clip, line, named, near, parts};

/// The product of two functions, an activation of the engine if it is one.
pub(crate) fn product(a: &Rc<Expr>, b: &Rc<Expr>, tolerance: f64) -> Rc<Expr> {
    let ((of_a, p), (of_b, q)) = (factor(a), factor(b));
    match activation(&p, &q, tolerance).or_else(|| activation(&q, &p, tolerance)) {
        Some((scale, known)) => line(&known, scale * of_a * of_b, 0.0),
        None => Rc::new(Expr::Pair(Pair::Engine(Pairwise::Mul), a.clone(), b.clone())),
    }
}

/// A number that an expression is multiplied by, and the rest.
fn factor(expr: &Rc<Expr>) -> (f64, Rc<Expr>) {
    let plain = (1.0, expr.clone());
    let (slope, rest) = match &**expr {
        Expr::Line { of, slope, shift } => (*slope, line(of, 1.0, shift / slope)),
        Expr::Clip { of, low, high } => {
            let (inner, slope, shift) = parts(of);
            let [a, b] = [low / slope, high / slope];
            (slope, clip(&line(&Rc::new(inner.clone()), 1.0, shift / slope), a.min(b), a.max(b)))
        }
        _ => return plain,
    };
    if slope != 0.0 && slope.is_finite() && slope.recip().is_finite() { (slope, rest) } else { plain }
}

/// `k` where one expression is `k` times another.
fn ratio(expr: &Rc<Expr>, of: &Rc<Expr>) -> Option<f64> {
    let ((a, expr), (b, of)) = (factor(expr), factor(of));
    Some(a / b).filter(|k| expr.alike(&of) && *k != 0.0 && k.is_finite())
}

/// A number and the activation that it is multiplied by, if these are `p q`.
fn activation(p: &Rc<Expr>, q: &Rc<Expr>, tolerance: f64) -> Option<(f64, Rc<Expr>)> {
    let rounded = |k: f64| if near(k, 1.0, tolerance) { 1.0 } else { k };
    let of = |name: Named, k: f64, scale: f64| {
        let k = rounded(k);
        // A factor that is far away would cost digits.
        (1e-6..1e6).contains(&k.abs()).then(|| (scale / k, named(name, &line(p, k, 0.0))))
    };
    let (squeezed, slope, shift) = parts(q);
    let is_half = slope == 1.0 && near(shift, 1.0, tolerance);
    match squeezed {
        Expr::Named(Named::Activation(Activation::Sigmoid), inside) if [slope, shift] == [1.0, 0.0] => {
            of(Named::Activation(Activation::Silu), ratio(inside, p)?, 1.0)
        }
        Expr::Named(Named::Function(Function::Erf), inside) if is_half => {
            of(Named::Activation(Activation::Gelu), ratio(inside, p)? / FRAC_1_SQRT_2, 2.0)
        }
        Expr::Named(Named::Activation(Activation::Tanh), inside) if is_half => {
            let [0.0, first, 0.0, third] = polynomial(inside, p)? else { return None };
            let k = rounded(first / FRAC_2_PI.sqrt());
            let fits = near(third, FRAC_2_PI.sqrt() * 0.044_715 * k * k * k, 3.0 * tolerance);
            fits.then_some(k).and_then(|k| of(Named::Function(Function::GeluTanh), k, 2.0))
        }
        Expr::Named(Named::Activation(Activation::Tanh), inside) if [slope, shift] == [1.0, 0.0] => match &**inside {
            Expr::Named(Named::Softplus, inside) => of(Named::Function(Function::Mish), ratio(inside, p)?, 1.0),
            _ => None,
        },
        Expr::Clip { of: inside, low, high } => {
            let ((inside, one, after), (x, other, before)) = (parts(inside), parts(p));
            let half = after - before;
            let fits = half > 0.0 && [one, other] == [1.0, 1.0] && inside.alike(x);
            if !fits || *low != 0.0 || !near(*high, 2.0 * half, tolerance) {
                return None;
            }
            let k = rounded(3.0 / half);
            of(Named::Activation(Activation::HardSwish), k, 6.0 / k)
        }
        _ => None,
    }
}

/// `1 / expr` where it is a sigmoid: `1 / (1 + e^-x)`.
pub(super) fn inverse(expr: &Rc<Expr>, tolerance: f64) -> Option<Rc<Expr>> {
    match parts(expr) {
        (Expr::Named(Named::Function(Function::Exp), of), slope, shift) if near(slope, shift, tolerance) => {
            let sigmoid = named(Named::Activation(Activation::Sigmoid), &line(of, -1.0, 0.0));
            Some(line(&sigmoid, 1.0 / shift, 0.0)).filter(|_| shift != 0.0)
        }
        _ => None,
    }
}

/// `max(x, slope x)`.
pub(super) fn leaky(x: &Rc<Expr>, below: &Rc<Expr>) -> Option<Rc<Expr>> {
    let slope = ratio(below, x).filter(|slope| (0.0..1.0).contains(slope))?;
    Some(named(Named::Function(Function::LeakyRelu { slope: slope as f32 }), x))
}

/// The coefficients of an expression in `p`, if it is a polynomial of at most the third degree.
fn polynomial(expr: &Rc<Expr>, p: &Rc<Expr>) -> Option<[f64; 4]> {
    if expr.alike(p) {
        return Some([0.0, 1.0, 0.0, 0.0]);
    }
    let by = |a: [f64; 4], b: [f64; 4]| {
        let mut all = [0.0; 7];
        for (i, a) in a.iter().enumerate() {
            b.iter().enumerate().for_each(|(j, b)| all[i + j] += a * b);
        }
        let [low @ .., _, _, _] = all;
        (all[4..] == [0.0; 3]).then_some(low)
    };
    match &**expr {
        Expr::Number(number) => Some([*number, 0.0, 0.0, 0.0]),
        Expr::Line { of, slope, shift } => {
            let mut all = polynomial(of, p)?.map(|number| number * slope);
            all[0] += shift;
            Some(all)
        }
        Expr::Pair(Pair::Engine(pair), a, b) => {
            let (a, b) = (polynomial(a, p)?, polynomial(b, p)?);
            match pair {
                Pairwise::Add => Some(std::array::from_fn(|at| a[at] + b[at])),
                Pairwise::Sub => Some(std::array::from_fn(|at| a[at] - b[at])),
                Pairwise::Mul => by(a, b),
                _ => None,
            }
        }
        Expr::Pair(Pair::Pow, a, power) => {
            let a = polynomial(a, p)?;
            match **power {
                Expr::Number(2.0) => by(a, a),
                Expr::Number(3.0) => by(by(a, a)?, a),
                _ => None,
            }
        }
        _ => None,
    }
}
