//! Fully connected layers and their gradients, by the microkernels of convolutions: examples are pixels.
//!
//! The gradient of the input has its roles exchanged: the weights, as they lie, are the pixels, and sixteen examples at once
//! the output channels. So weights have one order for all three products, and none is transposed.

use std::sync::Arc;

use super::copy::Flatten;
use super::gradient;
use super::optimizer::Step;
use super::packing::{Packing, RUN};
use super::tile::{Finish, Kernels, Part, Tile};
use crate::buffer::Buffer;
use crate::maps::Maps;
use crate::parallel::{self, Columns};
use crate::simd::{LANES, Path, Simd, on_path};

/// A fully connected layer, `[inputs]` to `[units]`.
#[derive(Debug)]
pub struct Linear {
    path: Path,
    inputs: usize,
    units: usize,
    packing: Packing,
    /// Where each run of inputs begins.
    offsets: Vec<u32>,
    /// Where each run of units begins in the weights, from an input's.
    turned: Vec<u32>,
    /// The inputs' numbers, as rows of the gradient of the weights.
    rows: Arc<[usize]>,
}

/// What [`Linear`]'s products work in.
#[derive(Debug, Default)]
pub struct Scratch {
    a: Buffer,
    b: Buffer,
}

impl Linear {
    /// A layer of this size.
    pub fn new(path: Path, inputs: usize, units: usize) -> Self {
        let packing = Packing::new(units, inputs, 1, 1, LANES);
        let depth = inputs.next_multiple_of(RUN);
        let place = |at: usize| u32::try_from(at).expect("a layer's weights are fewer than 4 Gi");
        let offsets = (0..depth).step_by(RUN).map(place).collect();
        let blocks = (0..packing.blocks()).map(|block| packing.start(block));
        let turned = blocks.flat_map(|start| [place(start), place(start + RUN)]).collect();
        Self { path, inputs, units, packing, offsets, turned, rows: (0..inputs).collect() }
    }

    /// The order of its weights.
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Inputs in whole runs.
    fn depth(&self) -> usize {
        self.offsets.len() * RUN
    }

    /// `y = finish(x weights^T + bias)` for `n` examples, `x` `[n, inputs]`, `y` `[n, units]`. A bias has a number for every lane of every block.
    #[expect(clippy::too_many_arguments, reason = "operands of a product")]
    pub fn forward(
        &self,
        n: usize,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        finish: Finish,
        scratch: &mut Scratch,
    ) {
        assert!(x.len() >= n * self.inputs && y.len() >= n * self.units, "rows of the planned size");
        assert!(weights.len() >= self.packing.len(), "weights of the planned size");
        assert!(bias.is_none_or(|bias| bias.len() >= self.packing.blocks() * LANES), "a bias for every lane");
        let depth = self.depth();
        let x = if depth == self.inputs {
            x
        } else {
            // The last run must not read the next example: it may hold what is not a number.
            scratch.a.grow(n * depth);
            for (to, from) in scratch.a.chunks_exact_mut(depth).zip(x.chunks_exact(self.inputs)).take(n) {
                to[..self.inputs].copy_from_slice(from);
            }
            &scratch.a
        };
        // Units are shared out as the weights' gradients are: a thread finds the weights that it moved in its cache.
        let most = on_path!(self.path, S => panel::<S>(2));
        let y = Columns::new(&mut y[..n * self.units], self.units);
        parallel::each(self.packing.blocks().div_ceil(most), |panel| {
            let first = panel * most;
            let blocks = most.min(self.packing.blocks() - first);
            on_path!(self.path, S => self.panel_of::<S>([first, blocks], weights, bias, x, &y, finish));
        });
    }

