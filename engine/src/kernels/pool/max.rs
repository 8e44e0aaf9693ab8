//! The largest of each window.

use std::ops::Range;

use super::{Places, SIDE, Span};
use crate::maps::Maps;
use crate::parallel::{self, Columns};
use crate::simd::{LANES, Path, Simd, on_path};
use crate::window::Window;

/// Taps that a byte can name, and those that a float can count.
const BYTE: usize = 256;
const MOST: usize = 1 << f32::MANTISSA_DIGITS;

/// The largest element of each window. Of equal ones the first in the order of rows gets the gradient; one that is
/// not a number wins and stays.
#[derive(Debug)]
pub struct MaxPool {
    path: Path,
    places: Places,
}

/// The taps of one output, or of some side by side.
struct Taps {
    rows: usize,
    columns: usize,
    /// Floats from a tap to the next row's and column's, and from an output to the next one's.
    row: usize,
    column: usize,
    output: usize,
    /// The first tap's number, and from a row to the next.
    first: usize,
    line: usize,
}

impl MaxPool {
    /// From maps like `x` to maps like `y`. Gradients lie like these.
    pub fn new(path: Path, window: &Window, x: Maps, y: Maps) -> Self {
        assert!(window.taps() <= MOST, "taps that a float can count");
        Self { path, places: Places::new(window, x, y) }
    }

    /// For [`MaxPool::run_rows`]: of `height` rows like those of `x` there are only as many at once as `x` has.
    pub fn of_rows(path: Path, window: &Window, height: usize, x: Maps, y: Maps) -> Self {
        let all = Maps { size: [height, x.size[1]], ..x };
        let Self { path, places } = Self::new(path, window, all, y);
        Self { path, places: Places { x, ..places } }
    }

