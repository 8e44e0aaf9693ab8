//! Winograd's convolution (Lavin and Gray 2015, "Fast Algorithms for Convolutional Neural Networks") for kernels of 3x3 and 5x5
//! of stride one, the gradient of its input, which is such a convolution as well, and that of its weights.
//!
//! Tiles of the maps are transformed, multiplied position by position with transformed weights, and transformed
//! back: `F(4x4, 3x3)` takes 36 products for 16 outputs instead of 144, `F(2x2, 5x5)` 36 for 4 instead of 100, `F(2x2, 3x3)` 16 for 4 instead of 36.
//! The products are matrices of tiles by channels, so that several examples together fill them where
//! maps are small; a tile's sums are taken one after the other, whatever stands beside it.

/// Calls generic code with a kind's tile, kernel and outputs along one axis.
macro_rules! on_kind {
    ($kind:expr, $tile:ident $kernel:ident $out:ident => $body:expr) => {
        match $kind {
            Kind::F4x3 => {
                const $tile: usize = 6;
                const $kernel: usize = 3;
                const $out: usize = 4;
                $body
            }
            Kind::F2x3 => {
                const $tile: usize = 4;
                const $kernel: usize = 3;
                const $out: usize = 2;
                $body
            }
            Kind::F2x5 => {
                const $tile: usize = 6;
                const $kernel: usize = 5;
                const $out: usize = 2;
                $body
            }
        }
    };
}

mod gradient;
pub mod line;
mod passes;
mod products;
mod transform;

pub use gradient::WeightGradient;
pub use line::Line;

use std::ops::Range;

use super::dense::{Finish, Shape};
use super::packing::{Packing, RUN};
use crate::maps::Maps;
use crate::parallel::{self, Columns};
use crate::simd::{LANES, Path, on_path};
use crate::team;

/// Bytes of transformed inputs and outputs that are worked on at once: they stay in a core's second cache beside the weights. From
/// 160 to 960 KiB nothing changes by more than a tenth.
const CHUNK: usize = 320 << 10;

/// Tiles that share a pass over the weights at least, where channels are so many that their chunk passes [`CHUNK`]: weights
/// of 512 by 512 channels are 36 MiB and come from memory.
const LEAST: usize = 56;

/// Bytes of scratch that each of several threads may have: no account of a network's memory has it, so it is bounded. 512 by 512 channels take half.
const APART: usize = 16 << 20;

/// Outputs and taps of a tile along one axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    F4x3,
    F2x3,
    F2x5,
}

impl Kind {
    /// Those that suit a kernel; none where nothing does.
    fn all(shape: &Shape, outputs: [usize; 2]) -> &'static [Self] {
        if shape.groups != 1 || !shape.window.is_plain() || outputs.contains(&0) {
            return &[];
        }
        match shape.window.kernel {
            [3, 3] => &[Self::F4x3, Self::F2x3],
            [5, 5] => &[Self::F2x5],
            _ => &[],
        }
    }

    /// The one with the fewest products: the fastest where many examples share the weights.
    fn of(shape: &Shape, outputs: [usize; 2]) -> Option<Self> {
        let products = |kind: &&Self| kind.tiles(outputs).iter().product::<usize>() * kind.positions();
        Self::all(shape, outputs).iter().min_by_key(products).copied()
    }

    /// The fastest for so many examples at once.
    fn fastest(shape: &Shape, outputs: [usize; 2], examples: usize) -> Option<Self> {
        Self::all(shape, outputs).iter().min_by_key(|kind| kind.cost(shape, outputs, examples, FORWARDS)).copied()
    }

    /// What so many examples take, in products of sixteen; see [`pays`].
    fn cost(self, shape: &Shape, outputs: [usize; 2], examples: usize, Cost { transform, weights }: Cost) -> usize {
        let [ins, outs] = [shape.ins, shape.outs].map(|channels| channels.div_ceil(LANES));
        let products = shape.ins.next_multiple_of(RUN) * outs;
        let bytes = self.positions() * products * LANES * 4;
        let weight = weights[usize::from(bytes > 1 << 20) + usize::from(bytes > 16 << 20)];
        let tiles = examples * self.tiles(outputs).iter().product::<usize>();
        self.positions() * (tiles * (products + transform * (ins + outs)) + weight * products)
    }

    fn tiles(self, outputs: [usize; 2]) -> [usize; 2] {
        on_kind!(self, _T _K OUT => outputs.map(|size| size.div_ceil(OUT)))
    }

    fn positions(self) -> usize {
        on_kind!(self, TILE _K _O => TILE * TILE)
    }
}

