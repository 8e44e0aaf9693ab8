//! The workers that are ours: how each stands between its start and its end, and when the next may be tried after some
//! have died.

use std::time::Duration;

use shared::contract::Spare;

/// How long a backend may take to list what was started.
pub(super) const LISTED_WITHIN: Duration = Duration::from_secs(10);
/// A worker that was told to end has ten seconds of its own; what runs on much longer hangs.
pub(super) const ENDS_WITHIN: Duration = Duration::from_secs(30);
/// How long a worker is silent before it is ended: its broker has given its jobs to others long ago.
pub(super) const GONE: Duration = Duration::from_secs(60);
/// How often the word is said again while there is no answer.
pub(super) const SAY_EVERY: Duration = Duration::from_secs(2);
/// How often it is said.
pub(super) const SAYS: u32 = 4;
/// Who had a job is left alone for so long.
pub(super) const LET_WORK: Duration = Duration::from_secs(5);

/// One of ours.
#[derive(Debug, Clone)]
pub(super) struct Mate {
    /// Its pool's number; `None` where its pool is no more.
    pub(super) pool: Option<usize>,
    /// When it was started or found, or when not hearing it began to be its own fault.
    pub(super) since: Duration,
    /// Whether it has been heard.
    pub(super) heard: bool,
    /// Whether the backend has listed it.
    pub(super) listed: bool,
    /// When it last refused to leave, or did not answer.
    pub(super) stayed: Option<Duration>,
    pub(super) stage: Stage,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Stage {
    /// It works, or starts.
    Up,
    /// It was asked to leave and has not answered.
    Asked { spare: Spare, said: Duration, times: u32 },
    /// It leaves: it was asked, or somebody else told it.
    Leaving { since: Duration, asked: Option<Spare>, raced: bool },
    /// It was told to end since it does not work.
    Stopped { since: Duration },
    /// It was killed.
    Killed,
}

impl Mate {
    pub(super) fn new(pool: Option<usize>, now: Duration) -> Self {
        Self { pool, since: now, heard: false, listed: false, stayed: None, stage: Stage::Up }
    }

    /// Whether it is there to stay.
    pub(super) fn is_up(&self) -> bool {
        matches!(self.stage, Stage::Up | Stage::Asked { .. })
    }

    /// Whether it starts, and has not failed to: so long it counts for what it will do.
    pub(super) fn is_starting(&self, now: Duration, limit: Duration) -> bool {
        !self.heard && now.saturating_sub(self.since) <= limit
    }
}

/// Waits between tries where workers die.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    row: u32,
    last: Duration,
    /// Not before then.
    pub(super) until: Duration,
}

impl Backoff {
    const LONGEST: Duration = Duration::from_secs(60);

    /// Some died, at once or one alone. The first is replaced at once; then the waits double, until nobody has failed for
    /// longer than such a wait and a start may take.
    pub(super) fn fail(&mut self, now: Duration, start_limit: Duration) {
        if self.row > 0 && self.last == now {
            return;
        }
        let quiet = now.saturating_sub(self.until.max(self.last));
        if self.row > 0 && quiet > Self::LONGEST + start_limit {
            self.row = 0;
        }
        self.row += 1;
        self.last = now;
        let wait = match self.row {
            1 => Duration::ZERO,
            row => Duration::from_secs(1 << (row - 2).min(6)).min(Self::LONGEST),
        };
        self.until = now + wait;
    }

    /// The clock was set back: what lies far ahead of it is no wait of ours.
    pub(super) fn not_later_than(&mut self, now: Duration) {
        self.last = self.last.min(now);
        self.until = self.until.min(now + Self::LONGEST);
    }

    /// How many died in a row.
    pub(super) fn row(&self) -> u32 {
        self.row
    }
}