    /// Some rows of one example's outputs, from maps `x` that begin with row `first` of the inputs.
    pub fn run_rows(&self, rows: Range<usize>, first: usize, x: &[f32], y: &mut [f32]) {
        let Places { window, x: x_maps, y: y_maps, taps, .. } = &self.places;
        assert!(x.len() >= x_maps.len() && y.len() >= y_maps.len(), "maps of the planned size");
        let row = |output: usize, tap: usize| output * window.stride[0] + tap * window.dilation[0];
        let is_there = |output: usize, taps: &Range<usize>| {
            let inside = window.before[0] + first..window.before[0] + first + x_maps.size[0];
            taps.is_empty() || inside.contains(&row(output, taps.start)) && inside.contains(&row(output, taps.end - 1))
        };
        assert!(
            rows.clone().zip(&taps[0][rows.clone()]).all(|(output, taps)| is_there(output, taps)),
            "rows that are there"
        );
        let y = Columns::new(y, y_maps.len());
        parallel::ranges(rows, |rows| {
            let (x, y) = (x.as_ptr(), y.at(0, 0));
            // SAFETY: the lengths are checked, and that the taps of these rows are there, which nobody else has; the path is the machine's.
            on_path!(self.path, S => unsafe {
                S::run(#[inline(always)] || self.some::<S, 0>(rows, first, x, y, std::ptr::null_mut()));
            });
        });
    }

    /// Bytes that an example's winning taps take, for the gradient.
    pub fn kept(&self) -> usize {
        self.places.window.outputs() * self.places.y.blocks() * LANES * self.bytes()
    }

    /// Whether its maps have all rows that windows see.
    fn is_whole(&self) -> bool {
        self.places.uses.len() == self.places.x.size[0]
    }

    /// Bytes of a tap's number.
    fn bytes(&self) -> usize {
        if self.places.window.taps() <= BYTE { 1 } else { 4 }
    }

    /// One example, with the taps that won if a gradient is to follow.
    pub fn forward(&self, x: &[f32], y: &mut [f32], kept: Option<&mut [u8]>) {
        assert!(self.is_whole(), "maps of all rows");
        assert!(x.len() >= self.places.x.len() && y.len() >= self.places.y.len(), "maps of the planned size");
        assert!(kept.as_ref().is_none_or(|kept| kept.len() >= self.kept()), "a place for every tap");
        let rows = self.places.window.output[0];
        let Some(kept) = kept else { return self.run_rows(0..rows, 0, x, y) };
        let (x, y, kept, bytes) = (x.as_ptr(), y.as_mut_ptr(), kept.as_mut_ptr(), self.bytes());
        // SAFETY: the lengths are checked, and `Places` has only taps inside the maps; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || match bytes {
                1 => self.some::<S, 1>(0..rows, 0, x, y, kept),
                _ => self.some::<S, 4>(0..rows, 0, x, y, kept),
            });
        });
    }

    /// Some rows of outputs, from maps that begin with row `first`.
    #[inline(always)]
    unsafe fn some<S: Simd, const KEEP: usize>(
        &self,
        lines: Range<usize>,
        first: usize,
        x: *const f32,
        y: *mut f32,
        mut kept: *mut u8,
    ) {
        let Places { window, x: x_maps, y: y_maps, taps, inner, .. } = &self.places;
        for block in 0..y_maps.blocks() {
            for line in lines.clone() {
                let rows = &taps[0][line];
                let top =
                    if rows.is_empty() { 0 } else { self.places.source_row(line, rows.start) - first * x_maps.row() };
                // SAFETY: the caller's.
                unsafe {
                    let x = x.add(block * x_maps.block() + top);
                    let y = y.add(y_maps.at(block, line as isize, 0));
                    let mut of = Taps {
                        rows: rows.len(),
                        columns: 0,
                        row: window.dilation[0] * x_maps.row(),
                        column: window.dilation[1] * LANES,
                        output: window.stride[1] * LANES,
                        first: 0,
                        line: window.kernel[1],
                    };
                    let mut column = 0;
                    while column < window.output[1] {
                        let columns = &taps[1][column];
                        of.columns = columns.len();
                        of.first = rows.start * window.kernel[1] + columns.start;
                        let start =
                            if columns.is_empty() { 0 } else { self.places.source_column(column, columns.start) };
                        let x = x.add(start * LANES);
                        let y = y.add(column * LANES);
                        if inner.contains(&column) && column + SIDE <= inner.end {
                            match window.kernel[1] {
                                2 => largest::<S, KEEP, SIDE, 2>(&of, x, y, kept),
                                3 => largest::<S, KEEP, SIDE, 3>(&of, x, y, kept),
                                _ => largest::<S, KEEP, SIDE, 0>(&of, x, y, kept),
                            }
                            kept = kept.wrapping_add(SIDE * LANES * KEEP);
                            column += SIDE;
                        } else {
                            largest::<S, KEEP, 1, 0>(&of, x, y, kept);
                            kept = kept.wrapping_add(LANES * KEEP);
                            column += 1;
                        }
                    }
                }
            }
        }
    }

    /// One example's gradient of `x`, from those of `y`: it overwrites what stands there, or is added to it.
    pub fn backward(&self, kept: &[u8], dy: &[f32], dx: &mut [f32], add: bool) {
        assert!(self.is_whole(), "maps of all rows");
        assert!(dx.len() >= self.places.x.len() && dy.len() >= self.places.y.len(), "maps of the planned size");
        assert!(kept.len() >= self.kept(), "a place for every tap");
        let (kept, dy, dx, bytes) = (kept.as_ptr(), dy.as_ptr(), dx.as_mut_ptr(), self.bytes());
        // SAFETY: as in `forward`.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || match bytes {
                1 => self.gather::<S, 1>(kept, dy, dx, add),
                _ => self.gather::<S, 4>(kept, dy, dx, add),
            });
        });
    }

    #[inline(always)]
    unsafe fn gather<S: Simd, const KEEP: usize>(&self, kept: *const u8, dy: *const f32, dx: *mut f32, add: bool) {
        let Places { window, x: x_maps, y: y_maps, uses, spans, .. } = &self.places;
        for block in 0..x_maps.blocks() {
            for (row, rows) in uses.iter().enumerate() {
                for span in spans {
                    // SAFETY: the caller's.
                    unsafe {
                        let kept = kept.add(block * window.outputs() * LANES * KEEP);
                        let dy = dy.add(y_maps.at(block, 0, 0));
                        let dx = dx.add(x_maps.at(block, row as isize, span.first as isize));
                        let mut number = 0;
                        while number + SIDE <= span.count {
                            self.slopes::<S, KEEP, SIDE>(rows, span, number, kept, dy, dx, add);
                            number += SIDE;
                        }
                        while number < span.count {
                            self.slopes::<S, KEEP, 1>(rows, span, number, kept, dy, dx, add);
                            number += 1;
                        }
                    }
                }
            }
        }
    }

    /// The gradients of `PIXELS` pixels of a span, from number `number`.
    #[expect(clippy::needless_range_loop, reason = "with iterators the sums would live in memory")]
    #[expect(clippy::too_many_arguments, reason = "operands of one formula")]
    #[inline(always)]
    unsafe fn slopes<S: Simd, const KEEP: usize, const PIXELS: usize>(
        &self,
        rows: &[(usize, usize)],
        span: &Span,
        number: usize,
        kept: *const u8,
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
            for (line, ky) in rows {
                let kept = kept.add((line * window.output[1] + number) * LANES * KEEP);
                let dy = dy.add(line * y.row() + number * LANES);
                for (output, kx) in &span.uses {
                    let tap = ky * window.kernel[1] + kx;
                    for pixel in 0..PIXELS {
                        let kept = kept.add((output + pixel) * LANES * KEEP);
                        let won = if KEEP == 1 {
                            S::equal_bytes(kept, tap as u8)
                        } else {
                            equal_words::<S>(kept, tap as u32)
                        };
                        let slope = S::select(won, S::load(dy.add((output + pixel) * LANES)), S::splat(0.0));
                        sums[pixel] = S::add(sums[pixel], slope);
                    }
                }
            }
            for pixel in 0..PIXELS {
                S::store(dx.add((number + pixel) * step), sums[pixel]);
            }
        }
    }
}

