//! Arithmetic of constants.

use super::moves::{expand, made};
use crate::error::{Problem, refuse};
use crate::tensor::{Data, Tensor};

/// The shape of two operands together: dimensions of one are repeated.
pub(crate) fn together(a: &[usize], b: &[usize]) -> Result<Vec<usize>, Problem> {
    let rank = a.len().max(b.len());
    let size = |shape: &[usize], at: usize| (at + shape.len()).checked_sub(rank).map_or(1, |at| shape[at]);
    let mut shape = Vec::with_capacity(rank);
    for at in 0..rank {
        shape.push(match (size(a, at), size(b, at)) {
            (a, b) if a == b => a,
            (1, size) | (size, 1) => size,
            _ => refuse!("{a:?} and {b:?} do not fit together"),
        });
    }
    Ok(shape)
}

/// The operators of two constants, and of one.
pub(super) const BINARY: [&str; 14] = [
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "Mod",
    "Equal",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
    "And",
    "Or",
    "Xor",
];
/// See [`BINARY`].
pub(super) const UNARY: [&str; 16] = [
    "Neg",
    "Abs",
    "Not",
    "Sqrt",
    "Exp",
    "Log",
    "Reciprocal",
    "Floor",
    "Ceil",
    "Round",
    "Relu",
    "Sigmoid",
    "Tanh",
    "Erf",
    "Sin",
    "Cos",
];

pub(crate) fn binary(op: &str, a: &Tensor, b: &Tensor) -> Result<Tensor, Problem> {
    let shape = together(&a.shape, &b.shape)?;
    let (a, b) = (expand(a, &shape)?, expand(b, &shape)?);
    if let (Data::Ints(a), Data::Ints(b)) = (&a.data, &b.data) {
        let data = a.iter().zip(b.iter()).map(|(a, b)| of_ints(op, *a, *b)).collect::<Result<Vec<i64>, _>>()?;
        return Ok(Tensor::ints(&shape, data));
    }
    let (a, b) = (a.to_floats(), b.to_floats());
    let pairs = a.iter().zip(b.iter());
    let compare = |f: fn(f32, f32) -> bool| -> Vec<i64> { pairs.clone().map(|(a, b)| i64::from(f(*a, *b))).collect() };
    let compared = match op {
        "Equal" => Some(compare(|a, b| a == b)),
        "Less" => Some(compare(|a, b| a < b)),
        "LessOrEqual" => Some(compare(|a, b| a <= b)),
        "Greater" => Some(compare(|a, b| a > b)),
        "GreaterOrEqual" => Some(compare(|a, b| a >= b)),
        _ => None,
    };
    if let Some(data) = compared {
        return Ok(Tensor::ints(&shape, data));
    }
    let f: fn(f32, f32) -> f32 = match op {
        "Add" => |a, b| a + b,
        "Sub" => |a, b| a - b,
        "Mul" => |a, b| a * b,
        "Div" => |a, b| a / b,
        "Pow" => |a, b| libm::pow(f64::from(a), f64::from(b)) as f32,
        "Min" => f32::min,
        "Max" => f32::max,
        "Fmod" => |a, b| a % b,
        _ => refuse!("this operator is not accepted for constants"),
    };
    Ok(Tensor::floats(&shape, pairs.map(|(a, b)| f(*a, *b)).collect()))
}

fn of_ints(op: &str, a: i64, b: i64) -> Result<i64, Problem> {
    Ok(match op {
        "Add" => a.wrapping_add(b),
        "Sub" => a.wrapping_sub(b),
        "Mul" => a.wrapping_mul(b),
        "Div" if b != 0 => a.wrapping_div(b),
        // Its sign is the divisor's; with `fmod` the other's.
        "Mod" if b != 0 => match a.wrapping_rem(b) {
            rest if rest != 0 && (rest < 0) != (b < 0) => rest + b,
            rest => rest,
        },
        "Fmod" if b != 0 => a.wrapping_rem(b),
        "Div" | "Mod" | "Fmod" => refuse!("it divides by zero"),
        "Pow" => match u32::try_from(b) {
            Ok(b) => a.wrapping_pow(b),
            Err(_) => refuse!("a power of {b} is not accepted for whole numbers"),
        },
        "Min" => a.min(b),
        "Max" => a.max(b),
        "Equal" => i64::from(a == b),
        "Less" => i64::from(a < b),
        "LessOrEqual" => i64::from(a <= b),
        "Greater" => i64::from(a > b),
        "GreaterOrEqual" => i64::from(a >= b),
        "And" => i64::from(a != 0 && b != 0),
        "Or" => i64::from(a != 0 || b != 0),
        "Xor" => i64::from((a != 0) != (b != 0)),
        _ => refuse!("this operator is not accepted for constants"),
    })
}

