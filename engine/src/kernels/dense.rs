//! Dense convolution of any window and groups, and the gradients of its input and its weights.
//!
//! All three are the same sum over lists of places, so that strides, dilations and kernels of any size share the two microkernels
//! in `tile` and `gradient`, which read the maps as they lie. The gradient of an input of a strided convolution is one convolution
//! for each phase of the stride.

mod bf16;
mod gather;
mod int8;
mod phase;

use std::ops::Range;

use super::gradient;
use super::packing::{Packing, Slot};
use crate::maps::{Halo, Maps};
use crate::simd::{LANES, Path, Simd, on_path};
use crate::window::Window;

use gather::Gather;

pub use super::tile::Finish;
pub use bf16::Forward as Bf16Forward;
pub use int8::Forward as Int8Forward;
pub(super) use phase::{Phase, phases};

/// A convolution's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Input channels.
    pub ins: usize,
    /// Output channels.
    pub outs: usize,
    /// Groups of channels that do not see each other.
    pub groups: usize,
    /// How it slides.
    pub window: Window,
}

impl Shape {
    /// The zeros that the convolution reads around an input of this size.
    pub fn input_halo(&self, size: [usize; 2]) -> Halo {
        let window = &self.window;
        let reach = [0, 1].map(|axis| (window.output[axis] - 1) * window.stride[axis] + window.reach(axis));
        let after = [0, 1].map(|axis| reach[axis].saturating_sub(window.before[axis] + size[axis]));
        Halo { before: window.before, after }
    }

    /// The zeros that the gradient of an input of this size reads around the output's gradient.
    pub fn gradient_halo(&self, size: [usize; 2]) -> Halo {
        let mut halo = Halo::default();
        for phase in phases(&self.window, size) {
            halo = halo.union(phase.halo(self.window.output));
        }
        halo
    }
}

/// A convolution on maps of one kind.
#[derive(Debug)]
pub struct Forward {
    path: Path,
    gather: Gather,
}

impl Forward {
    /// On inputs like `x`, whose halo holds [`Shape::input_halo`], to outputs like `y`.
    pub fn new(path: Path, shape: &Shape, x: Maps, y: Maps) -> Self {
        assert!(x.channels == shape.ins && y.channels == shape.outs, "maps of the planned channels");
        assert_eq!(y.lanes, LANES, "outputs in blocks");
        let phase = Phase::forward(&shape.window);
        let packing = Packing::new(shape.outs, shape.ins, shape.groups, shape.window.taps(), x.lanes);
        let tile = on_path!(path, S => S::TILE);
        Self { path, gather: Gather::new(phase, packing, x, y, tile) }
    }

    /// The order of its weights.
    pub fn packing(&self) -> &Packing {
        &self.gather.packing
    }

    /// One example: `y = finish(x * weights + bias)`. A bias has a number for every lane of every block.
    pub fn run(&self, weights: &[f32], bias: Option<&[f32]>, x: &[f32], y: &mut [f32], finish: Finish) {
        self.run_rows(0..self.gather.phase.count[0], weights, bias, x, y, finish);
    }

    /// Some rows of one example's outputs, into maps `y` that begin with the first of them and may have fewer rows than the outputs; they may also be the rest
    /// of such maps from a row on.
    pub fn run_rows(
        &self,
        rows: Range<usize>,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        finish: Finish,
    ) {
        on_path!(self.path, S => self.gather.run::<S, _>(rows, weights, bias, x, y, finish));
    }
}

/// The gradient of a convolution's input.
#[derive(Debug)]
pub struct InputGradient {
    path: Path,
    weights: Packing,
    /// One for each phase of the stride, with where its weights begin.
    gathers: Vec<(Gather, usize)>,
}

impl InputGradient {
    /// From gradients of outputs like `dy`, whose halo holds [`Shape::gradient_halo`], to gradients of inputs like `dx`.
    pub fn new(path: Path, shape: &Shape, dx: Maps, dy: Maps) -> Self {
        assert!(dx.channels == shape.ins && dy.channels == shape.outs, "maps of the planned channels");
        assert!([dx.lanes, dy.lanes] == [LANES; 2], "gradients in blocks");
        let weights = Packing::new(shape.outs, shape.ins, shape.groups, shape.window.taps(), LANES);
        let tile = on_path!(path, S => S::TILE);
        let mut start = 0;
        let gathers = phases(&shape.window, dx.size).into_iter().map(|phase| {
            let packing = weights.transposed(phase.taps.len());
            let gather = Gather::new(phase, packing, dy, dx, tile);
            let begin = start;
            start += gather.packing.len();
            (gather, begin)
        });
        let gathers = gathers.collect();
        Self { path, weights, gathers }
    }

