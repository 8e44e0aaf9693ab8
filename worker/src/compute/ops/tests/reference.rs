//! Convolution and pools as their definitions say, one multiplication at a time.

use crate::compute::ops::{Conv, Window};

/// Values, and the gradient of each input.
type Answer = (Vec<f64>, Vec<Vec<f64>>);

pub(super) struct Reference {
    pub(super) window: Window,
    /// Pictures; for pools, planes.
    pub(super) batch: usize,
    pub(super) input: [usize; 2],
}

impl Reference {
    fn outputs(&self) -> impl Iterator<Item = [usize; 2]> + use<> {
        let [height, width] = self.window.output;
        (0..height).flat_map(move |row| (0..width).map(move |column| [row, column]))
    }

    /// The taps of the window at `output` that are inside the input: (tap, place in the plane).
    fn inside(&self, output: [usize; 2]) -> Vec<(usize, usize)> {
        let window = &self.window;
        let mut all = Vec::new();
        for ky in 0..window.kernel[0] {
            for kx in 0..window.kernel[1] {
                let place = |axis: usize, tap: usize| {
                    let at = output[axis] * window.stride[axis] + tap * window.dilation[axis];
                    at.checked_sub(window.before[axis]).filter(|at| *at < self.input[axis])
                };
                if let (Some(row), Some(column)) = (place(0, ky), place(1, kx)) {
                    all.push((ky * window.kernel[1] + kx, row * self.input[1] + column));
                }
            }
        }
        all
    }

    pub(super) fn conv(
        &self,
        conv: &Conv,
        [channels, filters]: [usize; 2],
        x: &[f64],
        w: &[f64],
        b: &[f64],
        weights: &dyn Fn(usize) -> Vec<f64>,
    ) -> Answer {
        let (plane, taps) = (self.input[0] * self.input[1], self.window.kernel[0] * self.window.kernel[1]);
        let (mut y, mut dx, mut dw, mut db) = (Vec::new(), vec![0.0; x.len()], vec![0.0; w.len()], vec![0.0; b.len()]);
        let outer = weights(self.batch * b.len() * self.outputs().count());
        for picture in 0..self.batch {
            for filter in 0..b.len() {
                for output in self.outputs() {
                    let mut terms = Vec::new();
                    for channel in 0..channels {
                        let from = (picture * conv.groups + filter / filters) * channels + channel;
                        for (tap, place) in self.inside(output) {
                            terms.push((from * plane + place, (filter * channels + channel) * taps + tap));
                        }
                    }
                    let sum = b[filter] + terms.iter().map(|(at, tap)| x[*at] * w[*tap]).sum::<f64>();
                    let gradient = if conv.relu && sum <= 0.0 { 0.0 } else { outer[y.len()] };
                    for (at, tap) in terms {
                        dx[at] += gradient * w[tap];
                        dw[tap] += gradient * x[at];
                    }
                    db[filter] += gradient;
                    y.push(if conv.relu { sum.max(0.0) } else { sum });
                }
            }
        }
        (y, vec![dx, dw, db])
    }

    pub(super) fn max_pool(&self, x: &[f64], weights: &dyn Fn(usize) -> Vec<f64>) -> Answer {
        self.pool(x, weights, |values| {
            let best = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let first = values.iter().position(|value| *value == best).expect("a window is not empty");
            let slopes = (0..values.len()).map(|index| f64::from(u8::from(index == first))).collect();
            (best, slopes)
        })
    }

    pub(super) fn avg_pool(&self, counted: bool, x: &[f64], weights: &dyn Fn(usize) -> Vec<f64>) -> Answer {
        let taps = self.window.kernel[0] * self.window.kernel[1];
        self.pool(x, weights, |values| {
            let count = if counted { taps } else { values.len() } as f64;
            (values.iter().sum::<f64>() / count, vec![1.0 / count; values.len()])
        })
    }

    /// Pools by `f`: the values under a window to the result and its slope along each.
    fn pool(&self, x: &[f64], weights: &dyn Fn(usize) -> Vec<f64>, f: impl Fn(&[f64]) -> (f64, Vec<f64>)) -> Answer {
        let plane = self.input[0] * self.input[1];
        let (mut y, mut dx) = (Vec::new(), vec![0.0; x.len()]);
        let outer = weights(self.batch * self.outputs().count());
        for index in 0..self.batch {
            for output in self.outputs() {
                let places: Vec<usize> = self.inside(output).iter().map(|(_, at)| index * plane + at).collect();
                let values: Vec<f64> = places.iter().map(|at| x[*at]).collect();
                let (value, slopes) = f(&values);
                places.iter().zip(slopes).for_each(|(at, slope)| dx[*at] += outer[y.len()] * slope);
                y.push(value);
            }
        }
        (y, vec![dx])
    }
}
