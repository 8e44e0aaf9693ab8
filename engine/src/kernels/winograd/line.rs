//! Winograd's convolution along one axis, for kernels of one row or one column: `F(4, 4)`.
//!
//! The taps are cut into segments of four. A segment's tile begins four inputs behind that of the segment before, which is where the
//! next outputs' tile begins: so all segments share the transformed inputs, and a product sums over segments and channels.

use std::ops::Range;

use super::super::dense::{Finish, Shape};
use super::super::packing::{Packing, RUN};
use super::super::tile::{Ahead, Kernels, Tile};
use super::odd;
use crate::maps::Maps;
use crate::parallel::{self, Columns};
use crate::simd::{LANES, Path, Simd, on_path};

/// Outputs of a tile, and taps of a segment.
const OUT: usize = 4;
/// Points, and inputs of a tile.
const TILE: usize = 2 * OUT - 1;
/// The points besides infinity. Of some two hundred choices among the best: half the error of the usual one, two and one half.
const POINTS: [f64; TILE - 1] = [0.0, 0.625, -0.625, 1.25, -1.25, -2.5];
/// Taps that kernels may have.
const TAPS: std::ops::RangeInclusive<usize> = 3..=8;
/// Bytes of transformed inputs and outputs that are worked on at once: they stay in a core's second cache.
const CHUNK: usize = 512 << 10;

/// What inputs, weights and outputs are multiplied by (Toom and Cook): interpolation's divisors are in the weights' matrix.
#[derive(Debug)]
struct Matrices {
    inputs: [[f32; TILE]; TILE],
    weights: [[f32; OUT]; TILE],
    outputs: [[f32; TILE]; OUT],
}

impl Matrices {
    fn new() -> Self {
        /// Coefficients of the product of `x - p` over all points but number `without`, lowest power first.
        fn product(without: usize) -> [f64; TILE] {
            let mut of = [0.0; TILE];
            of[0] = 1.0;
            for (_, point) in POINTS.iter().enumerate().filter(|(number, _)| *number != without) {
                for power in (0..TILE).rev() {
                    let lower = if power > 0 { of[power - 1] } else { 0.0 };
                    of[power] = lower - point * of[power];
                }
            }
            of
        }
        let mut made = Self { inputs: [[0.0; TILE]; TILE], weights: [[0.0; OUT]; TILE], outputs: [[0.0; TILE]; OUT] };
        for (number, point) in POINTS.iter().enumerate() {
            let others = POINTS.iter().enumerate().filter(|(other, _)| *other != number);
            let divisor: f64 = others.map(|(_, other)| point - other).product();
            made.inputs[number] = product(number).map(|x| x as f32);
            for power in 0..OUT {
                made.weights[number][power] = (point.powi(power as i32) / divisor) as f32;
                made.outputs[power][number] = point.powi(power as i32) as f32;
            }
        }
        // At infinity the highest power alone counts.
        made.inputs[TILE - 1] = product(TILE).map(|x| x as f32);
        made.weights[TILE - 1][OUT - 1] = 1.0;
        made.outputs[OUT - 1][TILE - 1] = 1.0;
        made
    }
}

/// Whether it takes less time for one example than a dense convolution that computes `at_once` products in the time of one; counted as in
/// [`super::pays`].
pub fn pays(shape: &Shape, at_once: usize) -> bool {
    let Some(axis) = axis(shape) else { return false };
    let [ins, outs] = [shape.ins, shape.outs].map(|channels| channels.div_ceil(LANES));
    let segments = shape.window.kernel[axis].div_ceil(OUT);
    let products = shape.ins.next_multiple_of(RUN) * outs;
    let lines = shape.window.output[1 - axis];
    let tiles = lines * shape.window.output[axis].div_ceil(OUT);
    let fast = TILE * (tiles * (segments * products + 10 * (ins + outs)) + 4 * segments * products);
    fast * at_once < shape.window.outputs() * shape.window.taps() * products
}

