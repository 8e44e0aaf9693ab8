//! A trial that is longer than anybody waits.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Fleet, LIMIT, eventually, full, skipped, studies};

/// Ten times the broker's patience.
const LONG: Duration = Duration::from_secs(600);

/// Epochs that take some tenths of a second each.
fn heavy_job(id: &str, dataset: &Value, epochs: u64) -> Value {
    let mut job = studies::stateful_job(id, "long", dataset, 1);
    job["trial"]["training"]["epochs"] = json!(epochs);
    job["trial"]["network"] = json!({"layers": [
        {"type": "conv", "filters": 32, "kernel": 5, "padding": "same"},
        {"type": "batch_norm"},
        {"type": "relu"},
        {"type": "max_pool", "kernel": 2},
        {"type": "conv", "filters": 64, "kernel": 5, "padding": "same"},
        {"type": "relu"},
        {"type": "flatten"},
        {"type": "dropout", "rate": 0.3},
        {"type": "linear", "units": 3},
    ]});
    job
}

async fn submit(fleet: &Fleet, job: &Value) -> Result<()> {
    fleet.write("job.json", &job.to_string())?;
    fleet.gannet(&["submit", "job.json"]).await.map(|_| ())
}

async fn result_of(fleet: &Fleet, id: &str, limit: Duration) -> Result<Value> {
    eventually(limit, &format!("{id} has a result"), async || {
        Ok(fleet.results("long")?.into_iter().find(|result| result["id"] == id))
    })
    .await
}

fn compute_ms(result: &Value) -> Result<u64> {
    result["durations"]["compute_ms"].as_u64().with_context(|| format!("a duration: {result}"))
}

#[tokio::test]
async fn a_trial_ten_times_longer_than_the_broker_waits_completes_in_slices() {
    let name = "a_trial_ten_times_longer_than_the_broker_waits_completes_in_slices";
    if !full() {
        return skipped(name, "it takes a quarter of an hour: tests/run --full runs it");
    }
    Fleet::run_with_broker(name, &["consumer_timeout = 60000"], async |fleet| {
        let dataset = fleet.push_pictures().await?;
        let worker = fleet.worker_with("short", &[("GANNET_SLICE", "1h")])?;
        submit(fleet, &heavy_job("short", &dataset, 10)).await?;
        let epoch = compute_ms(&result_of(fleet, "short", LIMIT).await?)? / 10;
        let epochs = u64::try_from(LONG.as_millis())? / epoch.max(1) + 1;

        // In one slice it outlasts the broker's patience: the delivery is taken away.
        submit(fleet, &heavy_job("long", &dataset, epochs)).await?;
        // The broker looks once a minute whose acknowledgement is overdue.
        eventually(2 * LIMIT, "the broker takes the delivery away", async || {
            Ok(worker.stderr().contains("a delivery was lost").then_some(()))
        })
        .await?;
        drop(worker);

        let worker = fleet.worker_with("patient", &[("GANNET_SLICE", "20s")])?;
        let result = result_of(fleet, "long", 5 * LONG).await?;
        let (slices, took) = (&result["outcome"]["trial"]["slices"], compute_ms(&result)?);
        eprintln!("{epochs} epochs in {} s and {slices} slices", took / 1000);
        ensure!(result["status"] == "done", "{result}");
        ensure!(took > 3 * 60_000, "the trial was too short to say anything: {took} ms");
        ensure!(slices.as_u64() >= Some(took / 60_000), "no slice was as long as the broker's patience: {result}");
        ensure!(!worker.stderr().contains("a delivery was lost"), "{}", worker.stderr());
        Ok(())
    })
    .await;
}
