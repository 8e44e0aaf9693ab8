//! A job: one message on the queue.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Batch, Trial};
use crate::names::{JobId, Name};
use crate::strict::{self, Problem};

/// One piece of work. Written as `{"id", "run", "kind", "trial" or "batch"}`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Wire", into = "Wire")]
pub struct Job {
    /// Its identity within the run, and its idempotency key: two jobs with one id give one result.
    pub id: JobId,
    /// The run it belongs to.
    pub run: Name,
    /// What to do.
    pub work: Work,
}

/// What a job asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Work {
    /// Train a network.
    Trial(Box<Trial>),
    /// Classify pictures.
    Batch(Box<Batch>),
}

/// The kinds of jobs; each has a queue of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Train a network.
    Trial,
    /// Classify pictures.
    Batch,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Trial, Self::Batch];

    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Trial => "trial",
            Self::Batch => "batch",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The form of a job in a message; `kind` says which of the two others stands there.
#[derive(Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Job")]
pub(super) struct Wire {
    /// Its identity within the run, and its idempotency key: two jobs with one id give one result.
    id: JobId,
    /// The run it belongs to.
    run: Name,
    /// Which of `trial` and `batch` stands beside it.
    kind: Kind,
    /// What to train.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    trial: Option<Box<Trial>>,
    /// What to classify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    batch: Option<Box<Batch>>,
}

impl TryFrom<Wire> for Job {
    type Error = String;

    fn try_from(wire: Wire) -> Result<Self, String> {
        let work = match (wire.kind, wire.trial, wire.batch) {
            (Kind::Trial, Some(trial), None) => Work::Trial(trial),
            (Kind::Batch, None, Some(batch)) => Work::Batch(batch),
            (kind, ..) => return Err(format!("`kind` is \"{kind}\": then exactly `{kind}` must stand beside it")),
        };
        Ok(Self { id: wire.id, run: wire.run, work })
    }
}

impl From<Job> for Wire {
    fn from(job: Job) -> Self {
        let kind = job.kind();
        let (trial, batch) = match job.work {
            Work::Trial(trial) => (Some(trial), None),
            Work::Batch(batch) => (None, Some(batch)),
        };
        Self { id: job.id, run: job.run, kind, trial, batch }
    }
}

impl Job {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        match self.work {
            Work::Trial(_) => Kind::Trial,
            Work::Batch(_) => Kind::Batch,
        }
    }

    /// Reads and checks a message's body.
    ///
    /// # Errors
    /// What is wrong, by its key.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        let job: Self = strict::json(body)?;
        job.check()?;
        Ok(job)
    }

    /// Checks every value that can be checked without the store.
    ///
    /// # Errors
    /// The first one out of range, by its key.
    pub fn check(&self) -> Result<(), Problem> {
        match &self.work {
            Work::Trial(trial) => trial.check().map_err(|problem| problem.inside("trial")),
            Work::Batch(batch) => batch.check(),
        }
    }
}
