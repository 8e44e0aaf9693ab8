//! Sums of operands, number by number.

use super::view::{Runs, View, get, put};
use crate::simd::{Path, Simd, on_path};

/// `y = a + b`, behind relu where it is wanted.
#[derive(Debug)]
pub struct Sum {
    path: Path,
    runs: Runs<3>,
    relu: bool,
}

impl Sum {
    /// Of operands like `a` and `b`, written to one like `y`.
    pub fn new(path: Path, a: View, b: View, y: View) -> Self {
        Self { path, runs: Runs::new([a, b, y]), relu: false }
    }

    /// The same with `max(sum, 0)`; a sum that is not a number stays so.
    #[must_use]
    pub fn with_relu(self) -> Self {
        Self { relu: true, ..self }
    }

    /// One example.
    pub fn run(&self, a: &[f32], b: &[f32], y: &mut [f32]) {
        let lens = [a.len(), b.len(), y.len()];
        assert!((0..3).all(|index| lens[index] >= self.runs.len(index)), "operands of the planned size");
        let operands = [a.as_ptr().cast_mut(), b.as_ptr().cast_mut(), y.as_mut_ptr()];
        let relu = self.relu;
        // SAFETY: lengths are checked above; only `y` is written; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                self.runs.each(operands, #[inline(always)] |[a, b, y], lanes, _| {
                    let sum = S::add(get::<S>(a, lanes), get::<S>(b, lanes));
                    put::<S>(y, if relu { S::max(S::splat(0.0), sum) } else { sum }, lanes);
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
