//! One job's world: its letters, the workers that hold them, and what the store says.

use shared::contract::Kind;
use shared::queue::Attempts;
use worker::protocol::{Answer, Ask, Budgets, Computed, Found, Protocol, Spent};

/// Workers at once.
const WORKERS: usize = 2;
/// Small, so that they are spent.
const BUDGETS: Budgets = Budgets { errors: 2, crashes: 2, preemptions: 2 };

/// How much may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Bounds {
    /// The kind of the job.
    pub(crate) kind: Kind,
    /// Slices a trial needs.
    pub(crate) slices: u32,
    /// Crashes, lost connections and doubled letters.
    pub(crate) faults: u8,
    /// Times that computing fails.
    pub(crate) mishaps: u8,
    /// Drains.
    pub(crate) stops: u8,
    /// Cancellations, of the run or of the job.
    pub(crate) cancels: u8,
}

/// A step to another world.
pub(crate) struct Step {
    /// For people.
    pub(crate) name: String,
    /// Where to.
    pub(crate) to: World,
    /// Whether it is a fault, which may happen or not.
    pub(crate) is_fault: bool,
}

/// A state of everything.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct World {
    left: Bounds,
    /// Nobody meddled: no mishap, no job cancelled.
    healthy: bool,
    cancelled: bool,
    /// Workers are to look for a result first; one that looked at this a moment ago may not know.
    look: bool,
    result: Option<Stored>,
    /// Of each slice: who committed it, and whether its tensors are still there.
    checkpoints: Vec<Option<(u8, bool)>>,
    /// Attempts that were recorded in the store, of each slice.
    recorded: Vec<u32>,
    /// Connections that were lost with a letter in hand, by its slice.
    lost: Vec<u32>,
    published: bool,
    buried: bool,
    letters: Vec<Letter>,
    hands: Vec<Hand>,
    /// The next tag and the next message id.
    next: [u8; 2],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stored {
    found: Found,
    /// Slices behind it, or none for a failure or a cancellation.
    slices: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Letter {
    /// Tells letters apart.
    tag: u8,
    /// The message id, which a letter keeps when it is passed on or tried again.
    id: u8,
    slice: u32,
    errors: u32,
    crashes: u32,
    redelivered: bool,
    taken: bool,
}

/// The letter that is enqueued.
const FIRST: Letter = Letter { tag: 0, id: 0, slice: 0, errors: 0, crashes: 0, redelivered: false, taken: false };

/// A worker with a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Hand {
    letter: Letter,
    /// Whether the broker still thinks so.
    holds: bool,
    protocol: Protocol,
    ask: Ask,
    /// Fetched what the slice begins with.
    begun: bool,
    /// Computed something that is to be kept.
    outcome: bool,
}

