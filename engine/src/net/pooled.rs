//! Convolutions with relu and a max-pool of 2x2 behind them.

use crate::buffer::Buffer;
use crate::graph::ParameterId;
use crate::kernels::dense::{Finish, Shape};
use crate::kernels::pooled::{Backward, Forward, Given, Input, Scratch, Sums, pool};
use crate::kernels::winograd::{self, Winograd};
use crate::maps::Maps;
use crate::parallel::{self, Space};
use crate::simd::{LANES, Path};

use super::convolution::layout;
use super::lower::LayerOp;
use super::memory::Place;
use super::parameters::{Layout, Parameters};
use super::wiring::{Into, Wiring, conv_shape};
use super::{Run, Size, Stage};

/// Examples that Winograd's convolution computes before they are pooled: their maps stay in the second cache.
const GROUP: usize = 4;

pub(super) struct PooledStage {
    path: Path,
    weight: ParameterId,
    bias: Option<ParameterId>,
    x: Place,
    y: Place,
    forward: Algorithm,
    backward: Option<Gradients>,
    /// Which pixel of each window won.
    winners: Vec<u8>,
    winners_len: usize,
    transposed: Buffer,
    total: Vec<f32>,
    spaces: Vec<Space<Option<Scratch>>>,
}

/// What training needs besides.
struct Gradients {
    kernel: Backward,
    dy: Place,
    /// The input's, where somebody asks for it, and whether it is added to what stands there.
    dx: Option<(Place, bool)>,
}

/// How the maps before the pool come about.
enum Algorithm {
    /// Some rows at a time.
    Rows(Forward),
    /// Whole, by Winograd's convolution.
    Winograd { kernel: Winograd, maps: Maps, weights: Buffer },
}

impl PooledStage {
    /// `None` where the kernels of this layer do not suit it.
    pub(super) fn new(op: &LayerOp, wiring: &Wiring, size: Size, layouts: &mut [Layout]) -> Option<Self> {
        let Size { path, batch, together, .. } = size;
        let LayerOp::Conv { weight, bias, .. } = op else { return None };
        let (x, y) = (wiring.inputs[0], wiring.output);
        let (x_maps, y_maps) = (x.form.maps(), y.form.maps());
        let shape: Shape = conv_shape(op, x_maps.channels, y_maps.channels);
        let rows = Forward::new(path, &shape, x_maps, y_maps)?;
        let winners_len = rows.winners_len();
        let maps = Maps::new(shape.outs, shape.window.output);
        let group = GROUP.min(together);
        let winograd = winograd::pays(&shape, group, 1).then(|| Winograd::new(path, &shape, x_maps, maps)).flatten();
        let forward = match winograd.map(|kernel| kernel.for_examples(&shape, group)) {
            Some(kernel) => Algorithm::Winograd { weights: Buffer::zeros(kernel.len()), kernel, maps },
            None => Algorithm::Rows(rows),
        };
        let backward = match wiring.gradient {
            None => None,
            Some(dy) => {
                let dx = match wiring.into[0] {
                    Into::Write(place) => Some((place, false)),
                    Into::Add(place) => Some((place, true)),
                    Into::Nowhere | Into::Place => None,
                };
                let dx_maps = dx.map(|(place, _)| place.form.maps());
                let kernel = Backward::new(path, &shape, x_maps, dy.form.maps(), dx_maps)?;
                Some(Gradients { kernel, dy, dx })
            }
        };
        layouts[weight.index()] = layout(&shape, &x_maps);
        if let Some(bias) = bias {
            layouts[bias.index()] = Layout::Lanes;
        }
        let transposed = backward.as_ref().map_or(0, |gradients: &Gradients| gradients.kernel.transposed_len());
        Some(Self {
            path,
            weight: *weight,
            bias: *bias,
            x,
            y,
            forward,
            backward,
            winners: vec![0; batch * winners_len],
            winners_len,
            transposed: Buffer::zeros(transposed),
            total: Vec::new(),
            spaces: Vec::new(),
        })
    }
}

impl Stage for PooledStage {
    fn prepare(&mut self, parameters: &Parameters) {
        let packed = parameters.value(self.weight);
        if let Algorithm::Winograd { kernel, weights, .. } = &mut self.forward {
            kernel.transform(packed, weights);
        }
        if let Some(gradients) = &self.backward {
            gradients.kernel.transpose(packed, &mut self.transposed);
        }
    }

