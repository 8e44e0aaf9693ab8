//! Normalisations.

use crate::graph::Affine;
use crate::kernels::norm::{self, Constants, ElementNorm, GroupNorm, Mask, Moments, Normalise, Slopes, Statistics};
use crate::maps::{Halo, Maps};
use crate::parallel::{self, Space};
use crate::simd::Path;

use super::lower::Folded;
use super::memory::{Form, Place};
use super::parameters::Layout;
use super::simple::Pass;
use super::wiring::{Into, Wiring};
use super::{Mode, Run, Stage};

pub(super) struct BatchNormStage {
    momentum: f64,
    norm: Folded,
    x: Place,
    residual: Option<Place>,
    y: Place,
    dy: Option<Place>,
    into: Into,
    moments: Moments,
    normalise: Normalise,
    backward: norm::Backward,
    mask: Mask,
    /// The residual's gradient, where it is wanted elsewhere.
    pass: Option<Pass>,
    parts: Vec<f64>,
    /// Of the last pass forwards.
    constants: Option<Constants>,
}

impl BatchNormStage {
    pub(super) fn new(
        momentum: f64,
        norm: Folded,
        relu: bool,
        wiring: &Wiring,
        path: Path,
        layouts: &mut [Layout],
    ) -> Self {
        for parameter in [norm.affine.weight, norm.affine.bias, norm.mean, norm.variance] {
            layouts[parameter.index()] = Layout::Lanes;
        }
        let (x, residual, y) = (wiring.inputs[0], wiring.inputs.get(1).copied(), wiring.output);
        let mask = match (relu, residual) {
            (false, _) => Mask::None,
            (true, None) => Mask::Argument,
            (true, Some(_)) => Mask::Result,
        };
        let dy = wiring.gradient;
        let into = wiring.into[0];
        let gradient = dy.unwrap_or(y);
        let dx = match into {
            Into::Write(place) | Into::Add(place) => place,
            Into::Nowhere | Into::Place => gradient,
        };
        let [x_view, y_view, dy_view, dx_view] = [x, y, gradient, dx].map(|place| place.form.view());
        Self {
            momentum,
            norm,
            x,
            residual,
            y,
            dy,
            into,
            moments: Moments::new(path, x_view),
            normalise: Normalise::new(path, x_view, residual.map(|place| place.form.view()), y_view, relu),
            backward: norm::Backward::new(path, x_view, y_view, dy_view, dx_view, mask),
            mask,
            pass: wiring.into.get(1).and_then(|into| Pass::new(path, gradient, *into)),
            parts: Vec::new(),
            constants: None,
        }
    }

    /// A batch's statistics, which move the running ones, or these.
    fn statistics(&mut self, run: &mut Run<'_>) -> Statistics {
        let Mode::Train { .. } = run.mode else {
            let channels = self.x.form.view().channels();
            let wide = |id| run.parameters.value(id)[..channels].iter().map(|x| f64::from(*x)).collect();
            return Statistics { count: 0, mean: wide(self.norm.mean), variance: wide(self.norm.variance) };
        };
        let (x_len, len) = (self.x.form.len(), self.moments.len());
        self.parts.resize(run.n * len, 0.0);
        let (x, moments) = (run.arena.read(&self.x), &self.moments);
        parallel::examples(run.n, &mut self.parts, len, |example, part| {
            moments.run(&x[example * x_len..][..x_len], part);
        });
        let statistics = self.moments.merge(&self.parts[..run.n * len]);
        let count = statistics.count as f64;
        let mut follow = |id, values: &[f64]| {
            for (old, new) in run.parameters.value_mut(id).iter_mut().zip(values) {
                *old = (f64::from(*old) * (1.0 - self.momentum) + new * self.momentum) as f32;
            }
        };
        follow(self.norm.mean, &statistics.mean);
        // One element has no unbiased variance: the last row of an epoch, alone in its batch.
        if statistics.count > 1 {
            let unbiased: Vec<f64> = statistics.variance.iter().map(|v| v * count / (count - 1.0)).collect();
            follow(self.norm.variance, &unbiased);
        }
        statistics
    }
}

