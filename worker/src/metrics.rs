//! A worker's metrics, whether it lives, and whether it is ready. Counted from the first moment on, also where nobody asks.
//!
//! README lists every name. Labels come from closed lists: no run, job or key is one. What is counted for every job is
//! looked up once, here, so that counting is an addition.

use std::array::from_fn;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use shared::contract::{ImageVerdict, JobResult, Kind, Outcome as Work};
use shared::metrics::{Counter, Family, Gauge, Histogram, Info, Labels, Observed, Registry, Seconds, Unit, registry};
use shared::queue::Queue;

use crate::cache::Counts;
use crate::compute::simd_path;
use crate::executor::{Cause, Tally};
use crate::protocol::{Ask, Spent};
use crate::settings::WorkerSettings;
use crate::step;
use crate::supervisor::{On, Patience};

mod outcome;

pub use outcome::Outcome;

/// Buckets of times that go from a no-op to a slice and a long queue, in seconds.
const TIMES: [f64; 14] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1_000.0, 10_000.0];
/// Buckets of what the store and the broker answer in, in seconds.
const ANSWERS: [f64; 11] = [0.000_3, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 100.0];

/// Kinds, as indices of what is counted for each.
const KINDS: usize = Kind::ALL.len();
/// What [`Metrics::retried`] counts, as labels.
const BUDGETS: [&str; 3] = ["errors", "crashes", "preemptions"];
/// What [`Metrics::committed`] counts of pictures, as labels.
const IMAGES: [&str; 2] = ["labelled", "error"];

/// How far a worker has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Connects to the queue.
    Queue,
    /// Connects to the store, and tries whether it knows conditional writes.
    Store,
    /// Finds out whether executors start.
    Executors,
    /// Takes jobs.
    Working,
    /// Takes no more.
    Draining,
}

/// What a worker counts, and what it says of itself.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    jobs: [[Counter; Outcome::ALL.len()]; KINDS],
    retries: [[Counter; BUDGETS.len()]; KINDS],
    queued: [Histogram; KINDS],
    fetching: [Histogram; KINDS],
    computing: [Histogram; KINDS],
    in_hand: [Gauge; KINDS],
    steps: [Histogram; Ask::NAMES.len()],
    images: [Counter; IMAGES.len()],
    epochs: Counter,
    executors: Executors,
    tally: Arc<Tally>,
    /// Of its cache.
    pub cache: Counts,
    /// How it waits for what cannot be reached.
    pub patience: Arc<Patience>,
    stage: Mutex<Stage>,
    queue: OnceLock<Arc<dyn Queue>>,
}

/// Looked up when they are asked for.
#[derive(Debug, Default)]
struct Executors {
    living: Gauge,
    cpu: Seconds,
    memory: Gauge,
    peak: Gauge,
}

