//! `worker/tests/golden/optimizers.py` made the numbers.

use candle_core::{DType, Device, Tensor};
use serde::Deserialize;
use serde_json::json;
use shared::contract::{Init, Optimizer, Parameter};

use super::*;

#[derive(Deserialize)]
struct Case {
    optimizer: Optimizer,
    weight_decay: f64,
    start: Vec<f32>,
    steps: Vec<Golden>,
}

#[derive(Deserialize)]
struct Golden {
    gradient: Vec<f32>,
    after: Vec<f32>,
}

#[test]
fn steps_are_pytorchs() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/optimizers.json");
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(path).expect("a file")).expect("cases");
    for case in cases {
        let rate = case.optimizer.learning_rate();
        let mut training: Training = serde_json::from_value(json!({
            "epochs": 1, "batch_size": 1, "weight_decay": case.weight_decay, "optimizer": {"type": "sgd", "learning_rate": 1}
        }))
        .expect("training");
        training.optimizer = case.optimizer.clone();
        let list = vec![Parameter { name: "w".into(), shape: vec![5], init: Init::Zeros }];
        let parameters = Parameters::new(list, 0, DType::F32).expect("parameters");
        let (_, var) = parameters.trained().next().expect("one");
        var.set(&Tensor::new(case.start, &Device::Cpu).expect("a tensor")).expect("a value");
        let rule = Rule::new(&training, &parameters).expect("a rule");
        for (step, golden) in case.steps.iter().enumerate() {
            let gradient = Tensor::new(golden.gradient.as_slice(), &Device::Cpu).expect("a tensor");
            let loss = (var.as_tensor() * &gradient).and_then(|y| y.sum_all()).expect("a loss");
            rule.step(&parameters, &loss.backward().expect("gradients"), rate, step as u64).expect("a step");
            let found: Vec<f32> = var.to_vec1().expect("numbers");
            for (found, expected) in found.iter().zip(&golden.after) {
                assert!((found - expected).abs() < 2e-6, "{:?}, step {step}: {found}, not {expected}", case.optimizer);
            }
        }
    }
}