impl Stage for BatchNormStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        let statistics = self.statistics(run);
        let (weight, bias) =
            (run.parameters.value(self.norm.affine.weight), run.parameters.value(self.norm.affine.bias));
        let constants = Constants::new(&statistics, self.norm.epsilon, weight, bias);
        let (x_len, y_len) = (self.x.form.len(), self.y.form.len());
        let each = |x: &[f32], residual: Option<(&[f32], usize)>, y: &mut [f32]| {
            parallel::examples(run.n, y, y_len, |example, y| {
                let residual = residual.map(|(all, len)| &all[example * len..][..len]);
                self.normalise.run(&constants, Some(&x[example * x_len..][..x_len]), residual, y);
            });
        };
        match &self.residual {
            Some(place) => {
                run.arena.write_beside(&self.y, |arena, y| {
                    each(arena.read(&self.x), Some((arena.read(place), place.form.len())), y);
                });
            }
            None => {
                let [x, y] = run.arena.write_all([&self.x, &self.y]);
                each(x, None, y);
            }
        }
        self.constants = Some(constants);
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let (Some(dy_place), Some(constants)) = (self.dy, &self.constants) else { return };
        let (x_len, y_len, dy_len, len) =
            (self.x.form.len(), self.y.form.len(), dy_place.form.len(), self.backward.len());
        self.parts.resize(run.n * len, 0.0);
        let kernel = &self.backward;
        if self.mask == Mask::Result {
            let [x, y, dy] = run.arena.write_all([&self.x, &self.y, &dy_place]);
            let (dy, parts) = ((&mut *dy, dy_len), (self.parts.as_mut_slice(), len));
            parallel::groups2(run.n, 1, dy, parts, |example, dy, part| {
                let (x, y) = (&x[example * x_len..][..x_len], &y[example * y_len..][..y_len]);
                kernel.masked_sums(constants, x, y, dy, part);
            });
        } else {
            let (x, dy) = (run.arena.read(&self.x), run.arena.read(&dy_place));
            parallel::examples(run.n, &mut self.parts, len, |example, part| {
                kernel.sums(constants, &x[example * x_len..][..x_len], &dy[example * dy_len..][..dy_len], part);
            });
        }
        let count = run.n * self.x.form.view().count();
        let slopes = Slopes::new(constants, count, &self.parts[..run.n * len]);
        run.parameters.set_gradient(self.norm.affine.weight, &slopes.weight);
        run.parameters.set_gradient(self.norm.affine.bias, &slopes.bias);
        if let Some(pass) = &self.pass {
            pass.run(run.n, run.arena);
        }
        match self.into {
            Into::Nowhere => {}
            Into::Place => {
                let [x, dx] = run.arena.write_all([&self.x, &dy_place]);
                parallel::examples(run.n, dx, dy_len, |example, dx| {
                    kernel.input(constants, &slopes, &x[example * x_len..][..x_len], None, dx, false);
                });
            }
            Into::Write(place) | Into::Add(place) => {
                let add = matches!(self.into, Into::Add(_));
                let [x, dy, dx] = run.arena.write_all([&self.x, &dy_place, &place]);
                parallel::examples(run.n, dx, place.form.len(), |example, dx| {
                    let (x, dy) = (&x[example * x_len..][..x_len], &dy[example * dy_len..][..dy_len]);
                    kernel.input(constants, &slopes, x, Some(dy), dx, add);
                });
            }
        }
    }
}

pub(super) struct RowNormStage {
    affine: Affine,
    x: Place,
    y: Place,
    dy: Option<Place>,
    into: Into,
    kernel: RowNorm,
    /// Each example's means and deviations.
    kept: Vec<f64>,
    kept_len: usize,
    total: Vec<f32>,
    spaces: Vec<Space<Vec<f64>>>,
}

enum RowNorm {
    /// A weight an element.
    Element(ElementNorm),
    /// A weight a channel.
    Group(Box<GroupNorm>),
}

