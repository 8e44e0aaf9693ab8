//! Sums and multiples of operands, number by number.

use super::view::{Runs, View, get, put};
use crate::simd::{Path, Simd, on_path};

/// `y = x`, `y = x + z` or `y += x`, times a number, behind relu: whatever a graph needs between its layers.
#[derive(Debug)]
pub struct Sum {
    path: Path,
    runs: Runs<3>,
    /// What the sum is multiplied by.
    factor: f32,
    relu: bool,
}

impl Sum {
    /// Of operands like `a` and `b`, written to one like `y`.
    pub fn new(path: Path, a: View, b: View, y: View) -> Self {
        Self { path, runs: Runs::new([a, b, y]), factor: 1.0, relu: false }
    }

    /// The same with `max(sum, 0)`; a sum that is not a number stays so.
    #[must_use]
    pub fn with_relu(self) -> Self {
        Self { relu: true, ..self }
    }

    /// The same with the sum multiplied, before relu.
    #[must_use]
    pub fn times(self, factor: f32) -> Self {
        Self { factor, ..self }
    }

    /// `y = relu((a + b) * factor)`; where there is no `b` it is what stands in `y`, which then lies like `b`.
    pub fn run(&self, a: &[f32], b: Option<&[f32]>, y: &mut [f32]) {
        assert!(b.is_some() || self.runs.alike(1, 2), "an operand in place lies like its result");
        let (len, y_at) = (y.len(), y.as_mut_ptr());
        let b_len = b.map_or(len, <[f32]>::len);
        assert!(a.len() >= self.runs.len(0) && b_len >= self.runs.len(1) && len >= self.runs.len(2), "planned sizes");
        let operands = [a.as_ptr().cast_mut(), b.map_or(y_at, |b| b.as_ptr().cast_mut()), y_at];
        let (factor, relu) = (self.factor, self.relu);
        // SAFETY: lengths are checked above; only `y` is written; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                let factor = S::splat(factor);
                self.runs.each(operands, #[inline(always)] |[a, b, y], lanes, _| {
                    let sum = S::mul(S::add(get::<S>(a, lanes), get::<S>(b, lanes)), factor);
                    put::<S>(y, if relu { S::max(S::splat(0.0), sum) } else { sum }, lanes);
                });
            });
        });
    }
}

/// `y = x * factor`.
#[derive(Debug)]
pub struct Scale {
    path: Path,
    runs: Runs<2>,
}

impl Scale {
    /// Of operands like `x`, written to one like `y`.
    pub fn new(path: Path, x: View, y: View) -> Self {
        Self { path, runs: Runs::new([x, y]) }
    }

    /// Without an `x` it is what stands in `y`.
    pub fn run(&self, x: Option<&[f32]>, y: &mut [f32], factor: f32) {
        let operands = one_to_one(&self.runs, x, y);
        // SAFETY: lengths are checked; only `y` is written; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                let factor = S::splat(factor);
                self.runs.each(operands, #[inline(always)] |[x, y], lanes, _| {
                    put::<S>(y, S::mul(get::<S>(x, lanes), factor), lanes);
                });
            });
        });
    }
}

/// The places of an operand and its result, which may be the same.
pub(super) fn one_to_one(runs: &Runs<2>, x: Option<&[f32]>, y: &mut [f32]) -> [*mut f32; 2] {
    assert!(x.is_some() || runs.alike(0, 1), "an operand in place lies like its result");
    assert!(x.map_or(y.len(), <[f32]>::len) >= runs.len(0) && y.len() >= runs.len(1), "operands of the planned size");
    let y = y.as_mut_ptr();
    [x.map_or(y, |x| x.as_ptr().cast_mut()), y]
}
