//! The products of transformed inputs and weights at a position: a matrix of tiles by blocks of outputs.

use super::super::dense::Finish;
use super::super::packing::RUN;
use super::super::tile::{Ahead, Kernels, Tile};
use crate::simd::{LANES, Simd};

/// Those of one position.
pub(super) struct Products<'a> {
    /// Where each run of inputs lies, from a tile's first one.
    pub(super) offsets: &'a [u32],
    pub(super) tiles: usize,
    /// Blocks of outputs.
    pub(super) blocks: usize,
    /// `[blocks][runs][RUN][16]`.
    pub(super) weights: &'a [f32],
    /// Those that are wanted next.
    pub(super) beyond: &'a [f32],
    /// `[tiles][16]` of a run's block, and others where the offsets lead.
    pub(super) x: *const f32,
    /// `[tiles][16]` of the first block.
    pub(super) y: *mut f32,
    /// From a block of outputs to the next.
    pub(super) y_block: usize,
}

impl Products<'_> {
    /// # Safety
    /// As for [`Simd`]; `x` and `y` are good for all tiles, blocks and offsets, and nobody else has these outputs.
    pub(super) unsafe fn run<S: Simd>(&self) {
        let count = self.offsets.len();
        let weights_block = count * RUN * LANES;
        assert!(self.weights.len() >= self.blocks * weights_block, "weights of the planned size");
        let most = if S::TILE[1] > 0 { 2 } else { 1 };
        for block in (0..self.blocks).step_by(most) {
            let blocks = most.min(self.blocks - block);
            let (own, rest) = self.weights[block * weights_block..].split_at(blocks * weights_block);
            let next = if rest.len() < weights_block { self.beyond } else { rest };
            let cuts = self.tiles.div_ceil(S::TILE[blocks - 1]);
            let mut ahead = Ahead::new(&next[..own.len().min(next.len())], cuts);
            for cut in 0..cuts {
                let (start, end) = (self.tiles * cut / cuts, self.tiles * (cut + 1) / cuts);
                // SAFETY: the caller's.
                unsafe {
                    Kernels::<S, LANES, RUN>::ALL[blocks - 1][end - start - 1](&Tile {
                        x: self.x.add(start * LANES),
                        x_step: LANES,
                        places: std::ptr::null(),
                        offsets: self.offsets.as_ptr(),
                        count,
                        ahead: ahead.part(),
                        weights: own.as_ptr(),
                        weights_block,
                        bias: std::ptr::null(),
                        y: self.y.add(block * self.y_block + start * LANES),
                        y_block: self.y_block,
                        y_step: LANES,
                        finish: Finish::PLAIN,
                    });
                }
            }
        }
    }
}
