//! A fleet under every fault that can be provoked, and an audit of what became of its jobs.
//!
//! Workers, broker, store and producer are real processes; `plan` says what goes wrong when, from a seed alone, so that the
//! same seed means the same faults at the same times (what they hit depends on how far the jobs are). The `audit`
//! looks at nothing but the store and the broker.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use serde_json::Value;
use tokio::time::{Instant, sleep};

mod audit;
mod crew;
mod evidence;
mod journal;
mod misbehave;
mod plan;
mod producer;
mod reconnect;
mod report;
mod work;

pub use audit::Verdict;
pub use report::{Floors, Report};

use crate::{Amqp, Fleet, LIMIT};
use audit::Evidence;
use crew::{Crew, Life};
use journal::{Entry, What};
use misbehave::Stage;
use producer::{Producer, Wave};
use reconnect::Consumer;
use work::Work;

/// What a run is made of.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long things go wrong.
    pub length: Duration,
    /// Of everything that goes wrong.
    pub seed: u32,
    /// Workers at once.
    pub workers: usize,
    /// Jobs, enqueued evenly over the time.
    pub jobs: usize,
    /// How long one delivery trains, as `gannet-worker --slice` takes it.
    pub slice: String,
}

/// The time between two words about how it goes.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Lets things go wrong, heals them, waits for all jobs, and looks what became of them.
///
/// # Errors
/// A server or a command does not come up: the run says nothing then.
pub async fn run(options: &Options) -> Result<Report> {
    let fleet = Arc::new(Fleet::with_own_broker().await.context("start the servers")?);
    let ended = run_on(&fleet, options).await;
    if !ended.as_ref().is_ok_and(|report| report.good) {
        fleet.keep();
    }
    ended
}

async fn run_on(fleet: &Arc<Fleet>, options: &Options) -> Result<Report> {
    let work = Work::prepare(fleet).await?;
    say("the servers are up; each of the different jobs runs once, without faults");
    let reference = work.reference(fleet).await?;
    say(&format!("{} ms of processor time a job", reference.cpu_ms / reference.jobs.max(1) as u64));
    let waves = Arc::new(work.waves(options.jobs, options.length));
    let crew = Crew::start(fleet, options.workers, &options.slice).await?;
    let producer = Arc::new(Producer::new(fleet).await?);
    let stage = Stage::new(Arc::clone(fleet), Arc::clone(&crew), Arc::clone(&producer));
    let begin = Instant::now();
    let end = begin + options.length;
    let planned = plan::plan(options.seed, options.length, options.workers);
    let going_wrong = async {
        let (played, enqueued) = tokio::join!(stage.play(planned, begin, end), producer.enqueue(&waves, begin));
        played.and(enqueued)?;
        let healed = Timestamp::now();
        say("everything is sound again; waits for what is left");
        let done = count_done(fleet, &waves)?;
        settle_down(fleet, &crew, &producer, &waves).await?;
        anyhow::Ok((healed, done))
    };
    let (healed, done_when_healed) = tokio::select! {
        ended = going_wrong => ended?,
        ended = crew.watch() => match ended? {},
        ended = tell(&stage, &waves, options, begin) => match ended? {},
    };
    crew.all_consume_since(healed).await;
    crew.end().await;
    let whole = begin.elapsed();
    let found = evidence::gather(fleet, &fleet.amqp().await?, &waves).await?;
    let verdict = audit::audit(&reference.asked(&waves, &producer.progress().cancelled_jobs), &found);
    report(
        options,
        &stage,
        &found,
        Ended { whole, done_when_healed, attempts: count_attempts(fleet, &waves)?, verdict },
    )
}

/// What is known at the end.
struct Ended {
    whole: Duration,
    done_when_healed: usize,
    attempts: usize,
    verdict: Verdict,
}

fn report(options: &Options, stage: &Stage, found: &Evidence, ended: Ended) -> Result<Report> {
    let Ended { whole, done_when_healed, attempts, verdict } = ended;
    let (story, done, progress) = (stage.crew.story(), stage.done(), stage.producer.progress());
    let logs = story.lives.iter().map(|life| Ok((life, read_log(life)?))).collect::<Result<Vec<_>>>()?;
    let computations = logs.iter().map(|(_, log)| journal::computations(log)).sum();
    let is_cancelled = |result: &&Value| result["status"] == "cancelled";
    let slices = |result: &Value| match result["outcome"]["trial"]["slices"].as_u64() {
        Some(slices) => slices as usize,
        None => usize::from(!is_cancelled(&result)),
    };
    let needed = found.stored.iter().map(slices).sum();
    let mut complaints = story.complaints.clone();
    if computations < needed {
        complaints.push(
            "the workers' logs tell of fewer computations than results needed: what is read from them is wrong".into(),
        );
    }
    let consumers: Vec<Consumer> = logs.iter().map(|(life, log)| consumer(life, log)).collect();
    let times = reconnect::times(&consumers, &done.restarts, &story.obstacles);
    let quantile = |share| reconnect::quantile(&times, share).map(|time| time.as_secs_f64());
    let told: BTreeSet<String> = found.told.iter().map(audit::job_of).collect();
    Ok(Report {
        seed: options.seed,
        chaos_s: options.length.as_secs_f64(),
        whole_s: whole.as_secs_f64(),
        workers: options.workers,
        jobs: options.jobs,
        done_when_healed,
        killed_workers: story.workers_killed.all,
        killed_executors: story.executors_killed.all,
        kills_in_flight: story.workers_killed.in_flight + story.executors_killed.in_flight,
        drains: story.drains,
        drains_cut_short: story.drains_cut_short,
        drains_aborted: story.drains_aborted,
        pauses: story.pauses,
        broker_restarts: done.restarts.len(),
        broker_crashes: done.crashes,
        reconnects: times.len(),
        reconnect_p50_s: quantile(0.5),
        reconnect_p99_s: quantile(0.99),
        line_troubles: done.line_troubles,
        store_troubles: done.store_troubles,
        killed_producers: progress.killed,
        repeated_producers: progress.repeated,
        cancels: progress.cancelled_jobs.len() + progress.cancelled_runs.len(),
        cancelled_jobs: found.stored.iter().filter(is_cancelled).count(),
        cancelled_runs: found.cancelled_runs.len(),
        failures: found.stored.iter().filter(|result| result["status"] == "failed").count(),
        told_again: found.told.len() - told.len(),
        computations,
        needed,
        attempts,
        good: verdict.is_good() && complaints.is_empty(),
        complaints,
        verdict,
    })
}

