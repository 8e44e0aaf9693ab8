//! How fast photographs are decoded and resized here, beside libjpeg-turbo with OpenCV, and Pillow: one thread, contenders in
//! turn, medians.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use clap::Parser;
use serde::Deserialize;
use serde_json::json;
use shared::contract::{Preprocessing, Resize};
use tests::bench::{Format, median, outcome, start};

/// Measures decoding and resizing
#[derive(Debug, Parser)]
struct Arguments {
    /// A folder with what `picture_peer.py make` wrote
    #[arg(long, value_name = "FOLDER")]
    photographs: PathBuf,
    /// A Python that has the peers; without it they are left out
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
    /// The folder of the peers' script
    #[arg(long, value_name = "FOLDER", default_value = "tests/benchmarks")]
    scripts: PathBuf,
    /// Rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that each contender runs in a round
    #[arg(long, default_value_t = 1.0)]
    seconds: f64,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// One contender of ours on one photograph, for a round: `reduced` or `whole`
    #[arg(long, hide = true, num_args = 2, value_names = ["HOW", "FILE"])]
    one: Option<Vec<String>>,
}

/// The shorter edge of what comes out, in pixels.
const EDGE: u32 = 256;

const OURS: [(&str, &str); 2] = [("Gannet", "reduced"), ("Gannet, decoded whole", "whole")];
const PEERS: [(&str, &str); 5] = [
    ("libjpeg-turbo + OpenCV, scaled decoding", "turbo-scaled"),
    ("libjpeg-turbo + OpenCV", "turbo"),
    ("OpenCV", "opencv"),
    ("Pillow, scaled decoding", "pillow-scaled"),
    ("Pillow", "pillow"),
];
/// What ours are compared with.
const REFERENCE: &str = "libjpeg-turbo + OpenCV";

/// What a process prints.
#[derive(Debug, Clone, Copy, Deserialize)]
struct Line {
    milliseconds: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some([how, file]) = arguments.one.as_deref() {
        return one(how, Path::new(file), arguments.seconds);
    }
    let mut files: Vec<PathBuf> = std::fs::read_dir(&arguments.photographs)
        .with_context(|| format!("read {}", arguments.photographs.display()))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "jpg"))
        .collect();
    files.sort();
    let mut measured: BTreeMap<(String, &str), Vec<f64>> = BTreeMap::new();
    for round in 0..arguments.rounds {
        eprintln!("round {} of {}", round + 1, arguments.rounds);
        for file in &files {
            let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            for (contender, words) in contenders(&arguments, file)? {
                let line: Line = outcome(start(&words, 1, Some(0))?)?;
                measured.entry((name.clone(), contender)).or_default().push(line.milliseconds);
            }
        }
    }
    print(&measured, arguments.format)
}

fn contenders(arguments: &Arguments, file: &Path) -> Result<Vec<(&'static str, Vec<String>)>> {
    let program = std::env::current_exe()?;
    let text = |path: &Path| path.display().to_string();
    let seconds = arguments.seconds.to_string();
    let mut all = Vec::new();
    for (name, how) in OURS {
        let words = ["--photographs", ".", "--seconds", &seconds, "--one", how];
        let words = words.map(str::to_owned).into_iter();
        all.push((name, [text(&program)].into_iter().chain(words).chain([text(file)]).collect()));
    }
    if let Some(python) = &arguments.python {
        for (name, how) in PEERS {
            let script = arguments.scripts.join("picture_peer.py");
            all.push((name, vec![text(python), text(&script), how.into(), text(file), seconds.clone()]));
        }
    }
    Ok(all)
}

/// Decodes and resizes one photograph for a while, and prints the median.
#[expect(clippy::print_stdout, reason = "what the process that started this reads")]
fn one(how: &str, file: &Path, seconds: f64) -> Result<()> {
    let bytes = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    let said = |error: shared::contract::ImageError| anyhow!("{}: {}", file.display(), error.message);
    let whole = picture::decode(&bytes, 3).map_err(said)?;
    let short = whole.height.min(whole.width);
    let size = [whole.height, whole.width].map(|edge| edge * EDGE as usize / short);
    let resize = Some(Resize::Exact(size.map(|edge| edge as u32)));
    let preprocessing = Preprocessing { resize, ..Preprocessing::standard(vec![0.5; 3], vec![0.5; 3]) };
    let step = || match how {
        "whole" => picture::decode(&bytes, 3).and_then(|pixels| picture::fit(&pixels, size, &preprocessing)),
        _ => picture::prepare(&bytes, [3, size[0], size[1]], &preprocessing),
    };
    let (begun, mut times) = (Instant::now(), Vec::new());
    while begun.elapsed().as_secs_f64() < seconds {
        let start = Instant::now();
        step().map_err(said)?;
        times.push(start.elapsed().as_secs_f64() * 1000.0);
    }
    println!("{}", json!({"milliseconds": median(&times)}));
    Ok(())
}

#[expect(clippy::print_stdout, reason = "a benchmark's data")]
fn print(measured: &BTreeMap<(String, &str), Vec<f64>>, format: Format) -> Result<()> {
    let mut rows = Vec::new();
    for ((photograph, contender), times) in measured {
        let reference = measured.get(&(photograph.clone(), REFERENCE)).map(|times| median(times));
        let rounded = |x: f64| (1000.0 * x).round() / 1000.0;
        rows.push(json!({
            "photograph": photograph, "contender": contender, "milliseconds": rounded(median(times)),
            "from": rounded(times.iter().copied().fold(f64::INFINITY, f64::min)),
            "to": rounded(times.iter().copied().fold(0.0, f64::max)),
            "times_the_reference": reference.map(|reference| (100.0 * reference / median(times)).round() / 100.0),
        }));
    }
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&json!({"reference": REFERENCE, "rows": rows}))?);
        return Ok(());
    }
    println!("| photograph | contender | ms | spread | times the speed of {REFERENCE} |");
    println!("| --- | --- | --- | --- | --- |");
    for row in &rows {
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        println!(
            "| {} | {} | {} | {} to {} | {} |",
            text("photograph"),
            text("contender"),
            row["milliseconds"],
            row["from"],
            row["to"],
            row["times_the_reference"].as_f64().map_or_else(|| "–".into(), |ratio| ratio.to_string()),
        );
    }
    Ok(())
}
