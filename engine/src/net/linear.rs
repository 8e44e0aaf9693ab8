//! Fully connected layers.

use crate::graph::ParameterId;
use crate::kernels::elementwise;
use crate::matrix::{Matrix, multiply};
use crate::parallel;

use super::memory::Place;
use super::wiring::{Into, Wiring};
use super::{Run, Stage};

/// Examples or units that are worth a product of their own.
const LEAST: usize = 16;

pub(super) struct LinearStage {
    weight: ParameterId,
    bias: Option<ParameterId>,
    relu: bool,
    x: Place,
    y: Place,
    dy: Option<Place>,
    into: Into,
}

impl LinearStage {
    pub(super) fn new(weight: ParameterId, bias: Option<ParameterId>, relu: bool, wiring: Wiring) -> Self {
        let (x, y) = (wiring.inputs[0], wiring.output);
        Self { weight, bias, relu, x, y, dy: wiring.gradient, into: wiring.into[0] }
    }
}

impl Stage for LinearStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        let (inputs, units) = (self.x.form.len(), self.y.form.len());
        let weights = Matrix::new(run.parameters.value(self.weight), units, inputs);
        let bias = self.bias.map(|bias| run.parameters.value(bias));
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        let x = Matrix::new(&x[..run.n * inputs], run.n, inputs).transposed();
        let relu = self.relu;
        parallel::columns(&mut y[..run.n * units], units, LEAST, |first, y| {
            let examples = first..first + y.len() / units;
            multiply(y, units, false, 1.0, weights, x.columns(examples));
            for y in y.chunks_exact_mut(units) {
                elementwise::finish_row(y, bias, relu);
            }
        });
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(dy_place) = self.dy else { return };
        let (n, inputs, units) = (run.n, self.x.form.len(), self.y.form.len());
        {
            let [y, dy] = run.arena.write_all([&self.y, &dy_place]);
            if self.relu {
                elementwise::mask(&y[..n * units], &mut dy[..n * units]);
            }
            if let Some(bias) = self.bias {
                let (_, db) = run.parameters.with_gradient(bias);
                db.fill(0.0);
                dy[..n * units].chunks_exact(units).for_each(|dy| elementwise::add(dy, db));
            }
        }
        let dy = Matrix::new(&run.arena.read(&dy_place)[..n * units], n, units);
        let x = Matrix::new(&run.arena.read(&self.x)[..n * inputs], n, inputs);
        let (_, dw) = run.parameters.with_gradient(self.weight);
        parallel::columns(dw, inputs, LEAST, |first, dw| {
            let columns = first..first + dw.len() / inputs;
            multiply(dw, inputs, false, 1.0, x.transposed(), dy.columns(columns));
        });
        let (dx_place, add) = match self.into {
            Into::Write(place) => (place, false),
            Into::Add(place) => (place, true),
            _ => return,
        };
        let weights = Matrix::new(run.parameters.value(self.weight), units, inputs).transposed();
        let [dy, dx] = run.arena.write_all([&dy_place, &dx_place]);
        let dy = Matrix::new(&dy[..n * units], n, units).transposed();
        parallel::columns(&mut dx[..n * inputs], inputs, LEAST, |first, dx| {
            let examples = first..first + dx.len() / inputs;
            multiply(dx, inputs, add, 1.0, weights, dy.columns(examples));
        });
    }
}
