//! The worker as a whole: starts the slots, says that it lives, listens, drains. Never computes.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use jiff::Timestamp;
use rand::RngExt as _;
use shared::contract::{Control, EpochMetrics, Heartbeat, Job, Progress, Running};
use shared::queue::Queue;
use shared::store::Store;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::cancel::Cancels;
use crate::executor::Executor;
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
    pub patience: Patience,
    /// Cancelled when a drain has lasted for [`LATE`].
    pub late: CancellationToken,
    /// Where deliveries have their scratch folders.
    pub scratch: ScratchHome,
    /// What is computed now, by a number of our own. Held for look-ups only.
    running: Mutex<HashMap<u64, (Running, Instant)>>,
    next_running: AtomicU64,
    settled: AtomicU64,
    /// Woken when `running` changes: the next heartbeat goes out.
    changed: Notify,
    /// Drained by the progress task; full means that news are lost, by intent.
    news: mpsc::Sender<Progress>,
}

/// Time between heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A drain ends within ten seconds: whoever sends the signal kills what runs on. By then what an executor or the store
/// has not finished is passed on as it was (a slice of work is lost, and no attempt).
pub const LATE: Duration = Duration::from_secs(8);
/// Behind it what the broker has not confirmed is dropped: it then gives the deliveries to others by itself.
const LAST_CALL: Duration = Duration::from_millis(9_300);
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
) -> anyhow::Result<()> {
    allow_open_files();
    let cache = Cache::open(&settings.cache, settings.cache_limit)?;
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
        patience: Patience::default(),
        late: CancellationToken::new(),
        scratch,
        running: Mutex::default(),
        next_running: AtomicU64::new(0),
        settled: AtomicU64::new(0),
        changed: Notify::new(),
        news,
    });
    let mut side = JoinSet::new();
    side.spawn(tell_news(Arc::clone(&context), hear));
    side.spawn(beat(Arc::clone(&context)));
    side.spawn(listen(Arc::clone(&context), drain.clone()));
    side.spawn({
        let (context, drain) = (Arc::clone(&context), drain.clone());
        async move {
            drain.cancelled().await;
            sleep(LATE).await;
            context.late.cancel();
        }
    });

    let mut slots = JoinSet::new();
    for _ in 0..context.settings.slots {
        let (context, drain) = (Arc::clone(&context), drain.clone());
        slots.spawn(async move { slot(&context, &drain).await });
    }
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
        self.context.running.lock().expect("no panic holds it").remove(&self.number);
        self.context.changed.notify_one();
    }
}

impl Context {
    /// Shows the job in heartbeats until the guard is dropped.
    pub fn running(&self, job: &Job) -> RunningGuard<'_> {
        let number = self.next_running.fetch_add(1, Ordering::Relaxed);
        let running = Running { id: job.id.clone(), run: job.run.clone(), kind: job.kind(), for_ms: 0 };
        self.running.lock().expect("no panic holds it").insert(number, (running, Instant::now()));
        self.changed.notify_one();
        RunningGuard { context: self, number }
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

    fn heartbeat(&self, slots: u32) -> Heartbeat {
        let running = self.running.lock().expect("no panic holds it");
        let running = running.values().map(|(running, since)| Running {
            for_ms: since.elapsed().as_millis().try_into().unwrap_or(u64::MAX),
            ..running.clone()
        });
        Heartbeat {
            worker: self.settings.name.clone(),
            host: hostname(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").into(),
            slots,
            running: running.collect(),
            settled: self.settled.load(Ordering::Relaxed),
            at: Timestamp::now(),
        }
    }
}

async fn beat(context: Arc<Context>) {
    loop {
        context.queue.publish_heartbeat(&context.heartbeat(context.settings.slots)).await;
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

async fn listen(context: Arc<Context>, drain: CancellationToken) {
    loop {
        let heard = async {
            let mut controls = context.queue.listen().await?;
            loop {
                match controls.next().await? {
                    Control::Cancelled { run, .. } => {
                        // What runs here is said before it stops, so that who cancels can count it.
                        context.queue.publish_heartbeat(&context.heartbeat(context.settings.slots)).await;
                        context.cancels.forget(&run);
                    }
                    Control::Drain { worker } if worker == context.settings.name => {
                        tracing::info!("asked to drain");
                        drain.cancel();
                    }
                    Control::Drain { .. } => {}
                }
            }
        };
        let ended: Result<std::convert::Infallible, shared::queue::QueueError> = heard.await;
        let Err(error) = ended;
        context.patience.wait(&error).await;
    }
}

/// Waits between tries of what cannot be reached, and says so now and then.
#[derive(Debug, Default)]
pub struct Patience {
    /// Failures in a row that are closer together than [`Patience::FORGET`], and when the last was.
    row: Mutex<Option<(u32, Instant, Instant)>>,
}

impl Patience {
    const FORGET: Duration = Duration::from_secs(60);
    const SAY_EVERY: Duration = Duration::from_secs(30);
    const LONGEST: Duration = Duration::from_secs(10);

    /// Waits: exponentially longer while it goes on, with full jitter, so that a fleet does not come
    /// back all at once.
    pub async fn wait(&self, error: &(dyn std::error::Error + Sync)) {
        let failures = {
            let mut row = self.row.lock().expect("no panic holds it");
            let now = Instant::now();
            let (failures, said) = match *row {
                Some((failures, last, said)) if now - last < Self::FORGET => (failures + 1, said),
                _ => (1, now),
            };
            let say = failures == 1 || now - said >= Self::SAY_EVERY;
            *row = Some((failures, now, if say { now } else { said }));
            if say {
                tracing::warn!(%error, failures, "waits and tries again");
            }
            failures
        };
        let most = Duration::from_millis(250).saturating_mul(1 << failures.min(10)).min(Self::LONGEST);
        let share = 0.1 + 0.9 * rand::rng().random::<f64>();
        sleep(most.mul_f64(share)).await;
    }
}
