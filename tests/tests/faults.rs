//! Workers and brokers that go away in the middle, and messages that are none. Every trial still counts once.

use anyhow::{Context, Result, ensure};
use lapin::BasicProperties;
use serde_json::{Value, json};
use tests::{Fleet, Inbox, LIMIT, children_of, eventually, studies};

/// Waits until a worker is in the middle of a trial of `run` and returns its last word.
async fn in_the_middle(progress: &mut Inbox, run: &str) -> Result<Value> {
    let middle = |word: &Value| {
        word["run"] == run && word["fraction"].as_f64().is_some_and(|fraction| (0.02..0.4).contains(&fraction))
    };
    progress.find(LIMIT, middle).await.context("no worker came to the middle of a trial")
}

fn result_of<'a>(results: &'a [Value], job: &Value) -> Result<&'a Value> {
    results.iter().find(|result| result["id"] == *job).with_context(|| format!("the job {job} has a result"))
}

#[tokio::test]
async fn a_worker_killed_in_the_middle_of_a_trial_loses_nothing() {
    Fleet::run("a_worker_killed_in_the_middle_of_a_trial_loses_nothing", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long())?;
        let mut victim = fleet.worker("victim")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        let tune = fleet.start(&["tune", "study.toml", "--run", "killed"])?;
        let word = in_the_middle(&mut progress, "killed").await?;
        let executors = children_of(victim.pid());
        victim.kill()?;
        // An executor ends itself when its pipe closes.
        eventually(LIMIT, "the victim's executors are gone", async || {
            let alive = executors.iter().any(|pid| std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
            Ok((!alive).then_some(()))
        })
        .await?;

        let mut survivor = fleet.worker("survivor")?;
        tune.succeed(2 * LIMIT).await?;
        let results = fleet.each_trial_once("killed", 2)?;
        ensure!(result_of(&results, &word["id"])?["worker"] == "survivor", "the victim's trial went to the survivor");
        survivor.must_run()
    })
    .await;
}

