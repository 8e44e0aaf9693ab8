//! Pools of bytes. What comes out is in the code of what goes in: the largest of some bytes is one of them, and their mean is between them.

use std::ops::Range;

use super::{Code, QUAD, on_quads};
use crate::kernels::pool::taps_inside;
use crate::maps::Maps;
use crate::parallel;
use crate::simd::{LANES, Simd};
use crate::window::Window;

/// Where a window lies on maps of words.
#[derive(Debug)]
struct Places {
    window: Window,
    x: Maps,
    y: Maps,
    /// For each row and each column of outputs the taps that are inside the maps.
    taps: [Vec<Range<usize>>; 2],
}

impl Places {
    fn new(window: &Window, x: Maps, y: Maps) -> Self {
        assert!([x.lanes, y.lanes] == [LANES / QUAD; 2], "maps of words");
        assert!(x.channels == y.channels && y.size == window.output, "outputs of the window");
        Self { window: *window, x, y, taps: [0, 1].map(|axis| taps_inside(window, axis, x.size[axis])) }
    }

    /// Calls `f(block, its outputs)` for each block of one example.
    fn blocks(&self, x: &[f32], y: &mut [f32], f: impl Fn(usize, &mut [f32]) + Sync) {
        assert!(x.len() >= self.x.len() && y.len() >= self.y.len(), "maps of the planned size");
        parallel::share(y.chunks_mut(self.y.block()).take(self.y.blocks()), f);
    }

    /// Calls `f(the window's pixels, where the output is)` for each output of a block of one example. The pixels are told as the first one's place,
    /// and rows and columns.
    #[inline(always)]
    fn each(&self, block: usize, x: &[f32], y: &mut [f32], mut f: impl FnMut(*const u8, [usize; 2], *mut f32)) {
        let first = |axis: usize, output: usize, tap: usize| {
            let at = output * self.window.stride[axis] + tap * self.window.dilation[axis];
            (at - self.window.before[axis]) as isize
        };
        for (row, rows) in self.taps[0].iter().enumerate() {
            for (column, columns) in self.taps[1].iter().enumerate() {
                let count = [rows.len(), columns.len()];
                let mut from = x.as_ptr();
                if !(rows.is_empty() || columns.is_empty()) {
                    let at = self.x.at(block, first(0, row, rows.start), first(1, column, columns.start));
                    // SAFETY: inside the maps, since the tap is.
                    from = unsafe { from.add(at) };
                }
                // SAFETY: inside the block's maps, whose size is the window's.
                let to = unsafe { y.as_mut_ptr().add(self.y.at(0, row as isize, column as isize)) };
                f(from.cast(), count, to);
            }
        }
    }

    /// Calls `f` with the sixteen bytes of each of a window's pixels.
    ///
    /// # Safety
    /// They are as [`Places::each`] tells.
    #[inline(always)]
    unsafe fn pixels(&self, from: *const u8, [rows, columns]: [usize; 2], mut f: impl FnMut([u8; LANES])) {
        let steps = [self.window.dilation[0] * self.x.row() * QUAD, self.window.dilation[1] * LANES];
        for row in 0..rows {
            for column in 0..columns {
                // SAFETY: the caller's.
                f(unsafe { from.add(row * steps[0] + column * steps[1]).cast::<[u8; LANES]>().read_unaligned() });
            }
        }
    }
}

/// The largest of each window.
#[derive(Debug)]
pub struct MaxPool {
    places: Places,
}

impl MaxPool {
    /// From words like `x` to words like `y`. A window that holds nothing has byte 0.
    pub fn new(window: &Window, x: Maps, y: Maps) -> Self {
        Self { places: Places::new(window, x, y) }
    }

