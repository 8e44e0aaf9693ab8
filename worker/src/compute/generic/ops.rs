//! The graph's operations in candle's, convolutions apart.
//!
//! Maps are `[N, C, H, W]`. Pools are maxima and sums of a window's taps. candle's gradients of `max_pool2d`
//! and `avg_pool2d` are wrong or missing; its `relu` lets the gradient through at zero, where PyTorch and the engine do not,
//! and `gelu_erf` has a gradient of six digits. Where autograd would follow dozens of operations, one is made of them.

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
pub(super) fn framed(x: &Tensor, window: &Window, value: f64) -> Result<Tensor> {
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
pub(super) fn taps(x: &Tensor, window: &Window) -> Result<Vec<Tensor>> {
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
pub(super) fn beside(values: &Tensor, x: &Tensor) -> Result<Tensor> {
    let mut shape = vec![1; x.rank()];
    shape[1..=values.rank()].copy_from_slice(values.dims());
    values.reshape(shape)
}

pub(super) fn linear(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
    let y = x.matmul(&weight.t()?)?;
    match bias {
        Some(bias) => y.broadcast_add(bias),
        None => Ok(y),
    }
}

/// The sum `[C]` of each channel: of each map first, which are many, so that a GPU has work for all its parts.
pub(super) fn sums_of_channels(x: &Tensor) -> Result<Tensor> {
    let of_maps = if x.rank() > 2 { x.flatten_from(2)?.sum(2)? } else { x.clone() };
    of_maps.sum(0)
}

/// A batch norm by the batch's own statistics, and these: the mean and the variance `[C]`.
pub(super) fn batch_norm_of_batch(
    x: &Tensor,
    epsilon: f64,
    [weight, bias]: [&Tensor; 2],
) -> Result<(Tensor, [Tensor; 2])> {
    let constant = x.detach();
    let share = x.dim(1)? as f64 / x.elem_count() as f64;
    let mean = (sums_of_channels(&constant)? * share)?;
    let centred = constant.broadcast_sub(&beside(&mean, x)?)?;
    let variance = (sums_of_channels(&centred.sqr()?)? * share)?;
    let scale = (&variance + epsilon)?.sqrt()?.recip()?;
    let y = centred.broadcast_mul(&beside(&(weight.detach() * &scale)?, x)?)?;
    let y = y.broadcast_add(&beside(&bias.detach(), x)?)?;
    let y = with_gradient(y, [x, weight, bias], move |[x, weight, _], _, slope| {
        let of_bias = sums_of_channels(slope)?;
        let of_weight = (sums_of_channels(&(slope * &centred)?)? * &scale)?;
        // Both statistics follow x: what is along a constant, or along x itself, goes.
        let factor = (weight * &scale)?;
        let along = (((&factor * &scale)? * &of_weight)? * share)?;
        let constant = ((&factor * &of_bias)? * share)?;
        let of_x = slope.broadcast_mul(&beside(&factor, x)?)?.sub(&centred.broadcast_mul(&beside(&along, x)?)?)?;
        Ok([Some(of_x.broadcast_sub(&beside(&constant, x)?)?), Some(of_weight), Some(of_bias)])
    })?;
    Ok((y, [mean, variance]))
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
        with_gradient(x.detach().elu(0.0)?, [x], |_, y, slope| {
            let zeros = y.zeros_like()?;
            Ok([Some(y.gt(&zeros)?.where_cond(slope, &zeros)?)])
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
    let largest = with_gradient(largest, [&taps], move |[taps], largest, slope| {
        let (mut left, zeros, mut slopes) = (slope.clone(), slope.zeros_like()?, Vec::new());
        for index in 0..count {
            let tap = tap(taps, index)?;
            let is_it = (tap.eq(largest)? + tap.ne(&tap)?)?;
            slopes.push(is_it.where_cond(&left, &zeros)?);
            left = is_it.where_cond(&zeros, &left)?;
        }
        Ok([Some(Tensor::cat(&slopes, 0)?)])
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
