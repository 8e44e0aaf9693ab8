//! Maps of bytes: numbers that are rounded to 256 steps, a quarter of the memory.
//!
//! Sixteen channels of a pixel are sixteen bytes, and four of these make a word, so that maps of bytes are [`Maps`] whose blocks have
//! four words a pixel. Their halos hold the byte that stands for zero.

mod depthwise;
mod pool;
mod quantize;

pub use depthwise::Depthwise;
pub use pool::{AvgPool, GlobalAvgPool, MaxPool};
pub use quantize::Quantize;

use super::tile::{End, SCATTERED, Tile};
use crate::buffer::Buffer;
use crate::maps::Maps;
use crate::simd::{LANES, Simd};

/// Channels of a word.
pub const QUAD: usize = 4;

/// What bytes stand for: `(byte - zero) * scale`, with a scale for each channel.
#[derive(Debug, Clone, PartialEq)]
pub struct Code {
    /// What a step is worth, in each channel.
    pub scales: Vec<f32>,
    /// The byte that stands for zero, in all of them: halos have no channels.
    pub zero: u8,
}

/// How much finer than the coarsest a channel's steps may be.
const FINEST: f64 = 1.0 / 256.0;

impl Code {
    /// For numbers of channels between two each, and zero: padding is zero. `None` where one of them is not finite.
    ///
    /// A channel's scale is half way (geometrically) between the least that holds its numbers and the largest of all channels'. Fine scales round values less, and the
    /// weights that read them more: these are multiplied by the scales first.
    pub fn of(ranges: &[[f32; 2]]) -> Option<Self> {
        let ranges = || ranges.iter().map(|[low, high]| [f64::from(low.min(0.0)), f64::from(high.max(0.0))]);
        let all = ranges().fold([0.0_f64; 2], |all, range| [all[0].min(range[0]), all[1].max(range[1])]);
        if !ranges().flatten().all(f64::is_finite) {
            return None;
        }
        let width = all[1] - all[0];
        let exact = if width > 0.0 { -all[0] / width * 255.0 } else { 0.0 };
        // Steps that reach from zero to both ends; without an end on one side there are no numbers there.
        let least = |zero: f64, [low, high]: [f64; 2]| {
            let below = if zero > 0.0 { -low / zero } else { 0.0 };
            let above = if zero < 255.0 { high / (255.0 - zero) } else { 0.0 };
            below.max(above)
        };
        // A byte at least on each side that has numbers; of the two bytes beside the exact one that with the finer steps.
        let [lowest, highest] = [f64::from(u8::from(all[0] < 0.0)), 255.0 - f64::from(u8::from(all[1] > 0.0))];
        let coarsest = |zero: f64| ranges().map(|range| least(zero, range)).fold(0.0, f64::max);
        let around = [exact.floor(), exact.ceil()].map(|zero| zero.clamp(lowest, highest));
        let zero = if coarsest(around[0]) <= coarsest(around[1]) { around[0] } else { around[1] };
        let most = coarsest(zero);
        if most < f64::from(f32::MIN_POSITIVE) * 1e3 {
            // Nothing but zero, or next to nothing: any step will do.
            return Some(Self { scales: ranges().map(|_| 1.0).collect(), zero: 0 });
        }
        let scale = |range| (most * (least(zero, range) / most).max(FINEST).sqrt()) as f32;
        Some(Self { scales: ranges().map(scale).collect(), zero: zero as u8 })
    }

    /// Four bytes of zero, as a word.
    pub fn word(zero: u8) -> f32 {
        f32::from_bits(u32::from_ne_bytes([zero; QUAD]))
    }
}

/// Weights of a convolution as bytes.
#[derive(Debug)]
pub struct Weights {
    /// In the order of its kernel.
    pub(super) words: Buffer,
    /// What sums begin with, for every lane of every block: whole numbers that take back what the input's zero adds.
    pub(super) begin: Buffer,
    /// What a step of each output's weights is worth.
    pub scales: Vec<f32>,
    /// By how much rounding the weights makes each output too small in the mean.
    pub lost: Vec<f32>,
}

impl Weights {
    /// How large a weight is; without bounds where it is not finite. Steps without bounds make no number of a sum: so it spoils the output, as in fp32.
    pub(super) fn size(weight: f32) -> f32 {
        if weight.is_finite() { weight.abs() } else { f32::INFINITY }
    }

    /// What a step is worth where the largest weight has this size.
    pub(super) fn step(most: f32) -> f32 {
        if most < f32::MIN_POSITIVE * 127.0 { 1.0 } else { most / 127.0 }
    }

    /// A weight in steps, from -127 to 127.
    pub(super) fn byte(weight: f32, step: f32) -> i8 {
        (weight / step).round_ties_even().clamp(-127.0, 127.0) as i8
    }

    /// Writes byte number `place` of a word.
    pub(super) fn put(word: &mut f32, place: usize, byte: i8) {
        let mut bytes = word.to_bits().to_le_bytes();
        bytes[place] = byte.cast_unsigned();
        *word = f32::from_bits(u32::from_le_bytes(bytes));
    }
}

