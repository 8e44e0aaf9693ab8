//! Normalisations. Sums are kept in `f64` across tiles of some pixels: neither large maps nor large means lose digits.

mod backward;
mod batch;
mod element;
mod group;
mod moments;

pub use backward::{Backward, Mask, Slopes};
pub use batch::{Constants, Normalise};
pub use element::ElementNorm;
pub use group::GroupNorm;
pub use moments::{Moments, Statistics};

use super::view::{self, View};
use crate::simd::{LANES, Simd};

/// Pixels of a tile: as many as stay in the first cache while they are read twice, and few enough to be summed in fp32.
const TILE: usize = 256;

/// Sums that do not wait for each other.
const SUMS: usize = 4;

/// The reciprocal of a standard deviation. Not a number where the variance has overflowed (distances above 10^19, squared in fp32): a
/// factor of zero would hide it behind the bias.
fn deviation(variance: f64, epsilon: f64) -> f64 {
    if variance.is_finite() { 1.0 / (variance + epsilon).sqrt() } else { f64::NAN }
}

/// Some pixels of a block.
#[derive(Debug, Clone, Copy)]
struct Tile {
    row: usize,
    rows: usize,
    pixel: usize,
    pixels: usize,
}

impl Tile {
    fn count(&self) -> usize {
        self.rows * self.pixels
    }
}

/// A view's pixels in tiles, in order.
#[inline(always)]
fn tiles(view: &View, mut f: impl FnMut(Tile)) {
    let pixels = TILE.min(view.pixels).max(1);
    let rows = (TILE / pixels).max(1);
    let mut row = 0;
    while row < view.rows {
        let rows = rows.min(view.rows - row);
        let mut pixel = 0;
        while pixel < view.pixels {
            let pixels = pixels.min(view.pixels - pixel);
            f(Tile { row, rows, pixel, pixels });
            pixel += pixels;
        }
        row += rows;
    }
}

/// Runs `$body` for each pixel of a tile with its row and number, and the number of a sum to add to.
macro_rules! each_pixel {
    ($tile:expr, $row:ident, $pixel:ident, $sum:ident => $body:block) => {
        for $row in $tile.row..$tile.row + $tile.rows {
            let (mut first, end) = ($tile.pixel, $tile.pixel + $tile.pixels);
            while first + SUMS <= end {
                for $sum in 0..SUMS {
                    let $pixel = first + $sum;
                    $body
                }
                first += SUMS;
            }
            while first < end {
                let ($pixel, $sum) = (first, 0);
                $body
                first += 1;
            }
        }
    };
}
use each_pixel;

/// Calls `f(number, lanes)` for some vectors; compiled apart for whole ones.
#[inline(always)]
fn each(count: usize, lanes: usize, mut f: impl FnMut(usize, usize)) {
    if lanes == LANES {
        for index in 0..count {
            f(index, LANES);
        }
    } else {
        for index in 0..count {
            f(index, lanes);
        }
    }
}

/// Calls `f(block, lanes)` for all blocks; compiled apart for whole vectors.
#[inline(always)]
fn each_block(view: &View, mut f: impl FnMut(usize, usize)) {
    for block in 0..view.blocks() {
        match view.lanes_of(block) {
            LANES => f(block, LANES),
            lanes => f(block, lanes),
        }
    }
}

/// The lanes of some sums' sum.
#[inline(always)]
unsafe fn lanes<S: Simd>(sums: [S::V; SUMS]) -> [f64; LANES] {
    // SAFETY: the caller's.
    unsafe { view::lanes::<S>(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3]))).map(f64::from) }
}
