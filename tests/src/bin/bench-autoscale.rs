//! The autoscaler at zero: how soon a job has its result where no worker runs, and what it costs while there is nothing to
//! do. Absolute figures; there is no peer that starts processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use lapin::BasicProperties;
use serde_json::{Value, json};
use tests::bench::{Format, median, quantile};
use tests::{Fleet, LIMIT, children_of, eventually, processor_ms, studies, write_colour, write_model};

/// Measures the autoscaler at zero
#[derive(Debug, Parser)]
struct Arguments {
    /// Jobs of each kind, one after another, each where no worker runs
    #[arg(long, default_value_t = 10)]
    jobs: usize,
    /// Seconds of idleness
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

type Measured = BTreeMap<&'static str, Vec<f64>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let fleet = Fleet::with_own_broker().await.context("start the servers")?;
    print(&measure(&fleet, &arguments).await?, &arguments)
}

async fn measure(fleet: &Fleet, arguments: &Arguments) -> Result<Measured> {
    write_model(&fleet.path().join("colours"), ["red", "blue"])?;
    fleet.gannet(&["model", "push", "colours", "colours"]).await?;
    let picture: PathBuf = fleet.path().join("red.bmp");
    write_colour(&picture, 1, [255, 0, 0])?;
    let bytes = std::fs::read(&picture)?;
    fleet.put("runs/bench/red.bmp", &bytes)?;
    let object = json!({"key": "runs/bench/red.bmp", "sha256": shared::digest::Digest::of(&bytes).to_string()});
    let dataset = fleet.push_pictures().await?;
    let model = fleet.model("colours").await?;

    let scaler = fleet.start(&["autoscale", "--processes", "--max", "2", "--idle", "1s"])?;
    let amqp = fleet.amqp().await?;
    let mut results = amqp.listen("gannet.v1.results", "#", LIMIT).await?;
    // It is declared last: then jobs find their queues.
    amqp.wait_for_queue("gannet.v1.results", LIMIT).await?;
    let mut measured = Measured::new();
    for number in 0..arguments.jobs {
        let image = json!({"image": "red.bmp", "object": object});
        let batch = json!({"id": format!("b{number}"), "run": "bench", "kind": "batch",
            "batch": {"model": model, "images": [image], "top_k": 1}});
        let trial = studies::job(&format!("t{number}"), "bench", &dataset);
        for (what, key, job) in [
            ("first result of a batch from zero, ms", "gannet.v1.batches", batch),
            ("first result of a trial from zero, ms", "gannet.v1.trials", trial),
        ] {
            eventually(LIMIT, "no worker runs", async || Ok(children_of(scaler.pid()).is_empty().then_some(())))
                .await?;
            let begun = Instant::now();
            amqp.publish("gannet.v1.jobs", key, &serde_json::to_vec(&job)?, BasicProperties::default()).await?;
            let result = results.find(LIMIT, |result: &Value| result["id"] == job["id"]).await?;
            measured.entry(what).or_default().push(begun.elapsed().as_secs_f64() * 1e3);
            ensure!(result["status"] == "done", "a job failed: {result}");
        }
    }
    eventually(LIMIT, "no worker runs", async || Ok(children_of(scaler.pid()).is_empty().then_some(()))).await?;
    let before = processor_ms(scaler.pid())?;
    tokio::time::sleep(Duration::from_secs(arguments.seconds)).await;
    let used = processor_ms(scaler.pid())? - before;
    measured.insert("processor while idle, ms a second", vec![used / arguments.seconds as f64]);
    for (what, field) in [
        ("resident memory while idle, MB", "VmRSS:"),
        ("of it anonymous, MB", "RssAnon:"),
        ("of it pages of its own file and others, MB", "RssFile:"),
    ] {
        measured.insert(what, vec![memory_mb(&scaler, field)?]);
    }
    Ok(measured)
}

fn memory_mb(scaler: &tests::Process, field: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", scaler.pid()))?;
    let line = status.lines().find(|line| line.starts_with(field)).with_context(|| format!("find {field}"))?;
    let kib: f64 = line.split_whitespace().nth(1).context("a number")?.parse()?;
    Ok(kib * 1024.0 / 1e6)
}

#[expect(clippy::print_stdout, reason = "a benchmark's data")]
fn print(measured: &Measured, arguments: &Arguments) -> Result<()> {
    if arguments.format == Format::Json {
        let rows: Vec<Value> = measured
            .iter()
            .map(|(what, values)| json!({"what": what, "p50": median(values), "max": quantile(values, 1.0), "values": values.len()}))
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("| what | median | most |\n| --- | --- | --- |");
    for (what, values) in measured {
        println!("| {what} | {:.1} | {:.1} |", median(values), quantile(values, 1.0));
    }
    Ok(())
}