fn read_log(life: &Life) -> Result<Vec<Entry>> {
    let text = std::fs::read(&life.log).context("read a worker's log")?;
    Ok(journal::read(&String::from_utf8_lossy(&text)))
}

fn consumer(life: &Life, log: &[Entry]) -> Consumer {
    let consumes = log.iter().filter(|entry| entry.what == What::Consumes).map(|entry| entry.at);
    Consumer { worker: life.worker, consumes: consumes.collect(), until: life.until }
}

/// Waits until every job has a result, nothing waits in a queue and nobody has a job in hand, or nothing has moved for
/// a long time.
async fn settle_down(fleet: &Fleet, crew: &Crew, producer: &Producer, waves: &[Wave]) -> Result<()> {
    let amqp = fleet.amqp().await?;
    let (mut moved, mut before) = (Instant::now(), None);
    loop {
        producer.repeat(waves).await?;
        // A repeated enqueue looks whether anybody has the jobs, and may find that somebody has: again, after a while.
        for _ in 0..10 {
            let (done, left) = (count_done(fleet, waves)?, evidence::left(&amqp).await?);
            let all = count_due(fleet, waves)?;
            let waiting: u32 = left.values().sum();
            if done == all && waiting == 0 && crew.is_idle().await && is_empty(&amqp).await? {
                return Ok(());
            }
            if before.replace((done, waiting)) != Some((done, waiting)) {
                moved = Instant::now();
            }
            if moved.elapsed() > 2 * LIMIT {
                say(&format!("nothing has moved for {} s: {done} of {all} jobs are done", 2 * LIMIT.as_secs()));
                return Ok(());
            }
            sleep(Duration::from_secs(1)).await;
        }
    }
}

/// Looked at after the workers were: what they had in hand may have gone back.
async fn is_empty(amqp: &Amqp) -> Result<bool> {
    Ok(evidence::left(amqp).await?.values().all(|left| *left == 0))
}

/// Says how it goes, until it is dropped.
async fn tell(stage: &Stage, waves: &[Wave], options: &Options, begin: Instant) -> Result<std::convert::Infallible> {
    loop {
        sleep(TELL_EVERY).await;
        let done = count_done(&stage.fleet, waves)?;
        let enqueued = stage.producer.progress().enqueued;
        let elapsed = begin.elapsed();
        let (kills, all_kills) = {
            let story = stage.crew.story();
            let (workers, executors) = (story.workers_killed, story.executors_killed);
            (workers.in_flight + executors.in_flight, workers.all + executors.all)
        };
        let restarts = stage.done().restarts.len();
        let waiting = options.length.saturating_sub(elapsed).as_secs_f64();
        let rate = done as f64 / elapsed.as_secs_f64();
        let working = if done == 0 { waiting } else { (options.jobs - done) as f64 / rate };
        say(&format!(
            "{:4.0} s: {done} jobs done of {enqueued} enqueued of {}; {kills} kills in flight of {all_kills}; \
             {restarts} broker restarts; about {:.0} s left",
            elapsed.as_secs_f64(),
            options.jobs,
            waiting.max(working),
        ));
    }
}

fn count_done(fleet: &Fleet, waves: &[Wave]) -> Result<usize> {
    waves.iter().map(|wave| Ok(fleet.names(&format!("runs/{}/results", wave.run))?.len())).sum()
}

/// Results that there must be. A run that is cancelled has those that it has.
fn count_due(fleet: &Fleet, waves: &[Wave]) -> Result<usize> {
    let due = |wave: &Wave| match producer::is_cancelled(fleet, &wave.run)? {
        true => count_done(fleet, std::slice::from_ref(wave)),
        false => Ok(wave.jobs.len()),
    };
    waves.iter().map(due).sum()
}

/// Attempts that lost workers took with them: an object each, by run, job and slice.
fn count_attempts(fleet: &Fleet, waves: &[Wave]) -> Result<usize> {
    let mut count = 0;
    for wave in waves {
        let run = format!("runs/{}/attempts", wave.run);
        for job in fleet.names(&run)? {
            for slice in fleet.names(&format!("{run}/{job}"))? {
                count += fleet.names(&format!("{run}/{job}/{slice}"))?.len();
            }
        }
    }
    Ok(count)
}

fn say(words: &str) {
    eprintln!("chaos: {words}");
}
