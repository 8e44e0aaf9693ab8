//! The gradient of a convolution's weights by the same tiles and points.
//!
//! Outputs are linear in the weights, so the gradient is the transpose of the forward pass (Lavin and Gray 2015, section 4.4): slopes of a tile's
//! outputs go to the points by the transpose of the outputs' transform, and at every position the products of inputs and slopes are summed over all tiles
//! of all examples; the sums go back once by the transpose of the weights' transform.

use std::ops::Range;
use std::sync::Arc;

use super::transform::{both, output_slopes, weight_slopes};
use super::{Kind, Winograd};
use crate::kernels::dense::Shape;
use crate::kernels::gradient::{self, Panel, Walk};
use crate::kernels::packing::Packing;
use crate::maps::Maps;
use crate::parallel::Columns;
use crate::simd::{LANES, Path, Simd, on_path};

/// The gradient of a convolution's weights.
#[derive(Debug)]
pub struct WeightGradient {
    /// The convolution: the gradient has its tiles and positions, and sums in place of its transformed weights.
    forward: Winograd,
    panels: Vec<Panel>,
}

impl WeightGradient {
    /// From inputs like `x` and gradients of outputs like `dy`. `None` as for [`Winograd::new`].
    pub fn new(path: Path, shape: &Shape, x: Maps, dy: Maps) -> Option<Self> {
        let forward = Winograd::new(path, shape, x, dy)?;
        let chunk = forward.chunk;
        Some(Self { forward, panels: Vec::new() }.in_chunks(chunk))
    }

    /// The same with other chunks.
    pub(in crate::kernels) fn in_chunks(self, chunk: usize) -> Self {
        let forward = self.forward.in_chunks(chunk);
        let place = |channel: usize| channel / LANES * forward.block() + channel % LANES;
        let rows: Arc<[usize]> = (0..forward.depth()).map(place).collect();
        let [_, most] = on_path!(forward.path, S => S::GRADIENT);
        let all = forward.y.blocks();
        let panel = |block| Panel { block, blocks: most.min(all - block), rows: rows.clone() };
        let panels = (0..all).step_by(most).map(panel).collect();
        Self { forward, panels }
    }

    /// The order of the sums: that of [`Forward`](crate::kernels::dense::Forward)'s weights.
    pub fn packing(&self) -> &Packing {
        self.forward.packing()
    }

    /// Floats that [`WeightGradient::add`] works in. Their values do not matter.
    pub fn scratch_len(&self) -> usize {
        self.forward.len() + self.forward.scratch_len()
    }

    /// Adds the gradient of as many examples as `x` and `dy` hold, one after the other, to `dw`; [`Packing::clear_padding`]
    /// after the last ones.
    ///
    /// The examples of a call are summed at the points, tile by tile in their order, and calls by their weights: which examples share a call
    /// changes the last bits.
    pub fn add(&self, x: &[f32], dy: &[f32], dw: &mut [f32], scratch: &mut [f32]) {
        let forward = &self.forward;
        let examples = x.len() / forward.x.len();
        assert!(x.len() == examples * forward.x.len(), "maps of the planned size");
        assert!(dy.len() == examples * forward.y.len(), "maps of the planned size");
        assert!(dw.len() >= self.packing().len(), "sums of the planned size");
        assert!(scratch.len() >= self.scratch_len(), "scratch of the planned size");
        let (sums, scratch) = scratch.split_at_mut(forward.len());
        let (inputs, slopes) = scratch.split_at_mut(forward.kind.positions() * forward.steps()[0]);
        for (index, tiles) in forward.chunks(0..forward.tiles_of(examples)).enumerate() {
            on_path!(forward.path, S => on_kind!(forward.kind, TILE KERNEL OUT => {
                forward.inputs::<S, TILE, OUT>(x, tiles.clone(), 0, &Columns::new(inputs, inputs.len()));
                self.slopes::<S, OUT, TILE>(dy, tiles.clone(), slopes);
                self.products::<S>(inputs, slopes, tiles.len(), index == 0, sums);
                const { assert!(TILE + 1 == KERNEL + OUT) };
            }));
        }
        if examples > 0 {
            on_path!(forward.path, S => on_kind!(forward.kind, TILE KERNEL _OUT => self.back::<S, TILE, KERNEL>(sums, dw)));
        }
    }

