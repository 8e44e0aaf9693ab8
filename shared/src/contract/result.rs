//! A result: what a job came to, committed once in the store and then published.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BatchOutcome, Kind, TrialOutcome};
use crate::names::{JobId, Name, ObjectRef};

/// What a job came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JobResult {
    /// The job's id.
    pub id: JobId,
    /// Its run.
    pub run: Name,
    /// Its kind.
    pub kind: Kind,
    /// How it ended.
    pub status: Status,
    /// The worker that committed it; of a `cancelled` job, the command.
    pub worker: String,
    /// Which attempt it was, from 1; 0 where it was cancelled.
    pub attempt: u32,
    /// What computed it: the SIMD path `avx512`, `avx2` or `portable`, or `cuda`; several, joined by `+`, where its slices were
    /// computed by different ones. Equal inputs give equal bits on one SIMD path and in one precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub simd: Option<String>,
    /// When it was committed.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub finished_at: Timestamp,
    /// Where the time went.
    pub durations: Durations,
    /// What it cost.
    pub costs: Cost,
    /// The outcome, by kind, of a job that is `done`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// In a message only, in place of an outcome that is too large for one: the whole result in the
    /// store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome_ref: Option<ObjectRef>,
    /// Why a job `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorReport>,
    /// Drawn by the writer, so that after a lost answer it knows its own write again.
    pub nonce: String,
}

/// How a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// With an outcome.
    Done,
    /// With an error that trying again would not heal, or after its last attempt.
    Failed,
    /// Somebody cancelled it first.
    Cancelled,
}

impl Status {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// An outcome, by kind.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// A trial's.
    Trial(Box<TrialOutcome>),
    /// A batch's.
    Batch(Box<BatchOutcome>),
}

/// Where the time went, in milliseconds, summed over all slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Durations {
    /// Fetching what was not in the cache.
    pub fetch_ms: u64,
    /// Computing.
    pub compute_ms: u64,
}

/// What a job cost, summed over all slices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Processor time of the executor, in milliseconds.
    pub cpu_ms: u64,
    /// Bytes read from the store; what the cache held costs nothing.
    pub bytes_fetched: u64,
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ErrorReport {
    /// Which sort of failure it is.
    pub code: ErrorCode,
    /// What went wrong, for people.
    pub message: String,
    /// What lay beneath, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
}

/// Sorts of failures. Which of them are tried again is decided in one place, on the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The job does not fit its dataset or model.
    InvalidJob,
    /// An object that the job names is not in the store.
    MissingObject,
    /// An object is not what its sha256 or its manifest says.
    AlteredObject,
    /// The loss became infinite or not a number: a point of the search space that does not train.
    Diverged,
    /// The executor died.
    Crashed,
    /// It died since its memory, or the machine's, was full.
    OutOfMemory,
    /// It took too long, and was ended.
    TimeLimit,
    /// Too many workers were lost with this job in hand.
    Preempted,
    /// Anything else.
    Failed,
}

impl ErrorCode {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJob => "invalid_job",
            Self::MissingObject => "missing_object",
            Self::AlteredObject => "altered_object",
            Self::Diverged => "diverged",
            Self::Crashed => "crashed",
            Self::OutOfMemory => "out_of_memory",
            Self::TimeLimit => "time_limit",
            Self::Preempted => "preempted",
            Self::Failed => "failed",
        }
    }
}

/// Bytes of each text of a report, and causes: messages quote what others wrote, and a report must fit into
/// a message whatever that was.
const LONGEST_TEXT: usize = 2 * 1024;
const MOST_CAUSES: usize = 8;

fn cut(text: &str) -> String {
    if text.len() <= LONGEST_TEXT {
        return text.to_owned();
    }
    format!("{}… ({} bytes)", &text[..text.floor_char_boundary(LONGEST_TEXT)], text.len())
}

impl ErrorReport {
    /// A report with `code` and a message.
    pub fn new(code: ErrorCode, message: &str) -> Self {
        Self { code, message: cut(message), causes: Vec::new() }
    }

    /// A report with `code` of `error` and what lies beneath it.
    pub fn of(code: ErrorCode, error: &(dyn std::error::Error + 'static)) -> Self {
        let causes = std::iter::successors(error.source(), |cause| cause.source());
        let causes = causes.take(MOST_CAUSES).map(|cause| cut(&cause.to_string())).collect();
        Self { causes, ..Self::new(code, &error.to_string()) }
    }
}

impl std::fmt::Display for ErrorReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl JobResult {
    /// The result of a job that `by` cancels.
    pub fn cancelled(run: Name, id: JobId, kind: Kind, by: String) -> Self {
        Self {
            id,
            run,
            kind,
            status: Status::Cancelled,
            worker: by,
            attempt: 0,
            simd: None,
            finished_at: Timestamp::now(),
            durations: Durations::default(),
            costs: Cost::default(),
            outcome: None,
            outcome_ref: None,
            error: None,
            nonce: uuid::Uuid::new_v4().to_string(),
        }
    }

    /// The trial's outcome, where there is one.
    pub fn trial(&self) -> Option<&TrialOutcome> {
        match &self.outcome {
            Some(Outcome::Trial(outcome)) => Some(outcome),
            _ => None,
        }
    }

    /// The batch's outcome, where there is one.
    pub fn batch(&self) -> Option<&BatchOutcome> {
        match &self.outcome {
            Some(Outcome::Batch(outcome)) => Some(outcome),
            _ => None,
        }
    }
}
