//! The microkernel of all dense products: a few pixels by one or two blocks of sixteen output channels, with every
//! sum in a register.

use crate::simd::{LANES, Simd};

/// One tile's work. Pointers are good for what the other fields make of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile<F = Finish> {
    /// The first pixel's source.
    pub(super) x: *const f32,
    /// Floats from a pixel's source to the next one's, where the kernel has no step of its own.
    pub(super) x_step: usize,
    /// For [`SCATTERED`] kernels, each pixel's source and sums, from the first ones.
    pub(super) places: *const [u32; 2],
    /// Where each run of inputs lies, from a pixel's source.
    pub(super) offsets: *const u32,
    /// How many.
    pub(super) count: usize,
    /// Weights that are wanted next.
    pub(super) ahead: Part,
    /// Weights: sixteen for each input of each run.
    pub(super) weights: *const f32,
    /// From a block's weights to the next one's.
    pub(super) weights_block: usize,
    /// Sixteen a block to begin with; null for none.
    pub(super) bias: *const f32,
    /// The first pixel's sums.
    pub(super) y: *mut f32,
    /// From a block of sums to the next.
    pub(super) y_block: usize,
    /// From a pixel's sums to the next one's.
    pub(super) y_step: usize,
    /// What becomes of the sums.
    pub(super) finish: F,
}

/// What becomes of a tile's sums.
pub(super) trait End: Copy + Sync {
    /// The same for a panel that begins with this block.
    fn at_block(self, block: usize) -> Self;

    /// Writes what becomes of a tile's sums.
    ///
    /// # Safety
    /// As for [`Simd`]; the tile's `y` is good for what is written.
    unsafe fn put<S: Simd, const PIXELS: usize, const BLOCKS: usize, const STEP: usize>(
        tile: &Tile<Self>,
        sums: [[S::V; BLOCKS]; PIXELS],
    );
}

impl<F> Tile<F> {
    /// Where a pixel's sums of a block lie.
    #[inline(always)]
    unsafe fn sums<const STEP: usize>(&self, pixel: usize, block: usize) -> *mut f32 {
        // SAFETY: the caller's.
        unsafe {
            let place = if STEP == SCATTERED { (*self.places.add(pixel))[1] as usize } else { pixel * self.y_step };
            self.y.add(block * self.y_block + place)
        }
    }
}

/// What a tile does with its sums.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Finish {
    /// Adds them to what stands there.
    pub add: bool,
    /// Then keeps them between two numbers: `[0, infinity]` is relu.
    pub clamp: Option<[f32; 2]>,
}

impl Finish {
    /// Nothing.
    pub const PLAIN: Self = Self { add: false, clamp: None };
    /// `max(sum, 0)`.
    pub const RELU: Self = Self { add: false, clamp: Some([0.0, f32::INFINITY]) };
    /// Adds to what stands there.
    pub const ADD: Self = Self { add: true, clamp: None };

    /// What is to stand at `to` for a sum.
    ///
    /// # Safety
    /// As for [`Simd`]; `to` is good for sixteen floats.
    #[inline(always)]
    pub(super) unsafe fn apply<S: Simd>(self, mut sum: S::V, to: *const f32) -> S::V {
        // SAFETY: the caller's.
        unsafe {
            if self.add {
                sum = S::add(sum, S::load(to));
            }
            if let Some([low, high]) = self.clamp {
                // The sum stands second: one that is not a number stays so.
                sum = S::min(S::splat(high), S::max(S::splat(low), sum));
            }
            sum
        }
    }
}

impl End for Finish {
    fn at_block(self, _: usize) -> Self {
        self
    }

    #[expect(clippy::needless_range_loop, reason = "with iterators the sums would live in memory")]
    #[inline(always)]
    unsafe fn put<S: Simd, const PIXELS: usize, const BLOCKS: usize, const STEP: usize>(
        tile: &Tile<Self>,
        sums: [[S::V; BLOCKS]; PIXELS],
    ) {
        // SAFETY: the caller's.
        unsafe {
            for pixel in 0..PIXELS {
                for block in 0..BLOCKS {
                    let to = tile.sums::<STEP>(pixel, block);
                    S::store(to, tile.finish.apply::<S>(sums[pixel][block], to));
                }
            }
        }
    }
}

/// What a panel's tiles ask the memory for meanwhile: the weights that follow, a part with each tile.
///
/// The weights of many channels come from the third cache or from memory; the hardware foresees the lines of a panel, and not
/// where the next one begins.
pub(super) struct Ahead<'a> {
    weights: &'a [f32],
    /// Lines with each tile.
    part: usize,
}

