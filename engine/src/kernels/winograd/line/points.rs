//! The points of a line's tiles, and what inputs, weights and outputs are at them (Toom and Cook).
//!
//! A tile of outputs is a product of two polynomials, which is taken at zero, at pairs of numbers that differ in their sign, at a lone
//! number and at infinity, in this order, and then interpolated; interpolation's divisors are in the weights.

use super::SEGMENT;
use crate::simd::Simd;

/// The points besides zero and infinity, as constants that the transforms are made of.
struct Points<const TILE: usize>;

impl<const TILE: usize> Points<TILE> {
    /// Pairs of points.
    const PAIRS: usize = (TILE - 3) / 2;

    /// Each pair's positive number and the lone one. Of all choices of few bits among the best; nine points err about twice as much as seven (2e-6 of the
    /// sums' root mean square, for 192 channels).
    const CHOICE: ([f64; 3], f64) = if TILE == 7 { ([0.625, 1.25, 0.0], -2.5) } else { ([0.75, 1.125, 2.25], 0.25) };

    const PLAIN: [f64; 3] = Self::CHOICE.0;
    const LONE: f64 = Self::CHOICE.1;

    /// The finite ones in their order; behind them zeros.
    const ALL: [f64; 8] = {
        let mut all = [0.0; 8];
        let mut pair = 0;
        while pair < Self::PAIRS {
            all[1 + 2 * pair] = Self::PLAIN[pair];
            all[2 + 2 * pair] = -Self::PLAIN[pair];
            pair += 1;
        }
        all[TILE - 2] = Self::LONE;
        all
    };

    /// Coefficients of `y`'s powers, from the lowest, of the product of `y - square` over the squares of all pairs but one; of all of them last.
    const SQUARES: [[f32; 4]; 4] = {
        let mut without = [[0.0; 4]; 4];
        let mut out = 0;
        while out < 4 {
            let mut of = [1.0, 0.0, 0.0, 0.0];
            let mut pair = 0;
            while pair < Self::PAIRS {
                if pair != out {
                    let square = Self::PLAIN[pair] * Self::PLAIN[pair];
                    of = [-square * of[0], of[0] - square * of[1], of[1] - square * of[2], of[2] - square * of[3]];
                }
                pair += 1;
            }
            without[out] = [of[0] as f32, of[1] as f32, of[2] as f32, of[3] as f32];
            out += 1;
        }
        without
    };

    /// What a segment's taps count at each finite point.
    const WEIGHTS: [[f32; SEGMENT]; 8] = {
        let mut factors = [[0.0; SEGMENT]; 8];
        let mut at = 0;
        while at < TILE - 1 {
            let point = Self::ALL[at];
            let mut factor = 1.0;
            let mut other = 0;
            while other < TILE - 1 {
                if other != at {
                    factor /= point - Self::ALL[other];
                }
                other += 1;
            }
            let mut tap = 0;
            while tap < SEGMENT {
                factors[at][tap] = factor as f32;
                factor *= point;
                tap += 1;
            }
            at += 1;
        }
        factors
    };

    /// The powers of each pair's positive number and of the lone one.
    const POWERS: [[f32; 6]; 4] = {
        let mut powers = [[0.0; 6]; 4];
        let mut number = 0;
        while number < 4 {
            let point = if number < 3 { Self::PLAIN[number] } else { Self::LONE };
            let mut power = 0;
            let mut value = 1.0;
            while power < 6 {
                powers[number][power] = value as f32;
                value *= point;
                power += 1;
            }
            number += 1;
        }
        powers
    };
}

/// A tile's inputs at the points.
///
/// At each one they count as the coefficients of the product of `x - point` over all others. What pairs and the lone one have in
/// common is computed once.
#[inline(always)]
pub(super) unsafe fn inputs<S: Simd, const TILE: usize>(d: &[S::V; TILE]) -> [S::V; TILE] {
    // SAFETY: the caller's.
    unsafe {
        let pairs = Points::<TILE>::PAIRS;
        // Without the lone point's factor.
        let mut rest = *d;
        for place in 0..TILE - 1 {
            rest[place] = S::fma(S::splat(-Points::<TILE>::LONE as f32), d[place], d[place + 1]);
        }
        let mut out = *d;
        out[0] = every_second::<S, TILE>(&rest, 0, 3);
        for pair in 0..pairs {
            let (odd, even) = (every_second::<S, TILE>(&rest, 1, pair), every_second::<S, TILE>(&rest, 2, pair));
            let point = Points::<TILE>::PLAIN[pair] as f32;
            out[1 + 2 * pair] = S::fma(S::splat(point), odd, even);
            out[2 + 2 * pair] = S::fma(S::splat(-point), odd, even);
        }
        out[TILE - 2] = every_second::<S, TILE>(d, 1, 3);
        out[TILE - 1] = every_second::<S, TILE>(&rest, 1, 3);
        out
    }
}

/// Every second one from `first` on, counted as the product of the squares of all pairs but one says.
#[inline(always)]
unsafe fn every_second<S: Simd, const TILE: usize>(of: &[S::V; TILE], first: usize, without: usize) -> S::V {
    let (pairs, factors) = (Points::<TILE>::PAIRS, &Points::<TILE>::SQUARES[without]);
    let last = if without < pairs { pairs - 1 } else { pairs };
    let mut sum = of[first + 2 * last];
    for power in 0..last {
        // SAFETY: the caller's.
        sum = unsafe { S::fma(S::splat(factors[power]), of[first + 2 * power], sum) };
    }
    sum
}

/// A segment's taps at the points.
#[expect(clippy::needless_range_loop, reason = "with iterators the vectors would live in memory")]
#[inline(always)]
pub(super) unsafe fn weights<S: Simd, const TILE: usize>(taps: &[S::V; SEGMENT]) -> [S::V; TILE] {
    // SAFETY: the caller's.
    unsafe {
        let mut out = [taps[SEGMENT - 1]; TILE];
        for at in 0..TILE - 1 {
            let factors = &Points::<TILE>::WEIGHTS[at];
            let mut sum = S::mul(S::splat(factors[0]), taps[0]);
            for tap in 1..SEGMENT {
                sum = S::fma(S::splat(factors[tap]), taps[tap], sum);
            }
            out[at] = sum;
        }
        out
    }
}

/// A tile's outputs from the products at the points, added to `bias`.
#[expect(clippy::needless_range_loop, reason = "with iterators the vectors would live in memory")]
#[inline(always)]
pub(super) unsafe fn outputs<S: Simd, const TILE: usize, const OUT: usize>(
    d: &[S::V; TILE],
    bias: S::V,
) -> [S::V; OUT] {
    const { assert!(OUT + SEGMENT == TILE + 1) };
    // SAFETY: the caller's.
    unsafe {
        let mut sides = [[d[0]; 2]; 3];
        for pair in 0..Points::<TILE>::PAIRS {
            let (plus, minus) = (d[1 + 2 * pair], d[2 + 2 * pair]);
            sides[pair] = [S::add(plus, minus), S::sub(plus, minus)];
        }
        let mut out = [bias; OUT];
        out[0] = S::add(out[0], d[0]);
        out[OUT - 1] = S::add(out[OUT - 1], d[TILE - 1]);
        for power in 0..OUT {
            for pair in 0..Points::<TILE>::PAIRS {
                let factor = S::splat(Points::<TILE>::POWERS[pair][power]);
                out[power] = S::fma(factor, sides[pair][power % 2], out[power]);
            }
            out[power] = S::fma(S::splat(Points::<TILE>::POWERS[3][power]), d[TILE - 2], out[power]);
        }
        out
    }
}
