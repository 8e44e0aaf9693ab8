//! Operations for outputs alone, and their definitions in `f64`.

use std::sync::Arc;

use super::{Builder, check_outputs};
use crate::graph::{Activation, Affine, Function, Graph, Op, Pairwise, ParameterId, Value};
use crate::net::{Net, Purpose};
use crate::simd::Path;

/// A value of a batch, `[n, shape…]`, and its shape.
pub(super) type Operand<'a> = (&'a [f64], &'a [usize]);

/// An operation's output for one example.
pub(super) fn alone(
    op: &Op,
    parameters: &[Vec<f64>],
    shape: &[usize],
    inputs: &[Operand<'_>],
    example: usize,
) -> Vec<f64> {
    let of = |id: ParameterId| parameters[id.index()].as_slice();
    let x = |index: usize| {
        let (values, shape) = inputs[index];
        let len: usize = shape.iter().product();
        &values[example * len..][..len]
    };
    let (channels, pixels) = (shape[0], shape[1..].iter().product::<usize>());
    let pixel = |values: &[f64], pixel: usize| -> Vec<f64> {
        (0..values.len() / pixels).map(|channel| values[channel * pixels + pixel]).collect()
    };
    // Back from pixels of channels.
    let maps = |all: &[Vec<f64>]| -> Vec<f64> {
        (0..channels).flat_map(|channel| all.iter().map(move |pixel| pixel[channel])).collect()
    };
    match op {
        Op::Constant(parameter) => of(*parameter).to_vec(),
        Op::Pairwise(pair) => {
            let [a, b] = [x(0), x(1)];
            let at = |values: &[f64], index: usize| values[index * values.len() / (channels * pixels)];
            let f = |a: f64, b: f64| match pair {
                Pairwise::Add => a + b,
                Pairwise::Sub => a - b,
                Pairwise::Mul => a * b,
                Pairwise::Div => a / b,
                Pairwise::Max => a.max(b),
                Pairwise::Min => a.min(b),
            };
            (0..channels * pixels).map(|index| f(at(a, index), at(b, index))).collect()
        }
        Op::Function(function) => x(0).iter().map(|x| value(*function, *x)).collect(),
        Op::Softmax => {
            let one = |index: usize| {
                let x = pixel(x(0), index);
                let sum: f64 = x.iter().map(|x| libm::exp(*x)).sum();
                x.iter().map(|x| libm::exp(*x) / sum).collect()
            };
            maps(&(0..pixels).map(one).collect::<Vec<_>>())
        }
        Op::ChannelNorm { epsilon, affine } => {
            let one = |index: usize| {
                let x = pixel(x(0), index);
                let mean = x.iter().sum::<f64>() / channels as f64;
                let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / channels as f64;
                let scale = |channel: usize| of(affine.weight)[channel] / (variance + epsilon).sqrt();
                let normal = |channel: usize| (x[channel] - mean) * scale(channel) + of(affine.bias)[channel];
                (0..channels).map(normal).collect()
            };
            maps(&(0..pixels).map(one).collect::<Vec<_>>())
        }
        Op::Attention { heads, scale } => {
            let [q, k, v] = [x(0), x(1), x(2)];
            let (depth, width) = (inputs[0].1[0] / heads, channels / heads);
            let keys: usize = inputs[1].1[1..].iter().product();
            let mut y = vec![0.0; channels * pixels];
            for head in 0..*heads {
                for query in 0..pixels {
                    let product = |key: usize| {
                        let one =
                            |c: usize| q[(head * depth + c) * pixels + query] * k[(head * depth + c) * keys + key];
                        libm::exp((0..depth).map(one).sum::<f64>() * f64::from(*scale))
                    };
                    let scores: Vec<f64> = (0..keys).map(product).collect();
                    let sum: f64 = scores.iter().sum();
                    for channel in head * width..(head + 1) * width {
                        let value = (0..keys).map(|key| scores[key] * v[channel * keys + key]).sum::<f64>();
                        y[channel * pixels + query] = value / sum;
                    }
                }
            }
            y
        }
        Op::Channels { first, count } => x(0)[first * pixels..(first + count) * pixels].to_vec(),
        Op::Append => (0..channels)
            .flat_map(|channel| {
                inputs.iter().enumerate().flat_map(move |(index, (_, shape))| {
                    let pixels: usize = shape[1..].iter().product();
                    x(index)[channel * pixels..][..pixels].to_vec()
                })
            })
            .collect(),
        Op::Rearrange { from, fill, .. } => {
            from.iter().map(|at| x(0).get(*at as usize).copied().unwrap_or(f64::from(*fill))).collect()
        }
        _ => unreachable!("it is in the other reference"),
    }
}

fn value(function: Function, x: f64) -> f64 {
    match function {
        Function::Clip { low, high } => x.clamp(f64::from(low), f64::from(high)),
        Function::LeakyRelu { slope } => {
            if x > 0.0 {
                x
            } else {
                x * f64::from(slope)
            }
        }
        Function::HardSigmoid { alpha, beta } => (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0),
        Function::Elu { alpha } => {
            if x > 0.0 {
                x
            } else {
                f64::from(alpha) * (libm::exp(x) - 1.0)
            }
        }
        Function::GeluTanh => {
            0.5 * x * (1.0 + libm::tanh((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))))
        }
        Function::Mish => x * libm::tanh(libm::log1p(libm::exp(x))),
        Function::Exp => libm::exp(x),
        Function::Sqrt => x.sqrt(),
        Function::Erf => libm::erf(x),
        Function::Abs => x.abs(),
    }
}

