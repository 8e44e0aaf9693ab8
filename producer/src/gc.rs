//! What is left over in the store: found by what names it and by its age, and removed.
//!
//! Nothing that a job still needs is found: tensors are kept while a result, or the last checkpoint of a job that may go
//! on, names them. The age limit is for what nothing names yet: a worker uploads tensors before it commits the record
//! that names them, and a push its files before the manifest. Ages are by the store's own clock.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde_json::Value;
use shared::contract::{Dataset, ErrorCode, JobResult, Model, Status};
use shared::names::{JobId, Key, Name};
use shared::store::{Entry, Store, StoreError, get_json, get_optional, get_optional_json, layout};

use crate::models::{self, History};
use crate::runs::{self, Asked, RunManifest};

/// Requests at once.
const AT_ONCE: usize = 16;

/// An object that nobody needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Garbage {
    /// It, with its size and age.
    pub entry: Entry,
    /// Why nobody needs it.
    pub why: &'static str,
}

/// What may be removed.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Only what was written longer ago.
    pub older: Duration,
    /// Also versions of models and datasets that nothing names: neither a run, nor a name that stands for them or stood for
    /// them a while ago.
    pub versions: bool,
}

/// Finds what nobody needs, sorted by key.
///
/// # Errors
/// The store fails, or does not tell when objects were written; a document that would say what is needed cannot be read.
pub async fn find(store: &dyn Store, limits: Limits) -> anyhow::Result<Vec<Garbage>> {
    let now = clock(store).await?;
    let mut found = Vec::new();
    let runs = runs::names(store).await?;
    let of_runs = stream::iter(&runs).map(|run| of_run(store, run)).buffered(AT_ONCE / 2);
    for garbage in of_runs.try_collect::<Vec<_>>().await? {
        found.extend(garbage);
    }
    let probes = store.list(&layout::probes()).await?;
    found.extend(probes.into_iter().map(|entry| Garbage { entry, why: "left by a probe of the store" }));
    if limits.versions {
        found.extend(versions(store, &runs).await?);
    }
    let oldest = now.saturating_sub(limits.older).context("compute the age limit")?;
    found.retain(|garbage| garbage.entry.modified.is_some_and(|at| at < oldest));
    found.sort_by(|a, b| a.entry.key.cmp(&b.entry.key));
    Ok(found)
}

/// The runs that are cancelled or deleted: nobody needs their jobs.
///
/// # Errors
/// The store fails.
pub async fn closed(store: &dyn Store) -> Result<Vec<Name>, StoreError> {
    let runs = stream::iter(runs::names(store).await?).map(async |run| {
        let marker = get_optional(store, &layout::cancelled(&run)).await?;
        Ok(marker.map(|_| run))
    });
    runs.buffered(AT_ONCE).try_filter_map(async |run| Ok(run)).try_collect().await
}

/// Removes what was found.
///
/// # Errors
/// The store fails; what was not removed is found again.
pub async fn remove(store: &dyn Store, garbage: &[Garbage]) -> Result<(), StoreError> {
    let removed = stream::iter(garbage).map(|garbage| store.delete(&garbage.entry.key)).buffer_unordered(AT_ONCE);
    removed.try_collect().await
}

/// What time it is for the store.
async fn clock(store: &dyn Store) -> anyhow::Result<Timestamp> {
    let key = layout::probe(&format!("gc-{}", shared::queue::fresh_message_id()));
    store.put(&key, Bytes::from_static(b"what time is it?")).await?;
    let there = store.list(&layout::probes()).await?;
    store.delete(&key).await?;
    let written = there.into_iter().find(|entry| entry.key == key).and_then(|entry| entry.modified);
    written.with_context(|| format!("the store at {} does not tell when objects were written", store.place()))
}

async fn of_run(store: &dyn Store, run: &Name) -> anyhow::Result<Vec<Garbage>> {
    // Listed before anything is read that says what is needed: what is named meanwhile counts.
    let entries = store.list(&layout::run(run)).await?;
    let marker_key = layout::cancelled(run);
    let marker = get_optional(store, &marker_key).await?;
    if marker.is_some() && is_deleted(run, marker.as_deref(), &entries) {
        let left = entries.into_iter().filter(|entry| entry.key != marker_key);
        return Ok(left.map(|entry| Garbage { entry, why: "left of a deleted run" }).collect());
    }
    let mut tensors: BTreeMap<JobId, Vec<Entry>> = BTreeMap::new();
    for entry in entries {
        if let Some(job) = tensors_of(run, &entry.key) {
            tensors.entry(job).or_default().push(entry);
        }
    }
    let cancelled = marker.is_some();
    let of_jobs = stream::iter(tensors).map(async |(job, entries)| of_job(store, run, &job, entries, cancelled).await);
    Ok(of_jobs.buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?.concat())
}

/// A run that was deleted says so; older markers do not, and then nothing that anybody would want is left of it.
fn is_deleted(run: &Name, marker: Option<&[u8]>, entries: &[Entry]) -> bool {
    let says_so = marker
        .and_then(|text| serde_json::from_slice::<Value>(text).ok())
        .is_some_and(|marker| marker.get("deleted_at").is_some());
    let (manifest, results) = (layout::run_manifest(run), format!("{}/", layout::results(run)));
    let is_wanted = |entry: &Entry| entry.key == manifest || entry.key.as_str().starts_with(&results);
    says_so || !entries.iter().any(is_wanted)
}

