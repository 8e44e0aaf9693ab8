//! A row of outputs of a depthwise convolution.

use crate::kernels::dense::Finish;
use crate::simd::{LANES, Simd};

/// Taps side by side.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    /// Where the first one's source is for the first output.
    pub(super) x: usize,
    /// Where its weights are.
    pub(super) weights: usize,
}

/// A row's work. Pointers are good for what the other fields make of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) lines: &'a [Line],
    pub(super) x: *const f32,
    /// Floats from an output's source to the next one's, where the kernel has no step of its own.
    pub(super) x_step: usize,
    pub(super) weights: *const f32,
    /// Sixteen to begin with; null for none.
    pub(super) bias: *const f32,
    pub(super) y: *mut f32,
    /// Floats from an output to the next.
    pub(super) y_step: usize,
    /// Outputs.
    pub(super) count: usize,
    pub(super) finish: Finish,
}

/// A compiled row.
pub(super) type Kernel = unsafe fn(&Row<'_>);

/// What computes lines of `width` taps, and the width that it wants them cut into: all of it or one.
///
/// `step` is from an output's source to the next one's, in pixels.
pub(super) fn kernel<S: Simd>(width: usize, step: usize) -> (Kernel, usize) {
    match (width, step) {
        (2, 1) => (row::<S, 2, 1>, 2),
        (3, 1) => (row::<S, 3, 1>, 3),
        (5, 1) => (row::<S, 5, 1>, 5),
        (3, 2) => (row::<S, 3, 2>, 3),
        (5, 2) => (row::<S, 5, 2>, 5),
        _ => (row::<S, 1, 0>, 1),
    }
}

/// Lines of `WIDTH` taps, `STEP` pixels from an output's source to the next one's (0: as the row says).
unsafe fn row<S: Simd, const WIDTH: usize, const STEP: usize>(job: &Row<'_>) {
    // SAFETY: whoever chose this kernel's instruction set vouches for it; pointers are the caller's.
    unsafe {
        S::run(
            #[inline(always)]
            || {
                // Even cuts: few sums wait for each other.
                let cuts = job.count.div_ceil(most::<S>());
                for cut in 0..cuts {
                    let (start, end) = (job.count * cut / cuts, job.count * (cut + 1) / cuts);
                    macro_rules! by_outputs {
                        ($($count:literal)*) => {
                            match end - start {
                                $($count if $count <= most::<S>() => outputs::<S, WIDTH, STEP, $count>(job, start),)*
                                _ => unreachable!("a row is cut by the instruction set"),
                            }
                        };
                    }
                    by_outputs!(1 2 3 4 5 6 7 8);
                }
            },
        );
    }
}

/// Sums that keep the units busy and leave registers to a line's weights.
const fn most<S: Simd>() -> usize {
    match S::TILE[0] {
        8.. => 8,
        4.. => 4,
        _ => 2,
    }
}

// Loops over indices: with iterators the sums would live in memory.
#[expect(clippy::needless_range_loop, reason = "see above")]
#[inline(always)]
unsafe fn outputs<S: Simd, const WIDTH: usize, const STEP: usize, const COUNT: usize>(job: &Row<'_>, first: usize) {
    // SAFETY: the caller's.
    unsafe {
        let step = if STEP == 0 { job.x_step } else { STEP * LANES };
        let mut sums = [if job.bias.is_null() { S::splat(0.0) } else { S::load(job.bias) }; COUNT];
        for line in job.lines {
            let x = job.x.add(line.x + first * step);
            let mut weights = [S::splat(0.0); WIDTH];
            for tap in 0..WIDTH {
                weights[tap] = S::load(job.weights.add(line.weights + tap * LANES));
            }
            if STEP != 1 {
                for output in 0..COUNT {
                    for tap in 0..WIDTH {
                        sums[output] = S::fma(S::load(x.add(output * step + tap * LANES)), weights[tap], sums[output]);
                    }
                }
                continue;
            }
            // Each pixel once, for all outputs that see it. At larger steps fewer do, and the loop would be too long to unroll.
            for pixel in 0..COUNT - 1 + WIDTH {
                let x = S::load(x.add(pixel * LANES));
                for output in 0..COUNT {
                    if pixel >= output && pixel - output < WIDTH {
                        sums[output] = S::fma(x, weights[pixel - output], sums[output]);
                    }
                }
            }
        }
        for output in 0..COUNT {
            let to = job.y.add((first + output) * job.y_step);
            S::store(to, job.finish.apply::<S>(sums[output], to));
        }
    }
}
