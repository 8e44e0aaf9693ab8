//! Dropout (Srivastava et al. 2014) with a mask of the caller's.

use super::elementwise::one_to_one;
use super::view::{Runs, View, get, put};
use crate::simd::{Path, Simd, on_path};

/// `y = x * scale` where kept, else zero. The gradient is the same function of the gradient.
#[derive(Debug)]
pub struct Dropout {
    path: Path,
    runs: Runs<2>,
    words: usize,
}

impl Dropout {
    /// Of operands like `x`, written to one like `y`.
    pub fn new(path: Path, x: View, y: View) -> Self {
        let runs = Runs::new([x, y]);
        Self { path, words: runs.vectors(), runs }
    }

    /// Words of the mask, sixteen bits each, the lowest first: one a pixel and block of channels,
    /// `[C / 16][H][W]`, for maps; for rows one bit a number, without a gap between them.
    pub fn words(&self) -> usize {
        self.words
    }

    /// A bit that is set keeps its number. Without an `x` it is what stands in `y`.
    pub fn run(&self, keep: &[u16], scale: f32, x: Option<&[f32]>, y: &mut [f32]) {
        assert!(keep.len() >= self.words, "a bit for every number");
        let operands = one_to_one(&self.runs, x, y);
        // SAFETY: lengths are checked; only `y` is written; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                let (scale, zero) = (S::splat(scale), S::splat(0.0));
                self.runs.each(operands, #[inline(always)] |[x, y], lanes, number| {
                    let kept = S::mask(*keep.get_unchecked(number));
                    put::<S>(y, S::select(kept, S::mul(get::<S>(x, lanes), scale), zero), lanes);
                });
            });
        });
    }
}
