//! One job's step: fetch what it names, compute, hand back the outcome. Knows no broker.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use shared::contract::{
    Batch, BatchOutcome, Cost, Dataset, Durations, ErrorCode, ErrorReport, ImageError, ImageOutcome, ImageRef,
    ImageVerdict, Job, JobResult, Model, Trial, TrialOutcome, Work,
};
use shared::names::ObjectRef;
use shared::store::{MAX_SMALL, StoreError, get_optional, layout};
use shared::strict;
use shared::traces::Span;
use tokio_util::sync::CancellationToken;

mod compute;

use crate::cache::{CacheError, Cached};
use crate::commit::CheckpointRecord;
use crate::compute::{Sample, Wanted};
use crate::executor::{Classify, Death, Order, Report};
use crate::supervisor::{Context, On};
pub use compute::Warm;

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

/// Runs one step, told as parts of `span`. A trial needs `scratch`, an empty folder of its own.
pub async fn run(
    context: &Context,
    job: &Job,
    resume: Option<&CheckpointRecord>,
    warm: &Warm,
    scratch: Option<&Path>,
    stops: &Stops,
    span: &Span,
) -> (Ended, Spent) {
    let over = CancellationToken::new();
    let (spent, pins) = (Spent::default(), Vec::new());
    let mut step = Step { context, job, stops, over: &over, scratch, spent, pins, span };
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
    span: &'a Span,
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
        let (images, missing) = self.images(&batch.images).await?;
        let mut calibration = Vec::new();
        if self.context.settings.executor.device.computes_int8() {
            for image in &batch.calibration {
                // One that is missing fails the job: without it the numbers would be others.
                let sha256 = image.object.as_ref().map(|object| object.sha256);
                calibration.push(Sample { file: self.picture(image).await?, sha256 });
            }
        }
        let (wanted, precision) = (Wanted::of(batch, &model), batch.precision);
        let order = Order::Classify(Box::new(Classify { model, weights, images, wanted, precision, calibration }));
        let Report::Classified { mut images, precision, agreement } = self.compute(&order, warm).await? else {
            return Err(nonsense());
        };
        // Back into the order of the job.
        for (position, outcome) in missing {
            images.insert(position.min(images.len()), outcome);
        }
        let outcome = BatchOutcome { model: batch.model.sha256, precision, agreement, images };
        Ok(Ended::Finished(Finished::Classified(outcome)))
    }

    /// A picture's file.
    async fn picture(&mut self, image: &ImageRef) -> Early<PathBuf> {
        match (&image.object, &image.file) {
            (Some(object), _) => self.file(object).await,
            (None, Some(file)) if self.context.settings.local_files => Ok(PathBuf::from(file)),
            (None, _) => Err(invalid(format!(
                "`{}` is a file of somebody's machine: a fleet takes pictures from its store",
                image.image
            ))),
        }
    }

    /// The pictures' files, and the outcomes of those that cannot be had, by position: one missing
    /// picture costs one line, not the batch.
    async fn images(&mut self, images: &[ImageRef]) -> Early<(Vec<(String, PathBuf)>, Vec<(usize, ImageOutcome)>)> {
        let (mut files, mut missing) = (Vec::new(), Vec::new());
        for (position, image) in images.iter().enumerate() {
            match self.picture(image).await {
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
                        tracing::warn!(%error, "fetches an object once more");
                        again = true;
                    }
                    // Whose fault is it: does it refuse us, or this object?
                    Err(CacheError::Store(error @ StoreError::Refused { .. })) => {
                        match get_optional(self.context.store.as_ref(), &layout::cancelled(&self.job.run)).await {
                            Ok(_) => return Err(Ended::Failed(ErrorReport::of(ErrorCode::MissingObject, &error))),
                            Err(other) if other.is_passing() => self.context.patience.wait(On::Store, &other).await,
                            Err(_) => return Err(Ended::Refused(error)),
                        }
                    }
                    // An outage, or a full disk: no fault of the job either.
                    Err(error) if error.is_passing() => self.context.patience.wait(On::Store, &error).await,
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
            let mut fetched = self.span.child_since("fetch", begun);
            if fetched.is_seen() {
                fetched.set("gannet.key", object.key.to_string());
                fetched.set("gannet.bytes", i64::try_from(cached.bytes_fetched).unwrap_or(i64::MAX));
            }
        }
        let path = cached.path.clone();
        self.pins.push(cached);
        Ok(path)
    }

    /// Once it is stopped before there is anything to keep.
    async fn stopped(&self) -> Ended {
        tokio::select! {
            () = self.stops.lost.cancelled() => Ended::Lost,
            () = self.over.cancelled() => Ended::Cancelled,
            () = self.stops.drain.cancelled() => Ended::Stopped,
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