pub(crate) fn unary(op: &str, x: &Tensor) -> Result<Tensor, Problem> {
    if let Data::Ints(data) = &x.data {
        let f: fn(i64) -> i64 = match op {
            "Neg" => i64::wrapping_neg,
            "Abs" => i64::wrapping_abs,
            "Not" => |x| i64::from(x == 0),
            _ => refuse!("this operator is not accepted for constants"),
        };
        return Ok(Tensor::ints(&x.shape, data.iter().map(|x| f(*x)).collect()));
    }
    let f: fn(f64) -> f64 = match op {
        "Neg" => |x| -x,
        "Abs" => f64::abs,
        "Sqrt" => f64::sqrt,
        "Exp" => libm::exp,
        "Log" => libm::log,
        "Reciprocal" => |x| 1.0 / x,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Round" => f64::round_ties_even,
        "Relu" => |x| x.max(0.0),
        "Sigmoid" => |x| 1.0 / (1.0 + libm::exp(-x)),
        "Tanh" => libm::tanh,
        "Erf" => libm::erf,
        "Sin" => libm::sin,
        "Cos" => libm::cos,
        _ => refuse!("this operator is not accepted for constants"),
    };
    Ok(Tensor::floats(&x.shape, x.to_floats().iter().map(|x| f(f64::from(*x)) as f32).collect()))
}

pub(crate) fn range(start: &Tensor, limit: &Tensor, step: &Tensor) -> Result<Tensor, Problem> {
    let (Some(from), Some(to), Some(by)) = (start.scalar(), limit.scalar(), step.scalar()) else {
        refuse!("its start, limit or step is no single number")
    };
    let steps = ((to - from) / by).ceil();
    if !steps.is_finite() {
        refuse!("from {from} to {to} by {by} has no end");
    }
    let steps = made(&[steps.max(0.0) as usize])?;
    let at = |index: usize| from + index as f64 * by;
    Ok(match (&start.data, &step.data) {
        (Data::Ints(_), Data::Ints(_)) => Tensor::ints(&[steps], (0..steps).map(|index| at(index) as i64).collect()),
        _ => Tensor::floats(&[steps], (0..steps).map(|index| at(index) as f32).collect()),
    })
}

pub(crate) fn choose(condition: &Tensor, a: &Tensor, b: &Tensor) -> Result<Tensor, Problem> {
    let shape = together(&together(&condition.shape, &a.shape)?, &b.shape)?;
    let condition = expand(condition, &shape)?.to_ints()?;
    let (a, b) = (expand(a, &shape)?, expand(b, &shape)?);
    Ok(match (&a.data, &b.data) {
        (Data::Ints(a), Data::Ints(b)) => {
            let pairs = a.iter().zip(b.iter());
            Tensor::ints(&shape, condition.iter().zip(pairs).map(|(c, (a, b))| if *c != 0 { *a } else { *b }).collect())
        }
        _ => {
            let (a, b) = (a.to_floats(), b.to_floats());
            let pairs = a.iter().zip(b.iter());
            Tensor::floats(
                &shape,
                condition.iter().zip(pairs).map(|(c, (a, b))| if *c != 0 { *a } else { *b }).collect(),
            )
        }
    })
}

/// A batch norm of a scale, a shift, a mean and a variance; in training it has its own mean and variance, as weights that
/// networks without norms are standardised by have (Brock et al. 2021).
pub(crate) fn batch_norm(x: &Tensor, own: [&Tensor; 4], epsilon: f64, training: bool) -> Result<Tensor, Problem> {
    let &[outer, channels, ..] = x.shape.as_slice() else { refuse!("its input is {:?}", x.shape) };
    if own.iter().any(|tensor| tensor.len() != channels) || x.len() == 0 {
        refuse!("its input is {:?}, and it has no number for each of {channels} channels", x.shape);
    }
    let [scale, shift, mean, variance] = own.map(Tensor::to_floats);
    let values = x.to_floats();
    let each = x.len() / (outer * channels);
    let of_channel = |channel: usize| values.chunks_exact(each).skip(channel).step_by(channels).flatten();
    let mut result = vec![0.0; x.len()];
    for channel in 0..channels {
        let count = (outer * each) as f64;
        let (mean, variance) = if training {
            let mean = of_channel(channel).map(|x| f64::from(*x)).sum::<f64>() / count;
            (mean, of_channel(channel).map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count)
        } else {
            (f64::from(mean[channel]), f64::from(variance[channel]))
        };
        let factor = f64::from(scale[channel]) / (variance + epsilon).sqrt();
        let shift = f64::from(shift[channel]);
        for (to, from) in result.chunks_exact_mut(each).zip(values.chunks_exact(each)).skip(channel).step_by(channels) {
            to.iter_mut().zip(from).for_each(|(to, x)| *to = ((f64::from(*x) - mean) * factor + shift) as f32);
        }
    }
    Ok(Tensor::floats(&x.shape, result))
}
