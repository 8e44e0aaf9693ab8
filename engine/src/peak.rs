//! What the machine could do at most: the measure of every kernel.

use std::hint::black_box;
use std::time::Instant;

use crate::simd::{Path, Simd, on_path};

/// Sums at once: more than any processor's latency times its units.
const SUMS: usize = 24;

/// The most floating-point operations a second that one thread reaches on a path, two a product with its sum.
pub fn peak_flops(path: Path) -> f64 {
    let best = (0..5).map(|_| on_path!(path, S => once::<S>())).fold(0.0, f64::max);
    best * (2 * crate::LANES) as f64
}

/// Vector products a second.
fn once<S: Simd>() -> f64 {
    const ROUNDS: usize = 2_000_000;
    let begun = Instant::now();
    // SAFETY: the path is one of the machine's; the stores go to a local array.
    let sum = unsafe {
        S::run(
            #[inline(always)]
            || {
                let mut sums = [S::splat(0.0); SUMS];
                for sum in &mut sums {
                    // Not alike for all that the compiler knows, nor are the halves of a vector.
                    *sum = S::load(black_box([0.5; crate::LANES]).as_ptr());
                }
                let (a, b) = (S::splat(black_box(0.9)), S::splat(black_box(0.1)));
                // As many as the registers of the path hold beside two.
                let live = if S::TILE[1] > 0 { SUMS } else { S::TILE[0] };
                for _ in 0..ROUNDS * SUMS / live {
                    for sum in &mut sums[..live] {
                        *sum = S::fma(*sum, a, b);
                    }
                }
                let mut out = [0.0; crate::LANES];
                let total = sums.into_iter().fold(
                    S::splat(0.0),
                    #[inline(always)]
                    |total, sum| S::add(total, sum),
                );
                S::store(out.as_mut_ptr(), total);
                out
            },
        )
    };
    // All of it: lanes that nobody asks for would not be computed.
    black_box(sum);
    (ROUNDS * SUMS) as f64 / begun.elapsed().as_secs_f64()
}
