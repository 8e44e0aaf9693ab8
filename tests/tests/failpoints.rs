//! A worker may die before or after any step of the protocol, and nothing is lost, doubled or other than it would be.

use std::os::unix::process::ExitStatusExt as _;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::s3_server::{Fault, Rule};
use tests::{Amqp, Fleet, LIMIT, Process, children_of, eventually, signal, studies, write_colour, write_model};

/// Short enough for several slices of [`EPOCHS`].
const SLICE: [(&str, &str); 1] = [("GANNET_SLICE", "10ms")];
const EPOCHS: u32 = 120;

/// A fleet, its dataset, and how often a worker died at which point.
struct Trials<'a> {
    fleet: &'a Fleet,
    amqp: Amqp,
    dataset: Value,
    hits: Vec<String>,
}

impl<'a> Trials<'a> {
    async fn on(fleet: &'a Fleet) -> Result<Self> {
        Ok(Self { fleet, amqp: fleet.amqp().await?, dataset: fleet.push_pictures().await?, hits: Vec::new() })
    }

    async fn submit(&self, run: &str, epochs: u32) -> Result<()> {
        let job = studies::stateful_job("trial", run, &self.dataset, epochs);
        self.fleet.write("job.json", &job.to_string())?;
        self.fleet.gannet(&["submit", "job.json"]).await.map(|_| ())
    }

    /// A worker that dies at `point`.
    fn victim(&self, point: &str, more: &[(&str, &str)]) -> Result<Process> {
        let variables: Vec<_> = more.iter().copied().chain([("GANNET_TEST_FAIL_AT", point)]).collect();
        self.fleet.worker_with("victim", &variables)
    }

    async fn dies(&mut self, mut victim: Process, point: &str) -> Result<()> {
        let status = victim.wait(LIMIT).await?;
        ensure!(status.signal() == Some(6), "the worker was to die at {point}, not with {status}: {}", victim.stderr());
        self.hits.push(point.to_owned());
        // The broker gives what the dead had in hand to others as soon as it sees that they are gone.
        eventually(LIMIT, "the broker sees it", async || {
            Ok((self.amqp.consumers("gannet.v1.trials").await? == 0).then_some(()))
        })
        .await
    }

    /// Another worker does what is left of `run`; returns the result.
    async fn survives(&self, run: &str, more: &[(&str, &str)]) -> Result<Value> {
        let mut survivor = self.fleet.worker_with("survivor", more)?;
        // The result may be there before it: what the dead left is to be settled all the same.
        let result = eventually(LIMIT, "the job has a result", async || {
            survivor.must_run()?;
            Ok(self.fleet.results(run)?.pop().filter(|_| survivor.stderr().contains("takes jobs")))
        })
        .await?;
        for queue in ["gannet.v1.trials", "gannet.v1.batches"] {
            eventually(LIMIT, "no letter is left", async || Ok((self.amqp.ready(queue).await? == 0).then_some(())))
                .await?;
        }
        survivor.terminate()?;
        ensure!(survivor.wait(LIMIT).await?.success(), "{}", survivor.stderr());
        // What was in its hands would be ready again.
        ensure!(self.amqp.ready("gannet.v1.trials").await? == 0, "a letter was left in the survivor's hands");
        ensure!(self.fleet.results(run)?.len() == 1, "one job has one result");
        Ok(result)
    }

    async fn dead_letters(&self) -> Result<u32> {
        self.amqp.ready("gannet.v1.dead").await
    }

    fn tell(&self) {
        eprintln!("a worker died at each of {} points once: {}", self.hits.len(), self.hits.join(", "));
    }
}

/// The digest of the trained parameters.
fn weights(result: &Value) -> Result<String> {
    let digest = result["outcome"]["trial"]["checkpoint"]["sha256"].as_str();
    digest.map(str::to_owned).with_context(|| format!("a trained network: {result}"))
}

