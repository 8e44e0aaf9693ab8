//! Executors die alone, and disks are full: the worker says what it was and goes on.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    Fleet, Inbox, LIMIT, Process, SmallDisk, children_of, eventually, json_lines, signal, skipped, studies,
    write_colour, write_model,
};

/// Waits until a worker computes a job of `run`.
async fn begun(progress: &mut Inbox, run: &str) -> Result<()> {
    let begun = |word: &Value| word["run"] == run && word["fraction"].as_f64() > Some(0.0);
    progress.find(LIMIT, begun).await.map(drop).with_context(|| format!("a job of {run} begins"))
}

/// Waits until a worker has logged `text`.
async fn logs(worker: &mut Process, text: &str) -> Result<()> {
    eventually(LIMIT, &format!("the worker says `{text}`"), async || {
        worker.must_run()?;
        Ok(worker.stderr().contains(text).then_some(()))
    })
    .await
}

/// The only result of `run`, once it is there. Nothing was counted against its job but `attempt` - 1 crashes.
async fn done_after(fleet: &Fleet, run: &str, attempt: u64) -> Result<Value> {
    let result = eventually(LIMIT, "the job has a result", async || Ok(fleet.results(run)?.pop())).await?;
    ensure!(result["status"] == "done" && result["attempt"] == attempt, "done in attempt {attempt}: {result}");
    let id = result["id"].as_str().context("a result names its job")?;
    ensure!(fleet.names(&format!("runs/{run}/attempts/{id}"))?.is_empty(), "no loss of a worker was recorded");
    Ok(result)
}

async fn submit_trial(fleet: &Fleet, run: &str, dataset: &Value, epochs: u32) -> Result<()> {
    fleet.write("job.json", &studies::stateful_job("trial", run, dataset, epochs).to_string())?;
    fleet.gannet(&["submit", "job.json"]).await.map(drop)
}

/// The model `colours`, and a list of `count` names of one large picture.
async fn pictures(fleet: &Fleet, count: usize) -> Result<()> {
    write_model(&fleet.path().join("colours"), ["red", "blue"])?;
    fleet.gannet(&["model", "push", "colours", "colours"]).await?;
    write_colour(&fleet.path().join("large.bmp"), 1600, [250, 10, 10])?;
    fleet.write("list.txt", &"large.bmp\n".repeat(count)).map(drop)
}

#[tokio::test]
async fn an_executor_that_dies_costs_its_job_a_crash_and_the_worker_goes_on() {
    Fleet::run("an_executor_that_dies_costs_its_job_a_crash_and_the_worker_goes_on", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        submit_trial(fleet, "crashed", &dataset, 4000).await?;
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "#", LIMIT).await?;
        let mut worker = fleet.worker("hardy")?;
        begun(&mut progress, "crashed").await?;
        for executor in children_of(worker.pid()) {
            signal("ABRT", executor)?;
        }
        logs(&mut worker, "the executor died: signal 6 (SIGABRT)").await?;
        done_after(fleet, "crashed", 2).await?;
        worker.must_run()
    })
    .await;
}

/// Also those that were there before the filter.
#[tokio::test]
async fn every_thread_of_an_executor_is_behind_the_filter() {
    Fleet::run("every_thread_of_an_executor_is_behind_the_filter", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        submit_trial(fleet, "locked", &dataset, 4000).await?;
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "#", LIMIT).await?;
        let worker = fleet.worker("jailer")?;
        begun(&mut progress, "locked").await?;
        let mut threads = 0;
        for executor in children_of(worker.pid()) {
            for thread in std::fs::read_dir(format!("/proc/{executor}/task"))? {
                let status = std::fs::read_to_string(thread?.path().join("status"))?;
                // 2: a filter.
                ensure!(status.contains("\nSeccomp:\t2\n"), "a thread without a filter: {status}");
                threads += 1;
            }
        }
        ensure!(threads > 1, "executors have several threads: {threads}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn an_executor_that_hangs_ends_with_its_worker() {
    Fleet::run("an_executor_that_hangs_ends_with_its_worker", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        submit_trial(fleet, "hung", &dataset, 4000).await?;
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "#", LIMIT).await?;
        let mut victim = fleet.worker("victim")?;
        begun(&mut progress, "hung").await?;
        let executors = children_of(victim.pid());
        ensure!(!executors.is_empty(), "the worker has an executor");
        for executor in &executors {
            // It no longer sees that its standard input closes.
            signal("STOP", *executor)?;
        }
        victim.kill()?;
        eventually(LIMIT, "the victim's executors are gone", async || {
            let alive = executors.iter().any(|pid| std::path::Path::new(&format!("/proc/{pid}/exe")).exists());
            Ok((!alive).then_some(()))
        })
        .await
    })
    .await;
}

