//! The order of the backward pass on blocked maps: strips of rows whose inputs stay in the first cache, and in a strip all blocks and
//! passes.

use std::ops::Range;

use super::backward::{Backward, Given, Input, Sums};
use super::lists::Lists;
use super::{inputs, weights};
use crate::simd::{LANES, Simd};

impl Backward {
    /// One example. The maps, the sums and the scratch are those that were planned: `run` has checked them.
    pub(super) fn strips<S: Simd>(
        &self,
        given: &Given<'_>,
        mut sums: Option<Sums<'_>>,
        mut input: Option<Input<'_>>,
        lists: &mut Lists,
        floats: &mut [f32],
    ) {
        let height = self.plan.dy.size[0];
        for first in (0..height).step_by(self.plan.rows) {
            let rows = first..height.min(first + self.plan.rows);
            let db = sums.as_mut().map(|sums| &mut *sums.db);
            lists.fill::<S>(rows.clone(), given.dy, given.winners, db, input.is_some());
            if let Some(sums) = &mut sums {
                self.weights::<S>(first, given.x, sums.dw, lists);
            }
            if let Some(input) = &mut input {
                self.inputs::<S>(rows, input, lists, floats);
            }
        }
    }

    /// Adds a strip to the sums of weights.
    fn weights<S: Simd>(&self, first: usize, x: &[f32], sums: &mut [f32], lists: &Lists) {
        let [height, width] = self.kernel;
        let passes = height.div_ceil(weights::most_rows::<S>(width).min(height));
        let most = height.div_ceil(passes);
        let step = height * width * LANES;
        for block in 0..self.x.blocks() {
            for top in (0..height).step_by(most) {
                let row = (2 * first + top) as isize - self.before[0] as isize;
                let from = self.x.at(block, row, -(self.before[1] as isize));
                let kernel = weights::kernel::<S>(most.min(height - top), width).expect("checked by `new`");
                // SAFETY: the input's halo holds every tap of every pixel, and the sums were checked by `run`.
                unsafe {
                    kernel(
                        &weights::Job {
                            x: x.as_ptr().add(from),
                            x_row: self.x.row(),
                            sums: sums.as_mut_ptr().add(block * self.outs * step + top * width * LANES),
                            step,
                            outs: self.outs,
                        },
                        lists,
                    );
                }
            }
        }
    }

    /// Floats of a row and of a block of a strip's sums: what its pixels reach, and one more pixel.
    fn strip_row(&self) -> usize {
        (self.plan.width() + self.kernel[1]) * LANES
    }

    pub(super) fn strip_block(&self) -> usize {
        (2 * self.plan.rows + self.kernel[0] - 1) * self.strip_row()
    }

    /// The gradient of the input for a strip: it overlaps with the one before.
    fn inputs<S: Simd>(&self, rows: Range<usize>, input: &mut Input<'_>, lists: &Lists, floats: &mut [f32]) {
        let [height, width] = self.kernel;
        let (row, block) = (self.strip_row(), self.strip_block());
        let inputs::Cut { blocks: most_blocks, rows: most_rows } = self.cut;
        assert!(floats.len() >= most_blocks * block, "scratch of the planned size");
        for start in (0..self.x.blocks()).step_by(most_blocks) {
            let blocks = most_blocks.min(self.x.blocks() - start);
            floats.fill(0.0);
            for chunk in 0..self.plan.dy.blocks().div_ceil(self.plan.chunk) {
                for down in (0..height).step_by(most_rows) {
                    let tile = self.tile_at(start / most_blocks, chunk, down / most_rows);
                    let parts = blocks * most_rows.min(height - down);
                    let sets = inputs::sets::<S>(width, parts);
                    let kernel = inputs::kernel::<S>(width, parts, sets).expect("checked by `new`");
                    // SAFETY: places in the lists are inside a tile, and the sums hold what the strip's pixels reach.
                    unsafe {
                        kernel(
                            &inputs::Job {
                                weights: input.transposed.as_ptr().add(tile),
                                chunk,
                                rows: 2 * rows.len(),
                                sums: floats.as_mut_ptr().add(down * row),
                                row,
                                part: if most_rows > 1 { row } else { block },
                            },
                            lists,
                        );
                    }
                }
            }
            for index in 0..blocks {
                self.flush::<S>(rows.clone(), start + index, &floats[index * block..], input);
            }
        }
    }

    /// Moves a strip's sums to where they belong, without what the taps reach in the halo.
    fn flush<S: Simd>(&self, rows: Range<usize>, block: usize, sums: &[f32], input: &mut Input<'_>) {
        let maps = self.dx.expect("checked by `run`");
        let [height, width] = maps.size;
        let reached = |outputs: usize, axis: usize| (outputs + self.kernel[axis] - 1).saturating_sub(self.before[axis]);
        // Rows above were begun by the strip before; those below, by nobody.
        let begun = if rows.start == 0 { 0 } else { reached(2 * rows.start, 0) };
        let end = reached(2 * rows.end, 0).min(height);
        let columns = reached(self.plan.width(), 1).min(width);
        for row in (2 * rows.start).saturating_sub(self.before[0])..end {
            let from = (row + self.before[0] - 2 * rows.start) * self.strip_row() + self.before[1] * LANES;
            let sums = &sums[from..from + columns * LANES];
            let at = maps.at(block, row as isize, 0);
            let to = &mut input.dx[at..at + width * LANES];
            let add = input.add || row < begun;
            // SAFETY: both slices have a vector for each of the columns.
            unsafe {
                S::run(
                    #[inline(always)]
                    || {
                        for column in 0..columns {
                            let to = to.as_mut_ptr().add(column * LANES);
                            let sum = S::load(sums.as_ptr().add(column * LANES));
                            S::store(to, if add { S::add(S::load(to), sum) } else { sum });
                        }
                    },
                );
            }
            if !add {
                to[columns * LANES..].fill(0.0);
            }
        }
        if rows.end == self.plan.dy.size[0] && !input.add {
            for row in end..height {
                let at = maps.at(block, row as isize, 0);
                input.dx[at..at + width * LANES].fill(0.0);
            }
        }
    }
}
