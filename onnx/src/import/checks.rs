//! What is checked of the engine's operations as they are added, and of the graph that they make.

use engine::graph::{Function, Op};

use super::Importer;
use crate::error::{Problem, refuse};
use crate::limits;

impl Importer {
    /// Checks how much of the values is needed at once.
    pub(super) fn fits(&self) -> Result<(), Problem> {
        let nodes = self.graph.nodes();
        let mut last: Vec<usize> = (0..nodes.len()).collect();
        for (index, node) in nodes.iter().enumerate() {
            node.inputs.iter().for_each(|input| last[input.index()] = index);
        }
        let mut ends = vec![0; nodes.len()];
        let mut live = 0;
        for (index, node) in nodes.iter().enumerate() {
            let elements = planned(&node.shape)?;
            live += elements;
            ends[last[index]] += elements;
            if live > limits::LIVE {
                refuse!("more than {} elements of an example's values are needed at once", limits::LIVE);
            }
            live -= ends[index];
        }
        Ok(())
    }
}

/// Elements of a value as it is planned.
pub(super) fn planned(shape: &[usize]) -> Result<usize, Problem> {
    let [channels, pixels @ ..] = shape else { return Ok(1) };
    let channels = if pixels.is_empty() { *channels } else { channels.next_multiple_of(limits::BLOCK) };
    let count = pixels.iter().try_fold(channels, |count, size| count.checked_mul(*size));
    match count {
        Some(count) if count <= limits::LIVE && channels <= limits::CHANNELS => Ok(count),
        _ => refuse!(
            "{shape:?} is too large for a value: at most {} elements and {} channels are accepted",
            limits::LIVE,
            limits::CHANNELS
        ),
    }
}

/// Checks the numbers in an operation itself.
pub(super) fn numbers_of(op: &Op) -> Result<(), Problem> {
    let (name, number) = match op {
        Op::BatchNorm { epsilon, .. } | Op::RowNorm { epsilon, .. } | Op::ChannelNorm { epsilon, .. } => {
            ("epsilon", *epsilon)
        }
        Op::Attention { scale, .. } => ("scale", f64::from(*scale)),
        Op::Rearrange { fill, .. } => ("padding", f64::from(*fill)),
        Op::Function(Function::HardSigmoid { alpha, beta }) => ("slope", f64::from(alpha + beta)),
        Op::Function(Function::LeakyRelu { slope }) => ("slope", f64::from(*slope)),
        _ => return Ok(()),
    };
    if !number.is_finite() || (name == "epsilon" && number < 0.0) {
        refuse!("its {name} is {number}: a finite number is accepted, and no negative epsilon");
    }
    Ok(())
}
