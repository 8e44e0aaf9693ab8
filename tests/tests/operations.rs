//! What an operator does: cancels, drains, stops workers, looks after dead letters, cleans up, repeats an enqueue.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lapin::BasicProperties;
use serde_json::{Value, json};
use tests::{Fleet, Folder, Inbox, LIMIT, Pictures, Process, children_of, eventually, signal, studies};

/// Waits until a worker is in the middle of a trial of `run` and returns its last word.
async fn in_the_middle(progress: &mut Inbox, run: &str) -> Result<Value> {
    let middle = |word: &Value| {
        word["run"] == run && word["fraction"].as_f64().is_some_and(|fraction| (0.02..0.4).contains(&fraction))
    };
    progress.find(LIMIT, middle).await.context("no worker came to the middle of a trial")
}

/// Runs a command to its end and returns what it said on standard error.
async fn say(mut command: Process) -> Result<String> {
    let status = command.wait(LIMIT).await?;
    ensure!(status.success(), "it failed ({status}): {}", command.stderr());
    Ok(command.stderr())
}

/// Runs a command that must fail, and returns what it said on standard error.
async fn fail(mut command: Process) -> Result<String> {
    let status = command.wait(LIMIT).await?;
    ensure!(!status.success(), "it went well: {}{}", command.stdout(), command.stderr());
    Ok(command.stderr())
}

/// Likewise for one that cannot find out something now.
async fn not_known(mut command: Process) -> Result<String> {
    let status = command.wait(LIMIT).await?;
    ensure!(status.code() == Some(75), "it ended with {status}: {}", command.stderr());
    Ok(command.stderr())
}

