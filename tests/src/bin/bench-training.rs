//! How fast networks are trained here, beside TensorFlow, PyTorch and plain candle: contenders in turn, medians.
//!
//! A fleet uses a machine as one process of one thread a core, so the sum of these is what counts; one process of all
//! threads stands beside it.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::Child;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde::Deserialize;
use serde_json::json;
use tests::bench::{self, Format, median};

/// Measures training
#[derive(Debug, Parser)]
struct Arguments {
    /// A Python that has PyTorch and TensorFlow; without it they are left out
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// The folder of the peers' script
    #[arg(long, value_name = "FOLDER", default_value = "tests/benchmarks")]
    scripts: PathBuf,
    /// A folder with MNIST's training files (*-ubyte.gz); without it the pictures are noise
    #[arg(long, value_name = "FOLDER")]
    mnist: Option<PathBuf>,
    /// Measure on this device of each contender, in one process: `cuda:0`
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Images that the reference CNN is measured on, a contender and round: an epoch
    #[arg(long, default_value_t = 60_000)]
    images: usize,
    /// This network alone
    #[arg(long, value_name = "NETWORK", value_parser = NETWORKS.map(|(name, ..)| name))]
    only: Option<String>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A network, with the share of the images that it is measured on and the operations of an image, dense: two a product, forwards and
/// backwards, without the gradient of the pictures.
const NETWORKS: [(&str, f64, f64); 3] = [("cnn", 1.0, 72.4e6), ("resnet", 0.2, 159.1e6), ("mlp", 4.0, 2.41e6)];

const CONTENDERS: [&str; 5] = ["gannet", "tensorflow", "torch", "torch-channels-last", "candle"];

/// What a process prints.
#[derive(Debug, Clone, Deserialize)]
struct Line {
    images_per_second: f64,
    first_step_seconds: f64,
    megabytes: f64,
}

/// One network, one contender, one way to use the machine.
type Key = (&'static str, &'static str, &'static str);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let folder = tempfile::tempdir()?;
    for (network, ..) in NETWORKS {
        write_data(&folder.path().join(network), network, arguments.mnist.as_deref())?;
    }
    let cores = std::thread::available_parallelism()?.get();
    let mut measured: BTreeMap<Key, Vec<Line>> = BTreeMap::new();
    let mut peak = 0.0;
    for round in 0..arguments.rounds {
        eprintln!("round {} of {}", round + 1, arguments.rounds);
        let path = engine::Path::best();
        if arguments.device.is_none() {
            peak = engine::peak::peak_flops(path).max(peak);
        }
        for (network, share, _) in NETWORKS {
            if arguments.only.as_ref().is_some_and(|only| only != network) {
                continue;
            }
            for contender in CONTENDERS {
                let cpu_alone = contender == "tensorflow" && arguments.device.is_some();
                let missing = is_peer(contender) && arguments.python.is_none();
                if contender == "candle" && network != "cnn" || missing || cpu_alone {
                    continue;
                }
                // Slow ones get fewer: their speed is as steady.
                let part = if contender == "candle" { 0.05 } else { share };
                let images = (arguments.images as f64 * part) as usize;
                let ways = [("one thread a core", cores, 1), ("one process", 1, cores)];
                for (way, processes, threads) in ways {
                    if processes > 1 && arguments.device.is_some() {
                        continue;
                    }
                    let started: Vec<_> = (0..processes)
                        .map(|core| {
                            let pinned = (processes > 1).then_some(core);
                            start(&arguments, contender, network, folder.path(), images, threads, pinned)
                        })
                        .collect::<Result<_>>()?;
                    let lines: Vec<Line> = started.into_iter().map(bench::outcome).collect::<Result<_>>()?;
                    let line = Line {
                        images_per_second: lines.iter().map(|line| line.images_per_second).sum(),
                        first_step_seconds: lines.iter().map(|line| line.first_step_seconds).fold(0.0, f64::max),
                        megabytes: lines.iter().map(|line| line.megabytes).fold(0.0, f64::max),
                    };
                    eprintln!("  {network}, {contender}, {way}: {:.0} images/s", line.images_per_second);
                    measured.entry((network, way, contender)).or_default().push(line);
                }
            }
        }
    }
    print(&measured, peak * cores as f64, arguments.format)
}

fn is_peer(contender: &str) -> bool {
    !["gannet", "candle"].contains(&contender)
}

fn start(
    arguments: &Arguments,
    contender: &str,
    network: &str,
    data: &Path,
    images: usize,
    threads: usize,
    pinned: Option<usize>,
) -> Result<Child> {
    let mut words: Vec<String> = Vec::new();
    match &arguments.python {
        Some(python) if is_peer(contender) => {
            let script = arguments.scripts.join("train_peer.py");
            words.extend([python.display().to_string(), script.display().to_string()]);
        }
        _ => {
            let ours = std::env::current_exe()?.with_file_name("examples").join("train_once");
            words.push(ours.display().to_string());
        }
    }
    words.extend([contender.into(), network.into(), data.join(network).display().to_string()]);
    words.extend([images.to_string(), threads.to_string()]);
    words.extend(arguments.device.clone());
    bench::start(&words, threads, pinned)
}

/// Writes `inputs.u8` and `labels.u8`, and both as a dataset's split.
fn write_data(folder: &Path, network: &str, mnist: Option<&Path>) -> Result<()> {
    std::fs::create_dir_all(folder)?;
    let (inputs, labels) = match (network, mnist) {
        ("cnn" | "mlp", Some(mnist)) => (
            unpack(&mnist.join("train-images-idx3-ubyte.gz"), 16)?,
            unpack(&mnist.join("train-labels-idx1-ubyte.gz"), 8)?,
        ),
        _ => noise(if network == "resnet" { 3 * 32 * 32 } else { 28 * 28 }, 10_000),
    };
    let wide: Vec<u8> = labels.iter().flat_map(|label| u32::from(*label).to_le_bytes()).collect();
    let shape = if network == "resnet" { [3, 32, 32] } else { [1, 28, 28] };
    let dims: Vec<usize> = std::iter::once(labels.len()).chain(shape).collect();
    let tensors = [
        ("inputs", TensorView::new(Dtype::U8, dims, &inputs)?),
        ("labels", TensorView::new(Dtype::U32, vec![labels.len()], &wide)?),
    ];
    safetensors::serialize_to_file(tensors, None, &folder.join("train.safetensors"))?;
    std::fs::write(folder.join("inputs.u8"), &inputs)?;
    std::fs::write(folder.join("labels.u8"), &labels)?;
    Ok(())
}

fn unpack(file: &Path, header: usize) -> Result<Vec<u8>> {
    let packed = std::fs::File::open(file).with_context(|| format!("open {}", file.display()))?;
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(packed).read_to_end(&mut bytes)?;
    ensure!(bytes.len() > header, "{} is empty", file.display());
    Ok(bytes.split_off(header))
}

/// Pictures of a brightness that their label decides, and noise.
fn noise(pixels: usize, rows: usize) -> (Vec<u8>, Vec<u8>) {
    let mut state = 1u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    let labels: Vec<u8> = (0..rows).map(|_| next() % 10).collect();
    let inputs = labels.iter().flat_map(|label| (0..pixels).map(|_| next() / 2 + label * 12).collect::<Vec<u8>>());
    (inputs.collect(), labels)
}

fn print(measured: &BTreeMap<Key, Vec<Line>>, peak: f64, format: Format) -> Result<()> {
    let mut rows = Vec::new();
    for ((network, way, contender), lines) in measured {
        let middle = |lines: &[Line], of: fn(&Line) -> f64| median(&lines.iter().map(of).collect::<Vec<f64>>());
        let speed = |lines: &[Line]| middle(lines, |line| line.images_per_second);
        let ours = measured.get(&(*network, *way, "gannet")).map_or(f64::NAN, |lines| speed(lines));
        let operations = NETWORKS.iter().find(|(name, ..)| name == network).map_or(0.0, |(.., operations)| *operations);
        let speeds = lines.iter().map(|line| line.images_per_second);
        rows.push(json!({
            "network": network, "way": way, "contender": contender,
            "images_per_second": speed(lines).round(),
            "from": speeds.clone().fold(f64::INFINITY, f64::min).round(), "to": speeds.fold(0.0, f64::max).round(),
            "gannet_is_times_as_fast": (100.0 * ours / speed(lines)).round() / 100.0,
            "percent_of_dense_peak": (100.0 * speed(lines) * operations / peak).round(),
            "megabytes": middle(lines, |line| line.megabytes).round(),
            "first_step_seconds": (100.0 * middle(lines, |line| line.first_step_seconds)).round() / 100.0,
        }));
    }
    let heads = [
        "network",
        "use of the machine",
        "contender",
        "images/s",
        "spread",
        "Gannet is … times as fast",
        "of the dense peak",
        "MB",
        "first step, s",
    ];
    bench::print(format, peak, &rows, &heads, |row| {
        let text = |key: &str| bench::text(row, key);
        let whole = |key: &str| row[key].as_f64().unwrap_or(f64::NAN).round().to_string();
        let share = row["percent_of_dense_peak"].as_f64();
        vec![
            text("network"),
            text("way"),
            text("contender"),
            whole("images_per_second"),
            format!("{} to {}", whole("from"), whole("to")),
            text("gannet_is_times_as_fast"),
            share.map_or_else(|| "–".into(), |share| format!("{share} %")),
            whole("megabytes"),
            text("first_step_seconds"),
        ]
    })
}
