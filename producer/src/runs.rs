//! Runs in the store: what was asked, what came out. Reads and writes keys; never publishes.

use std::collections::BTreeMap;

use anyhow::bail;
use futures::{Stream, StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::contract::{Dataset, Job, JobResult};
use shared::names::{JobId, Key, Name, ObjectRef};
use shared::store::{Created, Store, StoreError, create_json, get_json, get_optional, get_optional_json, layout};
use shared::strict;

use crate::study::{self, Study};
use crate::words;

/// Objects that are read at once.
const AT_ONCE: usize = 32;

/// `runs/<run>/run.json`: what was asked. A study's trials follow from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunManifest {
    /// The run.
    pub run: Name,
    /// When it was made.
    pub created_at: Timestamp,
    /// The version of the program that made it.
    pub made_by: String,
    /// What was asked.
    pub asked: Asked,
}

/// What was asked of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Asked {
    /// Tune a network.
    Study {
        /// The study file's text.
        text: String,
        /// Its dataset's manifest.
        dataset: ObjectRef,
    },
    /// Label pictures.
    Classification {
        /// The model's manifest.
        model: ObjectRef,
        /// How many pictures.
        images: u64,
    },
}

impl RunManifest {
    /// A new run's manifest.
    pub fn new(run: Name, asked: Asked) -> Self {
        Self { run, created_at: Timestamp::now(), made_by: env!("CARGO_PKG_VERSION").into(), asked }
    }

    /// Writes it; a run of this name that asked for the same is joined.
    ///
    /// # Errors
    /// There is a run of this name that asked for something else, or was cancelled or deleted: workers drop its jobs.
    pub async fn create(&self, store: &dyn Store) -> anyhow::Result<Created> {
        let key = layout::run_manifest(&self.run);
        if get_optional(store, &layout::cancelled(&self.run)).await?.is_some() {
            let what = if get_optional(store, &key).await?.is_some() { "cancelled" } else { "deleted" };
            bail!("a run `{}` was {what}, and its name is spent: choose another with --run", self.run);
        }
        let created = create_json(store, &key, self).await?;
        if created == Created::Exists {
            let there: Self = get_json(store, &key).await?;
            if there.asked != self.asked {
                bail!(
                    "a run `{}` exists and asked for something else ({}): choose another name with --run",
                    self.run,
                    differs(&there.asked, &self.asked)
                );
            }
        }
        Ok(created)
    }

    /// Reads the manifest of `run`, `None` where there is none: then its jobs came from another client.
    ///
    /// # Errors
    /// There is no such run at all; the error names the nearest.
    pub async fn find(store: &dyn Store, run: &Name) -> anyhow::Result<Option<Self>> {
        if let Some(manifest) = get_optional_json(store, &layout::run_manifest(run)).await? {
            return Ok(Some(manifest));
        }
        let runs = store.children(&layout::runs()).await?;
        if runs.iter().any(|name| name == run.as_str()) {
            return Ok(None);
        }
        let hint = match strict::nearest(run.as_str(), runs.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None if runs.is_empty() => "there are no runs yet".into(),
            None => format!("`gannet status` lists them ({} there)", runs.len()),
        };
        bail!("no run `{run}` in the store at {}: {hint}", store.place());
    }
}

/// What an earlier run of the same name asked for, and this one does not.
fn differs(before: &Asked, now: &Asked) -> String {
    match (before, now) {
        (Asked::Classification { model, images }, Asked::Classification { model: other, images: count }) => {
            let mut parts = Vec::new();
            if model != other {
                parts.push(format!("`{}`, not `{}`", model.key, other.key));
            }
            if images != count {
                parts.push(format!(
                    "{}, not {count}",
                    words::count(usize::try_from(*images).unwrap_or(usize::MAX), "picture")
                ));
            }
            parts.join("; ")
        }
        (Asked::Study { dataset, .. }, Asked::Study { dataset: other, .. }) if dataset != other => {
            format!("`{}`, not `{}`", dataset.key, other.key)
        }
        (Asked::Study { .. }, Asked::Study { .. }) => "another study file".into(),
        (Asked::Study { .. }, _) => "a study".into(),
        (Asked::Classification { .. }, _) => "labels for pictures".into(),
    }
}

/// The jobs of a study's run, made again from what was asked.
///
/// # Errors
/// The dataset is gone, or this version reads the study differently.
pub async fn trials(store: &dyn Store, manifest: &RunManifest) -> anyhow::Result<Vec<Job>> {
    let Asked::Study { text, dataset } = &manifest.asked else { return Ok(Vec::new()) };
    let study = Study::parse(text, "run.json")?;
    let contents: Dataset = get_json(store, &dataset.key).await?;
    Ok(study.trials(&contents, dataset, &manifest.run)?)
}

/// The jobs of a run that have a result.
///
/// # Errors
/// The store fails.
pub async fn jobs_done(store: &dyn Store, run: &Name) -> Result<Vec<JobId>, StoreError> {
    let entries = store.list(&layout::results(run)).await?;
    let job = |key: &Key| key.as_str().rsplit('/').next()?.strip_suffix(".json").and_then(|id| JobId::new(id).ok());
    Ok(entries.iter().filter_map(|entry| job(&entry.key)).collect())
}

