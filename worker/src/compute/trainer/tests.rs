//! Training as a whole: that it learns, and that an interruption changes no bit.

use serde_json::{Value, json};
use shared::digest::Digest;

use super::*;
use crate::compute::tests::{Fixture, apart};
use crate::compute::{Backend, evaluate};

/// Everything that a checkpoint has to remember: batch norm, dropout, a bias, a residual block.
fn layers() -> Value {
    json!([
        {"type": "conv", "filters": 4, "kernel": 3, "padding": "same"}, {"type": "batch_norm"}, {"type": "relu"},
        {"type": "max_pool", "kernel": 2},
        {"type": "residual", "layers": [{"type": "conv", "filters": 4, "kernel": 3, "padding": 1}]},
        {"type": "flatten"}, {"type": "dropout", "rate": 0.25}, {"type": "linear", "name": "out", "units": 3}
    ])
}

fn digest(fixture: &Fixture, name: &str) -> Digest {
    Digest::of(&std::fs::read(fixture.path(name)).expect("a file"))
}

#[test]
fn it_learns() {
    learns(Fixture::new(400));
}

#[test]
fn it_learns_on_candles_operations() {
    learns(Fixture { backend: Backend::Candle(apart()), ..Fixture::new(400) });
}

#[expect(clippy::needless_pass_by_value, reason = "callers make one for this")]
fn learns(fixture: Fixture) {
    let trial = fixture.trial(layers(), json!({"epochs": 4}));
    let mut fractions = Vec::new();
    let ended = fixture.train(&trial, None, "out", &mut |step| {
        fractions.push(step.fraction);
        Flow::Go
    });
    let Ok(Ended::Finished(trained)) = ended else { panic!("it finishes: {ended:?}") };
    assert!(trained.validation.error < 0.1, "{:?}", trained.epochs);
    assert_eq!((trained.epochs.len(), trained.validation.rows, trained.stopped_early), (4, 100, false));
    assert_eq!(trained.parameter_count, 40 + 8 + 148 + 64 * 3 + 3);
    assert!(fractions.windows(2).all(|pair| pair[0] < pair[1]) && fractions.last() == Some(&1.0), "{fractions:?}");
    assert_eq!(fractions.len(), 4 * 300usize.div_ceil(16));
    // The kept parameters are those of the epoch with the fewest errors, the earliest of equals.
    let best = trained.epochs.iter().min_by(|a, b| a.validation_error.total_cmp(&b.validation_error)).expect("epochs");
    assert_eq!((trained.best_epoch, trained.validation.error), (best.epoch, best.validation_error));
    // On all rows, those it was trained on included, it is about as good.
    let mut fractions = Vec::new();
    let mut each = |step: &Step| {
        fractions.push(step.fraction);
        Flow::Go
    };
    let (file, out) = (fixture.path("train.safetensors"), fixture.path("out"));
    let all = evaluate(&trial, &fixture.dataset, &file, &out, &fixture.backend, &mut each).expect("it can be measured");
    let all = all.expect("nobody breaks it off");
    assert!(fractions.len() == 25 && fractions.is_sorted() && fractions.last() == Some(&1.0), "{fractions:?}");
    let broken_off = evaluate(&trial, &fixture.dataset, &file, &out, &fixture.backend, &mut |_: &Step| Flow::Pause);
    assert!(broken_off.expect("no error").is_none());
    assert!(all.error < 0.1 && all.rows == 400, "{all:?}");
    let tensors = candle_core::safetensors::load(fixture.path("out"), &candle_core::Device::Cpu).expect("tensors");
    let list = trial.network.parameters(&[1, 8, 8]).expect("a network");
    assert_eq!(tensors.len(), list.len());
    for parameter in list {
        assert_eq!(tensors[&parameter.name].dims(), parameter.shape, "{parameter}");
        assert_eq!(tensors[&parameter.name].dtype(), candle_core::DType::F32);
    }
}

