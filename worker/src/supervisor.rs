//! The worker as a whole: starts the slots, says that it lives, listens, drains. Never computes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use rand::RngExt as _;
use shared::contract::{Control, EpochMetrics, Heartbeat, Job, Kind, Progress, Running, Spare};
use shared::metrics::{Counter, Registry, Seconds};
use shared::queue::Queue;
use shared::store::Store;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::cancel::Cancels;
use crate::executor::Executor;
use crate::metrics::{Metrics, Stage, register_waits};
use crate::receive::slot;
use crate::scratch::ScratchHome;
use crate::settings::{WorkerSettings, hostname};
use crate::settle::Fault;

/// What every slot shares.
#[derive(Debug)]
pub struct Context {
    /// How it works.
    pub settings: WorkerSettings,
    /// Jobs come from here, results go there.
    pub queue: Arc<dyn Queue>,
    /// The truth.
    pub store: Arc<dyn Store>,
    /// The host's copies.
    pub cache: Cache,
    /// Cancel markers.
    pub cancels: Cancels,
    /// How to wait for what cannot be reached.
    pub patience: Arc<Patience>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Cancelled when a drain has lasted for [`LATE`].
    pub late: CancellationToken,
    /// Where deliveries have their scratch folders.
    pub scratch: ScratchHome,
    /// Cancelled when it takes no more jobs.
    drain: CancellationToken,
    /// What is computed now. Held for look-ups only.
    running: Mutex<Now>,
    next_running: AtomicU64,
    settled: AtomicU64,
    /// Woken when `running` changes: the next heartbeat goes out.
    changed: Notify,
    /// Drained by the progress task; full means that news are lost, by intent.
    news: mpsc::Sender<Progress>,
}

/// What is computed now, by a number of our own.
#[derive(Debug)]
struct Now {
    jobs: HashMap<u64, (Running, Instant)>,
    /// Since when there has been nothing, if there is nothing.
    idle: Option<Instant>,
}

/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A drain ends within ten seconds: whoever sends the signal kills what runs on. By then what an executor or the store
/// has not finished is passed on as it was (a slice of work is lost, and no attempt).
pub const LATE: Duration = Duration::from_secs(8);
/// Behind it what the broker has not confirmed is dropped: it then gives the deliveries to others by itself.
const LAST_CALL: Duration = Duration::from_millis(9_300);
/// A slice that began no longer ago has done nothing yet that its drain would lose: its executor is still being told.
const FRESH: Duration = Duration::from_secs(3);
/// The last heartbeat may be lost.
const LAST_WORD: Duration = Duration::from_millis(300);
/// Progress of one job is told at most this often; ends of epochs always are.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Runs a worker until `drain` is cancelled, then lets its jobs make their checkpoints, and returns.
///
/// # Errors
/// The cache's folder cannot be used, or the queue or the store refuses this worker.
pub async fn work(
    settings: WorkerSettings,
    queue: Arc<dyn Queue>,
    store: Arc<dyn Store>,
    drain: CancellationToken,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    metrics.takes_from(&queue);
    metrics.reaches(Stage::Executors);
    allow_open_files();
    let cache = Cache::open_counted(&settings.cache, settings.cache_limit, metrics.cache.clone())?;
    let scratch = ScratchHome::new(&settings.cache.join("scratch")).context("prepare the scratch folder")?;
    // Found out now, not by the first jobs: whether this machine can run executors at all.
    tokio::select! {
        started = Executor::start(&settings.executor) => drop(started.context("start an executor")?),
        () = drain.cancelled() => return Ok(()),
    }
    let (news, hear) = mpsc::channel(256);
    let context = Arc::new(Context {
        cancels: Cancels::new(Arc::clone(&store)),
        settings,
        queue,
        store,
        cache,
        patience: Arc::clone(&metrics.patience),
        metrics,
        late: CancellationToken::new(),
        scratch,
        drain: drain.clone(),
        running: Mutex::new(Now { jobs: HashMap::new(), idle: Some(Instant::now()) }),
        next_running: AtomicU64::new(0),
        settled: AtomicU64::new(0),
        changed: Notify::new(),
        news,
    });
    let mut side = JoinSet::new();
    side.spawn(tell_news(Arc::clone(&context), hear));
    side.spawn(beat(Arc::clone(&context)));
    side.spawn(listen(Arc::clone(&context)));
    side.spawn({
        let context = Arc::clone(&context);
        async move {
            context.drain.cancelled().await;
            context.metrics.reaches(Stage::Draining);
            context.beat().await;
            sleep(LATE).await;
            context.late.cancel();
        }
    });
    if let Some(after) = context.settings.exit_when_idle {
        side.spawn(leave_when_idle(Arc::clone(&context), after, drain.clone()));
    }

    let mut slots = JoinSet::new();
    for _ in 0..context.settings.slots {
        let (context, drain) = (Arc::clone(&context), drain.clone());
        slots.spawn(async move { slot(&context, &drain).await });
    }
    context.metrics.reaches(Stage::Working);
    tracing::info!(worker = %context.settings.name, slots = context.settings.slots, "takes jobs");
    let fault = end_of(&mut slots, &drain).await;
    side.shutdown().await;
    if timeout(LAST_WORD, context.queue.publish_heartbeat(&context.heartbeat(0))).await.is_err() {
        tracing::debug!("the last heartbeat is lost");
    }
    tracing::info!(worker = %context.settings.name, settled = context.settled.load(Ordering::Relaxed), "has ended");
    fault.map_or(Ok(()), Err)
}

