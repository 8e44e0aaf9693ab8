//! Two-dimensional convolution by unfolding pictures into columns and one matrix product
//! (Chellapilla et al. 2006), in tiles that stay in the cache. Depthwise convolutions have loops of their own.

mod depthwise;
mod tile;

use candle_core::{Result, Tensor};

use super::activation::relu_gradient;
use super::matrix::{Matrix, multiply};
use super::norm::channel_sums;
use super::wide::wide;
use super::{Kernel, Real, View, Window, apply3, parallel, plain2};
use tile::Tiling;

/// What a convolution does besides its weights.
#[derive(Debug, Clone, Copy)]
pub(in crate::compute) struct Conv {
    /// How its kernel slides.
    pub(in crate::compute) window: Window,
    /// Groups of channels that do not see each other.
    pub(in crate::compute) groups: usize,
    /// Whether `max(result, 0)` is taken.
    pub(in crate::compute) relu: bool,
}

/// `x` `[N, C, H, W]`, `weight` `[F, C / groups, kernel]`, `bias` `[F]` to `[N, F, H', W']`.
///
/// No gradient is computed for an input that has no history, such as a network's first.
pub(in crate::compute) fn conv(conv: Conv, x: &Tensor, weight: &Tensor, bias: &Tensor) -> Result<Tensor> {
    apply3(conv, [x, weight, bias])
}

/// Parts that the sum over a batch is cut into: how many threads can share it.
const PARTS: usize = 8;

/// Sizes that every loop needs.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Pictures.
    batch: usize,
    /// Input channels of one group.
    channels: usize,
    /// Output channels of one group.
    filters: usize,
    groups: usize,
    /// Height and width of the input.
    input: [usize; 2],
    window: Window,
}

impl Sizes {
    fn new(conv: &Conv, x: &[usize], weight: &[usize]) -> Self {
        Self {
            batch: x[0],
            channels: weight[1],
            filters: weight[0] / conv.groups,
            groups: conv.groups,
            input: [x[2], x[3]],
            window: conv.window,
        }
    }

    fn is_depthwise(&self) -> bool {
        self.channels == 1 && self.groups > 1
    }

    /// Terms of one output: rows of the unfolded matrix of one group.
    fn depth(&self) -> usize {
        self.channels * self.window.taps()
    }

    /// Elements of one input picture.
    fn in_picture(&self) -> usize {
        self.groups * self.channels * self.input[0] * self.input[1]
    }

    /// Elements of one output picture.
    fn out_picture(&self) -> usize {
        self.groups * self.filters * self.window.outputs()
    }

    /// One group's weights `[filters, depth]`.
    fn weights<'a, T>(&self, weight: &'a [T], group: usize) -> Matrix<'a, T> {
        let size = self.filters * self.depth();
        Matrix::new(&weight[group * size..][..size], self.filters, self.depth(), self.depth())
    }
}

impl Kernel<3> for Conv {
    const NAME: &'static str = "conv";

    fn forward<T: Real>(&self, [x, weight, bias]: [View<'_, T>; 3]) -> (Vec<T>, Vec<usize>) {
        let sizes = Sizes::new(self, x.dims, weight.dims);
        let mut out = vec![T::zero(); sizes.batch * sizes.out_picture()];
        let finish = |value: T, bias: T| {
            let value = value + bias;
            if self.relu && value < T::zero() { T::zero() } else { value }
        };
        if sizes.is_depthwise() {
            depthwise::forward(&sizes, x.data, weight.data, bias.data, &mut out, finish);
        } else {
            forward(&sizes, x.data, weight.data, bias.data, &mut out, finish);
        }
        let [rows, columns] = self.window.output;
        (out, vec![sizes.batch, weight.dims[0], rows, columns])
    }

    fn backward(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let gradient = if self.relu { relu_gradient(output, gradient)? } else { gradient.contiguous()? };
        let sizes = Sizes::new(self, x.dims(), weight.dims());
        let dx = x.track_op().then(|| plain2(InputGradient(sizes), [weight, &gradient])).transpose()?;
        let dw = weight.track_op().then(|| plain2(WeightGradient(sizes), [x, &gradient])).transpose()?;
        let db = bias.track_op().then(|| channel_sums(&gradient)).transpose()?;
        Ok([dx, dw, db])
    }
}

/// The gradient of a convolution's input, from its weights and the gradient of its result.
struct InputGradient(Sizes);

impl Kernel<2> for InputGradient {
    const NAME: &'static str = "conv_input_gradient";

