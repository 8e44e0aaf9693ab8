//! Whole networks against a scalar forward pass in `f64` and its central differences.

mod int8;
mod outputs;
mod parts;
mod reference;

use crate::graph::{Activation, Affine, Graph, Op, Value};
use crate::kernels::dense::Shape;
use crate::kernels::optimizer::{Rule, Step};
use crate::kernels::tests::noise;
use crate::kernels::winograd::pays;
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
        self.batch_norm_with(x, 1e-5)
    }

    fn batch_norm_with(&mut self, x: Value, epsilon: f64) -> Value {
        let channels = [self.graph.shape(x)[0]];
        let affine = Affine { weight: self.parameter(&channels, true), bias: self.parameter(&channels, true) };
        let (mean, variance) = (self.parameter(&channels, false), self.parameter(&channels, false));
        self.add(Op::BatchNorm { momentum: 0.1, epsilon, affine, mean, variance }, &[x])
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
    }
    check_outputs(what, graph, n);
}

/// Holds the outputs of a network that is planned for these alone against the reference's, on every path.
pub(super) fn check_outputs(what: &str, graph: &Graph, n: usize) {
    let input: usize = graph.shape(graph.input()).iter().product();
    let x = noise("x", n * input);
    let parameters = values(graph);
    let wide: Vec<Vec<f64>> = parameters.iter().map(|values| values.iter().map(|x| f64::from(*x)).collect()).collect();
    let expected = Reference::new(graph, &x, n).run(&wide, false).output;
    for path in Path::available() {
        let mut net = Net::new(graph, n, Purpose::Infer, path).expect("a network");
        parameters.iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
        // The second round finds the buffers as the first left them.
        for round in 0..2 {
            for (example, values) in x.chunks(input).enumerate() {
                net.set_input(example, values);
            }
            net.forward(n, &Mode::Infer);
            let what = format!("{what} on {}: planned for outputs, round {round}", path.name());
            close(&what, &net.outputs(n), &expected, 2e-5);
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
fn windows_in_the_padding_alone() {
    for (stride, before, output) in [(4, 2, [3, 3]), (1, 2, [10, 11])] {
        let mut b = Builder::new(&[3, 6, 7]);
        let window = Window { kernel: [1, 1], stride: [stride; 2], before: [before; 2], dilation: [1, 1], output };
        let x = b.conv(b.graph.input(), 9, 1, 1, 1, true);
        let weight = b.parameter(&[5, 9, 1, 1], true);
        let bias = Some(b.parameter(&[5], true));
        b.add(Op::Conv { window, groups: 1, weight, bias }, &[x]);
        check("windows in the padding alone", &b.graph, 3);
    }
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
fn pools_behind_a_convolution_that_are_not_half_as_large() {
    // Windows that hang over the end of an odd size, and fewer windows than there is room for.
    for output in [[4, 3], [3, 4], [2, 3]] {
        let mut b = Builder::new(&[3, 7, 7]);
        let x = b.conv(b.graph.input(), 9, 3, 1, 1, true);
        let x = b.relu(x);
        let window = Window { kernel: [2, 2], stride: [2, 2], before: [0, 0], dilation: [1, 1], output };
        b.add(Op::MaxPool(window), &[x]);
        check("a pool behind a convolution", &b.graph, 3);
    }
}

#[test]
fn networks_without_parameters() {
    check("the input itself", &Builder::new(&[3, 4, 4]).graph, 3);
    check("the input itself, in blocks", &Builder::new(&[20, 4, 4]).graph, 3);
    let mut b = Builder::new(&[5, 4, 3]);
    let x = b.relu(b.graph.input());
    b.add(Op::GlobalAvgPool, &[x]);
    check("means", &b.graph, 3);
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

#[test]
fn flattened_maps() {
    let mut b = Builder::new(&[3, 6, 7]);
    let x = b.conv(b.graph.input(), 20, 3, 1, 1, true);
    let x = b.add(Op::Flatten, &[x]);
    b.linear(x, 5);
    check("flattened maps", &b.graph, 5);
    let mut b = Builder::new(&[17, 3, 4]);
    let x = b.add(Op::Flatten, &[b.graph.input()]);
    b.linear(x, 5);
    check("a flattened input", &b.graph, 5);
}

#[test]
fn norms() {
    let mut b = Builder::new(&[3, 6, 7]);
    let x = b.conv(b.graph.input(), 20, 3, 1, 1, false);
    let x = b.batch_norm(x);
    let x = b.relu(x);
    let x = b.conv(x, 12, 3, 1, 1, true);
    let x = b.batch_norm(x);
    let x = b.conv(x, 12, 1, 1, 1, true);
    let x = b.row_norm(x, 3, false);
    let x = b.conv(x, 12, 1, 1, 1, true);
    b.row_norm(x, 1, true);
    check("norms of maps", &b.graph, 4);
    let mut b = Builder::new(&[11]);
    let x = b.linear(b.graph.input(), 20);
    let x = b.batch_norm(x);
    let x = b.relu(x);
    let x = b.linear(x, 20);
    let x = b.row_norm(x, 1, true);
    let x = b.linear(x, 20);
    let x = b.row_norm(x, 4, true);
    b.linear(x, 5);
    check("norms of rows", &b.graph, 11);
}

#[test]
fn a_batch_norm_with_an_epsilon_of_zero() {
    // It becomes part of a convolution whose last block of channels is not full.
    let mut b = Builder::new(&[3, 6, 6]);
    let x = b.conv(b.graph.input(), 20, 3, 1, 1, true);
    let x = b.batch_norm_with(x, 0.0);
    b.conv(x, 5, 1, 1, 1, true);
    check("an epsilon of zero", &b.graph, 3);
}

#[test]
fn norms_of_numbers_whose_squares_overflow_do_not_look_healthy() {
    for kind in 0..3 {
        let mut b = Builder::new(&[4, 8, 8]);
        match kind {
            0 => b.batch_norm(b.graph.input()),
            1 => b.row_norm(b.graph.input(), 2, false),
            _ => b.row_norm(b.graph.input(), 1, true),
        };
        let x: Vec<f32> = noise("x", 4 * 64).into_iter().map(|x| x * 1e20).collect();
        for path in Path::available() {
            let mut net = Net::new(&b.graph, 1, Purpose::Train, path).expect("a network");
            values(&b.graph).iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
            net.set_input(0, &x);
            net.forward(1, &Mode::Train { drop: &drop });
            assert!(net.outputs(1).iter().all(|y| y.is_nan()), "norm {kind} on {}", path.name());
        }
    }
}

#[test]
fn norms_without_anything_before_them() {
    let mut b = Builder::new(&[5, 4, 3]);
    let x = b.batch_norm(b.graph.input());
    b.relu(x);
    check("batch norm", &b.graph, 4);
    let mut b = Builder::new(&[5, 4, 3]);
    b.row_norm(b.graph.input(), 1, true);
    check("layer norm", &b.graph, 4);
    let mut b = Builder::new(&[6]);
    b.row_norm(b.graph.input(), 2, true);
    check("group norm", &b.graph, 4);
}

#[test]
fn pools() {
    let mut b = Builder::new(&[3, 9, 8]);
    let x = b.conv(b.graph.input(), 20, 3, 1, 1, true);
    let x = b.max_pool(x, 3, 2, 1);
    let x = b.conv(x, 18, 1, 1, 1, true);
    let window = b.window(x, 3, 1, 1);
    let x = b.add(Op::AvgPool { window, count_padding: false }, &[x]);
    let x = b.conv(x, 18, 1, 1, 1, true);
    let window = b.window(x, 2, 2, 0);
    let x = b.add(Op::AvgPool { window, count_padding: true }, &[x]);
    let x = b.conv(x, 18, 1, 1, 1, true);
    let x = b.add(Op::GlobalAvgPool, &[x]);
    b.linear(x, 5);
    check("pools", &b.graph, 4);
}

#[test]
fn activations() {
    let functions = [
        Activation::Relu6,
        Activation::LeakyRelu,
        Activation::Gelu,
        Activation::Silu,
        Activation::HardSwish,
        Activation::Sigmoid,
        Activation::Tanh,
    ];
    let mut b = Builder::new(&[3, 4, 5]);
    let mut x = b.graph.input();
    for function in functions {
        x = b.conv(x, 18, 1, 1, 1, true);
        x = b.activation(x, function);
    }
    check("activations of maps", &b.graph, 4);
    let mut b = Builder::new(&[9]);
    let mut x = b.graph.input();
    for function in functions {
        x = b.linear(x, 18);
        x = b.activation(x, function);
    }
    check("activations of rows", &b.graph, 9);
}

#[test]
fn dropout() {
    let mut b = Builder::new(&[3, 4, 5]);
    let x = b.conv(b.graph.input(), 18, 1, 1, 1, true);
    let x = b.dropout(x, 0.4);
    let x = b.conv(x, 18, 1, 1, 1, true);
    let x = b.add(Op::Flatten, &[x]);
    let x = b.dropout(x, 0.4);
    let x = b.linear(x, 18);
    b.dropout(x, 0.0);
    check("dropout", &b.graph, 4);
}

/// A block as of a residual network: with a projection where `stride` is two.
fn block(b: &mut Builder, x: Value, filters: usize, stride: usize) -> Value {
    let y = b.conv(x, filters, 3, stride, 1, false);
    let y = b.batch_norm(y);
    let y = b.relu(y);
    let y = b.conv(y, filters, 3, 1, 1, false);
    let y = b.batch_norm(y);
    let other = if stride == 1 {
        x
    } else {
        let other = b.conv(x, filters, 1, stride, 1, false);
        b.batch_norm(other)
    };
    let y = b.add(Op::Add, &[y, other]);
    b.relu(y)
}

#[test]
fn residual_blocks() {
    // Small: among many sums one would be so near zero that fp32 has it on the other side of relu's kink.
    let mut b = Builder::new(&[3, 6, 6]);
    let x = b.conv(b.graph.input(), 16, 3, 1, 1, false);
    let x = b.batch_norm(x);
    let x = b.relu(x);
    let x = block(&mut b, x, 16, 1);
    let x = block(&mut b, x, 16, 1);
    let x = block(&mut b, x, 24, 2);
    let x = b.add(Op::GlobalAvgPool, &[x]);
    b.linear(x, 5);
    check("residual blocks", &b.graph, 4);
    let mut b = Builder::new(&[3, 5, 5]);
    let x = b.conv(b.graph.input(), 10, 1, 1, 1, true);
    let y = b.conv(x, 10, 3, 1, 1, true);
    let x = b.add(Op::Add, &[x, y]);
    let y = b.relu(x);
    let x = b.add(Op::Add, &[x, y]);
    let x = b.add(Op::Add, &[x, x]);
    let y = b.batch_norm(x);
    b.add(Op::Add, &[x, y]);
    check("sums", &b.graph, 4);
}

#[test]
fn branches() {
    let mut b = Builder::new(&[3, 7, 6]);
    let x = b.conv(b.graph.input(), 20, 1, 1, 1, true);
    let x = b.relu(x);
    let one = b.conv(x, 7, 1, 1, 1, true);
    let three = b.conv(x, 12, 3, 1, 1, true);
    let three = b.relu(three);
    let pool = b.max_pool(x, 3, 1, 1);
    let x = b.add(Op::Concat, &[one, three, pool, x]);
    let x = b.conv(x, 9, 3, 2, 1, true);
    let x = b.add(Op::Flatten, &[x]);
    let a = b.linear(x, 7);
    let x = b.add(Op::Concat, &[a, x, a]);
    b.linear(x, 5);
    check("branches", &b.graph, 4);
}

#[test]
fn branches_run_one_after_the_other() {
    let mut b = Builder::new(&[16, 8, 8]);
    let x = b.graph.input();
    // As some files have them, both first halves before the second ones.
    let firsts = [16, 32].map(|filters| b.conv(x, filters, 1, 1, 1, false));
    let seconds = firsts.map(|first| b.conv(first, 16, 3, 1, 1, false));
    b.add(Op::Concat, &seconds);
    let net = Net::new(&b.graph, 1, Purpose::Infer, Path::Portable).expect("it fits");
    let names: Vec<&str> = net.times().map(|(name, _)| name).collect();
    let kernels: Vec<&str> = names.iter().filter_map(|name| name.split_whitespace().nth(1)).collect();
    assert_eq!(kernels[..4], ["1x1/1", "3x3/1", "1x1/1", "3x3/1"], "{names:?}");
}

/// Exits behind each layer of a long chain: depth first the last one would be computed first, and all maps be kept for the others.
#[test]
fn no_order_of_layers_takes_more_memory_than_that_of_the_nodes() {
    let bytes = |exits: usize, turned: bool| {
        let mut b = Builder::new(&[16, 32, 32]);
        let mut x = b.graph.input();
        let mut seen = Vec::new();
        for _ in 0..exits {
            x = b.conv(x, 16, 1, 1, 1, false);
            seen.push(b.add(Op::GlobalAvgPool, &[x]));
        }
        if turned {
            seen.reverse();
        }
        b.add(Op::Append, &seen);
        Net::new(&b.graph, 1, Purpose::Infer, Path::Portable).expect("it fits").bytes()
    };
    for turned in [false, true] {
        let [few, many] = [3, 30].map(|exits| bytes(exits, turned));
        assert!(many < 2 * few, "{few} and {many} bytes");
    }
}

#[test]
fn nodes_that_the_output_does_not_depend_on() {
    let mut b = Builder::new(&[3, 6, 6]);
    let x = b.conv(b.graph.input(), 20, 3, 1, 1, true);
    b.conv(x, 20, 3, 1, 1, true);
    let y = b.conv(x, 20, 3, 1, 1, true);
    // They read the output itself.
    let z = b.relu(y);
    b.conv(z, 7, 3, 1, 1, true);
    b.graph.set_output(y);
    check("nodes that are not needed", &b.graph, 3);
}

#[test]
fn depthwise_convolutions() {
    let mut b = Builder::new(&[3, 9, 8]);
    let x = b.conv(b.graph.input(), 20, 1, 1, 1, false);
    let x = b.batch_norm(x);
    let x = b.activation(x, Activation::Relu6);
    let x = b.conv(x, 20, 3, 2, 20, false);
    let x = b.batch_norm(x);
    let x = b.relu(x);
    let x = b.conv(x, 20, 5, 1, 20, true);
    b.conv(x, 9, 1, 1, 1, true);
    check("depthwise convolutions", &b.graph, 4);
    let mut b = Builder::new(&[3, 9, 8]);
    b.conv(b.graph.input(), 3, 3, 1, 3, true);
    check("a depthwise convolution of the input", &b.graph, 4);
}

#[test]
fn outputs_do_not_depend_on_the_batch_that_is_planned() {
    // Of such a shape Winograd's kernel pays for several examples and not for one.
    let shape = Shape { ins: 128, outs: 128, groups: 1, window: Window::same([3, 3], [2, 2]) };
    assert!(!pays(&shape, 1, 1) && pays(&shape, 3, 1));
    let mut b = Builder::new(&[3, 2, 2]);
    let x = b.conv(b.graph.input(), 128, 1, 1, 1, true);
    let x = b.conv(x, 128, 3, 1, 1, true);
    let x = b.conv(x, 128, 3, 1, 1, true);
    let x = b.relu(x);
    let x = b.max_pool(x, 2, 2, 0);
    let x = b.add(Op::GlobalAvgPool, &[x]);
    b.linear(x, 5);
    let (graph, input) = (&b.graph, 3 * 2 * 2);
    let x = noise("x", 20 * input);
    for path in Path::available() {
        let outputs = |batch: usize| {
            let mut net = Net::new(graph, batch, Purpose::Infer, path).expect("a network");
            values(graph).iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
            let all = x.chunks(batch * input).flat_map(|rows| {
                rows.chunks(input).enumerate().for_each(|(example, row)| net.set_input(example, row));
                net.forward(rows.len() / input, &Mode::Infer);
                net.outputs(rows.len() / input)
            });
            all.map(f32::to_bits).collect::<Vec<u32>>()
        };
        let one = outputs(1);
        for batch in [2, 4, 20] {
            assert!(one == outputs(batch), "in batches of {batch} on {}", path.name());
        }
    }
}

#[test]
fn a_batch_of_none_has_no_outputs() {
    let mut b = Builder::new(&[32, 16, 16]);
    let x = b.conv(b.graph.input(), 32, 3, 1, 1, true);
    let x = b.add(Op::Flatten, &[x]);
    b.linear(x, 5);
    for path in Path::available() {
        let mut net = Net::new(&b.graph, 2, Purpose::Infer, path).expect("a network");
        net.forward(0, &Mode::Infer);
        assert!(net.outputs(0).is_empty());
    }
}

#[test]
fn outputs_do_not_depend_on_earlier_inputs() {
    // The input's buffer is used again by values of its form, and its last block of channels is not full.
    let mut b = Builder::new(&[20, 6, 6]);
    let mut x = b.graph.input();
    for filters in [20, 20, 20, 20, 5] {
        x = b.conv(x, filters, 1, 1, 1, true);
    }
    for path in Path::available() {
        let mut net = Net::new(&b.graph, 1, Purpose::Infer, path).expect("a network");
        values(&b.graph).iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
        let mut outputs = |input: &[f32]| {
            net.set_input(0, input);
            net.forward(1, &Mode::Infer);
            net.outputs(1)
        };
        let input = noise("x", 20 * 36);
        let mut large = input.clone();
        (0..20).for_each(|channel| large[channel * 36 + 5] = f32::MAX);
        let first = outputs(&input);
        assert!(outputs(&large).iter().any(|output| !output.is_finite()), "it overflows");
        assert_eq!(outputs(&input), first, "on {}", path.name());
    }
}

/// One example's outputs, by so many threads.
fn bits_by(net: &mut Net, x: &[f32], threads: usize) -> Vec<u32> {
    // Other tests compute meanwhile, on as many: their number changes no bit.
    crate::set_threads(threads);
    net.set_input(0, x);
    net.forward(1, &Mode::Infer);
    net.outputs(1).into_iter().map(f32::to_bits).collect()
}

/// Threads share a picture in other ways than a batch: by rows, tiles, panels, positions and blocks of channels.
#[test]
fn the_number_of_threads_changes_no_bit_of_a_picture() {
    let mut b = Builder::new(&[16, 40, 40]);
    let wide = b.conv(b.graph.input(), 32, 3, 1, 1, true);
    let branches = [b.conv(wide, 16, 5, 1, 1, true), b.max_pool(wide, 3, 1, 1), b.conv(wide, 32, 3, 1, 32, true)];
    let window = b.window(wide, 3, 1, 1);
    let mean = b.add(Op::AvgPool { window, count_padding: false }, &[wide]);
    let x = b.add(Op::Concat, &[&branches[..], &[mean]].concat());
    let x = b.conv(x, 48, 1, 1, 1, true);
    let x = b.relu(x);
    let x = b.max_pool(x, 2, 2, 0);
    let x = b.conv(x, 300, 1, 2, 1, true);
    let x = b.max_pool(x, 2, 2, 0);
    // Small maps of many channels.
    let x = b.conv(x, 520, 3, 1, 1, true);
    let x = b.conv(x, 520, 1, 1, 1, true);
    let x = b.conv(x, 520, 3, 1, 520, true);
    b.add(Op::GlobalAvgPool, &[x]);
    let x = noise("x", 16 * 40 * 40);
    for path in Path::available() {
        let mut net = Net::new(&b.graph, 1, Purpose::Infer, path).expect("a network");
        values(&b.graph).iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
        let mut bits = |threads: usize| bits_by(&mut net, &x, threads);
        let one = bits(1);
        assert!(one.iter().all(|bits| f32::from_bits(*bits).is_finite()));
        for threads in [2, 3, 50] {
            assert!(one == bits(threads), "{threads} threads on {}", path.name());
        }
        crate::set_threads(1);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let mut b = Builder::new(&[3, 16, 16]);
    let x = b.conv(b.graph.input(), 24, 5, 1, 1, true);
    let x = b.relu(x);
    let x = b.max_pool(x, 2, 2, 0);
    let x = block(&mut b, x, 24, 1);
    let x = b.row_norm(x, 4, false);
    let x = b.conv(x, 24, 3, 1, 24, true);
    let x = b.add(Op::Flatten, &[x]);
    let x = b.linear(x, 300);
    let x = b.dropout(x, 0.3);
    b.linear(x, 10);
    let (n, graph) = (21, &b.graph);
    let x = noise("x", n * 3 * 16 * 16);
    let slopes = noise("slopes", n * 10);
    for path in Path::available() {
        let bits = |threads: usize| {
            // Other tests compute meanwhile, on as many: their number changes no bit.
            crate::set_threads(threads);
            let mut net = Net::new(graph, n, Purpose::Train, path).expect("a network");
            values(graph).iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
            x.chunks(3 * 16 * 16).enumerate().for_each(|(example, x)| net.set_input(example, x));
            let mode = Mode::Train { drop: &drop };
            for number in 0..2 {
                net.forward(n, &mode);
                let rule = Rule::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 };
                net.step(n, &slopes, &mode, &Step { rule, rate: 0.01, decay: 0.0, number });
            }
            let all = (0..graph.parameters().len()).flat_map(|index| net.parameter(index));
            all.chain(net.outputs(n)).map(f32::to_bits).collect::<Vec<u32>>()
        };
        let one = bits(1);
        assert!(one.iter().all(|bits| f32::from_bits(*bits).is_finite()));
        for threads in [2, 3] {
            assert!(one == bits(threads), "{threads} threads on {}", path.name());
        }
    }
}
