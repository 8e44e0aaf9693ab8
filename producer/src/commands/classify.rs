//! `gannet classify`: labels for pictures, one line each.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, stream};
use shared::contract::{Batch, ImageError, ImageOutcome, ImageRef, ImageVerdict, Job, JobResult, Work};
use shared::digest::Digest;
use shared::names::{JobId, Key, Name, ObjectRef};
use shared::store::{Store, StoreError, layout};

use super::embedded::{Embedded, with_workers};
use super::{completions, fresh_run};
use crate::bar::Bar;
use crate::drive::{Drive, News};
use crate::images::{self, Image, Place};
use crate::models;
use crate::runs::{Asked, RunManifest};
use crate::session::Session;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet classify photos/ --model squeezenet\n  gannet classify 'photos/*.jpg' one.png @list.txt --model squeezenet --top-k 1\n  find . -name '*.webp' | gannet classify - --model squeezenet > labels.jsonl\n\nOne JSON line a picture: {\"image\", \"predictions\": [{\"label\", \"index\", \"score\"}]} or {\"image\", \"error\": {\"code\", \"message\"}}."
)]
pub(super) struct Arguments {
    /// Files, folders, patterns, `@LIST` for a file of names, `-` for names on standard input, s3:// prefixes
    #[arg(required = true, add = completions::inputs())]
    inputs: Vec<String>,
    /// The model, as `gannet model list` shows it
    #[arg(long, add = completions::models())]
    model: Name,
    /// Labels a picture
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    top_k: u32,
    /// Leaves out labels with a lower score, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    threshold: f64,
    /// Pictures a job
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch_size: u32,
    /// Lines in the order of the input, not as they come
    #[arg(long)]
    ordered: bool,
    /// The run's name [default: the model's and the time]
    #[arg(long, add = completions::runs())]
    run: Option<Name>,
    #[command(flatten)]
    embedded: Embedded,
}

/// Larger files are no pictures that a worker would take.
const LARGEST_FILE: u64 = 256 * 1024 * 1024;
/// Uploads at once: enough to hide a store's latency.
const UPLOADS: usize = 16;

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if !(0.0..=1.0).contains(&arguments.threshold) {
        bail!("--threshold is {}: 0 to 1 is accepted", arguments.threshold);
    }
    let session = Session::open().await?;
    let store = session.store.as_ref();
    let (model, _) = models::resolve(store, &arguments.model).await?;
    let images = images::find(&arguments.inputs, store, &session.places.store).await?;
    let run = arguments.run.clone().unwrap_or_else(|| fresh_run(&arguments.model));
    let asked = Asked::Classification { model: model.clone(), images: images.len() as u64 };
    RunManifest::new(run.clone(), asked).create(store).await?;
    eprintln!("run {run}: {} pictures, model {} ({})", images.len(), arguments.model, session.queue.place());

    let mut lines = Lines::new(arguments.ordered);
    let mut batches: Vec<(Vec<usize>, Job)> = Vec::new();
    let mut pending: Vec<(usize, ImageRef)> = Vec::new();
    for (index, taken) in take_in(&session, &run, images).await {
        match taken {
            Ok(image) => pending.push((index, image)),
            Err(outcome) => lines.put(index, &outcome)?,
        }
    }
    for (number, chunk) in pending.chunks(arguments.batch_size as usize).enumerate() {
        let (indices, images) = chunk.iter().cloned().unzip();
        let batch = Batch { model: model.clone(), images, top_k: arguments.top_k, threshold: arguments.threshold };
        let id = JobId::new(format!("b{number:06}")).expect("a letter and digits");
        batches.push((indices, Job { id, run: run.clone(), work: Work::Batch(Box::new(batch)) }));
    }
    classify(&session, &arguments.embedded, &run, &batches, &mut lines).await?;
    lines.finish()
}

async fn classify(
    session: &Session,
    embedded: &Embedded,
    run: &Name,
    batches: &[(Vec<usize>, Job)],
    lines: &mut Lines,
) -> anyhow::Result<()> {
    if batches.is_empty() {
        return Ok(());
    }
    let by_id: BTreeMap<&JobId, &(Vec<usize>, Job)> = batches.iter().map(|batch| (&batch.1.id, batch)).collect();
    let jobs: Vec<Job> = batches.iter().map(|(_, job)| job.clone()).collect();
    let again = "the lines written so far are right; classify the rest again";
    with_workers(session, embedded, Some(run), again, async |session: &Session| {
        let mut bar = Bar::new("batches", jobs.len(), None);
        let mut written = Ok(());
        let drive = Drive { queue: session.queue.as_ref(), store: session.store.as_ref(), run };
        let driven = drive
            .all(&jobs, &mut |news: News<'_>| {
                if let News::Result(result) = &news
                    && let Some((indices, job)) = by_id.get(&result.id)
                    && written.is_ok()
                {
                    written = bar.suspend(|| lines.batch(indices, job, result));
                }
                bar.hear(&news);
            })
            .await;
        bar.finish();
        written.and(driven.map(|_| ()))
    })
    .await
}

