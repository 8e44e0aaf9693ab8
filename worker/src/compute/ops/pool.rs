//! Pools. candle's own max-pool has a wrong gradient: it gives each place of a window a share of it.

use std::sync::{Arc, OnceLock};

use candle_core::{Error, Result, Tensor};

use super::real::sum1;
use super::wide::wide;
use super::{Kernel, Real, View, Window, apply1, parallel, plain1};

/// The largest element of each window of `x` `[N, C, H, W]`: `[N, C, H', W']`. Of equal ones the first
/// in reading order gets the gradient, as in PyTorch.
pub(in crate::compute) fn max_pool(window: Window, x: &Tensor) -> Result<Tensor> {
    apply1(MaxPool { window, places: Arc::default() }, x)
}

/// The mean of each window of `x` `[N, C, H, W]`: `[N, C, H', W']`; with `count_padding` zeros outside count.
pub(in crate::compute) fn avg_pool(window: Window, count_padding: bool, x: &Tensor) -> Result<Tensor> {
    apply1(AvgPool { window, count_padding }, x)
}

struct MaxPool {
    window: Window,
    /// For each output the place of its element in its plane; known after the forward pass.
    places: Arc<OnceLock<Vec<u32>>>,
}

impl Kernel<1> for MaxPool {
    const NAME: &'static str = "max_pool";

    fn forward<T: Real>(&self, [x]: [View<'_, T>; 1]) -> (Vec<T>, Vec<usize>) {
        let window = &self.window;
        let plane = x.dims[2] * x.dims[3];
        let planes = x.dims[0] * x.dims[1];
        let mut out = vec![T::zero(); planes * window.outputs()];
        let mut places = vec![0; out.len()];
        let size = window.outputs();
        parallel::chunks2((&mut out, size), (&mut places, size), |index, out, places| {
            wide!(largest(window, &x.data[index * plane..][..plane], [x.dims[2], x.dims[3]], out, places));
        });
        // Set once: a kernel runs forward once.
        let _ = self.places.set(places);
        (out, vec![x.dims[0], x.dims[1], window.output[0], window.output[1]])
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let places = self.places.clone();
        if places.get().is_none() {
            return Err(Error::BackwardNotSupported { op: Self::NAME });
        }
        Ok([Some(plain1(MaxPoolGradient { places, dims: x.dims().to_vec() }, gradient)?)])
    }
}

/// One plane's largest elements and their places, tap by tap over whole lines.
#[inline(always)]
fn largest<T: Real>(window: &Window, x: &[T], [height, width]: [usize; 2], out: &mut [T], places: &mut [u32]) {
    let columns = window.output[1];
    out.fill(T::from_f64(f64::NEG_INFINITY));
    // A window of nothing but minus infinity takes its first element.
    let firsts: Vec<u32> = (0..columns).map(|column| number(window.covers(1, column, width).start)).collect();
    for (line, places) in places.chunks_exact_mut(columns).enumerate() {
        let row = number(window.covers(0, line, height).start * width);
        places.iter_mut().zip(&firsts).for_each(|(place, first)| *place = row + first);
    }
    let taps: Vec<_> = (0..window.kernel[1]).map(|kx| window.inside(1, kx, width)).collect();
    let (step, mut under) = (window.stride[1], vec![T::zero(); columns]);
    for ky in 0..window.kernel[0] {
        let (lines, first_line) = window.inside(0, ky, height);
        for line in lines.clone() {
            let from = (first_line + (line - lines.start) * window.stride[0]) * width;
            for (inside, first) in taps.iter().filter(|(inside, _)| !inside.is_empty()) {
                let best = &mut out[line * columns..][inside.clone()];
                let places = &mut places[line * columns..][inside.clone()];
                // Gathered first, so that the comparison is a loop over plain slices.
                let under = &mut under[..best.len()];
                under.iter_mut().zip(x[from + first..].chunks(step)).for_each(|(under, x)| *under = x[0]);
                scan(best, places, under, number(from + first), number(step));
            }
        }
    }
}

/// One tap over one line: `x` are the elements under it, the first at place `at`, one every `step`.
#[inline(always)]
fn scan<T: Real>(best: &mut [T], places: &mut [u32], x: &[T], at: u32, step: u32) {
    for (((best, place), x), index) in best.iter_mut().zip(places).zip(x).zip(0..) {
        // NaN stays: a network that diverges must not look healthy. No branch: which one wins is chance.
        let wins = (*x > *best) | x.is_nan();
        *best = if wins { *x } else { *best };
        *place = if wins { at + index * step } else { *place };
    }
}

/// A place in a plane.
#[expect(clippy::cast_possible_truncation, reason = "a plane has at most 2^28 elements")]
fn number(place: usize) -> u32 {
    place as u32
}

struct MaxPoolGradient {
    places: Arc<OnceLock<Vec<u32>>>,
    dims: Vec<usize>,
}

impl Kernel<1> for MaxPoolGradient {
    const NAME: &'static str = "max_pool_gradient";

