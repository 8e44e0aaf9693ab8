//! Depthwise convolution of bytes: sixteen channels at a time, with up to four taps of a line an instruction.
//!
//! Pixels that lie side by side are read at once and turned, so that a word holds four pixels of a channel; one such vector serves
//! several outputs where the weights are shifted.

use super::{Code, QUAD, Requantize, Weights, on_quads};
use crate::buffer::Buffer;
use crate::kernels::dense::{Phase, Shape};
use crate::kernels::depthwise;
use crate::maps::Maps;
use crate::parallel;
use crate::simd::{LANES, Path, Quads, Simd};

/// A depthwise convolution on maps of words.
#[derive(Debug)]
pub struct Depthwise {
    x: Maps,
    y: Maps,
    /// Rows and columns of taps.
    kernel: [usize; 2],
    count: [usize; 2],
    /// Words from an output's source to the next row's and column's, and from a row of taps to the next.
    step: [usize; 2],
    down: usize,
    /// Where the first tap of the first output is, in a block.
    first: usize,
    /// Outputs whose taps are turned at once: two that are side by side, where they fit into four pixels.
    at_once: usize,
}

impl Depthwise {
    /// Whether there are such kernels, and room for every sum. Taps of a line lie side by side.
    pub fn suits(shape: &Shape) -> bool {
        shape.window.dilation[1] == 1 && shape.window.taps() <= 1 << 15
    }

    /// On inputs like `x`, whose halo holds [`Shape::input_halo`], to outputs like `y`, both words. `None` where the machine has no such products, or
    /// this does not suit the shape.
    pub fn new(path: Path, shape: &Shape, x: Maps, y: Maps) -> Option<Self> {
        let window = &shape.window;
        if !path.has_int8() || !Self::suits(shape) {
            return None;
        }
        assert!([x.lanes, y.lanes] == [LANES / QUAD; 2] && x.channels == y.channels, "maps of words");
        assert!(x.halo == x.halo.union(shape.input_halo(x.size)) && y.size == window.output, "zeros around the input");
        let phase = Phase::forward(window);
        let [row, column] = phase.taps[0].1;
        let at_once = if window.stride[1] == 1 && window.kernel[1] < QUAD { 2 } else { 1 };
        Some(Self {
            x,
            y,
            kernel: window.kernel,
            count: window.output,
            step: [window.stride[0] * x.row(), window.stride[1] * QUAD],
            down: window.dilation[0] * x.row(),
            first: x.at(0, row, column),
            at_once,
        })
    }

    /// Quads of taps in a line.
    fn quads(&self) -> usize {
        self.kernel[1].div_ceil(QUAD)
    }

    /// Words of a block's weights: for each row of taps and quad of taps words of four taps, for each of the outputs at once.
    fn block_len(&self) -> usize {
        self.kernel[0] * self.quads() * self.at_once * LANES
    }

    /// Words of 32 bits that [`Weights`] hold.
    pub fn len(&self) -> usize {
        self.x.blocks() * (self.block_len() + 3 * LANES)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rounds weights as [`depthwise::pack`] has them, for inputs in this code: those of each channel to steps of their own. A sum in such steps is of numbers, not of bytes.
    /// `means` are the channels'.
    pub fn round(&self, packed: &[f32], code: &Code, means: &[f32]) -> Weights {
        let taps = self.kernel[0] * self.kernel[1];
        let blocks = self.x.blocks();
        assert!(packed.len() >= depthwise::packed_len(blocks * LANES, taps), "weights of the planned size");
        let mut weights = Weights {
            words: Buffer::zeros(blocks * self.block_len()),
            begin: Buffer::zeros(blocks * LANES),
            scales: vec![1.0; blocks * LANES],
            lost: vec![0.0; blocks * LANES],
        };
        for channel in 0..blocks * LANES {
            let (block, lane) = (channel / LANES, channel % LANES);
            let step = code.scales.get(channel).copied().unwrap_or(1.0);
            let weight = |tap: usize| packed[(block * taps + tap) * LANES + lane] * step;
            let most = (0..taps).map(|tap| Weights::size(weight(tap))).fold(0.0, f32::max);
            let scale = Weights::step(most);
            weights.scales[channel] = scale;
            let mean = means.get(channel).map_or(0.0, |mean| f64::from(*mean));
            let (mut sum, mut less) = (0_i32, 0.0_f64);
            for tap in 0..taps {
                let byte = Weights::byte(weight(tap), scale);
                sum += i32::from(byte);
                less += f64::from(weight(tap)) - f64::from(byte) * f64::from(scale);
                let (row, column) = (tap / self.kernel[1], tap % self.kernel[1]);
                for output in 0..self.at_once {
                    // The second output sees a tap a pixel further on.
                    let place = column + output;
                    let quad = (row * self.quads() + place / QUAD) * self.at_once + output;
                    let word = &mut weights.words[block * self.block_len() + quad * LANES + lane];
                    Weights::put(word, place % QUAD, byte);
                }
            }
            weights.lost[channel] = (less / f64::from(step) * mean) as f32;
            weights.begin[channel] = f32::from_bits((-i32::from(code.zero) * sum).cast_unsigned());
        }
        weights
    }

    /// One example, by weights of this convolution; outputs are bytes.
    pub fn run(&self, weights: &Weights, x: &[f32], y: &mut [f32], finish: Requantize<'_>) {
        assert!(x.len() >= self.x.len() && y.len() >= self.y.len(), "maps of the planned size");
        let lanes = self.y.blocks() * LANES;
        assert!(finish.holds(lanes) && finish.bytes, "numbers for every lane, and outputs of the planned kind");
        parallel::share(y.chunks_mut(self.y.block()).take(self.y.blocks()), |block, y| {
            let x = &x[block * self.x.block()..];
            // SAFETY: the path is the machine's; halos hold every tap of every output, as `new` has seen, and the lengths are checked.
            on_quads!(S => unsafe {
                S::run(#[inline(always)] || match (self.kernel, self.at_once) {
                    ([3, 3], 2) => self.block::<S, 3, 2, 4>(block, weights, x, y, finish),
                    ([3, 3], 1) => self.block::<S, 3, 1, 6>(block, weights, x, y, finish),
                    (_, 2) => self.block::<S, 0, 2, 4>(block, weights, x, y, finish),
                    _ => self.block::<S, 0, 1, 6>(block, weights, x, y, finish),
                });
            });
        });
    }

