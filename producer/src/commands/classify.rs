//! `gannet classify`: labels for pictures, one line each.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::bail;
use futures::{StreamExt as _, stream};
use shared::contract::{Batch, ImageError, ImageOutcome, ImageRef, ImageVerdict, Job, MAX_MESSAGE, Work};
use shared::digest::Digest;
use shared::names::{JobId, Key, Name, ObjectRef};
use shared::store::{Store, StoreError, layout};
use tokio::sync::Notify;

use self::lines::Lines;
use super::embedded::{Embedded, with_workers};
use super::{completions, fresh_run};
use crate::bar::Bar;
use crate::drive::{Drive, News};
use crate::images::{self, Image, Place};
use crate::models;
use crate::runs::{Asked, RunManifest};
use crate::session::Session;

mod lines;

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
    let mut lines = Lines::new(arguments.ordered, images.len());
    let labelled = label(&session, &arguments, &run, &model, images, &mut lines).await;
    lines.finish(labelled)
}

async fn label(
    session: &Session,
    arguments: &Arguments,
    run: &Name,
    model: &ObjectRef,
    images: Vec<Image>,
    lines: &mut Lines,
) -> anyhow::Result<()> {
    let mut pending = Vec::new();
    for (index, taken) in take_in(session, run, images).await? {
        match taken {
            Ok(image) => pending.push((index, image)),
            Err(outcome) => lines.put(index, &outcome)?,
        }
    }
    let job = |(number, (indices, images)): (usize, (Vec<usize>, Vec<ImageRef>))| {
        let (top_k, threshold) = (arguments.top_k, arguments.threshold);
        let batch = Batch { model: model.clone(), images, top_k, threshold };
        // The same pictures are the same job. Others are not: a run that is taken up never gives them an old answer.
        let digest = Digest::of(&serde_json::to_vec(&batch)?).to_string();
        let id = JobId::new(format!("b{number:06}-{}", &digest[..12]))?;
        anyhow::Ok((indices, Job { id, run: run.clone(), work: Work::Batch(Box::new(batch)) }))
    };
    let batches = cut(pending, arguments.batch_size as usize).into_iter().enumerate().map(job);
    let batches = batches.collect::<anyhow::Result<Vec<_>>>()?;
    classify(session, &arguments.embedded, run, &batches, lines).await
}

/// What a job's message holds beside its pictures, and more: its names and keys have bounds.
const FRAME: usize = 4 * 1024;

/// Cuts the pictures into batches of at most `most`, fewer where their names are so long that a message would not hold
/// more.
fn cut(pictures: Vec<(usize, ImageRef)>, most: usize) -> Vec<(Vec<usize>, Vec<ImageRef>)> {
    let mut batches: Vec<(Vec<usize>, Vec<ImageRef>)> = Vec::new();
    let mut free = 0;
    for (index, image) in pictures {
        let size = 1 + serde_json::to_vec(&image).map_or(0, |text| text.len());
        match batches.last_mut() {
            Some((indices, images)) if images.len() < most && size <= free => {
                indices.push(index);
                images.push(image);
                free -= size;
            }
            _ => {
                batches.push((vec![index], vec![image]));
                free = (MAX_MESSAGE - FRAME).saturating_sub(size);
            }
        }
    }
    batches
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
    let mut again = format!("the same command with --run {run} takes it up again");
    if !session.places.is_embedded() {
        again.push_str(&format!("; the workers go on meanwhile, unless `gannet cancel {run}` stops them"));
    }
    with_workers(session, embedded, Some(run), &again, async |session: &Session| {
        let mut bar = Bar::new("batches", jobs.len(), None);
        let mut written = Ok(());
        let unwritten = Notify::new();
        let drive = Drive { queue: session.queue.as_ref(), store: session.store.as_ref(), run };
        let mut tell = |news: News<'_>| {
            if let News::Result(result) = &news
                && let Some((indices, job)) = by_id.get(&result.id)
                && written.is_ok()
            {
                written = bar.suspend(|| lines.batch(indices, job, result));
                if written.is_err() {
                    unwritten.notify_one();
                }
            }
            bar.hear(&news);
        };
        let driven = tokio::select! {
            driven = drive.all(&jobs, &mut tell) => driven.map(|_| ()),
            // There is no use in labels that cannot be written.
            () = unwritten.notified() => Ok(()),
        };
        bar.finish();
        written.and(driven)
    })
    .await
}

/// Brings the pictures to where workers find them: into the store, or nowhere where they can read them
/// in place. What cannot be had is an outcome already.
async fn take_in(
    session: &Session,
    run: &Name,
    images: Vec<Image>,
) -> Result<Vec<(usize, Result<ImageRef, ImageOutcome>)>, StoreError> {
    let mut bar = (!session.places.is_embedded()).then(|| Bar::new("pictures uploaded", images.len(), None));
    let store = session.store.as_ref();
    let in_place = session.places.is_embedded();
    // A key says what its object holds: what a run that is taken up has sent is not sent again.
    let sent = if in_place { Vec::new() } else { store.list(&layout::run(run)).await? };
    let sent: &Sent = &Mutex::new(sent.into_iter().map(|entry| entry.key).collect());
    let take = |(index, image): (usize, Image)| async move {
        let taken = match &image.place {
            Place::File(path) if in_place => look(path).map(|path| ImageRef::file(&image.name, path)),
            Place::File(path) => {
                upload(store, run, path, sent).await.map(|object| ImageRef::object(&image.name, object))
            }
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
    Ok(taken)
}

/// The run's objects in the store. Held for look-ups only, never across an await.
type Sent = Mutex<BTreeSet<Key>>;

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

async fn upload(store: &dyn Store, run: &Name, path: &Path, sent: &Sent) -> Result<ObjectRef, ImageError> {
    let path = look(path)?;
    let body = tokio::fs::read(&path).await.map_err(|error| refused("unreadable", error.to_string()))?;
    let sha256 = Digest::of(&body);
    let key = layout::image(run, sha256);
    let is_there = sent.lock().expect("no panic holds it").contains(&key);
    if !is_there {
        store.put(&key, body.into()).await.map_err(|error| refused("not_uploaded", error.to_string()))?;
        sent.lock().expect("no panic holds it").insert(key.clone());
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_as_large_as_asked_or_as_a_message_holds() {
        let pictures = |count: usize, name: &str| {
            (0..count).map(|number| (number, ImageRef::file(name, PathBuf::from("/x")))).collect::<Vec<_>>()
        };
        let sizes = |pictures, most| cut(pictures, most).iter().map(|(_, images)| images.len()).collect::<Vec<_>>();
        assert_eq!(sizes(pictures(7, "a"), 3), [3, 3, 1]);
        assert!(cut(Vec::new(), 3).is_empty());
        let long = cut(pictures(200, &"x".repeat(4_000)), 200);
        assert!(
            long.len() > 1
                && long.iter().all(|(_, images)| serde_json::to_vec(images).unwrap_or_default().len() < MAX_MESSAGE)
        );
        let indices: Vec<usize> = long.into_iter().flat_map(|(indices, _)| indices).collect();
        assert_eq!(indices, (0..200).collect::<Vec<_>>());
    }
}
