//! Lines that are cut, slow, narrow or dead, and a store in trouble: work goes on, nothing is lost, nobody waits for ever.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::s3_server::{Fault, Rule};
use tests::{Fleet, Inbox, LIMIT, Lines, Process, Trouble, eventually, studies};

/// Heartbeats of two seconds, so that a dead broker is noticed soon; fifteen are usual.
fn with_short_heartbeats(lines: &Lines) -> (String, String) {
    let (variable, url) = lines.env().swap_remove(0);
    (variable, format!("{url}?heartbeat=2"))
}

/// A worker on `lines`, its log for people, its cache its own.
fn worker(fleet: &Fleet, name: &str, lines: &Lines) -> Result<Process> {
    let (variable, url) = with_short_heartbeats(lines);
    let cache = fleet.path().join(format!("cache-{name}")).display().to_string();
    fleet.worker_on(name, lines, &[(&variable, &url), ("GANNET_CACHE", &cache), ("GANNET_SLICE", "1s")])
}

async fn in_the_middle(progress: &mut Inbox, run: &str) -> Result<Value> {
    let middle =
        |word: &Value| word["run"] == run && word["fraction"].as_f64().is_some_and(|f| (0.02..0.4).contains(&f));
    progress.find(LIMIT, middle).await.context("no worker came to the middle of a trial")
}

/// Waits until there are `count` results of `run`, each of them done, and no dead letter.
async fn all_done(fleet: &Fleet, run: &str, count: usize) -> Result<Vec<Value>> {
    let results = eventually(2 * LIMIT, "every job has a result", async || {
        Ok(Some(fleet.results(run)?).filter(|results| results.len() == count))
    })
    .await?;
    for result in &results {
        ensure!(result["status"] == "done", "a job is not done: {}", result["error"]);
    }
    ensure!(fleet.amqp().await?.ready("gannet.v1.dead").await? == 0, "a healthy job was put away");
    Ok(results)
}

async fn submit(fleet: &Fleet, run: &str, dataset: &Value, jobs: usize, epochs: u32) -> Result<()> {
    let job = |n: usize| studies::stateful_job(&format!("t{n}"), run, dataset, epochs);
    fleet.write("jobs.json", &Value::from_iter((0..jobs).map(job)).to_string())?;
    fleet.gannet(&["submit", "jobs.json"]).await.map(drop)
}

