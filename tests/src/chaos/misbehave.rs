//! Carries out a plan: lets everything go wrong at its time, and heals it in time.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::stream::{FuturesUnordered, StreamExt as _};
use jiff::Timestamp;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until};

use super::crew::Crew;
use super::plan::{End, Event, Planned, Who};
use super::producer::Producer;
use crate::{Fleet, Lines, Proxy, Trouble};

/// How long a half-open connection to the broker goes unnoticed: two heartbeats of 15 s, and the way to notice.
const UNNOTICED: Duration = Duration::from_secs(35);

/// Everything that things can happen to.
pub(super) struct Stage {
    /// The servers.
    pub(super) fleet: Arc<Fleet>,
    /// The workers.
    pub(super) crew: Arc<Crew>,
    /// Who enqueues.
    pub(super) producer: Arc<Producer>,
    /// Held while the broker is away: one restart at a time.
    broker: tokio::sync::Mutex<()>,
    /// Held for moments.
    done: Mutex<Done>,
}

/// What was done to the servers and the lines.
#[derive(Debug, Default, Clone)]
pub(super) struct Done {
    /// When the broker went and when it was up again.
    pub(super) restarts: Vec<(Timestamp, Timestamp)>,
    /// Those that were a SIGKILL.
    pub(super) crashes: u32,
    /// Troubles of lines.
    pub(super) line_troubles: u32,
    /// Troubles of the store's service.
    pub(super) store_troubles: u32,
}

impl Stage {
    /// Nothing has happened.
    pub(super) fn new(fleet: Arc<Fleet>, crew: Arc<Crew>, producer: Arc<Producer>) -> Self {
        Self { fleet, crew, producer, broker: tokio::sync::Mutex::default(), done: Mutex::default() }
    }

    /// What was done so far.
    pub(super) fn done(&self) -> MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries out the plan. At `end` everything is sound again.
    ///
    /// # Errors
    /// A server or a worker does not come up.
    pub(super) async fn play(&self, planned: Vec<Planned>, begin: Instant, end: Instant) -> Result<()> {
        let mut under_way = FuturesUnordered::new();
        for Planned { at, event } in planned {
            let due = sleep_until(begin + at);
            tokio::pin!(due);
            loop {
                tokio::select! {
                    () = &mut due => break,
                    Some(happened) = under_way.next() => happened?,
                }
            }
            under_way.push(self.happen(event, end));
        }
        while let Some(happened) = under_way.next().await {
            happened?;
        }
        sleep_until(end).await;
        self.crew.all_lines().chain([self.producer.lines()]).for_each(|lines| {
            lines.set(Trouble::None);
            lines.broker.break_answers(0);
            lines.store.break_answers(0);
        });
        self.fleet.s3.go_wrong(&[])
    }

    async fn happen(&self, event: Event, end: Instant) -> Result<()> {
        let until = |length: Duration| (Instant::now() + length).min(end);
        match event {
            Event::KillWorker(at) => self.crew.kill(at).await,
            Event::KillExecutor(at) => self.crew.kill_executor(at).await,
            Event::Drain(at) => self.crew.drain(at).await,
            Event::Pause(at, length) => self.crew.pause(at, until(length)).await,
            Event::Restart { crash, away } => self.restart(crash, away).await,
            Event::Line(who, line, trouble, length) => {
                let from = Timestamp::now();
                self.lines(who, line, |proxy| proxy.set(trouble));
                sleep_until(until(length)).await;
                self.lines(who, line, |proxy| proxy.set(Trouble::None));
                self.obstacle(who, line, from, Timestamp::now());
                Ok(())
            }
            Event::Forget(who, line) => {
                self.lines(who, line, Proxy::forget);
                let now = Timestamp::now();
                self.obstacle(who, line, now, now + UNNOTICED);
                Ok(())
            }
            Event::BreakAnswers(who, line, count) => {
                self.lines(who, line, |proxy| proxy.break_answers(count));
                Ok(())
            }
            Event::Store(rule, length) => {
                self.done().store_troubles += 1;
                self.fleet.s3.go_wrong(&[rule])?;
                sleep_until(until(length)).await;
                self.fleet.s3.go_wrong(&[])
            }
            Event::Cancel { run, share } => self.producer.cancel(run, share).await,
            Event::KillProducer(after) => {
                self.producer.doom(after);
                Ok(())
            }
        }
    }

    async fn restart(&self, crash: bool, away: Duration) -> Result<()> {
        let _one_at_a_time = self.broker.lock().await;
        let down = Timestamp::now();
        let fleet = Arc::clone(&self.fleet);
        spawn_blocking(move || if crash { fleet.broker.crash() } else { fleet.broker.stop() }).await??;
        sleep(away).await;
        let fleet = Arc::clone(&self.fleet);
        spawn_blocking(move || fleet.broker.restart()).await?.context("start the broker again")?;
        let mut done = self.done();
        done.restarts.push((down, Timestamp::now()));
        done.crashes += u32::from(crash);
        Ok(())
    }

    fn lines(&self, who: Who, end: End, act: impl Fn(&Proxy)) {
        self.done().line_troubles += 1;
        let act = |lines: &Lines| act(if end == End::Broker { &lines.broker } else { &lines.store });
        match who {
            Who::Worker(at) => act(self.crew.lines(at)),
            Who::Producer => act(self.producer.lines()),
            Who::All => self.crew.all_lines().chain([self.producer.lines()]).for_each(act),
        }
    }

    fn obstacle(&self, who: Who, line: End, from: Timestamp, to: Timestamp) {
        match (who, line) {
            (Who::Worker(at), End::Broker) => self.crew.note_obstacle(Some(at), from, to),
            (Who::All, End::Broker) => self.crew.note_obstacle(None, from, to),
            _ => {}
        }
    }
}
