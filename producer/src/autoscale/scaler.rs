//! Looks, hears, asks the policy, and carries out what it says. Decides nothing itself.
//!
//! One task does it all: the policy and the connection have one owner. A look is two declares that declare nothing, several
//! times a second on one channel; who has what in hand comes with the workers' heartbeats.
//!
//! A broker that is short of memory or disk reads no more from whoever publishes, and still answers who only looks: workers fall
//! silent though they compute. It tells that those alone who publish. So whoever is quiet is asked for a word, on the connection
//! that looks: then either the word comes, or the broker says that it takes none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use shared::contract::{Control, Heartbeat, Kind};
use shared::queue::{Depth, Heartbeats, Queue, QueueError, open_at, topology};
use shared::settings::QueuePlace;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::ending::end_all;
use super::policy::{Action, Decision, Look, Policy, Turn};
use super::pool::START_LIMIT;
use super::report::Report;

/// Between two tries to reach the broker.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest where it refuses: each wrong password is a line in its log.
const LONGEST_AGAIN: Duration = Duration::from_secs(30);
/// Between two words to those that are quiet: two of them before anybody is taken for silent.
const ASK_EVERY: Duration = Duration::from_secs(3);

/// How it goes about it.
#[derive(Debug, Clone)]
pub struct Options {
    /// Time between two looks.
    pub every: Duration,
    /// Kinds of jobs to look at.
    pub kinds: Vec<Kind>,
    /// Only says what it would do.
    pub dry_run: bool,
    /// Leaves its workers running when it ends.
    pub leave: bool,
}

/// Sizes the workers of one fleet.
pub struct Scaler {
    policy: Policy,
    backend: Box<dyn Backend>,
    place: QueuePlace,
    /// The place as it is set now: a password in a file may have been changed.
    place_now: fn() -> Option<QueuePlace>,
    queue: Option<Arc<dyn Queue>>,
    options: Options,
    report: Report,
    began: Instant,
    /// When there was nothing to do, last.
    empty: Option<Instant>,
    /// When the workers were asked for a word, last.
    asked: Option<Instant>,
    /// Whether anything was ever seen.
    has_seen: bool,
    /// Refusals since it was.
    refused: u32,
}

impl Scaler {
    /// Works for the fleet whose queue is at `place`; `place_now` reads that place again.
    pub fn new(
        policy: Policy,
        backend: Box<dyn Backend>,
        place: QueuePlace,
        place_now: fn() -> Option<QueuePlace>,
        options: Options,
        report: Report,
    ) -> Self {
        Self {
            policy,
            backend,
            place,
            place_now,
            queue: None,
            options,
            report,
            began: Instant::now(),
            empty: None,
            asked: None,
            has_seen: false,
            refused: 0,
        }
    }

