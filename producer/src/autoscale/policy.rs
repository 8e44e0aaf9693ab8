//! How many workers there should be: pure code, told what is seen and what time it is, which says what to do and why.
//!
//! - **Out at once.** As many slots as clear what is ready and in hand within [`Pool::clear_within`], never more than jobs.
//! - **In late.** Only what was too much all through [`Pool::idle`], and only workers with nothing in hand, or with slices
//!   that have just begun; the worker itself has the last word (`Control::Drain`, `only_if`).
//! - **Nothing on silence.** Whoever does not see the queue, or has just begun to hear the workers, ends nobody. Where the
//!   broker takes no messages nobody is silent ([`Policy::blocked`]); who is quiet is asked first ([`Policy::is_quiet`]).
//!
//! Time is what has passed since some beginning. Should it jump, or nothing be seen for a while, the policy listens anew
//! before it takes anybody for silent or idle.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use shared::contract::{Heartbeat, Spare};

use self::crew::{Backoff, Mate, Stage};
use self::durations::Durations;
use self::roster::{QUIET, Roster};
use super::pool::{Pool, START_LIMIT};
use crate::workers::ALL_HEARD;

mod crew;
mod decision;
mod durations;
mod life;
mod need;
mod roster;
mod size;
#[cfg(test)]
mod tests;

pub use decision::{Action, Answers, Cause, Decision, Figures, Look, Member, State, Turn};

/// Looks that lie further apart show nothing of what was in between.
const GAP: Duration = Duration::from_secs(5);

/// Decides.
#[derive(Debug)]
pub struct Policy {
    pools: Vec<PoolState>,
    /// Workers at most, of all pools.
    total: Option<u32>,
    /// The beginning of the names of the workers that it starts.
    prefix: String,
    started: u64,
    crew: BTreeMap<String, Mate>,
    roster: Roster,
    durations: Durations,
    answers: Answers,
    /// When it looked last.
    looked: Option<Duration>,
    /// Everybody who is there has been heard by then.
    all_heard: Duration,
    /// What the last turns needed.
    last_needs: Vec<u32>,
}

#[derive(Debug)]
struct PoolState {
    pool: Pool,
    backoff: Backoff,
    /// Largest needs of the last [`Pool::idle`]: times rise, needs fall.
    needs: VecDeque<(Duration, u32)>,
    /// Since when needs are known without a gap.
    needs_since: Duration,
}

impl PoolState {
    /// Notes what is needed now; returns the most that was within the last [`Pool::idle`].
    fn note(&mut self, now: Duration, need: u32) -> u32 {
        while self.needs.back().is_some_and(|(_, earlier)| *earlier <= need) {
            self.needs.pop_back();
        }
        self.needs.push_back((now, need));
        // The one that stands for the beginning of the window stays: it held until the next was noted.
        while self.needs.len() > 1 && self.needs[0].0 + self.pool.idle < now {
            self.needs.pop_front();
        }
        self.needs[0].1
    }

    /// Workers of this pool have died.
    fn fail(&mut self, now: Duration) {
        self.backoff.fail(now, self.pool.start_limit);
    }

    /// Whether needs were seen for as long as it takes.
    fn is_stable(&self, now: Duration) -> bool {
        now.saturating_sub(self.needs_since) >= self.pool.idle
    }
}

impl Policy {
    /// A policy for these pools, one at least, which names the workers that it starts `<prefix>-<pool>-<number>`.
    pub fn new(pools: Vec<Pool>, total: Option<u32>, prefix: impl Into<String>) -> Self {
        assert!(!pools.is_empty(), "there is a pool");
        let state =
            |pool| PoolState { pool, backoff: Backoff::default(), needs: VecDeque::new(), needs_since: Duration::ZERO };
        Self {
            pools: pools.into_iter().map(state).collect(),
            total,
            prefix: prefix.into(),
            started: 0,
            crew: BTreeMap::new(),
            roster: Roster::default(),
            durations: Durations::default(),
            answers: Answers::default(),
            looked: None,
            all_heard: Duration::ZERO,
            last_needs: Vec::new(),
        }
    }

    /// What became of what was asked.
    pub fn answers(&self) -> Answers {
        self.answers
    }

    /// A worker says something.
    pub fn hear(&mut self, now: Duration, word: &Heartbeat) {
        if let Some(before) = self.roster.hear(now, word) {
            self.durations.learn(&before, word, now.saturating_sub(before.at));
        }
        let Some(mate) = self.crew.get_mut(&word.worker) else { return };
        mate.heard = true;
        let leaves = word.draining || word.slots == 0;
        match &mut mate.stage {
            Stage::Up if leaves => mate.stage = Stage::Leaving { since: now, asked: None, raced: false },
            Stage::Asked { spare, .. } if leaves => {
                self.answers.accepted += 1;
                let spare = *spare;
                let raced = spare == Spare::Idle && !word.running.is_empty();
                self.answers.raced += u64::from(raced);
                mate.stage = Stage::Leaving { since: now, asked: Some(spare), raced };
            }
            Stage::Asked { .. } if !word.running.is_empty() => {
                self.answers.refused += 1;
                mate.stayed = Some(now);
                mate.stage = Stage::Up;
            }
            Stage::Leaving { asked: Some(Spare::Idle), raced, .. } if !*raced && !word.running.is_empty() => {
                *raced = true;
                self.answers.raced += 1;
            }
            _ => {}
        }
    }

