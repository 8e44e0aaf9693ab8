//! Publishes a run's jobs and collects their results until every one is there.
//!
//! Repeating it after an interruption publishes nothing twice ([`crate::enqueue`]).
//!
//! The store is the truth: what is published only makes it quick. At the start, when results fail to come, now and
//! then while they come, and when a connection was lost, the results in the store are read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::bail;
use shared::contract::{Job, JobResult, Kind, Progress};
use shared::names::{JobId, Name};
use shared::queue::{Event, Events, Queue, QueueError, topology};
use shared::store::{Store, StoreError, fetch_checked, layout};
use shared::strict;
use shared::traces;
use tokio::time::{Instant, timeout_at};

use crate::enqueue::{self, Enqueue, Lost, PART, Published};
use crate::patience::patiently;
use crate::runs;

/// Jobs published and not yet settled. Enough for the largest fleet's appetite between two results;
/// the queue stays small enough for any broker.
const OUTSTANDING: usize = 2_000;
/// Time without a result after which the store is asked. Doubles up to [`QUIETEST`] while it goes on.
const QUIET: Duration = Duration::from_secs(3);
/// A run of which nothing was heard for so long has letters that are lost, or that wait behind others' on a busy fleet:
/// one more of each is the smaller evil.
const IMPATIENT: Duration = Duration::from_secs(10 * 60);
/// The longest, and also the longest while results come: one whose message was lost is found.
const QUIETEST: Duration = Duration::from_secs(30);

/// What happens while a run goes on.
#[derive(Debug)]
pub enum News<'a> {
    /// A job ended.
    Result(&'a JobResult),
    /// A job moved on.
    Progress(&'a Progress),
    /// Nothing was heard for a while, and no worker consumes.
    NoWorkers,
    /// So many jobs were enqueued before: they are waited for.
    EnqueuedBefore(usize),
    /// So many of them were lost, and are enqueued again.
    EnqueuedAgain(usize),
}

/// A run that is driven to its end.
#[derive(Debug, Clone, Copy)]
pub struct Drive<'a> {
    /// Where jobs go.
    pub queue: &'a dyn Queue,
    /// Where results stand.
    pub store: &'a dyn Store,
    /// The run.
    pub run: &'a Name,
}

