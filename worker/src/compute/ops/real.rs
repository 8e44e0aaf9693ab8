//! The element types that kernels are written for: `f32` to train, `f64` to check gradients.

use std::ops::Neg;

use candle_core::WithDType;

/// A floating-point element.
///
/// The functions are `libm`'s, in Rust: the C library's differ in the last bit from version to version.
pub(in crate::compute) trait Real: WithDType + Neg<Output = Self> {
    /// The exponential function.
    fn exp(self) -> Self;
    /// The hyperbolic tangent.
    fn tanh(self) -> Self;
    /// The error function.
    fn erf(self) -> Self;
    /// Whether it is not a number.
    fn is_nan(self) -> bool;
}

impl Real for f32 {
    fn exp(self) -> Self {
        libm::expf(self)
    }

    fn tanh(self) -> Self {
        libm::tanhf(self)
    }

    fn erf(self) -> Self {
        libm::erff(self)
    }

    fn is_nan(self) -> bool {
        self.is_nan()
    }
}

impl Real for f64 {
    fn exp(self) -> Self {
        libm::exp(self)
    }

    fn tanh(self) -> Self {
        libm::tanh(self)
    }

    fn erf(self) -> Self {
        libm::erf(self)
    }

    fn is_nan(self) -> bool {
        self.is_nan()
    }
}

/// Independent sums that a vector register holds; a constant, so that every SIMD path adds in one order.
const LANES: usize = 16;

/// The sum of `f` over the pairs of two slices, as far as the shorter one goes.
#[inline(always)]
pub(super) fn sum2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T) -> T {
    let length = a.len().min(b.len());
    let (a, b) = (&a[..length], &b[..length]);
    if length < LANES {
        return a.iter().zip(b).fold(T::zero(), |sum, (a, b)| sum + f(*a, *b));
    }
    let mut lanes = [T::zero(); LANES];
    let (a_blocks, a_rest) = a.as_chunks::<LANES>();
    let (b_blocks, b_rest) = b.as_chunks::<LANES>();
    for (a, b) in a_blocks.iter().zip(b_blocks) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += f(*a, *b);
        }
    }
    let rest = a_rest.iter().zip(b_rest).fold(T::zero(), |sum, (a, b)| sum + f(*a, *b));
    lanes.iter().fold(rest, |sum, lane| sum + *lane)
}

/// The sum of `f` over a slice.
#[inline(always)]
pub(super) fn sum1<T: Real>(a: &[T], f: impl Fn(T) -> T) -> T {
    sum2(a, a, |a, _| f(a))
}
