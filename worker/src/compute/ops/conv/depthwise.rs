//! Convolutions of one input channel a group: each output plane is a weighted sum of shifted lines.

use super::Sizes;
use crate::compute::ops::real::sum2;
use crate::compute::ops::wide::wide;
use crate::compute::ops::{Real, parallel};

/// Calls `f(tap, output line, input line, columns of output, first column of input)` for every line of
/// a plane and every tap that meets it.
#[inline(always)]
fn each_line(sizes: &Sizes, mut f: impl FnMut(usize, usize, usize, std::ops::Range<usize>, usize)) {
    let window = &sizes.window;
    for ky in 0..window.kernel[0] {
        let (lines, first_line) = window.inside(0, ky, sizes.input[0]);
        for kx in 0..window.kernel[1] {
            let (inside, first) = window.inside(1, kx, sizes.input[1]);
            for line in if inside.is_empty() { 0..0 } else { lines.clone() } {
                let from = first_line + (line - lines.start) * window.stride[0];
                f(ky * window.kernel[1] + kx, line, from, inside.clone(), first);
            }
        }
    }
}

pub(super) fn forward<T: Real>(
    sizes: &Sizes,
    x: &[T],
    weight: &[T],
    bias: &[T],
    out: &mut [T],
    finish: impl Fn(T, T) -> T + Sync + Send,
) {
    let (planes, taps) = (sizes.groups * sizes.filters, sizes.window.taps());
    let input = sizes.input[0] * sizes.input[1];
    parallel::each(out, sizes.window.outputs(), |index, out| {
        let (picture, filter) = (index / planes, index % planes);
        let x = &x[(picture * sizes.groups + filter / sizes.filters) * input..][..input];
        wide!(forward_plane(sizes, x, &weight[filter * taps..][..taps], out));
        let bias = bias[filter];
        wide!(out.iter_mut().for_each(|out| *out = finish(*out, bias)));
    });
}

#[inline(always)]
fn forward_plane<T: Real>(sizes: &Sizes, x: &[T], weight: &[T], out: &mut [T]) {
    let step = sizes.window.stride[1];
    each_line(sizes, |tap, line, from, inside, first| {
        let weight = weight[tap];
        let out = &mut out[line * sizes.window.output[1]..][inside];
        let from = &x[from * sizes.input[1] + first..];
        if step == 1 {
            out.iter_mut().zip(from).for_each(|(out, x)| *out += weight * *x);
        } else {
            out.iter_mut().zip(from.iter().step_by(step)).for_each(|(out, x)| *out += weight * *x);
        }
    });
}

pub(super) fn input_gradient<T: Real>(sizes: &Sizes, weight: &[T], gradient: &[T], dx: &mut [T]) {
    let (taps, outputs) = (sizes.window.taps(), sizes.window.outputs());
    // A plane of the input belongs to `filters` planes of the output, which lie together.
    parallel::each(dx, sizes.input[0] * sizes.input[1], |plane, dx| {
        for filter in 0..sizes.filters {
            let gradient = &gradient[(plane * sizes.filters + filter) * outputs..][..outputs];
            let weight = &weight[(plane % sizes.groups * sizes.filters + filter) * taps..][..taps];
            wide!(input_gradient_plane(sizes, weight, gradient, dx));
        }
    });
}

#[inline(always)]
fn input_gradient_plane<T: Real>(sizes: &Sizes, weight: &[T], gradient: &[T], dx: &mut [T]) {
    let step = sizes.window.stride[1];
    each_line(sizes, |tap, line, from, inside, first| {
        let weight = weight[tap];
        let gradient = &gradient[line * sizes.window.output[1]..][inside];
        let to = &mut dx[from * sizes.input[1] + first..];
        if step == 1 {
            to.iter_mut().zip(gradient).for_each(|(to, g)| *to += weight * *g);
        } else {
            to.iter_mut().step_by(step).zip(gradient).for_each(|(to, g)| *to += weight * *g);
        }
    });
}

pub(super) fn weight_gradient<T: Real>(sizes: &Sizes, x: &[T], gradient: &[T]) -> Vec<T> {
    let (planes, taps, outputs) = (sizes.groups * sizes.filters, sizes.window.taps(), sizes.window.outputs());
    let input = sizes.input[0] * sizes.input[1];
    let mut dw = vec![T::zero(); planes * taps];
    parallel::each(&mut dw, taps, |filter, dw| {
        for picture in 0..sizes.batch {
            let x = &x[(picture * sizes.groups + filter / sizes.filters) * input..][..input];
            let gradient = &gradient[(picture * planes + filter) * outputs..][..outputs];
            wide!(weight_gradient_plane(sizes, x, gradient, dw));
        }
    });
    dw
}

#[inline(always)]
fn weight_gradient_plane<T: Real>(sizes: &Sizes, x: &[T], gradient: &[T], dw: &mut [T]) {
    let step = sizes.window.stride[1];
    each_line(sizes, |tap, line, from, inside, first| {
        let gradient = &gradient[line * sizes.window.output[1]..][inside];
        let from = &x[from * sizes.input[1] + first..];
        dw[tap] += if step == 1 {
            sum2(gradient, from, |g, x| g * x)
        } else {
            let terms = gradient.iter().zip(from.iter().step_by(step));
            terms.fold(T::zero(), |sum, (g, x)| sum + *g * *x)
        };
    });
}
