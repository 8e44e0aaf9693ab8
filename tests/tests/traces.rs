//! Each job is one trace, from `enqueue` to `collect`, whatever happens to it on its way.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::collector::{Collector, Seen};
use tests::{Fleet, LIMIT, Process, children_of, eventually, signal, studies};

/// Of a trial, so many that it can be caught in the middle.
const EPOCHS: usize = 200;

/// Whether a job moves on.
fn begun(progress: &Value) -> bool {
    progress["fraction"].as_f64() > Some(0.0)
}

/// Starts a command that sends its traces to `collector`.
fn traced(fleet: &Fleet, collector: &Collector, args: &[&str]) -> Result<Process> {
    let env: Vec<_> = fleet.env().into_iter().chain(collector.env()).collect();
    Process::start("gannet", "gannet", args, &env, fleet.path())
}

/// Likewise a worker.
fn traced_worker(fleet: &Fleet, collector: &Collector, name: &str) -> Result<Process> {
    let env = collector.env();
    fleet.worker_with(name, &env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect::<Vec<_>>())
}

async fn ends(mut worker: Process) -> Result<()> {
    worker.terminate()?;
    ensure!(worker.wait(LIMIT).await?.success(), "it ends well: {}", worker.stderr());
    Ok(())
}

/// The spans of each trace, which are parts of one another, or of a client's.
fn by_trace(spans: Vec<Seen>, clients: &[&str]) -> Result<BTreeMap<String, Vec<Seen>>> {
    let ids: BTreeSet<_> = spans.iter().map(|span| (span.trace.clone(), span.id.clone())).collect();
    ensure!(ids.len() == spans.len(), "no id is given twice");
    let mut traces = BTreeMap::<String, Vec<Seen>>::new();
    for span in spans {
        let has_parent = span.parent.is_empty()
            || clients.contains(&span.parent.as_str())
            || ids.contains(&(span.trace.clone(), span.parent.clone()));
        ensure!(has_parent, "the parent is there: {span:?}");
        ensure!(span.links.iter().all(|link| ids.contains(link)), "what a link names is there: {span:?}");
        ensure!(span.end >= span.start, "it ends after it began: {span:?}");
        traces.entry(span.trace.clone()).or_default().push(span);
    }
    Ok(traces)
}

fn named<'a>(trace: &'a [Seen], name: &str) -> Vec<&'a Seen> {
    trace.iter().filter(|span| span.name == name).collect()
}

