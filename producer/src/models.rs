//! Models in the store: from a finished trial, or from a folder of files, to a name that classifies.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use shared::contract::{Dataset, Job, JobResult, Model, ModelConfig, Scores, Work};
use shared::digest::Digest;
use shared::names::{Name, ObjectRef};
use shared::store::{Store, StoreError, create_json, get_json, layout};

use crate::data::is_there;

mod config;
mod folder;
mod onnx_file;
mod pointer;
mod preprocessor;
mod processor;
#[cfg(test)]
mod tests;
mod timm;
mod versions;
mod weights;

pub use folder::Folder;
pub use pointer::{Change, History, Move, Moved, MovedMeanwhile};
pub use versions::{
    ORIGIN, Origin, Source, Wanted, delete, find, names, origin, promote_version, resolve, rollback, short, unknown,
    versions,
};

/// Makes a model called `name` of a finished trial, and lets the name stand for it.
///
/// # Errors
/// The trial has no network, or the store fails.
pub async fn promote(
    store: &dyn Store,
    job: &Job,
    result: &JobResult,
    name: &Name,
) -> anyhow::Result<(ObjectRef, Model)> {
    let (Work::Trial(trial), Some(outcome)) = (&job.work, result.trial()) else {
        bail!("`{}` of the run `{}` has no trained network to promote", job.id, job.run);
    };
    let dataset: Dataset = get_json(store, &trial.data.dataset.key).await?;
    // Copied under its own name: a model outlives its run.
    let copy = tempfile::NamedTempFile::new().context("make a temporary file")?;
    let path = copy.path().to_owned();
    let bytes = store.download(&outcome.checkpoint.key, &path).await.context("read the trial's network")?;
    let (key, expected) = (outcome.checkpoint.key.clone(), outcome.checkpoint.sha256);
    let found = tokio::task::spawn_blocking(move || digest(&path, &|_| {})).await??;
    if found != expected {
        return Err(StoreError::Altered { key, place: store.place(), expected, found }.into());
    }
    let weights = send(store, (name, "model.safetensors"), expected, copy.path(), bytes).await?;
    // What training saw, so that a picture is labelled as the trial would have.
    let image = trial.data.image.as_ref();
    let (input, preprocessing) = (dataset.input(image)?, dataset.preprocessing(image));
    let labels = if dataset.labels.is_empty() {
        (0..dataset.classes).map(|class| class.to_string()).collect()
    } else {
        dataset.labels
    };
    let model = Model {
        name: name.clone(),
        config: ModelConfig { input, network: trial.network.clone().into() },
        preprocessing,
        labels,
        scores: Scores::default(),
        threshold: None,
        weights,
    };
    let source = Source::Trial { run: job.run.clone(), id: job.id.clone() };
    Ok((publish(store, &model, source, Change::Promote).await?, model))
}

/// Makes a model called `name` of a folder, and lets the name stand for it. The same folder gives the same
/// reference, and weights that are there are not sent again.
///
/// `progress` is told bytes done and bytes in all: each is read once for its digest and sent once.
///
/// # Errors
/// A file cannot be read, or the store fails; then the name stands for what it stood for.
pub async fn push(
    store: &dyn Store,
    name: &Name,
    folder: Folder,
    progress: impl Fn(u64, u64) + Clone + Send + 'static,
) -> anyhow::Result<(ObjectRef, Model)> {
    let Folder { config, preprocessing, labels, scores, threshold, weights, path, .. } = folder;
    let told = progress.clone();
    let reading = tokio::task::spawn_blocking(move || {
        let kind = weights.name();
        let file = weights.to_send()?;
        let size = file.path.metadata()?.len();
        let digest = digest(&file.path, &|done| told(done, 2 * size))?;
        anyhow::Ok((kind, file, size, digest))
    });
    let (kind, file, size, digest) = reading.await?.context("read the weights")?;
    let weights = send(store, (name, kind), digest, &file.path, size).await?;
    progress(2 * size, 2 * size);
    let model = Model { name: name.clone(), config, preprocessing, labels, scores, threshold, weights };
    Ok((publish(store, &model, Source::of_files(&path), Change::Push).await?, model))
}

/// The digest of a file; `progress` is told the bytes read.
fn digest(path: &Path, progress: &dyn Fn(u64)) -> anyhow::Result<Digest> {
    let mut file = File::open(path).with_context(|| format!("open `{}`", path.display()))?;
    let mut hasher = Digest::hasher();
    let mut buffer = vec![0; 1 << 20];
    let mut done = 0;
    loop {
        match file.read(&mut buffer).with_context(|| format!("read `{}`", path.display()))? {
            0 => return Ok(hasher.finish()),
            bytes => {
                hasher.update(&buffer[..bytes]);
                done += bytes as u64;
                progress(done);
            }
        }
    }
}

/// Sends a file of weights under its digest, unless it is there.
async fn send(
    store: &dyn Store,
    (name, file): (&Name, &str),
    sha256: Digest,
    from: &Path,
    size: u64,
) -> anyhow::Result<ObjectRef> {
    let key = layout::model_file(name, sha256, file);
    if !is_there(store, &key, size).await? {
        store.upload(&key, from).await?;
    }
    Ok(ObjectRef { key, sha256 })
}

/// Writes a model's manifest and where it comes from, and lets its name stand for it.
async fn publish(store: &dyn Store, model: &Model, source: Source, change: Change) -> anyhow::Result<ObjectRef> {
    let body = Bytes::from(serde_json::to_vec_pretty(model)?);
    let sha256 = Digest::of(&body);
    let key = layout::model_file(&model.name, sha256, "model.json");
    store.put(&key, body).await?;
    // The first one stays: the same version may be made again.
    let origin = Origin::of(source);
    create_json(store, &layout::model_file(&model.name, sha256, versions::ORIGIN), &origin).await?;
    // Last: a reader of the pointer finds everything it names.
    pointer::advance(store, &model.name, sha256, change).await?;
    Ok(ObjectRef { key, sha256 })
}
