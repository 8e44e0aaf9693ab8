//! Constants taken apart and put together: slices, transpositions, sums along dimensions.

use crate::call::{self, Call};
use crate::error::{Problem, refuse};
use crate::limits;
use crate::tensor::{Data, Tensor, count};

/// Checks how large a tensor is that is going to be made of others.
pub(crate) fn made(shape: &[usize]) -> Result<usize, Problem> {
    match count(shape)? {
        count if count <= limits::FOLDED => Ok(count),
        _ => refuse!("{shape:?} is too large for a constant: at most {} elements are accepted", limits::FOLDED),
    }
}

/// A tensor whose element `i` is element `from[i]` of another.
fn picked(x: &Tensor, shape: &[usize], from: &[u32]) -> Tensor {
    let data = match &x.data {
        Data::Floats(data) => {
            let data = data.to_floats();
            Data::Floats(from.iter().map(|at| data[*at as usize]).collect())
        }
        Data::Ints(data) => Data::Ints(from.iter().map(|at| data[*at as usize]).collect()),
    };
    Tensor { shape: shape.to_vec(), data }
}

/// Places of elements whose index along each dimension is one of a list, given the dimensions' strides.
fn places(lists: &[Vec<usize>], strides: &[usize]) -> Vec<u32> {
    let mut places = vec![0_u32];
    for (list, stride) in lists.iter().zip(strides) {
        places = places.iter().flat_map(|place| list.iter().map(move |at| place + (at * stride) as u32)).collect();
    }
    places
}

fn strides(shape: &[usize]) -> Vec<usize> {
    (0..shape.len()).map(|at| shape[at + 1..].iter().product()).collect()
}

/// The elements at some places along each dimension; at all where there is no list.
pub(crate) fn select(x: &Tensor, picks: &[Option<Vec<usize>>]) -> Result<Tensor, Problem> {
    let lists: Vec<Vec<usize>> =
        picks.iter().zip(&x.shape).map(|(pick, size)| pick.clone().unwrap_or_else(|| (0..*size).collect())).collect();
    let shape: Vec<usize> = lists.iter().map(Vec::len).collect();
    made(&shape)?;
    Ok(picked(x, &shape, &places(&lists, &strides(&x.shape))))
}

pub(crate) fn transpose(x: &Tensor, order: Option<Vec<i64>>) -> Result<Tensor, Problem> {
    let rank = x.shape.len();
    let order = order.unwrap_or_else(|| (0..rank as i64).rev().collect());
    let order = permutation(&order, rank)?;
    if order.iter().copied().eq(0..rank) {
        return Ok(x.clone());
    }
    let all = strides(&x.shape);
    let lists: Vec<Vec<usize>> = order.iter().map(|at| (0..x.shape[*at]).collect()).collect();
    let strides: Vec<usize> = order.iter().map(|at| all[*at]).collect();
    let shape: Vec<usize> = order.iter().map(|at| x.shape[*at]).collect();
    Ok(picked(x, &shape, &places(&lists, &strides)))
}

/// Checks that an order names each of `rank` dimensions once.
pub(crate) fn permutation(order: &[i64], rank: usize) -> Result<Vec<usize>, Problem> {
    let places = order.iter().map(|place| call::axis(*place, rank)).collect::<Result<Vec<_>, _>>()?;
    if places.len() != rank || (0..rank).any(|place| !places.contains(&place)) {
        refuse!("{order:?} is no order of {rank} dimensions");
    }
    Ok(places)
}

/// The indices of a gather, counted from the front.
pub(crate) fn indices(tensor: &Tensor, size: usize) -> Result<Vec<usize>, Problem> {
    tensor.to_ints()?.iter().map(|index| call::axis(*index, size)).collect()
}

pub(crate) fn gather(x: &Tensor, at: &Tensor, axis: i64) -> Result<Tensor, Problem> {
    let axis = call::axis(axis, x.shape.len())?;
    let mut picks = vec![None; x.shape.len()];
    picks[axis] = Some(indices(at, x.shape[axis])?);
    let shape = [&x.shape[..axis], &at.shape, &x.shape[axis + 1..]].concat();
    made(&shape)?;
    Ok(select(x, &picks)?.with_shape(&shape))
}

pub(crate) fn split(call: &Call<'_>, x: &Tensor, given: Option<Vec<i64>>) -> Result<Vec<Tensor>, Problem> {
    let axis = call::axis(call.int("axis", 0)?, x.shape.len())?;
    let mut start = 0;
    let mut results = Vec::new();
    for part in call::parts(call, x.shape[axis], given)? {
        let mut picks = vec![None; x.shape.len()];
        picks[axis] = Some((start..start + part).collect());
        results.push(select(x, &picks)?);
        start += part;
    }
    Ok(results)
}

