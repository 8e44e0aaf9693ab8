//! exp, erf, tanh and the logistic function of sixteen numbers. Not a number stays so.
//!
//! Bounds of the error hold on every path, also where products and sums are rounded one by one.

use crate::simd::Simd;

/// The value of a polynomial, highest power first.
#[inline(always)]
unsafe fn polynomial<S: Simd, const N: usize>(x: S::V, coefficients: [f32; N]) -> S::V {
    // SAFETY: the caller's.
    unsafe {
        let mut sum = S::splat(coefficients[0]);
        for coefficient in &coefficients[1..] {
            sum = S::fma(sum, x, S::splat(*coefficient));
        }
        sum
    }
}

/// `-|x|`.
#[inline(always)]
unsafe fn minus_size<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's.
    unsafe { S::min(x, S::sub(S::splat(0.0), x)) }
}

/// `e^x` within 2 ulp, with its underflow and overflow: the argument less a multiple of ln 2 in two parts (Cody and Waite
/// 1980), then Cephes' polynomial of degree 7.
#[inline(always)]
pub(super) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's.
    unsafe {
        // Beyond these it is zero or infinity anyway. The argument stands second: not a number stays so.
        let x = S::min(S::splat(89.0), S::max(S::splat(-104.0), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        // The first part has so few bits that its product is exact.
        let r = S::fma(n, S::splat(-0.693_359_4), x);
        let r = S::fma(n, S::splat(2.121_944_4e-4), r);
        let p =
            polynomial::<S, 6>(r, [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5]);
        let p = S::add(S::fma(p, S::mul(r, r), r), S::splat(1.0));
        S::scale(p, n)
    }
}

/// `1 / (1 + e^-x)` within 4 ulp; neither side overflows.
#[inline(always)]
pub(super) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's.
    unsafe {
        let small = exp::<S>(minus_size::<S>(x));
        let one = S::splat(1.0);
        S::div(S::if_greater(S::splat(0.0), x, small, one), S::add(one, small))
    }
}

/// `tanh x` within 3 ulp: Cephes' odd polynomial below 0.625, else `1 - 2 / (e^2x + 1)`.
#[inline(always)]
pub(super) unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's.
    unsafe {
        let (zero, one, square) = (S::splat(0.0), S::splat(1.0), S::mul(x, x));
        let p =
            polynomial::<S, 5>(square, [-5.704_988_7e-3, 2.063_909e-2, -5.373_971_6e-2, 1.333_144_2e-1, -3.333_328e-1]);
        let near = S::fma(S::mul(p, square), x, x);
        let minus = minus_size::<S>(x);
        // With e^-2|x|, which does not overflow.
        let small = exp::<S>(S::add(minus, minus));
        let far = S::sub(one, S::div(S::add(small, small), S::add(one, small)));
        let far = S::if_greater(zero, x, S::sub(zero, far), far);
        S::if_greater(S::splat(-0.625), minus, far, near)
    }
}

/// `erf x` within 3 ulp: an odd polynomial to 0.927, then `1 - e^p(|x|)` (the minimax coefficients are N. Juffa's).
#[inline(always)]
pub(super) unsafe fn erf<S: Simd>(x: S::V) -> S::V {
    // SAFETY: the caller's.
    unsafe {
        let (zero, square, minus) = (S::splat(0.0), S::mul(x, x), minus_size::<S>(x));
        let p = polynomial::<S, 6>(
            square,
            [-5.967_617e-4, 4.991_194_2e-3, -2.676_813_5e-2, 1.128_199_25e-1, -3.761_253_4e-1, 1.283_791_7e-1],
        );
        let near = S::fma(p, x, x);
        // Beyond it is one; the powers would overflow.
        let minus = S::max(S::splat(-4.0), minus);
        let size = S::sub(zero, minus);
        let p = polynomial::<S, 7>(
            size,
            [
                -1.728_534_7e-5,
                3.831_971_3e-4,
                -3.883_964_4e-3,
                2.425_462_2e-2,
                -1.067_778_8e-1,
                -6.348_467e-1,
                -1.287_175_1e-1,
            ],
        );
        let far = S::sub(S::splat(1.0), exp::<S>(S::fma(p, size, minus)));
        let far = S::if_greater(zero, x, S::sub(zero, far), far);
        S::if_greater(S::splat(-0.927_734_4), minus, far, near)
    }
}