impl Metrics {
    /// Of a worker that works like this.
    pub fn new(settings: &WorkerSettings) -> Arc<Self> {
        let mut registry = registry();
        let of = |kind: usize| Kind::ALL[kind].as_str();

        let jobs = Family::<Labels<2>, Counter>::default();
        registry.register(
            "gannet_jobs",
            "Deliveries that this worker is done with, by what came of them",
            jobs.clone(),
        );
        let retries = Family::<Labels<2>, Counter>::default();
        registry.register(
            "gannet_retries",
            "Attempts that were spent, by the budget they count against",
            retries.clone(),
        );
        let mut times = |name: &str, help: &str| {
            let family = Family::<Labels<1>, Histogram>::new_with_constructor(|| Histogram::new(TIMES));
            registry.register_with_unit(name, help, Unit::Seconds, family.clone());
            from_fn(|kind| family.get_or_create_owned(&[("kind", of(kind))]))
        };
        let queued = times("gannet_job_queue", "Time from when a job was enqueued, or due again, until a slot had it");
        let fetching =
            times("gannet_job_fetch", "Time a delivery fetched what was not in the cache, if anything was not");
        let computing = times("gannet_job_compute", "Time an executor had a delivery, waiting for its turn included");
        let steps = Family::<Labels<1>, Histogram>::new_with_constructor(|| Histogram::new(ANSWERS));
        let help = "Time that each step of a delivery took: most wait for the store or the broker";
        registry.register_with_unit("gannet_step", help, Unit::Seconds, steps.clone());
        let in_hand = Family::<Labels<1>, Gauge>::default();
        registry.register("gannet_jobs_in_hand", "Deliveries that are not settled yet", in_hand.clone());
        let images = Family::<Labels<1>, Counter>::default();
        registry.register("gannet_images", "Pictures of batches that were committed", images.clone());
        let epochs = Counter::default();
        registry.register("gannet_epochs", "Epochs that were trained", epochs.clone());

        let slots = Gauge::<i64>::default();
        slots.set(settings.slots.into());
        registry.register("gannet_slots", "Jobs that this worker computes at once", slots);
        let tally = Arc::clone(&settings.executor.tally);
        registry.register("gannet_slots_busy", "Jobs that are being computed", tally.busy.clone());
        registry.register("gannet_executor_starts", "Executors that were started", tally.starts.clone());
        registry.register(
            "gannet_executor_deaths",
            "Executors that are gone, by what ended them",
            tally.deaths.clone(),
        );
        for cause in Cause::ALL {
            drop(tally.deaths.get_or_create(&cause.labels()));
        }
        let executors = Executors::default();
        registry.register("gannet_executors", "Executors that live", executors.living.clone());
        let help = "Processor time of all executors there were";
        registry.register_with_unit("gannet_executor_cpu", help, Unit::Seconds, executors.cpu.clone());
        let help = "Resident memory of all executors";
        registry.register_with_unit("gannet_executor_memory", help, Unit::Bytes, executors.memory.clone());
        let help = "The most resident memory that one of the living executors has had";
        registry.register_with_unit("gannet_executor_memory_peak", help, Unit::Bytes, executors.peak.clone());

        let cache = Counts::default();
        cache.register(&mut registry, settings.cache_limit);
        let patience = Arc::<Patience>::default();
        patience.register(&mut registry);
        let (version, simd, device) = (env!("CARGO_PKG_VERSION"), simd_path(), settings.executor.device.to_string());
        let build = [("version", version.to_owned()), ("simd", simd.to_string()), ("device", device)];
        registry.register("gannet_build", "The program", Info::new(build));

        Arc::new(Self {
            jobs: from_fn(|kind| {
                from_fn(|nth| jobs.get_or_create_owned(&[("kind", of(kind)), ("outcome", Outcome::ALL[nth].as_str())]))
            }),
            retries: from_fn(|kind| {
                from_fn(|nth| retries.get_or_create_owned(&[("kind", of(kind)), ("budget", BUDGETS[nth])]))
            }),
            queued,
            fetching,
            computing,
            in_hand: from_fn(|kind| in_hand.get_or_create_owned(&[("kind", of(kind))])),
            steps: from_fn(|nth| steps.get_or_create_owned(&[("step", Ask::LABELS[nth])])),
            images: from_fn(|nth| images.get_or_create_owned(&[("outcome", IMAGES[nth])])),
            epochs,
            executors,
            tally,
            cache,
            patience,
            stage: Mutex::new(Stage::Queue),
            queue: OnceLock::new(),
            registry,
        })
    }

    /// A worker has come so far. It never takes jobs again once it drains.
    pub fn reaches(&self, stage: Stage) {
        let mut now = self.stage();
        if *now != Stage::Draining {
            *now = stage;
        }
    }

    /// This is the queue that it takes jobs from.
    pub(crate) fn takes_from(&self, queue: &Arc<dyn Queue>) {
        drop(self.queue.set(Arc::clone(queue)));
    }

    /// A slot has a delivery that was enqueued then.
    pub(crate) fn received(&self, kind: Kind, enqueued: Option<SystemTime>) {
        self.in_hand[kind as usize].inc();
        // Clocks differ; what seems to come from the future has not waited.
        if let Some(waited) = enqueued.map(|at| at.elapsed().unwrap_or_default()) {
            self.queued[kind as usize].observe(waited.as_secs_f64());
        }
    }