/// Lines to ask for, which a tile spreads over its runs: many at once would keep its own loads waiting.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    first: *const f32,
    lines: usize,
}

impl Part {
    /// Nothing.
    pub(super) const NONE: Self = Self { first: std::ptr::null(), lines: 0 };
}

impl<'a> Ahead<'a> {
    /// Over so many tiles.
    pub(super) fn new(weights: &'a [f32], tiles: usize) -> Self {
        Self { weights, part: weights.len().div_ceil(LANES).div_ceil(tiles.max(1)) }
    }

    /// The next tile's part.
    pub(super) fn part(&mut self) -> Part {
        let (now, later) = self.weights.split_at((self.part * LANES).min(self.weights.len()));
        self.weights = later;
        Part { first: now.as_ptr(), lines: now.len().div_ceil(LANES) }
    }
}

/// A compiled tile.
pub(super) type Kernel<F = Finish> = unsafe fn(&Tile<F>);

/// The step of a kernel whose pixels lie anywhere.
pub(super) const SCATTERED: usize = usize::MAX;

/// Pixels of the largest tile of any instruction set.
pub(super) const MOST: usize = 14;

/// All tiles of an instruction set, for a step from pixel to pixel and a run of inputs: by blocks and pixels, each less one.
pub(super) struct Kernels<S, const STEP: usize, const RUN: usize, F = Finish>(std::marker::PhantomData<(S, F)>);

macro_rules! row {
    ($blocks:literal: $($pixels:literal)*) => { [$(tile::<S, F, $pixels, $blocks, STEP, RUN> as Kernel<F>),*] };
}

impl<S: Simd, F: End, const STEP: usize, const RUN: usize> Kernels<S, STEP, RUN, F> {
    pub(super) const ALL: [[Kernel<F>; MOST]; 2] =
        [row!(1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14), row!(2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14)];
}

/// `PIXELS` pixels that are `STEP` floats apart (0: as the tile says; [`SCATTERED`]), `BLOCKS` blocks, runs of `RUN` inputs.
unsafe fn tile<S: Simd, F: End, const PIXELS: usize, const BLOCKS: usize, const STEP: usize, const RUN: usize>(
    job: &Tile<F>,
) {
    if PIXELS > S::TILE[BLOCKS - 1] {
        // Not compiled for this instruction set: its registers would spill. Nobody asks for it.
        return;
    }
    // SAFETY: whoever chose this kernel's instruction set vouches for it; pointers are the caller's.
    unsafe {
        S::run(
            #[inline(always)]
            || sums::<S, F, PIXELS, BLOCKS, STEP, RUN>(job),
        );
    }
}

// Loops over indices: with iterators the sums would live in memory.
#[expect(clippy::needless_range_loop, reason = "see above")]
#[inline(always)]
unsafe fn sums<S: Simd, F: End, const PIXELS: usize, const BLOCKS: usize, const STEP: usize, const RUN: usize>(
    job: &Tile<F>,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sources = [0; PIXELS];
        for pixel in 0..PIXELS {
            sources[pixel] = match STEP {
                SCATTERED => (*job.places.add(pixel))[0] as usize,
                0 => pixel * job.x_step,
                _ => pixel * STEP,
            };
        }
        let mut sums = [[S::splat(0.0); BLOCKS]; PIXELS];
        if !job.bias.is_null() {
            for block in 0..BLOCKS {
                let bias = S::load(job.bias.add(block * LANES));
                for pixel in 0..PIXELS {
                    sums[pixel][block] = bias;
                }
            }
        }
        let mut weights = job.weights;
        let (mut ahead, mut due) = (job.ahead.first, 0);
        for index in 0..job.count {
            due += job.ahead.lines;
            while due >= job.count {
                due -= job.count;
                S::prefetch(ahead);
                ahead = ahead.wrapping_add(LANES);
            }
            let x = job.x.add(*job.offsets.add(index) as usize);
            for input in 0..RUN {
                let mut w = [S::splat(0.0); BLOCKS];
                for block in 0..BLOCKS {
                    w[block] = S::load(weights.add(block * job.weights_block));
                }
                weights = weights.add(LANES);
                for pixel in 0..PIXELS {
                    let x = S::splat(*x.add(sources[pixel] + input));
                    for block in 0..BLOCKS {
                        sums[pixel][block] = S::dot(x, w[block], sums[pixel][block]);
                    }
                }
            }
        }
        F::put::<S, PIXELS, BLOCKS, STEP>(job, sums);
    }
}
