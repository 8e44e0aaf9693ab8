//! A fleet that is replaced while it works: by programs of the same contract, and by those of the next one.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Fleet, LIMIT, Process, eventually, json_lines, skipped, studies};

/// What lets a program play one of the next contract.
const NEXT: (&str, &str) = ("GANNET_TEST_CONTRACT", "v2");

/// A command of the next contract.
fn next(fleet: &Fleet, args: &[&str]) -> Result<Process> {
    let mut env = fleet.env();
    env.push((NEXT.0.into(), NEXT.1.into()));
    Process::start("gannet of the next contract", "gannet", args, &env, fleet.path())
}

async fn takes_jobs(worker: &Process) -> Result<()> {
    eventually(LIMIT, "it takes jobs", async || Ok(worker.stderr().contains("takes jobs").then_some(()))).await
}

/// Who computed the results of a run.
fn workers_of(fleet: &Fleet, run: &str) -> Result<BTreeSet<String>> {
    let name = |result: &Value| result["worker"].as_str().map(ToOwned::to_owned).context("a worker");
    fleet.results(run)?.iter().map(name).collect()
}

#[tokio::test]
async fn fleets_of_two_contracts_share_a_broker_and_a_store() {
    Fleet::run("fleets_of_two_contracts_share_a_broker_and_a_store", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::quick())?;
        // Jobs of both contracts wait before any worker is there.
        let before = fleet.start(&["tune", "study.toml", "--run", "before"])?;
        let after = next(fleet, &["tune", "study.toml", "--run", "after"])?;
        let amqp = fleet.amqp().await?;
        for queue in ["gannet.v1.trials", "gannet.v2.trials"] {
            amqp.wait_for_queue(queue, LIMIT).await?;
            eventually(LIMIT, "jobs wait", async || Ok((amqp.ready(queue).await? > 0).then_some(()))).await?;
        }
        let mut new = fleet.worker_with("new", &[NEXT])?;
        after.succeed(LIMIT).await?;
        ensure!(amqp.ready("gannet.v1.trials").await? > 0, "the new fleet leaves the old one's jobs");
        ensure!(fleet.results("before")?.is_empty(), "nobody computed them");
        let mut old = fleet.worker("old")?;
        before.succeed(LIMIT).await?;
        for (run, worker) in [("before", "old"), ("after", "new")] {
            fleet.each_trial_once(run, 4)?;
            let workers = workers_of(fleet, run)?;
            ensure!(workers == [worker.to_owned()].into(), "the jobs of {run} were computed by {workers:?}");
        }
        // Each sees its own workers, and both all runs: these lie in the store.
        for (own, status) in [
            ("old", fleet.gannet(&["status", "--format", "json"]).await?),
            ("new", next(fleet, &["status", "--format", "json"])?.succeed(LIMIT).await?),
        ] {
            let rows = json_lines(&status)?;
            let named = |kind: &str| -> BTreeSet<&str> {
                rows.iter().filter(|row| row["what"] == kind).filter_map(|row| row["name"].as_str()).collect()
            };
            ensure!(named("worker") == [own].into(), "{status}");
            ensure!(named("run") == ["after", "before"].into(), "{status}");
        }
        for worker in [&mut old, &mut new] {
            worker.terminate()?;
            ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.stderr());
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_rolling_restart_loses_no_slice() {
    const NAME: &str = "a_rolling_restart_loses_no_slice";
    Fleet::run(NAME, async |fleet| {
        const ROUNDS: usize = 3;
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long())?;
        let mut fleet_of_two = [fleet.worker("first-0")?, fleet.worker("second-0")?];
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "rolling.progress", LIMIT).await?;
        let tune = fleet.start(&["tune", "study.toml", "--run", "rolling"])?;
        // For each trial how far it has come; and what went back.
        let (far, back) = (RefCell::new(BTreeMap::<String, f64>::new()), RefCell::new(Vec::new()));
        let hear = |word: &Value| {
            let (Some(id), Some(fraction)) = (word["id"].as_str(), word["fraction"].as_f64()) else { return };
            let mut far = far.borrow_mut();
            let before = far.entry(id.to_owned()).or_default();
            // A slice may tell once more where the last one ended.
            if fraction < *before {
                back.borrow_mut().push(format!("{id} fell from {before} to {word}"));
            }
            *before = before.max(fraction);
        };
        for round in 1..=ROUNDS {
            for (place, name) in ["first", "second"].iter().enumerate() {
                // Both trials have moved since the last restart, so that each drain ends a slice with work in it.
                let since = far.borrow().clone();
                let moved = |word: &Value| {
                    hear(word);
                    let far = far.borrow();
                    far.len() == 2 && far.iter().all(|(id, now)| since.get(id).is_none_or(|before| now > before))
                };
                progress.find(LIMIT, moved).await.context("both trials move on")?;
                let new = fleet.worker(&format!("{name}-{round}"))?;
                takes_jobs(&new).await?;
                let mut old = std::mem::replace(&mut fleet_of_two[place], new);
                old.terminate()?;
                ensure!(old.wait(LIMIT).await?.success(), "{}", old.stderr());
                if old.stderr().contains("some slots do not end") {
                    skipped(
                        NAME,
                        "this machine was too busy for a worker to end in ten seconds, and so a slice went back",
                    );
                    return Ok(());
                }
            }
        }
        let all = far.borrow().values().all(|far| *far < 1.0);
        ensure!(all, "the trials were too short to be restarted {ROUNDS} times: {far:?}");
        tune.succeed(3 * LIMIT).await?;
        let both_done = |word: &Value| {
            hear(word);
            far.borrow().values().all(|far| *far >= 1.0)
        };
        progress.find(LIMIT, both_done).await.context("both trials come to their end")?;
        ensure!(back.borrow().is_empty(), "work was done twice: {:?}", back.borrow());
        let results = fleet.each_trial_once("rolling", 2)?;
        for result in results.iter().filter(|result| !result["outcome"]["trial"]["validation"].is_null()) {
            let slices = result["outcome"]["trial"]["slices"].as_u64().context("slices")?;
            ensure!(
                result["attempt"] == 1 && slices > ROUNDS as u64,
                "an attempt was charged, or a slice is missing: {result}"
            );
        }
        Ok(())
    })
    .await;
}
