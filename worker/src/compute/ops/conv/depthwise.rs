//! Convolutions of one input channel a group: each output plane is a weighted sum of shifted lines.

use super::Sizes;
use crate::compute::ops::real::sum2;
use crate::compute::ops::{Real, parallel};

/// Calls `f(tap, output line, input line, columns of output, first column of input)` for every line of
/// a plane and every tap that meets it.
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
    let planes = sizes.groups * sizes.filters;
    let [height, width] = sizes.input;
    let (taps, outputs, step) = (sizes.window.taps(), sizes.window.outputs(), sizes.window.stride[1]);
    parallel::chunks(
        out,
        outputs,
        || (),
        |(), index, out| {
            let (picture, filter) = (index / planes, index % planes);
            let x = &x[(picture * sizes.groups + filter / sizes.filters) * height * width..][..height * width];
            each_line(sizes, |tap, line, from, inside, first| {
                let weight = weight[filter * taps + tap];
                let out = &mut out[line * sizes.window.output[1]..][inside];
                let from = &x[from * width + first..];
                if step == 1 {
                    out.iter_mut().zip(from).for_each(|(out, x)| *out += weight * *x);
                } else {
                    out.iter_mut().zip(from.iter().step_by(step)).for_each(|(out, x)| *out += weight * *x);
                }
            });
            out.iter_mut().for_each(|out| *out = finish(*out, bias[filter]));
        },
    );
}

pub(super) fn input_gradient<T: Real>(sizes: &Sizes, weight: &[T], gradient: &[T], dx: &mut [T]) {
    let [height, width] = sizes.input;
    let (taps, outputs, step) = (sizes.window.taps(), sizes.window.outputs(), sizes.window.stride[1]);
    // A plane of the input belongs to `filters` planes of the output, which lie together.
    parallel::chunks(
        dx,
        height * width,
        || (),
        |(), plane, dx| {
            for filter in 0..sizes.filters {
                let gradient = &gradient[(plane * sizes.filters + filter) * outputs..][..outputs];
                let weight = &weight[(plane % sizes.groups * sizes.filters + filter) * taps..][..taps];
                each_line(sizes, |tap, line, from, inside, first| {
                    let weight = weight[tap];
                    let gradient = &gradient[line * sizes.window.output[1]..][inside];
                    let to = &mut dx[from * width + first..];
                    if step == 1 {
                        to.iter_mut().zip(gradient).for_each(|(to, g)| *to += weight * *g);
                    } else {
                        to.iter_mut().step_by(step).zip(gradient).for_each(|(to, g)| *to += weight * *g);
                    }
                });
            }
        },
    );
}

pub(super) fn weight_gradient<T: Real>(sizes: &Sizes, x: &[T], gradient: &[T]) -> Vec<T> {
    let planes = sizes.groups * sizes.filters;
    let [height, width] = sizes.input;
    let (taps, outputs, step) = (sizes.window.taps(), sizes.window.outputs(), sizes.window.stride[1]);
    let mut dw = vec![T::zero(); planes * taps];
    parallel::chunks(
        &mut dw,
        taps,
        || (),
        |(), filter, dw| {
            for picture in 0..sizes.batch {
                let x = &x[(picture * sizes.groups + filter / sizes.filters) * height * width..][..height * width];
                let gradient = &gradient[(picture * planes + filter) * outputs..][..outputs];
                each_line(sizes, |tap, line, from, inside, first| {
                    let gradient = &gradient[line * sizes.window.output[1]..][inside];
                    let from = &x[from * width + first..];
                    dw[tap] += if step == 1 {
                        sum2(gradient, from, |g, x| g * x)
                    } else {
                        let terms = gradient.iter().zip(from.iter().step_by(step));
                        terms.fold(T::zero(), |sum, (g, x)| sum + *g * *x)
                    };
                });
            }
        },
    );
    dw
}
