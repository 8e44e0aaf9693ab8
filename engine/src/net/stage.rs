//! What a planned network is made of: layers that run, and which kind of them each layer of the graph becomes.

use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::lower::{Layer, LayerOp};
use super::memory::{Arena, Place};
use super::parameters::{Layout, Parameters};
use super::wiring::Wiring;
use super::{Mode, Precision, conv, linear, norms, outputs, pooled, pools, simple};
use crate::buffer::Buffer;
use crate::graph::{Graph, Op, Unfit, Value};
use crate::kernels::optimizer::Step;
use crate::parallel::Space;
use crate::simd::Path;

/// What a stage works on.
pub(super) struct Run<'a> {
    /// Examples.
    pub(super) n: usize,
    pub(super) mode: &'a Mode<'a>,
    /// With which a layer may move its weights at once: nobody asks for their gradient.
    pub(super) step: Option<&'a Step>,
    pub(super) arena: &'a mut Arena,
    pub(super) parameters: &'a mut Parameters,
    /// What convolutions sum the gradients of their weights in, one after the other.
    pub(super) spaces: &'a mut Vec<Space<Buffer>>,
    /// For each example whether it has a number that no byte stands for: it is not finite.
    pub(super) odd: &'a [AtomicBool],
}

/// A layer that runs.
pub(super) trait Stage: Send + Sync {
    /// Derives what it needs from parameters that have changed.
    fn prepare(&mut self, _parameters: &Parameters) {}

    /// Computes its output.
    fn forward(&mut self, run: &mut Run<'_>);

    /// Computes the gradients of its inputs and parameters from that of its output, which it may overwrite.
    fn backward(&mut self, run: &mut Run<'_>);

    /// Floats of the parameters that it keeps in a form of its own.
    fn kept(&self) -> usize {
        0
    }

    /// How it multiplies.
    fn precision(&self) -> Precision {
        Precision::Fp32
    }
}

/// A stage with what it is called, an example's products, and the time that it has taken forwards and backwards.
pub(super) struct Timed {
    pub(super) name: String,
    /// The value that it makes.
    pub(super) output: (Value, Place),
    pub(super) products: usize,
    pub(super) stage: Box<dyn Stage>,
    pub(super) spent: [Duration; 2],
}

/// What all stages are made for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) path: Path,
    /// Examples at most.
    pub(super) batch: usize,
    /// Examples that share a pass over weights. Kernels are chosen by this number, and with them an example's bits: for
    /// outputs it is one, whatever the batch.
    pub(super) together: usize,
    pub(super) precision: Precision,
}

/// The stage that computes a layer, with numbers.
///
/// # Errors
/// No kernel suits it.
pub(super) fn of(
    graph: &Graph,
    layer: &Layer,
    wiring: &Wiring,
    size: Size,
    layouts: &mut [Layout],
) -> Result<Box<dyn Stage>, Unfit> {
    let Size { path, batch, .. } = size;
    Ok(match &layer.op {
        LayerOp::Conv { pooled: true, .. } => {
            let stage = pooled::PooledStage::new(&layer.op, wiring, size, layouts);
            Box::new(stage.ok_or_else(|| Unfit("a pooled convolution that no kernel suits".into()))?)
        }
        LayerOp::Conv { .. } => Box::new(conv::ConvStage::new(&layer.op, wiring, size, layouts)),
        LayerOp::Linear { weight, bias, relu } => {
            Box::new(linear::LinearStage::new((*weight, *bias), *relu, wiring, path, layouts))
        }
        LayerOp::BatchNorm { momentum, norm, relu } => {
            Box::new(norms::BatchNormStage::new(*momentum, *norm, *relu, wiring, path, layouts))
        }
        LayerOp::Add { relu } => Box::new(simple::AddStage::new(*relu, wiring, path)),
        LayerOp::Alone(op) => match op {
            Op::RowNorm { groups, epsilon, affine } => {
                let by_element = *groups == 1 && graph.parameter_shape(affine.weight) == graph.shape(layer.output);
                Box::new(norms::RowNormStage::new(*groups, *epsilon, *affine, by_element, wiring, path, layouts))
            }
            Op::Activation(function) => Box::new(simple::ActivationStage::new(*function, wiring, path)),
            Op::MaxPool(window) => Box::new(pools::MaxPoolStage::new(window, wiring, path, batch)),
            Op::AvgPool { window, count_padding } => {
                Box::new(pools::AvgPoolStage::new(window, *count_padding, wiring, path))
            }
            Op::GlobalAvgPool => Box::new(pools::GlobalAvgPoolStage::new(wiring, path)),
            Op::Dropout { rate, number } => Box::new(simple::DropoutStage::new(*rate, *number, wiring, path)),
            Op::Flatten => Box::new(simple::FlattenStage::new(wiring, path)),
            Op::Concat => Box::new(simple::ConcatStage::new(wiring, path)),
            op if op.has_no_gradient() => Box::new(outputs::OutputStage::new(op, wiring, path, layouts)),
            _ => unreachable!("lowering has layers of its own for the others"),
        },
    })
}
