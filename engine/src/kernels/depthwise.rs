//! Depthwise convolution of any window, and the gradients of its input and its weights: sixteen channels at a time, each with a kernel of
//! its own.
//!
//! Outputs, and the gradients of inputs for each phase of the stride, are sums over lines of taps that lie side by side: a few outputs
//! of a row stay in registers, and so do a line's weights. Lines of two, three and five taps (kernels of 3x3 and 5x5, and the
//! phases of their strides) share what they read; other windows are lines of one tap.

mod line;
mod sums;

use std::ops::Range;

use super::dense::{Finish, Phase, Shape, phases};
use crate::maps::Maps;
use crate::parallel::{self, Columns};
use crate::simd::{LANES, Path, on_path};
use crate::team;
use line::Line;

/// Copies weights `[channels, taps]` into `[channels / 16][taps][16]`; lanes beyond the last channel are zero.
pub fn pack(weights: &[f32], taps: usize, packed: &mut [f32]) {
    packed.fill(0.0);
    for (index, weight) in weights.iter().enumerate() {
        packed[place(index, taps)] = *weight;
    }
}

/// Copies weights `[channels, taps]` out.
pub fn unpack(packed: &[f32], taps: usize, weights: &mut [f32]) {
    for (index, weight) in weights.iter_mut().enumerate() {
        *weight = packed[place(index, taps)];
    }
}

fn place(index: usize, taps: usize) -> usize {
    let (channel, tap) = (index / taps, index % taps);
    (channel / LANES * taps + tap) * LANES + channel % LANES
}

/// Floats of packed weights.
pub fn packed_len(channels: usize, taps: usize) -> usize {
    channels.next_multiple_of(LANES) * taps
}

/// # Panics
/// Where it is no depthwise convolution.
fn check(shape: &Shape, x: &Maps, y: &Maps) {
    assert_eq!(y.size, shape.window.output, "maps of the planned size");
    assert!(shape.ins == shape.groups && shape.outs == shape.groups, "a kernel for each channel");
    assert!([x.lanes, y.lanes] == [LANES; 2], "blocks of channels");
    assert!([x.channels, y.channels] == [shape.ins; 2], "maps of the planned channels");
}

/// Outputs that sum over the same taps, on maps of one kind.
#[derive(Debug)]
struct Gather {
    lines: Vec<Line>,
    /// Taps in the lines' order.
    taps: Vec<usize>,
    count: [usize; 2],
    /// Floats from an output's source to the next row's and column's, and from an output to the next row's and column's.
    x_step: [usize; 2],
    y_step: [usize; 2],
    /// Where the first output is.
    first: usize,
    kernel: line::Kernel,
}

impl Gather {
    fn new(path: Path, mut phase: Phase, x: &Maps, y: &Maps) -> Self {
        phase.taps.sort_by_key(|(_, place)| *place);
        let place = |[row, column]: [isize; 2]| x.at(0, row, column);
        // The taps are a rectangle: its rows are lines where the taps of each are side by side.
        let width = phase.taps.chunk_by(|(_, a), (_, b)| a[0] == b[0]).map(<[_]>::len).next().unwrap_or(1);
        let side_by_side =
            phase.taps.chunks(width).all(|line| line[width - 1].1[1] - line[0].1[1] == width as isize - 1);
        let x_step = [phase.source_step[0] * x.row(), phase.source_step[1] * LANES];
        let (kernel, width) =
            on_path!(path, S => line::kernel::<S>(if side_by_side { width } else { 1 }, phase.source_step[1]));
        let starts = phase.taps.iter().map(|(_, at)| place(*at)).step_by(width);
        Self {
            lines: starts.enumerate().map(|(index, x)| Line { x, weights: index * width * LANES }).collect(),
            taps: phase.taps.iter().map(|(tap, _)| *tap).collect(),
            count: phase.count,
            x_step,
            y_step: [phase.step[0] * y.row(), phase.step[1] * LANES],
            first: y.at(0, phase.first[0] as isize, phase.first[1] as isize),
            kernel,
        }
    }

