//! Functions of one number, in a form in which what is the same looks the same.
//!
//! Expressions are built by the functions here, which change no value but by rounding, wherever they are computed: `a x + b` stays
//! together, a clip stands outside of it, and clips of clips are one. Activations that exporters write in parts are then products of
//! a certain shape ([`product`]). Only their constants may be rounded; nothing is compared at some points and taken for the same.

mod known;

use std::rc::Rc;

use engine::graph::{Activation, Function, Pairwise};

pub(super) use known::product;

/// A function of `x`.
#[derive(Debug, Clone)]
pub(super) enum Expr {
    X,
    Number(f64),
    /// `slope * of + shift`; `of` is none of this kind, no number and no clip (but with a slope of 0).
    Line {
        of: Rc<Self>,
        slope: f64,
        shift: f64,
    },
    /// `min(max(of, low), high)`; `of` is no clip.
    Clip {
        of: Rc<Self>,
        low: f64,
        high: f64,
    },
    Named(Named, Rc<Self>),
    Pair(Pair, Rc<Self>, Rc<Self>),
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
}

/// Whether a constant is another but for rounding.
fn near(found: f64, meant: f64, tolerance: f64) -> bool {
    (found - meant).abs() <= tolerance * meant.abs()
}

/// Rounding of what is computed here, in `f64`.
const EXACT: f64 = 1e-12;

impl Expr {
    pub(super) fn size(&self) -> usize {
        match self {
            Self::X | Self::Number(_) => 1,
            Self::Line { of, .. } | Self::Clip { of, .. } | Self::Named(_, of) => 1 + of.size(),
            Self::Pair(_, a, b) => 1 + a.size() + b.size(),
        }
    }

    /// Whether another is written the same way, but for rounding.
    pub(super) fn alike(&self, other: &Self) -> bool {
        let close = |a: f64, b: f64| a == b || near(a, b, EXACT);
        match (self, other) {
            (Self::X, Self::X) => true,
            (Self::Number(a), Self::Number(b)) => close(*a, *b),
            (Self::Line { of: a, slope, shift }, Self::Line { of: b, slope: to, shift: by }) => {
                close(*slope, *to) && close(*shift, *by) && a.alike(b)
            }
            (Self::Clip { of: a, low, high }, Self::Clip { of: b, low: least, high: most }) => {
                close(*low, *least) && close(*high, *most) && a.alike(b)
            }
            (Self::Named(f, a), Self::Named(g, b)) => f == g && a.alike(b),
            (Self::Pair(f, a, b), Self::Pair(g, c, d)) => f == g && a.alike(c) && b.alike(d),
            _ => false,
        }
    }
}

/// `slope * of + shift`.
pub(super) fn line(of: &Rc<Expr>, slope: f64, shift: f64) -> Rc<Expr> {
    // A product of rounded constants that are each other's inverse.
    let same = shift == 0.0 && (slope - 1.0).abs() < 2.0 * f64::from(f32::EPSILON);
    Rc::new(match &**of {
        _ if same => return of.clone(),
        Expr::Number(number) => Expr::Number(slope * number + shift),
        Expr::Line { of, slope: inner, shift: before } => return line(of, slope * inner, slope * before + shift),
        Expr::Clip { of, low, high } if slope != 0.0 && slope.is_finite() => {
            let [a, b] = [low, high].map(|bound| slope * bound + shift);
            return clip(&line(of, slope, shift), a.min(b), a.max(b));
        }
        _ => Expr::Line { of: of.clone(), slope, shift },
    })
}

/// `min(max(of, low), high)`, of bounds in this order. One that no number in fp32 exceeds is infinite.
pub(super) fn clip(of: &Rc<Expr>, low: f64, high: f64) -> Rc<Expr> {
    let most = f64::from(f32::MAX);
    let (low, high) =
        (if low <= -most { f64::NEG_INFINITY } else { low }, if high >= most { f64::INFINITY } else { high });
    Rc::new(match &**of {
        _ if low == f64::NEG_INFINITY && high == f64::INFINITY => return of.clone(),
        Expr::Number(number) => Expr::Number(number.max(low).min(high)),
        Expr::Clip { of, low: least, high: largest } => {
            let bound = |bound: f64| bound.max(low).min(high);
            Expr::Clip { of: of.clone(), low: bound(*least), high: bound(*largest) }
        }
        _ => Expr::Clip { of: of.clone(), low, high },
    })
}