/// Whether Winograd's convolution takes less time than a dense one that computes `at_once` products in the time of one (two in bf16), for this
/// many examples at once; `false` where it does not apply. The gradient of the input has much the same answer.
///
/// Counted in products of sixteen, beside what transforms and weights were measured to cost on AVX-512: transforms
/// as much as ten products at every position of a tile of sixteen channels, of inputs and of outputs; a vector of weights two from the second cache, four
/// from the third, sixteen from memory. So it pays
/// - for 3x3 from 16 channels on (1.7 times as fast as the dense one at 16, 2.3 at 32, 2.9 at 64) where tiles of 4x4 cover maps with little waste: not at 5x5;
/// - for 5x5 from 16 channels on at 14x14 and more (1.3, and 2.0 at 32 to 64);
/// - on maps of one or four tiles, as soon as there are many channels, with tiles of 4x4 for several examples only (512 at 7x7 reach 0.65 for one,
///   1.5 and more for 16); for one with tiles of 2x2, whose weights are less than half as many (1.15; 1.6 with AVX2).
///
/// Weights have to be transformed once before: as long as the dense convolution of half an example of 64 channels at 8x8 takes, two for
/// the gradient, and the larger part of the smaller the maps.
pub fn pays(shape: &Shape, examples: usize, at_once: usize) -> bool {
    let outputs = shape.window.output;
    let kind = Kind::fastest(shape, outputs, examples);
    kind.is_some_and(|kind| kind.cost(shape, outputs, examples, FORWARDS) * at_once < dense_cost(shape, examples))
}

/// Whether the gradient of weights by [`WeightGradient`] takes less time than the dense one, for this many examples in a call.
///
/// Counted as in [`pays`], against a dense gradient that is slower than the dense convolution: transforms as much as six products; a vector of
/// sums, which is stored, loaded and transformed back, seven in the second cache, nine in the third, and 48 in memory. So it pays
/// - for 3x3 from 16 channels on (for eight examples 2.2 times as fast as the dense one for 16 channels at 32x32, 2.8 for 32 at 16x16, 3.4 for 64 at 8x8,
///   2.5 for 256 at 14x14), for 5x5 as well (1.7 for 16 at 28x28, 2.3 for 32 to 64 at 14x14);
/// - for maps of a few tiles only for several examples: 64 channels at 4x4 reach 0.6 for one and 2.8 for eight, 512 at 7x7 0.5 and 1.2.
pub fn gradient_pays(shape: &Shape, examples: usize) -> bool {
    let outputs = shape.window.output;
    let cost = Cost { transform: 6, weights: [7, 9, 48] };
    let kind = Kind::of(shape, outputs);
    kind.is_some_and(|kind| kind.cost(shape, outputs, examples, cost) < dense_cost(shape, examples))
}

/// What costs beside the products at the points, each as so many of sixteen.
#[derive(Debug, Clone, Copy)]
struct Cost {
    /// Transforming a channel at a position.
    transform: usize,
    /// A vector of weights, where all of them take up to 1 MiB, up to 16 MiB, and more.
    weights: [usize; 3],
}

/// Of the convolution and of the gradient of its input.
const FORWARDS: Cost = Cost { transform: 10, weights: [2, 4, 16] };

/// Products of sixteen of a dense convolution.
fn dense_cost(shape: &Shape, examples: usize) -> usize {
    let products = shape.ins.next_multiple_of(RUN) * shape.outs.div_ceil(LANES);
    examples * shape.window.outputs() * shape.window.taps() * products
}

/// A convolution, or the gradient of its input, on maps of one kind.
#[derive(Debug)]
pub struct Winograd {
    path: Path,
    kind: Kind,
    /// The order of the convolution's weights.
    packing: Packing,
    /// Whether this is the gradient of the convolution's input.
    turned: bool,
    x: Maps,
    y: Maps,
    /// Zeros before the first row and column; fewer than none where the first ones are not read.
    before: [isize; 2],
    tiles: [usize; 2],
    /// Tiles of a chunk at most.
    chunk: usize,
    /// Where each run of inputs lies in a chunk.
    offsets: Vec<u32>,
}

