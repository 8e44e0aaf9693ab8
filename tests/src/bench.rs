//! What the benchmarks share.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A table in Markdown
    Table,
    /// One JSON document
    Json,
}

/// The value that so large a share of them, 0 to 1, is at most; not a number where there are none.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
}

/// The one in the middle.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Starts a contender, which computes on `threads` threads, on one core if it is `pinned` there. It prints a line of JSON.
pub fn start(words: &[String], threads: usize, pinned: Option<usize>) -> Result<Child> {
    let mut all: Vec<String> = Vec::new();
    if let Some(core) = pinned {
        all.extend(["taskset".into(), "--cpu-list".into(), core.to_string()]);
    }
    all.extend_from_slice(words);
    let mut command = Command::new(&all[0]);
    command.args(&all[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    for variable in ["OMP_NUM_THREADS", "MKL_NUM_THREADS"] {
        command.env(variable, threads.to_string());
    }
    command.spawn().with_context(|| format!("start {}", all.join(" ")))
}

/// What a contender's last line says.
pub fn outcome<T: DeserializeOwned>(mut process: Child) -> Result<T> {
    let mut text = String::new();
    process.stdout.take().context("its output is a pipe")?.read_to_string(&mut text)?;
    let status = process.wait()?;
    ensure!(status.success(), "a contender ended with {status}; it said: {text}");
    serde_json::from_str(text.lines().last().unwrap_or_default()).with_context(|| format!("read `{text}`"))
}

/// Prints what was measured, beside the `peak` of all cores in operations a second (zero where it says nothing): a document, or a table with
/// these heads and each row's cells.
#[expect(clippy::print_stdout, reason = "a benchmark's data")]
pub fn print(
    format: Format,
    peak: f64,
    rows: &[Value],
    heads: &[&str],
    cells: impl Fn(&Value) -> Vec<String>,
) -> Result<()> {
    if format == Format::Json {
        println!("{}", serde_json::to_string_pretty(&json!({"peak_gflops": (peak / 1e9).round(), "rows": rows}))?);
        return Ok(());
    }
    if peak > 0.0 {
        println!("Peak of all cores: {:.0} GFLOP/s of fp32 products.\n", peak / 1e9);
    }
    println!("| {} |", heads.join(" | "));
    println!("|{}", " --- |".repeat(heads.len()));
    rows.iter().for_each(|row| println!("| {} |", cells(row).join(" | ")));
    Ok(())
}

/// A row's text, as it stands in a table.
pub fn text(row: &Value, key: &str) -> String {
    match &row[key] {
        Value::String(text) => text.clone(),
        Value::Null => "–".into(),
        other => other.to_string(),
    }
}