    /// That is what came of it.
    pub(crate) fn settled(&self, kind: Kind, outcome: Outcome) {
        self.in_hand[kind as usize].dec();
        self.dropped(kind, outcome);
    }

    /// It was no job at all.
    pub(crate) fn dropped(&self, kind: Kind, outcome: Outcome) {
        self.jobs[kind as usize][outcome as usize].inc();
    }

    /// A step of a delivery took so long.
    pub(crate) fn stepped(&self, ask: Ask, took: Duration) {
        self.steps[ask.number()].observe(took.as_secs_f64());
    }

    /// So much was spent on a delivery.
    pub(crate) fn spent(&self, kind: Kind, spent: &step::Spent) {
        let seconds = |millis: u64| millis as f64 / 1e3;
        if spent.costs.bytes_fetched > 0 {
            self.fetching[kind as usize].observe(seconds(spent.durations.fetch_ms));
        }
        self.computing[kind as usize].observe(seconds(spent.durations.compute_ms));
    }

    /// An attempt was spent, or (`None`) a worker was lost.
    pub(crate) fn retried(&self, kind: Kind, spent: Option<Spent>) {
        let budget = match spent {
            Some(Spent::Error) => 0,
            Some(Spent::Crash) => 1,
            None => 2,
        };
        self.retries[kind as usize][budget].inc();
    }

    /// This worker's result stands.
    pub(crate) fn committed(&self, result: &JobResult) {
        if let Some(Work::Batch(batch)) = &result.outcome {
            let errors = batch.images.iter().filter(|image| matches!(image.verdict, ImageVerdict::Error(_))).count();
            self.images[0].inc_by((batch.images.len() - errors) as u64);
            self.images[1].inc_by(errors as u64);
        }
    }

    /// An epoch was trained.
    pub(crate) fn trained(&self) {
        self.epochs.inc();
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observed for Metrics {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn refresh(&self) {
        let usage = self.tally.usage();
        let whole = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        self.executors.living.set(whole(usage.executors));
        self.executors.memory.set(whole(usage.memory));
        self.executors.peak.set(whole(usage.peak));
        // A process that ends while it is looked up is missed once; a counter never goes back.
        let more = usage.cpu.as_secs_f64() - self.executors.cpu.get();
        if more > 0.0 {
            self.executors.cpu.inc_by(more);
        }
    }

    fn healthy(&self) -> Result<(), String> {
        match self.tally.overdue() {
            None => Ok(()),
            Some(late) => Err(format!(
                "a slot is stuck: its executor should have ended an order {} s ago and cannot be killed",
                late.as_secs()
            )),
        }
    }

    fn ready(&self) -> Result<(), String> {
        let waits = match *self.stage() {
            Stage::Queue => "connects to the queue",
            Stage::Store => "connects to the store",
            Stage::Executors => "starts an executor",
            Stage::Draining => "drains: it takes no more jobs",
            Stage::Working if self.queue.get().is_some_and(|queue| !queue.is_connected()) => {
                "has lost the connection to the queue"
            }
            Stage::Working => return self.patience.trouble().map_or(Ok(()), |why| Err(format!("waits: {why}"))),
        };
        Err(waits.into())
    }
}

/// Waits, by what they are for: labels of [`On`].
pub(crate) fn register_waits(registry: &mut Registry) -> [(Counter, Seconds); On::ALL.len()] {
    let (waits, seconds) = (Family::<Labels<1>, Counter>::default(), Family::<Labels<1>, Seconds>::default());
    registry.register("gannet_waits", "Waits for what could not be reached or used, before another try", waits.clone());
    registry.register_with_unit("gannet_wait", "Time of those waits", Unit::Seconds, seconds.clone());
    On::ALL.map(|on| {
        let labels = [("on", on.as_str())];
        (waits.get_or_create_owned(&labels), seconds.get_or_create_owned(&labels))
    })
}

#[cfg(test)]
mod tests;
