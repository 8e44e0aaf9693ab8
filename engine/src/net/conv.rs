//! Convolutions.

use crate::buffer::Buffer;
use crate::graph::ParameterId;
use crate::kernels::dense::{Finish, Shape};
use crate::kernels::inverted::Operands;
use crate::kernels::slopes;
use crate::parallel;
use crate::simd::Path;

use super::convolution::{Convolution, Weights, layout, scale};
use super::lower::{Folded, LayerOp};
use super::memory::Place;
use super::parameters::{Layout, Parameters};
use super::simple::{Pass, mask};
use super::wiring::{Into, Wiring, conv_shape};
use super::{Precision, Run, Size, Stage};

pub(super) struct ConvStage {
    path: Path,
    weight: ParameterId,
    bias: Option<ParameterId>,
    finish: Finish,
    x: Place,
    y: Place,
    /// Copies what is added to where the sums come, unless it lies there.
    added: Option<Pass>,
    forward: Convolution,
    folded: Option<Norm>,
    backward: Option<Backward>,
}

/// A batch norm that has become part of weights and bias.
pub(super) struct Norm {
    of: Folded,
    layout: Layout,
    channels: usize,
    pub(super) weights: Buffer,
    pub(super) bias: Buffer,
}

impl Norm {
    /// Behind a convolution of this shape, whose weights lie so.
    pub(super) fn new(of: Folded, layout: Layout, shape: &Shape) -> Self {
        let weights = Buffer::zeros(layout.len(shape.outs * shape.ins / shape.groups * shape.window.taps()));
        let bias = Buffer::zeros(Layout::Lanes.len(shape.outs));
        Self { of, layout, channels: shape.outs, weights, bias }
    }

    pub(super) fn prepare(&mut self, weight: ParameterId, bias: Option<ParameterId>, parameters: &Parameters) {
        let of = &self.of;
        let value = |id: ParameterId| parameters.value(id);
        self.weights.copy_from_slice(value(weight));
        // Behind the last channel weights and bias stay zero, also with an epsilon of zero.
        let mut factors = vec![0.0; self.bias.len()];
        for (channel, to) in factors[..self.channels].iter_mut().enumerate() {
            let wide = |id: ParameterId| f64::from(value(id)[channel]);
            let factor = wide(of.affine.weight) / (wide(of.variance) + of.epsilon).sqrt();
            let before = bias.map_or(0.0, wide) - wide(of.mean);
            *to = factor as f32;
            self.bias[channel] = (before * factor + wide(of.affine.bias)) as f32;
        }
        scale(&self.layout, &mut self.weights, &factors);
    }
}

/// Says how a convolution's parameters lie, with weights in this order.
pub(super) fn lay(op: &LayerOp, order: &Layout, layouts: &mut [Layout]) {
    let LayerOp::Conv { weight, bias, norm, .. } = op else { unreachable!("a convolution") };
    layouts[weight.index()] = order.clone();
    let norms = norm.iter().flat_map(|of| [of.affine.weight, of.affine.bias, of.mean, of.variance]);
    bias.iter().copied().chain(norms).for_each(|parameter| layouts[parameter.index()] = Layout::Lanes);
}

/// What training needs besides.
struct Backward {
    dy: Place,
    weights: Weights,
    /// The gradient of the input, where somebody asks for it.
    input: Option<(Convolution, Place, Finish)>,
}

