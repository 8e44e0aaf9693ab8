//! The mean of each window.

use std::ops::Range;

use super::{Places, SIDE, Span};
use crate::kernels::view::{View, get, put};
use crate::maps::Maps;
use crate::parallel::{self, Columns};
use crate::simd::{LANES, Path, Simd, on_path};
use crate::window::Window;

/// The mean of each window.
#[derive(Debug)]
pub struct AvgPool {
    path: Path,
    places: Places,
    /// What each output's sum is multiplied by, `[H'][W']`.
    shares: Vec<f32>,
}

impl AvgPool {
    /// From maps like `x` to maps like `y`; gradients lie like these. With `count_padding` every sum is divided by all taps, else
    /// by those inside the maps.
    pub fn new(path: Path, window: &Window, count_padding: bool, x: Maps, y: Maps) -> Self {
        let places = Places::new(window, x, y);
        let share = |rows: usize, columns: usize| {
            let taps = if count_padding { window.taps() } else { rows * columns };
            (1.0 / taps as f64) as f32
        };
        let [rows, columns] = &places.taps;
        let shares = rows.iter().flat_map(|row| columns.iter().map(|column| share(row.len(), column.len())));
        // A window that holds nothing has the mean zero.
        let shares = shares.map(|share| if share.is_finite() { share } else { 0.0 }).collect();
        Self { path, places, shares }
    }

