//! Batch normalisation (Ioffe and Szegedy 2015) with the residual sum and relu behind it.

use super::moments::Statistics;
use super::{deviation, each_block};
use crate::kernels::view::{View, get, joined, put};
use crate::simd::{LANES, Path, Simd, on_path};

/// What channels are normalised with: `(x - mean) * scale + bias`. Numbers for all lanes; behind the last channel zero.
#[derive(Debug, Clone)]
pub struct Constants {
    pub(super) mean: Vec<f32>,
    pub(super) scale: Vec<f32>,
    pub(super) bias: Vec<f32>,
    /// What the mean lost when it was rounded.
    pub(super) rest: Vec<f64>,
    /// Reciprocals of standard deviations.
    pub(super) deviation: Vec<f64>,
}

impl Constants {
    /// From a channel's statistics, its weight and its bias.
    pub fn new(statistics: &Statistics, epsilon: f64, weight: &[f32], bias: &[f32]) -> Self {
        let deviations = statistics.variance.iter().map(|variance| deviation(*variance, epsilon));
        Self::of(&statistics.mean, deviations.collect(), weight, bias)
    }

    pub(super) fn of(mean: &[f64], deviation: Vec<f64>, weight: &[f32], bias: &[f32]) -> Self {
        let lanes = mean.len().next_multiple_of(LANES);
        let zeros = || vec![0.0; lanes];
        let mut all = Self { mean: zeros(), scale: zeros(), bias: zeros(), rest: vec![0.0; mean.len()], deviation };
        for (channel, mean) in mean.iter().enumerate() {
            let scale = f64::from(weight[channel]) * all.deviation[channel];
            all.mean[channel] = *mean as f32;
            all.rest[channel] = mean - f64::from(all.mean[channel]);
            all.scale[channel] = scale as f32;
            all.bias[channel] = (f64::from(bias[channel]) - all.rest[channel] * scale) as f32;
        }
        all
    }

    /// The vectors of a block: mean, scale and bias.
    #[inline(always)]
    pub(super) unsafe fn block<S: Simd>(&self, block: usize) -> [S::V; 3] {
        // SAFETY: the caller's: slices begin where they are indexed, and lengths are whole blocks.
        unsafe {
            [&self.mean, &self.scale, &self.bias].map(
                #[inline(always)]
                |all| S::load(all[block * LANES..].as_ptr()),
            )
        }
    }
}

/// `y = relu((x - mean) * scale + bias + residual)` for one example, relu and residual as they are wanted.
#[derive(Debug)]
pub struct Normalise {
    path: Path,
    x: View,
    residual: View,
    y: View,
    has_residual: bool,
    relu: bool,
}

impl Normalise {
    /// From operands like `x` and `residual` to one like `y`.
    pub fn new(path: Path, x: View, residual: Option<View>, y: View, relu: bool) -> Self {
        let [x, y, added] = joined([x, y, residual.unwrap_or(y)]);
        Self { path, x, residual: added, y, has_residual: residual.is_some(), relu }
    }

    /// One example. Without an `x` it is what stands in `y`.
    pub fn run(&self, constants: &Constants, x: Option<&[f32]>, residual: Option<&[f32]>, y: &mut [f32]) {
        assert!(x.is_some() || self.x == self.y, "an operand in place lies like its result");
        assert_eq!(residual.is_some(), self.has_residual, "a residual as planned");
        assert!(x.map_or(y.len(), <[f32]>::len) >= self.x.len() && y.len() >= self.y.len(), "planned sizes");
        assert!(residual.is_none_or(|residual| residual.len() >= self.residual.len()), "planned sizes");
        assert_eq!(constants.mean.len(), self.x.lanes(), "constants for every channel");
        let y = y.as_mut_ptr();
        let x = x.map_or(y.cast_const(), <[f32]>::as_ptr);
        // SAFETY: the lengths are checked; only `y` is written; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || match (residual, self.relu) {
                (None, false) => self.all::<S, false, false>(constants, x, x, y),
                (None, true) => self.all::<S, false, true>(constants, x, x, y),
                (Some(residual), false) => self.all::<S, true, false>(constants, x, residual.as_ptr(), y),
                (Some(residual), true) => self.all::<S, true, true>(constants, x, residual.as_ptr(), y),
            });
        });
    }

    #[inline(always)]
    unsafe fn all<S: Simd, const ADD: bool, const RELU: bool>(
        &self,
        constants: &Constants,
        x: *const f32,
        residual: *const f32,
        y: *mut f32,
    ) {
        each_block(
            &self.x,
            #[inline(always)]
            |block, lanes| {
                // SAFETY: the caller's.
                unsafe {
                    let [mean, scale, bias] = constants.block::<S>(block);
                    for row in 0..self.x.rows {
                        let x = x.add(self.x.at(block) + row * self.x.row);
                        let y = y.add(self.y.at(block) + row * self.y.row);
                        let line = self.residual.at(block) + row * self.residual.row;
                        let residual = if ADD { residual.add(line) } else { residual };
                        for pixel in 0..self.x.pixels {
                            let x = get::<S>(x.add(pixel * self.x.pixel), lanes);
                            let mut v = S::fma(S::sub(x, mean), scale, bias);
                            if ADD {
                                v = S::add(v, get::<S>(residual.add(pixel * self.residual.pixel), lanes));
                            }
                            if RELU {
                                v = S::max(S::splat(0.0), v);
                            }
                            put::<S>(y.add(pixel * self.y.pixel), v, lanes);
                        }
                    }
                }
            },
        );
    }
}
