//! What safety costs: jobs that compute next to nothing, through the whole protocol, and beside them in the same run
//! what it stands on, alone: the broker, the store, and Celery on the same broker. Contenders in turn, medians.
//!
//! A job of ours is a batch of one picture of one pixel, for a network of six parameters: taken from a quorum queue,
//! through an executor, one result object in the store, a confirmed result, an acknowledgement.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use clap::Parser;
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions,
    QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use serde_json::{Value, json};
use shared::contract::{Batch, ImageRef, Job, Output, Precision, Work};
use shared::digest::Digest;
use shared::names::{JobId, Key, Name, ObjectRef};
use shared::queue::rabbit::RabbitQueue;
use shared::queue::{Event, Events, Letter, Queue as _};
use shared::store::Store;
use tests::bench::{Format, median, quantile};
use tests::{Fleet, LIMIT, Process, children_of, processor_ms, write_colour, write_model};

/// Measures what the protocol costs
#[derive(Debug, Parser)]
struct Arguments {
    /// Jobs a contender and round, for throughput
    #[arg(long, default_value_t = 10_000)]
    jobs: usize,
    /// Jobs one after another, for latency
    #[arg(long, default_value_t = 500)]
    singles: usize,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Processes' slots: one a core
    #[arg(long, default_value_t = 2)]
    slots: usize,
    /// A Python that has Celery; without it Celery is left out
    #[arg(long, value_name = "PATH")]
    celery: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
}

/// What was measured, by contender: jobs a second, or milliseconds of one job.
type Measured = BTreeMap<&'static str, Vec<f64>>;

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let fleet = Fleet::with_own_broker().await.context("start the servers")?;
    let measured = measure(&fleet, &arguments).await?;
    print(&measured, &arguments)
}

async fn measure(fleet: &Fleet, arguments: &Arguments) -> Result<Measured> {
    write_model(&fleet.path().join("colours"), ["red", "blue"])?;
    write_colour(&fleet.path().join("red.bmp"), 1, [255, 0, 0])?;
    fleet.gannet(&["model", "push", "colours", "colours"]).await?;
    let ours = Ours::prepare(fleet).await?;
    let mut measured = Measured::new();
    for round in 0..arguments.rounds {
        eprintln!("round {} of {}", round + 1, arguments.rounds);
        let mut note = |contender, values: Vec<f64>| {
            eprintln!("  {contender}: {}", shown(median(&values)));
            measured.entry(contender).or_default().extend(values);
        };
        for (prefetch, contender, jobs) in [
            (256, "bare lapin, prefetch 256, jobs/s", arguments.jobs),
            (8, "bare lapin, prefetch 8, jobs/s", arguments.jobs / 2),
            (1, "bare lapin, prefetch 1, jobs/s", arguments.jobs / 10),
        ] {
            note(contender, vec![bare_lapin(&fleet.amqp_url(), jobs, prefetch).await?]);
        }
        for (at_once, contender) in
            [(32, "bare conditional PUTs, 32 at once, PUTs/s"), (1, "bare conditional PUTs, one at a time, PUTs/s")]
        {
            let puts = if at_once == 1 { arguments.jobs / 5 } else { arguments.jobs };
            note(contender, vec![bare_puts(ours.store.as_ref(), puts, at_once, round).await?]);
        }
        if let Some(python) = &arguments.celery {
            let (rate, latencies) = celery(fleet, python, arguments).await?;
            note("Celery, jobs/s", vec![rate]);
            note("Celery, ms a job, one at a time", latencies);
        }
        let slots = arguments.slots.to_string();
        let worker = fleet.worker_with("bench", &[("GANNET_SLOTS", &slots), ("GANNET_LOG", "warn")])?;
        let (rate, latencies) = ours.throughput_and_latency(round, arguments).await?;
        let jobs = (50 + arguments.jobs + arguments.singles) as f64;
        let executors: f64 = children_of(worker.pid()).into_iter().map(processor_ms).sum::<Result<_>>()?;
        note("Gannet, processor ms a job: the worker", vec![processor_ms(worker.pid())? / jobs]);
        note("Gannet, processor ms a job: its executors", vec![executors / jobs]);
        worker.terminate()?;
        drop(worker);
        note("Gannet, jobs/s", vec![rate]);
        note("Gannet, ms a job, one at a time", latencies);
    }
    Ok(measured)
}

