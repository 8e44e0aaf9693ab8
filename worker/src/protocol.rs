//! What to do with a delivery, step by step: the commit protocol as pure code.
//!
//! [`Protocol`] asks, the world answers, until it asks to settle. It holds no payload and does no
//! I/O, so that the code a worker runs can also be run by a model checker. The rules it keeps:
//!
//! 1. A result is committed by a create-only write before it is published, and published before its
//!    delivery is acknowledged; whoever finds a result publishes it again, since its writer may have died.
//! 2. Slice `n + 1` is published only by the delivery that the checkpoint of slice `n` names. Its
//!    redelivery has the same message id, and so has its letter when it is passed on or tried again: nothing is
//!    lost, whoever commits late. A duplicate finds another's name and ends.
//! 3. A stop never costs an attempt; an attempt that a lost worker took with it is counted before the next begins. Until
//!    it is, the letter keeps the broker's mark: it is given back, not published again.
//! 4. A job of which the store holds something that cannot be used fails like any other: by a create-only write, which
//!    finds the result that somebody else has committed meanwhile.

use shared::contract::Kind;
use shared::queue::Attempts;

mod words;

pub use words::{Answer, Ask, Computed, Found, Spent};

/// How many attempts of each sort a job has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Budgets {
    /// Errors that the executor reported.
    pub errors: u32,
    /// Deaths of the executor.
    pub crashes: u32,
    /// Losses of the worker, of each slice.
    pub preemptions: u32,
}

impl Default for Budgets {
    /// Errors and crashes mostly come from the job itself and come again; a fleet on spot machines
    /// loses workers all the time.
    fn default() -> Self {
        Self { errors: 3, crashes: 3, preemptions: 20 }
    }
}

/// One delivery's way. Feed answers to [`Protocol::next`] until it asks to settle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Protocol {
    kind: Kind,
    redelivered: bool,
    slice: u32,
    attempts: [u32; 2],
    budgets: Budgets,
    asked: Option<Ask>,
    /// Where the result that stands there, or is to, leaves the job.
    found: Found,
    /// A lost worker took an attempt with it that may not be recorded.
    unrecorded: bool,
}

impl Protocol {
    /// The protocol of one delivery.
    pub fn new(kind: Kind, slice: u32, redelivered: bool, attempts: Attempts, budgets: Budgets) -> Self {
        let attempts = [attempts.errors, attempts.crashes];
        Self {
            kind,
            redelivered,
            slice,
            attempts,
            budgets,
            asked: None,
            found: Found::Settled,
            unrecorded: redelivered,
        }
    }

    /// The first question.
    pub fn start(&mut self) -> Ask {
        self.ask(Ask::LookCancelled)
    }

