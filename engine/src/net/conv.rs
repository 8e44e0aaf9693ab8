//! Convolutions.

use crate::buffer::Buffer;
use crate::graph::ParameterId;
use crate::kernels::dense::{Finish, Forward, InputGradient, Shape, WeightGradient};
use crate::kernels::elementwise;
use crate::parallel;
use crate::simd::Path;

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
    dy: Option<Place>,
    into: Into,
    forward: Forward,
    weight_gradient: Option<WeightGradient>,
    input_gradient: Option<InputGradient>,
    transposed: Buffer,
    sums: Vec<Vec<f32>>,
}

impl ConvStage {
    pub(super) fn new(op: &LayerOp, wiring: Wiring, path: Path, layouts: &mut [Layout]) -> Self {
        let LayerOp::Conv { weight, bias, relu, .. } = op else { unreachable!("a convolution") };
        let (x, y) = (wiring.inputs[0], wiring.output);
        let shape: Shape = conv_shape(op, x.form.maps().channels, y.form.maps().channels);
        let forward = Forward::new(path, &shape, x.form.maps(), y.form.maps());
        let dy = wiring.gradient;
        let weight_gradient = dy.map(|dy| WeightGradient::new(path, &shape, x.form.maps(), dy.form.maps()));
        let into = wiring.into[0];
        let input_gradient = match (into, dy) {
            (Into::Write(dx) | Into::Add(dx), Some(dy)) => {
                Some(InputGradient::new(path, &shape, dx.form.maps(), dy.form.maps()))
            }
            _ => None,
        };
        layouts[weight.index()] = Layout::Packed(forward.packing().clone());
        if let Some(bias) = bias {
            layouts[bias.index()] = Layout::Lanes;
        }
        let transposed = Buffer::zeros(input_gradient.as_ref().map_or(0, InputGradient::len));
        Self {
            path,
            weight: *weight,
            bias: *bias,
            relu: *relu,
            x,
            y,
            dy,
            into,
            forward,
            weight_gradient,
            input_gradient,
            transposed,
            sums: Vec::new(),
        }
    }
}

impl Stage for ConvStage {
    fn prepare(&mut self, parameters: &Parameters) {
        if let Some(gradient) = &self.input_gradient {
            gradient.transpose(parameters.value(self.weight), &mut self.transposed);
        }
    }

    fn forward(&mut self, run: &mut Run<'_>) {
        let weights = run.parameters.value(self.weight);
        let bias = self.bias.map(|bias| run.parameters.value(bias));
        let finish = if self.relu { Finish::RELU } else { Finish::PLAIN };
        let stride = self.x.form.len();
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        parallel::examples(run.n, y, self.y.form.len(), |example, y| {
            self.forward.run(weights, bias, &x[example * stride..][..stride], y, finish);
        });
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let (Some(dy_place), Some(gradient)) = (self.dy, &self.weight_gradient) else { return };
        let (x_len, y_len, dy_len) = (self.x.form.len(), self.y.form.len(), dy_place.form.len());
        if self.relu {
            let [y, dy] = run.arena.write_all([&self.y, &dy_place]);
            let (y_maps, dy_maps) = (self.y.form.maps(), dy_place.form.maps());
            parallel::examples(run.n, dy, dy_len, |example, dy| {
                elementwise::mask_maps(self.path, &y_maps, &y[example * y_len..][..y_len], &dy_maps, dy);
            });
        }
        let dy = run.arena.read(&dy_place);
        if let Some(bias) = self.bias {
            let maps = dy_place.form.maps();
            let (_, db) = run.parameters.with_gradient(bias);
            parallel::sum(run.n, db, &mut self.sums, |examples, sum| {
                for example in examples {
                    elementwise::add_channel_sums(self.path, &maps, &dy[example * dy_len..][..dy_len], sum);
                }
            });
        }
        let x = run.arena.read(&self.x);
        let (_, dw) = run.parameters.with_gradient(self.weight);
        parallel::sum(run.n, dw, &mut self.sums, |examples, sum| {
            for example in examples {
                gradient.add(&x[example * x_len..][..x_len], &dy[example * dy_len..][..dy_len], sum);
            }
        });
        gradient.packing().clear_padding(dw);
        let (dx_place, finish) = match self.into {
            Into::Write(place) => (place, Finish::PLAIN),
            Into::Add(place) => (place, Finish::ADD),
            _ => return,
        };
        if let Some(gradient) = &self.input_gradient {
            let [dy, dx] = run.arena.write_all([&dy_place, &dx_place]);
            parallel::examples(run.n, dx, dx_place.form.len(), |example, dx| {
                gradient.run(&self.transposed, &dy[example * dy_len..][..dy_len], dx, finish);
            });
        }
    }
}