    /// One example.
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        self.places.blocks(x, y, |block, y| {
            // SAFETY: the path is the machine's; `each` tells places inside the maps.
            on_quads!(S => unsafe {
                S::run(#[inline(always)] || {
                    self.places.each(block, x, y, #[inline(always)] |from, count, to| {
                        let mut most = [0_u8; LANES];
                        self.places.pixels(from, count, #[inline(always)] |pixel| {
                            for lane in 0..LANES {
                                most[lane] = most[lane].max(pixel[lane]);
                            }
                        });
                        to.cast::<[u8; LANES]>().write_unaligned(most);
                    });
                });
            });
        });
    }
}

/// The mean of each window, to the nearest byte.
#[derive(Debug)]
pub struct AvgPool {
    places: Places,
    count_padding: bool,
    zero: u8,
}

impl AvgPool {
    /// From words like `x`, with this byte of zero, to words like `y`. With `count_padding` every sum is divided by all taps, else by those inside the maps.
    pub fn new(window: &Window, count_padding: bool, x: Maps, y: Maps, zero: u8) -> Self {
        Self { places: Places::new(window, x, y), count_padding, zero }
    }

    /// One example.
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        let all = self.places.window.taps();
        let zero = u32::from(self.zero);
        self.places.blocks(x, y, |block, y| {
            // SAFETY: as for the largest.
            on_quads!(S => unsafe {
                S::run(#[inline(always)] || {
                    self.places.each(block, x, y, #[inline(always)] |from, count, to| {
                        let inside = count[0] * count[1];
                        let taps = if self.count_padding || inside == 0 { all } else { inside };
                        let mut sums = [zero * (taps - inside) as u32; LANES];
                        self.places.pixels(from, count, #[inline(always)] |pixel| {
                            for lane in 0..LANES {
                                sums[lane] += u32::from(pixel[lane]);
                            }
                        });
                        let sums = sums.map(|sum| sum as f32);
                        let mean = S::mul(S::load(sums.as_ptr()), S::splat((1.0 / taps as f64) as f32));
                        S::store_bytes(to.cast(), mean);
                    });
                });
            });
        });
    }
}

/// The mean of each map, as numbers: from words to a row of as many numbers as there are channels.
#[derive(Debug)]
pub struct GlobalAvgPool {
    x: Maps,
    code: Code,
}

impl GlobalAvgPool {
    /// From words like `x` in this code.
    pub fn new(x: Maps, code: Code) -> Self {
        assert!(x.lanes == LANES / QUAD && x.channels == code.scales.len().div_ceil(QUAD), "maps of words");
        Self { x, code }
    }

    /// One example.
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        assert!(x.len() >= self.x.len() && y.len() >= self.code.scales.len(), "operands of the planned size");
        let [height, width] = self.x.size;
        let zero = u64::from(self.code.zero) * (height * width) as u64;
        let channels = y.chunks_mut(LANES).zip(self.code.scales.chunks(LANES));
        for (block, (y, scales)) in channels.enumerate() {
            // SAFETY: the path is the machine's.
            let sums = on_quads!(S => unsafe { S::run(#[inline(always)] || self.sums(block, x)) });
            for ((y, scale), sum) in y.iter_mut().zip(scales).zip(sums) {
                *y = ((sum as f64 - zero as f64) * f64::from(*scale) / (height * width) as f64) as f32;
            }
        }
    }

    #[inline(always)]
    fn sums(&self, block: usize, x: &[f32]) -> [u64; LANES] {
        let mut sums = [0_u64; LANES];
        for row in 0..self.x.size[0] {
            let start = self.x.at(block, row as isize, 0);
            let mut line = [0_u32; LANES];
            for pixel in x[start..start + self.x.size[1] * QUAD].chunks_exact(QUAD) {
                // SAFETY: four words are sixteen bytes.
                let bytes = unsafe { pixel.as_ptr().cast::<[u8; LANES]>().read_unaligned() };
                for lane in 0..LANES {
                    line[lane] += u32::from(bytes[lane]);
                }
            }
            for lane in 0..LANES {
                sums[lane] += u64::from(line[lane]);
            }
        }
        sums
    }
}