/// The job whose tensors lie there.
fn tensors_of(run: &Name, key: &Key) -> Option<JobId> {
    let rest = key.as_str().strip_prefix(layout::checkpoints(run).as_str())?.strip_prefix('/')?;
    let (job, file) = rest.split_once('/')?;
    file.ends_with(".safetensors").then(|| JobId::new(job).ok()).flatten()
}

async fn of_job(
    store: &dyn Store,
    run: &Name,
    job: &JobId,
    tensors: Vec<Entry>,
    cancelled: bool,
) -> anyhow::Result<Vec<Garbage>> {
    let result: Option<JobResult> = get_optional_json(store, &layout::result(run, job)).await?;
    let mut needed = BTreeSet::new();
    if let Some(outcome) = result.as_ref().and_then(JobResult::trial) {
        needed.insert(outcome.checkpoint.key.clone());
    }
    let (goes_on, why) = match &result {
        // One among the dead letters may be put back.
        Some(result) if result.status == Status::Failed && !diverged(result) => (true, "superseded by a later slice"),
        Some(_) => (false, "its job has ended"),
        None if cancelled => (false, "its run is cancelled"),
        None => (true, "superseded by a later slice"),
    };
    if goes_on {
        needed.extend(last_tensors(store, run, job).await?);
    }
    let unneeded = tensors.into_iter().filter(|entry| !needed.contains(&entry.key));
    Ok(unneeded.map(|entry| Garbage { entry, why }).collect())
}

fn diverged(result: &JobResult) -> bool {
    result.error.as_ref().is_some_and(|error| error.code == ErrorCode::Diverged)
}

/// What a job's next slice begins with.
async fn last_tensors(store: &dyn Store, run: &Name, job: &JobId) -> anyhow::Result<Option<Key>> {
    let names = store.children(&layout::job_checkpoints(run, job)).await?;
    let last = names.iter().filter_map(|name| name.strip_suffix(".json")?.parse::<u32>().ok()).max();
    let Some(last) = last else { return Ok(None) };
    let key = layout::checkpoint_record(run, job, last);
    let record: Value = get_json(store, &key).await?;
    let Some(tensors) = record["tensors"]["key"].as_str() else { bail!("`{key}` names no tensors") };
    Ok(Some(Key::new(tensors).with_context(|| format!("read `{key}`"))?))
}

/// Files of models and datasets that belong to no version that a run names, or a name that stands for it or stood for it a
/// while ago.
async fn versions(store: &dyn Store, runs: &[Name]) -> anyhow::Result<Vec<Garbage>> {
    let mut entries = Vec::new();
    for prefix in [layout::datasets(), layout::models()] {
        entries.extend(store.list(&prefix).await?);
    }
    let mut needed: BTreeSet<Key> = BTreeSet::new();
    let mut manifests: BTreeSet<Key> = BTreeSet::new();
    for run in runs {
        let manifest: Option<RunManifest> = get_optional_json(store, &layout::run_manifest(run)).await?;
        manifests.extend(manifest.map(|manifest| match manifest.asked {
            Asked::Study { dataset, .. } => dataset.key,
            Asked::Classification { model, .. } => model.key,
        }));
    }
    for entry in &entries {
        let Some(folder) = entry.key.as_str().strip_suffix("/current") else { continue };
        let digest = store.get(&entry.key).await?;
        let digest = String::from_utf8_lossy(&digest);
        let manifest = Key::new(format!("{folder}/{}/dataset.json", digest.trim()));
        manifests.insert(manifest.with_context(|| format!("read `{}`", entry.key))?);
        needed.insert(entry.key.clone());
    }
    for name in models::names(store).await? {
        let history = History::read(store, &name).await?;
        manifests.extend(history.moves().map(|one| layout::model_file(&name, one.digest, "model.json")));
        let pointer = format!("{}/", layout::model_pointer(&name));
        let moves = entries.iter().filter(|entry| entry.key.as_str().starts_with(&pointer));
        needed.extend(moves.map(|entry| entry.key.clone()));
    }
    for manifest in manifests {
        if let Some(folder) = manifest.as_str().strip_suffix("/model.json") {
            let model: Option<Model> = get_optional_json(store, &manifest).await?;
            needed.extend(model.map(|model| model.weights.key));
            needed.insert(
                Key::new(format!("{folder}/{}", models::ORIGIN)).with_context(|| format!("read `{manifest}`"))?,
            );
        } else {
            let dataset: Option<Dataset> = get_optional_json(store, &manifest).await?;
            needed.extend(dataset.into_iter().flat_map(|set| set.splits.into_values()).map(|split| split.object.key));
        }
        needed.insert(manifest);
    }
    entries.retain(|entry| !needed.contains(&entry.key));
    Ok(entries
        .into_iter()
        .map(|entry| Garbage { entry, why: "no run and no name that stands or stood for it names it" })
        .collect())
}

#[cfg(test)]
mod tests;
