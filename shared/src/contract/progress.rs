//! What workers say while they work. Lossy by intent: nothing may depend on it.

use std::borrow::Cow;
use std::cmp::Reverse;

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
    /// Executors it keeps. None: this is its last word.
    pub slots: u32,
    /// The kinds of jobs it takes.
    pub kinds: Vec<Kind>,
    /// It takes no more jobs, and ends when those in hand are passed on.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub draining: bool,
    /// Jobs it has in hand; of more than 512 those that it has had longest.
    pub running: Vec<Running>,
    /// Jobs it has settled since it started.
    pub settled: u64,
    /// When this was sent.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
}

impl Heartbeat {
    /// So many jobs are named at most: a heartbeat stays far below a message's limit.
    pub const MOST_NAMED: usize = 512;

    /// Whether it names every job that its worker has in hand.
    pub fn names_all(&self) -> bool {
        self.running.len() < Self::MOST_NAMED
    }

    /// What is sent of it. A job that is named once is named as long as it runs: no other has run longer then.
    pub(crate) fn cut(&self) -> Cow<'_, Self> {
        if self.names_all() {
            return Cow::Borrowed(self);
        }
        let mut cut = self.clone();
        cut.running.sort_by_key(|job| Reverse(job.for_ms));
        cut.running.truncate(Self::MOST_NAMED);
        Cow::Owned(cut)
    }
}

/// A job in a worker's hands.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::MAX_MESSAGE;

    #[test]
    fn a_heartbeat_of_very_many_jobs_fits_a_message_and_names_the_oldest() {
        let longest = |n: u64| format!("{n:0>64}");
        let running = (0..2000).map(|n| Running {
            id: JobId::new(longest(n)).expect("an id"),
            run: Name::new("r".repeat(64)).expect("a name"),
            kind: Kind::Trial,
            for_ms: u64::MAX - n,
        });
        let heartbeat = Heartbeat {
            worker: "w".into(),
            host: "h".into(),
            pid: 1,
            version: "0".into(),
            slots: 64,
            kinds: Kind::ALL.to_vec(),
            draining: false,
            running: running.rev().collect(),
            settled: 0,
            at: Timestamp::UNIX_EPOCH,
        };
        let cut = heartbeat.cut();
        assert!(!cut.names_all() && cut.running.len() == Heartbeat::MOST_NAMED);
        assert_eq!(cut.running[0].id.as_str(), longest(0));
        assert!(serde_json::to_vec(&cut).expect("plain data").len() < MAX_MESSAGE);
        let few = Heartbeat { running: heartbeat.running[..3].to_vec(), ..heartbeat };
        assert!(few.names_all() && *few.cut() == few);
    }
}