/// As many open files as the system lets this process have: each picture in hand is one, and shells and service managers
/// start programs with a limit of 1024.
fn allow_open_files() {
    // SAFETY: both calls read or fill the struct they are given; all zeros is a valid one to begin with.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            // Where it is refused the old one stands.
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
    }
}

/// Waits until every slot has ended. The first that fails drains the others.
async fn end_of(slots: &mut JoinSet<Result<(), Fault>>, drain: &CancellationToken) -> Option<anyhow::Error> {
    let mut fault = None;
    let overdue = async {
        drain.cancelled().await;
        sleep(LAST_CALL).await;
    };
    tokio::pin!(overdue);
    loop {
        let ended = tokio::select! {
            ended = slots.join_next() => ended,
            () = &mut overdue => {
                tracing::warn!(slots = slots.len(), "some slots do not end: their jobs go back to the queue");
                slots.abort_all();
                while slots.join_next().await.is_some() {}
                return fault;
            }
        };
        let error = match ended {
            None => return fault,
            Some(Ok(Ok(()))) => continue,
            Some(Ok(Err(fault))) => anyhow::Error::from(fault),
            Some(Err(error)) => anyhow::Error::from(error).context("a slot panicked"),
        };
        tracing::error!(error = format!("{error:#}"), "this worker cannot go on: it takes no more jobs");
        fault.get_or_insert(error);
        drain.cancel();
    }
}

/// Marks a job as computed for as long as it lives.
pub struct RunningGuard<'a> {
    context: &'a Context,
    number: u64,
}

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        {
            let mut now = self.context.running.lock().expect("no panic holds it");
            now.jobs.remove(&self.number);
            if now.jobs.is_empty() {
                now.idle = Some(Instant::now());
            }
        }
        self.context.changed.notify_one();
    }
}

