//! The jobs: a few small trials and batches, each many times under many names, and what they come to when nothing goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use shared::digest::Digest;

use super::audit::{Asked, Expected};
use super::producer::Wave;
use crate::{Fleet, LIMIT, Process, eventually, studies, write_colour, write_model};

/// Different trials: each has a seed and a length of its own.
const TRIALS: usize = 6;
/// Different batches.
const BATCHES: usize = 4;
/// Pictures in the store, of different sizes.
const PICTURES: usize = 8;
/// Pictures a batch.
const BATCH: usize = 20;
/// Epochs of the shortest trial: some slices' worth.
const EPOCHS: u32 = 400;
/// Of so many jobs one is a batch.
const BATCH_EVERY: usize = 3;
/// Of so many jobs one cannot be done, in turn: its data is missing, or it diverges.
const FAILING_EVERY: usize = 20;
/// Jobs a wave.
const WAVE: usize = 10;
/// Waves that are enqueued at once at the begin: there is always something to do.
const FIRST_WAVES: usize = 3;

/// What jobs are made of.
pub(super) struct Work {
    dataset: Value,
    /// A dataset whose rows are not there: `gannet submit` looks for the manifest alone.
    hollow: Value,
    model: Value,
    pictures: Vec<Value>,
}

impl Work {
    /// Puts a dataset, a model and pictures into the store.
    ///
    /// # Errors
    /// A command failed.
    pub(super) async fn prepare(fleet: &Fleet) -> Result<Self> {
        let dataset = fleet.push_pictures().await?;
        write_model(&fleet.path().join("colours"), ["red", "blue"])?;
        fleet.gannet(&["model", "push", "colours", "colours"]).await?;
        let model = fleet.model("colours").await?;
        let pictures = (0..PICTURES).map(|number| picture(fleet, number)).collect::<Result<_>>()?;
        Ok(Self { hollow: hollow(fleet, &dataset)?, dataset, model, pictures })
    }

    /// The job `id` of `run`, one of the different ones.
    fn job(&self, run: &str, id: &str, sort: Sort) -> Value {
        match sort {
            Sort::Trial(which) => {
                let mut job = studies::stateful_job(id, run, &self.dataset, EPOCHS + 60 * which as u32);
                job["trial"]["seed"] = which.into();
                job
            }
            Sort::Missing => studies::job(id, run, &self.hollow),
            Sort::Diverging => {
                let mut job = studies::job(id, run, &self.dataset);
                // Layer upon layer without a bound in between, and the largest steps that are accepted.
                let linear = |units: u32| json!({"type": "linear", "units": units});
                job["trial"]["network"]["layers"] =
                    json!([{"type": "flatten"}, linear(8), linear(8), linear(8), linear(3)]);
                job["trial"]["training"]["optimizer"]["learning_rate"] = json!(1e6);
                job["trial"]["training"]["epochs"] = 5.into();
                job
            }
            Sort::Batch(which) => {
                let image = |n: usize| {
                    let picture = (which + n) % self.pictures.len();
                    json!({"image": picture.to_string(), "object": self.pictures[picture]})
                };
                let images: Vec<Value> = (0..BATCH).map(image).collect();
                json!({"id": id, "run": run, "kind": "batch", "batch": {"model": self.model, "images": images}})
            }
        }
    }

    /// `count` jobs, in waves over `length`.
    pub(super) fn waves(&self, count: usize, length: Duration) -> Vec<Wave> {
        let numbers: Vec<usize> = (0..count).collect();
        let waves = numbers.chunks(WAVE);
        let pause = length.div_f64((waves.len() as f64).max(1.0));
        let wave = |(number, jobs): (usize, &[usize])| {
            let run = format!("chaos-{number:04}");
            let at = pause.mul_f64(number.saturating_sub(FIRST_WAVES) as f64);
            let jobs = jobs.iter().map(|job| self.job(&run, &format!("j{job:05}"), Sort::of(*job))).collect();
            Wave { at, run, jobs }
        };
        waves.enumerate().map(wave).collect()
    }