impl ConvStage {
    pub(super) fn new(op: &LayerOp, wiring: &Wiring, size: Size, layouts: &mut [Layout]) -> Self {
        let Size { path, together, .. } = size;
        let LayerOp::Conv { weight, bias, clamp, norm, .. } = op else { unreachable!("a convolution") };
        let (x, y) = (wiring.inputs[0], wiring.output);
        let (x_maps, y_maps) = (x.form.maps(), y.form.maps());
        let shape: Shape = conv_shape(op, x_maps.channels, y_maps.channels);
        let order = layout(&shape, &x_maps);
        lay(op, &order, layouts);
        let folded = norm.map(|of| Norm::new(of, order, &shape));
        let residual = wiring.inputs.get(1);
        let added = residual.filter(|residual| **residual != y);
        let added = added.and_then(|residual| Pass::new(path, *residual, Into::Write(y)));
        let finish = Finish { add: residual.is_some(), clamp: *clamp };
        let backward = wiring.gradient.map(|dy| {
            let input = match wiring.into[0] {
                Into::Write(dx) => Some((dx, Finish::PLAIN)),
                Into::Add(dx) => Some((dx, Finish::ADD)),
                Into::Nowhere | Into::Place => None,
            };
            let input = input.map(|(dx, finish)| {
                (Convolution::gradient(path, &shape, together, dx.form.maps(), dy.form.maps()), dx, finish)
            });
            Backward { dy, weights: Weights::new(path, &shape, together, x_maps, dy.form.maps()), input }
        });
        Self {
            path,
            weight: *weight,
            bias: *bias,
            finish,
            x,
            y,
            added,
            forward: Convolution::forward(size, &shape, x_maps, y_maps),
            folded,
            backward,
        }
    }
}

impl ConvStage {
    /// What it computes with.
    pub(super) fn operands<'a>(&'a self, parameters: &'a Parameters) -> Operands<'a> {
        let (weights, bias) = match &self.folded {
            Some(norm) => (&*norm.weights, Some(&*norm.bias)),
            None => (parameters.value(self.weight), self.bias.map(|bias| parameters.value(bias))),
        };
        Operands { weights, bias, finish: self.finish }
    }

    /// What copies a residual to where the sums come, unless it lies there.
    pub(super) fn added(&self) -> Option<&Pass> {
        self.added.as_ref()
    }
}

impl Stage for ConvStage {
    fn prepare(&mut self, parameters: &Parameters) {
        let weights = parameters.value(self.weight);
        match &mut self.folded {
            Some(norm) => {
                norm.prepare(self.weight, self.bias, parameters);
                self.forward.prepare(&norm.weights);
            }
            None => self.forward.prepare(weights),
        }
        if let Some(Backward { input: Some((gradient, ..)), .. }) = &mut self.backward {
            gradient.prepare(weights);
        }
    }

    fn kept(&self) -> usize {
        let folded = self.folded.as_ref().map_or(0, |norm| norm.weights.len() + norm.bias.len());
        let gradient = self.backward.as_ref().and_then(|backward| backward.input.as_ref());
        self.forward.kept() + folded + gradient.map_or(0, |(gradient, ..)| gradient.kept())
    }

    fn precision(&self) -> Precision {
        self.forward.precision()
    }

    fn forward(&mut self, run: &mut Run<'_>) {
        if let Some(pass) = &self.added {
            pass.run(run.n, run.arena);
        }
        let Operands { weights, bias, finish } = self.operands(run.parameters);
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        self.forward.run(run.n, weights, bias, x, y, finish);
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(backward) = &self.backward else { return };
        let dy_place = backward.dy;
        if self.finish.clamp.is_some() {
            mask(self.path, run.n, run.arena, &self.y, &dy_place);
        }
        let dy = run.arena.read(&dy_place);
        if let Some(bias) = self.bias {
            let maps = dy_place.form.maps();
            let (_, db) = run.parameters.with_gradient(bias);
            parallel::sum(run.n, db, (&mut [], 0), run.spaces, |examples, sum, _, _| {
                for example in examples {
                    slopes::add_channel_sums(self.path, &maps, &dy[example * maps.len()..][..maps.len()], sum);
                }
            });
        }
        let x = run.arena.read(&self.x);
        let (_, dw) = run.parameters.with_gradient(self.weight);
        parallel::sum(run.n, dw, (&mut [], 0), run.spaces, |examples, sum, _, scratch| {
            backward.weights.add(examples, x, dy, sum, scratch);
        });
        backward.weights.finish(dw);
        if let Some((gradient, dx_place, finish)) = &backward.input {
            let [dy, dx] = run.arena.write_all([&dy_place, dx_place]);
            gradient.run(run.n, run.parameters.value(self.weight), None, dy, dx, *finish);
        }
    }
}
