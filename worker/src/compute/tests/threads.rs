//! One thread and two give the same bits.

use candle_core::{DType, Tensor};
use serde_json::json;
use shared::contract::Network;

use super::{noise, tensor};
use crate::compute::network::{Mode, Net};
use crate::compute::ops;
use crate::compute::optimizer::Rule;
use crate::compute::parameters::Parameters;

/// The parameters of a network after two steps, and its outputs then, on `threads` threads.
fn bits(threads: usize) -> Vec<Vec<u32>> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
    pool.install(|| {
        assert_eq!(rayon::current_num_threads(), threads);
        let network: Network = serde_json::from_value(json!({"layers": [
            {"type": "conv", "filters": 12, "kernel": 5, "padding": "same", "bias": false}, {"type": "batch_norm"},
            {"type": "relu"}, {"type": "max_pool", "kernel": 2},
            {"type": "parallel", "branches": [
                [{"type": "conv", "filters": 12, "kernel": 3, "padding": 1, "groups": 12}],
                [{"type": "conv", "filters": 20, "kernel": 1}, {"type": "relu"}],
                [{"type": "avg_pool", "kernel": 3, "stride": 1, "padding": 1}]]},
            {"type": "group_norm", "groups": 4}, {"type": "activation", "function": "silu"},
            {"type": "residual", "layers": [{"type": "conv", "filters": 44, "kernel": 3, "padding": 1}]},
            {"type": "max_pool", "kernel": 2}, {"type": "flatten"}, {"type": "dropout", "rate": 0.2},
            {"type": "linear", "units": 100}, {"type": "relu"}, {"type": "layer_norm"}, {"type": "linear", "units": 10}
        ]}))
        .expect("a network");
        let shape = [2, 28, 28];
        let parameters = Parameters::new(network.parameters(&shape).expect("a list"), 3, DType::F32).expect("tensors");
        let net = Net::new(&network, &shape, &parameters.builder()).expect("a network");
        let training = serde_json::from_value(json!({
            "epochs": 1, "batch_size": 21, "optimizer": {"type": "adamw", "learning_rate": 0.01}, "weight_decay": 0.1
        }));
        let rule = Rule::new(&training.expect("training"), &parameters).expect("a rule");
        let x = tensor("threads", &[21, 2, 28, 28], DType::F32);
        let labels: Vec<u32> = noise("labels", 21).iter().map(|n| (n.abs() * 9.9) as u32).collect();
        for step in 0..2 {
            let logits = net.forward(&x, Mode::Train { seed: 1, step }).expect("logits");
            let loss = ops::cross_entropy(&logits, &labels).expect("a loss");
            rule.step(&parameters, &loss.backward().expect("gradients"), 0.01, step).expect("a step");
        }
        let mut tensors: Vec<Tensor> = parameters.all().map(|(_, var)| var.as_detached_tensor()).collect();
        tensors.push(net.forward(&x, Mode::Infer).expect("logits"));
        let to_bits = |tensor: &Tensor| {
            let values: Vec<f32> = tensor.flatten_all().and_then(|t| t.to_vec1()).expect("numbers");
            values.into_iter().map(f32::to_bits).collect()
        };
        tensors.iter().map(to_bits).collect()
    })
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    let one = bits(1);
    assert!(one.iter().flatten().all(|bits| f32::from_bits(*bits).is_finite()));
    for threads in [2, 3] {
        assert!(one == bits(threads), "{threads} threads");
    }
}