/// The largest of the taps of `OUTPUTS` outputs side by side; `COLUMNS` taps a row, 0 for any number. `KEEP` bytes are kept of a
/// winning tap's number.
#[inline(always)]
unsafe fn largest<S: Simd, const KEEP: usize, const OUTPUTS: usize, const COLUMNS: usize>(
    taps: &Taps,
    x: *const f32,
    y: *mut f32,
    kept: *mut u8,
) {
    // SAFETY: the caller's.
    unsafe {
        if scan::<S, KEEP, OUTPUTS, COLUMNS, false>(taps, x, y, kept) {
            scan::<S, KEEP, OUTPUTS, COLUMNS, true>(taps, x, y, kept);
        }
    }
}

/// The same; whether it must be done again with `CARE` for what is not a number, since there is or may be some. Nearly always
/// there is none, and a comparison less in what waits for itself.
#[inline(always)]
unsafe fn scan<S: Simd, const KEEP: usize, const OUTPUTS: usize, const COLUMNS: usize, const CARE: bool>(
    taps: &Taps,
    x: *const f32,
    y: *mut f32,
    kept: *mut u8,
) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let columns = if COLUMNS > 0 { COLUMNS } else { taps.columns };
        let mut best = [S::splat(f32::NEG_INFINITY); OUTPUTS];
        // Not a number where one of the elements is, or where infinities meet.
        let mut sum = [S::splat(0.0); OUTPUTS];
        // A window of nothing but minus infinity takes its first element.
        let mut place = [S::splat(taps.first as f32); OUTPUTS];
        for row in 0..taps.rows {
            let mut number = S::splat((taps.first + row * taps.line) as f32);
            for column in 0..columns {
                let x = x.add(row * taps.row + column * taps.column);
                for output in 0..OUTPUTS {
                    let x = S::load(x.add(output * taps.output));
                    if KEEP > 0 {
                        place[output] = S::if_greater(x, best[output], number, place[output]);
                    }
                    if CARE {
                        let nan = S::is_nan(x);
                        place[output] = S::select(nan, number, place[output]);
                        best[output] = S::select(nan, x, S::if_greater(x, best[output], x, best[output]));
                    } else {
                        best[output] = S::max(x, best[output]);
                        sum[output] = S::add(sum[output], x);
                    }
                }
                number = S::add(number, S::splat(1.0));
            }
        }
        let mut total = S::splat(0.0);
        for output in 0..OUTPUTS {
            S::store(y.add(output * LANES), best[output]);
            match KEEP {
                0 => {}
                1 => S::store_bytes(kept.add(output * LANES), place[output]),
                _ => store_words::<S>(kept.add(output * LANES * 4), place[output]),
            }
            total = S::add(total, S::sub(sum[output], sum[output]));
        }
        !CARE && S::any(S::is_nan(total))
    }
}

/// Writes sixteen whole numbers as four bytes each. Windows so large are rare: no care is taken.
#[inline(always)]
unsafe fn store_words<S: Simd>(to: *mut u8, v: S::V) {
    let mut numbers = [0.0; LANES];
    // SAFETY: the caller's.
    unsafe {
        S::store(numbers.as_mut_ptr(), v);
        to.cast::<[[u8; 4]; LANES]>().write_unaligned(numbers.map(|number| (number as u32).to_ne_bytes()));
    }
}

/// Which of sixteen numbers of four bytes are `number`.
#[inline(always)]
unsafe fn equal_words<S: Simd>(from: *const u8, number: u32) -> S::M {
    // SAFETY: the caller's.
    unsafe {
        let words = from.cast::<[[u8; 4]; LANES]>().read_unaligned();
        let equal = |lane: usize| u16::from(u32::from_ne_bytes(words[lane]) == number) << lane;
        S::mask((0..LANES).fold(0, |bits, lane| bits | equal(lane)))
    }
}