/// Along which axis the kernel lies, if this kind of convolution can do it.
fn axis(shape: &Shape) -> Option<usize> {
    let window = &shape.window;
    let axis = usize::from(window.kernel[0] == 1);
    let fits = window.kernel[1 - axis] == 1 && TAPS.contains(&window.kernel[axis]) && !window.output.contains(&0);
    (fits && shape.groups == 1 && window.is_plain()).then_some(axis)
}

/// A convolution on maps of one kind.
#[derive(Debug)]
pub struct Line {
    path: Path,
    packing: Packing,
    axis: usize,
    taps: usize,
    before: [usize; 2],
    x: Maps,
    y: Maps,
    /// Tiles of a line, and lines of a chunk at most.
    tiles: usize,
    chunk: usize,
    matrices: Matrices,
}

impl Line {
    /// The convolution of inputs like `x`, whose halo holds [`Shape::input_halo`], to outputs like `y`. `None` where the kernel is no line of three
    /// to eight taps, its stride or dilation or the number of groups is not one, or `x` is planar.
    pub fn new(path: Path, shape: &Shape, x: Maps, y: Maps) -> Option<Self> {
        let axis = axis(shape)?;
        if [x.lanes, y.lanes] != [LANES; 2] {
            return None;
        }
        let (taps, tiles) = (shape.window.kernel[axis], y.size[axis].div_ceil(OUT));
        let bytes = TILE * 4 * LANES * ((tiles + 1) * x.blocks() + tiles * y.blocks());
        let lines = y.size[1 - axis];
        let chunk = lines.div_ceil(lines.div_ceil((CHUNK / bytes).clamp(1, lines)));
        let packing = Packing::new(shape.outs, shape.ins, 1, taps, LANES);
        let before = shape.window.before;
        Some(Self { path, packing, axis, taps, before, x, y, tiles, chunk, matrices: Matrices::new() })
    }

    /// The order of the weights that [`Line::transform`] takes.
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    fn segments(&self) -> usize {
        self.taps.div_ceil(OUT)
    }

    fn depth(&self) -> usize {
        self.x.channels.next_multiple_of(RUN)
    }

    /// Floats from a block of channels to the next: of a chunk's inputs and of its outputs.
    fn blocks(&self) -> [usize; 2] {
        [odd((self.tiles + self.segments() - 1) * self.chunk), odd(self.tiles * self.chunk)]
    }

    /// Floats from a position to the next: of a chunk's inputs, of its outputs, and of the weights.
    fn steps(&self) -> [usize; 3] {
        let [inputs, outputs] = self.blocks();
        [
            odd(self.x.blocks() * inputs / LANES),
            odd(self.y.blocks() * outputs / LANES),
            odd(self.y.blocks() * self.segments() * self.depth()),
        ]
    }

