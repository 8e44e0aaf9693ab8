//! What workers say while they work. Lossy by intent: nothing may depend on it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EpochMetrics, Kind};
use crate::names::{JobId, Name};

/// A job moved on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Progress {
    /// The job.
    pub id: JobId,
    /// Its run.
    pub run: Name,
    /// The worker.
    pub worker: String,
    /// Share of the job that is done, 0 to 1.
    pub fraction: f64,
    /// The epoch that has just ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<EpochMetrics>,
}

/// A worker is alive; sent every few seconds and whenever what it holds changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    /// Its name, unique in the fleet.
    pub worker: String,
    /// The host it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// Executors it keeps.
    pub slots: u32,
    /// Jobs it computes.
    pub running: Vec<Running>,
    /// Jobs it has settled since it started.
    pub settled: u64,
    /// When this was sent.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
}

/// A job in an executor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Running {
    /// The job.
    pub id: JobId,
    /// Its run.
    pub run: Name,
    /// Its kind.
    pub kind: Kind,
    /// Since when, in milliseconds.
    pub for_ms: u64,
}