/// Convolved maps of so many channels, with a halo where a later convolution wants one.
fn convolved(b: &mut Builder, channels: usize) -> Value {
    let x = b.conv(b.graph.input(), channels, 3, 1, 1, true);
    b.activation(x, Activation::Tanh)
}

#[test]
fn pairs_of_maps_and_pixels() {
    for pair in [Pairwise::Add, Pairwise::Sub, Pairwise::Mul, Pairwise::Div, Pairwise::Max, Pairwise::Min] {
        for channels in [5, 16, 21] {
            let mut b = Builder::new(&[3, 5, 4]);
            let x = convolved(&mut b, channels);
            let y = b.conv(x, channels, 3, 1, 1, true);
            // Away from zero, to be divided by.
            let far = b.activation(y, Activation::Sigmoid);
            let far = b.add(Op::Function(Function::HardSigmoid { alpha: 0.5, beta: 0.3 }), &[far]);
            let z = b.add(Op::Pairwise(pair), &[x, far]);
            let row = b.add(Op::GlobalAvgPool, &[far]);
            let one = b.add(Op::Pairwise(pair), &[z, row]);
            let other = b.add(Op::Pairwise(pair), &[row, far]);
            let both = b.add(Op::Pairwise(Pairwise::Mul), &[other, other]);
            let all = b.add(Op::Concat, &[one, both]);
            b.conv(all, 7, 3, 1, 1, true);
            check_outputs(&format!("{pair:?} of {channels} channels"), &b.graph, 2);
            let mut b = Builder::new(&[channels]);
            let x = b.linear(b.graph.input(), channels);
            let y = b.add(Op::Function(Function::HardSigmoid { alpha: 0.1, beta: 0.5 }), &[x]);
            b.add(Op::Pairwise(pair), &[x, y]);
            check_outputs(&format!("{pair:?} of rows of {channels}"), &b.graph, 3);
        }
    }
}

#[test]
fn functions() {
    let all = [
        Function::Clip { low: -0.3, high: 0.2 },
        Function::LeakyRelu { slope: 0.2 },
        Function::HardSigmoid { alpha: 0.2, beta: 0.5 },
        Function::Elu { alpha: 0.7 },
        Function::GeluTanh,
        Function::Mish,
        Function::Exp,
        Function::Erf,
        Function::Abs,
    ];
    for function in all {
        let mut b = Builder::new(&[3, 5, 4]);
        let x = convolved(&mut b, 21);
        let x = b.add(Op::Function(function), &[x]);
        let x = b.conv(x, 10, 3, 1, 1, true);
        b.add(Op::Function(function), &[x]);
        check_outputs(&format!("{function:?}"), &b.graph, 2);
    }
    let mut b = Builder::new(&[19]);
    let x = b.add(Op::Function(Function::Abs), &[b.graph.input()]);
    b.add(Op::Function(Function::Sqrt), &[x]);
    check_outputs("square roots of rows", &b.graph, 2);
}

#[test]
fn softmax_and_norms_of_channels() {
    for channels in [1, 5, 16, 37] {
        let mut b = Builder::new(&[3, 5, 4]);
        let x = convolved(&mut b, channels);
        let x = norm(&mut b, x);
        let x = b.add(Op::Softmax, &[x]);
        b.conv(x, 7, 3, 1, 1, true);
        check_outputs(&format!("norm and softmax of {channels} channels"), &b.graph, 2);
        let mut b = Builder::new(&[channels]);
        let x = norm(&mut b, Value(0));
        b.add(Op::Softmax, &[x]);
        check_outputs(&format!("norm and softmax of rows of {channels}"), &b.graph, 3);
    }
}

