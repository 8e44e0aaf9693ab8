//! Winograd's convolution along one axis, for kernels of one row or one column: `F(4, 4)` and `F(6, 4)`.
//!
//! The taps are cut into segments of four. A product sums over segments and channels, so that all segments share the transform back.

mod points;

use std::ops::Range;

use super::super::dense::{Finish, Shape};
use super::super::packing::{Packing, RUN};
use super::odd;
use super::products::Products;
use crate::maps::Maps;
use crate::parallel::{self, Columns};
use crate::simd::{LANES, Path, Simd, on_path};

/// Taps of a segment.
const SEGMENT: usize = 4;
/// Taps that kernels may have.
const TAPS: std::ops::RangeInclusive<usize> = 3..=8;
/// Bytes of transformed inputs and outputs that are worked on at once. Of these a position's stay in a core's second cache, while all of its weights pass, which
/// come from farther away: lines of 192 channels at 17x17, 1 MiB, take a tenth longer in two chunks.
const CHUNK: usize = 1200 << 10;

/// Outputs of a tile, which has `OUT + SEGMENT - 1` inputs and points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F4,
    F6,
}

/// Calls generic code with a kind's tile and outputs.
macro_rules! on_kind {
    ($kind:expr, $tile:ident $out:ident => $body:expr) => {
        match $kind {
            Kind::F4 => {
                const $tile: usize = 7;
                const $out: usize = 4;
                $body
            }
            Kind::F6 => {
                const $tile: usize = 9;
                const $out: usize = 6;
                $body
            }
        }
    };
}

impl Kind {
    /// The one that takes the least time for one example, with its [`Kind::cost`].
    fn fastest(shape: &Shape, axis: usize) -> (Self, usize) {
        let costs = [Self::F4, Self::F6].map(|kind| (kind, kind.cost(shape, axis)));
        costs.into_iter().min_by_key(|(_, cost)| *cost).expect("there are two")
    }

    /// Products of sixteen of one example, and what transforms and weights take; counted as in [`super::pays`].
    fn cost(self, shape: &Shape, axis: usize) -> usize {
        let [ins, outs] = [shape.ins, shape.outs].map(|channels| channels.div_ceil(LANES));
        let segments = shape.window.kernel[axis].div_ceil(SEGMENT);
        let products = segments * shape.ins.next_multiple_of(RUN) * outs;
        let [out, points] = self.sizes();
        let tiles = shape.window.output[1 - axis] * shape.window.output[axis].div_ceil(out);
        let transformed = if out == SEGMENT { ins } else { segments * ins };
        points * (tiles * (products + 10 * (transformed + outs)) + 4 * products)
    }

    /// Outputs and points.
    fn sizes(self) -> [usize; 2] {
        on_kind!(self, TILE OUT => [OUT, TILE])
    }
}

/// Whether it takes less time for one example than a dense convolution that computes `at_once` products in the time of one; counted as in
/// [`super::pays`].
pub fn pays(shape: &Shape, at_once: usize) -> bool {
    let dense =
        shape.window.outputs() * shape.window.taps() * shape.ins.next_multiple_of(RUN) * shape.outs.div_ceil(LANES);
    axis(shape).is_some_and(|axis| Kind::fastest(shape, axis).1 * at_once < dense)
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
    kind: Kind,
    packing: Packing,
    axis: usize,
    taps: usize,
    before: [usize; 2],
    x: Maps,
    y: Maps,
    /// Tiles of a line, and lines of a chunk at most.
    tiles: usize,
    chunk: usize,
}

