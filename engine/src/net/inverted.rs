//! Inverted residuals: three convolutions as one stage, for outputs alone.

use crate::graph::Graph;
use crate::kernels::inverted::{Inverted, STRIP, suits};
use crate::parallel;

use super::conv::ConvStage;
use super::convolution::is_direct;
use super::lower::{Layer, LayerOp};
use super::memory::Place;
use super::parameters::{Layout, Parameters};
use super::wiring::{Wiring, conv_shape};
use super::{Run, Size, Stage};

/// Layers of an inverted residual.
pub(super) const LAYERS: usize = 3;

/// Whether these are one.
pub(super) fn is_one(graph: &Graph, layers: &[Layer]) -> bool {
    let shape = |layer: &Layer| match (&layer.op, graph.shape(layer.inputs[0]), graph.shape(layer.output)) {
        (LayerOp::Conv { pooled: false, .. }, [ins, ..], [outs, ..]) => Some(conv_shape(&layer.op, *ins, *outs)),
        _ => None,
    };
    let [Some(first), Some(middle), Some(last)] = [0, 1, 2].map(|layer| shape(&layers[layer])) else { return false };
    is_direct(&first) && suits([&first, &middle, &last])
}

pub(super) struct InvertedStage {
    parts: [ConvStage; LAYERS],
    /// For an example that a thread computes by itself, and for one that several share: strips would have them wait for each other too often.
    alone: Inverted,
    shared: Inverted,
    x: Place,
    y: Place,
}

impl InvertedStage {
    pub(super) fn new(layers: &[Layer], wirings: &[Wiring], size: Size, layouts: &mut [Layout]) -> Self {
        let (x, y) = (wirings[0].inputs[0], wirings[LAYERS - 1].output);
        let shapes = [0, 1, 2].map(|index| {
            let channels = |place: &Place| place.form.maps().channels;
            let Wiring { inputs, output, .. } = &wirings[index];
            conv_shape(&layers[index].op, channels(&inputs[0]), channels(output))
        });
        let parts = [0, 1, 2].map(|index| ConvStage::new(&layers[index].op, &wirings[index], size, layouts));
        let kernel = |between| Inverted::new(size.path, shapes.each_ref(), x.form.maps(), y.form.maps(), between);
        Self { parts, alone: kernel(STRIP), shared: kernel(usize::MAX), x, y }
    }
}

impl Stage for InvertedStage {
    fn prepare(&mut self, parameters: &Parameters) {
        self.parts.iter_mut().for_each(|part| part.prepare(parameters));
    }

    fn kept(&self) -> usize {
        self.parts.iter().map(Stage::kept).sum()
    }

    fn forward(&mut self, run: &mut Run<'_>) {
        if let Some(pass) = self.parts[LAYERS - 1].added() {
            pass.run(run.n, run.arena);
        }
        let operands = self.parts.each_ref().map(|part| part.operands(run.parameters));
        let (x_len, y_len) = (self.x.form.len(), self.y.form.len());
        let kernel = if run.n > 1 || parallel::alone() { &self.alone } else { &self.shared };
        let each = |x: Option<&[f32]>, y: &mut [f32]| {
            parallel::examples(run.n, y, y_len, |example, y| {
                let x = x.map(|x| &x[example * x_len..][..x_len]);
                parallel::with_scratch(kernel.scratch_len(), |scratch| kernel.run(operands, x, y, scratch));
            });
        };
        if self.x == self.y {
            // A strip's inputs are behind the outputs that were written.
            each(None, run.arena.write(&self.y));
        } else {
            let [x, y] = run.arena.write_all([&self.x, &self.y]);
            each(Some(x), y);
        }
    }

    fn backward(&mut self, _run: &mut Run<'_>) {
        unreachable!("for outputs alone");
    }
}
