//! A graph's outputs, as the definitions of its operations say, in `f64`.

use crate::graph::{Activation, Graph, Op, ParameterId};
use crate::kernels::tests::reference::inside;
use crate::window::Window;

use super::outputs::{Operand, alone};

/// Places of each parameter whose slope is measured.
const SAMPLES: usize = 24;

pub(super) struct Reference<'a> {
    graph: &'a Graph,
    x: Vec<f64>,
    n: usize,
}

/// What a pass gave.
pub(super) struct Pass {
    /// `[n, shape…]`.
    pub(super) output: Vec<f64>,
    /// All parameters, with running statistics that may have moved.
    pub(super) parameters: Vec<Vec<f64>>,
}

impl<'a> Reference<'a> {
    pub(super) fn new(graph: &'a Graph, x: &[f32], n: usize) -> Self {
        Self { graph, x: x.iter().map(|x| f64::from(*x)).collect(), n }
    }

    /// Some gradients of the sum of `slopes` times the outputs, by central differences: for each parameter that is trained, places and
    /// slopes.
    pub(super) fn differences(&self, parameters: &[Vec<f64>], slopes: &[f32]) -> Vec<Vec<(usize, f64)>> {
        let step = 1e-6;
        let mut moved = parameters.to_vec();
        let mut gradients = Vec::new();
        for (index, parameter) in self.graph.parameters().iter().enumerate() {
            let mut gradient = Vec::new();
            // As many as a test has time for, spread by a step that no layout has.
            let places =
                (0..if parameter.trained { SAMPLES } else { 0 }).map(|sample| sample * 1009 % parameters[index].len());
            for place in places {
                let mut at = |value: f64| {
                    moved[index][place] = value;
                    let output = self.run(&moved, true).output;
                    output.iter().zip(slopes).map(|(y, slope)| y * f64::from(*slope)).sum::<f64>()
                };
                let value = parameters[index][place];
                gradient.push((place, (at(value + step) - at(value - step)) / (2.0 * step)));
                moved[index][place] = value;
            }
            gradients.push(gradient);
        }
        gradients
    }

    /// One pass.
    pub(super) fn run(&self, parameters: &[Vec<f64>], train: bool) -> Pass {
        let mut after = parameters.to_vec();
        let mut values: Vec<Vec<f64>> = Vec::with_capacity(self.graph.nodes().len());
        for node in self.graph.nodes() {
            let input = |index: usize| values[node.inputs[index].index()].as_slice();
            let in_shape = |index: usize| self.graph.shape(node.inputs[index]);
            let of = |id: ParameterId| parameters[id.index()].as_slice();
            let each = |f: &dyn Fn(f64) -> f64| input(0).iter().map(|x| f(*x)).collect::<Vec<f64>>();
            let value = match &node.op {
                Op::Input => self.x.clone(),
                Op::Conv { window, groups, weight, bias } => {
                    let zeros = vec![0.0; node.shape[0]];
                    let bias = bias.map_or(zeros.as_slice(), of);
                    self.conv(window, *groups, in_shape(0), node.shape[0], input(0), of(*weight), bias)
                }
                Op::Linear { weight, bias } => {
                    let (inputs, units) = (in_shape(0)[0], node.shape[0]);
                    let zeros = vec![0.0; units];
                    let (weight, bias) = (of(*weight), bias.map_or(zeros.as_slice(), of));
                    let unit = |x: &[f64], unit: usize| {
                        bias[unit] + x.iter().zip(&weight[unit * inputs..]).map(|(x, w)| x * w).sum::<f64>()
                    };
                    input(0).chunks(inputs).flat_map(|x| (0..units).map(move |index| unit(x, index))).collect()
                }
                Op::BatchNorm { momentum, epsilon, affine, mean, variance } => {
                    let (channels, inner) = (node.shape[0], node.shape[1..].iter().product::<usize>());
                    let x = input(0);
                    let mut y = vec![0.0; x.len()];
                    #[expect(clippy::needless_range_loop, reason = "a channel is an index of several tensors")]
                    for channel in 0..channels {
                        let places: Vec<usize> = (0..x.len()).filter(|at| at / inner % channels == channel).collect();
                        let count = places.len() as f64;
                        let (mut center, mut spread) = (of(*mean)[channel], of(*variance)[channel]);
                        if train {
                            center = places.iter().map(|at| x[*at]).sum::<f64>() / count;
                            spread = places.iter().map(|at| (x[*at] - center).powi(2)).sum::<f64>() / count;
                            let blend = |old: &mut f64, new: f64| *old = *old * (1.0 - momentum) + new * momentum;
                            blend(&mut after[mean.index()][channel], center);
                            if count > 1.0 {
                                blend(&mut after[variance.index()][channel], spread * count / (count - 1.0));
                            }
                        }
                        let scale = of(affine.weight)[channel] / (spread + epsilon).sqrt();
                        for at in places {
                            y[at] = (x[at] - center) * scale + of(affine.bias)[channel];
                        }
                    }
                    y
                }
                Op::RowNorm { groups, epsilon, affine } => {
                    let example: usize = node.shape.iter().product();
                    let (row, run) = (example / groups, example / of(affine.weight).len());
                    let mut y = Vec::new();
                    for (index, x) in input(0).chunks(row).enumerate() {
                        let mean = x.iter().sum::<f64>() / row as f64;
                        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / row as f64;
                        for (place, x) in x.iter().enumerate() {
                            let at = (index % groups * row + place) / run;
                            let normal = (x - mean) / (variance + epsilon).sqrt();
                            y.push(normal * of(affine.weight)[at] + of(affine.bias)[at]);
                        }
                    }
                    y
                }
                Op::Activation(function) => each(&|x| activation(*function, x)),
                Op::MaxPool(window) => self.pool(window, in_shape(0), input(0), |values, _| {
                    values.iter().copied().fold(f64::NEG_INFINITY, f64::max)
                }),
                Op::AvgPool { window, count_padding } => self.pool(window, in_shape(0), input(0), |values, taps| {
                    values.iter().sum::<f64>() / if *count_padding { taps } else { values.len() } as f64
                }),
                Op::GlobalAvgPool => {
                    let plane = in_shape(0)[1] * in_shape(0)[2];
                    input(0).chunks(plane).map(|plane| plane.iter().sum::<f64>() / plane.len() as f64).collect()
                }
                Op::Dropout { rate, number } => {
                    let mut y = input(0).to_vec();
                    if train && *rate > 0.0 {
                        let mut dropped = vec![false; y.len()];
                        super::drop(*number, &mut dropped);
                        y.iter_mut()
                            .zip(dropped)
                            .for_each(|(y, dropped)| *y *= if dropped { 0.0 } else { 1.0 / (1.0 - rate) });
                    }
                    y
                }
                Op::Flatten => input(0).to_vec(),
                Op::Add => input(0).iter().zip(input(1)).map(|(a, b)| a + b).collect(),
                Op::Concat => {
                    let lengths: Vec<usize> =
                        node.inputs.iter().map(|input| self.graph.shape(*input).iter().product()).collect();
                    let example = |example: usize| {
                        lengths
                            .iter()
                            .enumerate()
                            .flat_map(move |(index, len)| input(index)[example * len..][..*len].to_vec())
                    };
                    (0..self.n).flat_map(example).collect()
                }
                op => {
                    let inputs: Vec<Operand<'_>> =
                        (0..node.inputs.len()).map(|index| (input(index), in_shape(index))).collect();
                    (0..self.n).flat_map(|example| alone(op, parameters, &node.shape, &inputs, example)).collect()
                }
            };
            values.push(value);
        }
        Pass { output: values.swap_remove(self.graph.output().index()), parameters: after }
    }