    /// Floats of the transposed weights.
    pub fn len(&self) -> usize {
        self.gathers.iter().map(|(gather, _)| gather.packing.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Transposes weights that are packed as the forward pass has them.
    pub fn transpose(&self, weights: &[f32], transposed: &mut [f32]) {
        for (gather, start) in &self.gathers {
            let taps: Vec<usize> = gather.phase.taps.iter().map(|(tap, _)| *tap).collect();
            self.weights.transpose(weights, &gather.packing, &taps, &mut transposed[*start..]);
        }
    }

    /// One example.
    pub fn run(&self, transposed: &[f32], dy: &[f32], dx: &mut [f32], finish: Finish) {
        for (gather, start) in &self.gathers {
            let rows = 0..gather.phase.count[0];
            on_path!(self.path, S => gather.run::<S, _>(rows, &transposed[*start..], None, dy, dx, finish));
        }
    }
}

/// The gradient of a convolution's weights.
#[derive(Debug)]
pub struct WeightGradient {
    path: Path,
    packing: Packing,
    sums: Vec<gradient::Panel>,
    shape: Shape,
    x: Maps,
    dy: Maps,
}

impl WeightGradient {
    /// From inputs like `x` and gradients of outputs like `dy`.
    pub fn new(path: Path, shape: &Shape, x: Maps, dy: Maps) -> Self {
        let window = &shape.window;
        assert!(x.halo == x.halo.union(shape.input_halo(x.size)), "zeros around the input");
        assert!(x.channels == shape.ins && dy.channels == shape.outs, "maps of the planned channels");
        assert!(dy.lanes == LANES && dy.size == window.output, "a gradient for every output");
        let packing = Packing::new(shape.outs, shape.ins, shape.groups, window.taps(), x.lanes);
        let place = |slot: Slot| {
            let tap = [slot.tap / window.kernel[1], slot.tap % window.kernel[1]];
            let [row, column] =
                [0, 1].map(|axis| (tap[axis] * window.dilation[axis]) as isize - window.before[axis] as isize);
            x.at(slot.channel / x.lanes, row, column) + slot.channel % x.lanes
        };
        let [_, most] = on_path!(path, S => S::GRADIENT);
        let mut sums = Vec::new();
        let mut block = 0;
        while block < packing.blocks() {
            let two = most > 1 && block + 1 < packing.blocks() && packing.reads_alike(block, block + 1);
            let blocks = if two { 2 } else { 1 };
            let run = packing.run();
            let rows = packing.slots(block).flat_map(|slot| (0..run).map(move |input| place(slot) + input)).collect();
            sums.push(gradient::Panel { block, blocks, rows });
            block += blocks;
        }
        Self { path, packing, sums, shape: *shape, x, dy }
    }

    /// The order of its sums: that of the weights.
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Adds one example's gradient to `dw`; [`Packing::clear_padding`] after the last one.
    pub fn add(&self, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        assert!(x.len() >= self.x.len() && dy.len() >= self.dy.len(), "maps of the planned size");
        assert!(dw.len() >= self.packing.len(), "sums of the planned size");
        let window = &self.shape.window;
        let walk = gradient::Walk {
            count: window.output,
            x_step: [window.stride[0] * self.x.row(), window.stride[1] * self.x.lanes],
            dy_row: self.dy.row(),
            dy_block: self.dy.block(),
            fresh: false,
        };
        let first = self.dy.at(0, 0, 0);
        for panel in &self.sums {
            let dy = &dy[first + panel.block * self.dy.block()..];
            let block = self.packing.start(panel.block + 1) - self.packing.start(panel.block);
            let dw = &mut dw[self.packing.start(panel.block)..];
            // SAFETY: the places of `panel` are inside `x` for every output, by the halo that it was planned with.
            on_path!(self.path, S => unsafe { gradient::add::<S>(panel, &walk, x, dy, dw, block) });
        }
    }
}
