//! The passes of Winograd's convolution: weights once, then inputs, products and outputs of each chunk of tiles.

use std::ops::Range;

use super::Winograd;
use super::products::Products;
use super::transform::{both, input, output, weights};
use crate::kernels::dense::Finish;
use crate::kernels::packing::RUN;
use crate::maps::Maps;
use crate::parallel::Columns;
use crate::simd::{LANES, Simd};

/// Where a tile is.
#[derive(Debug, Clone, Copy)]
struct Place {
    example: usize,
    row: usize,
    column: usize,
}

impl Winograd {
    fn place(&self, tile: usize) -> Place {
        let [rows, columns] = self.tiles;
        Place { example: tile / (rows * columns), row: tile / columns % rows, column: tile % columns }
    }

    fn after(&self, place: Place) -> Place {
        let Place { example, row, column } = place;
        if column + 1 < self.tiles[1] {
            return Place { column: column + 1, ..place };
        }
        if row + 1 < self.tiles[0] {
            Place { row: row + 1, column: 0, ..place }
        } else {
            self.place((example + 1) * self.tiles[0] * self.tiles[1])
        }
    }

    /// Weights at every position, `[positions][blocks of 16 outputs][inputs][16]`.
    pub(super) fn weights<S: Simd, const KERNEL: usize, const TILE: usize>(&self, from: &[f32], to: &mut [f32]) {
        let [_, _, step] = self.steps();
        let taps = KERNEL * KERNEL;
        let mut turned = vec![0.0; if self.turned { taps * LANES * LANES } else { 0 }];
        for block in 0..self.y.blocks() {
            for in_block in 0..self.x.blocks() {
                let first = in_block * LANES;
                let channels = (self.depth() - first).min(LANES);
                let (from, tap_step) = if self.turned {
                    self.turn(from, block, in_block, &mut turned);
                    (&turned[..], LANES * LANES)
                } else {
                    let row = |tap| self.packing.row(block, first, tap).expect("one group reads all inputs");
                    (&from[row(0)..], row(1) - row(0))
                };
                let to = &mut to[(block * self.depth() + first) * LANES..];
                assert!(from.len() >= (taps - 1) * tap_step + channels * LANES);
                assert!(to.len() >= (TILE * TILE - 1) * step + channels * LANES);
                // SAFETY: the assertions; the instruction set is the path's.
                unsafe {
                    S::run(
                        #[inline(always)]
                        || {
                            for channel in 0..channels {
                                let from = from.as_ptr().add(channel * LANES);
                                let to = to.as_mut_ptr().add(channel * LANES);
                                both::<S, KERNEL, TILE>(
                                    #[inline(always)]
                                    |row, column| S::load(from.add((row * KERNEL + column) * tap_step)),
                                    #[inline(always)]
                                    |line| weights::<S, KERNEL, TILE>(line),
                                    #[inline(always)]
                                    |row, column, value| S::store(to.add((row * TILE + column) * step), value),
                                );
                            }
                        },
                    );
                }
            }
        }
    }

    /// Weights of the convolution's inputs `block` and outputs `in_block`, exchanged and with the taps from last to first: `[taps][16 outputs][16 inputs]`.
    fn turn(&self, from: &[f32], block: usize, in_block: usize, to: &mut [f32]) {
        // Rows of inputs beyond the last run are not there.
        let rows = (self.y.channels.next_multiple_of(RUN) - block * LANES).min(LANES);
        to.fill(0.0);
        for (tap, to) in to.chunks_exact_mut(LANES * LANES).rev().enumerate() {
            let start = self.packing.row(in_block, block * LANES, tap).expect("one group reads all inputs");
            let from = &from[start..start + rows * LANES];
            for (input, from) in from.chunks_exact(LANES).enumerate() {
                for (output, weight) in from.iter().enumerate() {
                    to[output * LANES + input] = *weight;
                }
            }
        }
    }