impl World {
    /// The job was enqueued.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            left: bounds,
            healthy: true,
            cancelled: false,
            look: false,
            result: None,
            checkpoints: vec![None; bounds.slices as usize],
            recorded: vec![0; bounds.slices as usize],
            lost: vec![0; bounds.slices as usize],
            published: false,
            buried: false,
            letters: vec![FIRST],
            hands: Vec::new(),
            next: [1, 1],
        }
    }

    /// Whether there is nothing left to do.
    pub(crate) fn is_over(&self) -> bool {
        self.letters.is_empty() && self.hands.is_empty()
    }

    /// What holds at any time.
    pub(crate) fn check(&self) -> Result<(), String> {
        let spent = self.lost.iter().any(|lost| *lost > BUDGETS.preemptions);
        let problem = if self.recorded.iter().zip(&self.lost).any(|(recorded, lost)| recorded > lost) {
            "an attempt was charged that no lost worker took"
        } else if self.published && self.result.is_none() {
            "a result was published that is not in the store"
        } else if self.healthy && !spent && self.result.is_some_and(|r| r.slices.is_none()) {
            "a healthy job failed"
        } else if self.result.is_some_and(|r| r.slices.is_some_and(|slices| slices != self.checkpoints.len() as u32)) {
            "a result from another number of slices than the job needs"
        } else if self.buried && !self.result.is_some_and(|r| r.found == Found::Buried) {
            "a job lies among the dead letters and has no failure"
        } else {
            return Ok(());
        };
        Err(problem.into())
    }

    /// What holds when nothing is left to do.
    pub(crate) fn check_end(&self) -> Result<(), String> {
        match self.result {
            _ if self.cancelled => Ok(()),
            None => Err("the job is lost: no letter and no result".into()),
            Some(_) if !self.published => Err("nobody was told of the result".into()),
            Some(stored) if stored.found == Found::Buried && !self.buried => {
                Err("a failure without a dead letter".into())
            }
            Some(_) => Ok(()),
        }
    }

    /// Everything that can happen next.
    pub(crate) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        self.deliver(&mut steps);
        for at in 0..self.hands.len() {
            self.work(at, &mut steps);
        }
        if !self.is_over() {
            self.meddle(&mut steps);
        }
        for step in &mut steps {
            step.to.tidy();
        }
        steps
    }

    /// Gives worlds that differ in names only the same names: they count up in the order of the letters.
    fn tidy(&mut self) {
        self.letters
            .sort_unstable_by_key(|letter| (letter.slice, letter.errors, letter.crashes, letter.id, letter.tag));
        let letters = || self.letters.iter().chain(self.hands.iter().map(|hand| &hand.letter));
        let (tags, ids) = (Names::of(letters().map(|letter| letter.tag)), Names::of(letters().map(|letter| letter.id)));
        for letter in self.letters.iter_mut().chain(self.hands.iter_mut().map(|hand| &mut hand.letter)) {
            (letter.tag, letter.id) = (tags.name(letter.tag), ids.name(letter.id));
        }
        self.checkpoints.iter_mut().flatten().for_each(|(id, _)| *id = ids.name(*id));
        self.next = [tags.0.len() as u8, ids.0.len() as u8];
        self.hands.sort_by_key(|hand| (hand.letter.tag, hand.holds, hand.begun));
    }

    fn deliver(&self, steps: &mut Vec<Step>) {
        if self.hands.len() == WORKERS {
            return;
        }
        for at in (0..self.letters.len()).filter(|at| !self.letters[*at].taken) {
            let mut to = self.clone();
            let letter = &mut to.letters[at];
            letter.taken = true;
            let letter = *letter;
            let attempts = Attempts { errors: letter.errors, crashes: letter.crashes, preemptions: 0 };
            let mut protocol = Protocol::new(self.left.kind, letter.slice, letter.redelivered, attempts, BUDGETS);
            let ask = protocol.start();
            to.hands.push(Hand { letter, holds: true, protocol, ask, begun: false, outcome: false });
            steps.push(Step { name: format!("{} is delivered: {ask:?}", letter.tag), to, is_fault: false });
        }
    }

    /// Crashes, lost connections, doubled letters, cancellations.
    fn meddle(&self, steps: &mut Vec<Step>) {
        if self.left.faults > 0 {
            let mut fault = |name: String, change: &dyn Fn(&mut Self)| {
                let mut to = self.clone();
                to.left.faults -= 1;
                change(&mut to);
                steps.push(Step { name, to, is_fault: true });
            };
            for (at, hand) in self.hands.iter().enumerate() {
                fault(format!("{} crashes before {:?}", hand.letter.tag, hand.ask), &|to| {
                    to.give_back(at);
                    to.hands.remove(at);
                });
                if hand.holds {
                    fault(format!("{} loses its connection before {:?}", hand.letter.tag, hand.ask), &|to| {
                        to.give_back(at);
                        to.hands[at].holds = false;
                    });
                }
            }
            fault("the job is enqueued again".into(), &|to| {
                let id = to.fresh_id();
                to.publish(Letter { id, ..FIRST });
            });
        }
        if self.left.cancels > 0 && !self.cancelled {
            let mut to = self.clone();
            to.left.cancels -= 1;
            to.cancelled = true;
            steps.push(Step { name: "the run is cancelled".into(), to, is_fault: true });
            if self.result.is_none() {
                let mut to = self.clone();
                to.left.cancels -= 1;
                to.healthy = false;
                to.look = true;
                to.result = Some(Stored { found: Found::Settled, slices: None });
                steps.push(Step { name: "the job is cancelled".into(), to, is_fault: true });
            }
        }
    }

    /// The next step of a worker, with every answer that it may get.
    fn work(&self, at: usize, steps: &mut Vec<Step>) {
        let hand = &self.hands[at];
        if hand.ask == Ask::Ack {
            let mut to = self.clone();
            let hand = to.hands.remove(at);
            if hand.holds {
                to.letters.retain(|letter| letter.tag != hand.letter.tag);
            }
            return steps.push(Step { name: format!("{} Ack", hand.letter.tag), to, is_fault: false });
        }
        if hand.ask == Ask::Compute {
            return self.compute(at, steps);
        }
        if hand.ask == Ask::LookCancelled && self.look && !self.cancelled {
            let mut to = self.clone();
            to.go_on(at, Answer::LookFirst);
            steps.push(Step { name: format!("{} LookCancelled: LookFirst", hand.letter.tag), to, is_fault: false });
        }
        let waits_for_the_store = matches!(
            hand.ask,
            Ask::LookCancelled
                | Ask::LookResult
                | Ask::LookCheckpoint
                | Ask::RecordAttempt
                | Ask::CommitResult
                | Ask::CommitCheckpoint
                | Ask::Bury
        );
        if self.left.stops > 0 && waits_for_the_store {
            for done in [false, true] {
                let mut to = self.clone();
                to.left.stops -= 1;
                if done {
                    let _unheard = to.answer(at);
                }
                let hand = &mut to.hands[at];
                hand.ask = hand.protocol.give_up();
                let name = format!("{} {:?}, done: {done}, is given up", hand.letter.tag, self.hands[at].ask);
                steps.push(Step { name, to, is_fault: true });
            }
        }
        let mut to = self.clone();
        let answer = to.answer(at);
        to.go_on(at, answer);
        steps.push(Step { name: format!("{} {:?}: {answer:?}", hand.letter.tag, hand.ask), to, is_fault: false });
    }

    fn go_on(&mut self, at: usize, answer: Answer) {
        let hand = &mut self.hands[at];
        hand.ask = hand.protocol.next(answer);
    }

    /// Carries out a question and answers it, as `settle.rs` does.
    fn answer(&mut self, at: usize) -> Answer {
        let Hand { letter, ask, outcome, .. } = self.hands[at].clone();
        let slice = letter.slice as usize;
        match ask {
            Ask::LookCancelled if self.cancelled => Answer::Cancelled,
            Ask::LookCancelled => Answer::Absent,
            Ask::LookResult => match self.result {
                Some(stored) => {
                    self.drop_tensors_after(stored.found, slice);
                    Answer::Result(stored.found)
                }
                None => Answer::Absent,
            },
            Ask::LookCheckpoint => self.checkpoint(slice, letter.id).unwrap_or(Answer::Absent),
            Ask::RecordAttempt => {
                self.recorded[slice] += 1;
                Answer::Preemptions(self.recorded[slice])
            }
            Ask::CommitResult => {
                let found = if self.hands[at].protocol.buries() { Found::Buried } else { Found::Settled };
                let slices = outcome.then_some(letter.slice + 1);
                let theirs = self.result;
                let stands = *self.result.get_or_insert(Stored { found, slices });
                self.drop_tensors_after(stands.found, slice);
                theirs.map_or(Answer::Committed, |theirs| Answer::Result(theirs.found))
            }
            Ask::CommitCheckpoint => {
                self.checkpoints[slice].get_or_insert((letter.id, true));
                self.drop_tensors(slice);
                self.checkpoint(slice, letter.id).expect("just committed")
            }
            Ask::PublishResult => {
                assert!(self.result.is_some(), "published what is not there");
                self.published = true;
                Answer::Done
            }
            Ask::PublishNextSlice => {
                let id = self.fresh_id();
                self.publish(Letter { id, slice: letter.slice + 1, ..letter });
                Answer::Done
            }
            Ask::PublishRetry(Spent::Error) => {
                self.publish(Letter { errors: letter.errors + 1, ..letter });
                Answer::Done
            }
            Ask::PublishRetry(Spent::Crash) => {
                self.publish(Letter { crashes: letter.crashes + 1, ..letter });
                Answer::Done
            }
            Ask::PublishAgain => {
                self.publish(letter);
                Answer::Done
            }
            Ask::Bury => {
                self.buried = true;
                Answer::Done
            }
            Ask::Compute | Ask::Ack => unreachable!("carried out elsewhere"),
        }
    }

    /// In two steps: what the slice begins with is fetched, and later there is something.
    fn compute(&self, at: usize, steps: &mut Vec<Step>) {
        let Hand { letter, begun, .. } = self.hands[at].clone();
        let mut step = |name: &str, change: &dyn Fn(&mut Self)| {
            let mut to = self.clone();
            change(&mut to);
            steps.push(Step { name: format!("{} {name}", letter.tag), to, is_fault: false });
        };
        if !begun {
            let before = letter.slice.checked_sub(1).map(|before| self.checkpoints[before as usize]);
            return match before {
                None | Some(Some((_, true))) => step("begins", &|to| to.hands[at].begun = true),
                // Somebody was quicker: what did he leave?
                Some(_) => {
                    let stored = self.result.map(|stored| Answer::Result(stored.found));
                    let left = stored.or_else(|| self.checkpoint(letter.slice as usize, letter.id));
                    step("finds its beginning gone", &|to| {
                        to.go_on(at, left.unwrap_or(Answer::Computed(Computed::Mistaken)));
                    });
                }
            };
        }
        let is_last = letter.slice + 1 == self.checkpoints.len() as u32;
        let whole = if is_last { Computed::Finished } else { Computed::Paused };
        step(&format!("{whole:?}"), &|to| {
            to.hands[at].outcome = true;
            to.go_on(at, Answer::Computed(whole));
        });
        if self.cancelled {
            step("sees the cancellation", &|to| to.go_on(at, Answer::Computed(Computed::Cancelled)));
        }
        if let Some(stored) = self.result {
            step("sees a result", &|to| {
                to.drop_tensors_after(stored.found, letter.slice as usize);
                to.go_on(at, Answer::Result(stored.found));
            });
        }
        if self.left.stops > 0 {
            step("is stopped", &|to| {
                to.left.stops -= 1;
                to.go_on(at, Answer::Computed(Computed::Stopped));
            });
        }
        if self.left.mishaps > 0 {
            for mishap in [Computed::Error, Computed::Crash, Computed::Mistaken, Computed::Hopeless] {
                step(&format!("{mishap:?}"), &|to| {
                    to.left.mishaps -= 1;
                    to.healthy = false;
                    to.go_on(at, Answer::Computed(mishap));
                });
            }
        }
    }

    fn checkpoint(&self, slice: usize, id: u8) -> Option<Answer> {
        self.checkpoints[slice].map(|(by, _)| Answer::Checkpoint { mine: by == id })
    }

    fn drop_tensors_after(&mut self, found: Found, slice: usize) {
        if found == Found::Settled {
            self.drop_tensors(slice);
        }
    }

    /// Removes what slice `slice` began with.
    fn drop_tensors(&mut self, slice: usize) {
        if let Some(Some((_, there))) = slice.checked_sub(1).map(|before| &mut self.checkpoints[before]) {
            *there = false;
        }
    }

    fn give_back(&mut self, at: usize) {
        let hand = &self.hands[at];
        if hand.holds {
            let letter = self.letters.iter_mut().find(|letter| letter.tag == hand.letter.tag).expect("it is held");
            (letter.taken, letter.redelivered) = (false, true);
            self.lost[hand.letter.slice as usize] += 1;
        }
    }

    fn publish(&mut self, letter: Letter) {
        let tag = self.next[0];
        self.next[0] += 1;
        self.letters.push(Letter { tag, redelivered: false, taken: false, ..letter });
    }

    fn fresh_id(&mut self) -> u8 {
        self.next[1] += 1;
        self.next[1] - 1
    }
}

/// New names for old ones: their positions. What nobody names any more has one name.
struct Names(Vec<u8>);

impl Names {
    fn of(names: impl Iterator<Item = u8>) -> Self {
        let mut seen = Vec::new();
        for name in names {
            if !seen.contains(&name) {
                seen.push(name);
            }
        }
        Self(seen)
    }

    fn name(&self, name: u8) -> u8 {
        self.0.iter().position(|seen| *seen == name).map_or(u8::MAX, |at| at as u8)
    }
}
