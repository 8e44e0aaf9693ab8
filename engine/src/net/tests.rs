//! Whole networks against a scalar forward pass in `f64` and its central differences.

mod reference;

use crate::graph::{Activation, Affine, Graph, Op, Value};
use crate::kernels::tests::noise;
use crate::net::{Mode, Net, Purpose};
use crate::simd::Path;
use crate::window::Window;

use reference::Reference;

/// A graph under construction; parameters are called after their place.
pub(super) struct Builder {
    pub(super) graph: Graph,
    dropouts: u64,
}

impl Builder {
    pub(super) fn new(input: &[usize]) -> Self {
        Self { graph: Graph::new(input), dropouts: 0 }
    }

    fn parameter(&mut self, shape: &[usize], trained: bool) -> crate::graph::ParameterId {
        let name = format!("{}", self.graph.parameters().len());
        self.graph.parameter(name, shape, trained)
    }

    pub(super) fn add(&mut self, op: Op, inputs: &[Value]) -> Value {
        self.graph.add(op, inputs).expect("it fits")
    }

    pub(super) fn conv(
        &mut self,
        x: Value,
        filters: usize,
        kernel: usize,
        stride: usize,
        groups: usize,
        bias: bool,
    ) -> Value {
        let &[channels, height, width] = self.graph.shape(x) else { panic!("maps") };
        let before = [(kernel - 1) / 2; 2];
        let output = [height, width].map(|size| (size - 1) / stride + 1);
        let window = Window { kernel: [kernel; 2], stride: [stride; 2], before, dilation: [1, 1], output };
        let weight = self.parameter(&[filters, channels / groups, kernel, kernel], true);
        let bias = bias.then(|| self.parameter(&[filters], true));
        self.add(Op::Conv { window, groups, weight, bias }, &[x])
    }

    pub(super) fn linear(&mut self, x: Value, units: usize) -> Value {
        let inputs = self.graph.shape(x)[0];
        let weight = self.parameter(&[units, inputs], true);
        let bias = Some(self.parameter(&[units], true));
        self.add(Op::Linear { weight, bias }, &[x])
    }

    pub(super) fn batch_norm(&mut self, x: Value) -> Value {
        let channels = [self.graph.shape(x)[0]];
        let affine = Affine { weight: self.parameter(&channels, true), bias: self.parameter(&channels, true) };
        let (mean, variance) = (self.parameter(&channels, false), self.parameter(&channels, false));
        self.add(Op::BatchNorm { momentum: 0.1, epsilon: 1e-5, affine, mean, variance }, &[x])
    }

    pub(super) fn row_norm(&mut self, x: Value, groups: usize, by_element: bool) -> Value {
        let shape = self.graph.shape(x).to_vec();
        let shape = if by_element { shape } else { shape[..1].to_vec() };
        let affine = Affine { weight: self.parameter(&shape, true), bias: self.parameter(&shape, true) };
        self.add(Op::RowNorm { groups, epsilon: 1e-5, affine }, &[x])
    }

    pub(super) fn activation(&mut self, x: Value, function: Activation) -> Value {
        self.add(Op::Activation(function), &[x])
    }

    pub(super) fn relu(&mut self, x: Value) -> Value {
        self.activation(x, Activation::Relu)
    }

    pub(super) fn window(&self, x: Value, kernel: usize, stride: usize, before: usize) -> Window {
        let &[_, height, width] = self.graph.shape(x) else { panic!("maps") };
        let output = [height, width].map(|size| (size + 2 * before - kernel) / stride + 1);
        Window { kernel: [kernel; 2], stride: [stride; 2], before: [before; 2], dilation: [1, 1], output }
    }

    pub(super) fn max_pool(&mut self, x: Value, kernel: usize, stride: usize, before: usize) -> Value {
        let window = self.window(x, kernel, stride, before);
        self.add(Op::MaxPool(window), &[x])
    }

    pub(super) fn dropout(&mut self, x: Value, rate: f64) -> Value {
        self.dropouts += 1;
        self.add(Op::Dropout { rate, number: self.dropouts }, &[x])
    }
}

/// First numbers of the parameters: those of norms near one, variances above zero.
fn values(graph: &Graph) -> Vec<Vec<f32>> {
    let one = |(index, parameter): (usize, &crate::graph::Parameter)| {
        let count = parameter.shape.iter().product();
        let fan: usize = parameter.shape.iter().skip(1).product();
        let mut values = noise(&format!("parameter {index}"), count);
        if !parameter.trained {
            values.iter_mut().for_each(|value| *value = value.abs() + 0.5);
        }
        if parameter.shape.len() > 1 {
            values.iter_mut().for_each(|value| *value *= (6.0 / fan as f32).sqrt());
        }
        values
    };
    graph.parameters().iter().enumerate().map(one).collect()
}

