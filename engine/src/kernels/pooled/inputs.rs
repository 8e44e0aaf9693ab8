//! The gradient of an input: each pixel's live gradients times the weights of their channels, for a few rows of taps of one input
//! block or one row of two blocks, summed in a window that slides along the row.
//!
//! Where a list ends is guessed wrong about as often as not, so a walk over it should do much: as much as its
//! weights fit the first cache.

use super::lists::Lists;
use crate::simd::{LANES, Simd};

/// How the work is cut: a pass takes `blocks` input blocks and `rows` rows of taps, one of them alone more than one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) blocks: usize,
    pub(super) rows: usize,
}

/// Some input blocks, some rows of taps and one chunk of output channels: a strip's rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// The chunk's weights `[outs and a zero][parts][width][LANES]`: a part is a block or a row of taps.
    pub(super) weights: *const f32,
    pub(super) chunk: usize,
    /// Rows of pixels before the pool.
    pub(super) rows: usize,
    /// The sums of the first row: as many pixels as the row and a kernel's width.
    pub(super) sums: *mut f32,
    /// Floats from a row of sums to the next, and from a part to the next.
    pub(super) row: usize,
    pub(super) part: usize,
}

/// Adds to the sums of some parts, in as many sets as [`sets`] says; for kernels of this width, `None` for other ones.
pub(super) fn kernel<S: Simd>(width: usize, parts: usize, sets: usize) -> Option<unsafe fn(&Job, &Lists)> {
    macro_rules! all {
        ($($width:literal)*) => {
            match (width, parts, sets) {
                $(
                    ($width, 1, 1) => Some(strip::<S, $width, 1, 1>),
                    ($width, 1, 2) => Some(strip::<S, $width, 1, 2>),
                    ($width, 1, 4) => Some(strip::<S, $width, 1, 4>),
                    ($width, 2, 1) => Some(strip::<S, $width, 2, 1>),
                    ($width, 2, 2) => Some(strip::<S, $width, 2, 2>),
                    ($width, 2, 4) => Some(strip::<S, $width, 2, 4>),
                    ($width, 3, 1) => Some(strip::<S, $width, 3, 1>),
                    ($width, 3, 2) => Some(strip::<S, $width, 3, 2>),
                    ($width, 3, 4) => Some(strip::<S, $width, 3, 4>),
                )*
                _ => None,
            }
        };
    }
    all!(1 3 5 7)
}

/// The cut with the fewest walks over the lists. More than ten weights of an output channel are too many for the first cache.
pub(super) fn cut<S: Simd>([height, width]: [usize; 2], blocks: usize) -> Cut {
    let rows = (S::SUMS.min(10) / width).clamp(1, 3).min(height);
    if blocks > 1 && 2 * width <= S::SUMS && height < 2 * height.div_ceil(rows) {
        Cut { blocks: 2, rows: 1 }
    } else {
        Cut { blocks: 1, rows }
    }
}

/// How many sums of the same outputs are kept: a product's sum is ready only after the time of eight products.
pub(super) fn sets<S: Simd>(width: usize, parts: usize) -> usize {
    let sums = width * parts * S::REGISTERS;
    let sets = if sums >= 7 { 1 } else { 8usize.div_ceil(sums).next_power_of_two().min(4) };
    if sets * width * parts > S::SUMS { 1 } else { sets }
}

unsafe fn strip<S: Simd, const WIDTH: usize, const PARTS: usize, const SETS: usize>(job: &Job, lists: &Lists) {
    if WIDTH * PARTS * SETS > S::SUMS {
        // Not compiled for this instruction set: its registers would spill. Nobody asks for it.
        return;
    }
    // SAFETY: the caller's.
    unsafe {
        S::run(
            #[inline(always)]
            || {
                for row in 0..job.rows {
                    line::<S, WIDTH, PARTS, SETS>(job, lists, row);
                }
            },
        );
    }
}

// Loops over indices: with iterators the sums would live in memory.
#[expect(clippy::needless_range_loop, reason = "see above")]
#[inline(always)]
unsafe fn line<S: Simd, const WIDTH: usize, const PARTS: usize, const SETS: usize>(
    job: &Job,
    lists: &Lists,
    row: usize,
) {
    let (list, room, counts) = lists.pixels(job.chunk, row);
    // SAFETY: the caller's.
    unsafe {
        let to = job.sums.add(row * job.row);
        let mut sums = [[[S::splat(0.0); WIDTH]; PARTS]; SETS];
        for part in 0..PARTS {
            for tap in 0..WIDTH {
                sums[0][part][tap] = S::load(to.add(part * job.part + tap * LANES));
            }
        }
        for (pixel, count) in counts.iter().enumerate() {
            let (places, slopes) = (list.places.add(pixel * room), list.slopes.add(pixel * room));
            let mut index = 0;
            while index < *count as usize {
                for set in 0..SETS {
                    let slope = S::splat(*slopes.add(index + set));
                    let weights = job.weights.add(*places.add(index + set) as usize);
                    for part in 0..PARTS {
                        for tap in 0..WIDTH {
                            let weight = S::load(weights.add((part * WIDTH + tap) * LANES));
                            sums[set][part][tap] = S::fma(slope, weight, sums[set][part][tap]);
                        }
                    }
                }
                index += SETS;
            }
            // No later pixel adds to the first column: on to the next window.
            for part in 0..PARTS {
                let mut sum = sums[0][part][0];
                for set in 1..SETS {
                    sum = S::add(sum, sums[set][part][0]);
                }
                S::store(to.add(part * job.part + pixel * LANES), sum);
                for set in 0..SETS {
                    for tap in 1..WIDTH {
                        sums[set][part][tap - 1] = sums[set][part][tap];
                    }
                    sums[set][part][WIDTH - 1] = S::splat(0.0);
                }
                sums[0][part][WIDTH - 1] = S::load(to.add(part * job.part + (pixel + WIDTH) * LANES));
            }
        }
        for part in 0..PARTS {
            for tap in 0..WIDTH - 1 {
                let mut sum = sums[0][part][tap];
                for set in 1..SETS {
                    sum = S::add(sum, sums[set][part][tap]);
                }
                S::store(to.add(part * job.part + (counts.len() + tap) * LANES), sum);
            }
        }
    }
}