impl Context {
    /// Shows the job in heartbeats until the guard is dropped.
    pub fn running(&self, job: &Job) -> RunningGuard<'_> {
        let number = self.next_running.fetch_add(1, Ordering::Relaxed);
        let running = Running { id: job.id.clone(), run: job.run.clone(), kind: job.kind(), for_ms: 0 };
        {
            let mut now = self.running.lock().expect("no panic holds it");
            now.jobs.insert(number, (running, Instant::now()));
            now.idle = None;
        }
        self.changed.notify_one();
        RunningGuard { context: self, number }
    }

    /// For how long no slot has had a job; `None` while one has.
    pub fn idle_for(&self) -> Option<Duration> {
        self.running.lock().expect("no panic holds it").idle.map(|since| since.elapsed())
    }

    /// Counts a settled job.
    pub fn settled(&self) {
        self.settled.fetch_add(1, Ordering::Relaxed);
    }

    /// Tells watchers how a job moves on. Never waits.
    pub fn tell(&self, job: &Job, fraction: f64, epoch: Option<EpochMetrics>) {
        let worker = self.settings.name.clone();
        let _ = self.news.try_send(Progress { id: job.id.clone(), run: job.run.clone(), worker, fraction, epoch });
    }

    /// Drains if no more than this is in hand. A job that comes at this moment finds the drain begun, and is passed on
    /// without a charge.
    fn drain_if(&self, spare: Spare) -> bool {
        let running = self.running.lock().expect("no panic holds it");
        let spared = running.jobs.values().all(|(job, since)| match spare {
            Spare::Idle => false,
            Spare::Fresh => job.kind == Kind::Trial && since.elapsed() < FRESH,
        });
        if spared {
            self.drain.cancel();
        }
        spared
    }

    /// Says what it has in hand.
    async fn beat(&self) {
        self.queue.publish_heartbeat(&self.heartbeat(self.settings.slots)).await;
    }

    fn heartbeat(&self, slots: u32) -> Heartbeat {
        let running = self.running.lock().expect("no panic holds it");
        let running = running.jobs.values().map(|(running, since)| Running {
            for_ms: since.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            ..running.clone()
        });
        Heartbeat {
            worker: self.settings.name.clone(),
            host: hostname(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            slots,
            kinds: self.settings.kinds.clone(),
            draining: self.drain.is_cancelled(),
            running: running.collect(),
            settled: self.settled.load(Ordering::Relaxed),
            at: Timestamp::now(),
        }
    }
}

/// Drains this worker when no slot has had a job for so long. What comes at that moment is passed on as by any drain.
async fn leave_when_idle(context: Arc<Context>, after: Duration, drain: CancellationToken) {
    loop {
        let idle = context.idle_for().unwrap_or_default();
        if idle >= after {
            tracing::info!(idle_s = idle.as_secs(), "has had no job for long enough: drains (--exit-when-idle)");
            return drain.cancel();
        }
        sleep(after - idle).await;
    }
}

async fn beat(context: Arc<Context>) {
    loop {
        context.beat().await;
        tokio::select! {
            () = sleep(HEARTBEAT) => {}
            // Small jobs change what runs all the time: a word a quarter of a second is enough.
            () = async { context.changed.notified().await; sleep(Duration::from_millis(250)).await } => {}
        }
    }
}

async fn tell_news(context: Arc<Context>, mut news: mpsc::Receiver<Progress>) {
    let mut told: HashMap<(shared::names::Name, shared::names::JobId), Instant> = HashMap::new();
    while let Some(progress) = news.recv().await {
        let key = (progress.run.clone(), progress.id.clone());
        if progress.epoch.is_none() && told.get(&key).is_some_and(|at| at.elapsed() < TELL_EVERY) {
            continue;
        }
        context.queue.publish_progress(&progress).await;
        told.retain(|_, at| at.elapsed() < 60 * TELL_EVERY);
        told.insert(key, Instant::now());
    }
}

