//! What depends on constants alone, computed when a network is imported: shapes for the most part.

mod arithmetic;
mod moves;

pub(crate) use arithmetic::{binary, together};
pub(crate) use moves::{indices, permutation, transpose};

use crate::call::{self, Call};
use crate::error::{Problem, refuse};
use crate::external::Files;
use crate::limits;
use crate::tensor::{Data, Tensor};

/// The outputs of a node whose inputs are all known.
pub(crate) fn fold(call: &Call<'_>, inputs: &[Option<Tensor>], files: &Files) -> Result<Vec<Tensor>, Problem> {
    let input = |index: usize| inputs.get(index).and_then(Option::as_ref);
    let need = |index: usize| input(index).ok_or_else(|| Problem(format!("input {index} is missing")));
    let ints = |index: usize| input(index).map(|tensor| tensor.to_ints().map(|ints| ints.to_vec())).transpose();
    let one = |tensor: Tensor| Ok(vec![tensor]);
    let op = call.node.op;
    match op {
        "Identity" | "Dropout" => one(need(0)?.clone()),
        "Cast" => one(cast(need(0)?, call.int("to", 1)?)),
        "CastLike" => {
            // Of whole numbers only that they are some is known here.
            let (x, like) = (need(0)?, need(1)?);
            one(match (&x.data, &like.data) {
                (_, Data::Floats(_)) => cast(x, FLOAT),
                (Data::Floats(_), Data::Ints(_)) => cast(x, INT64),
                (Data::Ints(_), Data::Ints(_)) => x.clone(),
            })
        }
        "Shape" => {
            let shape = &need(0)?.shape;
            one(shape_of(call, shape)?)
        }
        "Size" => one(Tensor::ints(&[], vec![need(0)?.len() as i64])),
        "Reshape" => {
            let x = need(0)?;
            let to = need(1)?.to_ints()?;
            one(x.with_shape(&call::wanted(&x.shape, &to, call.flag("allowzero", false)?)?))
        }
        "Flatten" => {
            let x = need(0)?;
            let at = call.int("axis", 1)?;
            let at = if at == x.shape.len() as i64 { x.shape.len() } else { call::axis(at, x.shape.len())? };
            one(x.with_shape(&[x.shape[..at].iter().product(), x.shape[at..].iter().product()]))
        }
        "Unsqueeze" => {
            let x = need(0)?;
            one(x.with_shape(&unsqueezed(&x.shape, call.numbers("axes", input(1))?)?))
        }
        "Squeeze" => {
            let x = need(0)?;
            let gone = squeezed(&x.shape, call.numbers("axes", input(1))?)?;
            let shape: Vec<usize> = (0..x.shape.len()).filter(|at| !gone.contains(at)).map(|at| x.shape[at]).collect();
            one(x.with_shape(&shape))
        }
        "Transpose" => one(moves::transpose(need(0)?, call.ints("perm")?)?),
        "Gather" => one(moves::gather(need(0)?, need(1)?, call.int("axis", 0)?)?),
        "Slice" => {
            let x = need(0)?;
            one(moves::select(x, &call::slices(call, &x.shape, ints)?)?)
        }
        "Split" => moves::split(call, need(0)?, call.numbers("split", input(1))?),
        "Concat" => {
            let all: Vec<&Tensor> = inputs.iter().flatten().collect();
            one(moves::concat(&all, call.int("axis", 0)?)?)
        }
        "Expand" => {
            let to = need(1)?.to_ints()?;
            let to: Vec<usize> = to.iter().map(|size| usize::try_from(*size).unwrap_or(0)).collect();
            let x = need(0)?;
            one(moves::expand(x, &arithmetic::together(&x.shape, &to)?)?)
        }
        "Tile" => one(moves::tile(need(0)?, &need(1)?.to_ints()?)?),
        "ConstantOfShape" => {
            let shape = need(0)?.to_ints()?;
            let shape: Vec<usize> = shape.iter().map(|size| usize::try_from(*size).unwrap_or(usize::MAX)).collect();
            let value = match call.node.attributes.get("value") {
                Some(crate::proto::Attribute::Tensor(value)) => Tensor::read(value, files)?,
                _ => Tensor::floats(&[1], vec![0.0]),
            };
            if value.len() != 1 {
                refuse!("its value has {} elements instead of one", value.len());
            }
            one(moves::expand(&value.with_shape(&[]), &shape)?)
        }
        "Range" => one(arithmetic::range(need(0)?, need(1)?, need(2)?)?),
        "Where" => one(arithmetic::choose(need(0)?, need(1)?, need(2)?)?),
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" | "ReduceMean" => {
            let x = need(0)?;
            let given = call.numbers("axes", input(1))?;
            if given.as_ref().is_none_or(Vec::is_empty) && call.flag("noop_with_empty_axes", false)? {
                return one(x.clone());
            }
            let along = call::axes(given, x.shape.len())?;
            one(moves::reduce(op, x, &along, call.flag("keepdims", true)?)?)
        }
        "Clip" => {
            let bound = |index: usize, name: &str| match (input(index), call.node.attributes.get(name)) {
                (Some(bound), _) => Ok::<_, Problem>(Some(bound.clone())),
                (None, Some(_)) => Ok(Some(Tensor::floats(&[], vec![call.float(name, 0.0)? as f32]))),
                (None, None) => Ok(None),
            };
            let mut x = need(0)?.clone();
            for (op, bound) in [("Max", bound(1, "min")?), ("Min", bound(2, "max")?)] {
                if let Some(bound) = bound {
                    x = arithmetic::binary(op, &x, &bound)?;
                }
            }
            one(x)
        }
        "Max" | "Min" | "Sum" => {
            let op = if op == "Sum" { "Add" } else { op };
            let mut all = inputs.iter().flatten();
            let Some(first) = all.next() else { refuse!("it has no inputs") };
            one(all.try_fold(first.clone(), |result, x| arithmetic::binary(op, &result, x))?)
        }
        "BatchNormalization" => {
            let own = [need(1)?, need(2)?, need(3)?, need(4)?];
            let epsilon = call.float("epsilon", 1e-5)?;
            one(arithmetic::batch_norm(need(0)?, own, epsilon, call.flag("training_mode", false)?)?)
        }
        "Mod" if call.flag("fmod", false)? => one(arithmetic::binary("Fmod", need(0)?, need(1)?)?),
        _ if arithmetic::BINARY.contains(&op) => one(arithmetic::binary(op, need(0)?, need(1)?)?),
        _ if arithmetic::UNARY.contains(&op) => one(arithmetic::unary(op, need(0)?)?),
        _ => {
            refuse!("this operator is not accepted for constants")
        }
    }
}

