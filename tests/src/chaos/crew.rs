//! The workers: real processes on lines of their own, killed, drained, paused, and started again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use jiff::Timestamp;
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, sleep, sleep_until};

use super::journal::{self, Entry, What};
use crate::{Fleet, LIMIT, Lines, Process, children_of, eventually, signal};

/// The workers of a run.
pub(super) struct Crew {
    fleet: Arc<Fleet>,
    slice: String,
    workers: Vec<Worker>,
    /// Held for moments.
    story: Mutex<Story>,
}

struct Worker {
    name: String,
    lines: Lines,
    /// Held by whoever does something to it.
    process: Arc<tokio::sync::Mutex<Process>>,
}

/// What happened to the workers.
#[derive(Debug, Default)]
pub(super) struct Story {
    /// Every process there was.
    pub(super) lives: Vec<Life>,
    /// SIGKILLs of workers, and those that hit one with a job in hand.
    pub(super) workers_killed: Hits,
    /// SIGKILLs of executors, and those that hit one that computed.
    pub(super) executors_killed: Hits,
    /// SIGTERMs.
    pub(super) drains: u32,
    /// Those after which a worker ended with an error: its broker did not answer in time.
    pub(super) drains_cut_short: u32,
    /// Those that ended well, but dropped what they had in hand: likewise.
    pub(super) drains_aborted: u32,
    /// SIGSTOPs.
    pub(super) pauses: u32,
    /// Workers that were frozen, or cut off from the broker: nobody takes jobs then.
    pub(super) obstacles: Vec<Obstacle>,
    /// Workers that ended by themselves, or not when told to, and their last word.
    pub(super) complaints: Vec<String>,
}

/// How often something was done, and how often it hit.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Hits {
    /// How often.
    pub(super) all: u32,
    /// How often a job was in hand.
    pub(super) in_flight: u32,
}

impl Hits {
    fn count(&mut self, hit: bool) {
        self.all += 1;
        self.in_flight += u32::from(hit);
    }
}

/// A process of a worker.
#[derive(Debug, Clone)]
pub(super) struct Life {
    /// Which worker.
    pub(super) worker: usize,
    /// Its log.
    pub(super) log: PathBuf,
    /// When it was killed or told to end.
    pub(super) until: Option<Timestamp>,
}

/// A time in which a worker cannot take jobs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Obstacle {
    /// Which worker; all without one.
    pub(super) worker: Option<usize>,
    /// Its begin.
    pub(super) from: Timestamp,
    /// Its end.
    pub(super) to: Timestamp,
}

impl Crew {
    /// Starts `count` workers that cut trials into slices of `slice`.
    ///
    /// # Errors
    /// One does not start.
    pub(super) async fn start(fleet: &Arc<Fleet>, count: usize, slice: &str) -> Result<Arc<Self>> {
        let mut story = Story::default();
        let mut workers = Vec::new();
        for at in 0..count {
            let (name, lines) = (format!("worker-{at}"), fleet.lines().await?);
            let process = start(fleet, &mut story, (at, &name), &lines, slice)?;
            workers.push(Worker { name, lines, process: Arc::new(tokio::sync::Mutex::new(process)) });
        }
        Ok(Arc::new(Self { fleet: Arc::clone(fleet), slice: slice.into(), workers, story: Mutex::new(story) }))
    }

    /// The lines of worker `at`.
    pub(super) fn lines(&self, at: usize) -> &Lines {
        &self.workers[at].lines
    }

    /// The lines of all.
    pub(super) fn all_lines(&self) -> impl Iterator<Item = &Lines> {
        self.workers.iter().map(|worker| &worker.lines)
    }

    /// What happened so far.
    pub(super) fn story(&self) -> MutexGuard<'_, Story> {
        self.story.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a time in which a worker, or all, cannot take jobs.
    pub(super) fn note_obstacle(&self, worker: Option<usize>, from: Timestamp, to: Timestamp) {
        self.story().obstacles.push(Obstacle { worker, from, to });
    }

    /// Kills worker `at`, or the next one that has a job in hand, and starts another in its place.
    ///
    /// # Errors
    /// None can be started.
    pub(super) async fn kill(&self, at: usize) -> Result<()> {
        let Some((at, mut process)) = self.busy(at) else { return Ok(()) };
        if process.kill().is_err() {
            return self.replace_ended(at, &mut process);
        }
        let log = journal::read(&process.stderr());
        self.story().workers_killed.count(!journal::in_hand(&log).is_empty());
        self.replace(at, &mut process)
    }