impl Line {
    /// The convolution of inputs like `x`, whose halo holds [`Shape::input_halo`], to outputs like `y`. `None` where the kernel is no line of three
    /// to eight taps, its stride or dilation or the number of groups is not one, or `x` is planar.
    pub fn new(path: Path, shape: &Shape, x: Maps, y: Maps) -> Option<Self> {
        let axis = axis(shape)?;
        if [x.lanes, y.lanes] != [LANES; 2] {
            return None;
        }
        let (kind, _) = Kind::fastest(shape, axis);
        let (taps, tiles) = (shape.window.kernel[axis], y.size[axis].div_ceil(kind.sizes()[0]));
        let (packing, before) = (Packing::new(shape.outs, shape.ins, 1, taps, LANES), shape.window.before);
        let made = Self { path, kind, packing, axis, taps, before, x, y, tiles, chunk: 1 };
        let bytes = kind.sizes()[1] * 4 * LANES * (made.places() * x.blocks() + tiles * y.blocks());
        Some(made.in_chunks(CHUNK / bytes))
    }

    /// The same with chunks of at most so many lines, as good as even.
    pub(in crate::kernels) fn in_chunks(mut self, most: usize) -> Self {
        let lines = self.y.size[1 - self.axis];
        self.chunk = lines.div_ceil(lines.div_ceil(most.clamp(1, lines)));
        self
    }

    /// The order of the weights that [`Line::transform`] takes.
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    fn segments(&self) -> usize {
        self.taps.div_ceil(SEGMENT)
    }

    /// Tiles of inputs of a line. Where a segment is as long as a tile's outputs, it begins where the next tile's first one does, and they share it.
    fn places(&self) -> usize {
        if self.shares() { self.tiles + self.segments() - 1 } else { self.tiles * self.segments() }
    }

    fn shares(&self) -> bool {
        self.kind.sizes()[0] == SEGMENT
    }

    /// The number of a segment's first tile of inputs.
    fn first(&self, segment: usize) -> usize {
        if self.shares() { segment } else { segment * self.tiles }
    }

    /// Where a tile of inputs begins in its line.
    fn start(&self, place: usize) -> usize {
        let [out, _] = self.kind.sizes();
        if self.shares() { place * out } else { place % self.tiles * out + place / self.tiles * SEGMENT }
    }

    fn points(&self) -> usize {
        self.kind.sizes()[1]
    }

    fn depth(&self) -> usize {
        self.x.channels.next_multiple_of(RUN)
    }

