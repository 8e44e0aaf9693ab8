//! The gradient of every layer against central differences.

use candle_core::{DType, Tensor, Var};
use engine::Mode;
use rand_chacha::rand_core::Rng as _;
use serde_json::{Value, json};
use shared::contract::Network;
use shared::random;

use super::{numbers, tensor};
use crate::compute::generic::{Net, ops};
use crate::compute::graph::graph;
use crate::compute::tests::{apart, noise};

/// Half the distance of two points that a difference is taken between.
const STEP: f64 = 1e-5;
/// Elements of each tensor that are checked.
const CHECKED: usize = 24;
/// Pictures.
const BATCH: usize = 3;

/// Checks the gradients of a loss, computed from the outputs by `loss`, for the input and every parameter.
fn check_with(layers: &Value, input: &[usize], loss: impl Fn(&Tensor) -> candle_core::Result<Tensor>) {
    let network: Network = serde_json::from_value(json!({"layers": layers})).expect("a network");
    let parameters = network.parameters(input).expect("a network");
    let graph = graph(&network, input, &parameters).expect("a graph");
    let net = Net::new(graph.clone(), &apart(), DType::F64).expect("a network");
    let mut vars = Vec::new();
    for (parameter, var) in graph.parameters().iter().zip(&net.parameters) {
        var.set(&tensor(&parameter.name, &parameter.shape)).expect("a value");
        if parameter.trained {
            vars.push((parameter.name.clone(), var.clone()));
        }
    }
    let dims: Vec<usize> = std::iter::once(BATCH).chain(input.iter().copied()).collect();
    let x = Var::from_tensor(&(tensor("input", &dims) * 3.0).expect("numbers")).expect("a variable");
    vars.push(("input".into(), x.clone()));
    let drop = |number: u64, dropped: &mut [bool]| {
        let mut stream = random::stream(4, &["dropout".into(), number.into()]);
        dropped.iter_mut().for_each(|dropped| *dropped = stream.next_u32().is_multiple_of(2));
    };
    let run = || {
        let output = net.forward(&x, &Mode::Train { drop: &drop }).expect("an output");
        loss(&output).expect("a loss")
    };
    let gradients = run().backward().expect("gradients");
    for (name, var) in vars {
        let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{layers}: no gradient of {name}"));
        let (gradient, values) = (numbers(gradient), numbers(&var));
        assert_eq!(gradient.len(), values.len(), "{name}");
        let at_shifted = |index: usize, shift: f64| {
            let mut moved = values.clone();
            moved[index] += shift;
            var.set(&Tensor::from_vec(moved, var.dims(), &apart()).expect("a tensor")).expect("a value");
            run().to_scalar::<f64>().expect("a number")
        };
        for index in (0..values.len()).step_by(values.len().div_ceil(CHECKED)) {
            let numeric = (at_shifted(index, STEP) - at_shifted(index, -STEP)) / (2.0 * STEP);
            let error = (numeric - gradient[index]).abs() / numeric.abs().max(gradient[index].abs()).max(1.0);
            assert!(error < 1e-6, "{layers}: {name}[{index}] is {}, differences say {numeric}", gradient[index]);
        }
        at_shifted(0, 0.0);
    }
}

fn check(layers: &Value, input: &[usize]) {
    // A fixed random weight for each output, so that none of them can hide.
    check_with(layers, input, |output| {
        let weights = Tensor::from_vec(noise("loss", output.elem_count()), output.dims(), &apart())?;
        (output * weights)?.sum_all()
    });
}

