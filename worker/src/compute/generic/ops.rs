//! The graph's operations in candle's.
//!
//! Maps are `[N, C, H, W]`. A window's taps are views of its padded input, a stride apart; convolutions are matrix
//! products of them, pools their sums and maxima. candle's own `conv2d` has one stride and one dilation for both axes,
//! its gradient fails where a stride leaves rows and columns over by different numbers, and those of `max_pool2d`
//! and `avg_pool2d` are wrong or missing. Its `relu` lets the gradient through at zero, where PyTorch and the engine do not,
//! and `gelu_erf` has a gradient of six digits.

use candle_core::{D, Result, Tensor};
use engine::Window;
use engine::graph::Activation;

use super::aside::with_gradient;

/// Every `stride`-th of a dimension's places from `start`, `count` of them. `stride` places follow the last one's, too.
fn every(x: &Tensor, dim: usize, start: usize, count: usize, stride: usize) -> Result<Tensor> {
    let x = x.narrow(dim, start, count * stride)?;
    if stride == 1 {
        return Ok(x);
    }
    let mut shape = x.dims().to_vec();
    shape[dim] = count;
    shape.insert(dim + 1, stride);
    x.reshape(shape)?.narrow(dim + 1, 0, 1)?.squeeze(dim + 1)
}

/// `x` with `value` around it, as far as [`every`] reads.
fn framed(x: &Tensor, window: &Window, value: f64) -> Result<Tensor> {
    let mut x = x.clone();
    for axis in 0..2 {
        let dim = axis + 2;
        let reach = (window.kernel[axis] - 1) * window.dilation[axis] + window.output[axis] * window.stride[axis];
        let before = window.before[axis];
        // What no window meets goes.
        let size = x.dim(dim)?.min(reach - before);
        x = x.narrow(dim, 0, size)?;
        let border = |width: usize| {
            let mut shape = x.dims().to_vec();
            shape[dim] = width;
            Tensor::full(value, shape, x.device())?.to_dtype(x.dtype())
        };
        x = match (before, reach - before - size) {
            (0, 0) => x,
            (0, after) => Tensor::cat(&[&x, &border(after)?], dim)?,
            (before, 0) => Tensor::cat(&[&border(before)?, &x], dim)?,
            (before, after) => Tensor::cat(&[&border(before)?, &x, &border(after)?], dim)?,
        };
    }
    Ok(x)
}

/// What each tap of a window meets, in the order of rows; the last two dimensions are height and width.
fn taps(x: &Tensor, window: &Window) -> Result<Vec<Tensor>> {
    let Window { kernel, stride, dilation, output, .. } = window;
    let mut taps = Vec::with_capacity(window.taps());
    for row in 0..kernel[0] {
        let rows = every(x, 2, row * dilation[0], output[0], stride[0])?;
        for column in 0..kernel[1] {
            taps.push(every(&rows, 3, column * dilation[1], output[1], stride[1])?);
        }
    }
    Ok(taps)
}

/// A number a channel, or an element, beside all examples of `x`.
fn beside(values: &Tensor, x: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; x.rank()];
    shape[1..=values.rank()].copy_from_slice(values.dims());
    values.reshape(shape)
}

pub(super) fn conv(
    x: &Tensor,
    window: &Window,
    groups: usize,
    weight: &Tensor,
    bias: Option<&Tensor>,
) -> Result<Tensor> {
    let y = match Square::of(window).filter(|_| groups == 1) {
        Some(square) => square.conv(x, window, weight)?,
        None => conv_of_taps(x, window, groups, weight)?,
    };
    match bias {
        Some(bias) => y.broadcast_add(&beside(bias, &y)?),
        None => Ok(y),
    }
}

/// A window that is the same along both axes.
#[derive(Clone, Copy)]
struct Square {
    kernel: usize,
    stride: usize,
    dilation: usize,
    padding: usize,
}

impl Square {
    /// Nothing where the axes differ, or a window may lie in the padding alone.
    fn of(window: &Window) -> Option<Self> {
        let same = |[rows, columns]: [usize; 2]| (rows == columns).then_some(rows);
        let (kernel, stride) = (same(window.kernel)?, same(window.stride)?);
        let (dilation, padding) = (same(window.dilation)?, same(window.before)?);
        (padding <= (kernel - 1) * dilation).then_some(Self { kernel, stride, dilation, padding })
    }