    /// Floats from a block of channels to the next: of a chunk's inputs and of its outputs.
    fn blocks(&self) -> [usize; 2] {
        [odd(self.places() * self.chunk), odd(self.tiles * self.chunk)]
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
        self.points() * self.steps()[2]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Floats that [`Line::run`] works in. Their values do not matter.
    pub fn scratch_len(&self) -> usize {
        let [inputs, outputs, _] = self.steps();
        self.points() * (inputs + outputs)
    }

    /// Transforms packed weights, to `[positions][blocks of 16 outputs][segments][inputs][16]`.
    pub fn transform(&self, packed: &[f32], to: &mut [f32]) {
        assert!(packed.len() >= self.packing.len() && to.len() >= self.len(), "weights of the planned size");
        on_path!(self.path, S => on_kind!(self.kind, TILE _OUT => self.weights::<S, TILE>(packed, to)));
    }

    fn weights<S: Simd, const TILE: usize>(&self, packed: &[f32], to: &mut [f32]) {
        let [.., step] = self.steps();
        let row_of = |block, channel, tap| self.packing.row(block, channel, tap).expect("one group reads all inputs");
        for block in 0..self.y.blocks() {
            for segment in 0..self.segments() {
                let taps = segment * SEGMENT..self.taps.min((segment + 1) * SEGMENT);
                for channel in 0..self.depth() {
                    let place = ((block * self.segments() + segment) * self.depth() + channel) * LANES;
                    let mut rows = [0; SEGMENT];
                    rows.iter_mut().zip(taps.clone()).for_each(|(row, tap)| *row = row_of(block, channel, tap));
                    // SAFETY: rows are in the packed weights, and every position has room for every channel; the instruction set is the path's.
                    unsafe {
                        S::run(
                            #[inline(always)]
                            || {
                                let mut own = [S::splat(0.0); SEGMENT];
                                for (tap, row) in own[..taps.len()].iter_mut().zip(rows) {
                                    *tap = S::load(packed.as_ptr().add(row));
                                }
                                for (position, value) in points::weights::<S, TILE>(&own).into_iter().enumerate() {
                                    S::store(to.as_mut_ptr().add(position * step + place), value);
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
        let (inputs, outputs) = scratch[..self.scratch_len()].split_at_mut(self.points() * inputs_step);
        let y = Columns::new(y, self.y.len());
        let all = self.y.size[1 - self.axis];
        for first in (0..all).step_by(self.chunk) {
            let lines = first..all.min(first + self.chunk);
            on_path!(self.path, S => on_kind!(self.kind, TILE OUT => {
                let to = Columns::new(inputs, inputs.len());
                parallel::each(self.x.blocks(), |block| self.inputs::<S, TILE>(block, &lines, x, &to));
                let to = Columns::new(outputs, outputs.len());
                parallel::each(TILE, |position| self.products::<S>(position, lines.len(), transformed, inputs, &to));
                parallel::each(self.y.blocks(), |block| {
                    self.outputs::<S, TILE, OUT>(block, &lines, outputs, bias, &y, finish);
                });
            }));
        }
    }

    /// Floats from a pixel to the next one along the kernel's axis and across it.
    fn pixel_steps(&self, maps: &Maps) -> [usize; 2] {
        if self.axis == 0 { [maps.row(), LANES] } else { [LANES, maps.row()] }
    }

    /// A block of some lines' inputs at every position, `[tiles][lines][16]`.
    #[expect(clippy::needless_range_loop, reason = "with iterators the vectors would live in memory")]
    fn inputs<S: Simd, const TILE: usize>(&self, block: usize, lines: &Range<usize>, x: &[f32], to: &Columns<'_>) {
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
                    for tile in 0..self.places() {
                        let start = self.start(tile);
                        let there = stored.saturating_sub(start).min(TILE);
                        for line in 0..lines.len() {
                            let from = x.as_ptr().add(line * across);
                            let to = to.at(0, block * self.blocks()[0] + (tile * lines.len() + line) * LANES);
                            let mut d = [S::splat(0.0); TILE];
                            for place in 0..TILE {
                                if place < there {
                                    d[place] = S::load(from.add((start + place) * along));
                                }
                            }
                            let values = points::inputs::<S, TILE>(&d);
                            for position in 0..TILE {
                                S::store(to.add(position * step), values[position]);
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
        let points = self.points();
        assert!(inputs.len() >= points * in_step && outputs.len >= points * out_step && lines <= self.chunk);
        let place = |segment: usize, channel: usize| {
            self.first(segment) * lines * LANES + channel / LANES * in_block + channel % LANES
        };
        let runs = |segment| (0..depth).step_by(RUN).map(move |channel| place(segment, channel) as u32);
        let offsets: Vec<u32> = (0..segments).flat_map(runs).collect();
        let (weights, beyond) = weights[position * weight_step..self.len()].split_at(weight_step);
        let products = Products {
            offsets: &offsets,
            tiles: self.tiles * lines,
            blocks: self.y.blocks(),
            weights,
            beyond,
            x: inputs[position * in_step..].as_ptr(),
            y: outputs.at(0, position * out_step),
            y_block: out_block,
        };
        // SAFETY: the assertion holds every position of a chunk, and nobody else has this one; the instruction set is the path's.
        unsafe { products.run::<S>() };
    }

    /// A block of some lines' outputs.
    #[expect(clippy::needless_range_loop, reason = "with iterators the vectors would live in memory")]
    fn outputs<S: Simd, const TILE: usize, const OUT: usize>(
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
                            let sums = points::outputs::<S, TILE, OUT>(&d, bias);
                            for place in 0..OUT {
                                if place < size - tile * OUT {
                                    let to = to.add(place * along);
                                    S::store(to, finish.apply::<S>(sums[place], to));
                                }
                            }
                        }
                    }
                },
            );
        }
    }
}
