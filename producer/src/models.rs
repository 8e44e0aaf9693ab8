//! Models in the store: from a finished trial to a name that classifies.

use anyhow::{Context as _, bail};
use bytes::Bytes;
use shared::contract::{Dataset, Job, JobResult, Model, ModelConfig, Preprocessing, Work};
use shared::digest::Digest;
use shared::names::{Name, ObjectRef};
use shared::store::{Store, StoreError, fetch_checked, get_json, layout};
use shared::strict;

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
    let weights = fetch_checked(store, &outcome.checkpoint).await.context("read the trial's network")?;
    let digest = outcome.checkpoint.sha256;
    let weights_key = layout::model_file(name, digest, "model.safetensors");
    store.put(&weights_key, weights).await?;
    let labels = if dataset.labels.is_empty() {
        (0..dataset.classes).map(|class| class.to_string()).collect()
    } else {
        dataset.labels
    };
    let model = Model {
        name: name.clone(),
        config: ModelConfig { input: dataset.shape, network: trial.network.clone() },
        preprocessing: Preprocessing::standard(dataset.mean, dataset.std),
        labels,
        weights: ObjectRef { key: weights_key, sha256: digest },
    };
    let body = Bytes::from(serde_json::to_vec_pretty(&model)?);
    let sha256 = Digest::of(&body);
    let key = layout::model_file(name, sha256, "model.json");
    store.put(&key, body).await?;
    // Last: a reader of `current` finds everything it names.
    store.put(&layout::model_current(name), Bytes::from(sha256.to_string())).await?;
    Ok((ObjectRef { key, sha256 }, model))
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
                    "there are no models yet: `gannet model promote` makes one of a trial".into()
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