    fn forward<T: Real>(&self, [weight, gradient]: [View<'_, T>; 2]) -> (Vec<T>, Vec<usize>) {
        let sizes = &self.0;
        let mut dx = vec![T::zero(); sizes.batch * sizes.in_picture()];
        if sizes.is_depthwise() {
            depthwise::input_gradient(sizes, weight.data, gradient.data, &mut dx);
        } else {
            input_gradient(sizes, weight.data, gradient.data, &mut dx);
        }
        let [height, width] = sizes.input;
        (dx, vec![sizes.batch, sizes.groups * sizes.channels, height, width])
    }
}

/// The gradient of a convolution's weights, from its input and the gradient of its result.
struct WeightGradient(Sizes);

impl Kernel<2> for WeightGradient {
    const NAME: &'static str = "conv_weight_gradient";

    fn forward<T: Real>(&self, [x, gradient]: [View<'_, T>; 2]) -> (Vec<T>, Vec<usize>) {
        let sizes = &self.0;
        let dw = if sizes.is_depthwise() {
            depthwise::weight_gradient(sizes, x.data, gradient.data)
        } else {
            weight_gradient(sizes, x.data, gradient.data)
        };
        let [height, width] = sizes.window.kernel;
        (dw, vec![sizes.groups * sizes.filters, sizes.channels, height, width])
    }
}

fn forward<T: Real>(
    sizes: &Sizes,
    x: &[T],
    weight: &[T],
    bias: &[T],
    out: &mut [T],
    finish: impl Fn(T, T) -> T + Sync + Send,
) {
    let tiling = Tiling::new(sizes);
    let scratch = || (tiling.columns::<T>(), vec![T::zero(); sizes.filters * tiling.widest()]);
    parallel::chunks(out, tiling.pictures * sizes.out_picture(), scratch, |(columns, product), unit, out| {
        for tile in tiling.tiles(unit) {
            for group in 0..sizes.groups {
                let unfolded = tile.unfold(x, group, columns);
                let width = tile.width();
                multiply(product, width, false, sizes.weights(weight, group), unfolded);
                for filter in 0..sizes.filters {
                    let channel = group * sizes.filters + filter;
                    let row = &product[filter * width..][..width];
                    for (to, from) in tile.pieces(channel, out).zip(row.chunks(tile.piece())) {
                        let bias = bias[channel];
                        wide!(to.iter_mut().zip(from).for_each(|(to, from)| *to = finish(*from, bias)));
                    }
                }
            }
        }
    });
}

fn input_gradient<T: Real>(sizes: &Sizes, weight: &[T], gradient: &[T], dx: &mut [T]) {
    let tiling = Tiling::new(sizes);
    let scratch = || (tiling.columns::<T>(), tiling.gathered::<T>());
    parallel::chunks(dx, tiling.pictures * sizes.in_picture(), scratch, |(columns, gathered), unit, dx| {
        for tile in tiling.tiles(unit) {
            for group in 0..sizes.groups {
                let gradient = tile.gather(gradient, group, gathered);
                let weights = sizes.weights(weight, group).transposed();
                if let Some((place, stride)) = tile.direct(group, dx) {
                    multiply(place, stride, false, weights, gradient);
                } else {
                    multiply(columns, tile.width(), false, weights, gradient);
                    tile.fold(columns, group, dx);
                }
            }
        }
    });
}

fn weight_gradient<T: Real>(sizes: &Sizes, x: &[T], gradient: &[T]) -> Vec<T> {
    let tiling = Tiling::new(sizes);
    let units = sizes.batch.div_ceil(tiling.pictures);
    let size = sizes.filters * sizes.depth();
    parallel::sum_of_parts(PARTS.min(units), sizes.groups * size, |part, sum| {
        let parts = PARTS.min(units);
        let (mut columns, mut gathered) = (tiling.columns::<T>(), tiling.gathered::<T>());
        for unit in part * units / parts..(part + 1) * units / parts {
            for tile in tiling.tiles(unit) {
                for group in 0..sizes.groups {
                    let unfolded = tile.unfold(x, group, &mut columns).transposed();
                    let gradient = tile.gather(gradient, group, &mut gathered);
                    let sum = &mut sum[group * size..][..size];
                    multiply(sum, sizes.depth(), true, gradient, unfolded);
                }
            }
        }
    })
}
