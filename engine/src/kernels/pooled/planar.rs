//! The gradient of the weights on a planar input: no lists, each lane picks the pixel that won its own window, so that a window costs
//! one product a tap where the dense pass takes four.

use super::DEAD;
use crate::maps::Maps;
use crate::simd::{LANES, Simd};

/// Some taps of all output channels over an example.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// The first tap's input of the first pixel, and sixteen floats behind each that is read.
    pub(super) x: *const f32,
    pub(super) x_row: usize,
    pub(super) x_block: usize,
    /// Pooled gradients.
    pub(super) dy: *const f32,
    pub(super) maps: Maps,
    pub(super) winners: *const u8,
    /// The first tap's sums, and floats from a channel's to the next one's and from a block of outputs to the next.
    pub(super) dw: *mut f32,
    pub(super) dw_channel: usize,
    pub(super) dw_block: usize,
    /// Sums of the gradients, or null.
    pub(super) db: *mut f32,
}

/// Sums that a pass has at most: places and two rows of inputs are in registers too.
const fn most<S: Simd>() -> usize {
    if S::SUMS > 20 { 20 } else { S::SUMS }
}

/// Rows of taps and channels of the largest pass.
pub(super) fn pass<S: Simd>(height: usize, width: usize, channels: usize) -> [usize; 2] {
    let rows = (most::<S>() / width).clamp(1, 3).min(height);
    let rows = height.div_ceil(height.div_ceil(rows));
    [rows, if 2 * rows * width <= most::<S>() { channels.min(2) } else { 1 }]
}

/// A pass over some rows of taps of some channels; for kernels of this width, `None` for other ones.
pub(super) fn kernel<S: Simd>(rows: usize, width: usize, channels: usize) -> Option<unsafe fn(&Job)> {
    macro_rules! all {
        ($($width:literal)*) => {
            match (width, rows, channels) {
                $(
                    ($width, 1, 1) => Some(blocks::<S, 1, $width, 1>),
                    ($width, 2, 1) => Some(blocks::<S, 2, $width, 1>),
                    ($width, 3, 1) => Some(blocks::<S, 3, $width, 1>),
                    ($width, 1, 2) => Some(blocks::<S, 1, $width, 2>),
                    ($width, 2, 2) => Some(blocks::<S, 2, $width, 2>),
                    ($width, 3, 2) => Some(blocks::<S, 3, $width, 2>),
                )*
                _ => None,
            }
        };
    }
    all!(1 3 5 7)
}

unsafe fn blocks<S: Simd, const ROWS: usize, const WIDTH: usize, const CHANNELS: usize>(job: &Job) {
    if ROWS * WIDTH * CHANNELS > most::<S>() {
        // Not compiled for this instruction set: its registers would spill. Nobody asks for it.
        return;
    }
    // SAFETY: the caller's.
    unsafe {
        S::run(
            #[inline(always)]
            || {
                for block in 0..job.maps.blocks() {
                    sum::<S, ROWS, WIDTH, CHANNELS>(job, block);
                }
            },
        );
    }
}

// Loops over indices: with iterators the sums would live in memory.
#[expect(clippy::needless_range_loop, reason = "see above")]
#[inline(always)]
unsafe fn sum<S: Simd, const ROWS: usize, const WIDTH: usize, const CHANNELS: usize>(job: &Job, block: usize) {
    let [height, width] = job.maps.size;
    // SAFETY: the caller's.
    unsafe {
        let dw = job.dw.add(block * job.dw_block);
        let mut sums = [[[S::splat(0.0); WIDTH]; ROWS]; CHANNELS];
        for channel in 0..CHANNELS {
            for row in 0..ROWS {
                for tap in 0..WIDTH {
                    sums[channel][row][tap] = S::load(dw.add(channel * job.dw_channel + (row * WIDTH + tap) * LANES));
                }
            }
        }
        let mut total = S::splat(0.0);
        for row in 0..height {
            let mut dy = job.dy.add(job.maps.at(block, row as isize, 0));
            let mut winners = job.winners.add((block * height + row) * width * LANES);
            let mut x = job.x.add(2 * row * job.x_row);
            for _ in 0..width {
                let live = S::load_bytes(winners);
                let slope = S::if_greater(S::splat(f32::from(DEAD)), live, S::load(dy), S::splat(0.0));
                total = S::add(total, slope);
                let first = S::places(winners);
                let mut places = [first; WIDTH];
                for tap in 1..WIDTH {
                    places[tap] = S::beside(first, tap as i32);
                }
                for channel in 0..CHANNELS {
                    let mut upper = S::load(x.add(channel * job.x_block));
                    for row in 0..ROWS {
                        let lower = S::load(x.add(channel * job.x_block + (row + 1) * job.x_row));
                        for tap in 0..WIDTH {
                            let x = S::pick(upper, lower, places[tap]);
                            sums[channel][row][tap] = S::fma(slope, x, sums[channel][row][tap]);
                        }
                        upper = lower;
                    }
                }
                dy = dy.add(LANES);
                winners = winners.add(LANES);
                x = x.add(2);
            }
        }
        for channel in 0..CHANNELS {
            for row in 0..ROWS {
                for tap in 0..WIDTH {
                    S::store(dw.add(channel * job.dw_channel + (row * WIDTH + tap) * LANES), sums[channel][row][tap]);
                }
            }
        }
        if !job.db.is_null() {
            let db = job.db.add(block * LANES);
            S::store(db, S::add(S::load(db), total));
        }
    }
}
