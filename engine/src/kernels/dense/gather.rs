//! A sum over lists of places: what a convolution, the gradient of its input and words of bf16 have in common.

use std::ops::Range;

use super::phase::Phase;
use crate::kernels::packing::{Packing, RUN, Slot};
use crate::kernels::tile::{Ahead, Finish, Kernel, Kernels, MOST, Tile};
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
    pub(super) fn new(phase: Phase, packing: Packing, x: Maps, y: Maps, most_blocks: usize) -> Self {
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
    pub(super) fn run<S: Simd>(
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