/// Trains with a pause after each of the steps in `cuts`, and returns the digest of what it leaves.
fn cut(fixture: &Fixture, trial: &Trial, cuts: &[usize]) -> (Digest, Trained) {
    let mut resume: Option<String> = None;
    let mut done = 0;
    for (slice, cut) in cuts.iter().enumerate() {
        let out = format!("slice-{slice}");
        let ended = fixture.train(trial, resume.as_deref(), &out, &mut |_| {
            done += 1;
            if done == *cut { Flow::Pause } else { Flow::Go }
        });
        assert!(matches!(ended, Ok(Ended::Paused)), "{ended:?}");
        resume = Some(out);
    }
    let trained = fixture.finish(trial, resume.as_deref(), "cut");
    (digest(fixture, "cut"), trained)
}

#[test]
fn an_interruption_changes_no_bit() {
    is_whole_when_cut(Fixture::new(60));
}

#[test]
fn nor_does_one_on_candles_operations() {
    is_whole_when_cut(Fixture { backend: Backend::Candle(apart()), ..Fixture::new(60) });
}

/// 45 rows to train on: three batches an epoch, the last of 13.
#[expect(clippy::needless_pass_by_value, reason = "callers make one for this")]
fn is_whole_when_cut(fixture: Fixture) {
    for training in [
        json!({"epochs": 3, "optimizer": {"type": "adam", "learning_rate": 0.01}, "weight_decay": 0.001}),
        json!({"epochs": 3, "optimizer": {"type": "nesterov", "learning_rate": 0.02},
            "schedule": {"type": "cosine"}, "objective": "validation_loss"}),
        json!({"epochs": 3, "optimizer": {"type": "sgd", "learning_rate": 0.02},
            "schedule": {"type": "exponential", "decay": 0.7}}),
    ] {
        let trial = fixture.trial(layers(), training);
        let whole = fixture.finish(&trial, None, "whole");
        let expected = digest(&fixture, "whole");
        for cuts in [&[1][..], &[3], &[2, 4], &[1, 2, 3, 4, 5, 6, 7, 8]] {
            let (found, trained) = cut(&fixture, &trial, cuts);
            assert_eq!(found, expected, "cut after {cuts:?}");
            let numbers = |trained: &Trained| -> Vec<_> {
                trained.epochs.iter().map(|e| EpochMetrics { duration_ms: 0, ..*e }).collect()
            };
            assert_eq!(numbers(&trained), numbers(&whole));
            assert_eq!((trained.best_epoch, trained.validation), (whole.best_epoch, whole.validation));
        }
    }
}

#[test]
fn a_pause_at_the_very_end_is_the_end() {
    let fixture = Fixture::new(20);
    let trial = fixture.trial(layers(), json!({"epochs": 1}));
    let ended = fixture.train(&trial, None, "out", &mut |step| {
        assert!(step.epoch.is_some());
        Flow::Pause
    });
    assert!(matches!(ended, Ok(Ended::Finished(_))), "{ended:?}");
}

#[test]
fn early_stop_waits_for_its_patience_across_a_pause() {
    let fixture = Fixture::new(40);
    let layers = json!([{"type": "flatten"}, {"type": "linear", "units": 3}]);
    // No epoch improves the error by 1, so the second and third do not count.
    let stop = json!({"epochs": 9, "early_stop": {"patience": 2, "min_delta": 1.0}});
    let trial = fixture.trial(layers, stop);
    let trained = fixture.finish(&trial, None, "whole");
    assert!(trained.stopped_early);
    assert_eq!(trained.epochs.len(), 3);
    let expected = digest(&fixture, "whole");
    let (found, again) = cut(&fixture, &trial, &[3, 5]);
    assert_eq!((found, again.epochs.len(), again.stopped_early), (expected, 3, true));
}

#[test]
fn a_loss_that_is_not_finite_is_told() {
    let fixture = Fixture::new(40);
    let trial = fixture.trial(layers(), json!({"optimizer": {"type": "sgd", "learning_rate": 1e6}, "epochs": 50}));
    let error = fixture.train(&trial, None, "out", &mut |_| Flow::Go).expect_err("it diverges");
    assert!(matches!(error, ComputeError::Diverged { .. }), "{error}");
    assert!(!fixture.path("out").exists());
}

#[test]
fn a_batch_of_one_row_and_a_batch_norm_go_together() {
    let fixture = Fixture::new(44);
    // 33 rows to train on: the last batch has one row.
    let layers = json!([{"type": "flatten"}, {"type": "linear", "units": 8}, {"type": "batch_norm"},
        {"type": "relu"}, {"type": "linear", "units": 3}]);
    let trained = fixture.finish(&fixture.trial(layers, json!({})), None, "out");
    assert!(trained.validation.loss.is_finite());
}

