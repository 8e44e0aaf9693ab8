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

    /// Its name, as logs and tests have it.
    pub fn name(self) -> &'static str {
        let at = match self {
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
        };
        Self::NAMES[at]
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
mod tests {
    use super::*;

    fn walk(protocol: &mut Protocol, answers: &[Answer]) -> Vec<Ask> {
        let mut asks = vec![protocol.start()];
        asks.extend(answers.iter().map(|answer| protocol.next(*answer)));
        asks
    }

    fn trial(redelivered: bool, attempts: Attempts) -> Protocol {
        Protocol::new(Kind::Trial, 0, redelivered, attempts, Budgets::default())
    }

    #[test]
    fn a_trial_looks_computes_commits_publishes_and_acks_in_this_order() {
        let answers = [
            Answer::Absent,
            Answer::Absent,
            Answer::Absent,
            Answer::Computed(Computed::Finished),
            Answer::Committed,
            Answer::Done,
        ];
        let asks = walk(&mut trial(false, Attempts::default()), &answers);
        let expected = [
            Ask::LookCancelled,
            Ask::LookResult,
            Ask::LookCheckpoint,
            Ask::Compute,
            Ask::CommitResult,
            Ask::PublishResult,
            Ask::Ack,
        ];
        assert_eq!(asks, expected);
    }

    #[test]
    fn a_fresh_batch_looks_for_nothing_but_the_cancel_marker() {
        let mut batch = Protocol::new(Kind::Batch, 0, false, Attempts::default(), Budgets::default());
        assert_eq!(walk(&mut batch, &[Answer::Absent]), [Ask::LookCancelled, Ask::Compute]);
    }

    #[test]
    fn a_fresh_batch_of_a_run_with_cancelled_jobs_looks_for_its_result() {
        let mut batch = Protocol::new(Kind::Batch, 0, false, Attempts::default(), Budgets::default());
        let asks = walk(&mut batch, &[Answer::LookFirst, Answer::Result(Found::Settled), Answer::Done]);
        assert_eq!(asks, [Ask::LookCancelled, Ask::LookResult, Ask::PublishResult, Ask::Ack]);
    }

    #[test]
    fn a_job_that_is_cancelled_while_it_is_computed_ends_with_the_result_that_stands_there() {
        let answers = [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Result(Found::Settled), Answer::Done];
        assert_eq!(walk(&mut trial(false, Attempts::default()), &answers)[4..], [Ask::PublishResult, Ask::Ack]);
    }

    #[test]
    fn a_found_result_is_published_again_and_acked() {
        let answers = [Answer::Absent, Answer::Result(Found::Settled), Answer::Done];
        let asks = walk(&mut trial(true, Attempts::default()), &answers);
        assert_eq!(asks[2..], [Ask::PublishResult, Ask::Ack]);
    }

    #[test]
    fn only_the_delivery_that_the_checkpoint_names_goes_on() {
        for (mine, next) in [(true, Ask::PublishNextSlice), (false, Ask::Ack)] {
            let found = walk(
                &mut trial(true, Attempts::default()),
                &[Answer::Absent, Answer::Absent, Answer::Checkpoint { mine }],
            );
            assert_eq!(found[3], next, "found, mine: {mine}");
            let answers = [
                Answer::Absent,
                Answer::Absent,
                Answer::Absent,
                Answer::Computed(Computed::Paused),
                Answer::Checkpoint { mine },
            ];
            let committed = walk(&mut trial(false, Attempts::default()), &answers);
            assert_eq!(committed[4..], [Ask::CommitCheckpoint, next], "committed, mine: {mine}");
        }
    }

    #[test]
    fn a_redelivery_counts_an_attempt_before_it_computes() {
        let answers = [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Preemptions(1)];
        let asks = walk(&mut trial(true, Attempts::default()), &answers);
        assert_eq!(asks[3..], [Ask::RecordAttempt, Ask::Compute]);
        let spent = Answer::Preemptions(Budgets::default().preemptions + 1);
        let answers =
            [Answer::Absent, Answer::Absent, Answer::Absent, spent, Answer::Committed, Answer::Done, Answer::Done];
        let asks = walk(&mut trial(true, Attempts::default()), &answers);
        assert_eq!(asks[3..], [Ask::RecordAttempt, Ask::CommitResult, Ask::PublishResult, Ask::Bury(None), Ask::Ack]);
    }

    #[test]
    fn budgets_are_counted_apart() {
        let attempts = Attempts { errors: 2, crashes: 0, preemptions: 0 };
        let computed = |computed| [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Computed(computed)];
        let last = |computed_as| *walk(&mut trial(false, attempts), &computed(computed_as)).last().expect("some");
        assert_eq!(last(Computed::Error), Ask::CommitResult);
        assert_eq!(last(Computed::Crash), Ask::PublishRetry(Spent::Crash));
    }

