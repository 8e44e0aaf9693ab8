//! Every layer, the loss and every optimiser give what PyTorch gives. The scripts in `worker/tests/golden` made the files.

use candle_core::{DType, Tensor};
use engine::Mode;
use engine::kernels::optimizer::{Rule, Step};

use super::numbers;
use crate::compute::generic::optimizer::moved;
use crate::compute::generic::{Net, ops};
use crate::compute::graph::graph;
use crate::compute::tests::{apart, golden};

/// The largest difference.
fn difference(found: &Tensor, expected: &Tensor) -> f64 {
    let (found, expected) = (numbers(found), numbers(expected));
    assert_eq!(found.len(), expected.len(), "one shape");
    found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn layers_give_what_pytorch_gives() {
    let (all, device) = (golden::tensors(), apart());
    for case in golden::layers() {
        let tensor = |name: &str| &all[&format!("{}/{name}", case.name)];
        assert_eq!(tensor("output").dtype(), DType::F64, "the file has f64 numbers");
        let parameters = case.network.parameters(&case.input).expect("a network");
        let graph = graph(&case.network, &case.input, &parameters).expect("a network");
        let net = Net::new(graph.clone(), &device, DType::F64).expect("a network");
        for (parameter, var) in graph.parameters().iter().zip(&net.parameters) {
            var.set(&tensor(&parameter.name).to_device(&device).expect("a tensor")).expect("a value");
        }
        let train = Mode::Train { drop: &|_, _| panic!("no case has dropout in training") };
        let mode = if case.train { &train } else { &Mode::Infer };
        let output = net.forward(&tensor("input").to_device(&device).expect("a tensor"), mode).expect("an output");
        let error = difference(&output, tensor("output"));
        assert!(error < 1e-12, "{}: {error}", case.name);
        for (parameter, var) in graph.parameters().iter().zip(&net.parameters) {
            if let Some(after) = all.get(&format!("{}/after/{}", case.name, parameter.name)) {
                let error = difference(var, after);
                assert!(error < 1e-12, "{}: {} is {error} off", case.name, parameter.name);
            }
        }
    }
}

#[test]
fn the_loss_is_pytorchs() {
    let all = golden::tensors();
    let labels: Vec<u32> = numbers(&all["loss/labels"]).into_iter().map(|label| label as u32).collect();
    let logits = all["loss/logits"].to_device(&apart()).expect("logits");
    let loss = ops::cross_entropy(&logits, &labels).and_then(|each| each.mean_all()).expect("a loss");
    assert!(difference(&loss, &all["loss/value"]) < 1e-12);
    let extreme = Tensor::new(&[[1e30f32, -1e30, 0.0], [-1e4, -1e4, -1e4]], &apart()).expect("logits");
    let each = numbers(&ops::cross_entropy(&extreme, &[0, 1]).expect("a loss"));
    assert!(each[0] == 0.0 && (each[1] - 3f64.ln()).abs() < 1e-6, "{each:?}");
}

#[test]
fn steps_are_pytorchs() {
    for case in golden::optimizers() {
        let rule: Rule = case.rule();
        let tensor = |values: &[f32]| Tensor::new(values, &apart()).expect("a tensor");
        let mut weights = tensor(&case.start);
        let mut sums = vec![weights.zeros_like().expect("zeros"); rule.sums()];
        for (number, golden) in (0..).zip(&case.steps) {
            let (rate, decay) = (case.optimizer.learning_rate(), case.weight_decay);
            let step = Step { rule, rate, decay, number };
            weights = moved(&step, &weights, &tensor(&golden.gradient), &mut sums).expect("a step");
            let error = difference(&weights, &tensor(&golden.after));
            assert!(error < 2e-6, "{:?}, step {number}: {error}", case.optimizer);
        }
    }
}
