//! A trial: train this network with these parameters.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Dataset, ImageInput, Network, NetworkError, Shape, Training};
use crate::names::ObjectRef;
use crate::strict::Problem;

/// What a worker needs to train one network, or to test one that was trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// The network, every parameter in place.
    pub network: Network,
    /// The rows to train and to validate on.
    pub data: TrialData,
    /// How to train.
    pub training: Training,
    /// The seed of everything random: initial weights, shuffling, dropout.
    pub seed: u32,
    /// The point of the search space that this trial stands for; repeated in reports, never read.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub parameters: Map<String, Value>,
    /// Instead of training: measure a finished trial's network once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evaluate: Option<Evaluate>,
}

/// The rows of a trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrialData {
    /// The dataset's `dataset.json`.
    pub dataset: ObjectRef,
    /// Rows held out of the training split, drawn with `split_seed`: what the objective is measured
    /// on. The test split is not touched.
    pub validation_rows: u32,
    /// Uses only so many of the remaining rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_rows: Option<u32>,
    /// The same for every trial of a study, so that all are measured on the same rows.
    #[serde(default)]
    pub split_seed: u32,
    /// What pictures become: for datasets whose elements are `encoded`, and only for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<ImageInput>,
}

/// Measures a network on the test split.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Evaluate {
    /// The parameters to measure: a `checkpoint` of an earlier outcome.
    pub checkpoint: ObjectRef,
}

/// What a trial came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrialOutcome {
    /// One entry an epoch; empty when the trial only evaluated.
    pub epochs: Vec<EpochMetrics>,
    /// The epoch (from 1) whose parameters were kept: the best by the trial's objective.
    pub best_epoch: u32,
    /// The kept parameters on the validation rows; absent when the trial only evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub validation: Option<Metrics>,
    /// The parameters on the test split, when the trial evaluated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<Metrics>,
    /// The kept parameters, as safetensors.
    pub checkpoint: ObjectRef,
    /// Numbers in the network that are trained.
    pub parameter_count: u64,
    /// Deliveries that it took, one a slice.
    pub slices: u32,
    /// Whether it ended before its last epoch.
    pub stopped_early: bool,
}

/// Loss and error on a set of rows.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// Mean cross-entropy, in nats.
    pub loss: f64,
    /// Share of rows labelled wrongly, 0 to 1.
    pub error: f64,
    /// How many rows.
    pub rows: u64,
}

/// One epoch's numbers.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EpochMetrics {
    /// From 1.
    pub epoch: u32,
    /// Mean cross-entropy over the epoch's batches, while training.
    pub train_loss: f64,
    /// Mean cross-entropy on the validation rows after it.
    pub validation_loss: f64,
    /// Share of validation rows labelled wrongly after it.
    pub validation_error: f64,
    /// The learning rate of its last step.
    pub learning_rate: f64,
    /// Time it took, in milliseconds, validation included.
    pub duration_ms: u64,
}

impl Trial {
    /// Checks what does not need the dataset.
    ///
    /// # Errors
    /// The first value out of range, by its key.
    pub fn check(&self) -> Result<(), Problem> {
        self.training.check()?;
        if self.data.validation_rows == 0 {
            return Err(Problem::new("data.validation_rows", 0, "1 or more is accepted"));
        }
        if self.data.train_rows == Some(0) {
            return Err(Problem::new("data.train_rows", 0, "1 or more is accepted"));
        }
        if let Some(image) = &self.data.image {
            image.check().map_err(|problem| problem.inside("data.image"))?;
        }
        if self.network.layers.is_empty() {
            return Err(Problem::new("network.layers", "[]", "at least one layer is needed"));
        }
        Ok(())
    }

    /// Checks what follows from the dataset's manifest: rows, and the network's shapes.
    ///
    /// # Errors
    /// The first thing that does not fit, by its key.
    pub fn fits(&self, dataset: &Dataset) -> Result<(), Problem> {
        let input = self.data.fits(dataset).map_err(|problem| problem.inside("data"))?;
        self.network.check(&input, dataset.classes as usize).map_err(|NetworkError { at, problem }| Problem {
            at: format!("network.{at}"),
            what: format!("is wrong: {problem}"),
        })
    }
}

impl TrialData {
    /// Checks the rows against the dataset's manifest, and returns the shape of one example.
    ///
    /// # Errors
    /// The first thing that does not fit, by its key.
    pub fn fits(&self, dataset: &Dataset) -> Result<Shape, Problem> {
        let rows = dataset.train()?.rows;
        let held_out = self.validation_rows;
        if held_out >= rows {
            let accepted =
                format!("the training split of `{}` has {rows} rows, of which some must be left", dataset.name);
            return Err(Problem::new("validation_rows", held_out, accepted));
        }
        let left = rows - held_out;
        if let Some(train_rows) = self.train_rows
            && !(1..=left).contains(&train_rows)
        {
            let accepted =
                format!("1 to {left} is accepted: `{}` has {rows} and {held_out} are held out", dataset.name);
            return Err(Problem::new("train_rows", train_rows, accepted));
        }
        dataset.input(self.image.as_ref())
    }
}