    /// The outputs of some blocks of units, of all examples.
    fn panel_of<S: Simd>(
        &self,
        [block, blocks]: [usize; 2],
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &Columns<'_>,
        finish: Finish,
    ) {
        let (n, depth) = (y.rows, self.depth());
        let lanes = (self.units - block * LANES).min(blocks * LANES);
        let most = S::TILE[blocks - 1];
        let tiles = n.div_ceil(most);
        for tile in 0..tiles {
            let (start, end) = (n * tile / tiles, n * (tile + 1) / tiles);
            // A last block that is not full goes through a copy: its lanes would reach into the next example.
            let mut part = [0.0; 2 * LANES * 14];
            let whole = lanes == blocks * LANES;
            // SAFETY: nobody else has this panel's columns.
            let of = |example: usize| unsafe { y.part(start + example, block * LANES, lanes) };
            if !whole && finish.add {
                let part = part.chunks_exact_mut(blocks * LANES).take(end - start);
                part.enumerate().for_each(|(example, part)| part[..lanes].copy_from_slice(of(example)));
            }
            let (to, y_step) =
                if whole { (y.at(start, block * LANES), self.units) } else { (part.as_mut_ptr(), blocks * LANES) };
            // SAFETY: every example has `depth` floats and every block its weights, by the assertions of the callers; the kernels'
            // instruction set is the path's.
            unsafe {
                Kernels::<S, 0, RUN>::ALL[blocks - 1][end - start - 1](&Tile {
                    x: x.as_ptr().add(start * depth),
                    x_step: depth,
                    places: std::ptr::null(),
                    offsets: self.offsets.as_ptr(),
                    count: self.offsets.len(),
                    ahead: Part::NONE,
                    weights: weights.as_ptr().add(self.packing.start(block)),
                    weights_block: depth * LANES,
                    bias: bias.map_or(std::ptr::null(), |bias| bias.as_ptr().add(block * LANES)),
                    y: to,
                    y_block: LANES,
                    y_step,
                    finish,
                });
            }
            if !whole {
                let part = part.chunks_exact(blocks * LANES).take(end - start);
                part.enumerate().for_each(|(example, part)| of(example).copy_from_slice(&part[..lanes]));
            }
        }
    }

    /// The gradient of the input, `dx = dy weights` `[n, inputs]`, added to what stands there with `add`.
    pub fn input_gradient(
        &self,
        n: usize,
        weights: &[f32],
        dy: &[f32],
        dx: &mut [f32],
        add: bool,
        scratch: &mut Scratch,
    ) {
        assert!(dx.len() >= n * self.inputs && dy.len() >= n * self.units, "rows of the planned size");
        assert!(weights.len() >= self.packing.len(), "weights of the planned size");
        let (units, depth) = (self.packing.blocks() * LANES, self.depth());
        let blocks = n.div_ceil(LANES);
        scratch.a.grow(blocks * units * LANES);
        scratch.b.grow(blocks * depth * LANES);
        let rows = dy[..n * self.units].chunks(LANES * self.units);
        parallel::share(scratch.a.chunks_exact_mut(units * LANES).zip(rows), |_, (turned, rows)| {
            self.turned(rows.len() / self.units, self.units).backward(rows, turned, false);
            turned[self.units * LANES..].fill(0.0);
        });
        let slopes = &scratch.a;
        let sums = &mut scratch.b[..blocks * depth * LANES];
        let most_blocks = on_path!(self.path, S => panel::<S>(2));
        parallel::columns(sums, depth * LANES, most_blocks, |first, sums| {
            on_path!(self.path, S => self.turned_rows::<S>(weights, &slopes[first * units * LANES..], sums));
        });
        let rows = dx[..n * self.inputs].chunks_mut(LANES * self.inputs);
        parallel::share(rows.zip(scratch.b.chunks_exact(depth * LANES)), |_, (rows, sums)| {
            self.turned(rows.len() / self.inputs, self.inputs).forward(sums, rows, add);
        });
    }

    /// Between rows of `count` numbers, one an example, and columns of at most sixteen examples, `[count][16]`.
    fn turned(&self, examples: usize, count: usize) -> Flatten {
        Flatten::new(self.path, &Maps::new(examples, [1, count]))
    }

    /// `sums` `[blocks of examples][inputs][16]` from `slopes` `[blocks of examples][units][16]`.
    fn turned_rows<S: Simd>(&self, weights: &[f32], slopes: &[f32], sums: &mut [f32]) {
        let (units, depth) = (self.packing.blocks() * LANES, self.depth());
        let all = sums.len() / (depth * LANES);
        let mut block = 0;
        while block < all {
            let blocks = panel::<S>(all - block);
            let most = S::TILE[blocks - 1];
            let tiles = depth.div_ceil(most);
            for tile in 0..tiles {
                let (start, end) = (depth * tile / tiles, depth * (tile + 1) / tiles);
                // SAFETY: an input's weights are sixteen floats in every block; `slopes` and `sums` hold all their blocks; the kernels'
                // instruction set is the path's.
                unsafe {
                    Kernels::<S, 16, RUN>::ALL[blocks - 1][end - start - 1](&Tile {
                        x: weights.as_ptr().add(start * LANES),
                        x_step: LANES,
                        places: std::ptr::null(),
                        offsets: self.turned.as_ptr(),
                        count: self.turned.len(),
                        ahead: Part::NONE,
                        weights: slopes.as_ptr().add(block * units * LANES),
                        weights_block: units * LANES,
                        bias: std::ptr::null(),
                        y: sums.as_mut_ptr().add((block * depth + start) * LANES),
                        y_block: depth * LANES,
                        y_step: LANES,
                        finish: Finish::PLAIN,
                    });
                }
            }
            block += blocks;
        }
    }

