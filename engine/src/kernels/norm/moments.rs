//! Means and variances of channels.

use super::{SUMS, Tile, each_pixel, lanes, tiles};
use crate::kernels::view::{View, get, joined};
use crate::simd::{LANES, Path, Simd, on_path};

/// What the examples of a batch have in common, a channel.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Elements of one channel.
    pub count: usize,
    /// Means.
    pub mean: Vec<f64>,
    /// Variances, biased.
    pub variance: Vec<f64>,
}

/// Means and sums of squared distances from them, a channel: of one example's maps, or of all rows at once.
///
/// One pass over memory: each tile is read twice while it is in the cache, and tiles and examples are put together as Chan,
/// Golub and LeVeque (1983) do. So it is as exact as two passes.
#[derive(Debug)]
pub struct Moments {
    path: Path,
    x: View,
}

impl Moments {
    /// Of operands like `x`.
    pub fn new(path: Path, x: View) -> Self {
        let [x] = joined([x]);
        Self { path, x }
    }

    /// Numbers of a part: the means of all lanes, then their squares.
    pub fn len(&self) -> usize {
        2 * self.x.lanes()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One example's part.
    pub fn run(&self, x: &[f32], part: &mut [f64]) {
        assert!(x.len() >= self.x.len(), "operands of the planned size");
        let (means, squares) = part[..self.len()].split_at_mut(self.x.lanes());
        // SAFETY: the length is checked; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                for block in 0..self.x.blocks() {
                    let x = x.as_ptr().add(self.x.at(block));
                    let here = self.x.lanes_of(block);
                    let (mean, square) = match here {
                        LANES => self.block::<S>(x, LANES),
                        _ => self.block::<S>(x, here),
                    };
                    means[block * LANES..][..LANES].copy_from_slice(&mean);
                    squares[block * LANES..][..LANES].copy_from_slice(&square);
                }
            });
        });
    }

    #[inline(always)]
    unsafe fn block<S: Simd>(&self, x: *const f32, here: usize) -> ([f64; LANES], [f64; LANES]) {
        let view = &self.x;
        let mut all = Running { count: 0.0, mean: [0.0; LANES], squares: [0.0; LANES] };
        tiles(
            view,
            #[inline(always)]
            |tile: Tile| {
                // SAFETY: the caller's.
                unsafe {
                    // Sums of distances from the first pixel: a large mean costs no digits.
                    let shift = get::<S>(x.add(tile.row * view.row + tile.pixel * view.pixel), here);
                    let mut sums = [S::splat(0.0); SUMS];
                    each_pixel!(tile, row, pixel, sum => {
                        let x = get::<S>(x.add(row * view.row + pixel * view.pixel), here);
                        sums[sum] = S::add(sums[sum], S::sub(x, shift));
                    });
                    let count = tile.count() as f64;
                    let sums = lanes::<S>(sums);
                    let shift = lanes::<S>([shift, S::splat(0.0), S::splat(0.0), S::splat(0.0)]);
                    let mut mean = [0.0; LANES];
                    let mut near = [0.0_f32; LANES];
                    for lane in 0..LANES {
                        mean[lane] = shift[lane] + sums[lane] / count;
                        near[lane] = mean[lane] as f32;
                    }
                    let centre = S::load(near.as_ptr());
                    let mut sums = [S::splat(0.0); SUMS];
                    each_pixel!(tile, row, pixel, sum => {
                        let x = S::sub(get::<S>(x.add(row * view.row + pixel * view.pixel), here), centre);
                        sums[sum] = S::fma(x, x, sums[sum]);
                    });
                    let mut squares = lanes::<S>(sums);
                    for lane in 0..LANES {
                        // They were taken from the rounded mean.
                        let off = mean[lane] - f64::from(near[lane]);
                        squares[lane] = (squares[lane] - count * off * off).max(0.0);
                    }
                    all.join(count, &mean, &squares);
                }
            },
        );
        (all.mean, all.squares)
    }

    /// Puts the parts of a batch's examples together, in their order.
    pub fn merge(&self, parts: &[f64]) -> Statistics {
        let (channels, count) = (self.x.channels, self.x.count());
        let mut statistics = Statistics { count: 0, mean: vec![0.0; channels], variance: vec![0.0; channels] };
        for part in parts.chunks_exact(self.len()) {
            let (means, squares) = part.split_at(self.x.lanes());
            for channel in 0..channels {
                let (mean, square) = (&mut statistics.mean[channel], &mut statistics.variance[channel]);
                join(statistics.count as f64, mean, square, count as f64, means[channel], squares[channel]);
            }
            statistics.count += count;
        }
        statistics.variance.iter_mut().for_each(|square| *square /= statistics.count as f64);
        statistics
    }
}

/// Adds the moments of `count` elements to those of `sum_count`.
#[inline(always)]
pub(super) fn join(sum_count: f64, sum_mean: &mut f64, sum_squares: &mut f64, count: f64, mean: f64, squares: f64) {
    let apart = mean - *sum_mean;
    let share = count / (sum_count + count);
    *sum_mean += apart * share;
    *sum_squares += squares + apart * apart * sum_count * share;
}

/// Moments of the tiles so far.
struct Running {
    count: f64,
    mean: [f64; LANES],
    squares: [f64; LANES],
}

impl Running {
    #[inline(always)]
    fn join(&mut self, count: f64, mean: &[f64; LANES], squares: &[f64; LANES]) {
        for lane in 0..LANES {
            join(self.count, &mut self.mean[lane], &mut self.squares[lane], count, mean[lane], squares[lane]);
        }
        self.count += count;
    }
}