    /// The next question after `answer` to the last one.
    ///
    /// # Panics
    /// On an answer that does not belong to the question: a defect of the caller.
    pub fn next(&mut self, answer: Answer) -> Ask {
        let asked = self.asked.expect("started");
        let next = match (asked, answer) {
            (Ask::LookCancelled, Answer::Cancelled) => Ask::Ack,
            // A batch delivered for the first time has no past: nothing to look for.
            (Ask::LookCancelled, Answer::LookFirst) => Ask::LookResult,
            (Ask::LookCancelled, Answer::Absent) if self.kind == Kind::Trial || self.redelivered => Ask::LookResult,
            (Ask::LookCancelled, Answer::Absent) => Ask::Compute,

            (Ask::LookResult | Ask::CommitResult, Answer::Result(found)) => self.found(found),
            (Ask::LookResult, Answer::Absent) if self.kind == Kind::Trial => Ask::LookCheckpoint,
            (Ask::LookResult, Answer::Absent) => self.before_compute(),

            (Ask::LookCheckpoint | Ask::CommitCheckpoint, Answer::Checkpoint { mine: true }) => Ask::PublishNextSlice,
            (Ask::LookCheckpoint | Ask::CommitCheckpoint, Answer::Checkpoint { mine: false }) => Ask::Ack,
            (Ask::LookCheckpoint, Answer::Absent) => self.before_compute(),

            (Ask::RecordAttempt, Answer::Preemptions(count)) if count > self.budgets.preemptions => self.fail(None),
            (Ask::RecordAttempt, Answer::Preemptions(_)) => Ask::Compute,

            (Ask::Compute, Answer::Computed(computed)) => self.computed(computed),
            // What this slice began with is gone because somebody else has ended the slice, or the job.
            (Ask::Compute, Answer::Result(found)) => self.found(found),
            (Ask::Compute, Answer::Checkpoint { mine: true }) => Ask::PublishNextSlice,
            (Ask::Compute, Answer::Checkpoint { mine: false }) => Ask::Ack,

            (Ask::CommitResult, Answer::Committed) => Ask::PublishResult,
            (Ask::PublishResult, Answer::Done) => match self.found {
                Found::Settled => Ask::Ack,
                Found::Buried(last) => Ask::Bury(last),
            },
            (Ask::PublishNextSlice | Ask::PublishAgain | Ask::PublishRetry(_) | Ask::Bury(_), Answer::Done) => Ask::Ack,

            // No other result can be written, and there is none to publish.
            (Ask::LookResult | Ask::CommitResult, Answer::Unusable) => Ask::Bury(None),
            // Something stands where the note does, so somebody noted it.
            (Ask::Bury(_), Answer::Unusable) => Ask::Ack,
            (
                Ask::LookCancelled | Ask::LookCheckpoint | Ask::RecordAttempt | Ask::Compute | Ask::CommitCheckpoint,
                Answer::Unusable,
            ) => self.fail(None),
            (asked, answer) => unreachable!("{answer:?} is no answer to {asked:?}"),
        };
        self.ask(next)
    }

    /// In place of the first question or of an answer: this worker cannot go on (it stops, a drain has no time left, or
    /// its store or machine fails), which is no fault of the job. Whether the last question was carried out need not be
    /// known; an attempt that may have been recorded is not counted again.
    pub fn give_up(&mut self) -> Ask {
        self.ask(if self.unrecorded { Ask::Release } else { Ask::PublishAgain })
    }

    fn ask(&mut self, ask: Ask) -> Ask {
        self.asked = Some(ask);
        self.unrecorded &= ask != Ask::RecordAttempt;
        ask
    }

    /// Publishes what stands there. Whoever committed a failure may have died before it buried the job.
    fn found(&mut self, found: Found) -> Ask {
        self.found = found;
        Ask::PublishResult
    }

    fn before_compute(&self) -> Ask {
        if self.redelivered { Ask::RecordAttempt } else { Ask::Compute }
    }

    fn computed(&mut self, computed: Computed) -> Ask {
        let [errors, crashes] = self.attempts;
        match computed {
            Computed::Finished | Computed::Hopeless => Ask::CommitResult,
            Computed::Paused => Ask::CommitCheckpoint,
            Computed::Stopped => Ask::PublishAgain,
            Computed::Cancelled => Ask::Ack,
            Computed::Error if errors.saturating_add(1) < self.budgets.errors => Ask::PublishRetry(Spent::Error),
            Computed::Crash if crashes.saturating_add(1) < self.budgets.crashes => Ask::PublishRetry(Spent::Crash),
            Computed::Error => self.fail(Some(Spent::Error)),
            Computed::Crash => self.fail(Some(Spent::Crash)),
            Computed::Mistaken => self.fail(None),
        }
    }

    fn fail(&mut self, last: Option<Spent>) -> Ask {
        self.found = Found::Buried(last);
        Ask::CommitResult
    }

    /// Where the result to commit leaves the job.
    pub fn leaves(&self) -> Found {
        self.found
    }

    /// The slice this delivery is to compute.
    pub fn slice(&self) -> u32 {
        self.slice
    }
}

#[cfg(test)]
mod tests;