pub(crate) fn concat(all: &[&Tensor], axis: i64) -> Result<Tensor, Problem> {
    let Some(first) = all.first() else { refuse!("it has no inputs") };
    let axis = call::axis(axis, first.shape.len())?;
    let mut shape = first.shape.clone();
    shape[axis] = 0;
    for x in all {
        let alike = |at: usize| at == axis || x.shape[at] == first.shape[at];
        if x.shape.len() != shape.len() || !(0..shape.len()).all(alike) {
            refuse!("{:?} does not fit beside {:?}", x.shape, first.shape);
        }
        shape[axis] += x.shape[axis];
    }
    made(&shape)?;
    let outer: usize = shape[..axis].iter().product();
    let parts = |len: usize, row: usize| {
        let each = len.checked_div(outer).unwrap_or(0);
        row * each..(row + 1) * each
    };
    let data = if all.iter().any(|x| matches!(x.data, Data::Floats(_))) {
        let all: Vec<_> = all.iter().map(|x| x.to_floats()).collect();
        Data::Floats((0..outer).flat_map(|row| all.iter().flat_map(move |x| x[parts(x.len(), row)].to_vec())).collect())
    } else {
        let all = all.iter().map(|x| x.to_ints()).collect::<Result<Vec<_>, _>>()?;
        let all = &all;
        Data::Ints((0..outer).flat_map(|row| all.iter().flat_map(move |x| x[parts(x.len(), row)].to_vec())).collect())
    };
    Ok(Tensor { shape, data })
}

/// A tensor repeated along dimensions of one, up to a shape that it fits.
pub(crate) fn expand(x: &Tensor, shape: &[usize]) -> Result<Tensor, Problem> {
    made(shape)?;
    let missing = shape.len().saturating_sub(x.shape.len());
    let own = [vec![1; missing], x.shape.clone()].concat();
    if own.len() != shape.len() || own.iter().zip(shape).any(|(own, size)| own != size && *own != 1) {
        refuse!("{:?} cannot be repeated to {shape:?}", x.shape);
    }
    let along: Vec<usize> = strides(&own);
    let strides: Vec<usize> = own.iter().zip(along).map(|(size, stride)| if *size == 1 { 0 } else { stride }).collect();
    let lists: Vec<Vec<usize>> = shape.iter().map(|size| (0..*size).collect()).collect();
    Ok(picked(x, shape, &places(&lists, &strides)))
}

pub(crate) fn tile(x: &Tensor, times: &[i64]) -> Result<Tensor, Problem> {
    if times.len() != x.shape.len() {
        refuse!("{} repeats for {} dimensions", times.len(), x.shape.len());
    }
    let times: Vec<usize> = times.iter().map(|times| usize::try_from(*times).unwrap_or(0)).collect();
    let sizes: Vec<usize> = x.shape.iter().zip(&times).map(|(size, times)| size.saturating_mul(*times)).collect();
    made(&sizes)?;
    let lists = x.shape.iter().zip(&sizes).map(|(size, all)| Some((0..*all).map(|at| at % size).collect()));
    select(x, &lists.collect::<Vec<_>>())
}

pub(crate) fn reduce(op: &str, x: &Tensor, along: &[usize], keep: bool) -> Result<Tensor, Problem> {
    let kept: Vec<usize> = (0..x.shape.len()).filter(|at| !along.contains(at)).collect();
    let order: Vec<i64> = kept.iter().chain(along).map(|at| *at as i64).collect();
    let moved = transpose(x, Some(order))?;
    let each: usize = along.iter().map(|at| x.shape[*at]).product();
    if each == 0 {
        refuse!("there is nothing along its axes");
    }
    let shape: Vec<usize> = if keep {
        (0..x.shape.len()).map(|at| if along.contains(&at) { 1 } else { x.shape[at] }).collect()
    } else {
        kept.iter().map(|at| x.shape[*at]).collect()
    };
    let data = match &moved.data {
        Data::Floats(data) => {
            let one = |part: &[f32]| match op {
                "ReduceProd" => part.iter().product(),
                "ReduceSum" => part.iter().sum(),
                "ReduceMean" => part.iter().sum::<f32>() / each as f32,
                "ReduceMax" => part.iter().copied().fold(f32::NEG_INFINITY, f32::max),
                _ => part.iter().copied().fold(f32::INFINITY, f32::min),
            };
            Data::Floats(data.to_floats().chunks_exact(each).map(one).collect())
        }
        Data::Ints(data) => {
            let one = |part: &[i64]| match op {
                "ReduceProd" => part.iter().fold(1_i64, |a, b| a.wrapping_mul(*b)),
                "ReduceSum" => part.iter().fold(0_i64, |a, b| a.wrapping_add(*b)),
                "ReduceMean" => part.iter().fold(0_i64, |a, b| a.wrapping_add(*b)) / each as i64,
                "ReduceMax" => part.iter().copied().fold(i64::MIN, i64::max),
                _ => part.iter().copied().fold(i64::MAX, i64::min),
            };
            Data::Ints(data.chunks_exact(each).map(one).collect())
        }
    };
    Ok(Tensor { shape, data })
}
