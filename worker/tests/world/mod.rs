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
    /// Objects of the job's that somebody damages.
    pub(crate) damages: u8,
    /// Dead letters that are put back.
    pub(crate) replays: u8,
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
    /// Nobody meddled: no mishap, no job cancelled, nothing damaged.
    healthy: bool,
    /// Times that a letter was doubled, or may have been: what was enqueued again, lost, or put back.
    doubled: u8,
    /// A dead letter was put back.
    was_replayed: bool,
    cancelled: bool,
    /// Workers are to look for a result first; one that looked at this a moment ago may not know.
    look: bool,
    result: Option<Stored>,
    /// Of each slice.
    checkpoints: Vec<Option<Checkpoint>>,
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
struct Checkpoint {
    /// The message id of who committed it.
    by: u8,
    /// Whether its tensors are still there.
    tensors: bool,
    /// Whether its record cannot be read.
    damaged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Stored {
    found: Found,
    /// Slices behind it, or none for a failure or a cancellation.
    slices: Option<u32>,
    /// Whether it cannot be read.
    damaged: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Letter {
    /// Tells letters apart.
    tag: u8,
    /// The message id, which a letter keeps when it is passed on or tried again.
    id: u8,
    /// The message id of the letter that published it as its next slice.
    from: u8,
    slice: u32,
    errors: u32,
    crashes: u32,
    redelivered: bool,
    taken: bool,
}

/// No message id, or one that no letter has any more.
const NOBODY: u8 = u8::MAX;

/// The letter that is enqueued.
const FIRST: Letter =
    Letter { tag: 0, id: 0, from: NOBODY, slice: 0, errors: 0, crashes: 0, redelivered: false, taken: false };

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
    /// The result that it committed or found, where another may stand there later.
    result: Option<Stored>,
}

impl World {
    /// The job was enqueued.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            left: bounds,
            healthy: true,
            doubled: 0,
            was_replayed: false,
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
        } else if self.healthy && !spent && self.result.is_some_and(|r| r.slices.is_none()) {
            "a healthy job failed"
        } else if self.result.is_some_and(|r| r.slices.is_some_and(|slices| slices != self.checkpoints.len() as u32)) {
            "a result from another number of slices than the job needs"
        } else if self.buried && !self.was_replayed && !self.result.is_some_and(|r| r.is_failure() || r.damaged) {
            "a job lies among the dead letters and has no failure"
        } else if let Some(problem) = self.fork() {
            problem
        } else {
            return Ok(());
        };
        Err(problem.into())
    }

    /// Whether the job goes on in two ways. A trial is one line of letters: those of its next slice come from the letter
    /// that the last checkpoint names, and there is never one more of them than losses and duplicates have made.
    fn fork(&self) -> Option<&'static str> {
        let letters = || self.letters.iter().chain(self.hands.iter().map(|hand| &hand.letter));
        for letter in letters().filter(|letter| letter.slice > 0) {
            let before = self.checkpoints[letter.slice as usize - 1];
            if before.is_none_or(|before| before.by != letter.from) {
                return Some("a slice goes on from a letter that the checkpoint before it does not name");
            }
            if letter.id == letter.from {
                return Some("two slices have one message id");
            }
        }
        // Those that are behind the last checkpoint or have a result come to nothing.
        let open = self.checkpoints.iter().take_while(|checkpoint| checkpoint.is_some()).count();
        let mut live: Vec<u8> =
            letters().filter(|letter| letter.slice as usize == open).map(|letter| letter.id).collect();
        live.sort_unstable();
        live.dedup();
        (self.result.is_none() && live.len() > 1 + usize::from(self.doubled)).then_some("a trial has forked")
    }

    /// What holds when nothing is left to do.
    pub(crate) fn check_end(&self) -> Result<(), String> {
        match self.result {
            _ if self.cancelled => Ok(()),
            None => Err("the job is lost: no letter and no result".into()),
            Some(stored) if stored.damaged => match self.published || self.buried {
                true => Ok(()),
                false => Err("nobody was told of a result that cannot be read".into()),
            },
            Some(_) if !self.published => Err("nobody was told of the result".into()),
            Some(stored) if stored.is_failure() && !self.buried => Err("a failure without a dead letter".into()),
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
        self.replay(&mut steps);
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
        let tags = Names::of(letters().map(|letter| letter.tag));
        let named = self.checkpoints.iter().flatten().map(|checkpoint| checkpoint.by);
        let ids = Names::of(letters().map(|letter| letter.id).chain(named));
        for letter in self.letters.iter_mut().chain(self.hands.iter_mut().map(|hand| &mut hand.letter)) {
            (letter.tag, letter.id, letter.from) = (tags.name(letter.tag), ids.name(letter.id), ids.name(letter.from));
        }
        self.checkpoints.iter_mut().flatten().for_each(|checkpoint| checkpoint.by = ids.name(checkpoint.by));
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
            to.hands.push(Hand { letter, holds: true, protocol, ask, begun: false, outcome: false, result: None });
            steps.push(Step { name: format!("{} is delivered: {ask:?}", letter.tag), to, is_fault: false });
        }
    }

    /// Crashes, lost connections, doubled letters, cancellations, damages, replays.
    fn meddle(&self, steps: &mut Vec<Step>) {
        if self.left.faults > 0 {
            let mut fault = |name: String, change: &dyn Fn(&mut Self)| {
                let mut to = self.clone();
                to.left.faults -= 1;
                to.doubled += 1;
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
                to.result = Some(Stored { found: Found::Settled, slices: None, damaged: false });
                steps.push(Step { name: "the job is cancelled".into(), to, is_fault: true });
            }
        }
        if self.left.damages > 0 {
            let mut damage = |name: String, change: &dyn Fn(&mut Self)| {
                let mut to = self.clone();
                to.left.damages -= 1;
                to.healthy = false;
                change(&mut to);
                steps.push(Step { name, to, is_fault: true });
            };
            if self.result.is_some_and(|stored| !stored.damaged) {
                damage("the result is damaged".into(), &|to| to.result.as_mut().expect("there").damaged = true);
            }
            for (slice, _) in self.checkpoints.iter().enumerate().filter(|(_, at)| at.is_some_and(|at| !at.damaged)) {
                damage(format!("the record of slice {slice} is damaged"), &|to| {
                    to.checkpoints[slice].as_mut().expect("there").damaged = true;
                });
            }
        }
    }

    /// The dead letter is put back, as `gannet dead replay` does.
    fn replay(&self, steps: &mut Vec<Step>) {
        let last = self.checkpoints.iter().rposition(Option::is_some);
        let is_refused = self.cancelled
            || self.result.is_some_and(|stored| stored.damaged || stored.slices.is_some() || stored.cancelled())
            || last.is_some_and(|last| self.checkpoints[last].expect("there").damaged);
        if self.left.replays == 0 || !self.buried || is_refused {
            return;
        }
        let mut to = self.clone();
        to.left.replays -= 1;
        to.doubled += 1;
        (to.was_replayed, to.buried, to.published, to.result) = (true, false, false, None);
        to.recorded.fill(0);
        let goes_on = last.and_then(|last| self.checkpoints[last].filter(|at| at.tensors).map(|at| (last, at.by)));
        let id = to.fresh_id();
        match goes_on {
            Some((last, by)) => to.publish(Letter { id, from: by, slice: last as u32 + 1, ..FIRST }),
            None => {
                to.checkpoints.fill(None);
                to.publish(Letter { id, ..FIRST });
            }
        }
        steps.push(Step { name: "the dead letter is put back".into(), to, is_fault: true });
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
        if hand.ask == Ask::Release {
            let mut to = self.clone();
            let hand = to.hands.remove(at);
            if let Some(letter) = to.letters.iter_mut().find(|letter| hand.holds && letter.tag == hand.letter.tag) {
                letter.taken = false;
            }
            return steps.push(Step { name: format!("{} Release", hand.letter.tag), to, is_fault: false });
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
                | Ask::Bury(_)
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
                Some(stored) if stored.damaged => Answer::Unusable,
                Some(stored) => {
                    self.drop_tensors_after(stored.found, slice);
                    self.remember(at, stored);
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
                let found = self.hands[at].protocol.leaves();
                let slices = outcome.then_some(letter.slice + 1).filter(|_| found == Found::Settled);
                let theirs = self.result;
                let stands = *self.result.get_or_insert(Stored { found, slices, damaged: false });
                if stands.damaged {
                    return Answer::Unusable;
                }
                self.drop_tensors_after(stands.found, slice);
                self.remember(at, stands);
                theirs.map_or(Answer::Committed, |theirs| Answer::Result(theirs.found))
            }
            Ask::CommitCheckpoint => {
                let mine = Checkpoint { by: letter.id, tensors: true, damaged: false };
                self.checkpoints[slice].get_or_insert(mine);
                let answer = self.checkpoint(slice, letter.id).expect("just committed");
                if answer != Answer::Unusable {
                    self.drop_tensors(slice);
                }
                answer
            }
            Ask::PublishResult => {
                // A word about a failure whose dead letter was put back meanwhile is a late one.
                let told = self.hands[at].result.or(self.result).expect("committed or found before it is published");
                self.published |=
                    self.result.is_some_and(|stored| stored.found == told.found && stored.slices == told.slices);
                assert!(self.published || self.was_replayed, "a result was published that is not in the store");
                Answer::Done
            }
            Ask::PublishNextSlice => {
                let id = self.fresh_id();
                self.publish(Letter { id, from: letter.id, slice: letter.slice + 1, ..letter });
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
            Ask::Bury(_) => {
                self.buried = true;
                Answer::Done
            }
            Ask::Compute | Ask::Ack | Ask::Release => unreachable!("carried out elsewhere"),
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
                Some(Some(Checkpoint { damaged: true, .. })) => {
                    step("finds its beginning damaged", &|to| to.go_on(at, Answer::Unusable));
                }
                None | Some(Some(Checkpoint { tensors: true, .. })) => {
                    step("begins", &|to| to.hands[at].begun = true);
                }
                // Somebody was quicker: what did he leave?
                Some(_) => {
                    let left = self.answer_of_result().or_else(|| self.checkpoint(letter.slice as usize, letter.id));
                    step("finds its beginning gone", &|to| {
                        to.result.into_iter().for_each(|stored| to.remember(at, stored));
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
        // One that cannot be read is not seen.
        if let Some(stored) = self.result.filter(|stored| !stored.damaged) {
            step("sees a result", &|to| {
                to.result.into_iter().for_each(|stored| to.remember(at, stored));
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

    fn remember(&mut self, at: usize, stored: Stored) {
        if self.left.replays > 0 || self.was_replayed {
            self.hands[at].result = Some(stored);
        }
    }

    fn answer_of_result(&self) -> Option<Answer> {
        self.result.map(|stored| if stored.damaged { Answer::Unusable } else { Answer::Result(stored.found) })
    }

    fn checkpoint(&self, slice: usize, id: u8) -> Option<Answer> {
        self.checkpoints[slice].map(
            |Checkpoint { by, damaged, .. }| {
                if damaged { Answer::Unusable } else { Answer::Checkpoint { mine: by == id } }
            },
        )
    }

    fn drop_tensors_after(&mut self, found: Found, slice: usize) {
        if found == Found::Settled {
            self.drop_tensors(slice);
        }
    }

    /// Removes what slice `slice` began with.
    fn drop_tensors(&mut self, slice: usize) {
        let Some(before) = slice.checked_sub(1) else { return };
        // Without its record nobody knows where they lie.
        if let Some(before) = self.checkpoints[before].as_mut().filter(|before| !before.damaged) {
            before.tensors = false;
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

impl Stored {
    fn is_failure(self) -> bool {
        matches!(self.found, Found::Buried(_))
    }

    /// Somebody cancelled the job, or a trial diverged, which this world does not tell apart.
    fn cancelled(self) -> bool {
        self.found == Found::Settled && self.slices.is_none()
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
        self.0.iter().position(|seen| *seen == name).map_or(NOBODY, |at| at as u8)
    }
}