    #[test]
    fn a_burial_tells_the_attempt_that_was_the_last_also_of_a_result_that_was_found() {
        let attempts = Attempts { errors: 2, crashes: 2, preemptions: 0 };
        for (computed, spent) in [(Computed::Error, Spent::Error), (Computed::Crash, Spent::Crash)] {
            let answers = [
                Answer::Absent,
                Answer::Absent,
                Answer::Absent,
                Answer::Computed(computed),
                Answer::Committed,
                Answer::Done,
            ];
            assert_eq!(walk(&mut trial(false, attempts), &answers).last(), Some(&Ask::Bury(Some(spent))));
            let found = [Answer::Absent, Answer::Result(Found::Buried(Some(spent))), Answer::Done];
            assert_eq!(walk(&mut trial(true, attempts), &found).last(), Some(&Ask::Bury(Some(spent))));
        }
    }

    #[test]
    fn what_cannot_be_used_fails_the_job_unless_somebody_has_committed_a_result() {
        for at in 0..4 {
            let mut answers = vec![Answer::Absent; at];
            answers.push(Answer::Unusable);
            if at == 1 {
                assert_eq!(walk(&mut trial(false, Attempts::default()), &answers)[2..], [Ask::Bury(None)]);
                continue;
            }
            assert_eq!(walk(&mut trial(false, Attempts::default()), &answers).last(), Some(&Ask::CommitResult));
            answers.extend([Answer::Result(Found::Settled), Answer::Done]);
            let ends = walk(&mut trial(false, Attempts::default()), &answers);
            assert_eq!(ends[ends.len() - 2..], [Ask::PublishResult, Ask::Ack], "unusable: {:?}", ends[at]);
        }
    }

    #[test]
    fn a_stop_passes_on_and_a_cancel_acks() {
        let computed = |computed| [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Computed(computed)];
        let last = |how| *walk(&mut trial(false, Attempts::default()), &computed(how)).last().expect("some");
        assert_eq!(last(Computed::Stopped), Ask::PublishAgain);
        assert_eq!(last(Computed::Cancelled), Ask::Ack);
        assert_eq!(walk(&mut trial(true, Attempts::default()), &[Answer::Cancelled]).last(), Some(&Ask::Ack));
    }

    #[test]
    fn a_worker_that_cannot_go_on_passes_the_letter_on() {
        let mut fresh = trial(false, Attempts::default());
        assert_eq!(fresh.give_up(), Ask::PublishAgain, "also one that was not begun");
        fresh.start();
        assert_eq!(fresh.give_up(), Ask::PublishAgain);
        assert_eq!(fresh.next(Answer::Done), Ask::Ack);
    }

    #[test]
    fn the_mark_of_a_lost_worker_stays_until_it_is_counted() {
        let given_up_after = |answers: &[Answer]| {
            let mut again = trial(true, Attempts::default());
            let asked = *walk(&mut again, answers).last().expect("some");
            (asked, again.give_up())
        };
        let looks = [Answer::Absent, Answer::Absent, Answer::Absent, Answer::Preemptions(1)];
        assert_eq!(trial(true, Attempts::default()).give_up(), Ask::Release);
        assert_eq!(given_up_after(&looks[..2]), (Ask::LookCheckpoint, Ask::Release));
        // It may have been: twice would be a charge that nobody caused.
        assert_eq!(given_up_after(&looks[..3]), (Ask::RecordAttempt, Ask::PublishAgain));
        assert_eq!(given_up_after(&looks), (Ask::Compute, Ask::PublishAgain));
    }

    #[test]
    fn a_slice_whose_beginning_is_gone_follows_whoever_was_quicker() {
        let to = |answer| {
            let mut trial = Protocol::new(Kind::Trial, 3, false, Attempts::default(), Budgets::default());
            *walk(&mut trial, &[Answer::Absent, Answer::Absent, Answer::Absent, answer]).last().expect("some")
        };
        assert_eq!(to(Answer::Checkpoint { mine: false }), Ask::Ack);
        assert_eq!(to(Answer::Checkpoint { mine: true }), Ask::PublishNextSlice);
        assert_eq!(to(Answer::Result(Found::Settled)), Ask::PublishResult);
    }

    #[test]
    fn a_mistake_is_buried_and_a_diverged_trial_is_not() {
        let answers = |computed| {
            [
                Answer::Absent,
                Answer::Absent,
                Answer::Absent,
                Answer::Computed(computed),
                Answer::Committed,
                Answer::Done,
            ]
        };
        let last = |how| *walk(&mut trial(false, Attempts::default()), &answers(how)).last().expect("some");
        assert_eq!(last(Computed::Mistaken), Ask::Bury(None));
        assert_eq!(last(Computed::Hopeless), Ask::Ack);
    }
}
