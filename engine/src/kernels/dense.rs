//! Dense convolution of any window and groups, and the gradients of its input and its weights.
//!
//! All three are the same sum over lists of places, so that strides, dilations and kernels of any size share the two microkernels
//! in `tile` and `gradient`, which read the maps as they lie. The gradient of an input of a strided convolution is one convolution
//! for each phase of the stride.

mod bf16;

use std::ops::Range;

use super::gradient;
use super::packing::{Packing, RUN, Slot};
use super::tile::{Ahead, Kernel, Kernels, MOST, Tile};
use crate::maps::{Halo, Maps};
use crate::parallel::{self, Columns};
use crate::simd::{LANES, Path, Simd, on_path};
use crate::team;
use crate::window::Window;

pub use super::tile::Finish;
pub use bf16::Forward as Bf16Forward;

/// Bytes of input that a pass over all weights works on: about half of a core's second cache.
const CHUNK: usize = 512 << 10;

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
        let reach = [0, 1].map(|axis| {
            (window.output[axis] - 1) * window.stride[axis] + (window.kernel[axis] - 1) * window.dilation[axis] + 1
        });
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

/// Outputs that are a stride apart and sum over the same taps.
#[derive(Debug, Clone)]
pub(super) struct Phase {
    /// How many, and the first.
    pub(super) count: [usize; 2],
    pub(super) first: [usize; 2],
    /// From one to the next, in the output and in the source.
    pub(super) step: [usize; 2],
    pub(super) source_step: [usize; 2],
    /// The taps and where they are in the source, from the first output's.
    pub(super) taps: Vec<(usize, [isize; 2])>,
}

impl Phase {
    /// All outputs of a convolution.
    pub(super) fn forward(window: &Window) -> Self {
        let place = |tap: usize| {
            let tap = [tap / window.kernel[1], tap % window.kernel[1]];
            [0, 1].map(|axis| (tap[axis] * window.dilation[axis]) as isize - window.before[axis] as isize)
        };
        Self {
            count: window.output,
            first: [0, 0],
            step: [1, 1],
            source_step: window.stride,
            taps: (0..window.taps()).map(|tap| (tap, place(tap))).collect(),
        }
    }

    /// The zeros that it reads around a source of this size.
    fn halo(&self, source: [usize; 2]) -> Halo {
        let mut halo = Halo::default();
        for (_, place) in &self.taps {
            for axis in 0..2 {
                let last = place[axis] + ((self.count[axis] - 1) * self.source_step[axis]) as isize;
                halo.before[axis] = halo.before[axis].max(usize::try_from(-place[axis]).unwrap_or(0));
                let beyond = last - (source[axis] as isize - 1);
                halo.after[axis] = halo.after[axis].max(usize::try_from(beyond).unwrap_or(0));
            }
        }
        halo
    }
}

/// The gradient of an input of `size`: input (row) `i` meets tap `k` in output `(i + before - k * dilation) / stride`, where
/// that is whole.
pub(super) fn phases(window: &Window, size: [usize; 2]) -> Vec<Phase> {
    let along = |axis: usize| {
        let stride = window.stride[axis];
        (0..stride.min(size[axis])).map(move |first| {
            let taps = (0..window.kernel[axis]).filter_map(move |tap| {
                let place = (first + window.before[axis]) as isize - (tap * window.dilation[axis]) as isize;
                (place.rem_euclid(stride as isize) == 0).then(|| (tap, place.div_euclid(stride as isize)))
            });
            (first, (size[axis] - first).div_ceil(stride), taps.collect::<Vec<_>>())
        })
    };
    let mut phases = Vec::new();
    for (first_row, rows, down) in along(0) {
        for (first_column, columns, right) in along(1) {
            let taps = down
                .iter()
                .flat_map(|(ky, dy)| right.iter().map(move |(kx, dx)| (ky * window.kernel[1] + kx, [*dy, *dx])));
            phases.push(Phase {
                count: [rows, columns],
                first: [first_row, first_column],
                step: window.stride,
                source_step: [1, 1],
                taps: taps.collect(),
            });
        }
    }
    phases
}

/// A sum over places, ready to run on maps of one kind.
#[derive(Debug)]
struct Gather {
    phase: Phase,
    packing: Packing,
    /// For each panel its blocks and the places of its runs, from a pixel's source.
    panels: Vec<Panel>,
    x: Maps,
    y: Maps,
    /// Where the first output's source begins.
    source: usize,
}

/// Some rows and columns of outputs.
#[derive(Debug, Clone)]
struct Area {
    rows: Range<usize>,
    columns: Range<usize>,
    /// The row of outputs that the first row of the maps holds.
    first_row: usize,
    /// Whether all rows are one long row.
    flat: bool,
}