pub(super) fn named(named: Named, of: &Rc<Expr>) -> Rc<Expr> {
    match (named, parts(of)) {
        (Named::Activation(Activation::Relu), _) => clip(of, 0.0, f64::INFINITY),
        (Named::Activation(Activation::Relu6), _) => clip(of, 0.0, 6.0),
        (Named::Function(Function::Clip { low, high }), _) => clip(of, f64::from(low), f64::from(high)),
        (Named::Function(Function::HardSigmoid { alpha, beta }), _) => {
            clip(&line(of, f64::from(alpha), f64::from(beta)), 0.0, 1.0)
        }
        // ln(1 + e^x).
        (Named::Log, (Expr::Named(Named::Function(Function::Exp), of), 1.0, 1.0)) => {
            Rc::new(Expr::Named(Named::Softplus, of.clone()))
        }
        _ => Rc::new(Expr::Named(named, of.clone())),
    }
}

/// Two functions together; constants may be rounded by so much.
pub(super) fn pair(pair: Pair, a: &Rc<Expr>, b: &Rc<Expr>, tolerance: f64) -> Rc<Expr> {
    let (infinity, number) = (f64::INFINITY, |expr: &Expr| match expr {
        Expr::Number(number) => Some(*number),
        _ => None,
    });
    match (pair, number(a), number(b)) {
        (Pair::Engine(Pairwise::Add), _, Some(b)) => line(a, 1.0, b),
        (Pair::Engine(Pairwise::Add), Some(a), _) => line(b, 1.0, a),
        (Pair::Engine(Pairwise::Sub), _, Some(b)) => line(a, 1.0, -b),
        (Pair::Engine(Pairwise::Sub), Some(a), _) => line(b, -1.0, a),
        (Pair::Engine(Pairwise::Mul), _, Some(b)) => line(a, b, 0.0),
        (Pair::Engine(Pairwise::Mul), Some(a), _) => line(b, a, 0.0),
        (Pair::Engine(Pairwise::Div), _, Some(b)) => line(a, 1.0 / b, 0.0),
        (Pair::Engine(Pairwise::Max), _, Some(low)) => clip(a, low, infinity),
        (Pair::Engine(Pairwise::Max), Some(low), _) => clip(b, low, infinity),
        (Pair::Engine(Pairwise::Min), _, Some(high)) => clip(a, -infinity, high),
        (Pair::Engine(Pairwise::Min), Some(high), _) => clip(b, -infinity, high),
        (Pair::Pow, _, Some(1.0)) => a.clone(),
        (Pair::Pow, _, Some(0.5)) => named(Named::Function(Function::Sqrt), a),
        (Pair::Engine(Pairwise::Mul), ..) => product(a, b, tolerance),
        (Pair::Engine(Pairwise::Div), ..) => match known::inverse(b, tolerance) {
            Some(inverse) => self::pair(Pair::Engine(Pairwise::Mul), a, &inverse, tolerance),
            None => Rc::new(Expr::Pair(pair, a.clone(), b.clone())),
        },
        (Pair::Engine(Pairwise::Max), ..) => {
            let leaky = known::leaky(a, b).or_else(|| known::leaky(b, a));
            leaky.unwrap_or_else(|| Rc::new(Expr::Pair(pair, a.clone(), b.clone())))
        }
        _ => Rc::new(Expr::Pair(pair, a.clone(), b.clone())),
    }
}

/// What an expression is a line of, its slope and its shift.
fn parts(expr: &Rc<Expr>) -> (&Expr, f64, f64) {
    match &**expr {
        Expr::Line { of, slope, shift } => (of, *slope, *shift),
        other => (other, 1.0, 0.0),
    }
}

#[cfg(test)]
mod tests;
