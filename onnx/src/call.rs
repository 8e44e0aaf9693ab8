//! A node with its attributes, read with their defaults.

use crate::error::{Problem, refuse};
use crate::proto::{Attribute, Node};
use crate::tensor::Tensor;

/// A node of a graph of some version of ONNX's operators.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) node: &'a Node<'a>,
    pub(crate) opset: i64,
}

impl<'a> Call<'a> {
    pub(crate) fn int(&self, name: &str, default: i64) -> Result<i64, Problem> {
        match self.node.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(int)) => Ok(*int),
            Some(_) => refuse!("its `{name}` is no whole number"),
        }
    }

    /// A whole number that is 0 or 1.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, Problem> {
        match self.int(name, i64::from(default))? {
            0 => Ok(false),
            1 => Ok(true),
            other => refuse!("its `{name}` is {other}: 0 or 1 is accepted"),
        }
    }

    pub(crate) fn float(&self, name: &str, default: f64) -> Result<f64, Problem> {
        match self.node.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(float)) => Ok(f64::from(*float)),
            Some(_) => refuse!("its `{name}` is no number"),
        }
    }

    pub(crate) fn ints(&self, name: &str) -> Result<Option<Vec<i64>>, Problem> {
        match self.node.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(ints)) => Ok(Some(ints.clone())),
            Some(_) => refuse!("its `{name}` are no whole numbers"),
        }
    }

    pub(crate) fn text(&self, name: &str, default: &'a str) -> Result<&'a str, Problem> {
        match self.node.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Text(text)) => std::str::from_utf8(text).or_else(|_| refuse!("its `{name}` is no text")),
            Some(_) => refuse!("its `{name}` is no text"),
        }
    }

    /// What older versions of an operator have as an attribute and newer ones as an input.
    pub(crate) fn numbers(&self, name: &str, input: Option<&Tensor>) -> Result<Option<Vec<i64>>, Problem> {
        match input {
            Some(tensor) => Ok(Some(tensor.to_ints()?.to_vec())),
            None => self.ints(name),
        }
    }
}

/// The place of an axis that may count from behind.
pub(crate) fn axis(axis: i64, rank: usize) -> Result<usize, Problem> {
    let place = if axis < 0 { axis + rank as i64 } else { axis };
    match usize::try_from(place) {
        Ok(place) if place < rank => Ok(place),
        _ => refuse!("axis {axis} is none of {rank}"),
    }
}

/// The places of several axes, each named once; of all where none are given.
pub(crate) fn axes(given: Option<Vec<i64>>, rank: usize) -> Result<Vec<usize>, Problem> {
    let given = match given {
        Some(given) if !given.is_empty() => given,
        _ => return Ok((0..rank).collect()),
    };
    let places = given.iter().map(|place| axis(*place, rank)).collect::<Result<Vec<_>, _>>()?;
    if places.len() > rank || (1..places.len()).any(|at| places[..at].contains(&places[at])) {
        refuse!("its axes {given:?} name one twice");
    }
    Ok(places)
}

/// The shape that a reshape asks for: 0 keeps a dimension, -1 is what is left.
pub(crate) fn wanted(shape: &[usize], to: &[i64], allow_zero: bool) -> Result<Vec<usize>, Problem> {
    let total = shape.iter().product::<usize>();
    let mut sizes = Vec::with_capacity(to.len());
    for (index, size) in to.iter().enumerate() {
        sizes.push(match *size {
            0 if !allow_zero => shape.get(index).copied().unwrap_or(0),
            -1 => 1,
            size => usize::try_from(size).unwrap_or(0),
        });
    }
    let known = crate::tensor::count(&sizes)?;
    if let [open] = *to.iter().enumerate().filter(|(_, size)| **size == -1).map(|(at, _)| at).collect::<Vec<_>>()
        && known > 0
    {
        sizes[open] = total / known;
    }
    if sizes.iter().product::<usize>() == total {
        return Ok(sizes);
    }
    refuse!("{shape:?} cannot become {to:?}")
}

/// The places that a slice takes along a dimension.
pub(crate) fn sliced(size: usize, start: i64, end: i64, step: i64) -> Result<Vec<usize>, Problem> {
    let size = size as i64;
    let place = |at: i64| if at < 0 { at.saturating_add(size) } else { at };
    let mut places = Vec::new();
    if step > 0 {
        let (mut at, end) = (place(start).clamp(0, size), place(end).clamp(0, size));
        while at < end {
            places.push(at as usize);
            at = at.saturating_add(step);
        }
    } else if step < 0 {
        let (mut at, end) = (place(start).clamp(-1, size - 1), place(end).clamp(-1, size - 1));
        while at > end {
            places.push(at as usize);
            at = at.saturating_add(step);
        }
    } else {
        refuse!("its step is 0");
    }
    Ok(places)
}

/// For each dimension of `shape` what a slice's `starts`, `ends`, `axes` and `steps` take; none for all.
pub(crate) fn slices(
    call: &Call<'_>,
    shape: &[usize],
    input: impl Fn(usize) -> Result<Option<Vec<i64>>, Problem>,
) -> Result<Vec<Option<Vec<usize>>>, Problem> {
    let given = |index: usize, name: &str| match input(index)? {
        Some(numbers) => Ok(Some(numbers)),
        None => call.ints(name),
    };
    let (Some(starts), Some(ends)) = (given(1, "starts")?, given(2, "ends")?) else {
        refuse!("it has no start or end")
    };
    let along = given(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = given(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if [ends.len(), along.len(), steps.len()] != [starts.len(); 3] {
        refuse!("it has {} starts, {} ends, {} axes and {} steps", starts.len(), ends.len(), along.len(), steps.len());
    }
    let mut picks = vec![None; shape.len()];
    for (index, place) in along.into_iter().enumerate() {
        let place = axis(place, shape.len())?;
        let places = sliced(shape[place], starts[index], ends[index], steps[index])?;
        if places.len() != shape[place] || steps[index] != 1 {
            picks[place] = Some(places);
        }
    }
    Ok(picks)
}

/// The sizes of a split's parts.
pub(crate) fn parts(call: &Call<'_>, size: usize, given: Option<Vec<i64>>) -> Result<Vec<usize>, Problem> {
    let parts = match given {
        Some(given) => given.into_iter().map(|part| usize::try_from(part).unwrap_or(usize::MAX)).collect(),
        None => {
            let count = call.node.outputs.len().max(1);
            let each = size.div_ceil(count).max(1);
            (0..count).map(|part| each.min(size.saturating_sub(part * each))).collect::<Vec<_>>()
        }
    };
    let sum = parts.iter().try_fold(0_usize, |sum, part| sum.checked_add(*part));
    if sum != Some(size) || parts.len() < call.node.outputs.len() {
        refuse!("{size} cannot be split into {parts:?}");
    }
    Ok(parts)
}
