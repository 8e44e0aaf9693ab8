//! The gradient of the weights for one input block: for each output channel all taps of a few rows of the kernel, summed over the
//! channel's live gradients.

use super::lists::Lists;
use crate::simd::{LANES, Simd};

/// One input block's work in a strip.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// The first tap's input of the strip's first pixel.
    pub(super) x: *const f32,
    /// Floats from a row of inputs to the next.
    pub(super) x_row: usize,
    /// The first output channel's sums `[kernel][LANES]`, and floats from a channel to the next.
    pub(super) sums: *mut f32,
    pub(super) step: usize,
    /// Output channels.
    pub(super) outs: usize,
}

/// Adds to a few rows of taps; for kernels of this width, `None` for other ones.
pub(super) fn kernel<S: Simd>(rows: usize, width: usize) -> Option<unsafe fn(&Job, &Lists)> {
    macro_rules! all {
        ($(($width:literal: $($rows:literal)*))*) => {
            match (width, rows) {
                $($(($width, $rows) => Some(channels::<S, $rows, $width>),)*)*
                _ => None,
            }
        };
    }
    all!((1: 1 2 3 4 5) (3: 1 2 3 4 5) (5: 1 2 3 4 5) (7: 1 2 3 4))
}

/// Rows of taps of the largest pass.
pub(super) fn most_rows<S: Simd>(width: usize) -> usize {
    (S::SUMS / width).clamp(1, 5)
}

unsafe fn channels<S: Simd, const ROWS: usize, const WIDTH: usize>(job: &Job, lists: &Lists) {
    if ROWS * WIDTH > S::SUMS {
        // Not compiled for this instruction set: its registers would spill. Nobody asks for it.
        return;
    }
    // SAFETY: the caller's.
    unsafe {
        S::run(
            #[inline(always)]
            || {
                for out in 0..job.outs {
                    channel::<S, ROWS, WIDTH>(job, lists, out);
                }
            },
        );
    }
}

// Loops over indices: with iterators the sums would live in memory.
#[expect(clippy::needless_range_loop, reason = "see above")]
#[inline(always)]
unsafe fn channel<S: Simd, const ROWS: usize, const WIDTH: usize>(job: &Job, lists: &Lists, out: usize) {
    let list = lists.channel(out);
    // SAFETY: the caller's.
    unsafe {
        let to = job.sums.add(out * job.step);
        let mut sums = [[S::splat(0.0); WIDTH]; ROWS];
        for row in 0..ROWS {
            for tap in 0..WIDTH {
                sums[row][tap] = S::load(to.add((row * WIDTH + tap) * LANES));
            }
        }
        for index in 0..list.count {
            let slope = S::splat(*list.slopes.add(index));
            let x = job.x.add(*list.places.add(index) as usize);
            for row in 0..ROWS {
                for tap in 0..WIDTH {
                    let x = S::load(x.add(row * job.x_row + tap * LANES));
                    sums[row][tap] = S::fma(slope, x, sums[row][tap]);
                }
            }
        }
        for row in 0..ROWS {
            for tap in 0..WIDTH {
                S::store(to.add((row * WIDTH + tap) * LANES), sums[row][tap]);
            }
        }
    }
}
