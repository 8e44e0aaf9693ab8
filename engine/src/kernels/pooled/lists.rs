//! Lists of the live gradients of a strip of pooled rows.

use std::ops::Range;

use super::DEAD;
use crate::maps::Maps;
use crate::simd::{LANES, Simd};

/// Where the strip's gradients come from and where their inputs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    /// The pooled gradients.
    pub(super) dy: Maps,
    /// Pooled rows of a strip, at most.
    pub(super) rows: usize,
    /// Floats from a row of inputs to the next.
    pub(super) x_row: usize,
    /// Blocks of output channels whose gradients are listed together for a pixel.
    pub(super) chunk: usize,
    /// Floats from an output channel to the next in the weights that a pixel's list multiplies with.
    pub(super) weights: usize,
    /// A pixel's list is filled up with zeros to a multiple of this.
    pub(super) sets: usize,
}

impl Plan {
    /// Room in a channel's list: every window, and what is written before it is known to be live.
    fn channel_room(&self) -> usize {
        self.rows * self.dy.size[1] + 1
    }

    /// Room in a pixel's list: every channel of a chunk, and a vector behind.
    fn pixel_room(&self) -> usize {
        (self.chunk + 1) * LANES
    }

    /// Pixels of a strip before the pool.
    fn pixels(&self) -> usize {
        4 * self.rows * self.dy.size[1]
    }

    /// Pixels of a row before the pool.
    pub(super) fn width(&self) -> usize {
        2 * self.dy.size[1]
    }
}

/// A list: what its gradients multiply with begins at `places`.
#[derive(Debug, Clone, Copy)]
pub(super) struct List {
    pub(super) places: *const u32,
    pub(super) slopes: *const f32,
    pub(super) count: usize,
}

/// Many lists of the same room.
#[derive(Debug, Default)]
struct Table {
    places: Vec<u32>,
    slopes: Vec<f32>,
    counts: Vec<u32>,
    room: usize,
}

impl Table {
    fn new(lists: usize, room: usize) -> Self {
        Self { places: vec![0; lists * room], slopes: vec![0.0; lists * room], counts: vec![0; lists], room }
    }

    fn list(&self, index: usize) -> List {
        let entries = index * self.room..(index + 1) * self.room;
        List {
            places: self.places[entries.clone()].as_ptr(),
            slopes: self.slopes[entries].as_ptr(),
            count: self.counts[index] as usize,
        }
    }
}

/// All lists of a strip.
#[derive(Debug)]
pub(super) struct Lists {
    plan: Plan,
    channels: Table,
    pixels: Table,
}

impl Lists {
    pub(super) fn new(plan: Plan) -> Self {
        let blocks = plan.dy.blocks();
        Self {
            plan,
            channels: Table::new(blocks * LANES, plan.channel_room()),
            pixels: Table::new(blocks.div_ceil(plan.chunk) * plan.pixels(), plan.pixel_room()),
        }
    }

    /// What they were made for.
    pub(super) fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The live gradients of an output channel, with where the first tap of each lies in a block of inputs, from the strip's first.
    pub(super) fn channel(&self, channel: usize) -> List {
        self.channels.list(channel)
    }

    /// The live gradients of a row of pixels before the pool: the first pixel's list, how far its next one's is, and all their counts.
    pub(super) fn pixels(&self, chunk: usize, row: usize) -> (List, usize, &[u32]) {
        let (width, first) = (self.plan.width(), chunk * self.plan.pixels() + row * self.plan.width());
        (self.pixels.list(first), self.pixels.room, &self.pixels.counts[first..first + width])
    }

    /// Lists the gradients of `rows`, by channel, by pixel or both, and adds the live ones to `db`.
    pub(super) fn fill<S: Simd>(
        &mut self,
        rows: Range<usize>,
        dy: &[f32],
        winners: &[u8],
        db: Option<&mut [f32]>,
        by_pixel: bool,
    ) {
        let [height, width] = self.plan.dy.size;
        let blocks = self.plan.dy.blocks();
        assert!(rows.len() <= self.plan.rows && rows.end <= height, "a strip of the planned size");
        assert!(dy.len() >= self.plan.dy.len() && winners.len() >= blocks * height * width * LANES);
        assert!(db.as_ref().is_none_or(|db| db.len() >= blocks * LANES), "a sum for every lane");
        let db = db.map(<[f32]>::as_mut_ptr);
        if by_pixel {
            self.pixels.counts.fill(0);
        }
        for block in 0..blocks {
            // SAFETY: lists have room for all channels and windows of a strip, and the maps were checked above.
            unsafe {
                S::run(
                    #[inline(always)]
                    || {
                        if let Some(db) = db {
                            self.by_channel::<S>(block, rows.clone(), dy, winners, db.add(block * LANES));
                        }
                        if by_pixel {
                            self.by_pixel::<S>(block, rows.clone(), dy, winners);
                        }
                    },
                );
            }
        }
        if by_pixel && self.plan.sets > 1 {
            self.pad();
        }
    }