/// An odd number of cache lines: positions that are so far apart share no sets.
fn odd(lines: usize) -> usize {
    (lines | 1) * LANES
}

impl Winograd {
    /// The convolution of inputs like `x`, whose halo holds [`Shape::input_halo`], to outputs like `y`.
    ///
    /// `None` where the window's kernel is neither 3x3 nor 5x5, its stride or dilation or the number of groups is not one, or `x` is planar.
    pub fn new(path: Path, shape: &Shape, x: Maps, y: Maps) -> Option<Self> {
        let before = shape.window.before.map(|before| before as isize);
        Self::build(path, shape, false, before, x, y)
    }

    /// The gradient of inputs like `dx` from gradients of outputs like `dy`, whose halo holds
    /// [`Shape::gradient_halo`]: the convolution with turned and transposed weights. `None` as for [`Winograd::new`].
    pub fn gradient(path: Path, shape: &Shape, dx: Maps, dy: Maps) -> Option<Self> {
        let before = [0, 1].map(|axis| shape.window.kernel[axis] as isize - 1 - shape.window.before[axis] as isize);
        Self::build(path, shape, true, before, dy, dx)
    }

    /// The same for so many examples at once, where other tiles are faster: few examples share large weights.
    #[must_use]
    pub fn for_examples(self, shape: &Shape, examples: usize) -> Self {
        let kind = Kind::fastest(shape, self.y.size, examples).unwrap_or(self.kind);
        self.with_kind(kind)
    }

    fn build(path: Path, shape: &Shape, turned: bool, before: [isize; 2], x: Maps, y: Maps) -> Option<Self> {
        let kind = Kind::of(shape, y.size)?;
        if [x.lanes, y.lanes] != [LANES; 2] {
            return None;
        }
        let packing = Packing::new(shape.outs, shape.ins, 1, shape.window.taps(), LANES);
        let made = Self { path, kind, packing, turned, x, y, before, tiles: [0; 2], chunk: 0, offsets: Vec::new() };
        Some(made.with_kind(kind))
    }

    fn with_kind(self, kind: Kind) -> Self {
        let bytes = kind.positions() * 4 * LANES * (self.x.blocks() + self.y.blocks());
        let tiles = kind.tiles(self.y.size);
        Self { kind, tiles, ..self }.in_chunks((CHUNK / bytes).max(LEAST))
    }

    /// The same with other chunks.
    pub(super) fn in_chunks(mut self, chunk: usize) -> Self {
        self.chunk = chunk;
        let place = |channel: usize| channel / LANES * self.block() + channel % LANES;
        self.offsets = (0..self.depth()).step_by(RUN).map(|channel| place(channel) as u32).collect();
        self
    }

    /// Input channels, in whole runs.
    fn depth(&self) -> usize {
        self.x.channels.next_multiple_of(RUN)
    }

    /// Floats from a block of channels of a chunk to the next.
    fn block(&self) -> usize {
        odd(self.chunk)
    }

    /// Floats from a position to the next one: of a chunk's inputs, of its outputs, and of the weights.
    fn steps(&self) -> [usize; 3] {
        let lines = |floats: usize| odd(floats / LANES);
        [
            lines(self.x.blocks() * self.block()),
            lines(self.y.blocks() * self.block()),
            lines(self.y.blocks() * self.depth() * LANES),
        ]
    }