/// The producer's side of our own jobs.
struct Ours {
    queue: RabbitQueue,
    store: Arc<dyn Store>,
    model: ObjectRef,
    picture: ObjectRef,
}

impl Ours {
    async fn prepare(fleet: &Fleet) -> Result<Self> {
        let env: BTreeMap<String, String> = fleet.env().into_iter().collect();
        let (bucket, prefix) = env["GANNET_STORE"].trim_start_matches("s3://").split_once('/').context("a prefix")?;
        let store = shared::store::s3::S3Store::with_keys(
            bucket,
            prefix,
            &env["GANNET_S3_ENDPOINT"],
            &env["AWS_ACCESS_KEY_ID"],
            &env["AWS_SECRET_ACCESS_KEY"],
        )
        .await;
        let model: ObjectRef = serde_json::from_value(fleet.model("colours").await?)?;
        let bytes = std::fs::read(fleet.path().join("red.bmp"))?;
        let picture = ObjectRef { key: Key::new("runs/overhead/red.bmp")?, sha256: Digest::of(&bytes) };
        store.put(&picture.key, bytes.into()).await?;
        Ok(Self { queue: RabbitQueue::open(&fleet.amqp_url()).await?, store: Arc::new(store), model, picture })
    }

    fn letters(&self, run: &Name, numbers: std::ops::Range<usize>) -> Result<Vec<Letter>> {
        let letter = |number| {
            let batch = Batch {
                model: self.model.clone(),
                images: vec![ImageRef::object("red.bmp", self.picture.clone())],
                top_k: 1,
                threshold: None,
                scores: None,
                output: Output::Labels,
                precision: Precision::Fp32,
                calibration: Vec::new(),
            };
            let id = JobId::new(format!("{number}"))?;
            Ok(Letter::new(&Job { id, run: run.clone(), work: Work::Batch(Box::new(batch)) }))
        };
        numbers.map(letter).collect()
    }