#[tokio::test]
async fn an_executor_out_of_time_or_memory_is_told_among_the_dead_letters() {
    Fleet::run("an_executor_out_of_time_or_memory_is_told_among_the_dead_letters", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        pictures(fleet, 1000).await?;
        let variables = [("GANNET_TIME_LIMIT", "1s"), ("GANNET_EXECUTOR_MIB", "256")];
        let mut worker = fleet.worker_with("strict", &variables)?;
        // Parameters of half a gigabyte.
        let mut large = studies::job("large", "memory", &dataset);
        large["trial"]["network"] = serde_json::json!({"layers": [
            {"type": "flatten"}, {"type": "linear", "units": 11_000}, {"type": "linear", "units": 11_000},
            {"type": "linear", "units": 3}
        ]});
        fleet.write("job.json", &large.to_string())?;
        fleet.gannet(&["submit", "job.json"]).await?;
        let classify =
            fleet.start(&["classify", "@list.txt", "--model", "colours", "--batch-size", "1000", "--run", "time"])?;
        let letters = eventually(LIMIT, "both jobs are dead", async || {
            worker.must_run()?;
            let letters = json_lines(&fleet.gannet(&["dead", "list", "--format", "json"]).await?)?;
            Ok((letters.len() == 2).then_some(letters))
        })
        .await?;
        for (reason, said) in [("out_of_memory", "256 MiB were full"), ("time_limit", "% were done after 1s")] {
            let letter = letters.iter().find(|letter| letter["reason"] == reason);
            let letter = letter.with_context(|| format!("one is dead of {reason}: {letters:?}"))?;
            ensure!(letter["error"].as_str().is_some_and(|error| error.contains(said)), "it says why: {letter}");
            ensure!(letter["crashes"] == 3 && letter["errors"] == 0, "each attempt was a crash: {letter}");
        }
        drop(classify);
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn executors_are_replaced_after_so_many_jobs() {
    Fleet::run("executors_are_replaced_after_so_many_jobs", async |fleet| {
        pictures(fleet, 12).await?;
        let variables = [("GANNET_RECYCLE_JOBS", "2"), ("GANNET_LOG", "worker=debug")];
        let mut worker = fleet.worker_with("fresh", &variables)?;
        let args = ["classify", "@list.txt", "--model", "colours", "--batch-size", "1", "--run", "recycled"];
        let lines = fleet.gannet(&args).await?;
        ensure!(json_lines(&lines)?.len() == 12, "one line a picture: {lines}");
        ensure!(fleet.results("recycled")?.iter().all(|result| result["attempt"] == 1), "nobody is blamed");
        let replaced = worker.stderr().matches("an executor is worn").count();
        ensure!(replaced >= 3, "replaced {replaced} times");
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn a_worker_of_executors_with_a_full_disk_waits_and_charges_nobody() {
    let test = "a_worker_of_executors_with_a_full_disk_waits_and_charges_nobody";
    Fleet::run(test, async |fleet| {
        let folder = fleet.path().join("small");
        let small = match SmallDisk::mount(&folder, 1024) {
            Ok(small) => small,
            Err(reason) => {
                skipped(test, &reason);
                return Ok(());
            }
        };
        let dataset = fleet.push_pictures().await?;
        let cache = folder.display().to_string();
        let mut worker = fleet.worker_with("patient", &[("GANNET_CACHE", &cache), ("GANNET_SLICE", "1s")])?;
        let amqp = fleet.amqp().await?;
        amqp.wait_for_consumer("gannet.v1.trials", LIMIT).await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;

        let filler = small.fill()?;
        submit_trial(fleet, "fetch", &dataset, 1).await?;
        logs(&mut worker, "is full: free some space").await?;
        ensure!(fleet.results("fetch")?.is_empty(), "there was no room for its data");
        std::fs::remove_file(filler)?;
        done_after(fleet, "fetch", 1).await?;

        submit_trial(fleet, "write", &dataset, 3000).await?;
        begun(&mut progress, "write").await?;
        let filler = small.fill()?;
        logs(&mut worker, "the disk is full: what was computed waits").await?;
        ensure!(fleet.results("write")?.is_empty(), "there was no room for its checkpoint");
        std::fs::remove_file(filler)?;
        done_after(fleet, "write", 1).await?;
        ensure!(amqp.ready("gannet.v1.dead").await? == 0, "no healthy job was buried");
        worker.must_run()
    })
    .await;
}
