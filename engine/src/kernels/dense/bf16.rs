//! Dense convolution of numbers that are rounded to bf16, with sums in fp32: twice as many products an instruction.
//!
//! Two channels make a word of 32 bits, so that words are what floats are to the kernels: maps have eight words a pixel and block, and
//! the same walk over places serves. An example's words are made when its convolution begins.

use super::gather::Gather;
use super::{Finish, Phase, Shape};
use crate::kernels::packing::Packing;
use crate::maps::Maps;
use crate::parallel;
use crate::simd::{LANES, Path, Simd, on_path};

/// Words of a block's pixel.
const WORDS: usize = LANES / 2;

/// A convolution on maps of one kind.
#[derive(Debug)]
pub struct Forward {
    gather: Gather,
    /// The order of the weights in fp32.
    packing: Packing,
    x: Maps,
}

impl Forward {
    /// On inputs like `x`, whose halo holds [`Shape::input_halo`], to outputs like `y`, both in fp32. `None` where the machine has no such products, for
    /// groups, and for planar inputs.
    pub fn new(path: Path, shape: &Shape, x: Maps, y: Maps) -> Option<Self> {
        assert_eq!(y.lanes, LANES, "outputs in blocks");
        if !path.has_bf16() || shape.groups > 1 || x.lanes != LANES {
            return None;
        }
        let words = Maps { channels: shape.ins.div_ceil(2), lanes: WORDS, beside: 0, ..x };
        let packing = |ins, lanes| Packing::new(shape.outs, ins, 1, shape.window.taps(), lanes);
        let tile = on_path!(path, S => S::TILE);
        let gather = Gather::new(Phase::forward(&shape.window), packing(words.channels, WORDS), words, y, tile);
        Some(Self { gather, packing: packing(shape.ins, LANES), x })
    }

    /// The order of the weights that [`Forward::round`] takes: that of [`super::Forward`].
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Words of the rounded weights.
    pub fn len(&self) -> usize {
        self.gather.packing.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Words that [`Forward::run`] works in. Their values do not matter.
    pub fn scratch_len(&self) -> usize {
        self.gather.x.len()
    }

    /// Rounds packed weights.
    pub fn round(&self, packed: &[f32], words: &mut [f32]) {
        vectors(
            #[inline(always)]
            || self.round_all(packed, words),
        );
    }

    #[inline(always)]
    fn round_all(&self, packed: &[f32], words: &mut [f32]) {
        let to = &self.gather.packing;
        let taps = self.gather.phase.taps.len();
        let zeros = [0.0; LANES];
        for block in 0..to.blocks() {
            for word in 0..self.gather.x.blocks() * WORDS {
                for tap in 0..taps {
                    let Some(row) = to.row(block, word, tap) else { continue };
                    // The last word may have one channel, and the last block of fp32's order half as many rows.
                    let half = |channel: usize| {
                        let row = self.packing.row(block, channel, tap).filter(|_| channel < self.x.channels);
                        row.map_or(&zeros[..], |row| &packed[row..row + LANES])
                    };
                    let (low, high) = (half(2 * word), half(2 * word + 1));
                    let words = words[row..row + LANES].iter_mut().zip(low.iter().zip(high));
                    words.for_each(|(word, (low, high))| *word = pair(*low, *high));
                }
            }
        }
    }

    /// One example: `y = finish(x * weights + bias)`, weights as [`Forward::round`] leaves them. A bias has a number for every lane of every block.
    pub fn run(
        &self,
        words: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        finish: Finish,
        scratch: &mut [f32],
    ) {
        let maps = &self.gather.x;
        let floats = (maps.halo.before[0] + maps.size[0] + maps.halo.after[0]) * self.x.row();
        let blocks = scratch[..maps.len()].chunks_exact_mut(maps.block());
        parallel::share(blocks.zip(x.chunks(self.x.block())), |_, (words, x)| {
            vectors(
                #[inline(always)]
                || {
                    let pairs = x[..floats].as_chunks().0.iter();
                    words.iter_mut().zip(pairs).for_each(|(word, [low, high])| *word = pair(*low, *high));
                },
            );
        });
        #[cfg(target_arch = "x86_64")]
        self.gather.run::<crate::simd::Avx512<{ crate::simd::PAIRS }>, _>(
            0..self.gather.phase.count[0],
            words,
            bias,
            &scratch[..maps.len()],
            y,
            finish,
        );
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("made for a machine that has bf16");
    }
}

/// Runs `f`, compiled for the machine that this was made for.
#[inline(always)]
fn vectors(f: impl FnOnce()) {
    // SAFETY: `Forward::new` has seen that it has these instructions.
    #[cfg(target_arch = "x86_64")]
    unsafe {
        <crate::simd::Avx512<{ crate::simd::PAIRS }> as crate::simd::Simd>::run(f);
    }
    #[cfg(not(target_arch = "x86_64"))]
    f();
}

/// Two numbers, rounded to the nearest of bf16 and of two the even one, as the halves of a word.
#[inline(always)]
fn pair(low: f32, high: f32) -> f32 {
    f32::from_bits(round(low) >> 16 | round(high) & 0xffff_0000)
}

/// The bits of a number in bf16, in the upper half.
#[inline(always)]
fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1));
    // What is not a number stays so.
    if x.is_nan() { bits | 0x40_0000 } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::round;

    #[test]
    fn rounding_goes_to_the_nearest_and_of_two_to_the_even_one() {
        let rounded = |x: f32| f32::from_bits(round(x) & 0xffff_0000);
        // bf16 has seven bits behind the point.
        let step = 1.0 / 128.0;
        let cases = [
            (1.0, 1.0),
            (1.0 + 0.49 * step, 1.0),
            (1.0 + 0.5 * step, 1.0),
            (1.0 + 0.51 * step, 1.0 + step),
            (1.0 + 1.5 * step, 1.0 + 2.0 * step),
            (-1.0 - 1.5 * step, -1.0 - 2.0 * step),
            (0.0, 0.0),
            (f32::MAX, f32::INFINITY),
            (f32::NEG_INFINITY, f32::NEG_INFINITY),
        ];
        for (x, expected) in cases {
            assert!(rounded(x) == expected, "{x} becomes {}", rounded(x));
        }
        for bits in [0x7f80_0001, 0x7fff_ffff, 0xffff_ffff] {
            assert!(rounded(f32::from_bits(bits)).is_nan(), "{bits:x}");
        }
    }
}
