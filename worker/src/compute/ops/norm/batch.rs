//! Batch normalisation (Ioffe and Szegedy 2015).

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::per_channel;
use crate::compute::ops::real::{sum1, sum2};
use crate::compute::ops::wide::wide;
use crate::compute::ops::{Kernel, Real, View, apply3, parallel, plain1, plain2};

/// What a batch is normalised with, a channel.
#[derive(Debug, Clone)]
pub(in crate::compute) struct BatchStatistics {
    /// Means.
    pub(in crate::compute) mean: Vec<f64>,
    /// Variances, biased.
    pub(in crate::compute) variance: Vec<f64>,
    /// Elements of one channel.
    pub(in crate::compute) count: usize,
}

/// Means and variances of `x` `[N, C, …]`.
pub(in crate::compute) fn batch_statistics(x: &Tensor) -> Result<BatchStatistics> {
    let moments = plain1(Moments, x)?.to_dtype(candle_core::DType::F64)?.to_vec2()?;
    let [mean, variance]: [Vec<f64>; 2] = moments.try_into().unwrap_or_default();
    Ok(BatchStatistics { mean, variance, count: x.elem_count() / x.dim(1)? })
}

/// `(x - mean) / sqrt(variance + epsilon) * weight + bias` a channel of `x` `[N, C, …]`.
///
/// The gradient takes the statistics for those of `x` and goes through them.
pub(in crate::compute) fn batch_norm(
    statistics: &BatchStatistics,
    epsilon: f64,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<Tensor> {
    let mean = statistics.mean.clone();
    let scale = statistics.variance.iter().map(|variance| 1.0 / (variance + epsilon).sqrt()).collect();
    apply3(BatchNorm(Arc::new(Normal { mean, scale })), [x, weight, bias])
}

/// A channel's mean and the reciprocal of its standard deviation.
struct Normal {
    mean: Vec<f64>,
    scale: Vec<f64>,
}

impl Normal {
    /// The normalised value of an element of `channel`.
    #[inline(always)]
    fn of<T: Real>(&self, channel: usize) -> impl Fn(T) -> T + use<T> {
        let (mean, scale) = (T::from_f64(self.mean[channel]), T::from_f64(self.scale[channel]));
        move |x| (x - mean) * scale
    }
}

struct BatchNorm(Arc<Normal>);

impl Kernel<3> for BatchNorm {
    const NAME: &'static str = "batch_norm";

    fn forward<T: Real>(&self, [x, weight, bias]: [View<'_, T>; 3]) -> (Vec<T>, Vec<usize>) {
        let out = each_plane(x.dims, |channel, start, out| {
            let normal = self.0.of::<T>(channel);
            let (weight, bias) = (weight.data[channel], bias.data[channel]);
            let x = &x.data[start..][..out.len()];
            wide!(out.iter_mut().zip(x).for_each(|(out, x)| *out = normal(*x) * weight + bias));
        });
        (out, x.dims.to_vec())
    }

    fn backward(&self, [x, weight, _]: [&Tensor; 3], _: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let gradient = &gradient.contiguous()?;
        let sums = plain2(GradientSums(self.0.clone()), [x, gradient])?;
        let (db, dw) = (sums.get(0)?.copy()?, sums.get(1)?.copy()?);
        let to_vec = |t: &Tensor| t.to_dtype(candle_core::DType::F64)?.to_vec1::<f64>();
        let count = (x.elem_count() / x.dim(1)?) as f64;
        let input = InputGradient {
            normal: self.0.clone(),
            weight: to_vec(weight)?,
            bias_share: to_vec(&db)?.iter().map(|sum| sum / count).collect(),
            weight_share: to_vec(&dw)?.iter().map(|sum| sum / count).collect(),
        };
        Ok([Some(plain2(input, [x, gradient])?), Some(dw), Some(db)])
    }
}

/// Means and biased variances, `[2, C]`.
struct Moments;

impl Kernel<1> for Moments {
    const NAME: &'static str = "batch_moments";

    fn forward<T: Real>(&self, [x]: [View<'_, T>; 1]) -> (Vec<T>, Vec<usize>) {
        let count = (x.data.len() / x.dims[1]) as f64;
        let sums = per_channel(x.dims, |_, plane| wide!(sum1(&x.data[plane], |x| x)).to_f64());
        let mean: Vec<T> = sums.iter().map(|sum| T::from_f64(sum / count)).collect();
        // In two passes: the variance as a difference of large numbers loses all its digits.
        let squares = per_channel(x.dims, |channel, plane| {
            let mean = mean[channel];
            wide!(sum1(&x.data[plane], |x| (x - mean) * (x - mean))).to_f64()
        });
        let variance = squares.iter().map(|sum| T::from_f64(sum / count));
        (mean.iter().copied().chain(variance).collect(), vec![2, x.dims[1]])
    }
}

/// The sums of a gradient, and of its products with the normalised input, `[2, C]`: the gradients of
/// bias and weight.
struct GradientSums(Arc<Normal>);

impl Kernel<2> for GradientSums {
    const NAME: &'static str = "batch_norm_gradient_sums";

    fn forward<T: Real>(&self, [x, gradient]: [View<'_, T>; 2]) -> (Vec<T>, Vec<usize>) {
        let bias = per_channel(x.dims, |_, plane| wide!(sum1(&gradient.data[plane], |g| g)).to_f64());
        let weight = per_channel(x.dims, |channel, plane| {
            let normal = self.0.of::<T>(channel);
            let (x, gradient) = (&x.data[plane.clone()], &gradient.data[plane]);
            wide!(sum2(x, gradient, |x, g| normal(x) * g)).to_f64()
        });
        (bias.into_iter().chain(weight).map(T::from_f64).collect(), vec![2, x.dims[1]])
    }
}

/// The gradient of the input.
struct InputGradient {
    normal: Arc<Normal>,
    weight: Vec<f64>,
    bias_share: Vec<f64>,
    weight_share: Vec<f64>,
}

impl Kernel<2> for InputGradient {
    const NAME: &'static str = "batch_norm_input_gradient";

    fn forward<T: Real>(&self, [x, gradient]: [View<'_, T>; 2]) -> (Vec<T>, Vec<usize>) {
        let dx = each_plane(x.dims, |channel, start, dx| {
            let normal = self.normal.of::<T>(channel);
            let scale = T::from_f64(self.weight[channel] * self.normal.scale[channel]);
            let (bias, weight) = (T::from_f64(self.bias_share[channel]), T::from_f64(self.weight_share[channel]));
            let inputs = x.data[start..].iter().zip(&gradient.data[start..]);
            wide!(dx.iter_mut().zip(inputs).for_each(|(dx, (x, g))| *dx = scale * (*g - bias - normal(*x) * weight)));
        });
        (dx, x.dims.to_vec())
    }
}

/// A new tensor `[N, C, …]`, filled by `f(channel, start, plane)`.
fn each_plane<T: Real>(dims: &[usize], f: impl Fn(usize, usize, &mut [T]) + Sync + Send) -> Vec<T> {
    let inner: usize = dims[2..].iter().product();
    let mut out = vec![T::zero(); dims.iter().product()];
    parallel::each(&mut out, inner, |plane, out| f(plane % dims[1], plane * inner, out));
    out
}