    /// Inputs of some tiles at every position, `[positions][blocks][tiles][16]`; the first one is number `first` of its chunk.
    pub(super) fn inputs<S: Simd, const TILE: usize, const OUT: usize>(
        &self,
        x: &[f32],
        tiles: Range<usize>,
        first: usize,
        to: &Columns<'_>,
    ) {
        self.in_tiles::<S, TILE, TILE>(
            &self.x,
            self.before,
            OUT,
            x,
            tiles,
            first,
            to,
            self.steps()[0],
            // SAFETY: the instruction set is the path's.
            #[inline(always)]
            |line| unsafe { input::<S, TILE>(line) },
        );
    }

    /// Some tiles of maps at every position, `[positions][blocks][tiles][16]` with `step` floats from a position to the next: the first tile begins
    /// `before` rows and columns before the maps, the next ones `OUT` further.
    #[expect(clippy::too_many_arguments, reason = "inputs and slopes differ in all of them")]
    #[inline(always)]
    pub(super) fn in_tiles<S: Simd, const FROM: usize, const TILE: usize>(
        &self,
        maps: &Maps,
        before: [isize; 2],
        stride: usize,
        x: &[f32],
        tiles: Range<usize>,
        number: usize,
        to: &Columns<'_>,
        step: usize,
        along: impl Fn(&[S::V; FROM]) -> [S::V; TILE],
    ) {
        let (len, block_step) = (maps.len(), self.block());
        assert!(number + tiles.len() <= self.chunk && step >= maps.blocks() * block_step);
        assert!(to.len >= TILE * TILE * step);
        let stored = [0, 1].map(|axis| (maps.halo.before[axis] + maps.size[axis] + maps.halo.after[axis]) as isize);
        // SAFETY: a tile is read where it lies inside the maps, else from the copy; `to` holds every position of a chunk, and nobody else
        // has these tiles; the instruction set is the path's.
        unsafe {
            S::run(
                #[inline(always)]
                || {
                    let mut copy = [0.0; 36 * LANES];
                    let mut place = self.place(tiles.start);
                    for index in 0..tiles.len() {
                        let x = &x[place.example * len..][..len];
                        // Where the tile begins in what is stored of a block.
                        let first = [0, 1].map(|axis| {
                            let tile = if axis == 0 { place.row } else { place.column };
                            maps.halo.before[axis] as isize + (tile * stride) as isize - before[axis]
                        });
                        let is_inside =
                            (0..2).all(|axis| first[axis] >= 0 && first[axis] + FROM as isize <= stored[axis]);
                        for block in 0..maps.blocks() {
                            let (from, row_step) = if is_inside {
                                let first = first[0] as usize * maps.row() + first[1] as usize * LANES;
                                (x.as_ptr().add(block * maps.block() + first), maps.row())
                            } else {
                                cut::<FROM>(&x[block * maps.block()..], maps.row(), first, stored, &mut copy);
                                (copy.as_ptr(), FROM * LANES)
                            };
                            let to = to.at(0, block * block_step + (number + index) * LANES);
                            if is_inside && maps.blocks() > 2 {
                                // The hardware foresees no tiles, and the blocks between leave time to fetch the next one.
                                for row in 0..FROM {
                                    for column in FROM..FROM + stride {
                                        S::prefetch(from.wrapping_add(row * row_step + column * LANES));
                                    }
                                }
                            }
                            both::<S, FROM, TILE>(
                                #[inline(always)]
                                |row, column| S::load(from.add(row * row_step + column * LANES)),
                                #[inline(always)]
                                |line| along(line),
                                #[inline(always)]
                                |row, column, value| S::store(to.add((row * TILE + column) * step), value),
                            );
                        }
                        place = self.after(place);
                    }
                },
            );
        }
    }