    fn forward<T: Real>(&self, [gradient]: [View<'_, T>; 1]) -> (Vec<T>, Vec<usize>) {
        let places = self.places.get().map_or(&[][..], Vec::as_slice);
        let plane = self.dims[2] * self.dims[3];
        let outputs = gradient.dims[2] * gradient.dims[3];
        let mut dx = vec![T::zero(); self.dims.iter().product()];
        parallel::each(&mut dx, plane, |index, dx| {
            let range = index * outputs..(index + 1) * outputs;
            for (gradient, place) in gradient.data[range.clone()].iter().zip(&places[range]) {
                dx[*place as usize] += *gradient;
            }
        });
        (dx, self.dims.clone())
    }
}

#[derive(Clone, Copy)]
struct AvgPool {
    window: Window,
    count_padding: bool,
}

impl AvgPool {
    /// What the sum of a window over `covered` elements is multiplied by.
    fn share<T: Real>(&self, covered: usize) -> T {
        T::from_f64(1.0 / if self.count_padding { self.window.taps() } else { covered } as f64)
    }
}

impl Kernel<1> for AvgPool {
    const NAME: &'static str = "avg_pool";

    fn forward<T: Real>(&self, [x]: [View<'_, T>; 1]) -> (Vec<T>, Vec<usize>) {
        let window = &self.window;
        let [height, width] = [x.dims[2], x.dims[3]];
        let mut out = vec![T::zero(); x.dims[0] * x.dims[1] * window.outputs()];
        parallel::each(&mut out, window.outputs(), |index, out| {
            let x = &x.data[index * height * width..][..height * width];
            for (at, out) in out.iter_mut().enumerate() {
                let rows = window.covers(0, at / window.output[1], height);
                let columns = window.covers(1, at % window.output[1], width);
                let share = self.share(rows.len() * columns.len());
                let sums = rows.map(|row| sum1(&x[row * width..][columns.clone()], |x| x));
                *out = sums.fold(T::zero(), |sum, row| sum + row) * share;
            }
        });
        (out, vec![x.dims[0], x.dims[1], window.output[0], window.output[1]])
    }

    fn backward(&self, [x]: [&Tensor; 1], _: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(plain1(AvgPoolGradient { pool: *self, dims: x.dims().to_vec() }, gradient)?)])
    }
}

struct AvgPoolGradient {
    pool: AvgPool,
    dims: Vec<usize>,
}

impl Kernel<1> for AvgPoolGradient {
    const NAME: &'static str = "avg_pool_gradient";

    fn forward<T: Real>(&self, [gradient]: [View<'_, T>; 1]) -> (Vec<T>, Vec<usize>) {
        let window = &self.pool.window;
        let [height, width] = [self.dims[2], self.dims[3]];
        let mut dx = vec![T::zero(); self.dims.iter().product()];
        parallel::each(&mut dx, height * width, |index, dx| {
            let gradient = &gradient.data[index * window.outputs()..][..window.outputs()];
            for (at, gradient) in gradient.iter().enumerate() {
                let rows = window.covers(0, at / window.output[1], height);
                let columns = window.covers(1, at % window.output[1], width);
                let each = *gradient * self.pool.share(rows.len() * columns.len());
                for row in rows {
                    dx[row * width..][columns.clone()].iter_mut().for_each(|dx| *dx += each);
                }
            }
        });
        (dx, self.dims.clone())
    }
}
