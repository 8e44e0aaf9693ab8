//! The network's input.

use std::collections::HashMap;

use engine::graph::Graph;

use super::checks::planned;
use super::{Importer, View, What};
use crate::budget::Budget;
use crate::error::{Problem, refuse};
use crate::view::{self, Dim};
use crate::{Options, limits, proto};

/// An importer whose graph has the input alone, and the input as a view.
pub(super) fn start(
    opset: i64,
    half: bool,
    input: &proto::Variable<'_>,
    options: &Options,
    budget: &Budget,
) -> Result<(Importer, View, bool), Problem> {
    if !matches!(input.kind, 1 | 10 | 11 | 16) {
        refuse!("its type is number {} of ONNX's: a floating-point type is accepted", input.kind);
    }
    let Some(dims) = &input.dims else { refuse!("it has no shape: [batch, channels, height, width] is accepted") };
    let batch = match dims.first() {
        Some(batch) => batch.unwrap_or(1) as usize,
        None => refuse!("it is a single number: [batch, channels, height, width] is accepted"),
    };
    if batch > limits::BATCH {
        refuse!("it is a batch of {batch} examples: at most {} are accepted", limits::BATCH);
    }
    let size = |dim: Option<i64>, axis: Option<usize>| match (dim, axis.and_then(|axis| Some(options.size?[axis]))) {
        (Some(dim), Some(size)) if dim as u64 != size as u64 => {
            refuse!("it is {dim} high or wide, not {size}")
        }
        (Some(dim), _) => Ok(dim as usize),
        (None, Some(size)) => Ok(size),
        (None, None) => {
            refuse!("{dims:?} leaves a size open: say which height and width it has, or export it with them")
        }
    };
    let few = |dim: Option<i64>| dim.is_some_and(|dim| dim <= 4);
    let example = view::axis(Dim::Example, batch, 1);
    let (shape, axes, last) = match dims[1..] {
        [features] => {
            let features = size(features, None)?;
            (vec![features], vec![example, view::axis(Dim::Channel, features, 1)], false)
        }
        [a, b, c] => {
            let last = few(c) && !few(a);
            let [channels, height, width] = if last { [c, a, b] } else { [a, b, c] };
            let shape = [size(channels, None)?, size(height, Some(0))?, size(width, Some(1))?];
            let channels = view::axis(Dim::Channel, shape[0], 1);
            let (rows, columns) = (view::axis(Dim::Pixel, shape[1], shape[2]), view::axis(Dim::Pixel, shape[2], 1));
            let axes =
                if last { vec![example, rows, columns, channels] } else { vec![example, channels, rows, columns] };
            (shape.to_vec(), axes, last)
        }
        _ => refuse!("its shape is {dims:?}: [batch, channels, height, width] and [batch, features] are accepted"),
    };
    if crate::tensor::count(&shape)? == 0 {
        refuse!("its shape is {dims:?}: it holds nothing");
    }
    let values = planned(&shape)?;
    let graph = Graph::new(&shape);
    let view = View { what: What::Value(graph.input()), axes };
    let budget = budget.clone();
    let importer =
        Importer { opset, batch, half, graph, parameters: Vec::new(), values, work: 0, budget, orders: HashMap::new() };
    Ok((importer, view, last))
}
