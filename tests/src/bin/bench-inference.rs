//! How fast networks compute outputs here, beside ONNX Runtime, OpenVINO and ncnn: contenders in turn, medians.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use serde::Deserialize;
use serde_json::json;
use tests::bench::{self, Format, median, outcome, start};

/// Measures classification
#[derive(Debug, Parser)]
struct Arguments {
    /// A folder with what export_networks.py wrote
    #[arg(long, value_name = "FOLDER")]
    networks: PathBuf,
    /// A Python that has the peers; without it they are left out
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// The folder of the peers' script
    #[arg(long, value_name = "FOLDER", default_value = "tests/benchmarks")]
    scripts: PathBuf,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds that each contender runs in a round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// A network with the operations of an example, two a product.
const NETWORKS: [(&str, f64); 4] =
    [("squeezenet1_1", 0.70e9), ("mobilenet_v2", 0.60e9), ("resnet50", 8.2e9), ("inception_v3", 11.4e9)];

/// Ours, and what they are told after the number of threads.
const OURS: [(&str, &[&str]); 4] = [
    ("Gannet", &["fp32"]),
    ("Gannet, bf16", &["bf16"]),
    ("Gannet, int8", &["int8"]),
    ("Gannet, AVX2", &["fp32", "avx2"]),
];

const PEERS: [(&str, &str); 3] = [("ONNX Runtime", "ort"), ("OpenVINO", "openvino"), ("ncnn", "ncnn")];

/// What a process prints.
#[derive(Debug, Clone, Deserialize)]
struct Line {
    images_per_second: f64,
    first_seconds: f64,
    megabytes: f64,
    logits: Vec<f64>,
}

/// One network, one way to use the machine, one contender.
type Key = (&'static str, &'static str, &'static str);

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let cores = std::thread::available_parallelism()?.get();
    let mut measured: BTreeMap<Key, Vec<Line>> = BTreeMap::new();
    let mut peak = 0.0;
    for round in 0..arguments.rounds {
        eprintln!("round {} of {}", round + 1, arguments.rounds);
        peak = engine::peak::peak_flops(engine::Path::best()).max(peak);
        for (network, _) in NETWORKS {
            for (way, processes, threads) in [("one thread a core", cores, 1), ("one process", 1, cores)] {
                for (contender, words) in contenders(&arguments, network, threads)? {
                    let started: Vec<_> = (0..processes)
                        .map(|core| start(&words, threads, (processes > 1).then_some(core)))
                        .collect::<Result<_>>()?;
                    let lines: Vec<Line> = started.into_iter().map(outcome).collect::<Result<_>>()?;
                    let most = |of: fn(&Line) -> f64| lines.iter().map(of).fold(0.0, f64::max);
                    let line = Line {
                        images_per_second: lines.iter().map(|line| line.images_per_second).sum(),
                        first_seconds: most(|line| line.first_seconds),
                        megabytes: most(|line| line.megabytes),
                        logits: lines[0].logits.clone(),
                    };
                    eprintln!("  {network}, {contender}, {way}: {:.1} images/s", line.images_per_second);
                    measured.entry((network, way, contender)).or_default().push(line);
                }
            }
        }
    }
    print(&measured, peak * cores as f64, arguments.format)
}

/// The contenders with the words that start them.
fn contenders(arguments: &Arguments, network: &str, threads: usize) -> Result<Vec<(&'static str, Vec<String>)>> {
    let file = arguments.networks.join(format!("{network}.onnx"));
    ensure!(file.exists(), "{} is not there: export_networks.py writes it", file.display());
    let program = std::env::current_exe()?.with_file_name("examples").join("infer_once");
    let numbers = [arguments.seconds.to_string(), threads.to_string()];
    let path = |path: &std::path::Path| path.display().to_string();
    let mut all = Vec::new();
    for (name, more) in OURS {
        let is_there = |wanted: &&str| engine::Path::available().iter().any(|path| path.name() == *wanted);
        if more.get(1).is_none_or(is_there) {
            let words = [path(&program), path(&file)].into_iter().chain(numbers.clone());
            all.push((name, words.chain(more.iter().map(ToString::to_string)).collect()));
        }
    }
    if let Some(python) = &arguments.python {
        for (name, engine) in PEERS {
            let script = arguments.scripts.join("infer_peer.py");
            let words = [path(python), path(&script), engine.into(), path(&arguments.networks), network.into()];
            all.push((name, words.into_iter().chain(numbers.clone()).collect()));
        }
    }
    Ok(all)
}

/// The largest distance between logits, relative to the largest of them.
fn distance(found: &[f64], expected: &[f64]) -> f64 {
    let scale = expected.iter().fold(0.0, |most: f64, logit| most.max(logit.abs()));
    found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale
}

fn print(measured: &BTreeMap<Key, Vec<Line>>, peak: f64, format: Format) -> Result<()> {
    let mut rows = Vec::new();
    for ((network, way, contender), lines) in measured {
        let middle = |lines: &[Line], of: fn(&Line) -> f64| median(&lines.iter().map(of).collect::<Vec<f64>>());
        let speed = |lines: &[Line]| middle(lines, |line| line.images_per_second);
        let peers = PEERS.iter().filter_map(|(peer, _)| measured.get(&(*network, *way, *peer)));
        let best = peers.map(|lines| speed(lines)).fold(0.0, f64::max);
        let operations = NETWORKS.iter().find(|(name, _)| name == network).context("a network of ours")?.1;
        let reference = measured.get(&(*network, *way, "ONNX Runtime")).map(|lines| lines[0].logits.as_slice());
        let speeds = lines.iter().map(|line| line.images_per_second);
        let tenths = |x: f64| (10.0 * x).round() / 10.0;
        rows.push(json!({
            "network": network, "way": way, "contender": contender,
            "images_per_second": tenths(speed(lines)),
            "from": tenths(speeds.clone().fold(f64::INFINITY, f64::min)), "to": tenths(speeds.fold(0.0, f64::max)),
            "times_the_best_peer": (100.0 * speed(lines) / best).round() / 100.0,
            "percent_of_dense_peak": (100.0 * speed(lines) * operations / peak).round(),
            "megabytes": middle(lines, |line| line.megabytes).round(),
            "first_seconds": (1000.0 * middle(lines, |line| line.first_seconds)).round() / 1000.0,
            "distance_from_onnx_runtime": reference.map(|reference| distance(&lines[0].logits, reference)),
        }));
    }
    let heads = [
        "network",
        "use of the machine",
        "contender",
        "images/s",
        "spread",
        "times the best peer",
        "of the dense peak",
        "MB",
        "first, s",
        "logits",
    ];
    bench::print(format, peak, &rows, &heads, |row| {
        let text = |key: &str| bench::text(row, key);
        let logits = row["distance_from_onnx_runtime"].as_f64();
        vec![
            text("network"),
            text("way"),
            text("contender"),
            text("images_per_second"),
            format!("{} to {}", text("from"), text("to")),
            text("times_the_best_peer"),
            format!("{} %", text("percent_of_dense_peak")),
            text("megabytes"),
            text("first_seconds"),
            logits.map_or_else(|| "–".into(), |distance| format!("{distance:.0e}")),
        ]
    })
}
