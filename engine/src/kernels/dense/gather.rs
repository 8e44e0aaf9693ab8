//! A sum over lists of places: what a convolution, the gradient of its input and words of bf16 have in common.

use std::ops::Range;

use super::phase::Phase;
use crate::kernels::packing::{Packing, RUN, Slot};
use crate::kernels::tile::{Ahead, End, Finish, Kernel, Kernels, MOST, SCATTERED, Tile};
use crate::maps::Maps;
use crate::parallel::{self, Columns};
use crate::simd::{LANES, Simd};
use crate::team;

/// Bytes of input that a pass over all weights works on: about half of a core's second cache.
const CHUNK: usize = 512 << 10;

/// A sum over places, ready to run on maps of one kind.
#[derive(Debug)]
pub(super) struct Gather {
    pub(super) phase: Phase,
    pub(super) packing: Packing,
    /// For each panel its blocks and the places of its runs, from a pixel's source.
    panels: Vec<Panel>,
    pub(super) x: Maps,
    pub(super) y: Maps,
    /// Where the first output's source begins.
    source: usize,
    /// Every output's source and place, from the first ones, row by row; empty where tiles are cut row by row.
    places: Vec<[u32; 2]>,
}

/// Some rows and columns of outputs.
#[derive(Debug, Clone)]
struct Area {
    rows: Range<usize>,
    columns: Range<usize>,
    /// The row of outputs that the first row of the maps holds.
    first_row: usize,
    /// Whether all rows are one long row of columns.
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
    /// With tiles of at most so many pixels by one block and by two.
    pub(super) fn new(phase: Phase, packing: Packing, x: Maps, y: Maps, tile: [usize; 2]) -> Self {
        assert!(x.halo == x.halo.union(phase.halo(x.size)), "zeros around the source");
        let right = phase.first[1] + (phase.count[1] - 1) * phase.step[1];
        assert!(y.blocks() == packing.blocks() && right < y.size[1], "maps for all outputs");
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
            let two = tile[1] > 0 && block + 1 < packing.blocks() && packing.reads_alike(block, block + 1);
            let blocks = if two { 2 } else { 1 };
            let offsets = if phase.taps.is_empty() { Vec::new() } else { packing.slots(block).map(place).collect() };
            panels.push(Panel { block, blocks, offsets });
            block += blocks;
        }
        let mut made = Self { phase, packing, panels, x, y, source, places: Vec::new() };
        // Where two blocks do not fit, sums of few pixels wait for each other: those of rows that leave such tiles are cut all together.
        let [rows, columns] = made.phase.count;
        let leaves_few = tile[1] == 0 && columns < (tile[0] - 1) * columns.div_ceil(tile[0]);
        if leaves_few && rows > 1 && made.packing.run() == RUN && !made.is_one_row() {
            let steps = [made.source_steps(), made.steps()];
            let place = |row, column| steps.map(|[down, right]| (row * down + column * right) as u32);
            made.places = (0..rows).flat_map(|row| (0..columns).map(move |column| place(row, column))).collect();
        }
        made
    }

    /// Floats from an output's source to that of the next row and column.
    fn source_steps(&self) -> [usize; 2] {
        let [down, right] = self.phase.source_step;
        [down * self.x.row(), right * self.x.lanes]
    }

    /// Floats from an output to that of the next row and column.
    fn steps(&self) -> [usize; 2] {
        let [down, right] = self.phase.step;
        [down * self.y.row(), right * self.y.lanes]
    }

    /// Adds up some rows of one example; the first of them is the first row of `y`, which may end with the last one's outputs.
    pub(super) fn run<S: Simd, F: Tiles<S>>(
        &self,
        wanted: Range<usize>,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        finish: F,
    ) {
        if wanted.is_empty() {
            return;
        }
        let last = self.phase.first[0] + (wanted.len() - 1) * self.phase.step[0];
        assert!(wanted.end <= self.phase.count[0] && last < self.y.size[0], "rows of the maps");
        let [down, right] = self.steps();
        let first = self.y.at(self.packing.blocks() - 1, self.phase.first[0] as isize, self.phase.first[1] as isize);
        let end = first + (wanted.len() - 1) * down + (self.phase.count[1] - 1) * right + self.y.lanes;
        assert!(x.len() >= self.x.len() && y.len() >= end, "maps of the planned size");
        assert!(weights.len() >= self.packing.len(), "weights of the planned size");
        assert!(bias.is_none_or(|bias| bias.len() >= self.packing.blocks() * LANES), "a bias for every lane");
        let mut area =
            Area { rows: wanted.clone(), columns: 0..self.phase.count[1], first_row: wanted.start, flat: false };
        if (self.is_one_row() && wanted.len() == self.phase.count[0]) || !self.places.is_empty() {
            let row = wanted.start;
            area =
                Area { rows: row..row + 1, columns: 0..wanted.len() * self.phase.count[1], first_row: row, flat: true };
        }
        let y = Columns::new(&mut y[..end], end);
        let (panels, threads) = (self.panels.len(), team::threads());
        let cut = if area.flat { area.columns.clone() } else { area.rows.clone() };
        // Where weights are more than maps, or rows are too few; else a thread goes on with rows that it has written, and little moves between cores.
        let maps = [&self.x, &self.y].map(|maps| maps.len() - maps.beside).iter().sum();
        let by_panels = self.packing.len() > maps || cut.len() < 4 * threads;
        if threads == 1 {
            self.area::<S, F>(0..panels, &area, weights, bias, x, &y, finish);
        } else if panels >= 4 * threads && by_panels {
            // Each thread has weights of its own, and finds them in its cache.
            parallel::each(panels, |panel| {
                self.area::<S, F>(panel..panel + 1, &area, weights, bias, x, &y, finish);
            });
        } else {
            parallel::ranges(cut, |part| {
                let mut area = area.clone();
                *(if area.flat { &mut area.columns } else { &mut area.rows }) = part;
                self.area::<S, F>(0..panels, &area, weights, bias, x, &y, finish);
            });
        }
    }

    /// Some outputs of some panels.
    #[expect(clippy::too_many_arguments, reason = "operands of a sum")]
    fn area<S: Simd, F: Tiles<S>>(
        &self,
        panels: Range<usize>,
        area: &Area,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &Columns<'_>,
        finish: F,
    ) {
        let phase = &self.phase;
        let [x_row, x_step] = self.source_steps();
        let [y_row, y_step] = self.steps();
        let kernels = F::of(if self.places.is_empty() { x_step } else { SCATTERED }, self.packing.run());
        let Area { rows, columns, first_row: top, .. } = area.clone();
        // Rows whose sources stay in the cache while all weights pass.
        let row_bytes = x_row * 4 * self.x.blocks();
        let (chunk_rows, chunk_columns) = if rows.len() == 1 {
            (1, (CHUNK / (4 * x_step * self.x.blocks())).max(4 * S::TILE[0]).min(columns.len()))
        } else {
            ((CHUNK / row_bytes).clamp(1, rows.len()), columns.len())
        };
        let y_first = self.y.at(0, phase.first[0] as isize, phase.first[1] as isize);
        for first_row in rows.clone().step_by(chunk_rows) {
            for first_column in columns.clone().step_by(chunk_columns) {
                let width = chunk_columns.min(columns.end - first_column);
                let rows = first_row..rows.end.min(first_row + chunk_rows);
                for number in panels.clone() {
                    let panel = &self.panels[number];
                    let most = S::TILE[panel.blocks - 1];
                    let tiles = width.div_ceil(most);
                    let kernels = &kernels[panel.blocks - 1];
                    // Also where others are asked for the next one: a thread's share is a row of panels.
                    let next = self.panels.get(number + 1).map_or(0..0, |next| self.weights_of(next));
                    let mut ahead = Ahead::new(&weights[next], tiles * rows.len());
                    let own = self.weights_of(panel);
                    let finish = finish.at_block(panel.block);
                    for row in rows.clone() {
                        for tile in 0..tiles {
                            let (start, end) = (width * tile / tiles, width * (tile + 1) / tiles);
                            let column = first_column + start;
                            let places = self.places.get(column);
                            let [x_column, y_column] = places.map_or([column * x_step, column * y_step], |_| [0, 0]);
                            let from = self.source + row * x_row + x_column;
                            let to = y_first + panel.block * self.y.block() + (row - top) * y_row + y_column;
                            // SAFETY: halos hold every place of every output, as `Gather::new` has seen, and the assertions
                            // of the callers hold the maps; the kernels' instruction set is the path's. Nobody else
                            // writes these outputs.
                            unsafe {
                                kernels[end - start - 1](&Tile {
                                    x: x.as_ptr().add(from),
                                    x_step,
                                    places: places.map_or(std::ptr::null(), std::ptr::from_ref),
                                    offsets: panel.offsets.as_ptr(),
                                    count: panel.offsets.len(),
                                    ahead: ahead.part(),
                                    weights: weights.as_ptr().add(own.start),
                                    weights_block: own.len() / panel.blocks,
                                    bias: bias.map_or(std::ptr::null(), |bias| bias.as_ptr().add(panel.block * LANES)),
                                    y: y.at(0, to),
                                    y_block: self.y.block(),
                                    y_step,
                                    finish,
                                });
                            }
                        }
                    }
                }
            }
        }
    }

    /// The weights of a panel's blocks, one after the other: two are of one length.
    fn weights_of(&self, panel: &Panel) -> Range<usize> {
        self.packing.start(panel.block)..self.packing.block(panel.block + panel.blocks - 1).end
    }

    /// Whether all rows are one long row: a kernel of one tap on maps without halos.
    fn is_one_row(&self) -> bool {
        let phase = &self.phase;
        phase.taps.len() == 1
            && [phase.step, phase.source_step] == [[1, 1]; 2]
            && phase.count == self.x.size
            && phase.count == self.y.size
            && self.x.row() == self.x.size[1] * self.x.lanes
            && self.y.row() == self.y.size[1] * self.y.lanes
    }
}

/// A tile's end with the tiles that are compiled for it.
pub(super) trait Tiles<S: Simd>: End {
    /// Those for sources of outputs that are so many floats apart, or [`SCATTERED`], and runs of so many inputs.
    fn of(step: usize, run: usize) -> [[Kernel<Self>; MOST]; 2];
}

impl<S: Simd> Tiles<S> for Finish {
    fn of(step: usize, run: usize) -> [[Kernel<Self>; MOST]; 2] {
        match (step, run) {
            (16, RUN) => Kernels::<S, 16, RUN>::ALL,
            (32, RUN) => Kernels::<S, 32, RUN>::ALL,
            (8, RUN) => Kernels::<S, 8, RUN>::ALL,
            (SCATTERED, RUN) => Kernels::<S, SCATTERED, RUN>::ALL,
            (_, RUN) => Kernels::<S, 0, RUN>::ALL,
            (1, _) => Kernels::<S, 1, 1>::ALL,
            (2, _) => Kernels::<S, 2, 1>::ALL,
            _ => Kernels::<S, 0, 1>::ALL,
        }
    }
}
