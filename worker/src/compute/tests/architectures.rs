//! Architectures by name give torchvision's logits. `worker/tests/golden/architectures.py` made the file, and has
//! the same formula for the weights.

use std::path::Path;

use candle_core::{Device, Tensor};
use engine::Purpose;
use serde::Deserialize;
use shared::contract::Architecture;

use crate::compute::Backend;
use crate::compute::model::Model;

#[derive(Deserialize)]
struct Case {
    architecture: String,
    input: [usize; 3],
    logits: Vec<f64>,
}

/// FNV-1a of the name, then splitmix64, 24 bits each.
fn noise(name: &str, count: usize) -> impl Iterator<Item = f64> {
    let hash = |seed: u64, byte: u8| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    (1..=count as u64).map(move |place| {
        let z = seed.wrapping_add(place.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f64 / f64::from(1 << 23) - 1.0
    })
}

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    let fit = |value: f64| match shape {
        [_, inputs @ ..] if !inputs.is_empty() => value * (6.0 / inputs.iter().product::<usize>() as f64).sqrt(),
        _ if name.ends_with("running_var") || name.ends_with(".weight") => 1.0 + value / 2.0,
        _ => value / 10.0,
    };
    let values: Vec<f32> = noise(name, shape.iter().product()).map(|value| fit(value) as f32).collect();
    Tensor::from_vec(values, shape, &Device::Cpu).expect("a tensor")
}

#[test]
fn architectures_give_what_torchvision_gives() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/architectures.json");
    let cases: Vec<Case> = serde_json::from_str(&std::fs::read_to_string(file).expect("a file")).expect("cases");
    assert_eq!(cases.len(), Architecture::ALL.len());
    for case in cases {
        let architecture = Architecture::find(&case.architecture).expect("a known name");
        let network = architecture.network(case.logits.len());
        let mut model = Model::new(&network, &case.input, 1, Purpose::Infer, &Backend::Engine).expect("a network");
        let tensors = model.parameters().iter().map(|p| (p.name.clone(), tensor(&p.name, &p.shape))).collect();
        model.set(&tensors).expect("tensors");
        let picture: Vec<f32> = noise("input", case.input.iter().product()).map(|value| value as f32).collect();
        let logits = model.logits(&picture).expect("logits");
        let largest = case.logits.iter().fold(0.0f64, |most, logit| most.max(logit.abs()));
        for (found, expected) in logits.iter().zip(&case.logits) {
            let error = (f64::from(*found) - expected).abs() / largest;
            assert!(error < 1e-4, "{architecture}: {logits:?}, torchvision has {:?}", case.logits);
        }
    }
}