    #[expect(clippy::too_many_arguments, reason = "a definition with all that it needs")]
    fn conv(
        &self,
        window: &Window,
        groups: usize,
        shape: &[usize],
        filters: usize,
        x: &[f64],
        w: &[f64],
        b: &[f64],
    ) -> Vec<f64> {
        let (size, plane, taps) = ([shape[1], shape[2]], shape[1] * shape[2], window.taps());
        let (ins, outs) = (shape[0] / groups, filters / groups);
        let mut y = Vec::new();
        for x in x.chunks(shape[0] * plane) {
            for filter in 0..filters {
                for output in outputs(window) {
                    let mut sum = b[filter];
                    for channel in 0..ins {
                        for (tap, place) in inside(window, size, output) {
                            let at = (filter / outs * ins + channel) * plane + place;
                            sum += x[at] * w[(filter * ins + channel) * taps + tap];
                        }
                    }
                    y.push(sum);
                }
            }
        }
        y
    }

    fn pool(&self, window: &Window, shape: &[usize], x: &[f64], f: impl Fn(&[f64], usize) -> f64) -> Vec<f64> {
        let size = [shape[1], shape[2]];
        let one = |plane: &[f64], output: [usize; 2]| {
            let values: Vec<f64> = inside(window, size, output).iter().map(|(_, at)| plane[*at]).collect();
            f(&values, window.taps())
        };
        let one = &one;
        x.chunks(size[0] * size[1]).flat_map(|plane| outputs(window).map(move |output| one(plane, output))).collect()
    }
}

fn outputs(window: &Window) -> impl Iterator<Item = [usize; 2]> + use<> {
    let [height, width] = window.output;
    (0..height).flat_map(move |row| (0..width).map(move |column| [row, column]))
}

fn activation(function: Activation, x: f64) -> f64 {
    let sigmoid = |x: f64| 1.0 / (1.0 + libm::exp(-x));
    match function {
        Activation::Relu => x.max(0.0),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::LeakyRelu => {
            if x > 0.0 {
                x
            } else {
                0.01 * x
            }
        }
        Activation::Gelu => x * 0.5 * (1.0 + libm::erf(x / std::f64::consts::SQRT_2)),
        Activation::Silu => x * sigmoid(x),
        Activation::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        Activation::Sigmoid => sigmoid(x),
        Activation::Tanh => libm::tanh(x),
    }
}