/// Brings the pictures to where workers find them: into the store, or nowhere where they can read them
/// in place. What cannot be had is an outcome already.
async fn take_in(session: &Session, run: &Name, images: Vec<Image>) -> Vec<(usize, Result<ImageRef, ImageOutcome>)> {
    let mut bar = (!session.places.is_embedded()).then(|| Bar::new("pictures uploaded", images.len(), None));
    let store = session.store.as_ref();
    let in_place = session.places.is_embedded();
    let take = |(index, image): (usize, Image)| async move {
        let taken = match &image.place {
            Place::File(path) if in_place => look(path).map(|path| ImageRef::file(&image.name, path)),
            Place::File(path) => upload(store, run, path).await.map(|object| ImageRef::object(&image.name, object)),
            Place::Object(key) => describe(store, key).await.map(|object| ImageRef::object(&image.name, object)),
        };
        (index, taken.map_err(|error| ImageOutcome { image: image.name, verdict: ImageVerdict::Error(error) }))
    };
    let mut taken = Vec::with_capacity(images.len());
    let mut coming = stream::iter(images.into_iter().enumerate()).map(take).buffered(UPLOADS);
    while let Some(one) = coming.next().await {
        taken.push(one);
        if let Some(bar) = &mut bar {
            bar.step();
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
    taken
}

fn refused(code: &str, message: String) -> ImageError {
    ImageError { code: code.into(), message }
}

/// The file's absolute path, if it can be a picture.
fn look(path: &Path) -> Result<PathBuf, ImageError> {
    let found = std::fs::metadata(path).and_then(|metadata| Ok((metadata.len(), std::path::absolute(path)?)));
    match found {
        Ok((size, _)) if size > LARGEST_FILE => {
            Err(refused("too_large", format!("the file has {size} bytes: at most {LARGEST_FILE} are accepted")))
        }
        Ok((_, path)) => Ok(path),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(refused("not_found", "no such file".into())),
        Err(error) => Err(refused("unreadable", error.to_string())),
    }
}

async fn upload(store: &dyn Store, run: &Name, path: &Path) -> Result<ObjectRef, ImageError> {
    let path = look(path)?;
    let body = tokio::fs::read(&path).await.map_err(|error| refused("unreadable", error.to_string()))?;
    let sha256 = Digest::of(&body);
    let key = layout::image(run, sha256);
    store.put(&key, body.into()).await.map_err(|error| refused("not_uploaded", error.to_string()))?;
    Ok(ObjectRef { key, sha256 })
}

/// A picture that is in the store already is read once for its digest: workers check what they fetch.
async fn describe(store: &dyn Store, key: &Key) -> Result<ObjectRef, ImageError> {
    match store.get(key).await {
        Ok(body) => Ok(ObjectRef { key: key.clone(), sha256: Digest::of(&body) }),
        Err(StoreError::NotFound { .. }) => Err(refused("not_found", format!("no object `{key}` in the store"))),
        Err(error @ StoreError::TooLarge { .. }) => Err(refused("too_large", error.to_string())),
        Err(error) => Err(refused("unreadable", error.to_string())),
    }
}

/// The output: a line a picture, at once or in order.
struct Lines {
    ordered: bool,
    next: usize,
    waiting: BTreeMap<usize, String>,
    labelled: usize,
    failed: BTreeMap<String, usize>,
}

impl Lines {
    fn new(ordered: bool) -> Self {
        Self { ordered, next: 0, waiting: BTreeMap::new(), labelled: 0, failed: BTreeMap::new() }
    }

    fn batch(&mut self, indices: &[usize], job: &Job, result: &JobResult) -> anyhow::Result<()> {
        if let Some(outcome) = result.batch() {
            return indices.iter().zip(&outcome.images).try_for_each(|(index, outcome)| self.put(*index, outcome));
        }
        let Work::Batch(batch) = &job.work else { return Ok(()) };
        let why = result.error.as_ref().map_or_else(|| result.status.as_str().to_owned(), ToString::to_string);
        indices.iter().zip(&batch.images).try_for_each(|(index, image)| {
            let verdict = ImageVerdict::Error(refused("batch_failed", why.clone()));
            self.put(*index, &ImageOutcome { image: image.image.clone(), verdict })
        })
    }

    fn put(&mut self, index: usize, outcome: &ImageOutcome) -> anyhow::Result<()> {
        match &outcome.verdict {
            ImageVerdict::Predictions(_) => self.labelled += 1,
            ImageVerdict::Error(error) => *self.failed.entry(error.code.clone()).or_default() += 1,
        }
        let line = serde_json::to_string(outcome)?;
        if !self.ordered {
            return write_line(&line);
        }
        self.waiting.insert(index, line);
        while let Some(line) = self.waiting.remove(&self.next) {
            self.next += 1;
            write_line(&line)?;
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<()> {
        let failed: usize = self.failed.values().sum();
        if failed == 0 {
            eprintln!("{} pictures labelled", self.labelled);
            return Ok(());
        }
        let codes: Vec<String> = self.failed.iter().map(|(code, count)| format!("{count} {code}")).collect();
        bail!("{failed} of {} pictures have no labels: {}", self.labelled + failed, codes.join(", "))
    }
}

fn write_line(line: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout().lock(), "{line}").context("write to standard output")
}
