//! A study's jobs and results, brought into the form that listings and reports show.

use serde_json::{Map, Value, json};
use shared::contract::{EpochMetrics, Job, JobResult, Metrics, Objective, Status, Work};
use shared::names::Name;

use super::Listing;
use crate::study;

/// Everything a report of a study shows.
#[derive(Debug, Clone, PartialEq)]
pub struct StudySummary {
    /// The run.
    pub run: Name,
    /// The dataset's name, where the jobs tell it.
    pub dataset: Option<String>,
    /// What was made small.
    pub objective: Objective,
    /// Rows that the objective was measured on.
    pub validation_rows: u32,
    /// The parameters' names, in the order of the study.
    pub parameters: Vec<String>,
    /// The trials, in their order.
    pub trials: Vec<TrialRow>,
    /// The best one's position among them.
    pub winner: Option<usize>,
    /// The best one on the test split.
    pub test: Option<Metrics>,
    /// Whether its test has ended without a measure. It has not begun, or there is nothing to test on, without either.
    pub test_failed: bool,
    /// Measured durations of a study: how many workers, how many seconds. To be filled in by who knows.
    pub scaling: Vec<(u32, f64)>,
    /// Sentences for the reader: where the data came from, for instance. To be filled in likewise.
    pub notes: Vec<String>,
}

/// One trial.
#[derive(Debug, Clone, PartialEq)]
pub struct TrialRow {
    /// The job's id.
    pub id: String,
    /// Its point in the search space.
    pub parameters: Map<String, Value>,
    /// How it ended.
    pub ending: Ending,
    /// Why it failed.
    pub problem: Option<String>,
    /// The kept parameters on the validation rows.
    pub validation: Option<Metrics>,
    /// One entry an epoch.
    pub epochs: Vec<EpochMetrics>,
    /// Time spent computing, in seconds.
    pub seconds: Option<f64>,
    /// Who did it.
    pub worker: Option<String>,
}

/// How a trial ended, or that it has not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// With an outcome.
    Done,
    /// With an error.
    Failed,
    /// Somebody cancelled it.
    Cancelled,
    /// It has no result yet.
    Open,
}

impl Ending {
    /// Its name in listings.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Open => "open",
        }
    }
}

impl StudySummary {
    /// Sums up the jobs of `run` with their results, in the order of the trials. A job that evaluates
    /// the winner ([`study::test_job`]) gives the test error; other kinds of jobs are left out.
    pub fn new(run: &Name, jobs: &[(Job, Option<JobResult>)]) -> Self {
        let mut summary = Self {
            run: run.clone(),
            dataset: None,
            objective: Objective::default(),
            validation_rows: 0,
            parameters: Vec::new(),
            trials: Vec::new(),
            winner: None,
            test: None,
            test_failed: false,
            scaling: Vec::new(),
            notes: Vec::new(),
        };
        let winner = study::winner(jobs);
        let test_id = winner.map(|index| format!("test-{}", jobs[index].0.id));
        for (index, (job, result)) in jobs.iter().enumerate() {
            let Work::Trial(trial) = &job.work else { continue };
            if trial.evaluate.is_some() {
                let measured = result.as_ref().and_then(|result| result.trial()?.test);
                if test_id.as_deref() == Some(job.id.as_str()) {
                    summary.test = measured;
                    summary.test_failed = result.is_some() && measured.is_none();
                }
                continue;
            }
            if winner == Some(index) {
                summary.winner = Some(summary.trials.len());
            }
            summary.dataset = trial.data.dataset.key.as_str().split('/').nth(1).map(str::to_owned);
            summary.objective = trial.training.objective;
            summary.validation_rows = trial.data.validation_rows;
            for name in trial.parameters.keys() {
                if !summary.parameters.contains(name) {
                    summary.parameters.push(name.clone());
                }
            }
            summary.trials.push(TrialRow::new(job, &trial.parameters, result.as_ref()));
        }
        summary
    }

    /// The trial's value of what was made small, if it is done and has a finite one.
    pub fn value(&self, trial: &TrialRow) -> Option<f64> {
        let metrics = trial.validation.filter(|_| trial.ending == Ending::Done)?;
        let value = match self.objective {
            Objective::ValidationError => metrics.error,
            Objective::ValidationLoss => metrics.loss,
        };
        value.is_finite().then_some(value)
    }

    /// The best trial.
    pub fn best(&self) -> Option<&TrialRow> {
        self.trials.get(self.winner?)
    }

    /// The trials best first; those without a value at the end, in their order.
    pub fn ranked(&self) -> Vec<&TrialRow> {
        let mut ranked: Vec<&TrialRow> = self.trials.iter().collect();
        let value = |trial: &&TrialRow| self.value(trial).unwrap_or(f64::INFINITY);
        ranked.sort_by(|one, other| value(one).total_cmp(&value(other)));
        ranked
    }

    /// The trials as a listing, in their order. A parameter whose name is a column's gets a `$` before
    /// it.
    pub fn listing(&self) -> Listing {
        const AFTER: [&str; 7] =
            ["status", "validation_error", "validation_loss", "test_error", "epochs", "seconds", "problem"];
        let parameters = self.parameters.iter().map(|name| match name.as_str() {
            "trial" => "$trial".to_owned(),
            taken if AFTER.contains(&taken) => format!("${taken}"),
            name => name.to_owned(),
        });
        let columns = std::iter::once("trial".to_owned()).chain(parameters).chain(AFTER.map(str::to_owned));
        let mut listing = Listing::new(columns);
        for (index, trial) in self.trials.iter().enumerate() {
            let mut row = vec![json!(trial.id)];
            row.extend(self.parameters.iter().map(|name| trial.parameters.get(name).cloned().unwrap_or_default()));
            let test = self.test.filter(|_| self.winner == Some(index));
            row.extend([
                json!(trial.ending.as_str()),
                json!(trial.validation.map(|metrics| metrics.error)),
                json!(trial.validation.map(|metrics| metrics.loss)),
                json!(test.map(|metrics| metrics.error)),
                json!((!trial.epochs.is_empty()).then_some(trial.epochs.len())),
                json!(trial.seconds),
                json!(trial.problem),
            ]);
            listing.push(row);
        }
        listing
    }
}

impl TrialRow {
    fn new(job: &Job, parameters: &Map<String, Value>, result: Option<&JobResult>) -> Self {
        let outcome = result.and_then(JobResult::trial);
        Self {
            id: job.id.to_string(),
            parameters: parameters.clone(),
            ending: match result.map(|result| result.status) {
                None => Ending::Open,
                Some(Status::Done) => Ending::Done,
                Some(Status::Failed) => Ending::Failed,
                Some(Status::Cancelled) => Ending::Cancelled,
            },
            problem: result.and_then(|result| result.error.as_ref()).map(ToString::to_string),
            validation: outcome.and_then(|outcome| outcome.validation),
            epochs: outcome.map(|outcome| outcome.epochs.clone()).unwrap_or_default(),
            seconds: result.map(|result| result.durations.compute_ms as f64 / 1e3),
            worker: result.map(|result| result.worker.clone()),
        }
    }
}