impl RowNormStage {
    pub(super) fn new(
        groups: usize,
        epsilon: f64,
        affine: Affine,
        by_element: bool,
        wiring: &Wiring,
        path: Path,
        layouts: &mut [Layout],
    ) -> Self {
        let (x, y, into) = (wiring.inputs[0], wiring.output, wiring.into[0]);
        let dy = wiring.gradient;
        let gradient = dy.unwrap_or(y);
        let dx = match into {
            Into::Write(place) | Into::Add(place) => place,
            Into::Nowhere | Into::Place => gradient,
        };
        let [x_view, y_view, dy_view, dx_view] = [x, y, gradient, dx].map(|place| place.form.view());
        let (kernel, layout) = if by_element {
            let (view, layout) = match x.form {
                Form::Maps(maps) => {
                    let maps = Maps { halo: Halo::default(), ..maps };
                    (Form::Maps(maps).view(), Layout::Maps(maps))
                }
                form @ Form::Row(_) => (form.view(), Layout::Lanes),
            };
            let kernel = ElementNorm::new(path, epsilon, view, [x_view, y_view], [dx_view, dy_view]);
            (RowNorm::Element(kernel), layout)
        } else {
            let kernel = GroupNorm::new(path, groups, epsilon, [x_view, y_view], [dx_view, dy_view]);
            (RowNorm::Group(Box::new(kernel)), Layout::Lanes)
        };
        layouts[affine.weight.index()] = layout.clone();
        layouts[affine.bias.index()] = layout;
        let kept_len = match &kernel {
            RowNorm::Element(_) => 2,
            RowNorm::Group(kernel) => kernel.kept(),
        };
        Self { affine, x, y, dy, into, kernel, kept: Vec::new(), kept_len, total: Vec::new(), spaces: Vec::new() }
    }
}

impl Stage for RowNormStage {
    fn forward(&mut self, run: &mut Run<'_>) {
        self.kept.resize(run.n * self.kept_len, 0.0);
        let (weight, bias) = (run.parameters.value(self.affine.weight), run.parameters.value(self.affine.bias));
        let x_len = self.x.form.len();
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        let (y, kept) = ((&mut *y, self.y.form.len()), (self.kept.as_mut_slice(), self.kept_len));
        parallel::groups2(run.n, 1, y, kept, |example, y, kept| {
            let x = &x[example * x_len..][..x_len];
            match &self.kernel {
                RowNorm::Element(kernel) => kept.copy_from_slice(&kernel.forward(weight, bias, x, y)),
                RowNorm::Group(kernel) => kernel.forward(weight, bias, x, y, kept),
            }
        });
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(dy_place) = self.dy else { return };
        let weight = run.parameters.value(self.affine.weight);
        let (weights, channels) = (weight.len(), self.x.form.view().channels());
        let (x_len, dy_len, kept_len) = (self.x.form.len(), dy_place.form.len(), self.kept_len);
        self.total.clear();
        self.total.resize(2 * weights, 0.0);
        let (kernel, kept, spaces, total) = (&self.kernel, &self.kept, &mut self.spaces, &mut self.total);
        // Without a `dy` it stands in `dx`.
        let mut each = |x: &[f32], dy: Option<&[f32]>, dx: &mut [f32], stride: usize, add: bool| {
            parallel::sum(run.n, total, (dx, stride), spaces, |examples, sum, dx, part| {
                let (dw, db) = sum.split_at_mut(weights);
                for (example, dx) in examples.zip(dx.chunks_exact_mut(stride)) {
                    let x = &x[example * x_len..][..x_len];
                    let dy = dy.map(|dy| &dy[example * dy_len..][..dy_len]);
                    let kept = &kept[example * kept_len..][..kept_len];
                    match kernel {
                        RowNorm::Element(kernel) => {
                            kernel.backward(weight, [kept[0], kept[1]], x, dy, dx, add, dw, db);
                        }
                        RowNorm::Group(kernel) => {
                            part.resize(2 * channels, 0.0);
                            kernel.backward(weight, kept, x, dy, dx, add, part);
                            let (part_dw, part_db) = part.split_at(channels);
                            dw.iter_mut().zip(part_dw).for_each(|(sum, term)| *sum += *term as f32);
                            db.iter_mut().zip(part_db).for_each(|(sum, term)| *sum += *term as f32);
                        }
                    }
                }
            });
        };
        match self.into {
            Into::Write(place) | Into::Add(place) => {
                let add = matches!(self.into, Into::Add(_));
                let [x, dy, dx] = run.arena.write_all([&self.x, &dy_place, &place]);
                let len = place.form.len();
                each(x, Some(&*dy), &mut dx[..run.n * len], len, add);
            }
            // Nobody asks for the input's gradient: it may be written over the output's.
            Into::Place | Into::Nowhere => {
                let [x, dy] = run.arena.write_all([&self.x, &dy_place]);
                each(x, None, &mut dy[..run.n * dy_len], dy_len, false);
            }
        }
        let (dw, db) = self.total.split_at(weights);
        run.parameters.set_gradient(self.affine.weight, dw);
        run.parameters.set_gradient(self.affine.bias, db);
    }
}
