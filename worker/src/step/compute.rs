//! Has an order carried out by the slot's executor, and sees that it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::contract::{ErrorCode, ErrorReport};
use shared::traces::{KeyValue, Span};
use tokio::sync::{Mutex, Notify, Semaphore, SemaphorePermit};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Early, Ended, Step, failed, millis};
use crate::executor::{Death, Executor, ExecutorSettings, Order, Report, Say};
use crate::supervisor::On;

/// A slot's executor, started when first needed and kept warm.
#[derive(Debug)]
pub struct Warm {
    executor: Mutex<Option<Arc<Executor>>>,
    /// A place for each order that may be with the executor.
    room: Semaphore,
}

/// Orders that an executor may have: one that it computes, one whose pictures it reads meanwhile.
const ROOM: u32 = 2;

/// How often an executor is started that does not start: memory and process numbers may be short for a moment.
const START_TRIES: u32 = 5;

impl Default for Warm {
    fn default() -> Self {
        Self { executor: Mutex::default(), room: Semaphore::new(ROOM as usize) }
    }
}

impl Warm {
    /// The executor, another one if it has died. `None` where it is worn, unless the caller has it alone: then another
    /// takes its place.
    async fn executor(&self, settings: &ExecutorSettings, alone: bool) -> Result<Option<Arc<Executor>>, Death> {
        let mut held = self.executor.lock().await;
        if let Some(executor) = held.as_ref().filter(|executor| executor.is_alive()) {
            if !executor.is_worn(settings) {
                return Ok(Some(Arc::clone(executor)));
            }
            if !alone {
                return Ok(None);
            }
            tracing::debug!(executor.id = executor.id(), "an executor is worn: another takes its place");
        }
        // The old one goes first: there is memory for one.
        *held = None;
        Ok(Some(Arc::clone(held.insert(Arc::new(Executor::start(settings).await?)))))
    }
}

/// How long a drain waits for a checkpoint before it kills the executor and passes the job on. Behind it the checkpoint
/// is uploaded, until [`crate::supervisor::LATE`].
const GRACE: Duration = Duration::from_secs(6);