#[tokio::test]
async fn a_job_is_one_trace_with_links_from_attempt_to_attempt() {
    Fleet::run("a_job_is_one_trace_with_links_from_attempt_to_attempt", async |fleet| {
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::long().replace("epochs = 600", &format!("epochs = {EPOCHS}")))?;
        let collector = Collector::start().await?;
        let first = traced_worker(fleet, &collector, "first")?;
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "#", LIMIT).await?;
        let tune = traced(fleet, &collector, &["tune", "study.toml", "--run", "seen"])?;
        let killed = progress.find(LIMIT, begun).await.context("a trial begins")?;
        for executor in children_of(first.pid()) {
            signal("KILL", executor)?;
        }
        // The other one comes next, and is cut by the end of its worker.
        let is_other = |word: &Value| begun(word) && word["id"] != killed["id"];
        progress.find(LIMIT, is_other).await.context("the other trial begins")?;
        ends(first).await?;
        let second = traced_worker(fleet, &collector, "second")?;
        tune.succeed(LIMIT).await?;
        ends(second).await?;

        let results = fleet.results("seen")?;
        let spans = collector.seen();
        let services: BTreeSet<&str> = spans.iter().map(|span| span.service.as_str()).collect();
        ensure!(services == BTreeSet::from(["gannet", "gannet-worker"]), "{services:?}");
        let traces = by_trace(spans, &[])?;
        ensure!(traces.len() == results.len(), "{} traces of {} jobs", traces.len(), results.len());
        let mut retries = 0;
        for trace in traces.values() {
            let jobs: BTreeSet<_> = trace.iter().filter_map(|span| span.attributes.get("gannet.job")).collect();
            ensure!(jobs.len() == 1, "one job: {jobs:?}");
            let (enqueued, collected) = (named(trace, "enqueue"), named(trace, "collect"));
            ensure!(enqueued.len() == 1 && enqueued[0].parent.is_empty(), "{enqueued:?}");
            ensure!(collected.len() == 1 && collected[0].parent == enqueued[0].id, "{collected:?}");
            ensure!(collected[0].attributes["gannet.status"] == "done", "{collected:?}");
            let mut deliveries = named(trace, "receive");
            deliveries.sort_by_key(|span| span.start);
            ensure!(deliveries.iter().all(|span| span.parent == enqueued[0].id), "{deliveries:?}");
            for pair in deliveries.windows(2) {
                let before = (pair[0].trace.clone(), pair[0].id.clone());
                ensure!(pair[1].links == [before], "a link to the attempt or the slice before: {pair:?}");
                if pair[0].attributes["gannet.outcome"] == "retried" {
                    ensure!(pair[0].error.as_ref().is_some_and(|why| why.contains("SIGKILL")), "{:?}", pair[0]);
                    retries += 1;
                }
            }
            let last = deliveries.last().context("somebody computed it")?;
            ensure!(last.attributes["gannet.outcome"] == "done" && last.error.is_none(), "{last:?}");
            // Each delivery is acknowledged, the last one behind its result.
            ensure!(named(trace, "ack").iter().any(|ack| ack.parent == last.id), "{trace:?}");
            for name in ["commit_result", "publish_result"] {
                let found = named(trace, name);
                ensure!(found.len() == 1 && found[0].parent == last.id, "{name}: {found:?}");
            }
            for name in ["compute", "execute", "load"] {
                ensure!(!named(trace, name).is_empty(), "{name} is there");
            }
        }
        ensure!(retries == 1, "one executor was killed: {retries}");
        let all: Vec<Seen> = traces.into_values().flatten().collect();
        ensure!(
            !named(&all, "fetch").is_empty() && named(&all, "epoch").len() >= 2 * EPOCHS,
            "what executors say is there"
        );
        ensure!(all.iter().any(|span| span.attributes.get("gannet.slice").is_some_and(|slice| slice != "0")), "slices");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_clients_trace_goes_on_and_a_job_that_is_put_back_stays_in_it() {
    Fleet::run("a_clients_trace_goes_on_and_a_job_that_is_put_back_stays_in_it", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        let collector = Collector::start().await?;
        let worker = traced_worker(fleet, &collector, "traced")?;
        let amqp = fleet.amqp().await?;
        amqp.wait_for_consumer("gannet.v1.trials", LIMIT).await?;
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let mut headers = lapin::types::FieldTable::default();
        let traceparent = format!("00-{trace}-{span}-01");
        headers.insert("traceparent".into(), lapin::types::AMQPValue::LongString(traceparent.into()));
        let properties = lapin::BasicProperties::default().with_headers(headers);
        // A dataset that is not there yet.
        let mut job = studies::job("trial", "put-back", &dataset);
        let object = dataset["key"].as_str().context("a key")?;
        let content = fleet.object(object)?;
        std::fs::remove_file(fleet.path().join("s3/gannet-test/fleets/one").join(object))
            .context("hide the dataset")?;
        job["trial"]["seed"] = 5.into();
        amqp.publish("gannet.v1.jobs", "gannet.v1.trials", job.to_string().as_bytes(), properties).await?;
        eventually(LIMIT, "it is put away", async || Ok((amqp.ready("gannet.v1.dead").await? == 1).then_some(())))
            .await?;
        fleet.put(object, &content)?;
        traced(fleet, &collector, &["dead", "replay", "--yes"])?.succeed(LIMIT).await?;
        eventually(LIMIT, "it is done", async || {
            Ok(fleet.results("put-back")?.pop().filter(|result| result["status"] == "done"))
        })
        .await?;
        eventually(LIMIT, "its letter is settled", async || {
            Ok((amqp.ready("gannet.v1.trials").await? == 0).then_some(()))
        })
        .await?;
        ends(worker).await?;

        let traces = by_trace(collector.seen(), &[span])?;
        ensure!(traces.len() == 1, "one trace: {:?}", traces.keys());
        let trace = traces.get(trace).context("it is the client's")?;
        let mut deliveries = named(trace, "receive");
        deliveries.sort_by_key(|span| span.start);
        let [first, second] = deliveries[..] else { anyhow::bail!("two deliveries: {deliveries:?}") };
        ensure!(first.parent == span && first.attributes["gannet.outcome"] == "failed", "{first:?}");
        let back = named(trace, "enqueue");
        ensure!(back.len() == 1 && back[0].parent == span, "it was put back once: {back:?}");
        ensure!(second.parent == back[0].id && second.attributes["gannet.outcome"] == "done", "{second:?}");
        ensure!(second.links == [(first.trace.clone(), first.id.clone())], "{second:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_collector_that_is_down_holds_up_nothing() {
    Fleet::run("a_collector_that_is_down_holds_up_nothing", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        // Nobody listens there.
        let down = [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_BSP_SCHEDULE_DELAY", "100")];
        let worker = fleet.worker_with("untraced", &down)?;
        fleet.write("job.json", &studies::job("trial", "calm", &dataset).to_string())?;
        let env: Vec<_> = down.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let env: Vec<_> = fleet.env().into_iter().chain(env).collect();
        let submit = Process::start("gannet", "gannet", &["submit", "job.json"], &env, fleet.path())?;
        submit.succeed(LIMIT).await?;
        eventually(LIMIT, "it is done", async || Ok(fleet.results("calm")?.pop())).await?;
        eventually(LIMIT, "the log says so", async || {
            Ok(worker.stderr().contains("the collector does not take traces").then_some(()))
        })
        .await?;
        ends(worker).await?;

        let wrong = [("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"), down[0]];
        let mut worker = fleet.worker_with("wrong", &wrong)?;
        ensure!(!worker.wait(LIMIT).await?.success(), "it refuses to start");
        let said = worker.stderr();
        ensure!(said.contains("OTEL_EXPORTER_OTLP_PROTOCOL is `grpc`: http/protobuf is accepted"), "{said}");
        Ok(())
    })
    .await;
}