    /// Works until `stop` is cancelled. An outage of the broker and a refusal are waited for, and nobody is started or ended
    /// meanwhile: workers that have their connections work on.
    ///
    /// # Errors
    /// The queue refuses from the first: then what was asked for is wrong. Workers that run are left alone.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(workers = self.backend.place(), queue = %self.place, "sizes workers");
        while !stop.is_cancelled() {
            let Err(error) = self.watch(&stop).await else { break };
            let wait = match error.is_passing() {
                true => AGAIN,
                false if !self.has_seen => return Err(error.into()),
                false => self.was_refused(&error),
            };
            tracing::debug!(%error, "the queue is not seen");
            if self.queue.as_ref().is_some_and(|queue| queue.is_blocked()) {
                self.waits_for_the_broker();
            } else {
                self.report.unseen(&error.to_string());
                let turn = self.policy.decide(self.now(), None);
                self.tell(&turn);
            }
            tokio::select! {
                () = sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
        if !self.options.leave && !self.options.dry_run {
            end_all(self.backend.as_ref()).await;
        }
        Ok(())
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Takes a refusal: another password, rights that were taken away. Returns how long to wait before the next try.
    fn was_refused(&mut self, error: &QueueError) -> Duration {
        if self.refused == 0 {
            tracing::error!(%error, "the queue refuses: tries again and again, and leaves the workers alone until it is seen");
        }
        self.refused += 1;
        if let Some(place) = (self.place_now)().filter(|place| *place != self.place) {
            tracing::info!(queue = %place, "the queue's address has changed");
            self.place = place;
            self.queue = None;
            return AGAIN;
        }
        LONGEST_AGAIN.min(AGAIN * (1 << (self.refused - 1).min(5)))
    }

    /// Looks and acts until `stop` is cancelled or the connection is lost.
    async fn watch(&mut self, stop: &CancellationToken) -> Result<(), QueueError> {
        let opened = tokio::select! {
            opened = self.open() => opened?,
            () = stop.cancelled() => return Ok(()),
        };
        let (queue, mut heartbeats) = opened;
        let mut ticks = interval(self.options.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                word = heartbeats.next() => self.hear(&word?),
                _ = ticks.tick() => {
                    let depths = tokio::select! {
                        biased;
                        () = until_blocked(queue.as_ref()) => None,
                        depths = queue.depths_of(&self.options.kinds) => Some(depths?),
                        () = stop.cancelled() => return Ok(()),
                    };
                    let Some(depths) = depths else {
                        self.waits_for_the_broker();
                        continue;
                    };
                    // Never left in the middle: what was begun is known to be begun.
                    self.turn(queue.as_ref(), &depths).await?;
                    self.ask_the_quiet(queue.as_ref()).await?;
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(Arc<dyn Queue>, Box<dyn Heartbeats>), QueueError> {
        let queue = match &self.queue {
            Some(queue) => Arc::clone(queue),
            None => open_at(&with_small_frames(&self.place)).await?,
        };
        self.queue = Some(Arc::clone(&queue));
        // A connection that is blocked answers nothing.
        while queue.is_blocked() {
            sleep(self.options.every).await;
        }
        let heartbeats = queue.heartbeats().await?;
        // Who works, and at what, is known at once.
        if !self.options.dry_run {
            queue.publish_control(&Control::Report).await?;
        }
        Ok((queue, heartbeats))
    }

    /// Asks for a word where one is missing.
    async fn ask_the_quiet(&mut self, queue: &dyn Queue) -> Result<(), QueueError> {
        if self.options.dry_run {
            return Ok(());
        }
        if self.policy.is_quiet(self.now()) && self.asked.is_none_or(|asked| asked.elapsed() >= ASK_EVERY) {
            self.asked = Some(Instant::now());
            queue.publish_control(&Control::Report).await?;
        }
        Ok(())
    }

    /// The broker takes no messages.
    fn waits_for_the_broker(&mut self) {
        let turn = self.policy.blocked();
        self.report.unseen("the broker takes no messages: its memory or its disk is short (an alarm of RabbitMQ's)");
        self.tell(&turn);
    }

    fn hear(&mut self, word: &Heartbeat) {
        let now = self.now();
        self.policy.hear(now, word);
        self.report.answers(self.policy.answers());
    }

    async fn turn(&mut self, queue: &dyn Queue, depths: &[Depth]) -> Result<(), QueueError> {
        let members = match self.backend.members().await {
            Ok(members) => members,
            Err(error) => {
                self.report.unseen(&format!("{error:#}"));
                let turn = self.policy.decide(self.now(), None);
                self.tell(&turn);
                return Ok(());
            }
        };
        let of = |kind: &Kind| depths.iter().find(|depth| depth.queue == topology::queue_of(*kind));
        let ready: BTreeMap<Kind, u64> =
            self.options.kinds.iter().filter_map(|kind| of(kind).map(|depth| (*kind, depth.ready))).collect();
        let look = Look { ready, consumers: depths.iter().map(|depth| depth.consumers).sum(), members };
        let (now, is_dry) = (self.now(), self.options.dry_run);
        let turn = if is_dry { self.policy.ponder(now, &look) } else { self.policy.decide(now, Some(&look)) };
        (self.has_seen, self.refused) = (true, 0);
        self.report.seen();
        self.tell(&turn);
        if turn.ready == 0 {
            self.empty = Some(Instant::now());
        }
        if !is_dry {
            self.carry_out(queue, &turn).await?;
        }
        Ok(())
    }

    fn tell(&mut self, turn: &Turn) {
        self.report.tell(turn, self.options.dry_run);
    }

    async fn carry_out(&mut self, queue: &dyn Queue, turn: &Turn) -> Result<(), QueueError> {
        let was_empty = turn.pools.iter().map(|pool| pool.actual).sum::<u32>() as usize
            == turn.decisions.iter().filter(|decision| matches!(decision.action, Action::Start { .. })).count();
        let starts = turn.decisions.iter().filter_map(|decision| match &decision.action {
            Action::Start { pool, worker, kinds } => Some(async {
                // Nobody looks meanwhile: a start that takes longer goes wrong, whatever the limit of the first word.
                let limit = self.policy.start_limit(pool).min(START_LIMIT);
                let started = timeout(limit, self.backend.start(pool, worker, kinds)).await;
                let late = |_| Err(anyhow::anyhow!("not within {limit:?}"));
                (worker.as_str(), started.unwrap_or_else(late))
            }),
            _ => None,
        });
        let started = join_all(starts).await;
        let now = self.now();
        for (worker, outcome) in &started {
            if let Err(error) = outcome {
                self.policy.could_not_start(now, worker);
                self.report.not_started(worker, error);
            }
        }
        if was_empty
            && started.iter().any(|(_, outcome)| outcome.is_ok())
            && let Some(empty) = self.empty
        {
            self.report.first_start(empty.elapsed());
        }
        for Decision { action, .. } in &turn.decisions {
            let done = match action {
                Action::Ask { worker, spare } => {
                    queue.publish_control(&Control::Drain { worker: worker.clone(), only_if: Some(*spare) }).await?;
                    Ok(())
                }
                Action::Stop { worker } => self.backend.stop(worker).await,
                Action::Kill { worker } => self.backend.kill(worker).await,
                Action::Remove { worker } => self.backend.remove(worker).await,
                Action::Start { .. } | Action::Adopt { .. } | Action::Wait { .. } => Ok(()),
            };
            if let Err(error) = done {
                tracing::warn!(worker = action.worker(), error = format!("{error:#}"), "cannot {}", action.name());
            }
        }
        Ok(())
    }
}

/// Waits until the broker takes no messages: then it reads nothing more of this connection, and answers nothing.
async fn until_blocked(queue: &dyn Queue) {
    while !queue.is_blocked() {
        sleep(Duration::from_millis(50)).await;
    }
}

/// The client keeps buffers of 64 frames: 8 MiB with frames of the usual size, and half a one with the least that every broker
/// accepts. This program runs for weeks and says little.
fn with_small_frames(place: &QueuePlace) -> QueuePlace {
    match place {
        QueuePlace::Amqp(url) if !url.contains("frame_max=") => {
            let separator = if url.contains('?') { '&' } else { '?' };
            QueuePlace::Amqp(format!("{url}{separator}frame_max=8192"))
        }
        other => other.clone(),
    }
}
