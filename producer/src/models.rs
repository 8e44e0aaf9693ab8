//! Models in the store: from a finished trial, or from a folder of files, to a name that classifies.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use shared::contract::{Dataset, Job, JobResult, Model, ModelConfig, Work};
use shared::digest::Digest;
use shared::names::{Name, ObjectRef};
use shared::store::{Store, StoreError, fetch_checked, get_json, layout};
use shared::strict;

use crate::data::is_there;

mod config;
mod folder;
mod onnx_file;
mod preprocessor;
#[cfg(test)]
mod tests;
mod weights;

pub use folder::Folder;

/// Makes a model called `name` of a finished trial, and points `current` at it.
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
        weights,
    };
    Ok((publish(store, &model).await?, model))
}

/// Makes a model called `name` of a folder, and points `current` at it. The same folder gives the same
/// reference, and weights that are there are not sent again.
///
/// `progress` is told bytes done and bytes in all: each is read once for its digest and sent once.
///
/// # Errors
/// A file cannot be read, or the store fails; then `current` is what it was.
pub async fn push(
    store: &dyn Store,
    name: &Name,
    folder: Folder,
    progress: impl Fn(u64, u64) + Clone + Send + 'static,
) -> anyhow::Result<(ObjectRef, Model)> {
    let Folder { config, preprocessing, labels, weights, .. } = folder;
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
    let model = Model { name: name.clone(), config, preprocessing, labels, weights };
    Ok((publish(store, &model).await?, model))
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

/// Writes a model's manifest and points `current` at it.
async fn publish(store: &dyn Store, model: &Model) -> anyhow::Result<ObjectRef> {
    let body = Bytes::from(serde_json::to_vec_pretty(model)?);
    let sha256 = Digest::of(&body);
    let key = layout::model_file(&model.name, sha256, "model.json");
    store.put(&key, body).await?;
    // Last: a reader of `current` finds everything it names.
    store.put(&layout::model_current(&model.name), Bytes::from(sha256.to_string())).await?;
    Ok(ObjectRef { key, sha256 })
}

/// The model that `name` stands for now.
///
/// # Errors
/// There is none of this name; the error names the nearest.
pub async fn resolve(store: &dyn Store, name: &Name) -> anyhow::Result<(ObjectRef, Model)> {
    let current = match store.get(&layout::model_current(name)).await {
        Ok(current) => current,
        Err(StoreError::NotFound { .. }) => {
            let models = store.children(&layout::models()).await?;
            let hint = match strict::nearest(name.as_str(), models.iter().map(String::as_str)) {
                Some(near) => format!("did you mean `{near}`?"),
                None if models.is_empty() => {
                    "there are no models yet: `gannet model promote` makes one of a trial, `gannet model push` of a folder".into()
                }
                None => format!("there are {}", models.join(", ")),
            };
            bail!("no model `{name}` in the store at {}: {hint}", store.place());
        }
        Err(error) => return Err(error.into()),
    };
    let text = String::from_utf8_lossy(&current);
    let sha256: Digest = text.trim().parse().with_context(|| format!("read `{}`", layout::model_current(name)))?;
    let reference = ObjectRef { key: layout::model_file(name, sha256, "model.json"), sha256 };
    let body = fetch_checked(store, &reference).await?;
    let model = strict::json(&body).with_context(|| format!("read `{}`", reference.key))?;
    Ok((reference, model))
}
