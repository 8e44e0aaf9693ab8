//! Copies of channels between maps, and between maps and rows.

use super::view::{View, joined};
use crate::maps::Maps;
use crate::simd::{LANES, Path, Simd, on_path};

/// Copies some channels of maps to some channels of others, with other halos: what a concatenation and its
/// gradient are made of. Channels need not begin with a block.
#[derive(Debug)]
pub struct Channels {
    path: Path,
    from: View,
    to: View,
    parts: Vec<Part>,
}

/// Lanes that go from one block to another.
#[derive(Debug)]
struct Part {
    from: usize,
    to: usize,
    from_lane: usize,
    to_lane: usize,
    count: usize,
    /// Lanes behind that become zero: those beyond the last channel.
    zeros: usize,
}

impl Channels {
    /// `count` channels from `first` in `from` to `place` in `to`.
    pub fn new(path: Path, from: &Maps, first: usize, to: &Maps, place: usize, count: usize) -> Self {
        assert!(first + count <= from.channels && place + count <= to.channels, "channels that are there");
        let mut parts = Vec::new();
        let mut done = 0;
        while done < count {
            let (source, target) = (first + done, place + done);
            let lanes = (LANES - source % LANES).min(LANES - target % LANES).min(count - done);
            let end = target + lanes;
            let zeros = if end == to.channels { end.next_multiple_of(LANES) - end } else { 0 };
            parts.push(Part {
                from: source / LANES,
                to: target / LANES,
                from_lane: source % LANES,
                to_lane: target % LANES,
                count: lanes,
                zeros,
            });
            done += lanes;
        }
        let alike = |maps: &Maps| View::maps(&Maps { channels: 1, ..*maps });
        let [mut from_view, mut to_view] = joined([alike(from), alike(to)]);
        (from_view.channels, to_view.channels) = (from.channels, to.channels);
        Self { path, from: from_view, to: to_view, parts }
    }

    /// One example: overwrites what stands there, or adds to it. Behind the last channel zeros are written.
    pub fn run(&self, from: &[f32], to: &mut [f32], add: bool) {
        assert!(from.len() >= self.from.len() && to.len() >= self.to.len(), "maps of the planned size");
        let (from, to) = (from.as_ptr(), to.as_mut_ptr());
        // SAFETY: the lengths are checked, and lanes are inside their blocks; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                for part in &self.parts {
                    if part.count == LANES {
                        self.part::<S, true>(part, from, to, add);
                    } else {
                        self.part::<S, false>(part, from, to, add);
                    }
                }
            });
        });
    }

    #[inline(always)]
    unsafe fn part<S: Simd, const WHOLE: bool>(&self, part: &Part, from: *const f32, to: *mut f32, add: bool) {
        for row in 0..self.from.rows {
            // SAFETY: the caller's.
            unsafe {
                let from = from.add(self.from.at(part.from) + row * self.from.row + part.from_lane);
                let to = to.add(self.to.at(part.to) + row * self.to.row + part.to_lane);
                for pixel in 0..self.from.pixels {
                    let (from, to) = (from.add(pixel * LANES), to.add(pixel * LANES));
                    if WHOLE {
                        let x = S::load(from);
                        S::store(to, if add { S::add(x, S::load(to)) } else { x });
                    } else {
                        let x = S::load_first(from, part.count);
                        let x = if add { S::add(x, S::load_first(to, part.count)) } else { x };
                        S::store_first(to, x, part.count + part.zeros);
                    }
                }
            }
        }
    }
}

/// Maps as a row `[C * H * W]`, in PyTorch's order, and back.
#[derive(Debug)]
pub struct Flatten {
    path: Path,
    maps: View,
}

impl Flatten {
    /// Of maps like `maps`.
    pub fn new(path: Path, maps: &Maps) -> Self {
        let [maps] = joined([View::maps(maps)]);
        Self { path, maps }
    }

    /// One example's row, or what is added to it.
    #[expect(clippy::needless_range_loop, reason = "with iterators the tile would live in memory")]
    pub fn forward(&self, maps: &[f32], row: &mut [f32], add: bool) {
        self.check(maps.len(), row.len());
        let (maps, row) = (maps.as_ptr(), row.as_mut_ptr());
        // SAFETY: the lengths are checked; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || self.tiles(#[inline(always)] |place, at, pixels, lanes| {
                let mut tile = [S::splat(0.0); LANES];
                for pixel in 0..LANES {
                    if pixel < pixels {
                        tile[pixel] = S::load(maps.add(place + pixel * LANES));
                    }
                }
                tile = transpose::<S>(tile);
                for lane in 0..LANES {
                    if lane < lanes {
                        let row = row.add(at + lane * self.maps.count());
                        let sum = if add { S::add(tile[lane], S::load_first(row, pixels)) } else { tile[lane] };
                        S::store_first(row, sum, pixels);
                    }
                }
            }));
        });
    }

    /// One example's maps, from a row: overwrites what stands there, or adds to it. Behind the last channel zeros are written.
    #[expect(clippy::needless_range_loop, reason = "with iterators the tile would live in memory")]
    pub fn backward(&self, row: &[f32], maps: &mut [f32], add: bool) {
        self.check(maps.len(), row.len());
        let (maps, row) = (maps.as_mut_ptr(), row.as_ptr());
        // SAFETY: as in `forward`.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || self.tiles(#[inline(always)] |place, at, pixels, lanes| {
                let mut tile = [S::splat(0.0); LANES];
                for lane in 0..LANES {
                    if lane < lanes {
                        tile[lane] = S::load_first(row.add(at + lane * self.maps.count()), pixels);
                    }
                }
                tile = transpose::<S>(tile);
                for pixel in 0..LANES {
                    if pixel < pixels {
                        let maps = maps.add(place + pixel * LANES);
                        S::store(maps, if add { S::add(tile[pixel], S::load(maps)) } else { tile[pixel] });
                    }
                }
            }));
        });
    }

    fn check(&self, maps: usize, row: usize) {
        assert!(
            maps >= self.maps.len() && row >= self.maps.channels * self.maps.count(),
            "operands of the planned size"
        );
    }

    /// Calls `f(place in the maps, place in the row, pixels, channels)` for at most sixteen pixels of sixteen channels.
    #[inline(always)]
    fn tiles(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        let maps = &self.maps;
        for block in 0..maps.blocks() {
            let lanes = (maps.channels - block * LANES).min(LANES);
            for row in 0..maps.rows {
                let place = maps.at(block) + row * maps.row;
                let at = block * LANES * maps.count() + row * maps.pixels;
                for first in (0..maps.pixels).step_by(LANES) {
                    f(place + first * LANES, at + first, (maps.pixels - first).min(LANES), lanes);
                }
            }
        }
    }
}

/// Rows as columns: each round moves one bit of a place from the row's number to the lane's.
#[inline(always)]
unsafe fn transpose<S: Simd>(mut tile: [S::V; LANES]) -> [S::V; LANES] {
    for _ in 0..LANES.ilog2() {
        let mut next = tile;
        for row in 0..LANES / 2 {
            // SAFETY: the caller's.
            [next[2 * row], next[2 * row + 1]] = unsafe { S::interleave(tile[row], tile[row + LANES / 2]) };
        }
        tile = next;
    }
    tile
}
