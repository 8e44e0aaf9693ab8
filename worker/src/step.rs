//! One job's step: fetch what it names, compute, hand back the outcome. Knows no broker.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::contract::{
    Batch, BatchOutcome, Cost, Dataset, Durations, ErrorCode, ErrorReport, ImageError, ImageOutcome, ImageVerdict, Job,
    JobResult, Model, Trial, TrialOutcome, Work,
};
use shared::names::ObjectRef;
use shared::store::{MAX_SMALL, StoreError, get_optional, layout};
use shared::strict;
use tokio::sync::{Mutex, Notify, Semaphore, SemaphorePermit};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::cache::{CacheError, Cached};
use crate::commit::CheckpointRecord;
use crate::executor::{Classify, Death, Executor, ExecutorSettings, Order, Report, Say};
use crate::supervisor::Context;

/// What stops a step.
#[derive(Debug, Clone)]
pub struct Stops {
    /// The worker drains: make a checkpoint, or give the job back.
    pub drain: CancellationToken,
    /// The slot has too much in hand: what has not begun goes to others.
    pub shed: CancellationToken,
    /// The delivery has gone to somebody else: drop everything.
    pub lost: CancellationToken,
}

/// What a step came to.
#[derive(Debug)]
pub enum Ended {
    /// There is an outcome.
    Finished(Finished),
    /// The slice is over; the file holds the checkpoint.
    Paused(PathBuf),
    /// It was stopped before there was anything to keep.
    Stopped,
    /// The run was cancelled.
    Cancelled,
    /// Somebody else has committed this result of the job meanwhile: another worker, or who cancelled it.
    Settled(Box<JobResult>),
    /// The delivery was lost.
    Lost,
    /// It failed.
    Failed(ErrorReport),
    /// This machine's disk failed, which is no fault of the job's.
    Disk(ErrorReport),
    /// The store refuses this worker, whatever the job: no job can be done here.
    Refused(StoreError),
    /// No executor starts on this machine: likewise.
    NoExecutor(Death),
}

/// An outcome whose tensors are still a local file.
#[derive(Debug)]
pub enum Finished {
    /// A trained network; its checkpoint has yet to be uploaded from the file.
    Trained {
        /// Everything else.
        report: Report,
        /// The kept parameters.
        file: PathBuf,
    },
    /// A measured one.
    Evaluated(Box<TrialOutcome>),
    /// Labelled pictures.
    Classified(BatchOutcome),
}

/// What a step cost, also when it failed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Time.
    pub durations: Durations,
    /// The rest.
    pub costs: Cost,
}

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

/// Runs one step. A trial needs `scratch`, an empty folder of its own.
pub async fn run(
    context: &Context,
    job: &Job,
    resume: Option<&CheckpointRecord>,
    warm: &Warm,
    scratch: Option<&Path>,
    stops: &Stops,
) -> (Ended, Spent) {
    let over = CancellationToken::new();
    let mut step = Step { context, job, stops, over: &over, scratch, spent: Spent::default(), pins: Vec::new() };
    let mut result = None;
    let ended = {
        let (run, watch) = (step.run(resume, warm), context.cancels.ended(&job.run, &job.id));
        tokio::pin!(run, watch);
        loop {
            tokio::select! {
                ended = &mut run => break ended,
                found = &mut watch, if !over.is_cancelled() => {
                    result = found;
                    over.cancel();
                }
            }
        }
    };
    let ended = match (ended, result) {
        (Ok(Ended::Cancelled) | Err(Ended::Cancelled), Some(result)) => Ended::Settled(Box::new(result)),
        (Ok(ended) | Err(ended), _) => ended,
    };
    (ended, step.spent)
}

struct Step<'a> {
    context: &'a Context,
    job: &'a Job,
    stops: &'a Stops,
    /// Cancelled once nobody needs the job any more.
    over: &'a CancellationToken,
    scratch: Option<&'a Path>,
    spent: Spent,
    /// Keeps the files in the cache while they are used.
    pins: Vec<Cached>,
}

/// `Err` is an early end, so that `?` leaves.
type Early<T> = Result<T, Ended>;

