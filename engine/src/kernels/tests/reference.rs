//! What kernels compute, as its definition says, one multiplication at a time in `f64`.

use crate::kernels::dense::Shape;
use crate::window::Window;

/// The outputs of a window.
pub(super) fn outputs(window: &Window) -> impl Iterator<Item = [usize; 2]> + use<> {
    let [height, width] = window.output;
    (0..height).flat_map(move |row| (0..width).map(move |column| [row, column]))
}

/// The taps of the window at `output` that are inside an input of `size`: (tap, place in the plane).
pub(crate) fn inside(window: &Window, size: [usize; 2], output: [usize; 2]) -> Vec<(usize, usize)> {
    let mut all = Vec::new();
    for ky in 0..window.kernel[0] {
        for kx in 0..window.kernel[1] {
            let place = |axis: usize, tap: usize| {
                let at = output[axis] * window.stride[axis] + tap * window.dilation[axis];
                at.checked_sub(window.before[axis]).filter(|at| *at < size[axis])
            };
            if let (Some(row), Some(column)) = (place(0, ky), place(1, kx)) {
                all.push((ky * window.kernel[1] + kx, row * size[1] + column));
            }
        }
    }
    all
}

/// A convolution of one example and what its gradients are, given those of its outputs.
pub(crate) struct Convolved {
    pub(crate) y: Vec<f64>,
    pub(crate) dx: Vec<f64>,
    pub(crate) dw: Vec<f64>,
}

/// `x` `[ins, H, W]`, `weights` `[outs, ins / groups, taps]`, `dy` as the outputs.
pub(crate) fn convolve(
    shape: &Shape,
    size: [usize; 2],
    x: &[f32],
    weights: &[f32],
    bias: &[f32],
    dy: &[f32],
) -> Convolved {
    let window = &shape.window;
    let (plane, taps) = (size[0] * size[1], window.taps());
    let (group_ins, group_outs) = (shape.ins / shape.groups, shape.outs / shape.groups);
    let mut all = Convolved { y: Vec::new(), dx: vec![0.0; x.len()], dw: vec![0.0; weights.len()] };
    for (out, bias) in bias.iter().enumerate().take(shape.outs) {
        for output in outputs(window) {
            let mut sum = f64::from(*bias);
            let slope = f64::from(dy[all.y.len()]);
            for inside_group in 0..group_ins {
                let channel = out / group_outs * group_ins + inside_group;
                for (tap, place) in inside(window, size, output) {
                    let (at, weight) = (channel * plane + place, (out * group_ins + inside_group) * taps + tap);
                    sum += f64::from(x[at]) * f64::from(weights[weight]);
                    all.dx[at] += slope * f64::from(weights[weight]);
                    all.dw[weight] += slope * f64::from(x[at]);
                }
            }
            all.y.push(sum);
        }
    }
    all
}