    /// Kills an executor of worker `at`, or of the next one that has a job in hand.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub(super) async fn kill_executor(&self, at: usize) -> Result<()> {
        let Some((_, process)) = self.busy(at) else { return Ok(()) };
        let Some(executor) = children_of(process.pid()).first().copied() else { return Ok(()) };
        if signal("KILL", executor).is_ok() {
            let log = journal::read(&process.stderr());
            let computed = journal::in_hand(&log).values().any(|step| *step == "Compute");
            self.story().executors_killed.count(computed);
        }
        Ok(())
    }

    /// Tells worker `at`, or the next one that nobody does something to, to end, and starts another when it has.
    ///
    /// # Errors
    /// None can be started.
    pub(super) async fn drain(&self, at: usize) -> Result<()> {
        let Some((at, mut process)) = self.free(at) else { return Ok(()) };
        if process.terminate().is_err() {
            return self.replace_ended(at, &mut process);
        }
        self.story().drains += 1;
        self.end_life(process.log());
        match process.wait(LIMIT).await {
            Ok(status) if status.success() => {
                let aborted = journal::was_aborted(&journal::read(&process.stderr()));
                self.story().drains_aborted += u32::from(aborted);
            }
            Ok(_) => self.story().drains_cut_short += 1,
            Err(_) => self.complain(at, "did not end when it was told to"),
        }
        self.replace(at, &mut process)
    }

    /// Freezes worker `at`, or the next one that nobody does something to, until `end`.
    ///
    /// # Errors
    /// A signal cannot be sent.
    pub(super) async fn pause(&self, at: usize, end: Instant) -> Result<()> {
        let Some((at, process)) = self.free(at) else { return Ok(()) };
        let from = Timestamp::now();
        if signal("STOP", process.pid()).is_ok() {
            self.story().pauses += 1;
            sleep_until(end).await;
            signal("CONT", process.pid())?;
            self.note_obstacle(Some(at), from, Timestamp::now());
        }
        Ok(())
    }

    /// Replaces workers that end by themselves, until it is dropped.
    ///
    /// # Errors
    /// None can be started.
    pub(super) async fn watch(&self) -> Result<std::convert::Infallible> {
        loop {
            for (at, worker) in self.workers.iter().enumerate() {
                if let Ok(mut process) = Arc::clone(&worker.process).try_lock_owned()
                    && process.has_ended()?.is_some()
                {
                    self.replace_ended(at, &mut process)?;
                }
            }
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Whether no worker has a job in hand.
    pub(super) async fn is_idle(&self) -> bool {
        for worker in &self.workers {
            if !journal::in_hand(&journal::read(&worker.process.lock().await.stderr())).is_empty() {
                return false;
            }
        }
        true
    }

    /// Waits until every worker has begun to consume since `healed`; complains of those that do not.
    pub(super) async fn all_consume_since(&self, healed: Timestamp) {
        for (at, worker) in self.workers.iter().enumerate() {
            let consumes = |entry: &Entry| entry.what == What::Consumes && entry.at > healed;
            let seen = eventually(LIMIT, "a worker consumes", async || {
                let log = journal::read(&worker.process.lock().await.stderr());
                Ok(log.iter().any(consumes).then_some(()))
            });
            if seen.await.is_err() {
                self.complain(at, "is stuck: everything is healed, and it takes no jobs");
            }
        }
    }

    /// Tells all workers to end, and waits; complains of those that do not end well.
    pub(super) async fn end(&self) {
        for worker in &self.workers {
            let _ = worker.process.lock().await.terminate();
        }
        for (at, worker) in self.workers.iter().enumerate() {
            match worker.process.lock().await.wait(LIMIT).await {
                Ok(status) if status.success() => {}
                Ok(status) => self.complain(at, &format!("ended with {status} at the end")),
                Err(_) => self.complain(at, "did not end at the end"),
            }
        }
    }

    /// Worker `at` or the next one that nobody does something to.
    fn free(&self, at: usize) -> Option<(usize, OwnedMutexGuard<Process>)> {
        self.all_free(at).next()
    }

    /// Likewise one that has a job in hand, if there is one.
    fn busy(&self, at: usize) -> Option<(usize, OwnedMutexGuard<Process>)> {
        let is_busy = |process: &Process| !journal::in_hand(&journal::read(&process.stderr())).is_empty();
        self.all_free(at).find(|(_, process)| is_busy(process)).or_else(|| self.free(at))
    }

    fn all_free(&self, at: usize) -> impl Iterator<Item = (usize, OwnedMutexGuard<Process>)> {
        let turn = (at..at + self.workers.len()).map(|at| at % self.workers.len());
        turn.filter_map(|at| Some((at, Arc::clone(&self.workers[at].process).try_lock_owned().ok()?)))
    }

    fn replace_ended(&self, at: usize, process: &mut Process) -> Result<()> {
        self.complain(at, "ended by itself");
        self.replace(at, process)
    }

    fn replace(&self, at: usize, process: &mut Process) -> Result<()> {
        self.end_life(process.log());
        let worker = &self.workers[at];
        *process = start(&self.fleet, &mut self.story(), (at, &worker.name), &worker.lines, &self.slice)?;
        Ok(())
    }

    fn end_life(&self, log: &Path) {
        if let Some(life) = self.story().lives.iter_mut().find(|life| life.log == log) {
            life.until.get_or_insert(Timestamp::now());
        }
    }

    fn complain(&self, at: usize, what: &str) {
        let mut story = self.story();
        let log = story.lives.iter().rev().find(|life| life.worker == at).map(|life| life.log.clone());
        let text = log.and_then(|log| std::fs::read_to_string(log).ok()).unwrap_or_default();
        let last = journal::read(&text).into_iter().rev().find_map(|entry| match entry.what {
            What::Error(error) => Some(error),
            _ => None,
        });
        let last = last.or_else(|| text.lines().last().map(str::to_owned)).unwrap_or_default();
        story.complaints.push(format!("{} {what}: {last}", self.workers[at].name));
    }
}

/// Starts a process of worker `at`. Every other worker has an empty cache each time, so that objects are fetched.
fn start(fleet: &Fleet, story: &mut Story, (at, name): (usize, &str), lines: &Lines, slice: &str) -> Result<Process> {
    let number = story.lives.iter().filter(|life| life.worker == at).count();
    let cache = fleet.path().join(if at.is_multiple_of(2) { "cache".into() } else { format!("cache-{name}-{number}") });
    let cache = cache.to_str().context("the folder's name is text")?;
    let more = [
        ("GANNET_CACHE", cache),
        ("GANNET_SLICE", slice),
        ("GANNET_LOG", journal::FILTER),
        ("GANNET_LOG_FORMAT", "json"),
    ];
    let process = fleet.worker_on(name, lines, &more)?;
    story.lives.push(Life { worker: at, log: process.log().to_owned(), until: None });
    Ok(process)
}
