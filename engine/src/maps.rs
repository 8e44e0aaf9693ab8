//! How feature maps lie in memory.

use crate::simd::LANES;

/// Rows and columns of zeros around a map, so that windows need no special case at its edges.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Halo {
    /// Rows above and columns to the left.
    pub before: [usize; 2],
    /// Rows below and columns to the right.
    pub after: [usize; 2],
}

impl Halo {
    /// What is enough for both.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        let larger = |a: [usize; 2], b: [usize; 2]| [a[0].max(b[0]), a[1].max(b[1])];
        Self { before: larger(self.before, other.before), after: larger(self.after, other.after) }
    }
}

/// The maps of one example: blocks of channels, `[C / lanes][H + halo][W + halo][lanes]`.
///
/// The halo is zero whenever a window reads it, and is never written. Lanes beyond the last channel may
/// hold anything that is finite: weights for them are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Maps {
    /// Channels that mean something.
    pub channels: usize,
    /// Height and width without the halo.
    pub size: [usize; 2],
    /// The zeros around.
    pub halo: Halo,
    /// Channels of a block: [`LANES`], or 1 for a network's input of few channels.
    pub lanes: usize,
    /// Floats from these maps' end to the same place of the next example: what lies beside them, where they are a part of others.
    pub beside: usize,
}

impl Maps {
    /// Blocks of [`LANES`] channels, without a halo.
    pub fn new(channels: usize, size: [usize; 2]) -> Self {
        Self { channels, size, halo: Halo::default(), lanes: LANES, beside: 0 }
    }

    /// The same with at least this halo.
    #[must_use]
    pub fn with_halo(self, halo: Halo) -> Self {
        Self { halo: self.halo.union(halo), ..self }
    }

    /// One channel a block.
    #[must_use]
    pub fn planar(self) -> Self {
        Self { lanes: 1, ..self }
    }

    /// Blocks of channels.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(self.lanes)
    }

    /// Floats from a row to the next.
    pub fn row(&self) -> usize {
        (self.halo.before[1] + self.size[1] + self.halo.after[1]) * self.lanes
    }

    /// Floats from a block to the next. No power of two: such blocks would share the cache's sets.
    pub fn block(&self) -> usize {
        let rows = self.halo.before[0] + self.size[0] + self.halo.after[0];
        let block = rows * self.row();
        if block.is_multiple_of(1024) { block + LANES } else { block }
    }

    /// Floats from one example to the next.
    pub fn len(&self) -> usize {
        self.blocks() * self.block() + self.beside
    }

    /// Some of these channels as maps of their own, and where they begin. The first one is the first of a block.
    pub fn part(&self, first: usize, channels: usize) -> (Self, usize) {
        assert!(
            first.is_multiple_of(self.lanes) && first + channels <= self.channels,
            "whole blocks of these channels"
        );
        let part = Self { channels, beside: 0, ..*self };
        (Self { beside: self.len() - part.len(), ..part }, first / self.lanes * self.block())
    }

    /// Whether there are no maps.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where a pixel of a block begins. Rows and columns may be in the halo: minus one is the one before the first.
    pub fn at(&self, block: usize, row: isize, column: isize) -> usize {
        let row = self.halo.before[0].checked_add_signed(row).expect("inside the halo");
        let column = self.halo.before[1].checked_add_signed(column).expect("inside the halo");
        block * self.block() + row * self.row() + column * self.lanes
    }

    /// Copies an example `[C, H, W]` in; the halo stays as it is.
    pub fn pack(&self, values: &[f32], to: &mut [f32]) {
        let [height, width] = self.size;
        for (row, line) in values.chunks_exact(width).enumerate() {
            let (channel, row) = (row / height, row % height);
            let start = self.at(channel / self.lanes, row as isize, 0) + channel % self.lanes;
            if self.lanes == 1 {
                to[start..start + width].copy_from_slice(line);
                continue;
            }
            for (column, value) in line.iter().enumerate() {
                to[start + column * self.lanes] = *value;
            }
        }
    }

    /// Copies an example's blocks to where block `first` and those behind it lie in maps of this size.
    pub(crate) fn copy_blocks(&self, from: &[f32], to_maps: &Self, first: usize, to: &mut [f32]) {
        assert!(self.size == to_maps.size && self.lanes == to_maps.lanes, "maps of one size");
        let line = self.size[1] * self.lanes;
        for block in 0..self.blocks() {
            for row in 0..self.size[0] as isize {
                let (from, to) = (&from[self.at(block, row, 0)..], &mut to[to_maps.at(first + block, row, 0)..]);
                to[..line].copy_from_slice(&from[..line]);
            }
        }
    }

    /// Sets an example's lanes beyond the last channel to zero.
    pub fn clear_padding(&self, to: &mut [f32]) {
        let used = self.channels % self.lanes;
        if used == 0 {
            return;
        }
        for row in 0..self.size[0] {
            let start = self.at(self.blocks() - 1, row as isize, 0);
            to[start..][..self.size[1] * self.lanes]
                .chunks_exact_mut(self.lanes)
                .for_each(|pixel| pixel[used..].fill(0.0));
        }
    }

    /// Copies an example `[C, H, W]` out.
    pub fn unpack(&self, from: &[f32], values: &mut [f32]) {
        let [height, width] = self.size;
        for (row, line) in values.chunks_exact_mut(width).enumerate() {
            let (channel, row) = (row / height, row % height);
            let start = self.at(channel / self.lanes, row as isize, 0) + channel % self.lanes;
            for (column, value) in line.iter_mut().enumerate() {
                *value = from[start + column * self.lanes];
            }
        }
    }
}
