//! A pool: workers of one sort, and how many of them there may be.

use std::time::Duration;

use shared::contract::Kind;

/// Default of [`Pool::start_limit`]: a container on a loaded machine.
pub const START_LIMIT: Duration = Duration::from_secs(60);

/// Workers of one sort.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// Its name, part of its workers' names.
    pub name: String,
    /// The kinds of jobs that its workers take.
    pub kinds: Vec<Kind>,
    /// Workers at least.
    pub min: u32,
    /// Workers at most.
    pub max: u32,
    /// Jobs that each computes at once.
    pub slots: u32,
    /// The time in which what there is to do should be done: short jobs need fewer slots than there are jobs.
    pub clear_within: Duration,
    /// For how long there must have been too many workers before one is asked to leave.
    pub idle: Duration,
    /// How long the start of a worker may take, until its first word. So long it counts for what it will do; then it has
    /// failed, is ended, and another takes its place.
    pub start_limit: Duration,
}

impl Pool {
    /// Takes every kind, one job at once, between none and `max` workers.
    pub fn new(name: impl Into<String>, max: u32) -> Self {
        Self {
            name: name.into(),
            kinds: Kind::ALL.to_vec(),
            min: 0,
            max,
            slots: 1,
            clear_within: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            start_limit: START_LIMIT,
        }
    }

    /// The share of a slot that a job takes which lasts so long, over [`Pool::clear_within`]: one at most.
    pub(super) fn share(&self, lasts: Duration) -> f64 {
        (lasts.as_secs_f64() / self.clear_within.as_secs_f64().max(1e-3)).clamp(1e-6, 1.0)
    }
}