#[tokio::test]
async fn a_dead_line_to_the_store_is_said_and_the_job_goes_on() {
    Fleet::run("a_dead_line_to_the_store_is_said_and_the_job_goes_on", async |fleet| {
        let (dataset, lines) = (fleet.push_pictures().await?, fleet.lines().await?);
        let mut worker = worker(fleet, "patient", &lines)?;
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "#", LIMIT).await?;
        submit(fleet, "dead", &dataset, 1, 3000).await?;
        in_the_middle(&mut progress, "dead").await?;
        lines.store.forget();
        all_done(fleet, "dead", 1).await?;
        worker.must_run()?;
        ensure!(lines.store.unheard() > 0, "the worker spoke into the void");
        ensure!(worker.stderr().contains("the store does not answer"), "it says so: {}", worker.stderr());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_dead_line_to_the_broker_is_noticed() {
    Fleet::run("a_dead_line_to_the_broker_is_noticed", async |fleet| {
        let (dataset, lines) = (fleet.push_pictures().await?, fleet.lines().await?);
        let mut worker = worker(fleet, "patient", &lines)?;
        let amqp = fleet.amqp().await?;
        amqp.wait_for_consumer("gannet.v1.trials", LIMIT).await?;
        lines.broker.forget();
        // The broker gives this letter to a consumer that is gone, and takes it back when it notices.
        submit(fleet, "gone", &dataset, 2, 5).await?;
        all_done(fleet, "gone", 2).await?;
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn a_worker_that_was_cut_off_drops_what_others_have_done() {
    Fleet::run("a_worker_that_was_cut_off_drops_what_others_have_done", async |fleet| {
        let (dataset, lines) = (fleet.push_pictures().await?, fleet.lines().await?);
        let mut first = worker(fleet, "first", &lines)?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        submit(fleet, "parted", &dataset, 1, 3000).await?;
        in_the_middle(&mut progress, "parted").await?;
        lines.set(Trouble::Silent);
        // Once the broker has given the worker up, its letter waits for another.
        eventually(
            LIMIT,
            "the letter is back",
            async || Ok((amqp.ready("gannet.v1.trials").await? == 1).then_some(())),
        )
        .await?;
        let second = fleet.worker_with("second", &[("GANNET_SLICE", "1s")])?;
        let results = all_done(fleet, "parted", 1).await?;
        ensure!(results[0]["worker"] == "second", "{}", results[0]["worker"]);
        drop(second);
        lines.set(Trouble::None);
        submit(fleet, "together", &dataset, 1, 5).await?;
        ensure!(all_done(fleet, "together", 1).await?[0]["worker"] == "first", "the first works again");
        ensure!(fleet.results("parted")? == results, "the result stays as it was");
        first.must_run()
    })
    .await;
}

#[tokio::test]
async fn slow_and_narrow_lines_and_answers_that_break_off_only_cost_time() {
    Fleet::run("slow_and_narrow_lines_and_answers_that_break_off_only_cost_time", async |fleet| {
        let (dataset, lines) = (fleet.push_pictures().await?, fleet.lines().await?);
        let mut worker = worker(fleet, "slow", &lines)?;
        fleet.amqp().await?.wait_for_consumer("gannet.v1.trials", LIMIT).await?;
        for (run, trouble) in
            [("slow", Trouble::Slow(Duration::from_millis(60))), ("narrow", Trouble::Narrow(60 * 1024))]
        {
            lines.set(trouble);
            submit(fleet, run, &dataset, 2, 40).await?;
            all_done(fleet, run, 2).await?;
        }
        lines.set(Trouble::None);
        for line in [&lines.store, &lines.broker] {
            line.break_answers(3);
        }
        submit(fleet, "broken", &dataset, 3, 40).await?;
        all_done(fleet, "broken", 3).await?;
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn a_store_in_trouble_is_waited_for() {
    Fleet::run("a_store_in_trouble_is_waited_for", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        let mut worker = fleet.worker_with("patient", &[("GANNET_SLICE", "300ms")])?;
        // It starts on a sound store only: at its start it looks whether the store keeps its promises, many times at once.
        eventually(LIMIT, "the worker takes jobs", async || Ok(worker.stderr().contains("takes jobs").then_some(())))
            .await?;
        let answer = |code: &str| Fault::Answer(code.into());
        let troubles = [
            ("busy", Rule::every(2, answer("SlowDown"))),
            ("ill", Rule::every(3, answer("InternalError"))),
            // What was written is told as failed: the writer has to know its own work again.
            ("deaf", Rule::every(2, Fault::LostAnswer)),
        ];
        for (run, rule) in troubles {
            submit(fleet, run, &dataset, 3, 200).await?;
            fleet.s3.go_wrong(&[rule])?;
            all_done(fleet, run, 3).await?;
            fleet.s3.go_wrong(&[])?;
        }
        // Longer than any request tries.
        fleet.s3.go_wrong(&[Rule::every(1, answer("SlowDown"))])?;
        let out = submit(fleet, "out", &dataset, 1, 5).await;
        ensure!(out.is_err(), "without its store the command fails");
        eventually(LIMIT, "the worker says that it waits", async || {
            Ok(worker.stderr().contains("waits and tries again").then_some(()))
        })
        .await?;
        fleet.s3.go_wrong(&[])?;
        submit(fleet, "out", &dataset, 1, 5).await?;
        all_done(fleet, "out", 1).await?;
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn expired_credentials_are_told_once_and_the_job_goes_to_another() {
    Fleet::run("expired_credentials_are_told_once_and_the_job_goes_to_another", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        let mut worker = fleet.worker_with("expired", &[("GANNET_SLICE", "300ms")])?;
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "#", LIMIT).await?;
        submit(fleet, "expired", &dataset, 3, 3000).await?;
        in_the_middle(&mut progress, "expired").await?;
        fleet.s3.go_wrong(&[Rule::every(1, Fault::Answer("ExpiredToken".into()))])?;
        let status = worker.wait(LIMIT).await?;
        ensure!(status.code() == Some(1), "it ends with an error, not with {status}: {}", worker.stderr());
        let errors: Vec<String> =
            worker.stderr().lines().filter(|line| line.contains("ERROR")).map(str::to_owned).collect();
        ensure!(errors.len() == 1, "it says so once: {errors:?}");
        ensure!(errors[0].contains("ExpiredToken") && errors[0].contains("AWS_"), "it says what to check: {errors:?}");
        fleet.s3.go_wrong(&[])?;
        let _other = fleet.worker("other")?;
        for result in all_done(fleet, "expired", 3).await? {
            ensure!(result["attempt"] == 1, "no attempt is charged to {}: {}", result["id"], result["attempt"]);
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_object_that_is_altered_on_its_way_is_fetched_again_and_one_that_is_altered_fails_its_job() {
    let name = "an_object_that_is_altered_on_its_way_is_fetched_again_and_one_that_is_altered_fails_its_job";
    Fleet::run(name, async |fleet| {
        let dataset = fleet.push_pictures().await?;
        let lines = fleet.lines().await?;
        for (run, fault) in [("altered", Fault::Altered), ("truncated", Fault::Truncated)] {
            // The command reads the manifest, too.
            submit(fleet, run, &dataset, 1, 5).await?;
            fleet.s3.go_wrong(&[Rule::reading("datasets/", u64::MAX, fault.clone())])?;
            let mut first = worker(fleet, run, &lines)?;
            all_done(fleet, run, 1).await?;
            ensure!(first.stderr().contains("fetches an object once more"), "{}", first.stderr());
            first.terminate()?;
            first.wait(LIMIT).await?;

            let run = format!("{run}-for-good");
            fleet.s3.go_wrong(&[])?;
            submit(fleet, &run, &dataset, 1, 5).await?;
            fleet.s3.go_wrong(&[Rule::reading("datasets/", 1, fault)])?;
            let second = worker(fleet, &run, &lines)?;
            let result = eventually(LIMIT, "the job fails", async || Ok(fleet.results(&run)?.pop())).await?;
            ensure!(result["error"]["code"] == "altered_object", "{result}");
            fleet.amqp().await?.take("gannet.v1.dead", LIMIT).await?;
            drop(second);
            fleet.s3.go_wrong(&[])?;
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_note_whose_answer_was_lost_is_ones_own() {
    Fleet::run("a_note_whose_answer_was_lost_is_ones_own", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        let note = Rule {
            operation: Some("PutObject".into()),
            key: Some("/enqueued/".into()),
            every: u64::MAX,
            fault: Fault::LostAnswer,
        };
        fleet.s3.go_wrong(&[note])?;
        submit(fleet, "noted", &dataset, 3, 1).await?;
        ensure!(fleet.s3.requests("PutObject", ".json")? > 1, "the note was written twice");
        ensure!(fleet.amqp().await?.ready("gannet.v1.trials").await? == 3, "every job is on the queue");
        let _worker = fleet.worker("one")?;
        all_done(fleet, "noted", 3).await.map(drop)
    })
    .await;
}

#[tokio::test]
async fn an_object_that_the_store_refuses_is_its_jobs_fault() {
    Fleet::run("an_object_that_the_store_refuses_is_its_jobs_fault", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        // What is submitted is looked at.
        submit(fleet, "archived", &dataset, 1, 1).await?;
        fleet.s3.go_wrong(&[Rule::reading("datasets/", 1, Fault::Answer("InvalidObjectState".into()))])?;
        let mut worker = fleet.worker("one")?;
        let result = eventually(LIMIT, "the job has a result", async || Ok(fleet.results("archived")?.pop())).await?;
        ensure!(result["status"] == "failed", "{result}");
        ensure!(result["error"].to_string().contains("InvalidObjectState"), "it says why: {result}");
        worker.must_run()?;
        fleet.s3.go_wrong(&[])?;
        submit(fleet, "next", &dataset, 1, 1).await?;
        eventually(LIMIT, "the worker goes on", async || Ok(fleet.results("next")?.pop())).await.map(drop)
    })
    .await;
}