    /// A block of channels, with windows of `SIDE` by `SIDE` (0: any), `ONCE` outputs of `TURNS` vectors at a time.
    #[inline(always)]
    unsafe fn block<S: Quads, const SIDE: usize, const ONCE: usize, const TURNS: usize>(
        &self,
        block: usize,
        weights: &Weights,
        x: &[f32],
        y: &mut [f32],
        finish: Requantize<'_>,
    ) {
        let most = ONCE * TURNS;
        for row in 0..self.count[0] {
            // SAFETY: the caller's.
            unsafe {
                let x = x.as_ptr().add(self.first + row * self.step[0]);
                let y = y.as_mut_ptr().add(self.y.at(0, row as isize, 0));
                let mut column = 0;
                while column + most <= self.count[1] {
                    self.outputs::<S, SIDE, ONCE, TURNS>(block, column, weights, x, y, finish);
                    column += most;
                }
                while column + ONCE <= self.count[1] {
                    self.outputs::<S, SIDE, ONCE, 1>(block, column, weights, x, y, finish);
                    column += ONCE;
                }
                if column < self.count[1] {
                    self.last::<S>(block, column, weights, x, y, finish);
                }
            }
        }
    }

    // Loops over indices: with iterators the sums would live in memory.
    #[expect(clippy::needless_range_loop, reason = "see above")]
    #[inline(always)]
    unsafe fn outputs<S: Quads, const SIDE: usize, const ONCE: usize, const TURNS: usize>(
        &self,
        block: usize,
        column: usize,
        weights: &Weights,
        x: *const f32,
        y: *mut f32,
        finish: Requantize<'_>,
    ) {
        let [rows, width] = if SIDE == 0 { self.kernel } else { [SIDE; 2] };
        let quads = width.div_ceil(QUAD);
        // SAFETY: the caller's.
        unsafe {
            let begin = S::load(weights.begin.as_ptr().add(block * LANES));
            let words = weights.words.as_ptr().add(block * self.block_len());
            let mut sums = [[begin; ONCE]; TURNS];
            for row in 0..rows {
                for quad in 0..quads {
                    let mut w = [begin; ONCE];
                    for output in 0..ONCE {
                        w[output] = S::load(words.add(((row * quads + quad) * ONCE + output) * LANES));
                    }
                    // Only pixels that an output sees: behind them the maps may end.
                    let pixels = (width + ONCE - 1 - quad * QUAD).min(QUAD);
                    for turn in 0..TURNS {
                        let at = x.add((column + turn * ONCE) * self.step[1] + row * self.down + quad * LANES);
                        let four = S::turned(at, pixels);
                        for output in 0..ONCE {
                            sums[turn][output] = S::dot(four, w[output], sums[turn][output]);
                        }
                    }
                }
            }
            let mut copy = [[[0.0_f32; LANES]; ONCE]; TURNS];
            for turn in 0..TURNS {
                for output in 0..ONCE {
                    S::store(copy[turn][output].as_mut_ptr(), sums[turn][output]);
                }
            }
            finish.write::<S>(copy.as_ptr().cast(), TURNS * ONCE, block, y.add(column * QUAD), QUAD);
        }
    }

    /// The last output of a row, where two at once do not divide it.
    #[inline(always)]
    unsafe fn last<S: Quads>(
        &self,
        block: usize,
        column: usize,
        weights: &Weights,
        x: *const f32,
        y: *mut f32,
        finish: Requantize<'_>,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let mut sum = S::load(weights.begin.as_ptr().add(block * LANES));
            let words = weights.words.as_ptr().add(block * self.block_len());
            for row in 0..self.kernel[0] {
                let four = S::turned(x.add(column * self.step[1] + row * self.down), self.kernel[1]);
                sum = S::dot(four, S::load(words.add(row * self.at_once * LANES)), sum);
            }
            let mut copy = [0.0_f32; LANES];
            S::store(copy.as_mut_ptr(), sum);
            finish.write::<S>(copy.as_ptr(), 1, block, y.add(column * QUAD), QUAD);
        }
    }
}
