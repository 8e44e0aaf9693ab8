//! The autoscaler on a real broker, with real workers: from nothing to as many as there may be and back, over and over.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use lapin::BasicProperties;
use serde_json::{Value, json};
use tests::{Amqp, Fleet, LIMIT, Process, eventually, json_lines, signal, studies, write_colour, write_model};

#[path = "autoscale/trouble.rs"]
mod trouble;

/// What is declared last: when it is there, jobs find their queues.
const LAST: &str = "gannet.v1.results";

/// An autoscaler of two workers at most, which lets go of them after a second; its workers' logs lie in `logs`.
fn autoscale(fleet: &Fleet, more: &[&str]) -> Result<Process> {
    let mut args = vec!["autoscale", "--processes", "--max", "2", "--idle", "1s", "--logs", "logs", "--format", "json"];
    args.extend(more);
    fleet.start(&args)
}

/// What it decided so far. Its last line may still be on its way.
fn decisions(scaler: &Process) -> Result<Vec<Value>> {
    let text = scaler.stdout();
    json_lines(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
}

fn count(scaler: &Process, action: &str) -> Result<usize> {
    Ok(decisions(scaler)?.iter().filter(|decision| decision["action"] == action).count())
}

/// The processes that work for a fleet: those that have its broker in their environment and a worker's name.
fn workers(fleet: &Fleet) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let url = format!("GANNET_AMQP_URL={}", fleet.amqp_url());
    pids.filter(|pid| has_variable(*pid, &url) && has_variable(*pid, "GANNET_WORKER_NAME=")).collect()
}

/// Whether a process has a variable that begins so in its environment.
fn has_variable(pid: u32, beginning: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|text| text.starts_with(beginning.as_bytes()))
}

async fn at_zero(fleet: &Fleet) -> Result<()> {
    eventually(LIMIT, "no worker runs any more", async || Ok(workers(fleet).is_empty().then_some(()))).await
}

/// What jobs refer to.
struct Things {
    dataset: Value,
    model: Value,
    picture: Value,
}

impl Things {
    async fn push(fleet: &Fleet) -> Result<Self> {
        write_model(&fleet.path().join("colours"), ["red", "blue"])?;
        fleet.gannet(&["model", "push", "colours", "colours"]).await?;
        write_colour(&fleet.path().join("red.bmp"), 1, [255, 0, 0])?;
        let bytes = std::fs::read(fleet.path().join("red.bmp"))?;
        fleet.put("runs/bursts/red.bmp", &bytes)?;
        let sha256 = shared::digest::Digest::of(&bytes).to_string();
        let picture = json!({"key": "runs/bursts/red.bmp", "sha256": sha256});
        Ok(Self { dataset: fleet.push_pictures().await?, model: fleet.model("colours").await?, picture })
    }

    /// Trials of a second or so, and batches of milliseconds.
    async fn enqueue(&self, amqp: &Amqp, burst: usize, trials: usize, batches: usize) -> Result<()> {
        for number in 0..trials {
            let mut job = studies::job(&format!("t{burst}-{number}"), "bursts", &self.dataset);
            job["trial"]["training"]["epochs"] = json!(20);
            publish(amqp, "gannet.v1.trials", &job).await?;
        }
        for number in 0..batches {
            let image = json!({"image": "red.bmp", "object": self.picture});
            let batch = json!({"model": self.model, "images": [image], "top_k": 1});
            let job = json!({"id": format!("b{burst}-{number}"), "run": "bursts", "kind": "batch", "batch": batch});
            publish(amqp, "gannet.v1.batches", &job).await?;
        }
        Ok(())
    }
}

async fn publish(amqp: &Amqp, key: &str, job: &Value) -> Result<()> {
    amqp.publish("gannet.v1.jobs", key, &serde_json::to_vec(job)?, BasicProperties::default()).await
}

async fn results(fleet: &Fleet, scaler: &mut Process, jobs: usize) -> Result<()> {
    eventually(LIMIT, &format!("{jobs} jobs are done"), async || {
        scaler.must_run()?;
        Ok((fleet.names("runs/bursts/results")?.len() == jobs).then_some(()))
    })
    .await
}