    /// The products of inputs and weights at some positions.
    pub(super) fn products<S: Simd>(
        &self,
        at: Range<usize>,
        weights: &[f32],
        tiles: usize,
        inputs: &[f32],
        outputs: &Columns<'_>,
    ) {
        let [in_step, out_step, weight_step] = self.steps();
        let positions = self.kind.positions();
        assert!(inputs.len() >= positions * in_step && outputs.len >= positions * out_step && tiles <= self.chunk);
        assert!(at.end <= positions);
        for position in at {
            let (weights, beyond) = weights[position * weight_step..self.len()].split_at(weight_step);
            let products = Products {
                offsets: &self.offsets,
                tiles,
                blocks: self.y.blocks(),
                weights,
                beyond,
                x: inputs[position * in_step..].as_ptr(),
                y: outputs.at(0, position * out_step),
                y_block: self.block(),
            };
            // SAFETY: the assertions hold every position of a chunk, and nobody else has these positions; the instruction set is the path's.
            unsafe { products.run::<S>() };
        }
    }

    /// The outputs of some tiles, the first of which is number `number` of its chunk.
    pub(super) fn outputs<S: Simd, const TILE: usize, const OUT: usize>(
        &self,
        from: &[f32],
        tiles: Range<usize>,
        number: usize,
        bias: Option<&[f32]>,
        y: &Columns<'_>,
        finish: Finish,
    ) {
        let (step, block_step) = (self.steps()[1], self.block());
        let maps = &self.y;
        assert!(number + tiles.len() <= self.chunk && from.len() >= TILE * TILE * step);
        assert!(y.len == maps.len() && bias.is_none_or(|bias| bias.len() >= maps.blocks() * LANES));
        // SAFETY: `from` holds every position of a chunk; rows and columns of a tile that are outside the maps are not written; the
        // instruction set is the path's.
        unsafe {
            S::run(
                #[inline(always)]
                || {
                    let mut place = self.place(tiles.start);
                    for index in 0..tiles.len() {
                        let first = [place.row * OUT, place.column * OUT];
                        let count = [0, 1].map(|axis| maps.size[axis] - first[axis]);
                        for block in 0..maps.blocks() {
                            let bias = bias.map_or(S::splat(0.0), |bias| S::load(bias.as_ptr().add(block * LANES)));
                            let from = from.as_ptr().add(block * block_step + (number + index) * LANES);
                            let y = y.at(place.example, maps.at(block, first[0] as isize, first[1] as isize));
                            // The next tile's rows: large maps have left the caches since the last example, and a write waits for its line.
                            for row in 0..OUT {
                                for column in OUT..2 * OUT {
                                    S::prefetch(y.wrapping_add(row * maps.row() + column * LANES));
                                }
                            }
                            both::<S, TILE, OUT>(
                                #[inline(always)]
                                |row, column| S::load(from.add((row * TILE + column) * step)),
                                #[inline(always)]
                                |line| output::<S, TILE, OUT>(line),
                                #[inline(always)]
                                |row, column, sum| {
                                    if row < count[0] && column < count[1] {
                                        let to = y.add(row * maps.row() + column * LANES);
                                        S::store(to, finish.apply::<S>(S::add(sum, bias), to));
                                    }
                                },
                            );
                        }
                        place = self.after(place);
                    }
                },
            );
        }
    }
}

/// Copies a tile that begins at `first` (which may be outside) of what is stored of a block, with zeros where nothing is.
fn cut<const TILE: usize>(
    x: &[f32],
    row_step: usize,
    first: [isize; 2],
    stored: [isize; 2],
    to: &mut [f32; 36 * LANES],
) {
    let inside = |axis: usize| {
        let clamp = |at: isize| at.clamp(0, TILE as isize) as usize;
        clamp(-first[axis])..clamp(stored[axis] - first[axis])
    };
    to[..TILE * TILE * LANES].fill(0.0);
    let columns = inside(1);
    for row in inside(0) {
        if columns.is_empty() {
            return;
        }
        let at = |column: usize| (first[1] + column as isize) as usize * LANES;
        let x = &x[(first[0] + row as isize) as usize * row_step..][at(columns.start)..at(columns.end - 1) + LANES];
        to[(row * TILE + columns.start) * LANES..][..x.len()].copy_from_slice(x);
    }
}
