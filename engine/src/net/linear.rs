//! Fully connected layers.

use crate::graph::ParameterId;
use crate::kernels::dense::Finish;
use crate::kernels::linear::{Linear, Scratch};
use crate::kernels::slopes;
use crate::simd::Path;

use super::memory::Place;
use super::parameters::Layout;
use super::wiring::{Into, Wiring};
use super::{Run, Stage};

pub(super) struct LinearStage {
    weight: ParameterId,
    bias: Option<ParameterId>,
    relu: bool,
    x: Place,
    y: Place,
    dy: Option<Place>,
    into: Into,
    kernel: Linear,
    scratch: Scratch,
}

impl LinearStage {
    pub(super) fn new(
        (weight, bias): (ParameterId, Option<ParameterId>),
        relu: bool,
        wiring: &Wiring,
        path: Path,
        layouts: &mut [Layout],
    ) -> Self {
        let (x, y) = (wiring.inputs[0], wiring.output);
        let kernel = Linear::new(path, x.form.len(), y.form.len());
        layouts[weight.index()] = Layout::Packed(kernel.packing().clone());
        if let Some(bias) = bias {
            layouts[bias.index()] = Layout::Lanes;
        }
        let (dy, into) = (wiring.gradient, wiring.into[0]);
        Self { weight, bias, relu, x, y, dy, into, kernel, scratch: Scratch::default() }
    }
}

impl Stage for LinearStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        let weights = run.parameters.value(self.weight);
        let bias = self.bias.map(|bias| run.parameters.value(bias));
        let finish = if self.relu { Finish::RELU } else { Finish::PLAIN };
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        self.kernel.forward(run.n, weights, bias, x, y, finish, &mut self.scratch);
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(dy_place) = self.dy else { return };
        let (n, units) = (run.n, self.y.form.len());
        {
            let [y, dy] = run.arena.write_all([&self.y, &dy_place]);
            if self.relu {
                slopes::mask(&y[..n * units], &mut dy[..n * units]);
            }
            if let Some(bias) = self.bias {
                let (_, db) = run.parameters.with_gradient(bias);
                db.fill(0.0);
                dy[..n * units].chunks_exact(units).for_each(|dy| slopes::add(dy, db));
            }
        }
        let dx = match self.into {
            Into::Write(place) => Some((place, false)),
            Into::Add(place) => Some((place, true)),
            Into::Nowhere | Into::Place => None,
        };
        // Before the weights move.
        if let Some((place, add)) = dx {
            let [dy, dx] = run.arena.write_all([&dy_place, &place]);
            self.kernel.input_gradient(n, run.parameters.value(self.weight), dy, dx, add, &mut self.scratch);
        }
        let (x, dy) = (run.arena.read(&self.x), run.arena.read(&dy_place));
        match run.step {
            Some(step) => {
                let slot = &mut run.parameters.slots[self.weight.index()];
                let sums = slot.sums.iter_mut().map(|sum| &mut **sum);
                self.kernel.step(n, x, dy, &mut slot.value, sums, step, &mut self.scratch);
                slot.moved = true;
            }
            None => {
                let (_, dw) = run.parameters.with_gradient(self.weight);
                self.kernel.weight_gradient(n, x, dy, dw, &mut self.scratch);
            }
        }
    }
}