    /// One example.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        assert!(x.len() >= self.places.x.len() && y.len() >= self.places.y.len(), "maps of the planned size");
        let y = Columns::new(y, self.places.y.len());
        parallel::ranges(0..self.places.window.output[0], |rows| {
            let (x, y) = (x.as_ptr(), y.at(0, 0));
            // SAFETY: the lengths are checked, `Places` has only taps inside the maps, and nobody else has these rows; the path is the machine's.
            on_path!(self.path, S => unsafe { S::run(#[inline(always)] || self.sums::<S>(rows, x, y)) });
        });
    }

    #[inline(always)]
    unsafe fn sums<S: Simd>(&self, lines: Range<usize>, x: *const f32, y: *mut f32) {
        let Places { window, x: x_maps, y: y_maps, taps, inner, .. } = &self.places;
        for block in 0..y_maps.blocks() {
            for line in lines.clone() {
                let rows = &taps[0][line];
                let shares = &self.shares[line * window.output[1]..][..window.output[1]];
                let top = if rows.is_empty() { 0 } else { self.places.source_row(line, rows.start) };
                // SAFETY: the caller's.
                unsafe {
                    let x = x.add(block * x_maps.block() + top);
                    let y = y.add(y_maps.at(block, line as isize, 0));
                    let steps = [window.dilation[0] * x_maps.row(), window.dilation[1] * LANES];
                    let mut column = 0;
                    while column < window.output[1] {
                        let columns = &taps[1][column];
                        let start =
                            if columns.is_empty() { 0 } else { self.places.source_column(column, columns.start) };
                        let x = x.add(start * LANES);
                        let y = y.add(column * LANES);
                        let count = [rows.len(), columns.len()];
                        let step = window.stride[1] * LANES;
                        let shares = &shares[column..];
                        if inner.contains(&column) && column + SIDE <= inner.end {
                            match window.kernel[1] {
                                2 => mean::<S, SIDE, 2>(count, steps, step, shares, x, y),
                                3 => mean::<S, SIDE, 3>(count, steps, step, shares, x, y),
                                _ => mean::<S, SIDE, 0>(count, steps, step, shares, x, y),
                            }
                            column += SIDE;
                        } else {
                            mean::<S, 1, 0>(count, steps, step, shares, x, y);
                            column += 1;
                        }
                    }
                }
            }
        }
    }

    /// One example's gradient of `x`, from those of `y`: it overwrites what stands there, or is added to it.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32], add: bool) {
        assert!(dx.len() >= self.places.x.len() && dy.len() >= self.places.y.len(), "maps of the planned size");
        let (dy, dx) = (dy.as_ptr(), dx.as_mut_ptr());
        // SAFETY: as in `forward`.
        on_path!(self.path, S => unsafe { S::run(#[inline(always)] || self.gather::<S>(dy, dx, add)) });
    }

    #[inline(always)]
    unsafe fn gather<S: Simd>(&self, dy: *const f32, dx: *mut f32, add: bool) {
        let Places { x: x_maps, y: y_maps, uses, spans, .. } = &self.places;
        for block in 0..x_maps.blocks() {
            for (row, rows) in uses.iter().enumerate() {
                for span in spans {
                    // SAFETY: the caller's.
                    unsafe {
                        let dy = dy.add(y_maps.at(block, 0, 0));
                        let dx = dx.add(x_maps.at(block, row as isize, span.first as isize));
                        let mut number = 0;
                        while number + SIDE <= span.count {
                            self.slopes::<S, SIDE>(rows, span, number, dy, dx, add);
                            number += SIDE;
                        }
                        while number < span.count {
                            self.slopes::<S, 1>(rows, span, number, dy, dx, add);
                            number += 1;
                        }
                    }
                }
            }
        }
    }

    /// The gradients of `PIXELS` pixels of a span, from number `number`.
    #[expect(clippy::needless_range_loop, reason = "with iterators the sums would live in memory")]
    #[inline(always)]
    unsafe fn slopes<S: Simd, const PIXELS: usize>(
        &self,
        rows: &[(usize, usize)],
        span: &Span,
        number: usize,
        dy: *const f32,
        dx: *mut f32,
        add: bool,
    ) {
        let Places { window, y, .. } = &self.places;
        let step = window.stride[1] * LANES;
        // SAFETY: the caller's.
        unsafe {
            let mut sums = [S::splat(0.0); PIXELS];
            if add {
                for pixel in 0..PIXELS {
                    sums[pixel] = S::load(dx.add((number + pixel) * step));
                }
            }
            for (line, _) in rows {
                let dy = dy.add(line * y.row() + number * LANES);
                let shares = self.shares.as_ptr().add(line * window.output[1] + number);
                for (output, _) in &span.uses {
                    for pixel in 0..PIXELS {
                        let share = S::splat(*shares.add(output + pixel));
                        sums[pixel] = S::fma(S::load(dy.add((output + pixel) * LANES)), share, sums[pixel]);
                    }
                }
            }
            for pixel in 0..PIXELS {
                S::store(dx.add((number + pixel) * step), sums[pixel]);
            }
        }
    }
}

/// The means of `OUTPUTS` outputs that are `step` floats apart, of `count` rows and columns of taps; `COLUMNS` as far as known.
#[expect(clippy::needless_range_loop, reason = "with iterators the sums would live in memory")]
#[inline(always)]
unsafe fn mean<S: Simd, const OUTPUTS: usize, const COLUMNS: usize>(
    count: [usize; 2],
    steps: [usize; 2],
    step: usize,
    shares: &[f32],
    x: *const f32,
    y: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let columns = if COLUMNS > 0 { COLUMNS } else { count[1] };
        let mut sums = [S::splat(0.0); OUTPUTS];
        for row in 0..count[0] {
            // A sum a row where windows may be wide, so that large ones lose no digits.
            let mut line = if COLUMNS > 0 { sums } else { [S::splat(0.0); OUTPUTS] };
            for column in 0..columns {
                let x = x.add(row * steps[0] + column * steps[1]);
                for output in 0..OUTPUTS {
                    line[output] = S::add(line[output], S::load(x.add(output * step)));
                }
            }
            for output in 0..OUTPUTS {
                sums[output] = if COLUMNS > 0 { line[output] } else { S::add(sums[output], line[output]) };
            }
        }
        for output in 0..OUTPUTS {
            S::store(y.add(output * LANES), S::mul(sums[output], S::splat(shares[output])));
        }
    }
}

/// Pixels of a row that are summed together.
const PART: usize = 256;

/// The mean of each map: from maps to a row of as many numbers as there are channels.
#[derive(Debug)]
pub struct GlobalAvgPool {
    path: Path,
    x: View,
}

impl GlobalAvgPool {
    /// From maps like `x`; gradients lie like these.
    pub fn new(path: Path, x: &Maps) -> Self {
        Self { path, x: View::maps(x) }
    }

    fn share(&self) -> f32 {
        (1.0 / self.x.count() as f64) as f32
    }

    /// One example.
    pub fn forward(&self, x: &[f32], y: &mut [f32]) {
        let view = &self.x;
        assert!(x.len() >= view.len() && y.len() >= view.channels, "operands of the planned size");
        // SAFETY: the lengths are checked; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                for block in 0..view.blocks() {
                    // A sum for each part of a row, so that large maps lose no digits.
                    let mut sum = S::splat(0.0);
                    for row in 0..view.rows {
                        for first in (0..view.pixels).step_by(PART) {
                            let x = x.as_ptr().add(view.at(block) + row * view.row + first * LANES);
                            let pixels = (view.pixels - first).min(PART);
                            let mut line = [S::splat(0.0); 2];
                            for pair in 0..pixels / 2 {
                                line[0] = S::add(line[0], S::load(x.add(2 * pair * LANES)));
                                line[1] = S::add(line[1], S::load(x.add((2 * pair + 1) * LANES)));
                            }
                            if pixels % 2 == 1 {
                                line[0] = S::add(line[0], S::load(x.add((pixels - 1) * LANES)));
                            }
                            sum = S::add(sum, S::add(line[0], line[1]));
                        }
                    }
                    let lanes = (view.channels - block * LANES).min(LANES);
                    put::<S>(y.as_mut_ptr().add(block * LANES), S::mul(sum, S::splat(self.share())), lanes);
                }
            });
        });
    }

    /// One example's gradient of `x`, from that of the row: it overwrites what stands there, or is added to it.
    pub fn backward(&self, dy: &[f32], dx: &mut [f32], add: bool) {
        let view = &self.x;
        assert!(dx.len() >= view.len() && dy.len() >= view.channels, "operands of the planned size");
        // SAFETY: as in `forward`.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                for block in 0..view.blocks() {
                    // Lanes beyond the last channel get zeros.
                    let lanes = (view.channels - block * LANES).min(LANES);
                    let slope = S::mul(get::<S>(dy.as_ptr().add(block * LANES), lanes), S::splat(self.share()));
                    for row in 0..view.rows {
                        let dx = dx.as_mut_ptr().add(view.at(block) + row * view.row);
                        for pixel in 0..view.pixels {
                            let dx = dx.add(pixel * LANES);
                            S::store(dx, if add { S::add(slope, S::load(dx)) } else { slope });
                        }
                    }
                }
            });
        });
    }
}