/// Whether nothing of a run is left but the mark that keeps late deliveries from writing into it.
///
/// # Errors
/// The store fails.
pub async fn is_deleted(store: &dyn Store, run: &Name) -> Result<bool, StoreError> {
    let left = store.children(&layout::run(run)).await?;
    Ok(left.iter().all(|name| name == layout::CANCELLED))
}

/// A run as listings show it.
#[derive(Debug)]
pub struct Overview {
    /// The run.
    pub run: Name,
    /// What was asked; `None` where its jobs came from another client.
    pub manifest: Option<RunManifest>,
    /// Trials or batches that have a result. The test of a study's chosen trial is none.
    pub done: usize,
    /// Whether somebody cancelled it.
    pub cancelled: bool,
}

/// The runs in the store, deleted ones too, sorted.
///
/// # Errors
/// The store fails.
pub async fn names(store: &dyn Store) -> Result<Vec<Name>, StoreError> {
    let names = store.children(&layout::runs()).await?;
    Ok(names.into_iter().filter_map(|name| Name::new(name).ok()).collect())
}

/// Looks at a run; `None` where it was deleted.
///
/// # Errors
/// The store fails, or what was asked cannot be read.
async fn overview(store: &dyn Store, run: Name) -> Result<Option<Overview>, StoreError> {
    let (manifest, marker) = (layout::run_manifest(&run), layout::cancelled(&run));
    let (manifest, marker, jobs) = futures::try_join!(
        get_optional_json::<RunManifest>(store, &manifest),
        get_optional(store, &marker),
        jobs_done(store, &run)
    )?;
    let cancelled = marker.is_some();
    if manifest.is_none() && cancelled && jobs.is_empty() {
        return Ok(None);
    }
    let is_study = matches!(manifest, Some(RunManifest { asked: Asked::Study { .. }, .. }));
    let done = jobs.iter().filter(|id| !(is_study && study::is_test(id))).count();
    Ok(Some(Overview { run, manifest, done, cancelled }))
}

/// Looks at all runs, in their order; `None` for those that were deleted.
pub fn overviews(store: &dyn Store, runs: Vec<Name>) -> impl Stream<Item = Result<Option<Overview>, StoreError>> {
    stream::iter(runs).map(move |run| overview(store, run)).buffered(AT_ONCE / 2)
}

/// Every result of a run that stands in the store, but those `known` already.
///
/// # Errors
/// The store fails, or a result cannot be read; the error names it.
pub async fn results(
    store: &dyn Store,
    run: &Name,
    known: &BTreeMap<JobId, JobResult>,
) -> anyhow::Result<Vec<JobResult>> {
    let jobs = jobs_done(store, run).await?.into_iter().filter(|id| !known.contains_key(id)).collect();
    Ok(read_results(store, run, jobs).try_collect().await?)
}

/// The results of `jobs`, in any order: one that cannot be read takes no other with it.
pub fn read_results(
    store: &dyn Store,
    run: &Name,
    jobs: Vec<JobId>,
) -> impl Stream<Item = Result<JobResult, StoreError>> {
    // As many at once as a store answers well.
    stream::iter(jobs)
        .map(async move |id| get_json::<JobResult>(store, &layout::result(run, &id)).await)
        .buffer_unordered(AT_ONCE)
}

/// A study's trials with their results, and behind them the test of the chosen one where it was made.
pub type Trials = Vec<(Job, Option<JobResult>)>;

/// Sorts `results` to a study's `jobs`, and adds the test of the chosen trial.
pub fn pair(jobs: Vec<Job>, mut results: BTreeMap<JobId, JobResult>) -> Trials {
    let paired = jobs.into_iter().map(|job| {
        let result = results.remove(&job.id);
        (job, result)
    });
    let mut trials: Trials = paired.collect();
    if let Some((job, result)) = winner(&trials)
        && let Some(outcome) = result.trial()
        && let Some(test) = study::test_job(job, outcome.checkpoint.clone())
        && let Some(result) = results.remove(&test.id)
    {
        trials.push((test, Some(result)));
    }
    trials
}

/// The chosen trial, and its result.
pub fn winner(trials: &Trials) -> Option<(&Job, &JobResult)> {
    let (job, result) = &trials[study::winner(trials)?];
    Some((job, result.as_ref()?))
}

#[cfg(test)]
mod tests {
    use shared::digest::Digest;

    use super::*;

    #[test]
    fn it_is_said_what_differs() {
        let object = |key: &str| ObjectRef { key: Key::new(key).expect("a key"), sha256: Digest::of(key.as_bytes()) };
        let labels = |key: &str, images: u64| Asked::Classification { model: object(key), images };
        let study = |text: &str| Asked::Study { text: text.into(), dataset: object("datasets/d") };
        for (before, now, said) in [
            (labels("models/m/1", 1), labels("models/m/1", 2), "1 picture, not 2"),
            (labels("models/m/1", 2), labels("models/m/2", 2), "`models/m/1`, not `models/m/2`"),
            (study("a"), study("b"), "another study file"),
            (study("a"), labels("models/m/1", 1), "a study"),
        ] {
            assert_eq!(differs(&before, &now), said);
        }
    }
}