    /// Where the window reaches, beyond its first tap.
    fn reach(self) -> usize {
        (self.kernel - 1) * self.dilation
    }

    /// A convolution by candle's, whose gradients are convolutions, too.
    fn conv(mut self, x: &Tensor, window: &Window, weight: &Tensor) -> Result<Tensor> {
        let fits = |axis: usize| {
            let padded = x.dims()[axis + 2] + 2 * self.padding;
            padded > self.reach() && (padded - self.reach() - 1) / self.stride + 1 == window.output[axis]
        };
        let mut x = x.clone();
        if !(fits(0) && fits(1)) {
            x = framed(&x, window, 0.0)?;
            self.padding = 0;
        }
        let of = |x: &Tensor, weight: &Tensor| x.conv2d(weight, self.padding, self.stride, self.dilation, 1);
        let has_slope = x.track_op();
        let y = of(&x.detach(), &weight.detach())?;
        with_gradient(y, [&x, weight], move |[x, weight], _, slope| {
            let of_x = if has_slope { Some(self.slope_of_input(x, weight, slope)?) } else { None };
            Ok([of_x, Some(self.slope_of_weight(x, slope)?)])
        })
    }

    /// The slopes, a stride apart, met by the mirrored filters.
    fn slope_of_input(self, x: &Tensor, weight: &Tensor, slope: &Tensor) -> Result<Tensor> {
        let (filters, channels, kernel, _) = weight.dims4()?;
        let mirror: Vec<u32> = (0..(kernel * kernel) as u32).rev().collect();
        let mirror = Tensor::new(mirror, x.device())?;
        let weight = weight.reshape((filters, channels, ()))?.index_select(&mirror, 2)?;
        let weight = weight.reshape((filters, channels, kernel, kernel))?.transpose(0, 1)?.contiguous()?;
        let slope = spread(slope, self.stride)?;
        let all = slope.conv2d(&weight, self.reach() - self.padding, 1, self.dilation, 1)?;
        // Behind the last window nothing was met.
        all.narrow(2, 0, x.dim(2)?)?.narrow(3, 0, x.dim(3)?)
    }

    /// What each tap met, a convolution with examples for channels.
    fn slope_of_weight(self, x: &Tensor, slope: &Tensor) -> Result<Tensor> {
        let slope = slope.transpose(0, 1)?.contiguous()?;
        let all = x.transpose(0, 1)?.conv2d(&slope, self.padding, self.dilation, self.stride, 1)?;
        all.narrow(2, 0, self.kernel)?.narrow(3, 0, self.kernel)?.transpose(0, 1)
    }
}

/// Maps with zeros behind every row and column, so that they are `stride` apart.
fn spread(x: &Tensor, stride: usize) -> Result<Tensor> {
    if stride == 1 {
        return Ok(x.clone());
    }
    let (n, channels, height, width) = x.dims4()?;
    let x = x.reshape((n, channels, height, 1, width, 1))?;
    let x = x.pad_with_zeros(3, 0, stride - 1)?.pad_with_zeros(5, 0, stride - 1)?;
    x.reshape((n, channels, height * stride, width * stride))
}

/// Any convolution, as a product of its filters with the taps of its window.
fn conv_of_taps(x: &Tensor, window: &Window, groups: usize, weight: &Tensor) -> Result<Tensor> {
    let (n, channels) = (x.dim(0)?, x.dim(1)?);
    let (filters, [height, width]) = (weight.dim(0)?, window.output);
    let (of_group, count, taps_count) = (channels / groups, n * window.outputs(), window.taps());
    let x = framed(x, window, 0.0)?.transpose(0, 1)?;
    let columns = Tensor::stack(&taps(&x, window)?, 0)?.reshape((taps_count, groups, of_group, count))?;
    let columns = columns.transpose(0, 1)?.reshape((groups, taps_count * of_group, count))?;
    let weight = weight.reshape((groups, filters / groups, of_group, taps_count))?.transpose(2, 3)?;
    let weight = weight.reshape((groups, filters / groups, taps_count * of_group))?;
    weight.matmul(&columns)?.reshape((filters, n, height, width))?.transpose(0, 1)?.contiguous()
}

pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// The mean and the variance `[C]` of all but the channels.
pub(super) fn statistics(x: &Tensor) -> Result<[Tensor; 2]> {
    let dims: Vec<usize> = (0..x.rank()).filter(|dim| *dim != 1).collect();
    let mean = x.mean(dims.as_slice())?;
    let variance = x.broadcast_sub(&beside(&mean, x)?)?.sqr()?.mean(dims.as_slice())?;
    Ok([mean, variance])
}

/// Less its mean, over its deviation, a channel; as a whole, since both follow it.
pub(super) fn normalised(x: &Tensor, [mean, variance]: [&Tensor; 2], epsilon: f64) -> Result<Tensor> {
    let scale = beside(&(variance.detach() + epsilon)?.sqrt()?.recip()?, x)?;
    let y = x.detach().broadcast_sub(&beside(&mean.detach(), x)?)?.broadcast_mul(&scale)?;
    with_gradient(y, [x, x], move |_, y, slope| {
        let means = |x: &Tensor| {
            let dims: Vec<usize> = (0..x.rank()).filter(|dim| *dim != 1).collect();
            beside(&x.mean(dims.as_slice())?, x)
        };
        let along = y.broadcast_mul(&means(&(slope * y)?)?)?;
        let slope = slope.broadcast_sub(&means(slope)?)?.sub(&along)?;
        Ok([Some(slope.broadcast_mul(&scale)?), None])
    })
}

pub(super) fn scaled(x: &Tensor, [weight, bias]: [&Tensor; 2]) -> Result<Tensor> {
    x.broadcast_mul(&beside(weight, x)?)?.broadcast_add(&beside(bias, x)?)
}

pub(super) fn batch_norm(
    x: &Tensor,
    [mean, variance]: [&Tensor; 2],
    epsilon: f64,
    [weight, bias]: [&Tensor; 2],
) -> Result<Tensor> {
    let scale = weight.div(&(variance + epsilon)?.sqrt()?)?;
    x.broadcast_sub(&beside(mean, x)?)?.broadcast_mul(&beside(&scale, x)?)?.broadcast_add(&beside(bias, x)?)
}

pub(super) fn row_norm(x: &Tensor, groups: usize, epsilon: f64, [weight, bias]: [&Tensor; 2]) -> Result<Tensor> {
    let parts = x.reshape((x.dim(0)?, groups, ()))?;
    let centred = parts.broadcast_sub(&parts.mean_keepdim(D::Minus1)?)?;
    let deviation = (centred.sqr()?.mean_keepdim(D::Minus1)? + epsilon)?.sqrt()?;
    let y = centred.broadcast_div(&deviation)?.reshape(x.shape())?;
    y.broadcast_mul(&beside(weight, x)?)?.broadcast_add(&beside(bias, x)?)
}

/// Not a number stays so: comparisons with it fail, and then `x` itself is taken.
pub(super) fn activation(function: Activation, x: &Tensor) -> Result<Tensor> {
    let relu = |x: &Tensor| {
        with_gradient(x.detach().elu(0.0)?, [x, x], |_, y, slope| {
            let zeros = y.zeros_like()?;
            Ok([Some(y.gt(&zeros)?.where_cond(slope, &zeros)?), None])
        })
    };
    let relu6 = |x: &Tensor| {
        let y = relu(x)?;
        y.ge(6.0)?.where_cond(&(y.zeros_like()? + 6.0)?, &y)
    };
    match function {
        Activation::Relu => relu(x),
        Activation::Relu6 => relu6(x),
        Activation::LeakyRelu => x.le(0.0)?.where_cond(&(x * 0.01)?, x),
        Activation::Gelu => x * (((x * std::f64::consts::FRAC_1_SQRT_2)?.erf()? + 1.0)? * 0.5)?,
        Activation::Silu => x * sigmoid(x)?,
        Activation::HardSwish => (x * relu6(&(x + 3.0)?)?)? * (1.0 / 6.0),
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => x.tanh(),
    }
}

