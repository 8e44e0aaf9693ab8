//! Convolutions.

use crate::graph::ParameterId;
use crate::kernels::dense::{Finish, Shape, WeightGradient};
use crate::kernels::slopes;
use crate::parallel;
use crate::simd::Path;

use super::convolution::{Convolution, packing};
use super::lower::LayerOp;
use super::memory::Place;
use super::parameters::{Layout, Parameters};
use super::wiring::{Into, Wiring, conv_shape};
use super::{Run, Stage};

pub(super) struct ConvStage {
    path: Path,
    weight: ParameterId,
    bias: Option<ParameterId>,
    relu: bool,
    x: Place,
    y: Place,
    forward: Convolution,
    backward: Option<Backward>,
    spaces: Vec<parallel::Space<()>>,
}

/// What training needs besides.
struct Backward {
    dy: Place,
    weights: WeightGradient,
    /// The gradient of the input, where somebody asks for it.
    input: Option<(Convolution, Place, Finish)>,
}

impl ConvStage {
    pub(super) fn new(op: &LayerOp, wiring: &Wiring, path: Path, layouts: &mut [Layout]) -> Self {
        let LayerOp::Conv { weight, bias, relu, .. } = op else { unreachable!("a convolution") };
        let (x, y) = (wiring.inputs[0], wiring.output);
        let (x_maps, y_maps) = (x.form.maps(), y.form.maps());
        let shape: Shape = conv_shape(op, x_maps.channels, y_maps.channels);
        layouts[weight.index()] = Layout::Packed(packing(&shape, &x_maps));
        if let Some(bias) = bias {
            layouts[bias.index()] = Layout::Lanes;
        }
        let backward = wiring.gradient.map(|dy| {
            let input = match wiring.into[0] {
                Into::Write(dx) => Some((dx, Finish::PLAIN)),
                Into::Add(dx) => Some((dx, Finish::ADD)),
                Into::Nowhere | Into::Place => None,
            };
            let input = input
                .map(|(dx, finish)| (Convolution::gradient(path, &shape, dx.form.maps(), dy.form.maps()), dx, finish));
            Backward { dy, weights: WeightGradient::new(path, &shape, x_maps, dy.form.maps()), input }
        });
        Self {
            path,
            weight: *weight,
            bias: *bias,
            relu: *relu,
            x,
            y,
            forward: Convolution::forward(path, &shape, x_maps, y_maps),
            backward,
            spaces: Vec::new(),
        }
    }
}

impl Stage for ConvStage {
    fn prepare(&mut self, parameters: &Parameters) {
        let weights = parameters.value(self.weight);
        self.forward.prepare(weights);
        if let Some(Backward { input: Some((gradient, ..)), .. }) = &mut self.backward {
            gradient.prepare(weights);
        }
    }

    fn forward(&mut self, run: &mut Run<'_>) {
        let weights = run.parameters.value(self.weight);
        let bias = self.bias.map(|bias| run.parameters.value(bias));
        let finish = if self.relu { Finish::RELU } else { Finish::PLAIN };
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        self.forward.run(run.n, weights, bias, x, y, finish);
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(backward) = &self.backward else { return };
        let dy_place = backward.dy;
        let (x_len, y_len, dy_len) = (self.x.form.len(), self.y.form.len(), dy_place.form.len());
        if self.relu {
            let [y, dy] = run.arena.write_all([&self.y, &dy_place]);
            let (y_maps, dy_maps) = (self.y.form.maps(), dy_place.form.maps());
            parallel::examples(run.n, dy, dy_len, |example, dy| {
                slopes::mask_maps(self.path, &y_maps, &y[example * y_len..][..y_len], &dy_maps, dy);
            });
        }
        let dy = run.arena.read(&dy_place);
        if let Some(bias) = self.bias {
            let maps = dy_place.form.maps();
            let (_, db) = run.parameters.with_gradient(bias);
            parallel::sum(run.n, db, (&mut [], 0), &mut self.spaces, |examples, sum, _, ()| {
                for example in examples {
                    slopes::add_channel_sums(self.path, &maps, &dy[example * dy_len..][..dy_len], sum);
                }
            });
        }
        let x = run.arena.read(&self.x);
        let (_, dw) = run.parameters.with_gradient(self.weight);
        parallel::sum(run.n, dw, (&mut [], 0), &mut self.spaces, |examples, sum, _, ()| {
            for example in examples {
                backward.weights.add(&x[example * x_len..][..x_len], &dy[example * dy_len..][..dy_len], sum);
            }
        });
        backward.weights.packing().clear_padding(dw);
        if let Some((gradient, dx_place, finish)) = &backward.input {
            let [dy, dx] = run.arena.write_all([&dy_place, dx_place]);
            gradient.run(run.n, run.parameters.value(self.weight), None, dy, dx, *finish);
        }
    }
}