    /// Gradients of some tiles' outputs at every position, `[positions][blocks][tiles][16]`.
    fn slopes<S: Simd, const OUT: usize, const TILE: usize>(&self, dy: &[f32], tiles: Range<usize>, to: &mut [f32]) {
        let step = self.forward.steps()[1];
        self.forward.in_tiles::<S, OUT, TILE>(
            &self.forward.y,
            [0, 0],
            OUT,
            dy,
            tiles,
            0,
            &Columns::new(to, to.len()),
            step,
            // SAFETY: the instruction set is the path's.
            #[inline(always)]
            |line| unsafe { output_slopes::<S, OUT, TILE>(line) },
        );
    }

    /// The sums of products of inputs and slopes at every position, `[positions][blocks of 16 outputs][inputs][16]`.
    fn products<S: Simd>(&self, inputs: &[f32], slopes: &[f32], tiles: usize, fresh: bool, sums: &mut [f32]) {
        let [in_step, out_step, sum_step] = self.forward.steps();
        let block = self.forward.block();
        let sums_block = self.forward.depth() * LANES;
        assert!(tiles > 0 && tiles <= self.forward.chunk);
        let walk = Walk { count: [1, tiles], x_step: [0, LANES], dy_row: 0, dy_block: block, fresh };
        for position in 0..self.forward.kind.positions() {
            let inputs = &inputs[position * in_step..][..in_step];
            for panel in &self.panels {
                let slopes = &slopes[position * out_step + panel.block * block..];
                let sums = &mut sums[position * sum_step + panel.block * sums_block..];
                // SAFETY: rows are inside a position's inputs for every tile of a chunk; the instruction set is the path's.
                unsafe { gradient::add::<S>(panel, &walk, inputs, slopes, sums, sums_block) };
            }
        }
    }

    /// Adds the gradient that the sums stand for.
    fn back<S: Simd, const TILE: usize, const KERNEL: usize>(&self, sums: &[f32], dw: &mut [f32]) {
        let forward = &self.forward;
        let [_, _, step] = forward.steps();
        let taps = KERNEL * KERNEL;
        for block in 0..forward.y.blocks() {
            for in_block in 0..forward.x.blocks() {
                let first = in_block * LANES;
                let channels = (forward.depth() - first).min(LANES);
                let row = |tap| forward.packing.row(block, first, tap).expect("one group reads all inputs");
                let tap_step = row(1) - row(0);
                let from = &sums[(block * forward.depth() + first) * LANES..];
                let to = &mut dw[row(0)..];
                assert!(from.len() >= (TILE * TILE - 1) * step + channels * LANES);
                assert!(to.len() >= (taps - 1) * tap_step + channels * LANES);
                // SAFETY: the assertions; the instruction set is the path's.
                unsafe {
                    S::run(
                        #[inline(always)]
                        || {
                            for channel in 0..channels {
                                let from = from.as_ptr().add(channel * LANES);
                                let to = to.as_mut_ptr().add(channel * LANES);
                                both::<S, TILE, KERNEL>(
                                    #[inline(always)]
                                    |row, column| S::load(from.add((row * TILE + column) * step)),
                                    #[inline(always)]
                                    |line| weight_slopes::<S, TILE, KERNEL>(line),
                                    #[inline(always)]
                                    |row, column, sum| {
                                        let to = to.add((row * KERNEL + column) * tap_step);
                                        S::store(to, S::add(S::load(to), sum));
                                    },
                                );
                            }
                        },
                    );
                }
            }
        }
    }
}
