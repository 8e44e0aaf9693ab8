//! Layers that are one stage, for outputs in fp32: what is between them is never whole.

use crate::graph::Graph;

use super::lower::Layer;
use super::parameters::Layout;
use super::stage::{Size, Stage};
use super::wiring::Wiring;
use super::{Precision, Purpose, inverted, stem};

/// The kinds of them, the longest first: how many layers, and whether these are such.
const KINDS: [(usize, fn(&Graph, &[Layer]) -> bool); 2] =
    [(inverted::LAYERS, inverted::is_one), (stem::LAYERS, stem::is_one)];

/// For each layer how many the stage has that begins with it: one, if none does. What is between a stage's layers, nobody else reads, and nobody observes. Layers of
/// bytes are stages of their own.
pub(super) fn find(graph: &Graph, layers: &[Layer], purpose: Purpose, precision: Precision) -> Vec<usize> {
    let mut lengths = vec![1; layers.len()];
    if purpose != Purpose::Infer || precision != Precision::Fp32 {
        return lengths;
    }
    let mut readers = vec![0; graph.nodes().len()];
    layers.iter().flat_map(|layer| &layer.inputs).for_each(|input| readers[input.index()] += 1);
    let alone = |layer: &Layer| readers[layer.output.index()] == 1 && layer.output != graph.output();
    let mut index = 0;
    while index < layers.len() {
        let is_one = |(length, is_one): &&(usize, fn(&Graph, &[Layer]) -> bool)| {
            layers.get(index..index + length).is_some_and(|own| {
                let links = |pair: &[Layer]| pair[1].inputs.first() == Some(&pair[0].output) && alone(&pair[0]);
                let plain = own[..length - 1].iter().all(|layer| layer.inputs.len() == 1);
                own.windows(2).all(links) && plain && is_one(graph, own)
            })
        };
        lengths[index] = KINDS.iter().find(is_one).map_or(1, |(length, _)| *length);
        index += lengths[index];
    }
    lengths
}

/// The stage of several layers.
pub(super) fn stage(layers: &[Layer], wirings: &[Wiring], size: Size, layouts: &mut [Layout]) -> Box<dyn Stage> {
    match layers.len() {
        inverted::LAYERS => Box::new(inverted::InvertedStage::new(layers, wirings, size, layouts)),
        _ => Box::new(stem::StemStage::new(layers, wirings, size, layouts)),
    }
}
