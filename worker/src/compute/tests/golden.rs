//! Every layer gives what PyTorch gives. `worker/tests/golden/layers.py` made the files.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use serde::Deserialize;
use shared::contract::Network;

use crate::compute::network::{Mode, Net};
use crate::compute::ops;

#[derive(Deserialize)]
struct Case {
    name: String,
    input: Vec<usize>,
    train: bool,
    network: Network,
}

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The largest difference of two tensors.
fn difference(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.dims(), b.dims(), "one shape");
    let flat = |t: &Tensor| t.to_dtype(DType::F64)?.flatten_all()?.to_vec1::<f64>();
    let (a, b) = (flat(a).expect("numbers"), flat(b).expect("numbers"));
    a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn layers_give_what_pytorch_gives() {
    let cases: Vec<Case> =
        serde_json::from_str(&std::fs::read_to_string(file("layers.json")).expect("a file")).expect("cases");
    let all = candle_core::safetensors::load(file("layers.safetensors"), &Device::Cpu).expect("tensors");
    assert!(cases.len() > 25);
    for case in cases {
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 2e-5)] {
            let prefix = format!("{}/", case.name);
            let named = |(name, tensor): (&String, &Tensor)| {
                // Copies: running statistics change in place.
                let tensor = tensor.to_dtype(dtype).and_then(|t| t.copy()).expect("a copy");
                Some((name.strip_prefix(&prefix)?.to_owned(), tensor))
            };
            let tensors: HashMap<String, Tensor> = all.iter().filter_map(named).collect();
            for parameter in case.network.parameters(&case.input).expect("a network") {
                assert_eq!(tensors[&parameter.name].dims(), parameter.shape, "{}: {parameter}", case.name);
            }
            let builder = VarBuilder::from_tensors(tensors.clone(), dtype, &Device::Cpu);
            let net = Net::new(&case.network, &case.input, &builder).expect("a network");
            let mode = if case.train { Mode::Train { seed: 0, step: 0 } } else { Mode::Infer };
            let output = net.forward(&tensors["input"], mode).expect("an output");
            let error = difference(&output, &tensors["output"]);
            assert!(error < tolerance, "{}: {error} in {dtype:?}", case.name);
            for (name, after) in &tensors {
                if let Some(name) = name.strip_prefix("after/") {
                    let error = difference(&tensors[name], after);
                    assert!(error < tolerance, "{}: {name} is {error} off", case.name);
                }
            }
        }
    }
}

#[test]
fn the_loss_is_pytorchs() {
    let all = candle_core::safetensors::load(file("layers.safetensors"), &Device::Cpu).expect("tensors");
    let labels: Vec<u32> = all["loss/labels"].to_dtype(DType::U32).and_then(|t| t.to_vec1()).expect("labels");
    let loss = ops::cross_entropy(&all["loss/logits"], &labels).expect("a loss");
    assert!(difference(&loss.reshape(1).expect("a scalar"), &all["loss/value"]) < 1e-12);
}

#[test]
fn the_loss_of_extreme_logits_is_finite() {
    let logits = Tensor::new(&[[1e30f32, -1e30, 0.0], [-1e4, -1e4, -1e4]], &Device::Cpu).expect("logits");
    let loss = ops::cross_entropy(&logits, &[0, 1]).and_then(|loss| loss.to_scalar::<f32>()).expect("a loss");
    assert!((loss - 3f32.ln() / 2.0).abs() < 1e-6, "{loss}");
    let (sum, wrong) = ops::measure(&logits, &[0, 1]).expect("a measure");
    assert!((sum - 3f64.ln()).abs() < 1e-6);
    assert_eq!(wrong, 1);
}
