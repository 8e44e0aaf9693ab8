//! What the protocol asks, and what the world answers.

/// What the protocol wants done next. A question to the store may be answered with [`Answer::Unusable`], too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ask {
    /// Look for the run's cancel marker. Answer: [`Answer::Cancelled`], [`Answer::LookFirst`] or [`Answer::Absent`].
    LookCancelled,
    /// Look for the job's result. Answer: [`Answer::Result`] or [`Answer::Absent`].
    LookResult,
    /// Look for this slice's checkpoint. Answer: [`Answer::Checkpoint`] or [`Answer::Absent`].
    LookCheckpoint,
    /// Record in the store that a lost worker took an attempt at this slice with it, and count those. Answer:
    /// [`Answer::Preemptions`].
    RecordAttempt,
    /// Fetch and compute. Answer: [`Answer::Computed`]; or, where somebody was quicker or the job was cancelled
    /// meanwhile, or the slice's beginning is gone for that reason, what is there instead: [`Answer::Result`] or
    /// [`Answer::Checkpoint`].
    Compute,
    /// Create the result object from what was computed, or from the failure. Answer:
    /// [`Answer::Committed`] if it is ours, else [`Answer::Result`] with what stands there.
    CommitResult,
    /// Upload the tensors, create the checkpoint record. Answer: [`Answer::Checkpoint`] with who won.
    CommitCheckpoint,
    /// Publish the result that stands in the store; wait for the confirm. Answer: [`Answer::Done`].
    PublishResult,
    /// Publish the job's next slice; wait for the confirm. Answer: [`Answer::Done`].
    PublishNextSlice,
    /// Publish the job to a retry queue with these attempts; wait for the confirm. Answer: [`Answer::Done`].
    PublishRetry(Spent),
    /// Put the job away with the reason and with the attempt that was its last, unless it was put away, wait for the
    /// confirm, and note it. Answer: [`Answer::Done`].
    Bury(Option<Spent>),
    /// Acknowledge the delivery. The last step.
    Ack,
    /// Publish the same letter, for somebody else; wait for the confirm. Giving the
    /// delivery back instead would mark it as redelivered, and a stop would look like a lost worker. Answer:
    /// [`Answer::Done`].
    PublishAgain,
    /// Give the delivery back with the mark that it has, which is not counted yet. The last step.
    Release,
}

impl Ask {
    /// Every step, by name.
    pub const NAMES: [&str; 14] = [
        "LookCancelled",
        "LookResult",
        "LookCheckpoint",
        "RecordAttempt",
        "Compute",
        "CommitResult",
        "CommitCheckpoint",
        "PublishResult",
        "PublishNextSlice",
        "PublishRetry",
        "Bury",
        "PublishAgain",
        "Ack",
        "Release",
    ];

    /// Likewise, as metrics and traces have them.
    pub const LABELS: [&str; 14] = [
        "look_cancelled",
        "look_result",
        "look_checkpoint",
        "record_attempt",
        "compute",
        "commit_result",
        "commit_checkpoint",
        "publish_result",
        "publish_next_slice",
        "publish_retry",
        "bury",
        "publish_again",
        "ack",
        "release",
    ];

    /// Its name, as logs and tests have it.
    pub fn name(self) -> &'static str {
        Self::NAMES[self.number()]
    }

    /// Where it stands in [`Ask::NAMES`] and [`Ask::LABELS`].
    pub fn number(self) -> usize {
        match self {
            Self::LookCancelled => 0,
            Self::LookResult => 1,
            Self::LookCheckpoint => 2,
            Self::RecordAttempt => 3,
            Self::Compute => 4,
            Self::CommitResult => 5,
            Self::CommitCheckpoint => 6,
            Self::PublishResult => 7,
            Self::PublishNextSlice => 8,
            Self::PublishRetry(_) => 9,
            Self::Bury(_) => 10,
            Self::PublishAgain => 11,
            Self::Ack => 12,
            Self::Release => 13,
        }
    }
}

/// Which attempt was spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Spent {
    /// One more error.
    Error,
    /// One more crash.
    Crash,
}

/// What the world says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Answer {
    /// It is done.
    Done,
    /// It is not there.
    Absent,
    /// The run is cancelled or deleted.
    Cancelled,
    /// The run goes on, but its jobs may have results before anybody takes them: one was cancelled, or published again.
    LookFirst,
    /// A result stands in the store.
    Result(Found),
    /// A checkpoint of this slice stands in the store.
    Checkpoint {
        /// Whether it names this delivery's message id.
        mine: bool,
    },
    /// The result object is ours.
    Committed,
    /// Attempts at this slice that lost workers took with them, the last one included.
    Preemptions(u32),
    /// What computing came to.
    Computed(Computed),
    /// What the store holds there cannot be used: somebody damaged it. Asked for the result or for the note of a burial,
    /// it is that one; else it is what the slice needs.
    Unusable,
}

/// A result that somebody committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// The job is done, or failed by its own nature, or was cancelled.
    Settled,
    /// It failed and belongs among the dead letters, with this attempt as its last.
    Buried(Option<Spent>),
}

/// What computing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Computed {
    /// There is an outcome.
    Finished,
    /// The slice is over; there is a checkpoint to commit.
    Paused,
    /// It was stopped before there was anything to keep.
    Stopped,
    /// The run was cancelled meanwhile.
    Cancelled,
    /// It failed and would fail again; the outcome is that failure (a diverged trial).
    Hopeless,
    /// It failed and would fail again, by somebody's mistake.
    Mistaken,
    /// It failed and may go well the next time.
    Error,
    /// The executor died.
    Crash,
}
