//! Stems: a convolution and the max-pool of its outputs as one stage, for outputs alone.

use crate::graph::{Graph, Op};
use crate::kernels::inverted::STRIP;
use crate::kernels::stem::{Stem, suits};
use crate::parallel;

use super::conv::ConvStage;
use super::convolution::is_direct;
use super::lower::{Layer, LayerOp};
use super::memory::Place;
use super::parameters::{Layout, Parameters};
use super::wiring::{Wiring, conv_shape};
use super::{Run, Size, Stage};

/// Layers of a stem.
pub(super) const LAYERS: usize = 2;

/// Whether these are one.
pub(super) fn is_one(graph: &Graph, layers: &[Layer]) -> bool {
    let (LayerOp::Conv { pooled: false, .. }, LayerOp::Alone(Op::MaxPool(pool))) = (&layers[0].op, &layers[1].op)
    else {
        return false;
    };
    let (&[ins, ..], &[outs, ..]) = (graph.shape(layers[0].inputs[0]), graph.shape(layers[0].output)) else {
        return false;
    };
    let shape = conv_shape(&layers[0].op, ins, outs);
    is_direct(&shape) && suits(&shape, pool)
}

pub(super) struct StemStage {
    conv: ConvStage,
    /// For an example that a thread computes by itself, and for one that several share: strips would have them wait for each other too often.
    alone: Stem,
    shared: Stem,
    x: Place,
    y: Place,
}

impl StemStage {
    pub(super) fn new(layers: &[Layer], wirings: &[Wiring], size: Size, layouts: &mut [Layout]) -> Self {
        let (x, between, y) = (wirings[0].inputs[0], wirings[0].output, wirings[1].output);
        let LayerOp::Alone(Op::MaxPool(pool)) = &layers[1].op else { unreachable!("a max-pool") };
        let shape = conv_shape(&layers[0].op, x.form.maps().channels, between.form.maps().channels);
        let conv = ConvStage::new(&layers[0].op, &wirings[0], size, layouts);
        let kernel = |between| Stem::new(size.path, &shape, pool, x.form.maps(), y.form.maps(), between);
        Self { conv, alone: kernel(STRIP), shared: kernel(usize::MAX), x, y }
    }
}

impl Stage for StemStage {
    fn prepare(&mut self, parameters: &Parameters) {
        self.conv.prepare(parameters);
    }

    fn kept(&self) -> usize {
        self.conv.kept()
    }

    fn forward(&mut self, run: &mut Run<'_>) {
        let operands = self.conv.operands(run.parameters);
        let kernel = if run.n > 1 || parallel::alone() { &self.alone } else { &self.shared };
        let (x_len, y_len) = (self.x.form.len(), self.y.form.len());
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        parallel::examples(run.n, y, y_len, |example, y| {
            let x = &x[example * x_len..][..x_len];
            parallel::with_scratch(kernel.scratch_len(), |scratch| kernel.run(operands, x, y, scratch));
        });
    }

    fn backward(&mut self, _run: &mut Run<'_>) {
        unreachable!("for outputs alone");
    }
}
