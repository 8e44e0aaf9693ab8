//! A study on RabbitMQ and S3, with several workers on one host.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Fleet, LIMIT, eventually, studies};

/// The key of the training split's file, as the dataset's manifest names it.
fn training_split(fleet: &Fleet, dataset: &Value) -> Result<String> {
    let key = dataset["key"].as_str().context("a reference has a key")?;
    let manifest: Value = serde_json::from_slice(&fleet.object(key)?)?;
    let key = manifest["splits"]["train"]["object"]["key"].as_str().context("the manifest names the training split")?;
    Ok(key.to_owned())
}

#[tokio::test]
async fn a_study_runs_on_two_workers_that_share_one_download() {
    Fleet::run("a_study_runs_on_two_workers_that_share_one_download", async |fleet| {
        let train = training_split(fleet, &fleet.push_pictures().await?)?;
        fleet.write("study.toml", &studies::quick())?;
        let pushed = fleet.s3.requests("GetObject", &train)?;
        let mut workers = [fleet.worker("left")?, fleet.worker("right")?];
        fleet.gannet(&["tune", "study.toml", "--run", "quick", "--format", "json"]).await?;

        let listing = fleet.gannet(&["results", "quick", "--format", "json"]).await?;
        let rows: Vec<Value> = listing.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(rows.len() >= 4, "each of four trials is listed:\n{listing}");
        fleet.each_trial_once("quick", 4)?;
        let fetched = fleet.s3.requests("GetObject", &train)? - pushed;
        ensure!(fetched == 1, "two workers of one host fetched the training split {fetched} times");
        for worker in &mut workers {
            worker.must_run()?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn workers_that_start_after_the_study_do_its_work() {
    Fleet::run("workers_that_start_after_the_study_do_its_work", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::quick())?;
        let tune = fleet.start(&["tune", "study.toml", "--run", "late"])?;
        let amqp = fleet.amqp().await?;
        amqp.wait_for_queue("gannet.v1.trials", LIMIT).await?;
        eventually(LIMIT, "trials wait on the queue", async || {
            Ok((amqp.ready("gannet.v1.trials").await? > 0).then_some(()))
        })
        .await?;
        let _worker = fleet.worker("late")?;
        tune.succeed(LIMIT).await?;
        fleet.each_trial_once("late", 4).map(drop)
    })
    .await;
}
