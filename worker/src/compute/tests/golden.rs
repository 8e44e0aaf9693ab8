//! Every layer, loss and optimiser gives what PyTorch gives. The scripts in `worker/tests/golden` made the files.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use engine::kernels::optimizer::{Rule, Step};
use engine::kernels::softmax::{cross_entropy, measure};
use engine::{Mode, Net, Path, Purpose};
use serde::Deserialize;
use serde_json::json;
use shared::contract::{Network, Optimizer, Training};

use crate::compute::graph::graph;
use crate::compute::model::rule;

/// A network with inputs, parameters and outputs in [`tensors`].
#[derive(Deserialize)]
pub(in crate::compute) struct Case {
    pub(in crate::compute) name: String,
    pub(in crate::compute) input: Vec<usize>,
    /// Whether it was computed as in training.
    pub(in crate::compute) train: bool,
    pub(in crate::compute) network: Network,
}

pub(in crate::compute) fn layers() -> Vec<Case> {
    let cases: Vec<Case> = cases("layers.json");
    assert!(cases.len() > 25);
    cases
}

pub(in crate::compute) fn optimizers() -> Vec<Optimised> {
    cases("optimizers.json")
}

pub(in crate::compute) fn tensors() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(file("layers.safetensors"), &Device::Cpu).expect("tensors")
}

fn cases<T: serde::de::DeserializeOwned>(name: &str) -> Vec<T> {
    serde_json::from_str(&std::fs::read_to_string(file(name)).expect("a file")).expect("cases")
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    let flat = tensor.to_dtype(candle_core::DType::F64).and_then(|t| t.flatten_all()?.to_vec1());
    flat.expect("numbers")
}

fn singles(tensor: &Tensor) -> Vec<f32> {
    numbers(tensor).into_iter().map(|number| number as f32).collect()
}

/// The largest difference.
fn difference(found: &[f32], expected: &Tensor) -> f64 {
    let expected = numbers(expected);
    assert_eq!(found.len(), expected.len(), "one shape");
    found.iter().zip(&expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max)
}

#[test]
fn layers_give_what_pytorch_gives() {
    let all = tensors();
    for case in layers() {
        let tensor = |name: &str| &all[&format!("{}/{name}", case.name)];
        let parameters = case.network.parameters(&case.input).expect("a network");
        let graph = graph(&case.network, &case.input, &parameters).expect("a network");
        let rows = singles(tensor("input"));
        let n = tensor("input").dims()[0];
        for path in Path::available() {
            let purposes = if case.train { &[Purpose::Train][..] } else { &[Purpose::Train, Purpose::Infer] };
            for purpose in purposes {
                let mut net = Net::new(&graph, n, *purpose, path).expect("a network");
                for (index, parameter) in parameters.iter().enumerate() {
                    let value = tensor(&parameter.name);
                    assert_eq!(value.dims(), parameter.shape, "{}: {parameter}", case.name);
                    net.set_parameter(index, &singles(value));
                }
                for (example, row) in rows.chunks(rows.len() / n).enumerate() {
                    net.set_input(example, row);
                }
                let train = Mode::Train { drop: &|_, _| panic!("no case has dropout in training") };
                net.forward(n, if case.train { &train } else { &Mode::Infer });
                let error = difference(&net.outputs(n), tensor("output"));
                assert!(error < 2e-5, "{}: {error} on {path:?}, {purpose:?}", case.name);
                for (index, parameter) in parameters.iter().enumerate() {
                    if let Some(after) = all.get(&format!("{}/after/{}", case.name, parameter.name)) {
                        let error = difference(&net.parameter(index), after);
                        assert!(error < 2e-5, "{}: {} is {error} off", case.name, parameter.name);
                    }
                }
            }
        }
    }
}

#[test]
fn the_loss_is_pytorchs() {
    let all = tensors();
    let labels: Vec<u32> = numbers(&all["loss/labels"]).into_iter().map(|label| label as u32).collect();
    for path in Path::available() {
        let loss = cross_entropy(path, &singles(&all["loss/logits"]), &labels, None);
        assert!((loss - numbers(&all["loss/value"])[0]).abs() < 1e-6, "{loss}");
    }
}

#[test]
fn the_loss_of_extreme_logits_is_finite() {
    let logits = [1e30f32, -1e30, 0.0, -1e4, -1e4, -1e4];
    for path in Path::available() {
        let loss = cross_entropy(path, &logits, &[0, 1], None);
        assert!((loss - 3f64.ln() / 2.0).abs() < 1e-6, "{loss}");
        let (sum, wrong) = measure(path, &logits, &[0, 1]);
        assert!((sum - 3f64.ln()).abs() < 1e-6);
        assert_eq!(wrong, 1);
    }
}

/// An optimiser's first steps.
#[derive(Deserialize)]
pub(in crate::compute) struct Optimised {
    pub(in crate::compute) optimizer: Optimizer,
    pub(in crate::compute) weight_decay: f64,
    pub(in crate::compute) start: Vec<f32>,
    pub(in crate::compute) steps: Vec<Golden>,
}

#[derive(Deserialize)]
pub(in crate::compute) struct Golden {
    pub(in crate::compute) gradient: Vec<f32>,
    pub(in crate::compute) after: Vec<f32>,
}

impl Optimised {
    pub(in crate::compute) fn rule(&self) -> Rule {
        let mut training: Training = serde_json::from_value(json!({
            "epochs": 1, "batch_size": 1, "weight_decay": self.weight_decay,
            "optimizer": {"type": "sgd", "learning_rate": 1}
        }))
        .expect("training");
        training.optimizer = self.optimizer.clone();
        rule(&training)
    }
}

#[test]
fn steps_are_pytorchs() {
    for case in optimizers() {
        let rule = case.rule();
        let mut weights = case.start.clone();
        let mut sums = vec![vec![0.0; weights.len()]; rule.sums()];
        for (number, golden) in case.steps.iter().enumerate() {
            let rate = case.optimizer.learning_rate();
            let step = Step { rule, rate, decay: case.weight_decay, number: number as u64 };
            let mut sums: Vec<&mut [f32]> = sums.iter_mut().map(Vec::as_mut_slice).collect();
            step.run(Path::best(), &mut weights, &golden.gradient, &mut sums);
            for (found, expected) in weights.iter().zip(&golden.after) {
                assert!(
                    (found - expected).abs() < 2e-6,
                    "{:?}, step {number}: {found}, not {expected}",
                    case.optimizer
                );
            }
        }
    }
}