/// Kills at each of `steps`, before and after it, and compares with a trial that ran through.
async fn a_trial_survives(name: &str, steps: &[&str]) {
    Fleet::run(name, async |fleet| {
        let mut trials = Trials::on(fleet).await?;
        trials.submit("calm", EPOCHS).await?;
        let calm = trials.survives("calm", &[]).await?;
        ensure!(calm["outcome"]["trial"]["slices"] == 1, "it ran through: {calm}");
        for step in steps {
            for point in [format!("before-{step}"), format!("after-{step}")] {
                let run = point.to_lowercase();
                trials.submit(&run, EPOCHS).await?;
                let victim = trials.victim(&point, &SLICE)?;
                trials.dies(victim, &point).await?;
                let result = trials.survives(&run, &SLICE).await?;
                ensure!(result["outcome"]["trial"]["slices"].as_u64() > Some(1), "it was cut: {result}");
                ensure!(weights(&result)? == weights(&calm)?, "{point}: other weights than without a death");
            }
        }
        ensure!(trials.dead_letters().await? == 0, "no healthy job was buried");
        trials.tell();
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_may_die_while_it_looks_and_computes() {
    let steps = ["LookCancelled", "LookResult", "LookCheckpoint", "Compute"];
    a_trial_survives("a_worker_may_die_while_it_looks_and_computes", &steps).await;
}

#[tokio::test]
async fn a_worker_may_die_while_it_commits_and_publishes() {
    let steps = ["CommitCheckpoint", "PublishNextSlice", "CommitResult", "PublishResult", "Ack"];
    a_trial_survives("a_worker_may_die_while_it_commits_and_publishes", &steps).await;
}

#[tokio::test]
async fn a_worker_may_die_while_it_counts_or_buries() {
    Fleet::run("a_worker_may_die_while_it_counts_or_buries", async |fleet| {
        let mut trials = Trials::on(fleet).await?;
        for point in ["before-RecordAttempt", "after-RecordAttempt"] {
            let run = point.to_lowercase();
            trials.submit(&run, EPOCHS).await?;
            let first = trials.victim("after-Compute", &[])?;
            trials.dies(first, "after-Compute").await?;
            let second = trials.victim(point, &[])?;
            trials.dies(second, point).await?;
            let result = trials.survives(&run, &[]).await?;
            ensure!(result["status"] == "done", "{result}");
        }
        ensure!(trials.dead_letters().await? == 0, "no healthy job was buried");

        let missing =
            json!({"key": format!("datasets/none/{0}/dataset.json", "0".repeat(64)), "sha256": "0".repeat(64)});
        for (nth, point) in ["before-Bury", "after-Bury"].into_iter().enumerate() {
            let run = point.to_lowercase();
            let job = studies::job("trial", &run, &missing).to_string();
            trials.amqp.publish("gannet.v1.jobs", "gannet.v1.trials", job.as_bytes(), Default::default()).await?;
            let victim = trials.victim(point, &[])?;
            trials.dies(victim, point).await?;
            let result = trials.survives(&run, &[]).await?;
            ensure!(result["status"] == "failed", "{result}");
            // Whoever dies between the burial and the note of it leaves a second dead letter; after the note, none.
            let dead = trials.dead_letters().await?;
            ensure!(dead == nth as u32 + 1, "{point}: {dead} dead letters");
        }
        trials.tell();
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_may_die_while_it_gives_a_job_back() {
    Fleet::run("a_worker_may_die_while_it_gives_a_job_back", async |fleet| {
        let mut trials = Trials::on(fleet).await?;
        for point in ["before-Release", "after-Release"] {
            let run = point.to_lowercase();
            trials.submit(&run, EPOCHS).await?;
            let first = trials.victim("after-Compute", &[])?;
            trials.dies(first, "after-Compute").await?;
            // It stops before it could count what the first one took with it.
            fleet.s3.go_wrong(&[Rule::reading("/results/", 1, Fault::Answer("SlowDown".into()))])?;
            let second = trials.victim(point, &[])?;
            eventually(LIMIT, "the worker waits for the store", async || {
                Ok(second.stderr().contains("waits and tries again").then_some(()))
            })
            .await?;
            second.terminate()?;
            trials.dies(second, point).await?;
            fleet.s3.go_wrong(&[])?;
            let result = trials.survives(&run, &[]).await?;
            ensure!(result["status"] == "done", "{result}");
            ensure!(!fleet.names(&format!("runs/{run}/attempts/trial"))?.is_empty(), "the lost worker is counted");
        }
        ensure!(trials.dead_letters().await? == 0, "no healthy job was buried");
        trials.tell();
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_may_die_while_it_passes_a_job_on() {
    Fleet::run("a_worker_may_die_while_it_passes_a_job_on", async |fleet| {
        let mut trials = Trials::on(fleet).await?;
        // Whoever comes first declares what the broker needs.
        trials.submit("calm", 1).await?;
        trials.survives("calm", &[]).await?;
        let mut progress = trials.amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        for point in ["before-PublishAgain", "after-PublishAgain"] {
            let run = point.to_lowercase();
            trials.submit(&run, 4000).await?;
            let victim = trials.victim(point, &[])?;
            let begun = |word: &Value| word["run"] == run.as_str() && word["fraction"].as_f64() > Some(0.0);
            progress.find(LIMIT, begun).await.context("the trial begins")?;
            // An executor that does not answer is killed at the end of a drain, and there is nothing to keep.
            for executor in children_of(victim.pid()) {
                signal("STOP", executor)?;
            }
            victim.terminate()?;
            trials.dies(victim, point).await?;
            let result = trials.survives(&run, &[]).await?;
            ensure!(result["status"] == "done", "{result}");
        }
        write_model(&fleet.path().join("colours"), ["red", "blue"])?;
        fleet.gannet(&["model", "push", "colours", "colours"]).await?;
        let picture = fleet.path().join("large.bmp");
        write_colour(&picture, 1600, [250, 10, 10])?;
        fleet.write("list.txt", &"large.bmp\n".repeat(200))?;
        for point in ["before-PublishRetry", "after-PublishRetry"] {
            let run = point.to_lowercase();
            let args = ["classify", "@list.txt", "--model", "colours", "--batch-size", "200", "--run", run.as_str()];
            let classify = fleet.start(&args)?;
            let victim = trials.victim(point, &[])?;
            let begun = |word: &Value| word["run"] == run.as_str() && word["fraction"].as_f64() > Some(0.0);
            progress.find(LIMIT, begun).await.context("the batch begins")?;
            for executor in children_of(victim.pid()) {
                signal("KILL", executor)?;
            }
            trials.dies(victim, point).await?;
            let result = trials.survives(&run, &[]).await?;
            ensure!(result["status"] == "done", "{result}");
            let lines = classify.succeed(LIMIT).await?;
            ensure!(lines.lines().count() == 200, "one line a picture, not {}", lines.lines().count());
        }
        ensure!(trials.dead_letters().await? == 0, "no healthy job was buried");
        trials.tell();
        Ok(())
    })
    .await;
}
