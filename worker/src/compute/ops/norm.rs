//! Normalisations. Sums over planes are kept in `f64`: means of large maps stay exact enough in fp32.

mod batch;
mod row;

use std::ops::Range;

use candle_core::{Result, Tensor};

pub(in crate::compute) use batch::{BatchStatistics, batch_norm, batch_statistics};
pub(in crate::compute) use row::row_norm;

use super::real::sum1;
use super::wide::wide;
use super::{Kernel, Real, View, parallel, plain1};

/// The sum over every dimension but the channels: `[N, C, …]` to `[C]`. The gradient of a bias.
pub(super) fn channel_sums(x: &Tensor) -> Result<Tensor> {
    plain1(ChannelSums, x)
}

struct ChannelSums;

impl Kernel<1> for ChannelSums {
    const NAME: &'static str = "channel_sums";

    fn forward<T: Real>(&self, [x]: [View<'_, T>; 1]) -> (Vec<T>, Vec<usize>) {
        let sums = per_channel(x.dims, |_, plane| wide!(sum1(&x.data[plane], |x| x)).to_f64());
        (sums.into_iter().map(T::from_f64).collect(), vec![x.dims[1]])
    }
}

/// For each channel of `[N, C, …]` the sum of `f(channel, plane)` over its planes, in order.
fn per_channel(dims: &[usize], f: impl Fn(usize, Range<usize>) -> f64 + Sync + Send) -> Vec<f64> {
    let (batch, channels) = (dims[0], dims[1]);
    let inner: usize = dims[2..].iter().product();
    let at = |picture: usize, channel: usize| {
        let start = (picture * channels + channel) * inner;
        f(channel, start..start + inner)
    };
    if inner > 1 {
        return parallel::list(channels, |channel| (0..batch).map(|picture| at(picture, channel)).sum());
    }
    // Row by row, as they lie in memory.
    let mut sums = vec![0.0; channels];
    for picture in 0..batch {
        sums.iter_mut().enumerate().for_each(|(channel, sum)| *sum += at(picture, channel));
    }
    sums
}