    /// Adds up some rows of a block of channels, whose outputs begin at `y`.
    ///
    /// # Safety
    /// `x` holds a block of the maps, which nobody writes; `y` is good for one, and nobody else reads or writes these rows.
    unsafe fn run(
        &self,
        rows: Range<usize>,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: *mut f32,
        finish: Finish,
    ) {
        assert!(weights.len() >= self.taps.len() * LANES && bias.is_none_or(|bias| bias.len() >= LANES));
        let [all, columns] = self.count;
        assert!(rows.end <= all, "rows of the maps");
        for row in rows {
            // SAFETY: the maps' halos hold every tap of every output, and their slices are a block's; the kernel's instruction set is the path's.
            unsafe {
                (self.kernel)(&line::Row {
                    lines: &self.lines,
                    x: x.as_ptr().add(row * self.x_step[0]),
                    x_step: self.x_step[1],
                    weights: weights.as_ptr(),
                    bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
                    y: y.add(self.first + row * self.y_step[0]),
                    y_step: self.y_step[1],
                    count: columns,
                    finish,
                });
            }
        }
    }
}

/// A depthwise convolution on maps of one kind.
#[derive(Debug)]
pub struct Forward {
    gather: Gather,
    x: Maps,
    y: Maps,
}

impl Forward {
    /// On inputs like `x`, whose halo holds [`Shape::input_halo`], to outputs like `y`. The shape has as many groups as channels.
    pub fn new(path: Path, shape: &Shape, x: Maps, y: Maps) -> Self {
        check(shape, &x, &y);
        assert!(x.halo == x.halo.union(shape.input_halo(x.size)), "zeros around the input");
        Self { gather: Gather::new(path, Phase::forward(&shape.window), &x, &y), x, y }
    }

    /// One example: `y = finish(x * weights + bias)`; weights as [`pack`] has them, a bias for every lane of every block.
    pub fn run(&self, weights: &[f32], bias: Option<&[f32]>, x: &[f32], y: &mut [f32], finish: Finish) {
        self.run_rows(self.gather.count[0], weights, bias, x, y, finish);
    }

    /// The first rows of one example's outputs.
    pub fn run_rows(
        &self,
        rows: usize,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        finish: Finish,
    ) {
        assert!(x.len() >= self.x.len() && y.len() >= self.y.len(), "maps of the planned size");
        let taps = self.gather.taps.len() * LANES;
        assert!(weights.len() >= self.x.blocks() * taps, "weights of the planned size");
        assert!(bias.is_none_or(|bias| bias.len() >= self.y.blocks() * LANES), "a bias for every lane");
        let blocks = self.x.blocks();
        let y = Columns::new(y, self.y.len());
        let some = |blocks: Range<usize>, rows: Range<usize>| {
            for block in blocks {
                let (x, y) = (&x[block * self.x.block()..], y.at(0, block * self.y.block()));
                let bias = bias.map(|bias| &bias[block * LANES..]);
                // SAFETY: the lengths are checked; no two calls have the same rows of a block.
                unsafe { self.gather.run(rows.clone(), &weights[block * taps..], bias, x, y, finish) };
            }
        };
        // Rows as dense convolutions share them, as long as there are many: what a thread reads it has written.
        if rows >= 4 * team::threads() {
            parallel::ranges(0..rows, |rows| some(0..blocks, rows));
        } else {
            parallel::ranges(0..blocks, |blocks| some(blocks, 0..rows));
        }
    }
}

/// The gradient of a depthwise convolution's input.
#[derive(Debug)]
pub struct InputGradient {
    /// One for each phase of the stride.
    gathers: Vec<Gather>,
    /// Taps of the convolution's kernel, and of all phases; some may meet no output.
    taps: [usize; 2],
    dx: Maps,
    dy: Maps,
}

