//! From maps of floats to maps of bytes.

use super::{Code, QUAD, on_quads};
use crate::maps::Maps;
use crate::parallel;
use crate::simd::{LANES, Quads, Simd};
use std::sync::atomic::{AtomicBool, Ordering};

/// Pixels of single channels that a thread takes at once.
const PART: usize = 1 << 12;

/// Rounds maps of floats to bytes.
#[derive(Debug)]
pub struct Quantize {
    x: Maps,
    y: Maps,
    /// What numbers of each lane, or of each single channel, are multiplied by.
    steps: Vec<f32>,
    zero: f32,
}

impl Quantize {
    /// Of maps like `x`, in blocks of channels or one by one. `None` where there are more than four single ones.
    pub fn new(x: Maps, code: &Code) -> Option<Self> {
        let lanes = if x.lanes == LANES { LANES / QUAD } else { 1 };
        let fits = x.lanes == LANES || x.lanes == 1 && x.channels <= QUAD;
        let y = Maps { channels: x.channels.div_ceil(QUAD), lanes, beside: 0, ..x };
        let mut steps: Vec<f32> = code.scales.iter().map(|scale| 1.0 / scale).collect();
        steps.resize(x.blocks() * x.lanes, 0.0);
        fits.then(|| Self { x, y, steps, zero: f32::from(code.zero) })
    }

    /// The maps that it makes: words.
    pub fn maps(&self) -> Maps {
        self.y
    }

    /// One example, and whether all its numbers are finite: there is no byte for others. Halos and lanes behind the last channel are written, too.
    pub fn run(&self, x: &[f32], y: &mut [f32]) -> bool {
        assert!(x.len() >= self.x.len() && y.len() >= self.y.len(), "maps of the planned size");
        let rows = self.x.halo.before[0] + self.x.size[0] + self.x.halo.after[0];
        let floats = rows * self.x.row();
        let finite = AtomicBool::new(true);
        if self.x.lanes == 1 {
            parallel::share(y[..floats].chunks_mut(PART), |part, y| {
                // SAFETY: the planes hold so many floats, and the words as many; the path is the machine's.
                let good = on_quads!(S => unsafe {
                    S::run(#[inline(always)] || self.planes::<S>(part * PART, x, y))
                });
                if !good {
                    finite.store(false, Ordering::Relaxed);
                }
            });
            return finite.into_inner();
        }
        let blocks = y.chunks_mut(self.y.block()).take(self.y.blocks());
        parallel::share(blocks.zip(x.chunks(self.x.block())), |block, (y, x)| {
            // SAFETY: as above, of a block.
            let good = on_quads!(S => unsafe {
                S::run(#[inline(always)] || self.block::<S>(block, &x[..floats], &mut y[..floats / QUAD]))
            });
            if !good {
                finite.store(false, Ordering::Relaxed);
            }
        });
        finite.into_inner()
    }

    /// A number's byte, as a float.
    #[inline(always)]
    unsafe fn byte<S: Simd>(&self, x: S::V, steps: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe {
            let at = S::fma(x, steps, S::splat(self.zero));
            S::min(S::max(at, S::splat(0.0)), S::splat(255.0))
        }
    }

    #[inline(always)]
    unsafe fn block<S: Simd>(&self, block: usize, x: &[f32], y: &mut [f32]) -> bool {
        // SAFETY: the caller's: four words for sixteen floats.
        unsafe {
            let steps = S::load(self.steps[block * LANES..][..LANES].as_ptr());
            let mut odd = S::splat(0.0);
            for (x, y) in x.chunks_exact(LANES).zip(y.chunks_exact_mut(QUAD)) {
                let x = S::load(x.as_ptr());
                // Zero, or not a number.
                odd = S::add(odd, S::sub(x, x));
                S::store_bytes(y.as_mut_ptr().cast(), self.byte::<S>(x, steps));
            }
            !S::any(S::is_nan(odd))
        }
    }

    /// Single channels become the bytes of one word; `y` begins with number `start` of each.
    #[inline(always)]
    unsafe fn planes<S: Quads>(&self, start: usize, x: &[f32], y: &mut [f32]) -> bool {
        // SAFETY: the caller's.
        unsafe {
            let mut odd = S::splat(0.0);
            for first in (0..y.len()).step_by(LANES) {
                let count = (y.len() - first).min(LANES);
                let mut planes = [S::splat(0.0); QUAD];
                for (channel, plane) in planes.iter_mut().enumerate().take(self.x.channels) {
                    let x = S::load_first(x.as_ptr().add(channel * self.x.block() + start + first), count);
                    odd = S::add(odd, S::sub(x, x));
                    *plane = self.byte::<S>(x, S::splat(self.steps[channel]));
                }
                S::store_first(y.as_mut_ptr().add(first), S::words(planes), count);
            }
            !S::any(S::is_nan(odd))
        }
    }
}
