//! How a network is trained.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::strict::Problem;

/// Everything that decides how parameters change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Training {
    /// Passes over the training rows.
    pub epochs: u32,
    /// Examples a step. The last batch of an epoch may be smaller.
    pub batch_size: u32,
    /// The rule that turns gradients into steps.
    pub optimizer: Optimizer,
    /// How the learning rate changes.
    #[serde(default)]
    pub schedule: Schedule,
    /// Pulls weights to zero: added to the gradients (`weight_decay * w`), except with `adamw`, which
    /// subtracts `learning_rate * weight_decay * w` from the weights (Loshchilov and Hutter 2017).
    #[serde(default)]
    pub weight_decay: f64,
    /// Ends the trial when it no longer gets better.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub early_stop: Option<EarlyStop>,
    /// What "better" means: which epoch's parameters the trial keeps.
    #[serde(default)]
    pub objective: Objective,
}

/// The rule that turns gradients into steps; the same update formulas as PyTorch's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Optimizer {
    /// `w -= lr * g`.
    Sgd {
        /// Step size.
        learning_rate: f64,
    },
    /// `v = momentum * v + g; w -= lr * v`.
    Momentum {
        /// Step size.
        learning_rate: f64,
        /// How much of the last step goes on.
        #[serde(default = "nine_tenths")]
        momentum: f64,
    },
    /// `v = momentum * v + g; w -= lr * (g + momentum * v)` (Sutskever et al. 2013).
    Nesterov {
        /// Step size.
        learning_rate: f64,
        /// How much of the last step goes on.
        #[serde(default = "nine_tenths")]
        momentum: f64,
    },
    /// Adam (Kingma and Ba 2014).
    Adam {
        /// Step size.
        learning_rate: f64,
        /// Decay of the mean of gradients.
        #[serde(default = "nine_tenths")]
        beta1: f64,
        /// Decay of the mean of squared gradients.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root.
        #[serde(default = "adam_epsilon")]
        epsilon: f64,
    },
    /// Adam with decoupled weight decay (Loshchilov and Hutter 2017).
    Adamw {
        /// Step size.
        learning_rate: f64,
        /// Decay of the mean of gradients.
        #[serde(default = "nine_tenths")]
        beta1: f64,
        /// Decay of the mean of squared gradients.
        #[serde(default = "beta2")]
        beta2: f64,
        /// Added to the root.
        #[serde(default = "adam_epsilon")]
        epsilon: f64,
    },
}

/// How the learning rate changes, step by step. `t` is the position in epochs, as a fraction.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Schedule {
    /// It does not.
    #[default]
    Constant,
    /// `lr * decay ^ t`.
    Exponential {
        /// Factor an epoch, above 0, at most 1.
        decay: f64,
    },
    /// `minimum + (lr - minimum) * (1 + cos(pi * t / epochs)) / 2` (Loshchilov and Hutter 2016,
    /// without restarts).
    Cosine {
        /// The last step's rate.
        #[serde(default)]
        minimum: f64,
    },
}

/// Ends a trial after `patience` epochs that did not improve the objective by `min_delta`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// Epochs without improvement.
    pub patience: u32,
    /// What counts as one.
    #[serde(default)]
    pub min_delta: f64,
}

/// A metric that is made small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Objective {
    /// The share of validation rows that are labelled wrongly.
    #[default]
    ValidationError,
    /// The mean cross-entropy on the validation rows.
    ValidationLoss,
}

impl Objective {
    /// Its name in study files and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ValidationError => "validation_error",
            Self::ValidationLoss => "validation_loss",
        }
    }
}

impl Optimizer {
    /// The step size before any schedule.
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Sgd { learning_rate }
            | Self::Momentum { learning_rate, .. }
            | Self::Nesterov { learning_rate, .. }
            | Self::Adam { learning_rate, .. }
            | Self::Adamw { learning_rate, .. } => *learning_rate,
        }
    }
}

impl Training {
    /// Checks every number.
    ///
    /// # Errors
    /// The first one out of range, by its key.
    pub fn check(&self) -> Result<(), Problem> {
        let in_range = |key: &str, value: f64, good: bool, accepted: &str| {
            if good { Ok(()) } else { Err(Problem::new(format!("training.{key}"), value, accepted)) }
        };
        let unit =
            |key: &str, value: f64| in_range(key, value, (0.0..1.0).contains(&value), "0 to below 1 is accepted");
        let positive = |key: &str, value: f64| {
            in_range(key, value, value > 0.0 && value <= 1e6, "a number above 0, at most 1e6, is accepted")
        };
        in_range("epochs", self.epochs.into(), (1..=100_000).contains(&self.epochs), "1 to 100000 is accepted")?;
        in_range(
            "batch_size",
            self.batch_size.into(),
            (1..=65_536).contains(&self.batch_size),
            "1 to 65536 is accepted",
        )?;
        in_range("weight_decay", self.weight_decay, (0.0..=1e3).contains(&self.weight_decay), "0 to 1000 is accepted")?;
        positive("optimizer.learning_rate", self.optimizer.learning_rate())?;
        match self.optimizer {
            Optimizer::Sgd { .. } => {}
            Optimizer::Momentum { momentum, .. } | Optimizer::Nesterov { momentum, .. } => {
                unit("optimizer.momentum", momentum)?;
            }
            Optimizer::Adam { beta1, beta2, epsilon, .. } | Optimizer::Adamw { beta1, beta2, epsilon, .. } => {
                unit("optimizer.beta1", beta1)?;
                unit("optimizer.beta2", beta2)?;
                positive("optimizer.epsilon", epsilon)?;
            }
        }
        match self.schedule {
            Schedule::Constant => {}
            Schedule::Exponential { decay } => {
                in_range(
                    "schedule.decay",
                    decay,
                    decay > 0.0 && decay <= 1.0,
                    "a number above 0, at most 1, is accepted",
                )?;
            }
            Schedule::Cosine { minimum } => {
                let most = self.optimizer.learning_rate();
                in_range(
                    "schedule.minimum",
                    minimum,
                    (0.0..=most).contains(&minimum),
                    "0 to the learning rate is accepted",
                )?;
            }
        }
        if let Some(stop) = &self.early_stop {
            in_range("early_stop.patience", stop.patience.into(), stop.patience >= 1, "1 or more is accepted")?;
            in_range("early_stop.min_delta", stop.min_delta, stop.min_delta >= 0.0, "0 or more is accepted")?;
        }
        Ok(())
    }
}

fn nine_tenths() -> f64 {
    0.9
}

fn beta2() -> f64 {
    0.999
}

fn adam_epsilon() -> f64 {
    1e-8
}