impl Step<'_> {
    pub(super) async fn compute(&mut self, order: &Order, warm: &Warm) -> Early<Report> {
        let begun = Instant::now();
        let answered = self.answer(order, warm).await;
        self.spent.durations.compute_ms += millis(begun.elapsed());
        let (cpu_ms, report) = answered?;
        self.spent.costs.cpu_ms += cpu_ms;
        match report {
            Report::Failed(report) => Err(Ended::Failed(report)),
            Report::Disk(report) => Err(Ended::Disk(report)),
            Report::Ended(done) => Err(self.out_of_time(done)),
            Report::NotBegun => Err(Ended::Stopped),
            report => Ok(report),
        }
    }

    /// How long the order may be computed before it is asked to end.
    fn limit(&self, order: &Order) -> Duration {
        let settings = &self.context.settings;
        if matches!(order, Order::Train { .. }) { settings.slice } else { settings.time_limit }
    }

    fn out_of_time(&self, done: f64) -> Ended {
        let limit = humantime::format_duration(self.context.settings.time_limit);
        failed(
            ErrorCode::TimeLimit,
            &format!(
                "time limit: {:.1} % were done after {limit}; make it smaller, or give workers a longer --time-limit",
                done * 100.0
            ),
        )
    }

    /// Has the order carried out. When the executor dies while it has two, whose fault it was is not known: then this
    /// one is tried again, alone.
    async fn answer(&mut self, order: &Order, warm: &Warm) -> Early<(u64, Report)> {
        let mut ran = self.have_done(order, warm, 1).await?;
        if let Err(Death::InCompany(death)) = ran {
            tracing::warn!(%death, "an executor died with two jobs: each is tried again alone");
            ran = self.have_done(order, warm, ROOM).await?;
        }
        ran.map_err(|death| crashed(&death))
    }

    /// So many of an executor's places, and the executor. Whoever waits for too long for a place is stopped, so that
    /// somebody else gets the job. An executor that does not start is tried again a few times, and is then this machine's
    /// fault.
    async fn executor<'w>(&self, warm: &'w Warm, mut places: u32) -> Early<(SemaphorePermit<'w>, Arc<Executor>)> {
        let settings = &self.context.settings.executor;
        let too_long = sleep(settings.wait);
        tokio::pin!(too_long);
        let mut tries = 1..START_TRIES;
        loop {
            let place = tokio::select! {
                place = warm.room.acquire_many(places) => place.expect("never closed"),
                ended = self.stopped() => return Err(ended),
                () = self.stops.shed.cancelled() => return Err(Ended::Stopped),
                () = &mut too_long => return Err(Ended::Stopped),
            };
            match warm.executor(settings, places == ROOM).await {
                Ok(Some(executor)) => return Ok((place, executor)),
                // Worn: it goes once nobody else has an order there.
                Ok(None) => places = ROOM,
                Err(death) if tries.next().is_some() => tokio::select! {
                    () = self.context.patience.wait(On::Executor, &death) => {}
                    ended = self.stopped() => return Err(ended),
                },
                Err(death) => return Err(Ended::NoExecutor(death)),
            }
        }
    }

    /// Has the order carried out while it takes up so many of the executor's places. The inner error is the
    /// executor's death.
    async fn have_done(&mut self, order: &Order, warm: &Warm, places: u32) -> Early<Result<(u64, Report), Death>> {
        let (place, executor) = self.executor(warm, places).await?;
        let (pause, give_up) = (CancellationToken::new(), CancellationToken::new());
        let (mut told, full) = (false, Notify::new());
        let mut timed = Timed::new(self.span, executor.id());
        let mut each = |said: Say| match said {
            Say::Step { fraction, epoch } => {
                if let Some(epoch) = &epoch {
                    self.context.metrics.trained();
                    timed.epoch(epoch.epoch);
                }
                // Before its first step an executor does not know how far the slices before have come.
                if fraction > 0.0 || epoch.is_some() {
                    self.context.tell(self.job, fraction, epoch);
                }
            }
            Say::Begun => timed.begins(),
            Say::Loaded(took) => timed.loaded(took),
            Say::DiskFull(error) => {
                full.notify_one();
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(%error, "the disk is full: what was computed waits until there is room");
                }
            }
            Say::Ready | Say::Report { .. } => {}
        };
        let ran = {
            let run = executor.run(order, self.limit(order), &mut each, &pause, &give_up);
            tokio::pin!(run);
            let grace = async {
                self.stops.drain.cancelled().await;
                sleep(GRACE).await;
            };
            tokio::pin!(grace);
            loop {
                tokio::select! {
                    ran = &mut run => break ran,
                    // The cache may be what fills it.
                    () = full.notified() => if let Err(error) = self.context.cache.make_room().await {
                        tracing::warn!(%error, "cannot make room in the cache");
                    },
                    () = self.stops.drain.cancelled(), if !pause.is_cancelled() => pause.cancel(),
                    () = &mut grace, if !give_up.is_cancelled() => give_up.cancel(),
                    () = self.stops.lost.cancelled(), if !give_up.is_cancelled() => give_up.cancel(),
                    () = self.over.cancelled(), if !give_up.is_cancelled() => give_up.cancel(),
                }
            }
        };
        drop(place);
        timed.ended(&ran);
        match ran {
            Err(Death::GivenUp) if self.stops.lost.is_cancelled() => Err(Ended::Lost),
            Err(Death::GivenUp) if self.over.is_cancelled() => Err(Ended::Cancelled),
            Err(Death::GivenUp) => Err(Ended::Stopped),
            ran => Ok(ran),
        }
    }
}

/// An executor's times, as spans: it has no network, and says what it does over its pipe.
struct Timed {
    span: Span,
    begun: Instant,
    epoch: Instant,
}

impl Timed {
    /// Of an order that is sent now.
    fn new(parent: &Span, executor: u32) -> Self {
        let (mut span, now) = (parent.child("execute"), Instant::now());
        span.set("process.pid", i64::from(executor));
        Self { span, begun: now, epoch: now }
    }

    fn begins(&mut self) {
        let now = Instant::now();
        if self.span.is_seen() {
            self.span.child_between("wait", self.begun, now, Vec::new());
        }
        (self.begun, self.epoch) = (now, now);
    }

    fn epoch(&mut self, number: u32) {
        let now = Instant::now();
        if self.span.is_seen() {
            let number = KeyValue::new("gannet.epoch", i64::from(number));
            self.span.child_between("epoch", self.epoch, now, vec![number]);
        }
        self.epoch = now;
    }

    fn loaded(&mut self, took: Duration) {
        if self.span.is_seen() {
            self.span.child_between("load", self.begun, self.begun + took, Vec::new());
        }
    }

    fn ended(mut self, ran: &Result<(u64, Report), Death>) {
        match ran {
            Ok((cpu_ms, _)) => self.span.set("gannet.cpu_ms", i64::try_from(*cpu_ms).unwrap_or(i64::MAX)),
            Err(death) => self.span.fail(death),
        }
    }
}

fn crashed(death: &Death) -> Ended {
    Ended::Failed(ErrorReport::of(death.code(), death))
}