fn norm(b: &mut Builder, x: Value) -> Value {
    let channels = [b.graph.shape(x)[0]];
    let affine = Affine { weight: b.parameter(&channels, true), bias: b.parameter(&channels, true) };
    b.add(Op::ChannelNorm { epsilon: 1e-5, affine }, &[x])
}

#[test]
fn attention_of_heads() {
    for (heads, depth, width, size) in [(1, 16, 16, [1, 7]), (3, 8, 8, [4, 5]), (2, 20, 12, [1, 33]), (3, 5, 7, [3, 3])]
    {
        let mut b = Builder::new(&[6, size[0], size[1]]);
        let x = b.graph.input();
        let [q, k] = [(); 2].map(|()| b.conv(x, heads * depth, 1, 1, 1, true));
        let v = b.conv(x, heads * width, 1, 1, 1, true);
        let y = b.add(Op::Attention { heads, scale: 0.4 }, &[q, k, v]);
        b.conv(y, 9, 1, 1, 1, true);
        check_outputs(&format!("{heads} heads of {depth} and {width} channels"), &b.graph, 2);
    }
    // Of one value, and with other tokens as keys than as queries.
    let mut b = Builder::new(&[12, 3, 4]);
    let x = b.graph.input();
    let x = b.add(Op::Attention { heads: 3, scale: 1.0 }, &[x, x, x]);
    let few = b.conv(x, 12, 1, 2, 1, true);
    b.add(Op::Attention { heads: 4, scale: 0.7 }, &[x, few, few]);
    check_outputs("attention of one value, and across", &b.graph, 2);
}

#[test]
fn copies() {
    let mut b = Builder::new(&[3, 5, 4]);
    let x = convolved(&mut b, 40);
    let token = b.parameter(&[35], true);
    let token = b.add(Op::Constant(token), &[]);
    let y = b.add(Op::Channels { first: 3, count: 35 }, &[x]);
    let y = b.add(Op::Append, &[token, y, token]);
    let place = b.parameter(&[35, 1, 22], true);
    let place = b.add(Op::Constant(place), &[]);
    let y = b.add(Op::Add, &[y, place]);
    let from: Vec<u32> = (0..23 * 6 * 5).map(|at| at * 7919 % 800).collect();
    let turned = b.add(Op::Rearrange { from: Arc::from(from), shape: vec![23, 6, 5], fill: 0.75 }, &[y]);
    let z = b.conv(turned, 20, 3, 1, 1, true);
    let row = b.add(Op::Rearrange { from: (0..33).rev().collect(), shape: vec![33], fill: 0.0 }, &[z]);
    let row = b.add(Op::Channels { first: 2, count: 30 }, &[row]);
    b.add(Op::Rearrange { from: (0..30).collect(), shape: vec![2, 3, 5], fill: 0.0 }, &[row]);
    check_outputs("copies", &b.graph, 3);
}

#[test]
fn they_are_not_trained() {
    let mut graph = Graph::new(&[5]);
    graph.add(Op::Softmax, &[graph.input()]).expect("it fits");
    let problem = Net::new(&graph, 2, Purpose::Train, Path::Portable).expect_err("it has no gradient");
    assert_eq!(problem.to_string(), "`softmax` is for outputs alone: it cannot be trained");
}

#[test]
fn what_does_not_fit_is_refused() {
    let mut graph = Graph::new(&[6, 2, 3]);
    let x = graph.input();
    let one = graph.add(Op::GlobalAvgPool, &[x]).expect("it fits");
    for (op, inputs) in [
        (Op::Channels { first: 4, count: 3 }, vec![x]),
        (Op::Channels { first: usize::MAX, count: 2 }, vec![x]),
        (Op::Attention { heads: 4, scale: 1.0 }, vec![x, x, x]),
        (Op::Attention { heads: 2, scale: 1.0 }, vec![x, x, one]),
        (Op::Append, vec![]),
        (Op::Rearrange { from: Arc::from([0, 1]), shape: vec![3], fill: 0.0 }, vec![x]),
        (Op::Pairwise(Pairwise::Add), vec![x]),
    ] {
        assert!(graph.add(op.clone(), &inputs).is_err(), "{op:?}");
    }
}

#[test]
fn constants_beside_what_is_computed() {
    let mut b = Builder::new(&[3, 5, 4]);
    let x = convolved(&mut b, 16);
    let constant = b.parameter(&[16, 5, 4], false);
    let constant = b.add(Op::Constant(constant), &[]);
    let all = b.add(Op::Concat, &[x, constant]);
    b.conv(all, 7, 3, 1, 1, true);
    check_outputs("constants side by side", &b.graph, 2);
}
