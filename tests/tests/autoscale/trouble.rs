//! What goes wrong with the broker and is not the workers' fault: they work on, and nobody is ended or started for it.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tests::observed::Observed;
use tests::{Amqp, Fleet, Inbox, LIMIT, Process, eventually, studies};

use super::{LAST, Things, autoscale, count, decisions, has_variable, publish, results, workers};

/// Publishes a trial that is computed for a while, and waits until it is.
async fn begin(amqp: &Amqp, progress: &mut Inbox, things: &Things, id: &str, epochs: u32) -> Result<()> {
    let mut job = studies::job(id, "bursts", &things.dataset);
    job["trial"]["training"]["epochs"] = json!(epochs);
    publish(amqp, "gannet.v1.trials", &job).await?;
    let is_first = |word: &Value| word["id"] == id && word["fraction"].as_f64().is_some_and(|done| done > 0.0);
    progress.find(LIMIT, is_first).await.context("the trial runs").map(drop)
}

/// What `gannet autoscale --health` says of the autoscaler that answers at an address.
async fn health(fleet: &Fleet, at: &Observed) -> Result<String> {
    let env = [("GANNET_METRICS".to_owned(), at.address().to_owned())];
    Process::start("health", "gannet", &["autoscale", "--health"], &env, fleet.path())?.succeed(LIMIT).await
}

#[tokio::test]
async fn an_alarm_of_the_broker_ends_and_starts_no_worker() {
    let name = "an_alarm_of_the_broker_ends_and_starts_no_worker";
    Fleet::run_with_own_broker(name, async |fleet| {
        let things = Things::push(fleet).await?;
        let amqp = fleet.amqp().await?;
        let mut scaler = autoscale(fleet, &["--min", "1", "--metrics-address", "127.0.0.1:0"])?;
        let at = Observed::of(&mut scaler).await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        amqp.wait_for_queue(LAST, LIMIT).await?;
        begin(&amqp, &mut progress, &things, "t0", 800).await?;
        health(fleet, &at).await?;
        let worker = workers(fleet);
        ensure!(worker.len() == 1 && has_variable(worker[0], "GANNET_WORKERS_HERE=2"), "one of two: {worker:?}");

        fleet.broker.alarm(true)?;
        let blocked = |one: &Value| one["action"] == "wait" && one["cause"] == "blocked";
        eventually(LIMIT, "the autoscaler says that nobody can be heard", async || {
            scaler.must_run()?;
            Ok(decisions(&scaler)?.iter().any(blocked).then_some(()))
        })
        .await?;
        let (status, why) = at.get("/readyz").await?;
        ensure!(status == 503 && why.contains("takes no messages"), "{status}: {why}");
        health(fleet, &at).await?;
        // What was computed meanwhile stands in the store; who waits for it hears of it later.
        results(fleet, &mut scaler, 1).await?;
        ensure!(at.get("/readyz").await?.0 == 503, "all that was in the alarm");
        fleet.broker.alarm(false)?;
        eventually(LIMIT, "it goes on", async || Ok((at.get("/readyz").await?.0 == 200).then_some(()))).await?;
        ensure!(workers(fleet) == worker, "the same worker: {}", scaler.stderr());
        ensure!(count(&scaler, "start")? == 1 && count(&scaler, "ask")? == 0, "{}", scaler.stderr());
        things.enqueue(&amqp, 1, 1, 1).await?;
        results(fleet, &mut scaler, 3).await?;
        for action in ["stop", "kill"] {
            ensure!(count(&scaler, action)? == 0, "nobody was ended: {}", scaler.stderr());
        }
        let warned = scaler.stderr().matches("does not see what there is to do").count();
        ensure!(warned == 1, "it is said once, not {warned} times: {}", scaler.stderr());
        scaler.terminate()?;
        ensure!(scaler.wait(LIMIT).await?.success(), "{}", scaler.stderr());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_refusal_ends_no_worker() {
    Fleet::run("a_refusal_ends_no_worker", async |fleet| {
        let things = Things::push(fleet).await?;
        let amqp = fleet.amqp().await?;
        // The autoscaler has a user of its own, and its address in a file.
        let url = fleet.amqp_url();
        let vhost = url.rsplit_once('/').context("an address with a virtual host")?.1;
        let user = format!("scaler-{vhost}");
        let address = |password: &str| format!("amqp://{user}:{password}@{}/{vhost}", fleet.broker.host());
        fleet.broker.add_user(&user, "first", vhost)?;
        let file = fleet.write("address", &address("wrong"))?;
        let mut env = fleet.env();
        env.retain(|(variable, _)| variable != "GANNET_AMQP_URL");
        env.push(("GANNET_AMQP_URL_FILE".into(), file.display().to_string()));
        let of_workers = format!("GANNET_AMQP_URL={url}");
        let start = |more: &[&str]| {
            let mut args = vec!["autoscale", "--processes", "--max", "2", "--min", "1", "--idle", "1s"];
            args.extend(["--logs", "logs", "--format", "json"]);
            args.extend(["--env", &of_workers, "--env", "GANNET_AMQP_URL_FILE="]);
            args.extend(more);
            Process::start("gannet", "gannet", &args, &env, fleet.path())
        };

        // From the first: an error, and who runs is left alone.
        fleet.write("address", &address("first"))?;
        let mut leaves = start(&["--leave"])?;
        amqp.wait_for_queue(LAST, LIMIT).await?;
        eventually(LIMIT, "a worker runs", async || Ok((workers(fleet).len() == 1).then_some(()))).await?;
        leaves.terminate()?;
        ensure!(leaves.wait(LIMIT).await?.success(), "{}", leaves.stderr());
        let left = workers(fleet);
        fleet.write("address", &address("wrong"))?;
        let mut wrong = start(&[])?;
        ensure!(!wrong.wait(LIMIT).await?.success(), "it ends with an error");
        ensure!(wrong.stderr().contains("ACCESS_REFUSED"), "{}", wrong.stderr());
        ensure!(left.len() == 1 && workers(fleet) == left, "the worker stays: {}", wrong.stderr());

        // In the middle of a job: it is said once, and everything goes on.
        fleet.write("address", &address("first"))?;
        let mut scaler = start(&[])?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        begin(&amqp, &mut progress, &things, "t0", 400).await?;
        eventually(LIMIT, "it finds the worker", async || Ok((count(&scaler, "adopt")? == 1).then_some(()))).await?;
        fleet.broker.change_password(&user, "second")?;
        eventually(LIMIT, "it is refused", async || {
            scaler.must_run()?;
            Ok(scaler.stderr().contains("the queue refuses: tries again").then_some(()))
        })
        .await?;
        results(fleet, &mut scaler, 1).await?;
        ensure!(workers(fleet) == left, "the same worker: {}", scaler.stderr());
        fleet.write("address", &address("second"))?;
        eventually(LIMIT, "it goes on by itself", async || {
            scaler.must_run()?;
            Ok(scaler.stderr().contains("the queue is seen again").then_some(()))
        })
        .await?;
        ensure!(scaler.stderr().matches("the queue refuses").count() == 1, "once: {}", scaler.stderr());
        for action in ["start", "ask", "stop", "kill"] {
            ensure!(count(&scaler, action)? == 0, "{action}: {}", scaler.stderr());
        }
        ensure!(workers(fleet) == left, "the same worker");
        scaler.terminate()?;
        ensure!(scaler.wait(LIMIT).await?.success(), "{}", scaler.stderr());
        ensure!(workers(fleet).is_empty(), "its own end is its workers'");
        fleet.broker.delete_user(&user)
    })
    .await;
}
