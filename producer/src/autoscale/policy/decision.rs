//! What the policy is told, and what it says.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;
use shared::contract::{Kind, Spare};

/// What was seen at one moment. Heartbeats are told to the policy one by one.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// Jobs that nobody has taken, by kind.
    pub ready: BTreeMap<Kind, u64>,
    /// Consumers of the queues of jobs: who they are only heartbeats tell.
    pub consumers: u64,
    /// The workers of ours that there are, also those that have ended.
    pub members: Vec<Member>,
}

/// A worker of ours, as whatever started it sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The worker's name.
    pub name: String,
    /// Its pool.
    pub pool: String,
    /// Whether it runs.
    pub state: State,
}

/// Whether a worker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs, or starts.
    Runs,
    /// It has ended.
    Ended {
        /// Whether it ended well.
        well: bool,
        /// How, in words.
        how: String,
    },
}

/// Something to do, or to leave, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// What.
    pub action: Action,
    /// Why, for programs.
    pub cause: Cause,
    /// Why, for people.
    pub why: String,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start a worker.
    Start {
        /// Of this pool.
        pool: String,
        /// Under this name.
        worker: String,
        /// The kinds that it takes, the one that waits for it first.
        kinds: Vec<Kind>,
    },
    /// Ask a worker to leave if it has so little in hand.
    Ask {
        /// Which.
        worker: String,
        /// How little.
        spare: Spare,
    },
    /// Tell a worker that cannot be asked to end (SIGTERM).
    Stop {
        /// Which.
        worker: String,
    },
    /// End a worker at once (SIGKILL).
    Kill {
        /// Which.
        worker: String,
    },
    /// Put away what is left of a worker that has ended.
    Remove {
        /// Which.
        worker: String,
    },
    /// Nothing: a worker that ran already is one of ours again.
    Adopt {
        /// Which.
        worker: String,
    },
    /// Nothing, for now.
    Wait {
        /// In this pool; in all without one.
        pool: Option<String>,
    },
}

impl Action {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Start { .. } => "start",
            Self::Ask { .. } => "ask",
            Self::Stop { .. } => "stop",
            Self::Kill { .. } => "kill",
            Self::Remove { .. } => "remove",
            Self::Adopt { .. } => "adopt",
            Self::Wait { .. } => "wait",
        }
    }

    /// The worker that it is about.
    pub fn worker(&self) -> Option<&str> {
        match self {
            Self::Start { worker, .. }
            | Self::Ask { worker, .. }
            | Self::Stop { worker }
            | Self::Kill { worker }
            | Self::Remove { worker }
            | Self::Adopt { worker } => Some(worker),
            Self::Wait { .. } => None,
        }
    }
}

/// Why something is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// There is more to do than slots.
    Backlog,
    /// There are fewer workers than there always should be.
    Minimum,
    /// There have been too many workers for long enough.
    Surplus,
    /// It left as it was asked, or as somebody else told it.
    Left,
    /// It ended and nobody had asked it.
    Died,
    /// It has not said a word since it was started.
    Mute,
    /// It has not been heard for too long.
    Silent,
    /// It does not end.
    Hung,
    /// It could not be started.
    Failed,
    /// It was there before this autoscaler.
    Found,
    /// No more workers are allowed.
    Bound,
    /// Workers die: the next one is tried later.
    Backoff,
    /// Too many workers, but none that nobody would miss.
    Busy,
    /// The queue has not been seen, or the workers not been heard, for long enough.
    Unseen,
    /// The broker takes no messages: workers that work cannot be heard.
    Blocked,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.serialize(f)
    }
}

/// A pool's figures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figures {
    /// The pool.
    pub pool: String,
    /// Workers that it should have for what there is to do now.
    pub desired: u32,
    /// Workers that there are, with those that start or leave.
    pub actual: u32,
}

/// What the policy says to one look.
#[derive(Debug, Clone, Default)]
pub struct Turn {
    /// What to do, in this order.
    pub decisions: Vec<Decision>,
    /// Every pool.
    pub pools: Vec<Figures>,
    /// Jobs that nobody has taken.
    pub ready: u64,
    /// Jobs in workers' hands, as far as they were heard.
    pub in_flight: u64,
}

/// What became of what was asked, since the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// Workers that left as they were asked.
    pub accepted: u64,
    /// Workers that had a job by then, and worked on.
    pub refused: u64,
    /// Of those that left, those that a job met while they did: it was passed on.
    pub raced: u64,
    /// Workers that did not answer.
    pub unanswered: u64,
}

/// A time as people say it.
pub(super) fn said(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 0.1 {
        format!("{:.0}ms", seconds * 1e3)
    } else if seconds < 10.0 {
        format!("{seconds:.1}s")
    } else if seconds < 600.0 {
        format!("{seconds:.0}s")
    } else {
        format!("{:.0}m", seconds / 60.0)
    }
}

/// "1 worker", "2 workers".
pub(super) fn count(number: u32, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
