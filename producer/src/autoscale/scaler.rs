//! Looks, hears, asks the policy, and carries out what it says. Decides nothing itself.
//!
//! One task does it all: the policy and the connection have one owner. A look is two declares that declare nothing, several
//! times a second on one channel; who has what in hand comes with the workers' heartbeats.

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
use super::policy::{Action, Decision, Look, Policy, State, Turn};
use super::report::Report;

/// A worker has ten seconds to end.
const ENDS_WITHIN: Duration = Duration::from_secs(15);
/// Between two tries to reach the broker.
const AGAIN: Duration = Duration::from_secs(1);
/// The start of a worker that takes longer is a failure.
const START_LIMIT: Duration = Duration::from_secs(60);

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
    queue: Option<Arc<dyn Queue>>,
    options: Options,
    report: Report,
    began: Instant,
    /// When there was nothing to do, last.
    empty: Option<Instant>,
}

impl Scaler {
    /// Works for the fleet whose queue is at `place`.
    pub fn new(policy: Policy, backend: Box<dyn Backend>, place: QueuePlace, options: Options, report: Report) -> Self {
        Self { policy, backend, place, queue: None, options, report, began: Instant::now(), empty: None }
    }

    /// Works until `stop` is cancelled. An outage of the broker is waited for, and nobody is started or ended meanwhile.
    ///
    /// # Errors
    /// The queue refuses: waiting would not heal that.
    pub async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        tracing::info!(workers = self.backend.place(), queue = %self.place, "sizes workers");
        while !stop.is_cancelled() {
            let Err(error) = self.watch(&stop).await else { break };
            if !error.is_passing() {
                self.end().await;
                return Err(error.into());
            }
            tracing::debug!(%error, "the queue is not seen");
            self.report.unseen(&error.to_string());
            let turn = self.policy.decide(self.now(), None);
            self.tell(&turn);
            tokio::select! {
                () = sleep(AGAIN) => {}
                () = stop.cancelled() => {}
            }
        }
        self.end().await;
        Ok(())
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
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
                        depths = queue.depths_of(&self.options.kinds) => depths?,
                        () = stop.cancelled() => return Ok(()),
                    };
                    // Never left in the middle: what was begun is known to be begun.
                    self.turn(queue.as_ref(), &depths).await?;
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
        let heartbeats = queue.heartbeats().await?;
        Ok((queue, heartbeats))
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
                let started = timeout(START_LIMIT, self.backend.start(pool, worker, kinds)).await;
                (worker.as_str(), started.unwrap_or_else(|_| Err(anyhow::anyhow!("not within {START_LIMIT:?}"))))
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

    /// Ends our workers, in order, and waits for them; or leaves them.
    async fn end(&self) {
        if self.options.leave || self.options.dry_run {
            return;
        }
        let begun = Instant::now();
        let mut told = Vec::new();
        loop {
            let members = match self.backend.members().await {
                Ok(members) => members,
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "workers may be left: who is there cannot be found out"
                    );
                    return;
                }
            };
            let mut runs = 0;
            for member in &members {
                let late = begun.elapsed() > ENDS_WITHIN;
                let done = match member.state {
                    State::Ended { .. } => self.backend.remove(&member.name).await,
                    State::Runs if late => self.backend.kill(&member.name).await,
                    State::Runs if told.contains(&member.name) => Ok(()),
                    State::Runs => {
                        told.push(member.name.clone());
                        self.backend.stop(&member.name).await
                    }
                };
                runs += usize::from(member.state == State::Runs);
                if let Err(error) = done {
                    tracing::warn!(worker = member.name, error = format!("{error:#}"), "cannot end a worker");
                }
            }
            if runs == 0 || begun.elapsed() > 2 * ENDS_WITHIN {
                tracing::info!(workers = told.len(), left = runs, "has ended its workers");
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
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