    /// Jobs a second from the first publish to the last result that a collector heard, then the milliseconds of single jobs.
    async fn throughput_and_latency(&self, round: usize, arguments: &Arguments) -> Result<(f64, Vec<f64>)> {
        let run = Name::new(format!("overhead-{round}"))?;
        let mut events = self.queue.watch(&run).await?;
        // The first jobs start the executors and fetch the model.
        self.queue.publish(&self.letters(&run, 0..50)?).await?;
        hear(events.as_mut(), 50).await?;

        let letters = self.letters(&run, 50..50 + arguments.jobs)?;
        let begun = Instant::now();
        let publish = async {
            for part in letters.chunks(500) {
                self.queue.publish(part).await?;
            }
            Ok::<_, anyhow::Error>(())
        };
        tokio::try_join!(publish, hear(events.as_mut(), arguments.jobs))?;
        let rate = arguments.jobs as f64 / begun.elapsed().as_secs_f64();

        let mut latencies = Vec::new();
        for number in 0..arguments.singles {
            let number = 50 + arguments.jobs + number;
            let letters = self.letters(&run, number..number + 1)?;
            let begun = Instant::now();
            self.queue.publish(&letters).await?;
            hear(events.as_mut(), 1).await?;
            latencies.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        Ok((rate, latencies))
    }
}

async fn hear(events: &mut dyn Events, mut results: usize) -> Result<()> {
    while results > 0 {
        let heard = tokio::time::timeout(LIMIT, events.next()).await;
        if let Event::Result(result) = heard.with_context(|| format!("{results} results are missing"))?? {
            ensure!(result.error.is_none(), "a job failed: {result:?}");
            results -= 1;
        }
    }
    Ok(())
}

/// The same hops without us and without a store: job → worker → result → collector, 600-byte messages, quorum queues,
/// confirms, acknowledged after the result is confirmed. Jobs a second.
async fn bare_lapin(url: &str, jobs: usize, prefetch: u16) -> Result<f64> {
    let connect = || Connection::connect(url, ConnectionProperties::default());
    let (producer, worker, collector) = tokio::try_join!(connect(), connect(), connect())?;
    let name = |what: &str| format!("bench.{what}.{prefetch}");
    let (from, to) = (name("jobs"), name("results"));
    let channel = producer.create_channel().await?;
    for queue in [&from, &to] {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        channel.queue_declare(queue.as_str().into(), options, arguments).await?;
    }
    channel.confirm_select(ConfirmSelectOptions::default()).await?;

    let works = worker.create_channel().await?;
    works.confirm_select(ConfirmSelectOptions::default()).await?;
    works.basic_qos(prefetch, BasicQosOptions::default()).await?;
    let taken = works
        .basic_consume(from.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;
    let collects = collector.create_channel().await?;
    let mut collected = collects
        .basic_consume(to.as_str().into(), "".into(), BasicConsumeOptions::default(), FieldTable::default())
        .await?;

    let body = vec![b'x'; 600];
    let begun = Instant::now();
    let publish = stream::iter(0..jobs)
        .map(|_| send(&channel, &from, &body))
        .buffer_unordered(500)
        .try_for_each(|()| async { Ok(()) });
    let work = taken
        .take(jobs)
        .map(|delivery| async {
            let delivery = delivery?;
            send(&works, &to, &body).await?;
            delivery.acker.ack(BasicAckOptions::default()).await?;
            Ok::<_, anyhow::Error>(())
        })
        .buffer_unordered(prefetch.into())
        .try_for_each(|()| async { Ok(()) });
    let collect = async {
        for _ in 0..jobs {
            let result = collected.next().await.context("the collector's consumer has ended")??;
            result.acker.ack(BasicAckOptions::default()).await?;
        }
        Ok(())
    };
    tokio::try_join!(publish, work, collect)?;
    Ok(jobs as f64 / begun.elapsed().as_secs_f64())
}

async fn send(channel: &Channel, queue: &str, body: &[u8]) -> Result<()> {
    let properties = BasicProperties::default().with_delivery_mode(2);
    let options = BasicPublishOptions::default();
    let confirm = channel.basic_publish("".into(), queue.into(), options, body, properties).await?.await?;
    ensure!(confirm.is_ack(), "the broker refused a message");
    Ok(())
}

/// Objects of 600 bytes created by `If-None-Match: *`, a second, through the client that workers use.
async fn bare_puts(store: &dyn Store, puts: usize, at_once: usize, round: usize) -> Result<f64> {
    let body = Bytes::from(vec![b'x'; 600]);
    let begun = Instant::now();
    stream::iter(0..puts)
        .map(|number| {
            let body = body.clone();
            async move {
                store
                    .create(&Key::new(format!("bench/{at_once}/{round}/{number}"))?, body)
                    .await
                    .map_err(anyhow::Error::from)
            }
        })
        .buffer_unordered(at_once)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    Ok(puts as f64 / begun.elapsed().as_secs_f64())
}

async fn celery(fleet: &Fleet, python: &PathBuf, arguments: &Arguments) -> Result<(f64, Vec<f64>)> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/benchmarks/celery_noop.py");
    let mut command = Command::new(python);
    command.arg(script).arg(fleet.amqp_url());
    command.args([arguments.jobs, arguments.singles, arguments.slots].map(|number| number.to_string()));
    let printed = Process::spawn("celery", &mut command, &[], fleet.path())?.succeed(10 * LIMIT).await?;
    let said: Value = serde_json::from_str(printed.lines().last().unwrap_or_default()).context("Celery's figures")?;
    let latencies = said["latencies_ms"].as_array().context("latencies")?;
    Ok((said["jobs_per_s"].as_f64().context("a rate")?, latencies.iter().filter_map(Value::as_f64).collect()))
}

fn shown(value: f64) -> String {
    if value < 100.0 { format!("{value:.1}") } else { format!("{value:.0}") }
}

#[expect(clippy::print_stdout, reason = "a benchmark's output is data")]
fn print(measured: &Measured, arguments: &Arguments) -> Result<()> {
    if arguments.format == Format::Json {
        let rows: Vec<Value> = measured
            .iter()
            .map(|(what, values)| {
                let [low, p50, p99, high] = [0.0, 0.5, 0.99, 1.0].map(|share| quantile(values, share));
                json!({"what": what, "min": low, "p50": p50, "p99": p99, "max": high, "values": values.len()})
            })
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(());
    }
    println!("| what | median | spread |\n| --- | --- | --- |");
    for (what, values) in measured {
        let is_latency = values.len() > arguments.rounds;
        let spread = if is_latency {
            format!("p99 {}", shown(quantile(values, 0.99)))
        } else {
            format!("{} to {}", shown(quantile(values, 0.0)), shown(quantile(values, 1.0)))
        };
        println!("| {what} | {} | {spread} |", shown(median(values)));
    }
    Ok(())
}