    /// The gradient of the weights, `dw = dy^T x`, in their order.
    pub fn weight_gradient(&self, n: usize, x: &[f32], dy: &[f32], dw: &mut [f32], scratch: &mut Scratch) {
        assert!(dw.len() >= self.packing.len(), "sums of the planned size");
        self.pack_slopes(n, x, dy, scratch);
        let slopes = &scratch.a;
        let (size, most) = (self.depth() * LANES, on_path!(self.path, S => S::GRADIENT[1]));
        parallel::columns(&mut dw[..self.packing.len()], size, most, |first, dw| {
            for (index, dw) in dw.chunks_mut(most * size).enumerate() {
                self.panel_gradient(n, first + index * most, x, slopes, dw);
            }
        });
    }

    /// Moves the weights by their gradient at once, a few blocks at a time, while it is in the cache; `sums` are the rule's. The same
    /// bits as [`Linear::weight_gradient`] and [`Step::run`] one after the other.
    #[expect(clippy::too_many_arguments, reason = "operands of a product and of a step")]
    pub fn step<'a>(
        &self,
        n: usize,
        x: &[f32],
        dy: &[f32],
        weights: &mut [f32],
        sums: impl Iterator<Item = &'a mut [f32]>,
        step: &Step,
        scratch: &mut Scratch,
    ) {
        assert!(weights.len() >= self.packing.len(), "weights of the planned size");
        self.pack_slopes(n, x, dy, scratch);
        let slopes = &scratch.a;
        let (size, most) = (self.depth() * LANES, on_path!(self.path, S => S::GRADIENT[1]));
        let weights = &mut weights[..self.packing.len()];
        parallel::panels(weights, sums, most * size, |panel, weights, sums| {
            parallel::with_scratch(weights.len(), |dw| {
                self.panel_gradient(n, panel * most, x, slopes, dw);
                step.run(self.path, weights, dw, sums);
            });
        });
    }

    /// Slopes by blocks of units, `[units / 16][n][16]`, in the first scratch.
    fn pack_slopes(&self, n: usize, x: &[f32], dy: &[f32], scratch: &mut Scratch) {
        assert!(x.len() >= n * self.inputs && dy.len() >= n * self.units, "rows of the planned size");
        scratch.a.grow(self.packing.blocks() * n * LANES);
        let blocks = scratch.a.chunks_exact_mut(n * LANES).take(self.packing.blocks());
        parallel::share(blocks, |block, to| {
            let lanes = (self.units - block * LANES).min(LANES);
            for (to, from) in to.chunks_exact_mut(LANES).zip(dy.chunks_exact(self.units)) {
                to[..lanes].copy_from_slice(&from[block * LANES..][..lanes]);
                to[lanes..].fill(0.0);
            }
        });
    }

    /// The gradient of some blocks' weights, from the first one.
    fn panel_gradient(&self, n: usize, first: usize, x: &[f32], slopes: &[f32], dw: &mut [f32]) {
        let x_step = [0, self.inputs];
        let walk = gradient::Walk { count: [1, n], x_step, dy_row: 0, dy_block: n * LANES, fresh: true };
        let size = self.depth() * LANES;
        let panel = gradient::Panel { block: 0, blocks: dw.len() / size, rows: self.rows.clone() };
        // SAFETY: every row is an input of every example.
        on_path!(self.path, S => unsafe {
            gradient::add::<S>(&panel, &walk, x, &slopes[first * n * LANES..], dw, size);
        });
        // Inputs that fill the last run.
        dw.chunks_exact_mut(size).for_each(|block| block[self.inputs * LANES..].fill(0.0));
    }
}

/// Blocks of the next panel, where so many are left.
fn panel<S: Simd>(left: usize) -> usize {
    if left > 1 && S::TILE[1] > 0 { 2 } else { 1 }
}
