//! Images a second of the reference network on random data of MNIST's shape.
//!
//! `cargo run --release -p worker --example train_speed -- [IMAGES] [THREADS]`

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;
use serde_json::json;
use shared::contract::{Dataset, Trial};
use worker::compute::{Decoded, Flow, Step, TrainingJob, keep_pages, set_threads, simd_path, train};

const BATCH: usize = 64;
/// Images before the clock starts.
const WARM_UP: usize = 10 * BATCH;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: usize| arguments.next().map_or(Ok(default), |text| text.parse());
    let images = number(6_400).context("read the number of images")?;
    let threads = number(1).context("read the number of threads")?;
    keep_pages();
    set_threads(threads);

    let folder = tempfile::tempdir()?;
    let file = folder.path().join("train.safetensors");
    let rows = WARM_UP + images + 1;
    write_rows(&file, rows)?;
    let zeros = "0".repeat(64);
    let object = json!({"key": "speed", "sha256": zeros});
    let dataset: Dataset = serde_json::from_value(json!({
        "name": "speed", "shape": [1, 28, 28], "elements": "u8", "classes": 10, "mean": [0.5], "std": [0.29],
        "splits": {"train": {"object": object, "rows": rows}}
    }))?;
    let trial: Trial = serde_json::from_value(json!({
        "network": {"layers": [
            {"type": "conv", "filters": 32, "kernel": 5, "padding": "same"}, {"type": "relu"},
            {"type": "max_pool", "kernel": 2},
            {"type": "conv", "filters": 64, "kernel": 5, "padding": "same"}, {"type": "relu"},
            {"type": "max_pool", "kernel": 2},
            {"type": "flatten"}, {"type": "linear", "units": 512}, {"type": "relu"}, {"type": "linear", "units": 10}
        ]},
        "data": {"dataset": object, "validation_rows": 1},
        "training": {"epochs": 1, "batch_size": BATCH, "optimizer": {"type": "sgd", "learning_rate": 0.01}},
        "seed": 1
    }))?;

    let out = folder.path().join("out.safetensors");
    let job = TrainingJob { trial: &trial, dataset: &dataset, train: &file, resume: None, out: &out };
    let (mut steps, mut clock) = (0, Instant::now());
    let mut seconds = 0.0;
    train(&job, &mut Decoded::default(), &mut |_: &Step| {
        steps += 1;
        if steps * BATCH == WARM_UP {
            clock = Instant::now();
        }
        if steps * BATCH == WARM_UP + images {
            seconds = clock.elapsed().as_secs_f64();
        }
        Flow::Go
    })?;
    let speed = images as f64 / seconds;
    writeln!(std::io::stdout(), "{speed:.0} images/s, {threads} thread(s), {}", simd_path())?;
    Ok(())
}

/// Pictures of noise; their labels follow from the seed of the noise, so there is nothing to learn.
fn write_rows(file: &Path, rows: usize) -> anyhow::Result<()> {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state >> 24
    };
    let pixels: Vec<u8> = (0..rows * 784).map(|_| next() as u8).collect();
    let labels: Vec<u8> = (0..rows).flat_map(|_| (next() % 10).to_le_bytes()).collect();
    let inputs = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, vec![rows, 1, 28, 28], &pixels)?;
    let labels = safetensors::tensor::TensorView::new(safetensors::Dtype::U32, vec![rows], &labels)?;
    safetensors::serialize_to_file([("inputs", inputs), ("labels", labels)], None, file)?;
    Ok(())
}
