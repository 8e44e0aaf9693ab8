//! The gradient of an input: for one row of taps, each pixel's live gradients times the weights of their channels, summed in a
//! window that slides along the row.

use super::lists::Lists;
use crate::simd::{LANES, Simd};

/// One or two input blocks, one row of taps and one chunk of output channels: a strip's rows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    /// The chunk's weights `[outs and a zero][blocks][width][LANES]`.
    pub(super) weights: *const f32,
    pub(super) chunk: usize,
    /// Rows of pixels before the pool.
    pub(super) rows: usize,
    /// The sums of the first row: as many pixels as the row and a kernel's width.
    pub(super) sums: *mut f32,
    /// Floats from a row of sums to the next, and from a block to the next.
    pub(super) row: usize,
    pub(super) block: usize,
}

/// Adds to the sums of one or two blocks, in as many sets as [`sets`] says; for kernels of this width, `None` for other ones.
pub(super) fn kernel<S: Simd>(width: usize, blocks: usize, sets: usize) -> Option<unsafe fn(&Job, &Lists)> {
    macro_rules! all {
        ($($width:literal)*) => {
            match (width, blocks, sets) {
                $(
                    ($width, 1, 1) => Some(strip::<S, $width, 1, 1>),
                    ($width, 1, 2) => Some(strip::<S, $width, 1, 2>),
                    ($width, 1, 4) => Some(strip::<S, $width, 1, 4>),
                    ($width, 2, 1) => Some(strip::<S, $width, 2, 1>),
                    ($width, 2, 2) => Some(strip::<S, $width, 2, 2>),
                    ($width, 2, 4) => Some(strip::<S, $width, 2, 4>),
                )*
                _ => None,
            }
        };
    }
    all!(1 3 5 7)
}

/// Input blocks that are worked on together.
pub(super) fn most_blocks<S: Simd>(width: usize) -> usize {
    if 2 * width <= S::SUMS { 2 } else { 1 }
}

/// How many sums of the same outputs are kept: a product's sum is ready only after the time of eight products.
pub(super) fn sets<S: Simd>(width: usize, blocks: usize) -> usize {
    let sums = width * blocks * S::REGISTERS;
    let sets = if sums >= 7 { 1 } else { 8usize.div_ceil(sums).next_power_of_two().min(4) };
    if sets * width * blocks > S::SUMS { 1 } else { sets }
}

unsafe fn strip<S: Simd, const WIDTH: usize, const BLOCKS: usize, const SETS: usize>(job: &Job, lists: &Lists) {
    if WIDTH * BLOCKS * SETS > S::SUMS {
        // Not compiled for this instruction set: its registers would spill. Nobody asks for it.
        return;
    }
    // SAFETY: the caller's.
    unsafe {
        S::run(
            #[inline(always)]
            || {
                for row in 0..job.rows {
                    line::<S, WIDTH, BLOCKS, SETS>(job, lists, row);
                }
            },
        );
    }
}

// Loops over indices: with iterators the sums would live in memory.
#[expect(clippy::needless_range_loop, reason = "see above")]
#[inline(always)]
unsafe fn line<S: Simd, const WIDTH: usize, const BLOCKS: usize, const SETS: usize>(
    job: &Job,
    lists: &Lists,
    row: usize,
) {
    let (list, room, counts) = lists.pixels(job.chunk, row);
    // SAFETY: the caller's.
    unsafe {
        let to = job.sums.add(row * job.row);
        let mut sums = [[[S::splat(0.0); WIDTH]; BLOCKS]; SETS];
        for block in 0..BLOCKS {
            for tap in 0..WIDTH {
                sums[0][block][tap] = S::load(to.add(block * job.block + tap * LANES));
            }
        }
        for (pixel, count) in counts.iter().enumerate() {
            let (places, slopes) = (list.places.add(pixel * room), list.slopes.add(pixel * room));
            let mut index = 0;
            while index < *count as usize {
                for set in 0..SETS {
                    let slope = S::splat(*slopes.add(index + set));
                    let weights = job.weights.add(*places.add(index + set) as usize);
                    for block in 0..BLOCKS {
                        for tap in 0..WIDTH {
                            let weight = S::load(weights.add((block * WIDTH + tap) * LANES));
                            sums[set][block][tap] = S::fma(slope, weight, sums[set][block][tap]);
                        }
                    }
                }
                index += SETS;
            }
            // No later pixel adds to the first column: on to the next window.
            for block in 0..BLOCKS {
                let mut sum = sums[0][block][0];
                for set in 1..SETS {
                    sum = S::add(sum, sums[set][block][0]);
                }
                S::store(to.add(block * job.block + pixel * LANES), sum);
                for set in 0..SETS {
                    for tap in 1..WIDTH {
                        sums[set][block][tap - 1] = sums[set][block][tap];
                    }
                    sums[set][block][WIDTH - 1] = S::splat(0.0);
                }
                sums[0][block][WIDTH - 1] = S::load(to.add(block * job.block + (pixel + WIDTH) * LANES));
            }
        }
        for block in 0..BLOCKS {
            for tap in 0..WIDTH - 1 {
                let mut sum = sums[0][block][tap];
                for set in 1..SETS {
                    sum = S::add(sum, sums[set][block][tap]);
                }
                S::store(to.add(block * job.block + (counts.len() + tap) * LANES), sum);
            }
        }
    }
}