#[test]
fn convolutions() {
    for conv in [
        json!({"filters": 3, "kernel": 3}),
        json!({"filters": 3, "kernel": [3, 4], "stride": 2, "padding": "same"}),
        json!({"filters": 4, "kernel": [2, 3], "padding": [1, 2], "dilation": [2, 1], "stride": [1, 2], "groups": 2}),
        json!({"filters": 3, "kernel": 1}),
        json!({"filters": 3, "kernel": 1, "stride": 2, "bias": false}),
        json!({"filters": 8, "kernel": 3, "padding": "same", "groups": 4}),
        json!({"filters": 4, "kernel": [5, 3], "padding": 2, "groups": 4, "stride": [2, 3], "dilation": [1, 2]}),
        json!({"filters": 2, "kernel": 9, "padding": "same"}),
        json!({"filters": 2, "kernel": 1, "padding": [1, 0], "stride": 2}),
    ] {
        let mut layer = conv;
        layer["type"] = "conv".into();
        check(&json!([layer]), &[4, 6, 7]);
    }
}

#[test]
fn linear_layers() {
    check(&json!([{"type": "linear", "units": 4}]), &[5]);
    check(&json!([{"type": "linear", "units": 4, "bias": false}, {"type": "relu"}]), &[5]);
}

#[test]
fn norms() {
    check(&json!([{"type": "batch_norm"}]), &[3, 4, 5]);
    check(&json!([{"type": "batch_norm", "epsilon": 0.01}]), &[4]);
    check(&json!([{"type": "layer_norm"}]), &[2, 3, 4]);
    check(&json!([{"type": "layer_norm"}]), &[6]);
    check(&json!([{"type": "group_norm", "groups": 2}]), &[4, 3, 3]);
    check(&json!([{"type": "group_norm", "groups": 3}]), &[6]);
}

#[test]
fn activations() {
    for function in ["relu", "relu6", "leaky_relu", "gelu", "silu", "hard_swish", "sigmoid", "tanh"] {
        check(&json!([{"type": "activation", "function": function}]), &[40]);
    }
    check(&json!([{"type": "relu"}]), &[2, 3, 4]);
}

/// Values and gradients where functions have corners, overflow, or meet what is not a number.
#[test]
fn activations_at_their_corners() {
    use engine::graph::Activation::{HardSwish, LeakyRelu, Relu, Relu6, Sigmoid, Silu, Tanh};
    for (function, x, value, slope) in [
        (Relu, 0.0, 0.0, 0.0),
        (Relu6, 0.0, 0.0, 0.0),
        (Relu6, 6.0, 6.0, 0.0),
        (LeakyRelu, 0.0, 0.0, 0.01),
        (HardSwish, -3.0, 0.0, 0.0),
        (Sigmoid, -1000.0, 0.0, 0.0),
        (Sigmoid, 1000.0, 1.0, 0.0),
        (Sigmoid, 0.0, 0.5, 0.25),
        (Silu, -1000.0, 0.0, 0.0),
        (Silu, 1000.0, 1000.0, 1.0),
        (Tanh, 1000.0, 1.0, 0.0),
    ] {
        for dtype in [DType::F32, DType::F64] {
            let var = Tensor::new(&[x], &apart()).and_then(|t| Var::from_tensor(&t.to_dtype(dtype)?));
            let var = var.expect("a variable");
            let y = ops::activation(function, &var).expect("a value");
            let gradients = y.sum_all().and_then(|sum| sum.backward()).expect("gradients");
            let (y, dx) = (numbers(&y)[0], numbers(gradients.get(&var).expect("a gradient"))[0]);
            assert!((y - value).abs() < 1e-7 && (dx - slope).abs() < 1e-7, "{function:?} at {x}: {y}, {dx}");
        }
    }
    let nan = Tensor::new(&[f64::NAN], &apart()).expect("a tensor");
    for function in [Relu, Relu6, LeakyRelu, HardSwish, Sigmoid, Silu, Tanh, engine::graph::Activation::Gelu] {
        assert!(numbers(&ops::activation(function, &nan).expect("a value"))[0].is_nan(), "{function:?}");
    }
}

#[test]
fn pools() {
    for pool in [
        json!({"type": "max_pool", "kernel": 2}),
        json!({"type": "max_pool", "kernel": 3, "stride": 1, "padding": 1}),
        json!({"type": "max_pool", "kernel": [3, 2], "stride": [2, 2], "padding": 1, "ceil": true}),
        json!({"type": "avg_pool", "kernel": 2}),
        json!({"type": "avg_pool", "kernel": 3, "stride": [1, 2], "padding": 1}),
        json!({"type": "avg_pool", "kernel": 3, "stride": 2, "padding": 1, "count_padding": false}),
        json!({"type": "global_avg_pool"}),
    ] {
        check(&json!([pool]), &[2, 6, 7]);
    }
}