/// Blocks of outputs that are summed together.
#[derive(Debug)]
struct Panel {
    block: usize,
    blocks: usize,
    offsets: Vec<u32>,
}

impl Gather {
    fn new(phase: Phase, packing: Packing, x: Maps, y: Maps, most_blocks: usize) -> Self {
        assert!(x.halo == x.halo.union(phase.halo(x.size)), "zeros around the source");
        let right = phase.first[1] + (phase.count[1] - 1) * phase.step[1];
        assert!(y.lanes == LANES && y.blocks() == packing.blocks() && right < y.size[1], "maps for all outputs");
        let top = [0, 1].map(|axis| phase.taps.iter().map(|(_, place)| place[axis]).min().unwrap_or(0));
        let source = x.at(0, top[0], top[1]);
        let place = |slot: Slot| {
            let [row, column] = phase.taps[slot.tap].1;
            let at = x.at(slot.channel / x.lanes, row, column) + slot.channel % x.lanes;
            u32::try_from(at - source).expect("one example is smaller than 4 Gi floats")
        };
        let mut panels = Vec::new();
        let mut block = 0;
        while block < packing.blocks() {
            let two = most_blocks > 1 && block + 1 < packing.blocks() && packing.reads_alike(block, block + 1);
            let blocks = if two { 2 } else { 1 };
            let offsets = if phase.taps.is_empty() { Vec::new() } else { packing.slots(block).map(place).collect() };
            panels.push(Panel { block, blocks, offsets });
            block += blocks;
        }
        Self { phase, packing, panels, x, y, source }
    }

    /// Adds up some rows of one example; the first of them is the first row of `y`.
    fn run<S: Simd>(
        &self,
        wanted: Range<usize>,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        finish: Finish,
    ) {
        if wanted.is_empty() {
            return;
        }
        let last = self.phase.first[0] + (wanted.len() - 1) * self.phase.step[0];
        assert!(wanted.end <= self.phase.count[0] && last < self.y.size[0], "rows of the maps");
        assert!(x.len() >= self.x.len() && y.len() >= self.y.len(), "maps of the planned size");
        assert!(weights.len() >= self.packing.len(), "weights of the planned size");
        assert!(bias.is_none_or(|bias| bias.len() >= self.packing.blocks() * LANES), "a bias for every lane");
        let mut area =
            Area { rows: wanted.clone(), columns: 0..self.phase.count[1], first_row: wanted.start, flat: false };
        if self.is_one_row() && wanted.len() == self.phase.count[0] {
            area = Area { rows: 0..1, columns: 0..wanted.len() * self.phase.count[1], first_row: 0, flat: true };
        }
        let y = Columns::new(&mut y[..self.y.len()], self.y.len());
        let (panels, threads) = (self.panels.len(), team::threads());
        if threads == 1 {
            self.area::<S>(&self.panels, &area, weights, bias, x, &y, finish);
        } else if panels >= 4 * threads {
            // Each thread has weights of its own, and finds them in its cache.
            parallel::each(panels, |panel| {
                self.area::<S>(&self.panels[panel..=panel], &area, weights, bias, x, &y, finish);
            });
        } else {
            let cut = if area.flat { area.columns.clone() } else { area.rows.clone() };
            parallel::ranges(cut.len(), |part| {
                let mut area = area.clone();
                *(if area.flat { &mut area.columns } else { &mut area.rows }) =
                    cut.start + part.start..cut.start + part.end;
                self.area::<S>(&self.panels, &area, weights, bias, x, &y, finish);
            });
        }
    }

