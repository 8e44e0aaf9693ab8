//! What a worker tells its operator: metrics, health, log lines. And that it ends when it has nothing to do.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::observed::Observed;
use tests::{Fleet, LIMIT, Process, children_of, eventually, json_lines, signal, studies, write_colour, write_model};

/// Asks as a health check does: with the worker's own program.
async fn health(fleet: &Fleet, address: &str) -> Result<(bool, String)> {
    let env = [("GANNET_METRICS".to_owned(), address.to_owned())];
    let mut asked = Process::start("health", "gannet-worker", &["--health"], &env, fleet.path())?;
    let healthy = asked.wait(LIMIT).await?.success();
    Ok((healthy, asked.stderr()))
}

#[tokio::test]
async fn a_worker_counts_what_it_does_and_says_how_it_is() {
    Fleet::run("a_worker_counts_what_it_does_and_says_how_it_is", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        write_model(&fleet.path().join("colours"), ["red", "blue"])?;
        fleet.gannet(&["model", "push", "colours", "colours"]).await?;
        write_colour(&fleet.path().join("red.png"), 8, [250, 10, 10])?;
        let mut worker = fleet.worker_with("counted", &[Observed::VARIABLE])?;
        let at = Observed::of(&mut worker).await?;
        eventually(LIMIT, "it is ready", async || Ok((at.get("/readyz").await? == (200, "ok\n".into())).then_some(())))
            .await?;
        ensure!(health(fleet, at.address()).await?.0, "it lives");

        fleet.gannet(&["classify", "red.png", "--model", "colours", "--run", "counted-run"]).await?;
        fleet.write("job.json", &studies::stateful_job("long", "counted-run-2", &dataset, 4000).to_string())?;
        fleet.gannet(&["submit", "job.json"]).await?;
        eventually(LIMIT, "a trial runs", async || {
            Ok((at.metric("gannet_epochs_total", &[]).await? > 0.0).then_some(()))
        })
        .await?;
        ensure!(at.metric("gannet_slots_busy", &[]).await? == 1.0 && at.metric("gannet_slots", &[]).await? == 1.0);
        ensure!(at.metric("gannet_jobs_in_hand", &["kind=\"trial\""]).await? == 1.0);
        let memory = at.metric("gannet_executor_memory_bytes", &[]).await?;
        ensure!(memory > 1e6 && at.metric("gannet_executor_memory_peak_bytes", &[]).await? >= memory, "{memory}");
        for executor in children_of(worker.pid()) {
            signal("KILL", executor)?;
        }
        eventually(LIMIT, "its death is counted", async || {
            let died = at.metric("gannet_executor_deaths_total", &["cause=\"crashed\""]).await?;
            Ok((died == 1.0).then_some(()))
        })
        .await?;
        eventually(LIMIT, "it will be tried again", async || {
            let labels = ["kind=\"trial\"", "budget=\"crashes\""];
            Ok((at.metric("gannet_retries_total", &labels).await? == 1.0).then_some(()))
        })
        .await?;
        fleet.gannet(&["cancel", "counted-run-2"]).await?;

        let (_, page) = at.get("/metrics").await?;
        ensure!(
            !page.contains("counted-run") && !page.contains("red.png"),
            "no run and no picture is a label:\n{page}"
        );
        for (name, labels, least) in [
            ("gannet_jobs_total", &["kind=\"batch\"", "outcome=\"done\""][..], 1.0),
            ("gannet_jobs_total", &["kind=\"trial\"", "outcome=\"retried\""], 1.0),
            ("gannet_job_queue_seconds_count", &["kind=\"batch\""], 1.0),
            ("gannet_job_compute_seconds_count", &["kind=\"batch\""], 1.0),
            ("gannet_job_fetch_seconds_count", &["kind=\"batch\""], 1.0),
            ("gannet_step_seconds_count", &["step=\"commit_result\""], 1.0),
            ("gannet_images_total", &["outcome=\"labelled\""], 1.0),
            ("gannet_cache_misses_total", &[], 3.0),
            ("gannet_cache_fetched_bytes_total", &[], 1000.0),
            ("gannet_cache_used_bytes", &[], 1000.0),
            ("gannet_executor_cpu_seconds_total", &[], 0.001),
            ("gannet_executor_starts_total", &[], 2.0),
            ("process_resident_memory_bytes", &[], 1e6),
        ] {
            let found = at.metric(name, labels).await?;
            ensure!(found >= least, "{name} {labels:?} is {found}, not at least {least}");
        }
        worker.terminate()?;
        ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.stderr());
        let (healthy, said) = health(fleet, at.address()).await?;
        ensure!(!healthy && said.contains("does not answer"), "{said}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_answers_before_it_is_connected() {
    Fleet::run("a_worker_answers_before_it_is_connected", async |fleet| {
        let nowhere = ("GANNET_AMQP_URL", "amqp://127.0.0.1:1/%2f");
        let mut worker = fleet.worker_with("lonely", &[Observed::VARIABLE, nowhere])?;
        let at = Observed::of(&mut worker).await?;
        ensure!(at.get("/readyz").await? == (503, "connects to the queue\n".into()), "it is not ready");
        ensure!(at.get("/healthz").await?.0 == 200, "and lives");
        eventually(LIMIT, "its waits are counted", async || {
            Ok((at.metric("gannet_waits_total", &["on=\"queue\""]).await? >= 1.0).then_some(()))
        })
        .await?;
        worker.terminate()?;
        ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.stderr());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_idle_worker_ends_and_loses_nothing() {
    Fleet::run("an_idle_worker_ends_and_loses_nothing", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        let amqp = fleet.amqp().await?;
        let (rounds, each) = (4, 4);
        for round in 0..rounds {
            let mut worker = fleet.worker_with("leaving", &[("GANNET_EXIT_WHEN_IDLE", "1s")])?;
            eventually(LIMIT, "it has been idle for long enough", async || {
                let ended = worker.has_ended()?.is_some();
                Ok((ended || worker.stderr().contains("has had no job for long enough")).then_some(()))
            })
            .await?;
            // Just as it goes.
            for nth in 0..each {
                let job = studies::job(&format!("job-{round}-{nth}"), "left", &dataset).to_string();
                amqp.publish("gannet.v1.jobs", "gannet.v1.trials", job.as_bytes(), Default::default()).await?;
            }
            ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.stderr());
        }
        // One that works first, and then goes by itself, too.
        let mut worker = fleet.worker_with("last", &[("GANNET_EXIT_WHEN_IDLE", "5s")])?;
        ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.stderr());
        let results = fleet.results("left")?;
        ensure!(results.len() == rounds * each, "{} results", results.len());
        let is_clean = |result: &Value| result["status"] == "done" && result["attempt"] == 1;
        ensure!(results.iter().all(is_clean), "each in one attempt: {results:?}");
        ensure!(fleet.names("runs/left/attempts")?.is_empty(), "no worker counts as lost");
        ensure!(amqp.ready("gannet.v1.trials").await? == 0 && amqp.ready("gannet.v1.dead").await? == 0);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn log_lines_of_both_programs_are_json_where_that_is_asked() {
    Fleet::run("log_lines_of_both_programs_are_json_where_that_is_asked", async |fleet| {
        let json = ("GANNET_LOG_FORMAT", "json");
        let mut worker = fleet.worker_with("json", &[json, ("GANNET_LOG", "warn")])?;
        let amqp = fleet.amqp().await?;
        amqp.wait_for_consumer("gannet.v1.trials", LIMIT).await?;
        let missing = json!({"key": format!("datasets/x/{0}/dataset.json", "0".repeat(64)), "sha256": "0".repeat(64)});
        let job = studies::job("trial", "failing", &missing).to_string();
        amqp.publish("gannet.v1.jobs", "gannet.v1.trials", job.as_bytes(), Default::default()).await?;
        let line = eventually(LIMIT, "the worker logs that it failed", async || {
            worker.must_run()?;
            let lines = json_lines(&worker.stderr()).unwrap_or_default();
            Ok(lines.into_iter().find(|line| line["message"] == "a job failed"))
        })
        .await?;
        ensure!(
            line["level"] == "WARN" && line["error"].as_str().is_some_and(|why| why.contains("datasets/x")),
            "{line}"
        );
        ensure!(line["span"]["run"] == "failing" && line["span"]["job.id"] == "trial", "{line}");

        let env: Vec<_> = fleet.env().into_iter().chain([(json.0.to_owned(), json.1.to_owned())]).collect();
        let mut gannet = Process::start("gannet", "gannet", &["results", "nowhere"], &env, fleet.path())?;
        ensure!(!gannet.wait(LIMIT).await?.success(), "there is no such run");
        let lines = json_lines(&gannet.stderr()).context("every line is JSON")?;
        let last = lines.last().context("it says why")?;
        ensure!(
            last["level"] == "ERROR" && last["error"].as_str().is_some_and(|why| why.contains("nowhere")),
            "{last}"
        );
        Ok(())
    })
    .await;
}