#[tokio::test]
async fn a_cancelled_job_stops_and_nobody_starts_it_again() {
    Fleet::run("a_cancelled_job_stops_and_nobody_starts_it_again", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long())?;
        let mut worker = fleet.worker("one")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        let mut results = amqp.listen("gannet.v1.results", "#", LIMIT).await?;
        let tune = fleet.start(&["tune", "study.toml", "--run", "stop"])?;
        let word = in_the_middle(&mut progress, "stop").await?;
        let running = word["id"].as_str().context("progress names its job")?;
        let waiting = if running == "t0000" { "t0001" } else { "t0000" };

        let said = fail(fleet.start(&["cancel", "stop/t0009"])?).await?;
        ensure!(said.contains("no job `t0009`") && said.contains("did you mean"), "{said}");
        let said = say(fleet.start(&["cancel", &format!("stop/{waiting}")])?).await?;
        ensure!(said.contains("is cancelled: no worker runs it"), "the one that waits: {said}");
        let said = say(fleet.start(&["cancel", &format!("stop/{running}")])?).await?;
        ensure!(said.contains("it was running on one and has stopped"), "the one that runs: {said}");
        let said = say(fleet.start(&["cancel", &format!("stop/{running}")])?).await?;
        ensure!(said.contains("was cancelled already"), "twice: {said}");
        for _ in 0..2 {
            results.find(LIMIT, |result| result["status"] == "cancelled").await.context("collectors hear of it")?;
        }
        let said = fail(tune).await?;
        ensure!(said.contains("no trial of the run `stop` ended well"), "{said}");
        // The worker settles both letters.
        eventually(LIMIT, "the queue is empty and the worker idle", async || {
            Ok((amqp.ready("gannet.v1.trials").await? == 0).then_some(()))
        })
        .await?;
        worker.terminate()?;
        ensure!(worker.wait(LIMIT).await?.success(), "it ends well: {}", worker.stderr());
        let _late = fleet.worker("late")?;
        amqp.wait_for_consumer("gannet.v1.trials", LIMIT).await?;
        fleet.gannet(&["status"]).await?;
        let committed = fleet.results("stop")?;
        ensure!(
            committed.len() == 2 && committed.iter().all(|result| result["status"] == "cancelled"),
            "{committed:?}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_run_says_what_became_of_its_jobs() {
    Fleet::run("a_cancelled_run_says_what_became_of_its_jobs", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long())?;
        let _worker = fleet.worker("one")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        let tune = fleet.start(&["tune", "study.toml", "--run", "night"])?;
        in_the_middle(&mut progress, "night").await?;
        let said = say(fleet.start(&["cancel", "night"])?).await?;
        ensure!(said.contains("run night is cancelled: 1 dropped, 1 stopped, 0 were done"), "{said}");
        ensure!(fail(tune).await?.contains("was cancelled"), "the command that waits for the run ends");
        eventually(LIMIT, "the waiting job is dropped", async || {
            Ok((amqp.ready("gannet.v1.trials").await? == 0).then_some(()))
        })
        .await?;
        ensure!(fleet.results("night")?.is_empty(), "its jobs have no results");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_is_cancelled_in_a_folder_too() {
    Folder::run(async |folder| {
        let start = |name: &str, args: &[&str]| Process::start(name, "gannet", args, &[], folder.path());
        Pictures { train: 360, test: 90 }.write(&folder.path().join("pictures"))?;
        std::fs::write(folder.path().join("study.toml"), studies::long())?;
        start("push", &["data", "push", "pictures", "--name", "bars"])?.succeed(LIMIT).await?;
        let mut tune = start("tune", &["tune", "study.toml", "--run", "here", "--workers", "1"])?;
        eventually(LIMIT, "a trial runs", async || {
            tune.must_run()?;
            let status = start("status", &["status", "--format", "json"])?.succeed(LIMIT).await?;
            Ok(status.contains("here/t0000").then_some(()))
        })
        .await?;
        let said = say(start("cancel", &["cancel", "here/t0000"])?).await?;
        ensure!(said.contains("and has stopped"), "{said}");
        let said = say(start("cancel", &["cancel", "here/t0001"])?).await?;
        ensure!(said.contains("job here/t0001 is cancelled"), "{said}");
        ensure!(fail(tune).await?.contains("no trial of the run `here` ended well"));
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_drained_worker_ends_and_a_wrong_name_is_told() {
    Fleet::run("a_drained_worker_ends_and_a_wrong_name_is_told", async |fleet| {
        let (mut one, mut two) = (fleet.worker("one")?, fleet.worker("two")?);
        let amqp = fleet.amqp().await?;
        amqp.wait_for_consumer("gannet.v1.trials", LIMIT).await?;
        for worker in [&one, &two] {
            eventually(LIMIT, "it takes jobs", async || Ok(worker.stderr().contains("takes jobs").then_some(())))
                .await?;
        }
        let said = fail(fleet.start(&["drain", "onne"])?).await?;
        ensure!(said.contains("no worker `onne`") && said.contains("did you mean `one`?"), "{said}");
        let said = say(fleet.start(&["drain", "one"])?).await?;
        ensure!(said.contains("one has ended") && said.contains("1 workers have ended"), "{said}");
        ensure!(one.wait(LIMIT).await?.success(), "it ends well: {}", one.stderr());
        two.must_run()?;
        let said = say(fleet.start(&["drain", "--all"])?).await?;
        ensure!(said.contains("two has ended"), "{said}");
        ensure!(two.wait(LIMIT).await?.success(), "it ends well: {}", two.stderr());
        ensure!(fail(fleet.start(&["drain", "--all"])?).await?.contains("no worker was heard"));
        Ok(())
    })
    .await;
}

/// What a stop must never leave behind, and what it promises of the time.
async fn ends_in_time(worker: &mut Process) -> Result<()> {
    let begun = std::time::Instant::now();
    worker.terminate()?;
    worker.wait(LIMIT).await?;
    // Ten seconds are promised; a machine under load is late by some.
    ensure!(begun.elapsed() < Duration::from_secs(20), "it took {:?}: {}", begun.elapsed(), worker.stderr());
    Ok(())
}

#[tokio::test]
async fn a_stop_while_the_store_hangs_ends_in_time_and_costs_no_attempt() {
    Fleet::run("a_stop_while_the_store_hangs_ends_in_time_and_costs_no_attempt", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long())?;
        let mut first = fleet.worker("first")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        let tune = fleet.start(&["tune", "study.toml", "--run", "hung"])?;
        let word = in_the_middle(&mut progress, "hung").await?;
        signal("STOP", fleet.s3.pid())?;
        let ended = ends_in_time(&mut first).await;
        signal("CONT", fleet.s3.pid())?;
        ended?;
        ensure!(first.stderr().contains("a job is passed on"), "it says what it does: {}", first.stderr());
        eventually(LIMIT, "both letters lie on the queue", async || {
            Ok((amqp.ready("gannet.v1.trials").await? == 2).then_some(()))
        })
        .await?;

        let _second = fleet.worker("second")?;
        tune.succeed(2 * LIMIT).await?;
        let results = fleet.each_trial_once("hung", 2)?;
        let result = results.iter().find(|result| result["id"] == word["id"]).context("it has a result")?;
        ensure!(result["worker"] == "second" && result["attempt"] == 1, "no attempt was charged: {result}");
        ensure!(fleet.names("runs/hung/attempts")?.is_empty(), "none is recorded");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_ends_a_worker_at_once_and_loses_nothing() {
    Fleet::run("a_second_signal_ends_a_worker_at_once_and_loses_nothing", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long())?;
        let mut first = fleet.worker("first")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        let tune = fleet.start(&["tune", "study.toml", "--run", "twice"])?;
        in_the_middle(&mut progress, "twice").await?;
        // Without the store the first signal alone would take its time.
        signal("STOP", fleet.s3.pid())?;
        first.terminate()?;
        let drains = eventually(LIMIT, "it drains", async || Ok(first.stderr().contains("drains").then_some(()))).await;
        first.terminate()?;
        let status = first.wait(LIMIT).await;
        signal("CONT", fleet.s3.pid())?;
        drains?;
        ensure!(status?.code() == Some(130), "it ends at once: {}", first.stderr());
        let _second = fleet.worker("second")?;
        tune.succeed(2 * LIMIT).await?;
        fleet.each_trial_once("twice", 2)?;
        Ok(())
    })
    .await;
}

/// A job whose dataset is not there: a worker puts it away.
fn lost_job(id: &str) -> Value {
    let missing = json!({"key": format!("datasets/none/{0}/dataset.json", "0".repeat(64)), "sha256": "0".repeat(64)});
    studies::job(id, "missing", &missing)
}

/// The ids of dead letters that fit `filters`, by job.
async fn dead(fleet: &Fleet, filters: &[&str]) -> Result<Vec<(String, String)>> {
    let listed = fleet.gannet(&[&["dead", "list", "--format", "json"], filters].concat()).await?;
    let rows = listed.lines().map(|line| {
        let row: Value = serde_json::from_str(line)?;
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        Ok((text("job"), text("id")))
    });
    rows.collect()
}

#[tokio::test]
async fn dead_letters_are_listed_shown_put_back_and_dropped() {
    Fleet::run("dead_letters_are_listed_shown_put_back_and_dropped", async |fleet| {
        let _worker = fleet.worker("one")?;
        let amqp = fleet.amqp().await?;
        amqp.wait_for_consumer("gannet.v1.trials", LIMIT).await?;
        let publish = async |body: String| {
            amqp.publish("", "gannet.v1.trials", body.as_bytes(), BasicProperties::default()).await
        };
        publish("no job".into()).await?;
        publish(lost_job("a").to_string()).await?;
        publish(lost_job("b").to_string()).await?;
        eventually(LIMIT, "three are put away", async || Ok((amqp.ready("gannet.v1.dead").await? == 3).then_some(())))
            .await?;
        let all = dead(fleet, &[]).await?;
        ensure!(all.len() == 3 && dead(fleet, &[]).await? == all, "looking changes nothing: {all:?}");
        let jobs = async |filters: &[&str]| {
            let letters = dead(fleet, filters).await?;
            anyhow::Ok(letters.into_iter().map(|(job, _)| job).collect::<Vec<_>>())
        };
        ensure!(jobs(&["--run", "missing"]).await? == ["a", "b"]);
        ensure!(jobs(&["--reason", "unreadable"]).await? == [""]);
        ensure!(jobs(&["--kind", "batch"]).await?.is_empty() && jobs(&["--older", "1h"]).await?.is_empty());
        ensure!(jobs(&["missing/b"]).await? == ["b"]);
        let shown = fleet.gannet(&["dead", "show", "missing/a"]).await?;
        for words in ["missing/a (trial)", "reason   missing_object", "attempts 0 errors", "by one", "\"epochs\": 1"] {
            ensure!(shown.contains(words), "{words} must stand in {shown}");
        }
        let error = fail(fleet.start(&["dead", "show", "missing/c"])?).await?;
        ensure!(error.contains("no dead letter `missing/c`"), "{error}");

        // Its dataset is still not there: it fails again, with a result of its own.
        let failed = fleet.object("runs/missing/results/a.json")?;
        let said = say(fleet.start(&["dead", "replay", "missing/a"])?).await?;
        ensure!(said.contains("1 jobs are back"), "{said}");
        eventually(LIMIT, "it is put away again", async || {
            let again = fleet.object("runs/missing/results/a.json").is_ok_and(|result| result != failed);
            Ok((again && amqp.ready("gannet.v1.dead").await? == 3).then_some(()))
        })
        .await?;
        let error = fail(fleet.start(&["dead", "replay", "--reason", "unreadable"])?).await?;
        ensure!(error.contains("it can only be dropped"), "{error}");

        let error = fail(fleet.start(&["dead", "drop"])?).await?;
        ensure!(error.contains("all 3 dead letters") && error.contains("--yes"), "{error}");
        say(fleet.start(&["dead", "drop", "--reason", "unreadable"])?).await?;
        ensure!(jobs(&[]).await? == ["b", "a"], "the others stay in their order");
        say(fleet.start(&["dead", "drop", "--yes"])?).await?;
        ensure!(jobs(&[]).await?.is_empty());

        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_job_with_two_dead_letters_is_put_back_once_with_its_reply_queue() {
    Fleet::run("a_job_with_two_dead_letters_is_put_back_once_with_its_reply_queue", async |fleet| {
        // Nobody takes jobs; the first command declares the queues.
        fleet.gannet(&["dead", "list"]).await?;
        let amqp = fleet.amqp().await?;
        for (at, id) in [("2026-01-01T00:00:00Z", "a"), ("2026-01-02T00:00:00Z", "a"), ("2026-01-03T00:00:00Z", "b")] {
            let dead = json!({
                "kind": "trial", "reason": "failed", "errors": ["why"], "worker": "w", "at": at,
                "attempts": {"errors": 3}, "job": lost_job(id).to_string(),
                "reply": {"queue": "answers", "correlation_id": "7"},
            });
            amqp.publish("gannet.v1.dead", "", dead.to_string().as_bytes(), BasicProperties::default()).await?;
        }
        fleet.put("runs/missing/results/a.json", b"{ damaged")?;
        ensure!(fleet.gannet(&["dead", "show", "missing/b"]).await?.contains("reply to answers"));
        let said = say(fleet.start(&["dead", "replay", "missing/a"])?).await?;
        ensure!(said.contains("1 jobs are back") && said.contains("2 dead letters are removed"), "{said}");
        ensure!(said.contains("missing/a: its result counts as none and is removed"), "{said}");
        ensure!(fleet.names("runs/missing/results")?.is_empty());
        ensure!(amqp.ready("gannet.v1.trials").await? == 1 && amqp.ready("gannet.v1.dead").await? == 1);
        let letter = amqp.take("gannet.v1.trials", LIMIT).await?;
        let text = |value: &Option<_>| value.as_ref().map(ToString::to_string);
        ensure!(text(letter.properties.reply_to()).as_deref() == Some("answers"), "{letter:?}");
        ensure!(text(letter.properties.correlation_id()).as_deref() == Some("7"), "{letter:?}");
        ensure!(serde_json::from_slice::<Value>(&letter.data)?["id"] == "a");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_dead_letter_is_put_back_in_a_folder_too() {
    Folder::run(async |folder| {
        let start = |name: &str, args: &[&str]| Process::start(name, "gannet", args, &[], folder.path());
        Pictures { train: 360, test: 90 }.write(&folder.path().join("pictures"))?;
        start("push", &["data", "push", "pictures", "--name", "bars"])?.succeed(LIMIT).await?;
        let versions = folder.path().join(".gannet/store/datasets/bars");
        let digest = std::fs::read_to_string(versions.join("current"))?.trim().to_owned();
        let dataset = json!({"key": format!("datasets/bars/{digest}/dataset.json"), "sha256": digest});
        std::fs::write(folder.path().join("job.json"), studies::job("j", "once", &dataset).to_string())?;
        // Somebody moves its data away after it was enqueued, and brings them back.
        let (there, away) = (versions.join(&digest), folder.path().join("away"));
        start("submit", &["submit", "job.json"])?.succeed(LIMIT).await?;
        std::fs::rename(&there, &away)?;
        let worker = Process::start("worker", "gannet-worker", &["--slots", "1"], &[], folder.path())?;
        let list = async || start("list", &["dead", "list", "--format", "json"])?.succeed(LIMIT).await;
        eventually(LIMIT, "it is put away", async || Ok(list().await?.contains("missing_object").then_some(())))
            .await?;
        std::fs::rename(&away, &there)?;
        start("replay", &["dead", "replay", "once/j"])?.succeed(LIMIT).await?;
        let result = folder.path().join(".gannet/store/runs/once/results/j.json");
        eventually(LIMIT, "it is done", async || {
            let text = std::fs::read_to_string(&result).unwrap_or_default();
            Ok(text.contains("\"status\":\"done\"").then_some(()))
        })
        .await?;
        ensure!(list().await?.is_empty(), "nothing is left among the dead letters");
        drop(worker);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn leftovers_go_and_what_is_needed_stays() {
    Fleet::run("leftovers_go_and_what_is_needed_stays", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long())?;
        let mut worker = fleet.worker("one")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        let tune = fleet.start(&["tune", "study.toml", "--run", "night"])?;
        let word = in_the_middle(&mut progress, "night").await?;
        let job = word["id"].as_str().context("progress names its job")?;
        worker.terminate()?;
        worker.wait(LIMIT).await?;
        let folder = format!("runs/night/checkpoints/{job}");
        let tensors = |names: Vec<String>| names.into_iter().find(|name| name.ends_with(".safetensors"));
        ensure!(tensors(fleet.names(&folder)?).is_some(), "it has made a checkpoint");
        let listed = async |args: &[&str]| fleet.gannet(&[&["gc", "--format", "json"], args].concat()).await;
        ensure!(listed(&["--older", "0s"]).await?.is_empty(), "the job may go on from it");
        fleet.gannet(&["cancel", "night"]).await?;
        ensure!(fail(tune).await?.contains("was cancelled"));
        ensure!(listed(&[]).await?.is_empty(), "it is young");
        let found = listed(&["--older", "0s", "--dry-run"]).await?;
        ensure!(found.lines().count() == 1 && found.contains("its run is cancelled"), "{found}");
        ensure!(tensors(fleet.names(&folder)?).is_some(), "a dry run removes nothing");
        ensure!(listed(&["--older", "0s"]).await? == found);
        ensure!(tensors(fleet.names(&folder)?).is_none(), "it is gone");
        ensure!(listed(&["--older", "0s", "--versions"]).await?.is_empty(), "the dataset is in use");
        fleet.gannet(&["run", "delete", "night"]).await?;
        ensure!(listed(&["--older", "0s"]).await?.is_empty());
        ensure!(fleet.names("runs/night")? == ["cancelled"], "the tombstone stays");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_submitted_twice_is_enqueued_once_and_what_got_lost_again() {
    Fleet::run("what_is_submitted_twice_is_enqueued_once_and_what_got_lost_again", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        let jobs: Vec<Value> = (0..5).map(|n| studies::job(&format!("j{n}"), "many", &dataset)).collect();
        fleet.write("jobs.json", &json!(jobs).to_string())?;
        let submit = async |args: &[&str]| say(fleet.start(&[&["submit", "jobs.json"], args].concat())?).await;
        let said = submit(&[]).await?;
        ensure!(said.contains("5 jobs enqueued"), "{said}");
        let amqp = fleet.amqp().await?;
        ensure!(amqp.ready("gannet.v1.trials").await? == 5);
        let said = not_known(fleet.start(&["submit", "jobs.json"])?).await?;
        ensure!(said.contains("0 jobs enqueued"), "{said}");
        ensure!(said.contains("5 of the run `many`: 5 letters wait") && said.contains("--again"), "{said}");
        ensure!(amqp.ready("gannet.v1.trials").await? == 5, "none twice");
        // Somebody takes two away: as if the first command had died before they were published.
        amqp.take("gannet.v1.trials", LIMIT).await?;
        amqp.take("gannet.v1.trials", LIMIT).await?;
        let mut results = amqp.listen("gannet.v1.results", "#", LIMIT).await?;
        let _worker = fleet.worker("one")?;
        eventually(LIMIT, "three are done", async || Ok((fleet.results("many")?.len() == 3).then_some(()))).await?;
        let said = submit(&[]).await?;
        ensure!(said.contains("2 jobs enqueued") && said.contains("3 have results already"), "{said}");
        eventually(LIMIT, "all are done", async || Ok((fleet.results("many")?.len() == 5).then_some(()))).await?;
        for _ in 0..5 {
            results.next(LIMIT).await?;
        }
        ensure!(submit(&[]).await?.contains("5 have results already"));
        ensure!(results.next(Duration::from_millis(500)).await.is_err(), "nothing was computed or told twice");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_a_silent_worker_has_in_hand_is_not_lost() {
    Fleet::run("what_a_silent_worker_has_in_hand_is_not_lost", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        fleet.write("job.json", &studies::stateful_job("t", "silent", &dataset, 3000).to_string())?;
        let worker = fleet.worker("one")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "silent.progress", LIMIT).await?;
        let mut results = amqp.listen("gannet.v1.results", "#", LIMIT).await?;
        let submit = || fleet.start(&["submit", "job.json"]);
        say(submit()?).await?;
        progress.next(LIMIT).await?;
        // So that it does not end meanwhile.
        let executors = children_of(worker.pid());
        ensure!(!executors.is_empty());
        executors.iter().try_for_each(|pid| signal("STOP", *pid))?;
        let said = say(submit()?).await?;
        ensure!(said.contains("1 were enqueued before and wait or run"), "{said}");
        signal("STOP", worker.pid())?;
        let said = not_known(submit()?).await;
        signal("CONT", worker.pid())?;
        executors.iter().try_for_each(|pid| signal("CONT", *pid))?;
        let said = said?;
        ensure!(said.contains("1 of the run `silent`") && said.contains("submit the same again later"), "{said}");
        results.next(2 * LIMIT).await?;
        ensure!(say(submit()?).await?.contains("1 have results already"));
        ensure!(results.next(Duration::from_millis(500)).await.is_err(), "it was told once");
        ensure!(amqp.ready("gannet.v1.trials").await? == 0, "and has no second letter");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_study_whose_command_is_killed_is_taken_up_without_doubling() {
    Fleet::run("a_study_whose_command_is_killed_is_taken_up_without_doubling", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long())?;
        let _worker = fleet.worker("one")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        let mut tune = fleet.start(&["tune", "study.toml", "--run", "killed"])?;
        in_the_middle(&mut progress, "killed").await?;
        tune.kill()?;
        ensure!(amqp.ready("gannet.v1.trials").await? == 1, "one runs, one waits");
        let tune = fleet.start(&["tune", "study.toml", "--run", "killed"])?;
        eventually(LIMIT, "it takes the run up", async || {
            Ok(tune.stderr().contains("2 trials were enqueued before").then_some(()))
        })
        .await?;
        // With a second worker that has nothing else to do, a second letter of the trial that runs would be computed.
        let _second = fleet.worker("two")?;
        tune.succeed(2 * LIMIT).await?;
        let results = fleet.each_trial_once("killed", 2)?;
        let workers: Vec<&Value> = results.iter().map(|result| &result["worker"]).collect();
        ensure!(
            workers.contains(&&json!("one")) && workers.contains(&&json!("two")),
            "each has computed one: {workers:?}"
        );
        ensure!(amqp.ready("gannet.v1.trials").await? == 0);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_folder_knows_what_is_enqueued() {
    Folder::run(async |folder| {
        let start = |name: &str, args: &[&str]| Process::start(name, "gannet", args, &[], folder.path());
        Pictures { train: 360, test: 90 }.write(&folder.path().join("pictures"))?;
        start("push", &["data", "push", "pictures", "--name", "bars"])?.succeed(LIMIT).await?;
        let digest = std::fs::read_to_string(folder.path().join(".gannet/store/datasets/bars/current"))?;
        let digest = digest.trim();
        let dataset = json!({"key": format!("datasets/bars/{digest}/dataset.json"), "sha256": digest});
        let jobs: Vec<Value> = (0..3).map(|n| studies::job(&format!("j{n}"), "many", &dataset)).collect();
        std::fs::write(folder.path().join("jobs.json"), json!(jobs).to_string())?;
        ensure!(say(start("submit", &["submit", "jobs.json"])?).await?.contains("3 jobs enqueued"));
        ensure!(say(start("submit", &["submit", "jobs.json"])?).await?.contains("3 were enqueued before"));
        // The same file with --wait computes what was left there, once.
        let waited = start("wait", &["submit", "jobs.json", "--wait", "--format", "json"])?;
        ensure!(waited.succeed(LIMIT).await?.lines().count() == 3);
        let status = start("status", &["status", "--format", "json"])?.succeed(LIMIT).await?;
        ensure!(
            status.contains(r#""name":"gannet.v1.trials","ready":0,"unsettled":0"#),
            "no second letter is left: {status}"
        );
        Ok(())
    })
    .await;
}