/// What `Shape` gives for a value of this shape.
pub(crate) fn shape_of(call: &Call<'_>, shape: &[usize]) -> Result<Tensor, Problem> {
    let rank = shape.len() as i64;
    let place = |at: i64| if at < 0 { at.saturating_add(rank) } else { at }.clamp(0, rank) as usize;
    let (start, end) = (place(call.int("start", 0)?), place(call.int("end", rank)?));
    let part = shape.get(start..end).unwrap_or_default();
    Ok(Tensor::ints(&[part.len()], part.iter().map(|size| *size as i64).collect()))
}

/// A shape with dimensions of one at some places of the result.
pub(crate) fn unsqueezed(shape: &[usize], at: Option<Vec<i64>>) -> Result<Vec<usize>, Problem> {
    let Some(at) = at else { refuse!("it has no axes") };
    let rank = shape.len() + at.len();
    if rank > limits::RANK {
        refuse!("it would have {rank} dimensions: {} are accepted", limits::RANK);
    }
    let new = at.into_iter().map(|place| call::axis(place, rank)).collect::<Result<Vec<_>, _>>()?;
    let mut old = shape.iter();
    let size = |place: usize| if new.contains(&place) { Some(1) } else { old.next().copied() };
    match (0..rank).map(size).collect() {
        Some(shape) => Ok(shape),
        None => refuse!("an axis is named twice"),
    }
}

/// The dimensions that a squeeze takes out.
pub(crate) fn squeezed(shape: &[usize], at: Option<Vec<i64>>) -> Result<Vec<usize>, Problem> {
    let gone = match at {
        None => (0..shape.len()).filter(|place| shape[*place] == 1).collect(),
        Some(at) => at.into_iter().map(|place| call::axis(place, shape.len())).collect::<Result<Vec<_>, _>>()?,
    };
    match gone.iter().find(|place| shape[**place] != 1) {
        Some(place) => refuse!("dimension {place} of {shape:?} is not one"),
        None => Ok(gone),
    }
}

/// ONNX's numbers of types.
const FLOAT: i64 = 1;
const INT64: i64 = 7;

/// What a narrower type keeps of a whole number.
fn wrapped(x: i64, to: i64) -> i64 {
    match to {
        2 => i64::from(x as u8),
        3 => i64::from(x as i8),
        4 => i64::from(x as u16),
        5 => i64::from(x as i16),
        6 => i64::from(x as i32),
        12 => i64::from(x as u32),
        _ => x,
    }
}

/// A tensor in another of ONNX's types.
fn cast(x: &Tensor, to: i64) -> Tensor {
    let data = match (&x.data, to) {
        (_, 1 | 10 | 11 | 16) => Data::Floats(x.numbers()),
        (Data::Floats(_), 9) => Data::Ints(x.to_floats().iter().map(|x| i64::from(*x != 0.0)).collect()),
        (Data::Ints(data), 9) => Data::Ints(data.iter().map(|x| i64::from(*x != 0)).collect()),
        (Data::Floats(_), _) => Data::Ints(x.to_floats().iter().map(|x| wrapped(*x as i64, to)).collect()),
        (Data::Ints(data), INT64 | 13) => Data::Ints(data.clone()),
        (Data::Ints(data), _) => Data::Ints(data.iter().map(|x| wrapped(*x, to)).collect()),
    };
    Tensor { shape: x.shape.clone(), data }
}

impl Tensor {
    /// The same numbers in another shape of as many elements.
    pub(crate) fn with_shape(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), data: self.data.clone() }
    }
}