    /// Whether somebody should be heard by now and was not: whoever asks then for a word (`Control::Report`) either hears it, or
    /// hears of the broker that it takes none.
    pub fn is_quiet(&self, now: Duration) -> bool {
        let unheard = |(name, mate): (&String, &Mate)| {
            mate.stage == Stage::Up
                && !mate.heard
                && now.saturating_sub(mate.since) > QUIET
                && !self.roster.0.contains_key(name)
        };
        self.crew.iter().any(unheard) || self.roster.is_quiet(now, |name| self.crew.contains_key(name))
    }

    /// The broker takes no messages: workers' words do not come through, whatever they do. Nothing is decided, and what was not
    /// heard until the next look is nobody's silence.
    pub fn blocked(&mut self) -> Turn {
        self.looked = None;
        let why = "the broker takes no messages (its memory or its disk is short), so workers cannot be heard: nobody is started, and nobody told to leave".into();
        let decision = Decision { action: Action::Wait { pool: None }, cause: Cause::Blocked, why };
        Turn { decisions: vec![decision], ..Turn::default() }
    }

    /// How long the start of a worker of this pool may take, its first word included.
    pub fn start_limit(&self, pool: &str) -> Duration {
        let of = self.pools.iter().find(|state| state.pool.name == pool);
        of.map_or(START_LIMIT, |state| state.pool.start_limit)
    }

    fn is_starting(&self, now: Duration, mate: &Mate) -> bool {
        mate.is_starting(now, start_limit(&self.pools, mate))
    }

    /// A worker could not be started.
    pub fn could_not_start(&mut self, now: Duration, worker: &str) {
        if let Some(mate) = self.crew.remove(worker)
            && let Some(pool) = mate.pool
        {
            self.pools[pool].fail(now);
        }
    }

    /// What to do now. Without a look nothing is known, and nothing is done.
    pub fn decide(&mut self, now: Duration, look: Option<&Look>) -> Turn {
        let mut turn = Turn::default();
        let Some(look) = look else {
            let why = "the queue is not seen: nobody is started, and nobody told to leave".into();
            turn.decisions.push(Decision { action: Action::Wait { pool: None }, cause: Cause::Unseen, why });
            return turn;
        };
        if self.looked.is_none_or(|looked| now < looked || now - looked > GAP) {
            self.listen_anew(now);
        }
        self.looked = Some(now);
        turn.ready = look.ready.values().sum();
        turn.in_flight = self.roster.in_flight(now) as u64;
        self.follow(now, &look.members, &mut turn.decisions);
        self.attend(now, &mut turn.decisions);
        let needs = self.needs(now, &look.ready);
        for (number, need) in needs.iter().enumerate() {
            self.size(now, number, need, look, &mut turn.decisions);
        }
        self.retire(now, &mut turn.decisions);
        self.last_needs = needs.iter().map(|need| need.workers).collect();
        for (number, need) in needs.iter().enumerate() {
            let actual = self.crew.values().filter(|mate| mate.pool == Some(number)).count();
            let pool = self.pools[number].pool.name.clone();
            turn.pools.push(Figures { pool, desired: need.workers, actual: actual.try_into().unwrap_or(u32::MAX) });
        }
        turn
    }

    /// What would be decided now: as [`Policy::decide`], but nobody is started or asked.
    pub fn ponder(&mut self, now: Duration, look: &Look) -> Turn {
        let (crew, started) = (self.crew.clone(), self.started);
        let turn = self.decide(now, Some(look));
        // Those who are there are ours from now on, those who were only thought of are not.
        let is_there = |name: &String| look.members.iter().any(|member| member.name == *name);
        self.crew.retain(|name, _| is_there(name));
        for (name, mate) in &mut self.crew {
            mate.stage = crew.get(name).map_or(Stage::Up, |before| before.stage);
        }
        self.started = started;
        turn
    }

    /// What was not seen or heard until now is nobody's fault.
    fn listen_anew(&mut self, now: Duration) {
        self.all_heard = now + ALL_HEARD;
        self.roster.pardon(now);
        self.last_needs.clear();
        for state in &mut self.pools {
            state.needs.clear();
            state.needs_since = now;
            state.backoff.not_later_than(now);
        }
        for mate in self.crew.values_mut() {
            mate.since = now;
            mate.stayed = None;
            match &mut mate.stage {
                Stage::Asked { said: since, .. } | Stage::Leaving { since, .. } | Stage::Stopped { since } => {
                    *since = now;
                }
                Stage::Up | Stage::Killed => {}
            }
        }
    }
}

/// How long a worker may take to say its first word.
fn start_limit(pools: &[PoolState], mate: &Mate) -> Duration {
    mate.pool.map_or(START_LIMIT, |pool| pools[pool].pool.start_limit)
}