#[tokio::test]
async fn twenty_bursts_end_no_busy_worker() {
    Fleet::run("twenty_bursts_end_no_busy_worker", async |fleet| {
        let things = Things::push(fleet).await?;
        let amqp = fleet.amqp().await?;
        let mut scaler = autoscale(fleet, &[])?;
        amqp.wait_for_queue(LAST, LIMIT).await?;
        let (mut jobs, mut asks, mut from_zero) = (0, 0, 0);
        for burst in 0..20 {
            let (trials, batches) = (burst % 4, if burst % 2 == 0 { 1 + 3 * burst } else { 1 });
            things.enqueue(&amqp, burst, trials, batches).await?;
            jobs += trials + batches;
            if burst == 9 {
                // In the middle of it: the next one finds the workers at work, and doubles none.
                eventually(LIMIT, "a worker runs", async || Ok((!workers(fleet).is_empty()).then_some(()))).await?;
                scaler.kill()?;
                asks += count(&scaler, "ask")?;
                scaler = autoscale(fleet, &[])?;
            }
            results(fleet, &mut scaler, jobs).await?;
            if burst % 3 == 0 {
                at_zero(fleet).await?;
                from_zero += 1;
            } else {
                // The next burst comes just when a worker is asked to leave.
                let before = count(&scaler, "ask")?;
                eventually(LIMIT, "a worker is asked", async || {
                    Ok((count(&scaler, "ask")? > before || workers(fleet).is_empty()).then_some(()))
                })
                .await?;
            }
        }
        at_zero(fleet).await?;
        asks += count(&scaler, "ask")?;
        let found = count(&scaler, "adopt")?;
        ensure!(found > 0, "the second autoscaler found the first one's workers: {}", scaler.stderr());
        ensure!(from_zero > 5 && asks >= 10, "{from_zero} times from zero, {asks} asked");
        for action in ["stop", "kill"] {
            ensure!(count(&scaler, action)? == 0, "nobody was ended but by asking: {}", scaler.stderr());
        }
        let most = decisions(&scaler)?.iter().filter_map(|decision| decision["actual"].as_u64()).max();
        ensure!(most <= Some(2), "the bound is kept");
        for result in fleet.results("bursts")? {
            let whole = result["attempt"] == 1 && result["status"] == "done";
            let slices = &result["outcome"]["trial"]["slices"];
            ensure!(whole && (slices.is_null() || *slices == 1), "it was computed in one go: {result}");
        }
        for log in std::fs::read_dir(fleet.path().join("logs"))? {
            let log = std::fs::read_to_string(log?.path())?;
            ensure!(!log.contains("WARN") && !log.contains("ERROR"), "a worker had trouble: {log}");
        }
        scaler.terminate()?;
        ensure!(scaler.wait(LIMIT).await?.success(), "it ends well: {}", scaler.stderr());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_killed_worker_is_replaced_and_the_end_of_the_autoscaler_is_its_workers() {
    let name = "a_killed_worker_is_replaced_and_the_end_of_the_autoscaler_is_its_workers";
    Fleet::run(name, async |fleet| {
        let things = Things::push(fleet).await?;
        let amqp = fleet.amqp().await?;
        // One worker is always there.
        let mut scaler = autoscale(fleet, &["--min", "1"])?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        amqp.wait_for_queue(LAST, LIMIT).await?;
        let mut job = studies::job("long", "bursts", &things.dataset);
        job["trial"]["training"]["epochs"] = json!(600);
        job["trial"]["network"] = json!({"layers": [
            {"type": "conv", "filters": 48, "kernel": 5, "padding": "same"},
            {"type": "relu"},
            {"type": "conv", "filters": 96, "kernel": 5, "padding": "same"},
            {"type": "flatten"},
            {"type": "linear", "units": 3},
        ]});
        publish(&amqp, "gannet.v1.trials", &job).await?;
        let is_first = |word: &Value| word["id"] == "long" && word["fraction"].as_f64().is_some_and(|done| done > 0.0);
        let word = progress.find(LIMIT, is_first).await.context("the trial runs")?;
        let first = word["worker"].as_str().context("it says where")?.to_owned();
        let of_name = |name: &str| {
            let wanted = format!("GANNET_WORKER_NAME={name}");
            workers(fleet).into_iter().find(|pid| has_variable(*pid, &wanted))
        };
        signal("KILL", of_name(&first).context("it is a process")?)?;
        let others = |word: &Value| word["id"] == "long" && word["worker"] != first.as_str();
        progress.find(LIMIT, others).await.context("another goes on with it")?;
        ensure!(scaler.stderr().contains("it died: signal 9"), "{}", scaler.stderr());
        // The trial is in the middle: it makes a checkpoint, and its worker ends.
        scaler.terminate()?;
        ensure!(scaler.wait(LIMIT).await?.success(), "it ends well: {}", scaler.stderr());
        ensure!(workers(fleet).is_empty(), "so have its workers");
        ensure!(amqp.ready("gannet.v1.trials").await? == 1, "and the trial waits for others");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn workers_are_left_and_found_and_a_dry_run_does_nothing() {
    Fleet::run("workers_are_left_and_found_and_a_dry_run_does_nothing", async |fleet| {
        let things = Things::push(fleet).await?;
        let amqp = fleet.amqp().await?;
        let mut dry = autoscale(fleet, &["--dry-run"])?;
        amqp.wait_for_queue(LAST, LIMIT).await?;
        things.enqueue(&amqp, 0, 1, 1).await?;
        eventually(LIMIT, "it says what it would do", async || {
            dry.must_run()?;
            Ok(decisions(&dry)?.into_iter().find(|decision| decision["action"] == "start"))
        })
        .await?;
        dry.terminate()?;
        ensure!(dry.wait(LIMIT).await?.success());
        ensure!(workers(fleet).is_empty(), "and does it not");

        let mut leaves = autoscale(fleet, &["--leave", "--min", "1"])?;
        results(fleet, &mut leaves, 2).await?;
        eventually(LIMIT, "one is left", async || Ok((workers(fleet).len() == 1).then_some(()))).await?;
        leaves.terminate()?;
        ensure!(leaves.wait(LIMIT).await?.success());
        let left = workers(fleet);
        ensure!(left.len() == 1, "it stays");
        let mut next = autoscale(fleet, &["--min", "1"])?;
        eventually(LIMIT, "the next one finds it", async || {
            next.must_run()?;
            Ok((count(&next, "adopt")? == left.len()).then_some(()))
        })
        .await?;
        next.terminate()?;
        ensure!(next.wait(LIMIT).await?.success(), "{}", next.stderr());
        ensure!(workers(fleet).is_empty(), "and ends them");
        ensure!(count(&next, "start")? == 0, "none was doubled: {}", next.stderr());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_done_is_told_at_once() {
    Fleet::run("what_cannot_be_done_is_told_at_once", async |fleet| {
        let config: PathBuf = fleet.write("pools.toml", "[[pool]]\nname = \"a\"\nmax = 0\n")?;
        for (args, expected) in [
            (vec!["autoscale"], "--processes"),
            (vec!["autoscale", "--health"], "give --metrics-address (GANNET_METRICS) to both"),
            (vec!["autoscale", "--processes", "--worker", "nowhere"], "name it with --worker"),
            (vec!["autoscale", "--processes", "--min", "3", "--max", "2"], "`max` is 2"),
            (vec!["autoscale", "--processes", "--memory-mib", "512"], "is a limit of containers"),
            (vec!["autoscale", "--processes", "--config", &config.display().to_string()], "`pool[0].max` is 0"),
            (vec!["autoscale", "--docker", "--docker-host", "tcp://host"], "unix:///var/run/docker.sock"),
            (vec!["autoscale", "--docker", "--docker-host", "unix:///nowhere"], "Docker engine"),
        ] {
            let mut command = fleet.start(&args)?;
            let status = command.wait(Duration::from_secs(60)).await?;
            ensure!(!status.success() && command.stderr().contains(expected), "{args:?}: {}", command.stderr());
        }
        Ok(())
    })
    .await;
}