impl Drive<'_> {
    /// Publishes those of `jobs` that have no result yet, and returns all their results.
    ///
    /// Cancel-safe: what was published goes on, and driving again takes it up.
    ///
    /// # Errors
    /// The run is cancelled, or the queue or the store refuses.
    pub async fn all(
        &self,
        jobs: &[Job],
        tell: &mut (dyn FnMut(News<'_>) + Send),
    ) -> anyhow::Result<BTreeMap<JobId, JobResult>> {
        let Some(first) = jobs.first() else { return Ok(BTreeMap::new()) };
        let mut state = State {
            kind: first.kind(),
            wanted: jobs.iter().map(|job| (job.id.clone(), job)).collect(),
            collects: false,
            results: BTreeMap::new(),
            doubtful: BTreeSet::new(),
            moved: Instant::now(),
            tell,
        };
        // Before the first publish, so that no result is missed.
        let mut events = self.queue.watch(self.run).await?;
        self.reconcile(&mut state).await?;
        state.collects = true;
        let mut waiting: Vec<&Job> = jobs.iter().rev().filter(|job| !state.results.contains_key(&job.id)).collect();
        let noted = enqueue::noted(self.store, self.run).await?;
        state.doubtful = waiting.iter().map(|job| job.id.clone()).filter(|id| noted.contains_key(id)).collect();
        waiting.retain(|job| !noted.contains_key(&job.id));
        if !state.doubtful.is_empty() {
            (state.tell)(News::EnqueuedBefore(state.doubtful.len()));
            self.look_for_lost(jobs, &mut state).await?;
        }
        let mut published = jobs.len() - waiting.len();
        let mut due = Due::new(Instant::now());
        while state.results.len() < state.wanted.len() {
            let free = OUTSTANDING.saturating_sub(published - state.results.len().min(published)).min(waiting.len());
            // Half-empty before it is filled up: many letters in one go.
            if free > 0 && (free == waiting.len() || free >= OUTSTANDING / 2) {
                let next: Vec<&Job> = waiting.split_off(waiting.len() - free).into_iter().rev().collect();
                self.publish(&next, &mut state).await?;
                published += free;
            }
            // Asked by the clock, too: where events never pause, the wait for one never ends in time.
            let heard = if Instant::now() < due.at() { timeout_at(due.at(), events.next()).await.ok() } else { None };
            match heard {
                Some(Ok(event)) => {
                    if self.hear(event, &mut state).await? {
                        due.after_result(Instant::now());
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "watches again");
                    events = self.watch_again().await?;
                    self.reconcile(&mut state).await?;
                    due.after_look(Instant::now());
                }
                None => {
                    if !self.reconcile(&mut state).await? {
                        self.look_for_workers(&mut state).await;
                    }
                    self.look_for_lost(jobs, &mut state).await?;
                    due.after_look(Instant::now());
                }
            }
        }
        Ok(state.results)
    }

    fn enqueue(&self) -> Enqueue<'_> {
        Enqueue { queue: self.queue, store: self.store, run: self.run }
    }

    /// Publishes a part at a time. One whose connection was lost is in doubt; the others wait until the queue answers.
    async fn publish(&self, jobs: &[&Job], state: &mut State<'_>) -> anyhow::Result<()> {
        for part in jobs.chunks(PART) {
            match self.enqueue().part(part).await? {
                Published::Surely => continue,
                Published::BySomebodyElse => {}
                Published::Perhaps(error) => {
                    tracing::warn!(%error, jobs = part.len(), "it is not sure that these are enqueued: looks later");
                    self.enqueue().until_it_answers().await?;
                }
            }
            state.doubtful.extend(part.iter().map(|job| job.id.clone()));
        }
        Ok(())
    }

    /// Publishes again what is in doubt and nobody has.
    async fn look_for_lost(&self, jobs: &[Job], state: &mut State<'_>) -> anyhow::Result<()> {
        if state.doubtful.is_empty() {
            return Ok(());
        }
        let impatient = state.moved.elapsed() > IMPATIENT;
        let lost = match self.enqueue().lost(&state.doubtful, impatient).await {
            Ok(Lost::These(lost)) if !lost.is_empty() => lost,
            Ok(_) => return Ok(()),
            Err(error) if error.is_passing() => {
                tracing::warn!(%error, "looks for lost jobs later");
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        // Those that ended meanwhile are no longer in doubt.
        self.reconcile(state).await?;
        let is_lost = |job: &&Job| lost.contains(&job.id) && state.doubtful.contains(&job.id);
        let again: Vec<&Job> = jobs.iter().filter(is_lost).collect();
        for part in again.chunks(PART) {
            match self.enqueue().again(part).await {
                Ok(()) => state.doubtful.retain(|id| !part.iter().any(|job| job.id == *id)),
                Err(error) if is_passing(&error) => {
                    tracing::warn!(error = format!("{error:#}"), "enqueues lost jobs later");
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        state.moved = Instant::now();
        if !again.is_empty() {
            (state.tell)(News::EnqueuedAgain(again.len()));
        }
        Ok(())
    }

    async fn watch_again(&self) -> Result<Box<dyn Events>, QueueError> {
        patiently(async || self.queue.watch(self.run).await, QueueError::is_passing).await
    }

    /// Whether it was a result that was wanted.
    async fn hear(&self, event: Event, state: &mut State<'_>) -> anyhow::Result<bool> {
        match event {
            Event::Result(result) => {
                let result = match &result.outcome_ref {
                    Some(whole) => match fetch_checked(self.store, whole).await {
                        Ok(bytes) => strict::json(&bytes)?,
                        // Found when the store is asked again.
                        Err(error) if error.is_passing() => return Ok(false),
                        Err(error) => return Err(error.into()),
                    },
                    None => *result,
                };
                Ok(state.take(result))
            }
            Event::Progress(progress) => {
                state.moved = Instant::now();
                if !state.results.contains_key(&progress.id) {
                    (state.tell)(News::Progress(&progress));
                }
                Ok(false)
            }
        }
    }

    /// Reads what the store has; whether that brought anything. An outage is waited for: the workers do, too.
    async fn reconcile(&self, state: &mut State<'_>) -> anyhow::Result<bool> {
        let told = |error: &anyhow::Error| {
            let passes = is_passing(error);
            if passes {
                tracing::warn!(error = format!("{error:#}"), "asks the store again");
            }
            passes
        };
        patiently(async || self.look(state).await, told).await
    }

    async fn look(&self, state: &mut State<'_>) -> anyhow::Result<bool> {
        match self.store.get(&layout::cancelled(self.run)).await {
            Ok(_) => bail!("the run `{}` was cancelled", self.run),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let mut brought = false;
        for result in runs::results(self.store, self.run, &state.results).await? {
            brought |= state.take(result);
        }
        Ok(brought)
    }

    async fn look_for_workers(&self, state: &mut State<'_>) {
        let ours = topology::queue_of(state.kind);
        if let Ok(depths) = self.queue.depths().await
            && depths.iter().filter(|depth| depth.queue == ours).all(|depth| depth.consumers == 0)
        {
            (state.tell)(News::NoWorkers);
        }
    }
}

fn is_passing(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(StoreError::is_passing) || error.downcast_ref().is_some_and(QueueError::is_passing)
}

/// When the store is asked next. Results put it off, up to a limit; progress does not.
#[derive(Debug, Clone, Copy)]
struct Due {
    looked: Instant,
    /// The last result, or the last look.
    since: Instant,
    quiet: Duration,
}

impl Due {
    fn new(now: Instant) -> Self {
        Self { looked: now, since: now, quiet: QUIET }
    }

    fn at(&self) -> Instant {
        (self.since + self.quiet).min(self.looked + QUIETEST)
    }

    fn after_result(&mut self, now: Instant) {
        self.since = now;
        self.quiet = QUIET;
    }

    fn after_look(&mut self, now: Instant) {
        *self = Self { looked: now, since: now, quiet: (2 * self.quiet).min(QUIETEST) };
    }
}

struct State<'a> {
    /// A run's jobs are of one kind.
    kind: Kind,
    wanted: BTreeMap<JobId, &'a Job>,
    /// Whether what comes is heard of for the first time, and not what stood in the store before.
    collects: bool,
    results: BTreeMap<JobId, JobResult>,
    /// Jobs that may or may not be on the queue.
    doubtful: BTreeSet<JobId>,
    /// When something was heard of the run last.
    moved: Instant,
    tell: &'a mut (dyn FnMut(News<'_>) + Send),
}

impl State<'_> {
    /// Keeps a result once, however often it is published; others of the run are not ours.
    fn take(&mut self, result: JobResult) -> bool {
        let Some(job) = self.wanted.get(&result.id).filter(|_| !self.results.contains_key(&result.id)) else {
            return false;
        };
        if self.collects {
            drop(traces::letters::collect(job, &result));
        }
        (self.tell)(News::Result(&result));
        self.doubtful.remove(&result.id);
        self.moved = Instant::now();
        self.results.insert(result.id.clone(), result);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_store_is_asked_at_least_twice_a_minute_however_busy_the_run() {
        let begun = Instant::now();
        let mut due = Due::new(begun);
        for second in 0..29 {
            let now = begun + Duration::from_secs(second);
            due.after_result(now);
            assert!(due.at() > now, "a result puts it off");
        }
        due.after_result(begun + Duration::from_secs(29));
        assert_eq!(due.at(), begun + QUIETEST, "but not for ever");
    }

    #[test]
    fn silence_is_asked_about_ever_less_often() {
        let mut due = Due::new(Instant::now());
        let mut waits = Vec::new();
        for _ in 0..6 {
            let now = due.at();
            waits.push((due.at() - due.looked).as_secs());
            due.after_look(now);
        }
        assert_eq!(waits, [3, 6, 12, 24, 30, 30]);
        let now = due.at();
        due.after_result(now);
        assert_eq!(due.at().min(now + QUIET), due.at(), "a result makes it lively again");
    }
}