#[tokio::test]
async fn a_worker_told_to_stop_hands_its_trial_on() {
    Fleet::run("a_worker_told_to_stop_hands_its_trial_on", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long())?;
        let mut first = fleet.worker("first")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        let tune = fleet.start(&["tune", "study.toml", "--run", "stopped"])?;
        let word = in_the_middle(&mut progress, "stopped").await?;
        first.terminate()?;
        let status = first.wait(LIMIT).await?;
        ensure!(status.success(), "a worker that was told to stop ends well, not with {status}: {}", first.stderr());
        let job = word["id"].as_str().context("progress names its job")?;
        let checkpoints = fleet.names(&format!("runs/stopped/checkpoints/{job}"))?;
        ensure!(!checkpoints.is_empty(), "the trial's checkpoint is in the store");

        let _second = fleet.worker("second")?;
        tune.succeed(2 * LIMIT).await?;
        let results = fleet.each_trial_once("stopped", 2)?;
        let result = result_of(&results, &word["id"])?;
        ensure!(result["worker"] == "second", "another worker ended the trial: {result}");
        ensure!(result["attempt"] == 1, "a stop costs no attempt: {result}");
        let slices = result["outcome"]["trial"]["slices"].as_u64();
        ensure!(slices.is_some_and(|slices| slices >= 2), "the trial went on from its checkpoint: {result}");
        ensure!(fleet.names(&format!("runs/stopped/attempts/{job}"))?.is_empty(), "no attempt is recorded");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_broker_that_restarts_in_the_middle_of_a_trial_loses_nothing() {
    let name = "a_broker_that_restarts_in_the_middle_of_a_trial_loses_nothing";
    Fleet::run_with_own_broker(name, async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long())?;
        let mut worker = fleet.worker("patient")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        let tune = fleet.start(&["tune", "study.toml", "--run", "restarted"])?;
        in_the_middle(&mut progress, "restarted").await?;
        fleet.broker.stop()?;
        fleet.broker.restart()?;
        tune.succeed(2 * LIMIT).await?;
        fleet.each_trial_once("restarted", 2)?;
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn messages_that_are_none_are_put_away_and_the_worker_goes_on() {
    Fleet::run("messages_that_are_none_are_put_away_and_the_worker_goes_on", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        let mut worker = fleet.worker("robust")?;
        let amqp = fleet.amqp().await?;
        amqp.wait_for_consumer("gannet.v1.trials", LIMIT).await?;
        let mut misspelt = studies::job("misspelt", "poison", &dataset);
        let trial = misspelt["trial"].take();
        misspelt["trail"] = trial;
        misspelt.as_object_mut().expect("a job is an object").remove("trial");
        let huge = json!({"id": "x".repeat(300 * 1024)}).to_string();
        for (body, expected) in [
            (b"\xff\xfe\x00 no JSON".to_vec(), "JSON"),
            (b"".to_vec(), "JSON"),
            (b"[1, 2, 3]".to_vec(), ""),
            (misspelt.to_string().into_bytes(), "trail"),
            (huge.into_bytes(), ""),
        ] {
            let size = body.len();
            amqp.publish("", "gannet.v1.trials", &body, BasicProperties::default()).await?;
            let letter = amqp.take("gannet.v1.dead", LIMIT).await?;
            let letter: Value = serde_json::from_slice(&letter.data).context("read a dead letter")?;
            ensure!(letter["reason"] == "unreadable", "{size} bytes: {}", letter["reason"]);
            ensure!(letter["errors"].to_string().contains(expected), "it says why: {}", letter["errors"]);
            ensure!(letter["worker"] == "robust", "it says who: {}", letter["worker"]);
        }
        fleet.write("job.json", &studies::job("good", "poison", &dataset).to_string())?;
        fleet.gannet(&["submit", "job.json"]).await?;
        eventually(LIMIT, "the good job is done", async || {
            let results = fleet.results("poison")?;
            Ok(results.iter().any(|result| result["id"] == "good" && result["status"] == "done").then_some(()))
        })
        .await?;
        ensure!(amqp.ready("gannet.v1.dead").await? == 0, "nothing else was put away");
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn a_job_without_its_data_fails_and_says_so_to_its_client() {
    Fleet::run("a_job_without_its_data_fails_and_says_so_to_its_client", async |fleet| {
        let missing =
            json!({"key": format!("datasets/none/{0}/dataset.json", "0".repeat(64)), "sha256": "0".repeat(64)});
        let _worker = fleet.worker("honest")?;
        let amqp = fleet.amqp().await?;
        amqp.wait_for_consumer("gannet.v1.trials", LIMIT).await?;
        let mut replies = amqp.inbox().await?;
        let job = studies::job("lost", "missing", &missing).to_string();
        let properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_reply_to(replies.name().into())
            .with_correlation_id("mine".into());
        amqp.publish("gannet.v1.jobs", "gannet.v1.trials", job.as_bytes(), properties).await?;
        let reply = replies.next(LIMIT).await?;
        let answered = reply.properties.correlation_id().as_ref().is_some_and(|id| id.as_str() == "mine");
        ensure!(answered, "the answer repeats the correlation id");
        let result: Value = serde_json::from_slice(&reply.data)?;
        ensure!(result["id"] == "lost" && result["status"] == "failed", "the job failed: {result}");
        ensure!(result["error"]["code"] == "missing_object", "it says why: {result}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_somebody_damaged_in_the_store_is_no_fault_of_the_worker() {
    Fleet::run("what_somebody_damaged_in_the_store_is_no_fault_of_the_worker", async |fleet| {
        let (dataset, amqp) = (fleet.push_pictures().await?, fleet.amqp().await?);
        fleet.write("job.json", &studies::stateful_job("trial", "record", &dataset, 5).to_string())?;
        fleet.gannet(&["submit", "job.json"]).await?;
        fleet.put("runs/record/checkpoints/trial/000000.json", b"half of it")?;
        let mut worker = fleet.worker("one")?;
        let result = eventually(LIMIT, "the job fails", async || Ok(fleet.results("record")?.pop())).await?;
        ensure!(result["status"] == "failed" && result["error"]["code"] == "altered_object", "{result}");
        let dead = amqp.take("gannet.v1.dead", LIMIT).await?;
        ensure!(String::from_utf8_lossy(&dead.data).contains("altered_object"), "it says why");

        // Nobody can write another result, so all that is left is to put the job away.
        fleet.write("job.json", &studies::stateful_job("trial", "result", &dataset, 5).to_string())?;
        worker.terminate()?;
        worker.wait(LIMIT).await?;
        fleet.gannet(&["submit", "job.json"]).await?;
        fleet.put("runs/result/results/trial.json", b"half of it")?;
        let mut worker = fleet.worker("two")?;
        let dead = amqp.take("gannet.v1.dead", LIMIT).await?;
        ensure!(String::from_utf8_lossy(&dead.data).contains("altered_object"), "it says why");
        worker.must_run()
    })
    .await;
}