async fn listen(context: Arc<Context>) {
    loop {
        let heard = async {
            let mut controls = context.queue.listen().await?;
            loop {
                match controls.next().await? {
                    Control::Cancelled { run, .. } => {
                        // What runs here is said before it stops, so that who cancels can count it.
                        context.beat().await;
                        context.cancels.forget(&run);
                    }
                    Control::Drain { worker, only_if } if worker == context.settings.name => match only_if {
                        None => {
                            tracing::info!("asked to drain");
                            context.drain.cancel();
                        }
                        Some(spare) if context.drain_if(spare) => tracing::info!(?spare, "asked to drain, and drains"),
                        Some(spare) => {
                            tracing::info!(?spare, "asked to drain, and goes on: it has a job in hand");
                            context.beat().await;
                        }
                    },
                    Control::Drain { .. } => {}
                    Control::Report => context.beat().await,
                }
            }
        };
        let ended: Result<std::convert::Infallible, shared::queue::QueueError> = heard.await;
        let Err(error) = ended;
        context.patience.wait(On::Queue, &error).await;
    }
}

/// What is waited for until it can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum On {
    /// The broker, or the queue's file.
    Queue,
    /// The store, and the cache that is filled from it.
    Store,
    /// A disk of this machine.
    Disk,
    /// An executor that does not start.
    Executor,
}

impl On {
    /// Every one, in the order of the numbers.
    pub const ALL: [Self; 4] = [Self::Queue, Self::Store, Self::Disk, Self::Executor];

    /// Its name as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Store => "store",
            Self::Disk => "disk",
            Self::Executor => "executor",
        }
    }
}

/// Waits between tries of what cannot be reached, and says so now and then.
#[derive(Debug, Default)]
pub struct Patience {
    row: Mutex<Option<Row>>,
    /// Waits and their time, by what they are for; counted once they have names.
    waits: OnceLock<[(Counter, Seconds); On::ALL.len()]>,
}

/// Failures in a row that are closer together than [`Patience::FORGET`].
#[derive(Debug)]
struct Row {
    failures: u32,
    last: Instant,
    /// When it was last told of.
    said: Instant,
    /// The last one, in words.
    error: String,
}

impl Patience {
    const FORGET: Duration = Duration::from_secs(60);
    const SAY_EVERY: Duration = Duration::from_secs(30);
    const LONGEST: Duration = Duration::from_secs(10);
    /// Failures in a row that are no hiccup any more.
    const TROUBLE: u32 = 3;

    /// Waits: exponentially longer while it goes on, with full jitter, so that a fleet does not come
    /// back all at once.
    pub async fn wait(&self, on: On, error: &(dyn std::error::Error + Sync)) {
        let failures = {
            let mut row = self.row.lock().expect("no panic holds it");
            let now = Instant::now();
            let (failures, said) = match &*row {
                Some(row) if now - row.last < Self::FORGET => (row.failures + 1, row.said),
                _ => (1, now),
            };
            let say = failures == 1 || now - said >= Self::SAY_EVERY;
            *row = Some(Row { failures, last: now, said: if say { now } else { said }, error: error.to_string() });
            if say {
                tracing::warn!(%error, failures, "waits and tries again");
            }
            failures
        };
        let most = Duration::from_millis(250).saturating_mul(1 << failures.min(10)).min(Self::LONGEST);
        let share = 0.1 + 0.9 * rand::rng().random::<f64>();
        let wait = most.mul_f64(share);
        if let Some((waits, seconds)) = self.waits.get().map(|waits| &waits[on as usize]) {
            waits.inc();
            seconds.inc_by(wait.as_secs_f64());
        }
        sleep(wait).await;
    }

    /// What is waited for now, and again and again: a single failure is none.
    pub fn trouble(&self) -> Option<String> {
        let row = self.row.lock().expect("no panic holds it");
        // Whoever waits for longest fails again within this time, or has stopped to fail.
        let lately = |row: &&Row| row.failures >= Self::TROUBLE && row.last.elapsed() < Self::LONGEST + LATE;
        row.as_ref().filter(lately).map(|row| row.error.clone())
    }

    /// Counts from now on, by these names.
    pub(crate) fn register(&self, registry: &mut Registry) {
        drop(self.waits.set(register_waits(registry)));
    }
}