impl Step<'_> {
    async fn run(&mut self, resume: Option<&CheckpointRecord>, warm: &Warm) -> Early<Ended> {
        match &self.job.work {
            Work::Trial(trial) => self.trial(trial, resume, warm).await,
            Work::Batch(batch) => self.batch(batch, warm).await,
        }
    }

    async fn trial(&mut self, trial: &Trial, resume: Option<&CheckpointRecord>, warm: &Warm) -> Early<Ended> {
        let dataset: Dataset = self.manifest(&trial.data.dataset).await?;
        dataset.check().map_err(|problem| invalid(format!("the dataset `{}`: {problem}", trial.data.dataset.key)))?;
        let split = |name| dataset.split(name).map_err(|problem| invalid(problem.to_string()));
        trial.fits(&dataset).map_err(|problem| invalid(format!("trial.{problem}")))?;
        if let Some(evaluate) = &trial.evaluate {
            let order = Order::Evaluate {
                split: self.file(&split("test")?.object).await?,
                checkpoint: self.file(&evaluate.checkpoint).await?,
                trial: Box::new(trial.clone()),
                dataset: Box::new(dataset.clone()),
            };
            let Report::Evaluated(metrics) = self.compute(&order, warm).await? else { return Err(nonsense()) };
            return Ok(Ended::Finished(Finished::Evaluated(Box::new(TrialOutcome {
                epochs: Vec::new(),
                best_epoch: 0,
                validation: None,
                test: Some(metrics),
                checkpoint: evaluate.checkpoint.clone(),
                parameter_count: 0,
                slices: 1,
                stopped_early: false,
            }))));
        }
        let out = self.scratch.expect("a trial has one").join("out.safetensors");
        let order = Order::Train {
            train: self.file(&split("train")?.object).await?,
            resume: match resume {
                Some(record) => Some(self.file(&record.tensors).await?),
                None => None,
            },
            trial: Box::new(trial.clone()),
            dataset: Box::new(dataset.clone()),
            out: out.clone(),
        };
        Ok(match self.compute(&order, warm).await? {
            Report::Paused => Ended::Paused(out),
            report @ Report::Trained { .. } => Ended::Finished(Finished::Trained { report, file: out }),
            _ => return Err(nonsense()),
        })
    }

    async fn batch(&mut self, batch: &Batch, warm: &Warm) -> Early<Ended> {
        let model: Model = self.manifest(&batch.model).await?;
        let weights = self.file(&model.weights).await?;
        let (images, missing) = self.images(batch).await?;
        let (top_k, threshold) = (batch.top_k, batch.threshold);
        let order = Order::Classify(Box::new(Classify { model, weights, images, top_k, threshold }));
        let Report::Classified(mut classified) = self.compute(&order, warm).await? else { return Err(nonsense()) };
        // Back into the order of the job.
        for (position, outcome) in missing {
            classified.insert(position.min(classified.len()), outcome);
        }
        Ok(Ended::Finished(Finished::Classified(BatchOutcome { images: classified })))
    }

    /// The pictures' files, and the outcomes of those that cannot be had, by position: one missing
    /// picture costs one line, not the batch.
    async fn images(&mut self, batch: &Batch) -> Early<(Vec<(String, PathBuf)>, Vec<(usize, ImageOutcome)>)> {
        let (mut files, mut missing) = (Vec::new(), Vec::new());
        for (position, image) in batch.images.iter().enumerate() {
            let fetched = match (&image.object, &image.file) {
                (Some(object), _) => self.file(object).await,
                (None, Some(file)) if self.context.settings.local_files => Ok(PathBuf::from(file)),
                (None, _) => {
                    return Err(invalid(format!(
                        "`{}` is a file of somebody's machine: a fleet takes pictures from its store",
                        image.image
                    )));
                }
            };
            match fetched {
                Ok(path) => files.push((image.image.clone(), path)),
                Err(Ended::Failed(ErrorReport {
                    code: code @ (ErrorCode::MissingObject | ErrorCode::AlteredObject),
                    message,
                    ..
                })) => {
                    let code = if code == ErrorCode::MissingObject { "not_found" } else { "altered" };
                    let verdict = ImageVerdict::Error(ImageError { code: code.into(), message });
                    missing.push((position, ImageOutcome { image: image.image.clone(), verdict }));
                }
                Err(ended) => return Err(ended),
            }
        }
        Ok((files, missing))
    }

    async fn manifest<T: serde::de::DeserializeOwned>(&mut self, object: &ObjectRef) -> Early<T> {
        let path = self.file(object).await?;
        // Small, and in the page cache: not worth the way to another thread and back.
        let size = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        if size > MAX_SMALL {
            return Err(invalid(format!(
                "`{}` has {size} bytes: a manifest of at most {MAX_SMALL} is accepted",
                object.key
            )));
        }
        let bytes = std::fs::read(&path).map_err(|error| disk(format!("cannot read {}: {error}", path.display())))?;
        strict::json(&bytes).map_err(|problem| invalid(format!("`{}`: {problem}", object.key)))
    }

    /// A file from the cache. A store that cannot be reached is waited for: it is no fault of the job. An object that
    /// is not what it should be is fetched once more: it may have been altered on its way.
    async fn file(&mut self, object: &ObjectRef) -> Early<PathBuf> {
        let begun = Instant::now();
        let fetch = async {
            let mut again = false;
            loop {
                match self.context.cache.fetch(self.context.store.as_ref(), object).await {
                    Err(CacheError::Store(error @ StoreError::Altered { .. })) if !again => {
                        tracing::warn!(job.id = %self.job.id, %error, "fetches an object once more");
                        again = true;
                    }
                    // Whose fault is it: does it refuse us, or this object?
                    Err(CacheError::Store(error @ StoreError::Refused { .. })) => {
                        match get_optional(self.context.store.as_ref(), &layout::cancelled(&self.job.run)).await {
                            Ok(_) => return Err(Ended::Failed(ErrorReport::of(ErrorCode::MissingObject, &error))),
                            Err(other) if other.is_passing() => self.context.patience.wait(&other).await,
                            Err(_) => return Err(Ended::Refused(error)),
                        }
                    }
                    // An outage, or a full disk: no fault of the job either.
                    Err(error) if error.is_passing() => self.context.patience.wait(&error).await,
                    Ok(cached) => return Ok(cached),
                    Err(error @ CacheError::Disk { .. }) => {
                        return Err(Ended::Disk(ErrorReport::of(error.code(), &error)));
                    }
                    Err(error) => return Err(Ended::Failed(ErrorReport::of(error.code(), &error))),
                }
            }
        };
        let fetched = tokio::select! {
            fetched = fetch => fetched,
            ended = self.stopped() => return Err(ended),
        };
        let cached = fetched?;
        if cached.bytes_fetched > 0 {
            self.spent.durations.fetch_ms += millis(begun.elapsed());
            self.spent.costs.bytes_fetched += cached.bytes_fetched;
        }
        let path = cached.path.clone();
        self.pins.push(cached);
        Ok(path)
    }

    async fn compute(&mut self, order: &Order, warm: &Warm) -> Early<Report> {
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
            tracing::warn!(job.id = %self.job.id, %death, "an executor died with two jobs: each is tried again alone");
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
                    () = self.context.patience.wait(&death) => {}
                    ended = self.stopped() => return Err(ended),
                },
                Err(death) => return Err(Ended::NoExecutor(death)),
            }
        }
    }

    /// Once it is stopped before there is anything to keep.
    async fn stopped(&self) -> Ended {
        tokio::select! {
            () = self.stops.lost.cancelled() => Ended::Lost,
            () = self.over.cancelled() => Ended::Cancelled,
            () = self.stops.drain.cancelled() => Ended::Stopped,
        }
    }

    /// Has the order carried out while it takes up so many of the executor's places. The inner error is the
    /// executor's death.
    async fn have_done(&mut self, order: &Order, warm: &Warm, places: u32) -> Early<Result<(u64, Report), Death>> {
        let (place, executor) = self.executor(warm, places).await?;
        let (pause, give_up) = (CancellationToken::new(), CancellationToken::new());
        let (mut told, full) = (false, Notify::new());
        let mut each = |said: Say| match said {
            Say::Step { fraction, epoch } => self.context.tell(self.job, fraction, epoch),
            Say::DiskFull(error) => {
                full.notify_one();
                if !std::mem::replace(&mut told, true) {
                    tracing::error!(job.id = %self.job.id, %error, "the disk is full: what was computed waits until there is room");
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
        match ran {
            Err(Death::GivenUp) if self.stops.lost.is_cancelled() => Err(Ended::Lost),
            Err(Death::GivenUp) if self.over.is_cancelled() => Err(Ended::Cancelled),
            Err(Death::GivenUp) => Err(Ended::Stopped),
            ran => Ok(ran),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}

fn failed(code: ErrorCode, message: &str) -> Ended {
    Ended::Failed(ErrorReport::new(code, message))
}

fn disk(message: impl AsRef<str>) -> Ended {
    Ended::Disk(ErrorReport::new(ErrorCode::Failed, message.as_ref()))
}

fn invalid(message: impl AsRef<str>) -> Ended {
    failed(ErrorCode::InvalidJob, message.as_ref())
}

fn nonsense() -> Ended {
    failed(ErrorCode::Failed, "the executor's report does not belong to its order")
}

fn crashed(death: &Death) -> Ended {
    Ended::Failed(ErrorReport::of(death.code(), death))
}
