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

    /// Values: the powers themselves.
    const VALUES: Factors = {
        let mut pairs = [[1.0; 5]; 2];
        let mut pair = 0;
        while pair < 2 {
            let (plain, square) = (Self::PLAIN[pair], Self::SQUARES[pair]);
            pairs[pair] = [1.0, plain as f32, square as f32, (plain * square) as f32, (square * square) as f32];
            pair += 1;
        }
        Factors { pairs, zero: 1.0 }
    };

    /// Weights: interpolation's divisors are in them.
    const WEIGHTS: Factors = {
        let mut pairs = [[0.0; 5]; 2];
        let mut zero = 1.0;
        let mut pair = 0;
        while pair < Self::PAIRS {
            let (plain, square) = (Self::PLAIN[pair], Self::SQUARES[pair]);
            zero /= -square;
            let other = if TILE == 4 { 1.0 } else { square - Self::SQUARES[1 - pair] };
            let divisor = 2.0 * square * other;
            pairs[pair] = [
                (1.0 / divisor) as f32,
                (plain / divisor) as f32,
                (square / divisor) as f32,
                (plain * square / divisor) as f32,
                (square * square / divisor) as f32,
            ];
            pair += 1;
        }
        Factors { pairs, zero: zero as f32 }
    };
}

/// What powers count at the points.
struct Factors {
    /// Each power at each pair's positive point.
    pairs: [[f32; 5]; 2],
    /// The first at zero.
    zero: f32,
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
            let point = Points::<TILE>::VALUES.pairs[pair][1];
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
    unsafe { at_points::<S, KERNEL, TILE>(&Points::<TILE>::WEIGHTS, g) }
}

/// Gradients of the weights from those at the points: the transpose of [`weights`].
#[inline(always)]
pub(super) unsafe fn weight_slopes<S: Simd, const TILE: usize, const KERNEL: usize>(
    d: &[S::V; TILE],
) -> [S::V; KERNEL] {
    // SAFETY: the caller's.
    unsafe { from_points::<S, TILE, KERNEL>(&Points::<TILE>::WEIGHTS, d) }
}

/// The outputs of a tile from the products at the points.
#[inline(always)]
pub(super) unsafe fn output<S: Simd, const TILE: usize, const OUT: usize>(d: &[S::V; TILE]) -> [S::V; OUT] {
    // SAFETY: the caller's.
    unsafe { from_points::<S, TILE, OUT>(&Points::<TILE>::VALUES, d) }
}

/// Gradients at the points from those of a tile's outputs: the transpose of [`output`].
#[inline(always)]
pub(super) unsafe fn output_slopes<S: Simd, const OUT: usize, const TILE: usize>(d: &[S::V; OUT]) -> [S::V; TILE] {
    // SAFETY: the caller's.
    unsafe { at_points::<S, OUT, TILE>(&Points::<TILE>::VALUES, d) }
}

/// A polynomial's coefficients `g`, by these factors, at zero, the pairs and infinity.
#[expect(clippy::needless_range_loop, reason = "with iterators the vectors would live in memory")]
#[inline(always)]
unsafe fn at_points<S: Simd, const FROM: usize, const TILE: usize>(
    factors: &Factors,
    g: &[S::V; FROM],
) -> [S::V; TILE] {
    // SAFETY: the caller's.
    unsafe {
        let mut out = [S::mul(S::splat(factors.zero), g[0]); TILE];
        out[TILE - 1] = g[FROM - 1];
        for pair in 0..Points::<TILE>::PAIRS {
            let mut even = S::mul(S::splat(factors.pairs[pair][0]), g[0]);
            let mut odd = S::mul(S::splat(factors.pairs[pair][1]), g[1]);
            for power in 2..FROM {
                let sum = if power % 2 == 0 { &mut even } else { &mut odd };
                *sum = S::fma(S::splat(factors.pairs[pair][power]), g[power], *sum);
            }
            out[1 + 2 * pair] = S::add(even, odd);
            out[2 + 2 * pair] = S::sub(even, odd);
        }
        out
    }
}

/// For each power what the points sum to by these factors: the transpose of [`at_points`].
#[expect(clippy::needless_range_loop, reason = "with iterators the vectors would live in memory")]
#[inline(always)]
unsafe fn from_points<S: Simd, const TILE: usize, const TO: usize>(factors: &Factors, d: &[S::V; TILE]) -> [S::V; TO] {
    // SAFETY: the caller's.
    unsafe {
        let mut sides = [[d[0]; 2]; 2];
        for pair in 0..Points::<TILE>::PAIRS {
            let (plus, minus) = (d[1 + 2 * pair], d[2 + 2 * pair]);
            sides[pair] = [S::add(plus, minus), S::sub(plus, minus)];
        }
        let mut out = [S::mul(S::splat(factors.zero), d[0]); TO];
        out[TO - 1] = d[TILE - 1];
        for power in 0..TO {
            for pair in 0..Points::<TILE>::PAIRS {
                let (factor, side) = (S::splat(factors.pairs[pair][power]), sides[pair][power % 2]);
                let begun = power == 0 || power == TO - 1 || pair > 0;
                out[power] = if begun { S::fma(factor, side, out[power]) } else { S::mul(factor, side) };
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