impl InputGradient {
    /// From gradients of outputs like `dy`, whose halo holds [`Shape::gradient_halo`], to gradients of inputs like `dx`.
    pub fn new(path: Path, shape: &Shape, dx: Maps, dy: Maps) -> Self {
        check(shape, &dx, &dy);
        assert!(dy.halo == dy.halo.union(shape.gradient_halo(dx.size)), "zeros around the gradient");
        let gather = |phase| Gather::new(path, phase, &dy, &dx);
        let gathers: Vec<_> = phases(&shape.window, dx.size).into_iter().map(gather).collect();
        let all = gathers.iter().map(|gather| gather.taps.len()).sum();
        Self { gathers, taps: [shape.window.taps(), all], dx, dy }
    }

    /// Floats of the reordered weights.
    pub fn len(&self) -> usize {
        self.dx.blocks() * self.taps[1] * LANES
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts weights into the order in which this reads them.
    pub fn reorder(&self, weights: &[f32], reordered: &mut [f32]) {
        let taps = self.gathers.iter().flat_map(|gather| &gather.taps);
        let places =
            (0..self.dx.blocks()).flat_map(|block| taps.clone().map(move |tap| (block * self.taps[0] + tap) * LANES));
        for (to, from) in reordered[..self.len()].chunks_exact_mut(LANES).zip(places) {
            to.copy_from_slice(&weights[from..from + LANES]);
        }
    }

    /// One example.
    pub fn run(&self, reordered: &[f32], dy: &[f32], dx: &mut [f32], finish: Finish) {
        assert!(dx.len() >= self.dx.len() && dy.len() >= self.dy.len(), "maps of the planned size");
        assert!(reordered.len() >= self.len(), "weights of the planned size");
        for block in 0..self.dx.blocks() {
            let (dy, dx) = (&dy[block * self.dy.block()..], &mut dx[block * self.dx.block()..]);
            let mut weights = &reordered[block * self.taps[1] * LANES..];
            for gather in &self.gathers {
                // SAFETY: the block is this call's alone.
                unsafe { gather.run(0..gather.count[0], weights, None, dy, dx.as_mut_ptr(), finish) };
                weights = &weights[gather.taps.len() * LANES..];
            }
        }
    }
}

/// The gradient of a depthwise convolution's weights.
#[derive(Debug)]
pub struct WeightGradient {
    path: Path,
    /// Where each tap's input is for the first output.
    places: Vec<usize>,
    walk: sums::Walk,
    x: Maps,
    dy: Maps,
}

impl WeightGradient {
    /// From inputs like `x` and gradients of outputs like `dy`.
    pub fn new(path: Path, shape: &Shape, x: Maps, dy: Maps) -> Self {
        check(shape, &x, &dy);
        assert!(x.halo == x.halo.union(shape.input_halo(x.size)), "zeros around the input");
        let phase = Phase::forward(&shape.window);
        let places = phase.taps.iter().map(|(_, [row, column])| x.at(0, *row, *column)).collect();
        let walk = sums::Walk {
            count: phase.count,
            x_step: [phase.source_step[0] * x.row(), phase.source_step[1] * LANES],
            dy_row: dy.row(),
        };
        Self { path, places, walk, x, dy }
    }

    /// Adds one example's gradient to `dw`, in the weights' order.
    pub fn add(&self, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        assert!(x.len() >= self.x.len() && dy.len() >= self.dy.len(), "maps of the planned size");
        let taps = self.places.len() * LANES;
        assert!(dw.len() >= self.x.blocks() * taps, "sums of the planned size");
        for (block, dw) in dw.chunks_exact_mut(taps).take(self.x.blocks()).enumerate() {
            let x = &x[block * self.x.block()..];
            let dy = &dy[self.dy.at(block, 0, 0)..];
            // SAFETY: the places are inside `x` for every output, by the halo that it was planned with.
            on_path!(self.path, S => unsafe { sums::add::<S>(&self.places, &self.walk, x, dy, dw) });
        }
    }
}