/// From `exp(-|x|)`, which never overflows.
fn sigmoid(x: &Tensor) -> Result<Tensor> {
    let e = x.abs()?.neg()?.exp()?;
    let sum = (&e + 1.0)?;
    x.ge(0.0)?.where_cond(&sum.recip()?, &e.div(&sum)?)
}

/// The largest of each window: of equal ones the first gets the gradient; one that is not a number wins and stays.
pub(super) fn max_pool(x: &Tensor, window: &Window) -> Result<Tensor> {
    let taps = if window.kernel == window.stride && window.before == [0, 0] && window.dilation == [1, 1] {
        tiles(x, window)?
    } else {
        Tensor::stack(&taps(&framed(x, window, f64::NEG_INFINITY)?, window)?, 0)?
    };
    let count = window.taps();
    let detached = taps.detach();
    let tap = |taps: &Tensor, index: usize| taps.narrow(0, index, 1);
    let largest = (1..count).try_fold(tap(&detached, 0)?.force_contiguous()?, |best, index| {
        let tap = tap(&detached, index)?;
        let wins = (tap.gt(&best)? + tap.ne(&tap)?)?;
        wins.where_cond(&tap, &best)
    })?;
    let largest = with_gradient(largest, [&taps, &taps], move |[taps, _], largest, slope| {
        let (mut left, zeros, mut slopes) = (slope.clone(), slope.zeros_like()?, Vec::new());
        for index in 0..count {
            let tap = tap(taps, index)?;
            let is_it = (tap.eq(largest)? + tap.ne(&tap)?)?;
            slopes.push(is_it.where_cond(&left, &zeros)?);
            left = is_it.where_cond(&zeros, &left)?;
        }
        Ok([Some(Tensor::cat(&slopes, 0)?), None])
    })?;
    largest.squeeze(0)
}

/// The taps `[taps, N, C, H, W]` of windows side by side.
fn tiles(x: &Tensor, window: &Window) -> Result<Tensor> {
    let (n, channels, ..) = x.dims4()?;
    let ([rows, columns], [height, width]) = (window.kernel, window.output);
    let x = x.narrow(2, 0, height * rows)?.narrow(3, 0, width * columns)?;
    let x = x.reshape((n, channels, height, rows, width, columns))?;
    x.permute((3, 5, 0, 1, 2, 4))?.contiguous()?.reshape((rows * columns, n, channels, height, width))
}

pub(super) fn avg_pool(x: &Tensor, window: &Window, count_padding: bool) -> Result<Tensor> {
    let size = [x.dim(2)?, x.dim(3)?];
    let mut taps = taps(&framed(x, window, 0.0)?, window)?.into_iter();
    let first = taps.next().expect("a window has a tap");
    let sum = taps.try_fold(first, |sum, tap| sum + tap)?;
    if count_padding {
        return sum / window.taps() as f64;
    }
    let [rows, columns] = [0, 1].map(|axis| {
        let inside = |output: usize| {
            let at = |tap: usize| output * window.stride[axis] + tap * window.dilation[axis];
            let before = window.before[axis];
            (0..window.kernel[axis]).filter(|tap| (before..before + size[axis]).contains(&at(*tap))).count()
        };
        (0..window.output[axis]).map(inside).collect::<Vec<usize>>()
    });
    let shares: Vec<f64> =
        rows.iter().flat_map(|row| columns.iter().map(move |column| 1.0 / (row * column) as f64)).collect();
    let shares = Tensor::from_vec(shares, (1, 1, window.output[0], window.output[1]), x.device())?;
    sum.broadcast_mul(&shares.to_dtype(x.dtype())?)
}

/// The cross-entropy of each row of logits `[N, classes]` against its label, in nats.
pub(super) fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    let labels = Tensor::from_slice(labels, (labels.len(), 1), logits.device())?;
    // Subtracting a constant changes nothing but the size of the exponentials.
    let shifted = logits.broadcast_sub(&logits.detach().max_keepdim(1)?)?;
    let total = shifted.exp()?.sum_keepdim(1)?.log()?;
    (total - shifted.gather(&labels, 1)?)?.squeeze(1)
}
