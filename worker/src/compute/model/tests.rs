//! The engine and candle's operations are one network: outputs, gradients and steps agree within fp32's rounding.

use serde_json::{Value, json};

use super::*;
use crate::compute::tests::{apart, noise};

const ROWS: usize = 5;

/// Networks that hold every operation.
fn networks() -> [(Value, Vec<usize>); 3] {
    [
        (
            json!([
                {"type": "conv", "filters": 6, "kernel": 3, "padding": "same"}, {"type": "relu"}, {"type": "max_pool", "kernel": 2},
                {"type": "conv", "filters": 8, "kernel": 5, "padding": "same", "bias": false}, {"type": "batch_norm"},
                {"type": "activation", "function": "silu"}, {"type": "max_pool", "kernel": 3, "stride": 2, "padding": 1},
                {"type": "flatten"}, {"type": "dropout", "rate": 0.3}, {"type": "linear", "units": 20}, {"type": "relu"},
                {"type": "linear", "units": 4}
            ]),
            vec![3, 13, 11],
        ),
        (
            json!([
                {"type": "conv", "filters": 8, "kernel": 3, "padding": 1, "bias": false}, {"type": "batch_norm"}, {"type": "relu"},
                {"type": "residual",
                    "layers": [
                        {"type": "conv", "filters": 16, "kernel": 3, "padding": 1, "stride": 2, "bias": false},
                        {"type": "batch_norm"}, {"type": "relu"},
                        {"type": "conv", "filters": 16, "kernel": 3, "padding": 1, "groups": 16, "bias": false},
                        {"type": "batch_norm"}],
                    "shortcut": [{"type": "conv", "filters": 16, "kernel": 1, "stride": 2, "bias": false}, {"type": "batch_norm"}]},
                {"type": "relu"},
                {"type": "parallel", "branches": [
                    [{"type": "conv", "filters": 6, "kernel": [1, 3], "padding": "same", "dilation": [1, 2], "groups": 2},
                        {"type": "activation", "function": "gelu"}],
                    [{"type": "avg_pool", "kernel": 3, "stride": 1, "padding": 1, "count_padding": false},
                        {"type": "activation", "function": "hard_swish"}],
                    []]},
                {"type": "group_norm", "groups": 2}, {"type": "activation", "function": "leaky_relu"},
                {"type": "global_avg_pool"}, {"type": "linear", "units": 4}
            ]),
            vec![2, 9, 10],
        ),
        (
            json!([
                {"type": "linear", "units": 24}, {"type": "layer_norm"}, {"type": "activation", "function": "tanh"},
                {"type": "dropout", "rate": 0.5}, {"type": "linear", "units": 16, "bias": false}, {"type": "batch_norm"},
                {"type": "activation", "function": "sigmoid"}, {"type": "linear", "units": 12},
                {"type": "activation", "function": "relu6"}, {"type": "linear", "units": 4}
            ]),
            vec![30],
        ),
    ]
}

fn models(network: &Network, input: &[usize]) -> [Model; 2] {
    [Backend::Engine, Backend::Candle(apart())].map(|backend| {
        let mut model = Model::new(network, input, ROWS, Purpose::Train, &backend).expect("a model");
        model.initialise(7).expect("first values");
        model
    })
}

/// Asserts that two lists are the same but for rounding, which is measured by the largest number.
fn alike(what: &str, a: &[f32], b: &[f32], tolerance: f32) {
    assert_eq!(a.len(), b.len(), "{what}");
    let largest = a.iter().fold(1e-3_f32, |most, x| most.max(x.abs()));
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        assert!((a - b).abs() <= tolerance * largest, "{what}[{index}]: {a} and {b}, of {largest} at most");
    }
}

#[test]
fn both_train_the_same_network() {
    let rules = [
        Rule::Sgd,
        Rule::Momentum { momentum: 0.9 },
        Rule::Nesterov { momentum: 0.9 },
        Rule::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-3 },
        Rule::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-3 },
    ];
    for (layers, input) in networks() {
        let network: Network = serde_json::from_value(json!({"layers": layers})).expect("a network");
        let rows = noise("rows", ROWS * input.iter().product::<usize>());
        let rows: Vec<f32> = rows.into_iter().map(|x| x as f32).collect();
        let labels = [0, 3, 1, 1, 2];
        for rule in rules {
            let [mut engine, mut candle] = models(&network, &input);
            alike("logits", &engine.logits(&rows).expect("logits"), &candle.logits(&rows).expect("logits"), 1e-5);
            for number in 0..3 {
                let step = Step { rule, rate: 0.01, decay: 0.001, number };
                let losses =
                    [&mut engine, &mut candle].map(|model| model.step(&rows, &labels, 5, &step).expect("a loss"));
                assert!((losses[0] - losses[1]).abs() < 1e-5, "{layers}: {losses:?}");
                let all = [&mut engine, &mut candle].map(|model| {
                    let mut all = model.copies().expect("parameters");
                    all.extend(model.optimizer_state(rule).expect("sums"));
                    all
                });
                for ((name, a), (_, b)) in all[0].iter().zip(&all[1]) {
                    let [a, b] = [a, b].map(|tensor| numbers(tensor).expect("numbers"));
                    alike(&format!("{layers}, {rule:?}, step {number}: {name}"), &a, &b, 1e-4);
                }
            }
            let measured = [&mut engine, &mut candle].map(|model| model.measure(&rows, &labels).expect("a loss"));
            assert!((measured[0].0 - measured[1].0).abs() < 1e-3, "{measured:?}");
        }
    }
}
