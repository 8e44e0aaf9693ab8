//! A depthwise convolution's weights' gradient: as many taps as registers hold, summed over all outputs of a block of channels.

use crate::simd::{LANES, Simd};

/// How outputs and their inputs follow each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    /// Rows and columns of outputs.
    pub(super) count: [usize; 2],
    /// Floats from an output's input to that of the next row's and the next column's.
    pub(super) x_step: [usize; 2],
    /// Floats from a row of gradients to the next.
    pub(super) dy_row: usize,
}

/// Adds the gradient of a block of channels of an example to `dw`, sixteen numbers for each place.
///
/// # Safety
/// The places and the walk stay inside `x`; the machine has `S`.
pub(super) unsafe fn add<S: Simd>(places: &[usize], walk: &Walk, x: &[f32], dy: &[f32], dw: &mut [f32]) {
    assert!(dy.len() >= (walk.count[0] - 1) * walk.dy_row + walk.count[1] * LANES, "gradients of the planned size");
    assert!(dw.len() >= places.len() * LANES, "sums of the planned size");
    // Even parts: few sums wait for each other.
    let parts = places.len().div_ceil(most::<S>());
    for part in 0..parts {
        let (start, end) = (places.len() * part / parts, places.len() * (part + 1) / parts);
        let (places, dw) = (&places[start..end], &mut dw[start * LANES..]);
        macro_rules! by_taps {
            ($($taps:literal)*) => {
                match places.len() {
                    // SAFETY: the caller's.
                    $($taps => unsafe { sum::<S, $taps>(places, walk, x.as_ptr(), dy.as_ptr(), dw.as_mut_ptr()) },)*
                    _ => unreachable!("places are cut by the instruction set"),
                }
            };
        }
        by_taps!(1 2 3 4 5 6 7 8 9 10 11 12 13);
    }
}

/// Sums that stay in registers beside a gradient.
const fn most<S: Simd>() -> usize {
    if S::TILE[0] > 13 { 13 } else { S::TILE[0] }
}

// Loops over indices: with iterators the sums would live in memory.
#[expect(clippy::needless_range_loop, reason = "see above")]
unsafe fn sum<S: Simd, const TAPS: usize>(places: &[usize], walk: &Walk, x: *const f32, dy: *const f32, dw: *mut f32) {
    if TAPS > most::<S>() {
        return;
    }
    // SAFETY: the caller's.
    unsafe {
        S::run(
            #[inline(always)]
            || {
                let mut sums = [S::splat(0.0); TAPS];
                for tap in 0..TAPS {
                    sums[tap] = S::load(dw.add(tap * LANES));
                }
                for row in 0..walk.count[0] {
                    let mut inputs = [x; TAPS];
                    for tap in 0..TAPS {
                        inputs[tap] = x.add(places[tap] + row * walk.x_step[0]);
                    }
                    let dy = dy.add(row * walk.dy_row);
                    for column in 0..walk.count[1] {
                        let slope = S::load(dy.add(column * LANES));
                        for tap in 0..TAPS {
                            sums[tap] = S::fma(S::load(inputs[tap].add(column * walk.x_step[1])), slope, sums[tap]);
                        }
                    }
                }
                for tap in 0..TAPS {
                    S::store(dw.add(tap * LANES), sums[tap]);
                }
            },
        );
    }
}
