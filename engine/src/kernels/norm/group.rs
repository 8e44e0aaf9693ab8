//! Group norm (Wu and He 2018): each example alone, channels in groups, a weight a channel.

use super::backward::{Backward, Mask, Slopes};
use super::batch::{Constants, Normalise};
use super::deviation;
use super::moments::{Moments, join};
use crate::kernels::view::View;
use crate::simd::Path;

/// Normalises each group of channels of one example, then multiplies by a channel's weight and adds its bias.
#[derive(Debug)]
pub struct GroupNorm {
    groups: usize,
    epsilon: f64,
    x: View,
    moments: Moments,
    normalise: Normalise,
    backward: Backward,
}

impl GroupNorm {
    /// From maps like `x` to maps like `y`; their gradients lie like `dx` and `dy`.
    pub fn new(path: Path, groups: usize, epsilon: f64, [x, y]: [View; 2], [dx, dy]: [View; 2]) -> Self {
        assert!(x.channels.is_multiple_of(groups), "channels in equal groups");
        Self {
            groups,
            epsilon,
            x,
            moments: Moments::new(path, x),
            normalise: Normalise::new(path, x, None, y, false),
            backward: Backward::new(path, x, x, dy, dx, Mask::None),
        }
    }

    /// Numbers that an example's gradient needs beside `x`.
    pub fn kept(&self) -> usize {
        2 * self.groups
    }

    /// One example; `kept` is for the gradient: each group's mean and the reciprocal of its standard deviation.
    pub fn forward(&self, weight: &[f32], bias: &[f32], x: &[f32], y: &mut [f32], kept: &mut [f64]) {
        let mut part = vec![0.0; self.moments.len()];
        self.moments.run(x, &mut part);
        let (means, squares) = part.split_at(self.x.lanes());
        let channels = self.x.channels / self.groups;
        let count = self.x.count() as f64;
        for (group, kept) in kept[..self.kept()].chunks_exact_mut(2).enumerate() {
            let (mut mean, mut square) = (0.0, 0.0);
            for (before, channel) in (group * channels..(group + 1) * channels).enumerate() {
                join(before as f64 * count, &mut mean, &mut square, count, means[channel], squares[channel]);
            }
            kept[0] = mean;
            kept[1] = deviation(square / (channels as f64 * count), self.epsilon);
        }
        self.normalise.run(&self.constants(weight, bias, kept), Some(x), None, y);
    }

    fn constants(&self, weight: &[f32], bias: &[f32], kept: &[f64]) -> Constants {
        let of = |channel: usize| channel / (self.x.channels / self.groups) * 2;
        let mean: Vec<f64> = (0..self.x.channels).map(|channel| kept[of(channel)]).collect();
        let deviation = (0..self.x.channels).map(|channel| kept[of(channel) + 1]).collect();
        Constants::of(&mean, deviation, weight, bias)
    }

    /// One example's `dx`, which overwrites what stands there or is added to it; without a `dy` it is what stands in `dx`.
    /// `part` gets the gradients of weight, then of bias, `2 * channels` numbers: a batch's are their sums in the order of
    /// the examples.
    #[expect(clippy::too_many_arguments, reason = "operands of one formula")]
    pub fn backward(
        &self,
        weight: &[f32],
        kept: &[f64],
        x: &[f32],
        dy: Option<&[f32]>,
        dx: &mut [f32],
        add: bool,
        part: &mut [f64],
    ) {
        // The bias stands for nothing in a gradient without relu.
        let constants = self.constants(weight, &vec![0.0; self.x.channels], kept);
        let mut sums = vec![0.0; self.backward.len()];
        self.backward.sums(&constants, x, dy.unwrap_or(dx), &mut sums);
        let (plain, along) = sums.split_at(self.x.lanes());
        let per_group = self.x.channels / self.groups;
        let count = (per_group * self.x.count()) as f64;
        let mut shares = vec![[0.0; 2]; self.groups];
        for channel in 0..self.x.channels {
            let group = channel / per_group;
            let [mean, deviation] = [kept[2 * group], kept[2 * group + 1]];
            let rest = mean - f64::from(mean as f32);
            let along = (along[channel] - rest * plain[channel]) * deviation;
            part[channel] = along;
            part[self.x.channels + channel] = plain[channel];
            let share = f64::from(weight[channel]) * deviation / count;
            shares[group][0] += share * plain[channel];
            shares[group][1] += share * along;
        }
        let factors = Slopes::factors(&constants, &constants.scale, |channel| shares[channel / per_group]);
        self.backward.input(&constants, &Slopes::of(factors), x, dy, dx, add);
    }
}