    fn kept(&self) -> usize {
        let forward = if let Algorithm::Winograd { weights, .. } = &self.forward { weights.len() } else { 0 };
        forward + self.transposed.len()
    }

    fn forward(&mut self, run: &mut Run<'_>) {
        let packed = run.parameters.value(self.weight);
        let bias = self.bias.map(|bias| run.parameters.value(bias));
        let (x_len, y_len, winners_len) = (self.x.form.len(), self.y.form.len(), self.winners_len);
        let y_maps = self.y.form.maps();
        let [x, y] = run.arena.write_all([&self.x, &self.y]);
        let (y, winners) = ((&mut *y, y_len), (self.winners.as_mut_slice(), winners_len));
        match &self.forward {
            Algorithm::Rows(forward) => {
                parallel::groups2(run.n, 1, y, winners, |example, y, winners| {
                    parallel::with_scratch(forward.scratch_len(), |scratch| {
                        forward.run(packed, bias, &x[example * x_len..][..x_len], y, winners, scratch);
                    });
                });
            }
            Algorithm::Winograd { kernel, maps, weights } => {
                let scratch_len = kernel.scratch_len();
                parallel::groups2(run.n, GROUP, y, winners, |first, y, winners| {
                    let count = y.len() / y_len;
                    parallel::with_scratch(scratch_len + count * maps.len(), |scratch| {
                        let (scratch, before) = scratch.split_at_mut(scratch_len);
                        let x = &x[first * x_len..][..count * x_len];
                        kernel.run(weights, None, x, before, Finish::PLAIN, scratch);
                        let examples = y.chunks_exact_mut(y_len).zip(winners.chunks_exact_mut(winners_len));
                        for (before, (y, winners)) in before.chunks_exact(maps.len()).zip(examples) {
                            pool(self.path, maps, before, bias, &y_maps, 0..y_maps.size[0], y, winners);
                        }
                    });
                });
            }
        }
    }

    fn backward(&mut self, run: &mut Run<'_>) {
        let Some(Gradients { kernel: backward, dy: dy_place, dx }) = &self.backward else { return };
        let (x_len, dy_len, winners_len) = (self.x.form.len(), dy_place.form.len(), self.winners_len);
        let lanes = dy_place.form.maps().blocks() * LANES;
        let sums_len = backward.sums_len();
        self.total.resize(sums_len + lanes, 0.0);
        let (winners, transposed) = (&self.winners, &self.transposed);
        let mut each = |x: &[f32], dy: &[f32], dx: (&mut [f32], usize, bool)| {
            let (dx, stride, add) = dx;
            parallel::sum(run.n, &mut self.total, (dx, stride), &mut self.spaces, |examples, sum, dx, scratch| {
                let scratch = scratch.get_or_insert_with(|| backward.scratch());
                let (dw, db) = sum.split_at_mut(sums_len);
                let mut rest = dx;
                for example in examples {
                    let given = Given {
                        x: &x[example * x_len..][..x_len],
                        dy: &dy[example * dy_len..][..dy_len],
                        winners: &winners[example * winners_len..][..winners_len],
                    };
                    let (dx, others) = std::mem::take(&mut rest).split_at_mut(stride);
                    rest = others;
                    let input = (stride > 0).then(|| Input { transposed, dx, add });
                    backward.run(given, Some(Sums { dw: &mut *dw, db: &mut *db }), input, scratch);
                }
            });
        };
        match dx {
            Some((place, add)) => {
                let [x, dy, dx] = run.arena.write_all([&self.x, dy_place, place]);
                each(x, dy, (&mut dx[..run.n * place.form.len()], place.form.len(), *add));
            }
            None => {
                let [x, dy] = run.arena.write_all([&self.x, dy_place]);
                each(x, dy, (&mut [], 0, false));
            }
        }
        let (_, dw) = run.parameters.with_gradient(self.weight);
        dw.fill(0.0);
        let (sums, db) = self.total.split_at_mut(sums_len);
        backward.finish(sums, dw);
        if let Some(bias) = self.bias {
            run.parameters.with_gradient(bias).1.copy_from_slice(db);
        }
    }
}