    /// Floats of the transformed weights.
    pub fn len(&self) -> usize {
        TILE * self.steps()[2]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Floats that [`Line::run`] works in. Their values do not matter.
    pub fn scratch_len(&self) -> usize {
        let [inputs, outputs, _] = self.steps();
        TILE * (inputs + outputs)
    }

    /// Transforms packed weights, to `[positions][blocks of 16 outputs][segments][inputs][16]`.
    pub fn transform(&self, packed: &[f32], to: &mut [f32]) {
        assert!(packed.len() >= self.packing.len() && to.len() >= self.len(), "weights of the planned size");
        on_path!(self.path, S => self.weights::<S>(packed, to));
    }

    fn weights<S: Simd>(&self, packed: &[f32], to: &mut [f32]) {
        let [.., step] = self.steps();
        let row_of = |block, channel, tap| self.packing.row(block, channel, tap).expect("one group reads all inputs");
        for block in 0..self.y.blocks() {
            for segment in 0..self.segments() {
                let taps = segment * OUT..self.taps.min((segment + 1) * OUT);
                for channel in 0..self.depth() {
                    let place = ((block * self.segments() + segment) * self.depth() + channel) * LANES;
                    let mut rows = [0; OUT];
                    rows.iter_mut().zip(taps.clone()).for_each(|(row, tap)| *row = row_of(block, channel, tap));
                    // SAFETY: rows are in the packed weights, and every position has room for every channel; the instruction set is the path's.
                    unsafe {
                        S::run(
                            #[inline(always)]
                            || {
                                for (position, factors) in self.matrices.weights.iter().enumerate() {
                                    let mut sum = S::splat(0.0);
                                    for (row, factor) in rows[..taps.len()].iter().zip(factors) {
                                        sum = S::fma(S::splat(*factor), S::load(packed.as_ptr().add(*row)), sum);
                                    }
                                    S::store(to.as_mut_ptr().add(position * step + place), sum);
                                }
                            },
                        );
                    }
                }
            }
        }
    }

    /// One example: `y = finish(x * weights + bias)`. A bias has a number for every lane of every block.
    pub fn run(
        &self,
        transformed: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        finish: Finish,
        scratch: &mut [f32],
    ) {
        assert!(x.len() >= self.x.len() && y.len() >= self.y.len(), "maps of the planned size");
        assert!(transformed.len() >= self.len(), "weights of the planned size");
        assert!(bias.is_none_or(|bias| bias.len() >= self.y.blocks() * LANES), "a bias for every lane");
        let [inputs_step, ..] = self.steps();
        let (inputs, outputs) = scratch[..self.scratch_len()].split_at_mut(TILE * inputs_step);
        let y = Columns::new(y, self.y.len());
        let all = self.y.size[1 - self.axis];
        for first in (0..all).step_by(self.chunk) {
            let lines = first..all.min(first + self.chunk);
            on_path!(self.path, S => {
                let to = Columns::new(inputs, inputs.len());
                parallel::each(self.x.blocks(), |block| self.inputs::<S>(block, &lines, x, &to));
                let to = Columns::new(outputs, outputs.len());
                parallel::each(TILE, |position| self.products::<S>(position, lines.len(), transformed, inputs, &to));
                parallel::each(self.y.blocks(), |block| self.outputs::<S>(block, &lines, outputs, bias, &y, finish));
            });
        }
    }

    /// Floats from a pixel to the next one along the kernel's axis and across it.
    fn pixel_steps(&self, maps: &Maps) -> [usize; 2] {
        if self.axis == 0 { [maps.row(), LANES] } else { [LANES, maps.row()] }
    }

    /// A block of some lines' inputs at every position, `[tiles][lines][16]`.
    #[expect(clippy::needless_range_loop, reason = "with iterators the vectors would live in memory")]
    fn inputs<S: Simd>(&self, block: usize, lines: &Range<usize>, x: &[f32], to: &Columns<'_>) {
        let ([along, across], [step, ..], axis) = (self.pixel_steps(&self.x), self.steps(), self.axis);
        let halo = &self.x.halo;
        // What is stored of a line, from where the first output's window begins.
        let skipped = halo.before[axis] - self.before[axis];
        let stored = self.x.size[axis] + halo.before[axis] + halo.after[axis] - skipped;
        let line = (halo.before[1 - axis] - self.before[1 - axis] + lines.start) * across + skipped * along;
        let x = &x[block * self.x.block() + line..];
        let last = (lines.len() - 1) * across + (stored - 1) * along + LANES;
        assert!(x.len() >= last && to.len >= TILE * step, "a chunk of the planned size");
        // SAFETY: the assertion holds all of the lines that is stored, and beyond that nothing is read; nobody else has this block.
        unsafe {
            S::run(
                #[inline(always)]
                || {
                    for tile in 0..self.tiles + self.segments() - 1 {
                        let there = stored.saturating_sub(tile * OUT).min(TILE);
                        for line in 0..lines.len() {
                            let from = x.as_ptr().add(line * across);
                            let to = to.at(0, block * self.blocks()[0] + (tile * lines.len() + line) * LANES);
                            let mut d = [S::splat(0.0); TILE];
                            for place in 0..TILE {
                                if place < there {
                                    d[place] = S::load(from.add((tile * OUT + place) * along));
                                }
                            }
                            for position in 0..TILE {
                                let mut sum = S::splat(0.0);
                                for place in 0..TILE {
                                    sum = S::fma(S::splat(self.matrices.inputs[position][place]), d[place], sum);
                                }
                                S::store(to.add(position * step), sum);
                            }
                        }
                    }
                },
            );
        }
    }

    /// The products of inputs and weights at a position, summed over segments and channels: `[tiles][lines][16]` a block.
    fn products<S: Simd>(&self, position: usize, lines: usize, weights: &[f32], inputs: &[f32], outputs: &Columns<'_>) {
        let [in_step, out_step, weight_step] = self.steps();
        let [in_block, out_block] = self.blocks();
        let (depth, segments) = (self.depth(), self.segments());
        assert!(inputs.len() >= TILE * in_step && outputs.len >= TILE * out_step && lines <= self.chunk);
        let place =
            |segment: usize, channel: usize| segment * lines * LANES + channel / LANES * in_block + channel % LANES;
        let runs = |segment| (0..depth).step_by(RUN).map(move |channel| place(segment, channel) as u32);
        let offsets: Vec<u32> = (0..segments).flat_map(runs).collect();
        let (tiles, weights_block) = (self.tiles * lines, segments * depth * LANES);
        let most_blocks = if S::TILE[1] > 0 { 2 } else { 1 };
        for block in (0..self.y.blocks()).step_by(most_blocks) {
            let blocks = most_blocks.min(self.y.blocks() - block);
            let cuts = tiles.div_ceil(S::TILE[blocks - 1]);
            let own = position * weight_step + block * weights_block;
            let next = (own + blocks * weights_block).min(self.len());
            let mut ahead = Ahead::new([&weights[next..(next + blocks * weights_block).min(self.len())], &[]], cuts);
            for cut in 0..cuts {
                let (start, end) = (tiles * cut / cuts, tiles * (cut + 1) / cuts);
                // SAFETY: the assertions hold every position of a chunk, the caller's those of the weights, and nobody else has this
                // position; the kernels' instruction set is the path's.
                unsafe {
                    ahead.ask::<S>();
                    Kernels::<S, LANES, RUN>::ALL[blocks - 1][end - start - 1](&Tile {
                        x: inputs.as_ptr().add(position * in_step + start * LANES),
                        x_step: LANES,
                        places: std::ptr::null(),
                        offsets: offsets.as_ptr(),
                        count: offsets.len(),
                        weights: weights.as_ptr().add(own),
                        weights_block,
                        bias: std::ptr::null(),
                        resume: false,
                        y: outputs.at(0, position * out_step + block * out_block + start * LANES),
                        y_block: out_block,
                        y_step: LANES,
                        finish: Finish::PLAIN,
                    });
                }
            }
        }
    }

    /// A block of some lines' outputs.
    #[expect(clippy::needless_range_loop, reason = "with iterators the vectors would live in memory")]
    fn outputs<S: Simd>(
        &self,
        block: usize,
        lines: &Range<usize>,
        from: &[f32],
        bias: Option<&[f32]>,
        y: &Columns<'_>,
        finish: Finish,
    ) {
        let ([along, across], [_, step, _]) = (self.pixel_steps(&self.y), self.steps());
        let size = self.y.size[self.axis];
        let first = self.y.at(block, 0, 0) + lines.start * across;
        assert!(from.len() >= TILE * step && first + (lines.len() - 1) * across + (size - 1) * along < y.len);
        // SAFETY: the assertion; nobody else has this block; the instruction set is the path's.
        unsafe {
            S::run(
                #[inline(always)]
                || {
                    let bias = bias.map_or(S::splat(0.0), |bias| S::load(bias.as_ptr().add(block * LANES)));
                    for tile in 0..self.tiles {
                        for line in 0..lines.len() {
                            let from =
                                from.as_ptr().add(block * self.blocks()[1] + (tile * lines.len() + line) * LANES);
                            let to = y.at(0, first + line * across + tile * OUT * along);
                            let mut d = [S::splat(0.0); TILE];
                            for position in 0..TILE {
                                d[position] = S::load(from.add(position * step));
                            }
                            for place in 0..OUT.min(size - tile * OUT) {
                                let mut sum = bias;
                                for position in 0..TILE {
                                    sum = S::fma(S::splat(self.matrices.outputs[place][position]), d[position], sum);
                                }
                                let to = to.add(place * along);
                                S::store(to, finish.apply::<S>(sum, to));
                            }
                        }
                    }
                },
            );
        }
    }
}