    /// Lists for each of a block's channels; adds the live gradients to its sixteen sums.
    #[inline(always)]
    unsafe fn by_channel<S: Simd>(
        &mut self,
        block: usize,
        rows: Range<usize>,
        dy: &[f32],
        winners: &[u8],
        db: *mut f32,
    ) {
        let [height, width] = self.plan.dy.size;
        let room = self.channels.room;
        let mut counts = [0; LANES];
        // SAFETY: the caller's.
        unsafe {
            let places = self.channels.places.as_mut_ptr().add(block * LANES * room);
            let slopes = self.channels.slopes.as_mut_ptr().add(block * LANES * room);
            let mut sum = S::load(db);
            for (index, row) in rows.enumerate() {
                let dy = dy.as_ptr().add(self.plan.dy.at(block, row as isize, 0));
                let winners = winners.as_ptr().add((block * height + row) * width * LANES);
                for column in 0..width {
                    let (dy, winners) = (dy.add(column * LANES), winners.add(column * LANES));
                    let live = S::load_bytes(winners);
                    sum = S::add(sum, S::if_greater(S::splat(f32::from(DEAD)), live, S::load(dy), S::splat(0.0)));
                    let first = (2 * index * self.plan.x_row + 2 * column * LANES) as u32;
                    let below = first + self.plan.x_row as u32;
                    let at = [first, first + LANES as u32, below, below + LANES as u32];
                    for (lane, count) in counts.iter_mut().enumerate() {
                        // Written always, and kept where it is live: a branch would be guessed wrong too often.
                        let winner = *winners.add(lane);
                        places.add(lane * room + *count).write(at[usize::from(winner & 3)]);
                        slopes.add(lane * room + *count).write(*dy.add(lane));
                        *count += usize::from(winner < DEAD);
                    }
                }
            }
            S::store(db, sum);
        }
        for (to, count) in self.channels.counts[block * LANES..].iter_mut().zip(counts) {
            *to = count as u32;
        }
    }

    /// Appends a block's channels to the pixels' lists.
    #[inline(always)]
    unsafe fn by_pixel<S: Simd>(&mut self, block: usize, rows: Range<usize>, dy: &[f32], winners: &[u8]) {
        let [height, width] = self.plan.dy.size;
        let Plan { chunk, weights, .. } = self.plan;
        let first = block / chunk * self.plan.pixels();
        let step = [(block % chunk * LANES * weights) as u32, weights as u32];
        // Read once: the compiler cannot know that the lists do not hold their own addresses.
        let room = self.pixels.room;
        let counts = self.pixels.counts.as_mut_ptr();
        let (all_places, all_slopes) = (self.pixels.places.as_mut_ptr(), self.pixels.slopes.as_mut_ptr());
        // SAFETY: the caller's.
        unsafe {
            for (index, row) in rows.enumerate() {
                let dy = dy.as_ptr().add(self.plan.dy.at(block, row as isize, 0));
                let winners = winners.as_ptr().add((block * height + row) * width * LANES);
                let upper = first + 4 * index * width;
                for column in 0..width {
                    let slopes = S::load(dy.add(column * LANES));
                    for winner in 0..4 {
                        let pixel = upper + winner / 2 * 2 * width + 2 * column + winner % 2;
                        let count = counts.add(pixel);
                        let end = pixel * room + *count as usize;
                        let (to, places) = (all_slopes.add(end), all_places.add(end));
                        let bytes = winners.add(column * LANES);
                        *count += S::compress(bytes, winner as u8, slopes, step, places, to) as u32;
                    }
                }
            }
        }
    }

    /// Fills pixels' lists up, with the weights behind the last channel: they are zero.
    fn pad(&mut self) {
        let zero = (self.plan.chunk * LANES * self.plan.weights) as u32;
        let table = &mut self.pixels;
        let entries = table.places.chunks_exact_mut(table.room).zip(table.slopes.chunks_exact_mut(table.room));
        for ((places, slopes), count) in entries.zip(&table.counts) {
            for index in *count as usize..(*count as usize).next_multiple_of(self.plan.sets) {
                places[index] = zero;
                slopes[index] = 0.0;
            }
        }
    }
}