#[test]
fn checkpoints_that_do_not_fit_are_refused() {
    let fixture = Fixture::new(60);
    let trial = fixture.trial(layers(), json!({}));
    let mut pause = |_: &Step| Flow::Pause;
    fixture.train(&trial, None, "good", &mut pause).expect("it pauses");
    let bytes = std::fs::read(fixture.path("good")).expect("a file");
    let refused = |trial: &Trial, bytes: &[u8]| {
        std::fs::write(fixture.path("bad"), bytes).expect("a file");
        let ended = fixture.train(trial, Some("bad"), "out", &mut |_| Flow::Go);
        let error = ended.expect_err("refused");
        assert!(matches!(error, ComputeError::BadFile { .. }), "{error}");
        error.to_string()
    };
    let mut other = trial.clone();
    other.seed += 1;
    assert!(refused(&other, &bytes).contains("another trial"));
    assert!(refused(&trial, &bytes[..bytes.len() - 1]).contains("no safetensors file"));
    assert!(refused(&trial, b"").contains("no safetensors file"));
    let mut flipped = bytes.clone();
    *flipped.last_mut().expect("a byte") ^= 1;
    assert!(refused(&trial, &flipped).contains("damaged"));
    fixture.finish(&trial, None, "finished");
    let finished = std::fs::read(fixture.path("finished")).expect("a file");
    assert!(refused(&trial, &finished).contains("no checkpoint"));
    // The labels that reports repeat make no other trial.
    let mut relabelled = trial.clone();
    relabelled.parameters.insert("rate".into(), json!(0.1));
    fixture.finish(&relabelled, Some("good"), "relabelled");
}

#[test]
fn a_job_that_does_not_fit_its_data_is_refused() {
    let fixture = Fixture::new(20);
    let refused = |trial: &Trial| {
        let ended = fixture.train(trial, None, "out", &mut |_| Flow::Go);
        let error = ended.expect_err("refused");
        assert!(matches!(error, ComputeError::InvalidJob(_)), "{error}");
        error.to_string()
    };
    let trial = fixture.trial(json!([{"type": "flatten"}, {"type": "linear", "units": 4}]), json!({}));
    assert!(refused(&trial).contains("3 classes"));
    let mut trial = fixture.trial(layers(), json!({}));
    trial.data.validation_rows = 20;
    assert!(refused(&trial).contains("validation_rows"));
}

#[test]
fn parameters_that_are_not_the_networks_are_refused() {
    let fixture = Fixture::new(20);
    let trial = fixture.trial(layers(), json!({}));
    let other = fixture.trial(json!([{"type": "flatten"}, {"type": "linear", "units": 3}]), json!({}));
    fixture.finish(&other, None, "other");
    let file = fixture.path("train.safetensors");
    let measured = |trial: &Trial, name: &str| {
        let mut go = |_: &Step| Flow::Go;
        let error = evaluate(trial, &fixture.dataset, &file, &fixture.path(name), &fixture.backend, &mut go)
            .expect_err("refused");
        assert!(matches!(error, ComputeError::BadFile { .. }), "{error}");
        error.to_string()
    };
    assert!(measured(&trial, "other").contains("no tensor `0.weight`"));
    assert!(measured(&trial, "train.safetensors").contains("no tensor"));
    let mut narrow = other.clone();
    narrow.network = serde_json::from_value(json!({"layers": [{"type": "flatten"},
        {"type": "linear", "units": 3, "bias": false}]}))
    .expect("a network");
    assert!(measured(&narrow, "other").contains("a tensor `1.bias`, which the network has not"));
}

#[test]
fn a_network_of_two_thousand_layers_fits_the_stack() {
    let fixture = Fixture::new(8);
    let mut layers = vec![json!({"type": "flatten"}), json!({"type": "linear", "units": 3})];
    layers.extend((0..1_990).map(|_| json!({"type": "activation", "function": "tanh"})));
    let trial = fixture.trial(Value::Array(layers), json!({"epochs": 1}));
    fixture.finish(&trial, None, "out");
}
