//! One contender of `tests/benchmarks/run training`: trains a network for a while in this process and prints a line of JSON.
//!
//! `train_once gannet|candle cnn|resnet|mlp FOLDER IMAGES THREADS [DEVICE]`, where FOLDER holds `train.safetensors`: a split with
//! 10 classes

mod candle;

use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use shared::contract::{Dataset, Trial};
use worker::compute::{Backend, Decoded, Device, Flow, Step, TrainingJob, keep_pages, set_threads, train};

const BATCH: usize = 64;
/// Images before the clock starts.
const WARM_UP: usize = 10 * BATCH;

/// What was measured.
struct Measured {
    /// From the process's start to the end of the first step.
    first_step: f64,
    images_per_second: f64,
}

fn main() -> anyhow::Result<()> {
    let started = Instant::now();
    let arguments: Vec<String> = std::env::args().collect();
    let [_, contender, network, folder, images, threads, device @ ..] = arguments.as_slice() else {
        bail!("usage: train_once gannet|candle cnn|resnet|mlp FOLDER IMAGES THREADS [DEVICE]");
    };
    let device: Device = device.first().map_or(Ok(Device::Cpu), |name| name.parse()).map_err(anyhow::Error::msg)?;
    let images: usize = images.parse().context("read the number of images")?;
    let threads = threads.parse().context("read the number of threads")?;
    keep_pages();
    set_threads(threads);
    let backend = device.open()?;
    let file = Path::new(folder).join("train.safetensors");
    let measured = match contender.as_str() {
        "gannet" => gannet(started, network, &file, images, &backend)?,
        "candle" => candle::train(started, &file, images, &backend)?,
        other => bail!("no contender `{other}`: gannet or candle"),
    };
    let line = json!({
        "images_per_second": measured.images_per_second,
        "first_step_seconds": measured.first_step,
        "megabytes": peak_megabytes(),
        "path": backend.path(),
    });
    writeln!(std::io::stdout(), "{line}")?;
    Ok(())
}

/// The layers of a network, and the shape of its input.
fn network(name: &str) -> anyhow::Result<(Vec<Value>, Vec<usize>)> {
    let conv = |filters: usize, kernel: usize, stride: usize, bias: bool| json!({"type": "conv", "filters": filters, "kernel": kernel, "stride": stride, "padding": kernel / 2, "bias": bias});
    let linear = |units: usize| json!({"type": "linear", "units": units});
    let relu = || json!({"type": "relu"});
    let norm = || json!({"type": "batch_norm"});
    Ok(match name {
        "cnn" => {
            let pool = || json!({"type": "max_pool", "kernel": 2});
            let layers = vec![
                conv(32, 5, 1, true),
                relu(),
                pool(),
                conv(64, 5, 1, true),
                relu(),
                pool(),
                json!({"type": "flatten"}),
                linear(512),
                relu(),
                linear(10),
            ];
            (layers, vec![1, 28, 28])
        }
        // As He et al. (2015) for pictures of 32 by 32, with projections.
        "resnet" => {
            let mut layers = vec![conv(16, 3, 1, false), norm(), relu()];
            for (filters, stride) in [(16, 1), (16, 1), (32, 2), (32, 1), (64, 2), (64, 1)] {
                let main = [conv(filters, 3, stride, false), norm(), relu(), conv(filters, 3, 1, false), norm()];
                let shortcut = if stride > 1 { vec![conv(filters, 1, stride, false), norm()] } else { Vec::new() };
                layers.extend([json!({"type": "residual", "layers": main, "shortcut": shortcut}), relu()]);
            }
            layers.extend([json!({"type": "global_avg_pool"}), linear(10)]);
            (layers, vec![3, 32, 32])
        }
        "mlp" => {
            let layers = vec![json!({"type": "flatten"}), linear(512), relu(), linear(256), relu(), linear(10)];
            (layers, vec![1, 28, 28])
        }
        other => bail!("no network `{other}`: cnn, resnet or mlp"),
    })
}

/// Through what an executor calls.
fn gannet(started: Instant, name: &str, file: &Path, images: usize, backend: &Backend) -> anyhow::Result<Measured> {
    let (layers, shape) = network(name)?;
    let folder = tempfile::tempdir()?;
    let rows = rows(file)?;
    let object = json!({"key": "speed", "sha256": "0".repeat(64)});
    let dataset: Dataset = serde_json::from_value(json!({
        "name": "speed", "shape": shape, "elements": "u8", "classes": 10,
        "mean": vec![0.0; shape[0]], "std": vec![1.0; shape[0]], "splits": {"train": {"object": object, "rows": rows}}
    }))?;
    let trial: Trial = serde_json::from_value(json!({
        "network": {"layers": layers},
        "data": {"dataset": object, "validation_rows": 1},
        "training": {"epochs": 1000, "batch_size": BATCH, "optimizer": {"type": "sgd", "learning_rate": 0.01}},
        "seed": 1
    }))?;
    let out = folder.path().join("out.safetensors");
    let (trial, dataset) = (&trial, &dataset);
    let job = TrainingJob { trial, dataset, train: file, resume: None, out: &out, backend };
    let (mut steps, mut clock) = (0, Instant::now());
    let (mut first_step, mut seconds) = (0.0, 0.0);
    train(&job, &mut Decoded::default(), &mut |_: &Step| {
        steps += 1;
        if steps == 1 {
            first_step = started.elapsed().as_secs_f64();
        }
        if steps * BATCH == WARM_UP {
            clock = Instant::now();
        }
        if steps * BATCH < WARM_UP + images {
            return Flow::Go;
        }
        seconds = clock.elapsed().as_secs_f64();
        Flow::Pause
    })?;
    let images = steps * BATCH - WARM_UP;
    Ok(Measured { first_step, images_per_second: images as f64 / seconds })
}

/// Rows of a split's file: its header is all that is read.
fn rows(file: &Path) -> anyhow::Result<usize> {
    // SAFETY: nobody changes the file while this benchmark runs.
    let file = unsafe { candle_core::safetensors::MmapedSafetensors::new(file) }.context("read the split")?;
    Ok(file.get("labels")?.shape()[0])
}

/// The most memory that this process has had.
fn peak_megabytes() -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.split_whitespace().next()?.parse::<f64>().ok()? / 1024.0)
}
