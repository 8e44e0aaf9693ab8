//! What came of a delivery, in one word.

/// What came of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Outcome {
    /// Its job has an outcome.
    Done,
    /// Its job has failed: by its nature, by a mistake, or with its last attempt.
    Failed,
    /// Its job, or the whole run, was cancelled.
    Cancelled,
    /// Its slice is over; the next one was published.
    Paused,
    /// It failed and will be tried again.
    Retried,
    /// It goes to another worker as it was: this one ends, or has too much in hand.
    PassedOn,
    /// There was nothing to do: somebody else had done it.
    #[default]
    Settled,
    /// It was no job.
    Unreadable,
    /// It could not be settled here, and will be delivered again.
    Lost,
}

impl Outcome {
    /// Every one, in the order of the numbers.
    pub const ALL: [Self; 9] = [
        Self::Done,
        Self::Failed,
        Self::Cancelled,
        Self::Paused,
        Self::Retried,
        Self::PassedOn,
        Self::Settled,
        Self::Unreadable,
        Self::Lost,
    ];

    /// Its name as a label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Paused => "paused",
            Self::Retried => "retried",
            Self::PassedOn => "passed_on",
            Self::Settled => "settled",
            Self::Unreadable => "unreadable",
            Self::Lost => "lost",
        }
    }
}