    /// The order of the convolution's weights, also for the gradient: that of [`Forward`](super::dense::Forward).
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Floats of the transformed weights.
    pub fn len(&self) -> usize {
        self.kind.positions() * self.steps()[2]
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Floats that [`Winograd::run`] works in. Their values do not matter.
    pub fn scratch_len(&self) -> usize {
        let [inputs, outputs, _] = self.steps();
        self.kind.positions() * (inputs + outputs)
    }

    /// Tiles of so many examples.
    fn tiles_of(&self, examples: usize) -> usize {
        examples * self.tiles[0] * self.tiles[1]
    }

    /// Some tiles, in chunks that are as good as even: a last one of few tiles would read all weights for little.
    fn chunks(&self, tiles: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let all = tiles.len();
        let chunk = all.div_ceil(all.div_ceil(self.chunk).max(1)).max(1);
        (tiles.start..tiles.end).step_by(chunk).map(move |first| first..tiles.end.min(first + chunk))
    }

    /// Transforms the convolution's weights, packed as [`Winograd::packing`] says, for this direction.
    pub fn transform(&self, weights: &[f32], to: &mut [f32]) {
        assert!(weights.len() >= self.packing.len() && to.len() >= self.len(), "weights of the planned size");
        on_path!(self.path, S => on_kind!(self.kind, TILE KERNEL _OUT => self.weights::<S, KERNEL, TILE>(weights, to)));
    }

    /// As many examples as `x` holds, one after the other: `y = finish(x * weights + bias)`. A bias has a number for every lane of every block.
    /// An example's bits do not depend on the others.
    pub fn run(
        &self,
        transformed: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        finish: Finish,
        scratch: &mut [f32],
    ) {
        let examples = x.len() / self.x.len();
        assert!(x.len() == examples * self.x.len() && y.len() == examples * self.y.len(), "maps of the planned size");
        assert!(transformed.len() >= self.len(), "weights of the planned size");
        assert!(scratch.len() >= self.scratch_len(), "scratch of the planned size");
        assert!(bias.is_none_or(|bias| bias.len() >= self.y.blocks() * LANES), "a bias for every lane");
        self.some(0..self.tiles_of(examples), transformed, bias, x, &Columns::new(y, self.y.len()), finish, scratch);
    }

    /// Whether threads that share an example should each take some tiles, and read all weights, rather than some positions, and exchange transformed tiles:
    /// they do what moves less between cores.
    pub fn is_better_apart(&self) -> bool {
        let (threads, tiles) = (team::threads(), self.tiles_of(1));
        let transformed = self.kind.positions() * tiles * LANES * (self.x.blocks() + self.y.blocks());
        let fits = self.scratch_len() * size_of::<f32>() <= APART;
        threads > 1 && tiles >= 4 * threads && (threads - 1) * self.len() <= transformed && fits
    }

    /// One example, whose tiles threads share once: each reads all weights, and what it computes from its tiles stays with it.
    pub fn run_apart(&self, transformed: &[f32], bias: Option<&[f32]>, x: &[f32], y: &mut [f32], finish: Finish) {
        assert!(x.len() == self.x.len() && y.len() == self.y.len(), "maps of the planned size");
        assert!(transformed.len() >= self.len(), "weights of the planned size");
        assert!(bias.is_none_or(|bias| bias.len() >= self.y.blocks() * LANES), "a bias for every lane");
        let y = Columns::new(y, self.y.len());
        parallel::ranges(0..self.tiles_of(1), |tiles| {
            parallel::with_scratch(self.scratch_len(), |scratch| {
                self.some(tiles, transformed, bias, x, &y, finish, scratch);
            });
        });
    }

    /// Some tiles, whose examples lie one after the other.
    #[expect(clippy::too_many_arguments, reason = "operands of a sum")]
    fn some(
        &self,
        tiles: Range<usize>,
        transformed: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &Columns<'_>,
        finish: Finish,
        scratch: &mut [f32],
    ) {
        let [inputs_step, ..] = self.steps();
        let (inputs, outputs) = scratch.split_at_mut(self.kind.positions() * inputs_step);
        for tiles in self.chunks(tiles) {
            // Passes one after the other, each by all threads, which share a chunk's weights, or by one that has tiles of its own.
            on_path!(self.path, S => on_kind!(self.kind, TILE KERNEL OUT => {
                let to = Columns::new(inputs, inputs.len());
                self.share(&tiles, |first, tiles| self.inputs::<S, TILE, OUT>(x, tiles, first, &to));
                let to = Columns::new(outputs, outputs.len());
                parallel::ranges(0..self.kind.positions(), |at| {
                    self.products::<S>(at, transformed, tiles.len(), inputs, &to);
                });
                self.share(&tiles, |first, tiles| self.outputs::<S, TILE, OUT>(outputs, tiles, first, bias, y, finish));
                const { assert!(TILE + 1 == KERNEL + OUT) };
            }));
        }
    }

    /// Calls `f(number of the first in the chunk, tiles)` for parts of a chunk.
    fn share(&self, tiles: &Range<usize>, f: impl Fn(usize, Range<usize>) + Sync) {
        parallel::ranges(tiles.clone(), |part| f(part.start - tiles.start, part));
    }
}
