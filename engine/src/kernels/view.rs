//! How the operands of a kernel lie in memory: pixels of sixteen channels, one after another.

use crate::maps::Maps;
use crate::simd::{LANES, Simd};

/// An operand: one example's maps, or rows of numbers that stand for examples with one pixel each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct View {
    pub(super) channels: usize,
    pub(super) rows: usize,
    /// Pixels of a row.
    pub(super) pixels: usize,
    /// Where the first pixel is, and floats to the next block, row and pixel.
    pub(super) start: usize,
    pub(super) block: usize,
    pub(super) row: usize,
    pub(super) pixel: usize,
    /// Whether all sixteen lanes of the last block are there.
    whole: bool,
}

impl View {
    /// One example's maps, in blocks of [`LANES`] channels.
    pub fn maps(maps: &Maps) -> Self {
        assert_eq!(maps.lanes, LANES, "maps in blocks");
        Self {
            channels: maps.channels,
            rows: maps.size[0],
            pixels: maps.size[1],
            start: maps.at(0, 0, 0),
            block: maps.block(),
            row: maps.row(),
            pixel: LANES,
            whole: true,
        }
    }

    /// `count` rows of `features` numbers, side by side: `[count][features]`. A feature is a channel.
    pub fn rows(count: usize, features: usize) -> Self {
        Self {
            channels: features,
            rows: 1,
            pixels: count,
            start: 0,
            block: LANES,
            row: count * features,
            pixel: features,
            whole: false,
        }
    }

    /// Channels.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Blocks of channels.
    pub fn blocks(&self) -> usize {
        self.channels.div_ceil(LANES)
    }

    /// Channels with those that fill the last block: the length of what has a number for each channel.
    pub fn lanes(&self) -> usize {
        self.blocks() * LANES
    }

    /// Pixels of a channel.
    pub fn count(&self) -> usize {
        self.rows * self.pixels
    }

    /// Floats that the operand has at least.
    pub(super) fn len(&self) -> usize {
        if self.channels == 0 || self.count() == 0 {
            return 0;
        }
        let last = self.blocks() - 1;
        self.at(last) + (self.rows - 1) * self.row + (self.pixels - 1) * self.pixel + self.lanes_of(last)
    }

    /// Where a block begins.
    #[inline(always)]
    pub(super) fn at(&self, block: usize) -> usize {
        self.start + block * self.block
    }

    /// Lanes of a block that are there.
    #[inline(always)]
    pub(super) fn lanes_of(&self, block: usize) -> usize {
        if self.whole { LANES } else { (self.channels - block * LANES).min(LANES) }
    }

    /// The same numbers as sixteen channels of many pixels and the rest, where it is one row; for what treats channels alike.
    pub(super) fn folded(self) -> Vec<Self> {
        if self.whole {
            return vec![self];
        }
        assert_eq!(self.pixels, 1, "one row");
        let (pixels, rest) = (self.channels / LANES, self.channels % LANES);
        let many = Self { channels: LANES, pixels, row: pixels * LANES, pixel: LANES, ..self };
        let few = Self { channels: rest, start: self.start + pixels * LANES, ..self };
        [many, few].into_iter().filter(|view| view.channels > 0 && view.pixels > 0).collect()
    }

    /// Whether all its numbers lie side by side, in the order of rows.
    pub(super) fn is_plain(&self) -> bool {
        !self.whole
    }
}

/// The same views with rows that follow each other without a gap made one long row, where that is so in all of them.
pub(super) fn joined<const N: usize>(mut views: [View; N]) -> [View; N] {
    let shape = |view: &View| (view.channels, view.rows, view.pixels, view.whole);
    assert!(views.iter().all(|view| shape(view) == shape(&views[0])), "operands of one shape");
    if views.iter().all(|view| view.row == view.pixels * view.pixel) {
        for view in &mut views {
            (view.pixels, view.rows) = (view.count(), 1);
        }
    }
    views
}

/// Runs of numbers that lie side by side in each of some operands: for what treats all numbers alike.
#[derive(Debug, Clone)]
pub(super) struct Runs<const N: usize> {
    views: [View; N],
    blocks: usize,
    floats: usize,
}

impl<const N: usize> Runs<N> {
    /// Those of operands of one shape.
    pub(super) fn new(views: [View; N]) -> Self {
        let views = joined(views);
        let first = &views[0];
        if first.is_plain() {
            return Self { views, blocks: 1, floats: first.channels * first.pixels };
        }
        Self { views, blocks: first.blocks(), floats: first.pixels * LANES }
    }

    /// Floats that operand number `index` has at least.
    pub(super) fn len(&self, index: usize) -> usize {
        self.views[index].len()
    }

    /// Whether two operands lie alike, so that one may be written over the other.
    pub(super) fn alike(&self, a: usize, b: usize) -> bool {
        self.views[a] == self.views[b]
    }

    /// Vectors that [`Runs::each`] visits.
    pub(super) fn vectors(&self) -> usize {
        self.blocks * self.views[0].rows * self.floats.div_ceil(LANES)
    }

    /// Calls `f(where the operands' vectors are, lanes, the vector's number)` for every vector.
    ///
    /// # Safety
    /// The pointers are good for the operands' lengths.
    #[inline(always)]
    pub(super) unsafe fn each(&self, operands: [*mut f32; N], mut f: impl FnMut([*mut f32; N], usize, usize)) {
        let (whole, rest) = (self.floats / LANES, self.floats % LANES);
        let mut number = 0;
        for block in 0..self.blocks {
            for row in 0..self.views[0].rows {
                let mut at = operands;
                for (at, view) in at.iter_mut().zip(&self.views) {
                    // SAFETY: inside the operand.
                    *at = unsafe { at.add(view.at(block) + row * view.row) };
                }
                for vector in 0..whole {
                    let mut place = at;
                    for place in &mut place {
                        // SAFETY: inside the row.
                        *place = unsafe { place.add(vector * LANES) };
                    }
                    f(place, LANES, number + vector);
                }
                number += whole;
                if rest > 0 {
                    // SAFETY: as above.
                    f(
                        at.map(
                            #[inline(always)]
                            |at| unsafe { at.add(whole * LANES) },
                        ),
                        rest,
                        number,
                    );
                    number += 1;
                }
            }
        }
    }
}

/// Reads the first `lanes` floats.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn get<S: Simd>(from: *const f32, lanes: usize) -> S::V {
    // SAFETY: the caller's.
    unsafe { if lanes == LANES { S::load(from) } else { S::load_first(from, lanes) } }
}

/// The numbers of a vector.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn lanes<S: Simd>(v: S::V) -> [f32; LANES] {
    let mut lanes = [0.0; LANES];
    // SAFETY: the caller's; the array holds a vector.
    unsafe { S::store(lanes.as_mut_ptr(), v) };
    lanes
}

/// Writes the first `lanes` floats.
///
/// # Safety
/// As for [`Simd`].
#[inline(always)]
pub(super) unsafe fn put<S: Simd>(to: *mut f32, v: S::V, lanes: usize) {
    // SAFETY: the caller's.
    unsafe { if lanes == LANES { S::store(to, v) } else { S::store_first(to, v, lanes) } }
}