fn drop(number: u64, dropped: &mut [bool]) {
    let noise = noise(&format!("drop {number}"), dropped.len());
    dropped.iter_mut().zip(noise).for_each(|(dropped, noise)| *dropped = noise > 0.2);
}

fn close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs() / scale;
        assert!(error < tolerance, "{what}[{index}] is {found}, not {expected}");
    }
}

/// Holds a network's outputs, gradients and running statistics against the reference's, on every path.
pub(super) fn check(what: &str, graph: &Graph, n: usize) {
    let input: usize = graph.shape(graph.input()).iter().product();
    let output: usize = graph.shape(graph.output()).iter().product();
    let x = noise("x", n * input);
    let slopes = noise("slopes", n * output);
    let parameters = values(graph);
    let reference = Reference::new(graph, &x, n);
    let wide: Vec<Vec<f64>> = parameters.iter().map(|values| values.iter().map(|x| f64::from(*x)).collect()).collect();
    let trained = reference.run(&wide, true);
    let inferred = reference.run(&wide, false);
    let gradients = reference.differences(&wide, &slopes);
    for path in Path::available() {
        let what = format!("{what} on {}", path.name());
        // One more than there are examples: a last batch of an epoch is smaller.
        let mut net = Net::new(graph, n + 1, Purpose::Train, path).expect("a network");
        parameters.iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
        for (example, values) in x.chunks(input).enumerate() {
            net.set_input(example, values);
        }
        net.forward(n, &Mode::Infer);
        close(&format!("{what}: outputs"), &net.outputs(n), &inferred.output, 2e-5);
        for round in 0..2 {
            // The second round finds the buffers as the first left them.
            parameters.iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
            let mode = Mode::Train { drop: &drop };
            net.forward(n, &mode);
            close(&format!("{what}: outputs in training, round {round}"), &net.outputs(n), &trained.output, 2e-5);
            net.backward(n, &slopes, &mode);
            for (index, parameter) in graph.parameters().iter().enumerate() {
                let name = &parameter.name;
                if parameter.trained {
                    let all = net.gradient(index);
                    let found: Vec<f32> = gradients[index].iter().map(|(place, _)| all[*place]).collect();
                    let expected: Vec<f64> = gradients[index].iter().map(|(_, slope)| *slope).collect();
                    close(&format!("{what}: gradient {name}, round {round}"), &found, &expected, 1e-4);
                } else {
                    close(
                        &format!("{what}: statistics {name}"),
                        &net.parameter(index),
                        &trained.parameters[index],
                        1e-5,
                    );
                }
            }
        }
        let mut net = Net::new(graph, n, Purpose::Infer, path).expect("a network");
        parameters.iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
        for round in 0..2 {
            for (example, values) in x.chunks(input).enumerate() {
                net.set_input(example, values);
            }
            net.forward(n, &Mode::Infer);
            close(&format!("{what}: planned for outputs, round {round}"), &net.outputs(n), &inferred.output, 2e-5);
        }
    }
}

#[test]
fn convolutions() {
    let mut b = Builder::new(&[3, 9, 8]);
    let x = b.conv(b.graph.input(), 20, 3, 1, 1, true);
    let x = b.relu(x);
    let x = b.conv(x, 18, 3, 2, 2, false);
    b.conv(x, 5, 1, 1, 1, true);
    check("convolutions", &b.graph, 3);
}

#[test]
fn pooled_convolutions() {
    let mut b = Builder::new(&[1, 13, 12]);
    let x = b.conv(b.graph.input(), 20, 5, 1, 1, true);
    let x = b.relu(x);
    let x = b.max_pool(x, 2, 2, 0);
    let x = b.conv(x, 18, 3, 1, 1, true);
    let x = b.relu(x);
    b.max_pool(x, 2, 2, 0);
    check("pooled convolutions", &b.graph, 9);
}

#[test]
fn linear_layers() {
    let mut b = Builder::new(&[13]);
    let x = b.linear(b.graph.input(), 40);
    let x = b.relu(x);
    let x = b.linear(x, 20);
    b.linear(x, 7);
    check("linear layers", &b.graph, 20);
}
