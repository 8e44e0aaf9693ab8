//! The gradient of every layer against central differences, in `f64`.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::{VarBuilder, VarMap};
use serde_json::{Value, json};
use shared::contract::Network;

use super::{noise, tensor};
use crate::compute::network::{Mode, Net};
use crate::compute::ops;

/// Half the distance of two points that a difference is taken between.
const STEP: f64 = 1e-5;
/// Elements of each tensor that are checked.
const CHECKED: usize = 24;
/// Pictures.
const BATCH: usize = 3;

/// Checks the gradients of a loss, computed from the outputs by `loss`, for the input and every parameter.
fn check_with(layers: &Value, input: &[usize], loss: impl Fn(&Tensor) -> candle_core::Result<Tensor>) {
    let network: Network = serde_json::from_value(json!({"layers": layers})).expect("a network");
    let map = VarMap::new();
    let mut vars = Vec::new();
    for parameter in network.parameters(input).expect("parameters") {
        let values = tensor(&parameter.name, &parameter.shape, DType::F64);
        let var = Var::from_tensor(&values).expect("a variable");
        map.data().lock().expect("no panic").insert(parameter.name.clone(), var.clone());
        if parameter.init.is_trained() {
            vars.push((parameter.name, var));
        }
    }
    let dims: Vec<usize> = std::iter::once(BATCH).chain(input.iter().copied()).collect();
    let x = Var::from_tensor(&(tensor("input", &dims, DType::F64) * 3.0).expect("numbers")).expect("a variable");
    vars.push(("input".into(), x.clone()));
    let builder = VarBuilder::from_varmap(&map, DType::F64, &Device::Cpu);
    let net = Net::new(&network, input, &builder).expect("a network");
    let run = || {
        let output = net.forward(&x, Mode::Train { seed: 4, step: 7 }).expect("an output");
        loss(&output).expect("a loss")
    };
    let gradients = run().backward().expect("gradients");
    for (name, var) in vars {
        let gradient = gradients.get(&var).unwrap_or_else(|| panic!("{layers}: no gradient of {name}"));
        let gradient: Vec<f64> = gradient.flatten_all().and_then(|g| g.to_vec1()).expect("numbers");
        let values: Vec<f64> = var.flatten_all().and_then(|g| g.to_vec1()).expect("numbers");
        assert_eq!(gradient.len(), values.len(), "{name}");
        let at_shifted = |index: usize, shift: f64| {
            let mut moved = values.clone();
            moved[index] += shift;
            var.set(&Tensor::from_vec(moved, var.dims(), &Device::Cpu).expect("a tensor")).expect("a value");
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
        let weights = Tensor::from_vec(noise("loss", output.elem_count()), output.dims(), &Device::Cpu)?;
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
    ] {
        let mut layer = conv;
        layer["type"] = "conv".into();
        check(&json!([layer]), &[4, 6, 7]);
        check(&json!([layer, {"type": "relu"}]), &[4, 6, 7]);
    }
}

#[test]
fn a_convolution_in_tiles_of_rows() {
    check(&json!([{"type": "conv", "filters": 2, "kernel": 3, "padding": "same"}]), &[2, 37, 40]);
    check(&json!([{"type": "conv", "filters": 2, "kernel": 1}]), &[2, 37, 40]);
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
    check_with(&json!([{"type": "linear", "units": 5}]), &[4], |logits| ops::cross_entropy(logits, &[4, 0, 2]));
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
        |logits| ops::cross_entropy(logits, &[2, 0, 1]),
    );
}