/// Maps of bytes of so many channels, on maps of floats of this kind.
pub fn words(maps: Maps) -> Maps {
    assert!(maps.beside == 0, "maps by themselves");
    Maps { channels: maps.channels.div_ceil(QUAD), lanes: LANES / QUAD, ..maps }
}

/// What becomes of whole sums: `y = sum * scale + shift`, with what stands in its place added, kept between bounds; then it is written as it is, or rounded to a byte.
#[derive(Debug, Clone, Copy)]
pub struct Requantize<'a> {
    /// A number for every lane of every block.
    pub scale: &'a [f32],
    /// Likewise.
    pub shift: &'a [f32],
    /// What is in its place, as it stands, is added so many times; likewise.
    pub add: Option<&'a [f32]>,
    /// The least.
    pub low: f32,
    /// The most, for every lane of every block.
    pub high: &'a [f32],
    /// Whether outputs are bytes.
    pub bytes: bool,
}

impl Requantize<'_> {
    /// Whether there is a number for each of so many lanes.
    pub(super) fn holds(&self, lanes: usize) -> bool {
        let all = [Some(self.scale), Some(self.shift), self.add, Some(self.high)];
        all.into_iter().flatten().all(|numbers| numbers.len() >= lanes)
    }

    /// Writes sums, sixteen numbers each, of one block and `count` pixels that are `step` floats apart.
    ///
    /// # Safety
    /// As for [`Simd`]; block `block` has a scale and a shift, and `to` is good for sixteen floats, or bytes, each time.
    #[inline(always)]
    pub(super) unsafe fn write<S: Simd>(self, sums: *const f32, count: usize, block: usize, to: *mut f32, step: usize) {
        // SAFETY: the caller's.
        unsafe {
            match (self.add, self.bytes) {
                (None, true) => self.each::<S, false, true>(sums, count, block, to, step),
                (Some(_), true) => self.each::<S, true, true>(sums, count, block, to, step),
                (None, false) => self.each::<S, false, false>(sums, count, block, to, step),
                (Some(_), false) => self.each::<S, true, false>(sums, count, block, to, step),
            }
        }
    }

    #[inline(always)]
    unsafe fn each<S: Simd, const ADD: bool, const BYTES: bool>(
        self,
        sums: *const f32,
        count: usize,
        block: usize,
        to: *mut f32,
        step: usize,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let of = |values: &[f32]| values.as_ptr().add(block * LANES);
            let (scale, shift) = (S::load(of(self.scale)), S::load(of(self.shift)));
            let times = self.add.map_or(
                S::splat(0.0),
                #[inline(always)]
                |times| S::load(of(times)),
            );
            let (low, high) = (S::splat(self.low), S::load(of(self.high)));
            for pixel in 0..count {
                let (sum, to) = (S::sum(S::load(sums.add(pixel * LANES))), to.add(pixel * step));
                let mut y = S::fma(sum, scale, shift);
                if ADD {
                    y = S::fma(if BYTES { S::load_bytes(to.cast()) } else { S::load(to) }, times, y);
                }
                // The number stands second: one that is none stays so.
                y = S::min(high, S::max(low, y));
                if BYTES { S::store_bytes(to.cast(), y) } else { S::store(to, y) }
            }
        }
    }
}

impl End for Requantize<'_> {
    fn at_block(self, block: usize) -> Self {
        let from = block * LANES;
        let (scale, shift, high) = (&self.scale[from..], &self.shift[from..], &self.high[from..]);
        Self { scale, shift, add: self.add.map(|times| &times[from..]), low: self.low, high, bytes: self.bytes }
    }

    #[inline(always)]
    unsafe fn put<S: Simd, const PIXELS: usize, const BLOCKS: usize, const STEP: usize>(
        tile: &Tile<Self>,
        sums: [[S::V; BLOCKS]; PIXELS],
    ) {
        const { assert!(STEP != SCATTERED, "outputs in a row") };
        // A copy is what loops run over: unrolled, they would be too long.
        let mut copy = [[[0.0_f32; LANES]; PIXELS]; BLOCKS];
        // SAFETY: the caller's.
        unsafe {
            for pixel in 0..PIXELS {
                for block in 0..BLOCKS {
                    S::store(copy[block][pixel].as_mut_ptr(), sums[pixel][block]);
                }
            }
            for (block, sums) in copy.iter().enumerate() {
                let to = tile.y.add(block * tile.y_block);
                tile.finish.write::<S>(sums.as_ptr().cast(), PIXELS, block, to, tile.y_step);
            }
        }
    }
}

/// Runs `$body` with `$simd` as the vectors of bytes of this machine, for what is made only where [`crate::Path::has_int8`].
macro_rules! on_quads {
    ($simd:ident => $body:expr) => {{
        #[cfg(target_arch = "x86_64")]
        {
            type $simd = $crate::simd::Avx512<{ $crate::simd::QUADS }>;
            $body
        }
        #[cfg(not(target_arch = "x86_64"))]
        unreachable!("made for a machine that multiplies bytes")
    }};
}
pub(super) use on_quads;