    /// Some outputs of some panels.
    #[expect(clippy::too_many_arguments, reason = "operands of a sum")]
    fn area<S: Simd>(
        &self,
        panels: &[Panel],
        area: &Area,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &Columns<'_>,
        finish: Finish,
    ) {
        let phase = &self.phase;
        let kernels = self.kernels::<S>();
        let x_step = phase.source_step[1] * self.x.lanes;
        let Area { rows, columns, first_row: top, .. } = area.clone();
        // Rows whose sources stay in the cache while all weights pass.
        let row_bytes = phase.source_step[0] * self.x.row() * 4 * self.x.blocks();
        let (chunk_rows, chunk_columns) = if rows.len() == 1 {
            (1, (CHUNK / (4 * x_step * self.x.blocks())).max(4 * S::TILE[0]).min(columns.len()))
        } else {
            ((CHUNK / row_bytes).clamp(1, rows.len()), columns.len())
        };
        let y_first = self.y.at(0, phase.first[0] as isize, phase.first[1] as isize);
        for first_row in rows.clone().step_by(chunk_rows) {
            for first_column in columns.clone().step_by(chunk_columns) {
                let width = chunk_columns.min(columns.end - first_column);
                for (number, panel) in panels.iter().enumerate() {
                    let most = S::TILE[panel.blocks - 1];
                    let tiles = width.div_ceil(most);
                    let kernels = &kernels[panel.blocks - 1];
                    let next = panels.get(number + 1).map_or(0..0, |next| {
                        self.packing.start(next.block)..self.packing.start(next.block + next.blocks)
                    });
                    let mut ahead = Ahead::new(&weights[next], tiles * chunk_rows.min(rows.end - first_row));
                    for row in first_row..rows.end.min(first_row + chunk_rows) {
                        for tile in 0..tiles {
                            let (start, end) = (width * tile / tiles, width * (tile + 1) / tiles);
                            let column = first_column + start;
                            let from = self.source + row * phase.source_step[0] * self.x.row() + column * x_step;
                            let to = y_first
                                + panel.block * self.y.block()
                                + (row - top) * phase.step[0] * self.y.row()
                                + column * phase.step[1] * LANES;
                            // SAFETY: halos hold every place of every output, as `Gather::new` has seen, and the assertions
                            // of the callers hold the maps; the kernels' instruction set is the path's. Nobody else
                            // writes these outputs.
                            unsafe {
                                ahead.ask::<S>();
                                kernels[end - start - 1](&Tile {
                                    x: x.as_ptr().add(from),
                                    x_step,
                                    offsets: panel.offsets.as_ptr(),
                                    count: panel.offsets.len(),
                                    weights: weights.as_ptr().add(self.packing.start(panel.block)),
                                    weights_block: self.packing.start(panel.block + panel.blocks)
                                        - self.packing.start(panel.block + panel.blocks - 1),
                                    bias: bias.map_or(std::ptr::null(), |bias| bias.as_ptr().add(panel.block * LANES)),
                                    y: y.at(0, to),
                                    y_block: self.y.block(),
                                    y_step: phase.step[1] * LANES,
                                    finish,
                                });
                            }
                        }
                    }
                }
            }
        }
    }

    fn kernels<S: Simd>(&self) -> [[Kernel; MOST]; 2] {
        let step = self.phase.source_step[1] * self.x.lanes;
        match (step, self.packing.run()) {
            (16, RUN) => Kernels::<S, 16, RUN>::ALL,
            (32, RUN) => Kernels::<S, 32, RUN>::ALL,
            (8, RUN) => Kernels::<S, 8, RUN>::ALL,
            (_, RUN) => Kernels::<S, 0, RUN>::ALL,
            (1, _) => Kernels::<S, 1, 1>::ALL,
            (2, _) => Kernels::<S, 2, 1>::ALL,
            _ => Kernels::<S, 0, 1>::ALL,
        }
    }

    /// Whether all rows are one long row: a kernel of one tap on maps without halos.
    fn is_one_row(&self) -> bool {
        let phase = &self.phase;
        phase.taps.len() == 1
            && [phase.step, phase.source_step] == [[1, 1]; 2]
            && phase.count == self.x.size
            && phase.count == self.y.size
            && self.x.row() == self.x.size[1] * self.x.lanes
            && self.y.row() == self.y.size[1] * LANES
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
        let phase = Phase::forward(&shape.window);
        let packing = Packing::new(shape.outs, shape.ins, shape.groups, shape.window.taps(), x.lanes);
        let most = on_path!(path, S => S::TILE.iter().filter(|pixels| **pixels > 0).count());
        Self { path, gather: Gather::new(phase, packing, x, y, most) }
    }

    /// The order of its weights.
    pub fn packing(&self) -> &Packing {
        &self.gather.packing
    }

    /// One example: `y = finish(x * weights + bias)`. A bias has a number for every lane of every block.
    pub fn run(&self, weights: &[f32], bias: Option<&[f32]>, x: &[f32], y: &mut [f32], finish: Finish) {
        self.run_rows(0..self.gather.phase.count[0], weights, bias, x, y, finish);
    }

    /// Some rows of one example's outputs, into maps `y` that begin with the first of them and may have fewer rows than the outputs.
    pub fn run_rows(
        &self,
        rows: Range<usize>,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        finish: Finish,
    ) {
        on_path!(self.path, S => self.gather.run::<S>(rows, weights, bias, x, y, finish));
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
        assert!(dy.lanes == LANES, "gradients in blocks");
        let weights = Packing::new(shape.outs, shape.ins, shape.groups, shape.window.taps(), LANES);
        let most = on_path!(path, S => S::TILE.iter().filter(|pixels| **pixels > 0).count());
        let mut start = 0;
        let gathers = phases(&shape.window, dx.size).into_iter().map(|phase| {
            let packing = weights.transposed(phase.taps.len());
            let gather = Gather::new(phase, packing, dy, dx, most);
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
            on_path!(self.path, S => gather.run::<S>(rows, &transposed[*start..], None, dy, dx, finish));
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