/// Of equal elements the first in the order of rows has the gradient; what is not a number wins.
#[test]
fn ties_of_a_max_pool_go_to_the_first() {
    let window = engine::Window { kernel: [2, 2], stride: [1, 2], before: [0, 0], dilation: [1, 1], output: [2, 2] };
    let x = [1.0, 5.0, 2.0, 2.0, 5.0, 5.0, 2.0, 2.0, 0.0, 0.0, f64::NAN, 9.0];
    let x = Tensor::from_slice(&x, (1, 1, 3, 4), &apart()).and_then(|t| Var::from_tensor(&t)).expect("a variable");
    let y = ops::max_pool(&x, &window).expect("a pool");
    let gradients = y.sum_all().and_then(|sum| sum.backward()).expect("gradients");
    let y = numbers(&y);
    assert!(y[..3] == [5.0, 2.0, 5.0] && y[3].is_nan(), "{y:?}");
    let dx = numbers(gradients.get(&x).expect("a gradient"));
    assert_eq!(dx, [0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0]);
}

#[test]
fn dropout_and_flatten() {
    check(&json!([{"type": "dropout", "rate": 0.4}]), &[30]);
    check(
        &json!([{"type": "dropout", "rate": 0.0}, {"type": "flatten"}, {"type": "dropout", "rate": 0.9}]),
        &[2, 3, 4],
    );
}

#[test]
fn blocks() {
    check(
        &json!([{"type": "residual",
            "layers": [
                {"type": "conv", "filters": 3, "kernel": 3, "padding": "same", "stride": 2}, {"type": "batch_norm"},
                {"type": "relu"}, {"type": "conv", "filters": 3, "kernel": 3, "padding": "same"}],
            "shortcut": [{"type": "conv", "filters": 3, "kernel": 1, "stride": 2}]},
            {"type": "relu"}, {"type": "global_avg_pool"}]),
        &[2, 7, 6],
    );
    check(
        &json!([{"type": "residual", "layers": [{"type": "conv", "filters": 2, "kernel": 3, "padding": 1}]}]),
        &[2, 5, 5],
    );
    check(
        &json!([{"type": "parallel", "branches": [
            [{"type": "conv", "filters": 3, "kernel": 3, "padding": "same", "groups": 1, "dilation": 2}, {"type": "relu"}],
            [{"type": "max_pool", "kernel": 3, "stride": 1, "padding": 1}, {"type": "conv", "filters": 2, "kernel": 1}],
            []]},
            {"type": "flatten"}, {"type": "linear", "units": 3}]),
        &[2, 5, 6],
    );
}

#[test]
fn the_loss() {
    check_with(&json!([{"type": "linear", "units": 5}]), &[4], |logits| {
        ops::cross_entropy(logits, &[4, 0, 2])?.mean_all()
    });
}

#[test]
fn a_whole_network() {
    check_with(
        &json!([
            {"type": "conv", "filters": 4, "kernel": 3, "padding": "same", "bias": false}, {"type": "batch_norm"},
            {"type": "activation", "function": "silu"}, {"type": "max_pool", "kernel": 2},
            {"type": "conv", "filters": 8, "kernel": 3, "padding": 1, "groups": 4}, {"type": "relu"},
            {"type": "avg_pool", "kernel": 2}, {"type": "flatten"}, {"type": "dropout", "rate": 0.3},
            {"type": "linear", "units": 6}, {"type": "layer_norm"}, {"type": "activation", "function": "gelu"},
            {"type": "linear", "units": 3}
        ]),
        &[2, 8, 9],
        |logits| ops::cross_entropy(logits, &[2, 0, 1])?.mean_all(),
    );
}