    /// What each of the different jobs comes to on workers that nothing happens to, in one slice.
    ///
    /// # Errors
    /// One does not end as it must.
    pub(super) async fn reference(&self, fleet: &Fleet) -> Result<Reference> {
        let sorts =
            (0..TRIALS).map(Sort::Trial).chain((0..BATCHES).map(Sort::Batch)).chain([Sort::Missing, Sort::Diverging]);
        let sorts: Vec<(String, Sort)> = sorts.enumerate().map(|(n, sort)| (format!("q{n}"), sort)).collect();
        let jobs: Vec<Value> = sorts.iter().map(|(id, sort)| self.job("quiet", id, *sort)).collect();
        fleet.write("quiet.json", &Value::from(jobs).to_string())?;
        fleet.gannet(&["submit", "quiet.json"]).await?;
        let mut worker = fleet.worker("quiet")?;
        let results = eventually(LIMIT, "the quiet run ends", async || {
            worker.must_run()?;
            Ok(Some(fleet.results("quiet")?).filter(|results| results.len() == sorts.len()))
        })
        .await?;
        end(worker).await?;
        let mut expected = BTreeMap::new();
        for (id, sort) in sorts {
            let result = results.iter().find(|result| result["id"] == id.as_str()).context("a job of the quiet run")?;
            let outcome = Expected::of(result).with_context(|| format!("a quiet job came to nothing: {result}"))?;
            let fails = matches!(outcome, Expected::Failure(_));
            ensure!(
                fails == matches!(sort, Sort::Missing | Sort::Diverging),
                "a quiet job ended other than it must: {result}"
            );
            expected.insert(sort, outcome);
        }
        let cpu_ms = results.iter().map(|result| result["costs"]["cpu_ms"].as_u64().unwrap_or_default()).sum();
        Ok(Reference { expected, cpu_ms, jobs: results.len() })
    }
}

async fn end(mut worker: Process) -> Result<()> {
    worker.terminate()?;
    ensure!(worker.wait(LIMIT).await?.success(), "the quiet worker did not end well: {}", worker.stderr());
    Ok(())
}

/// What jobs come to when nothing goes wrong.
pub(super) struct Reference {
    expected: BTreeMap<Sort, Expected>,
    /// Processor time of the executors.
    pub(super) cpu_ms: u64,
    /// How many jobs.
    pub(super) jobs: usize,
}

impl Reference {
    /// All jobs of `waves` with what they must come to; of some somebody tried to cancel.
    pub(super) fn asked(&self, waves: &[Wave], cancelled: &BTreeSet<String>) -> Vec<Asked> {
        let jobs = waves.iter().flat_map(|wave| wave.jobs.iter().map(|job| (&wave.run, job))).enumerate();
        let asked = jobs.map(|(number, (run, job))| {
            let job = format!("{run}/{}", job["id"].as_str().unwrap_or_default());
            let may_be_cancelled = cancelled.contains(&job);
            Asked { job, expected: self.expected[&Sort::of(number)].clone(), may_be_cancelled }
        });
        asked.collect()
    }
}

/// One of the different jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Trial(usize),
    Batch(usize),
    /// A trial whose data is not there.
    Missing,
    /// A trial that diverges.
    Diverging,
}

impl Sort {
    /// The sort of job `number`.
    fn of(number: usize) -> Self {
        if number % FAILING_EVERY == FAILING_EVERY - 1 {
            if (number / FAILING_EVERY).is_multiple_of(2) { Self::Missing } else { Self::Diverging }
        } else if number.is_multiple_of(BATCH_EVERY) {
            Self::Batch(number / BATCH_EVERY % BATCHES)
        } else {
            Self::Trial(number % TRIALS)
        }
    }
}

/// Puts a manifest like that of `dataset` into the store, whose training rows are nowhere; returns its reference.
fn hollow(fleet: &Fleet, dataset: &Value) -> Result<Value> {
    let manifest = fleet.object(dataset["key"].as_str().context("the dataset's key")?)?;
    let mut manifest: Value = serde_json::from_slice(&manifest).context("read the dataset's manifest")?;
    // A digest of nothing that a cache may hold.
    manifest["splits"]["train"]["object"] = json!({"key": "datasets/hollow/rows", "sha256": "0".repeat(64)});
    let bytes = manifest.to_string().into_bytes();
    let digest = Digest::of(&bytes).to_string();
    let key = format!("datasets/hollow/{digest}/dataset.json");
    fleet.put(&key, &bytes)?;
    Ok(json!({"key": key, "sha256": digest}))
}

/// Puts a picture into the store; returns its reference.
fn picture(fleet: &Fleet, number: usize) -> Result<Value> {
    let path = fleet.path().join(format!("{number}.bmp"));
    let colour = if number.is_multiple_of(2) { [250, 10, 10] } else { [10, 10, 250] };
    write_colour(&path, 300 + 40 * number, colour)?;
    let bytes = std::fs::read(&path).context("read a picture")?;
    let key = format!("pictures/{number}.bmp");
    fleet.put(&key, &bytes)?;
    Ok(json!({"key": key, "sha256": Digest::of(&bytes).to_string()}))
}
