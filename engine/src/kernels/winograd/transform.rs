//! Winograd's transforms along one axis, and along both.
//!
//! A tile's outputs are a product of two polynomials, which is taken at zero, at infinity and at pairs of numbers that
//! differ in their sign, and then interpolated (Toom and Cook). `TILE` points make `TILE + 1 - KERNEL` outputs.

use crate::simd::Simd;

/// The points besides zero and infinity, as constants that the transforms are made of.
struct Points<const TILE: usize>;

impl<const TILE: usize> Points<TILE> {
    /// Pairs of points.
    const PAIRS: usize = (TILE - 2) / 2;

    /// The squares of the points. One half and two, rather than the usual one and four, cost two operations more of some sixty and
    /// halve the error; their squares are exact.
    const SQUARES: [f64; 2] = if TILE == 4 { [1.0, 0.0] } else { [0.5, 2.0] };

    const PLAIN: [f64; 2] =
        if TILE == 4 { [1.0, 0.0] } else { [std::f64::consts::FRAC_1_SQRT_2, std::f64::consts::SQRT_2] };

    /// The powers of each pair's positive point.
    const POWERS: [[f32; 4]; 2] = {
        let mut powers = [[1.0; 4]; 2];
        let mut pair = 0;
        while pair < 2 {
            let (plain, square) = (Self::PLAIN[pair], Self::SQUARES[pair]);
            powers[pair] = [1.0, plain as f32, square as f32, (plain * square) as f32];
            pair += 1;
        }
        powers
    };

    /// What each power of a weight counts at each pair's points, and at zero: interpolation's divisors are in them.
    const WEIGHTS: ([[f32; 5]; 2], f32) = {
        let mut weights = [[0.0; 5]; 2];
        let mut zero = 1.0;
        let mut pair = 0;
        while pair < Self::PAIRS {
            let (plain, square) = (Self::PLAIN[pair], Self::SQUARES[pair]);
            zero /= -square;
            let other = if TILE == 4 { 1.0 } else { square - Self::SQUARES[1 - pair] };
            let divisor = 2.0 * square * other;
            weights[pair] = [
                (1.0 / divisor) as f32,
                (plain / divisor) as f32,
                (square / divisor) as f32,
                (plain * square / divisor) as f32,
                (square * square / divisor) as f32,
            ];
            pair += 1;
        }
        (weights, zero as f32)
    };
}

/// Inputs of a tile at the points: zero, the pairs, infinity.
#[inline(always)]
pub(super) unsafe fn input<S: Simd, const TILE: usize>(d: &[S::V; TILE]) -> [S::V; TILE] {
    // SAFETY: the caller's.
    unsafe {
        let mut out = *d;
        if TILE == 4 {
            out[0] = S::sub(d[2], d[0]);
            out[1] = S::add(d[2], d[1]);
            out[2] = S::sub(d[2], d[1]);
            out[3] = S::sub(d[3], d[1]);
            return out;
        }
        let [near, far] = Points::<TILE>::SQUARES.map(|square| square as f32);
        let (middle, last) = (S::splat(-(near + far)), S::splat(near * far));
        out[0] = S::fma(last, d[0], S::fma(middle, d[2], d[4]));
        out[5] = S::fma(last, d[1], S::fma(middle, d[3], d[5]));
        for pair in 0..2 {
            let other = S::splat(if pair == 0 { -far } else { -near });
            let even = S::fma(other, d[2], d[4]);
            let odd = S::fma(other, d[1], d[3]);
            let point = Points::<TILE>::POWERS[pair][1];
            out[1 + 2 * pair] = S::fma(S::splat(point), odd, even);
            out[2 + 2 * pair] = S::fma(S::splat(-point), odd, even);
        }
        out
    }
}

/// The weights at the points.
#[inline(always)]
pub(super) unsafe fn weights<S: Simd, const KERNEL: usize, const TILE: usize>(g: &[S::V; KERNEL]) -> [S::V; TILE] {
    // SAFETY: the caller's.
    unsafe {
        let (pairs, zero) = Points::<TILE>::WEIGHTS;
        let mut out = [S::mul(S::splat(zero), g[0]); TILE];
        out[TILE - 1] = g[KERNEL - 1];
        for pair in 0..Points::<TILE>::PAIRS {
            let mut even = S::mul(S::splat(pairs[pair][0]), g[0]);
            let mut odd = S::mul(S::splat(pairs[pair][1]), g[1]);
            for power in 2..KERNEL {
                let sum = if power % 2 == 0 { &mut even } else { &mut odd };
                *sum = S::fma(S::splat(pairs[pair][power]), g[power], *sum);
            }
            out[1 + 2 * pair] = S::add(even, odd);
            out[2 + 2 * pair] = S::sub(even, odd);
        }
        out
    }
}

/// The outputs of a tile from the products at the points.
#[expect(clippy::needless_range_loop, reason = "with iterators the vectors would live in memory")]
#[inline(always)]
pub(super) unsafe fn output<S: Simd, const TILE: usize, const OUT: usize>(d: &[S::V; TILE]) -> [S::V; OUT] {
    // SAFETY: the caller's.
    unsafe {
        let mut sides = [[d[0]; 2]; 2];
        for pair in 0..Points::<TILE>::PAIRS {
            let (plus, minus) = (d[1 + 2 * pair], d[2 + 2 * pair]);
            sides[pair] = [S::add(plus, minus), S::sub(plus, minus)];
        }
        let mut out = [d[0]; OUT];
        for power in 0..OUT {
            if power == OUT - 1 {
                out[power] = d[TILE - 1];
            }
            for pair in 0..Points::<TILE>::PAIRS {
                let (point, side) = (S::splat(Points::<TILE>::POWERS[pair][power]), sides[pair][power % 2]);
                let begun = power == 0 || power == OUT - 1 || pair > 0;
                out[power] = if begun { S::fma(point, side, out[power]) } else { S::mul(point, side) };
            }
        }
        out
    }
}

/// Transforms the columns, then the rows, of what `load(row, column)` gives; `store(row, column, value)` takes it.
#[expect(clippy::needless_range_loop, reason = "with iterators the vectors would live in memory")]
#[inline(always)]
pub(super) unsafe fn both<S: Simd, const FROM: usize, const TO: usize>(
    load: impl Fn(usize, usize) -> S::V,
    along: impl Fn(&[S::V; FROM]) -> [S::V; TO],
    mut store: impl FnMut(usize, usize, S::V),
) {
    // SAFETY: the caller's.
    let mut half = unsafe { [[S::splat(0.0); FROM]; TO] };
    for column in 0..FROM {
        let mut line = half[0];
        for row in 0..FROM {
            line[row] = load(row, column);
        }
        let line = along(&line);
        for row in 0..TO {
            half[row][column] = line[row];
        }
    }
    for row in 0..TO {
        let line = along(&half[row]);
        for column in 0..TO {
            store(row, column, line[column]);
        }
    }
}
