//! A fleet that is only calculated: a queue, workers that start, compute, beat and leave, and things that go wrong. Time goes
//! in steps; the policy is told what the real one is told, and as late.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use jiff::Timestamp;
use shared::contract::{Heartbeat, Kind, Running, Spare};
use shared::names::{JobId, Name};

use crate::autoscale::policy::{Action, Cause, Look, Member, Policy, State};
use crate::autoscale::pool::Pool;

pub(super) const STEP: Duration = Duration::from_millis(50);
const LOOK: Duration = Duration::from_millis(200);
const BEAT: Duration = Duration::from_secs(5);
const LATE_BEAT: Duration = Duration::from_millis(250);
const START: Duration = Duration::from_millis(500);

/// A job of a load.
#[derive(Debug, Clone, Copy)]
pub(super) struct Job {
    pub(super) comes: Duration,
    pub(super) kind: Kind,
    pub(super) lasts: Duration,
    /// Kills the worker that computes it, so many times.
    pub(super) kills: u32,
}

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub(super) struct Trouble {
    /// The broker is gone from, to.
    pub(super) outage: Option<(Duration, Duration)>,
    /// The broker takes no messages from, to: nobody is heard and nothing is settled, but jobs are given and depths are told.
    pub(super) alarm: Option<(Duration, Duration)>,
    /// The clock that the policy is given steps then by so many seconds.
    pub(super) steps: Vec<(Duration, i64)>,
    /// The first so many workers never say a word.
    pub(super) mute: usize,
    /// The first so many workers cannot be started.
    pub(super) refused: usize,
    /// From then on the first worker hangs: it says nothing and does nothing.
    pub(super) hang: Option<Duration>,
    /// What a start takes; half a second without.
    pub(super) start: Option<Duration>,
    /// The autoscaler is replaced by a new one then.
    pub(super) restart: Option<Duration>,
}

struct Worker {
    pool: String,
    kinds: Vec<Kind>,
    slots: usize,
    born: Duration,
    mute: bool,
    /// When it hangs.
    hangs: Duration,
    hands: Vec<(u64, Job, Duration)>,
    draining: bool,
    /// Whether it has ended, and well.
    ended: Option<bool>,
    settled: u64,
    beat: Option<Duration>,
    changed: Option<Duration>,
}

/// What came of it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) starts: usize,
    pub(super) most: usize,
    /// Workers that were told to end, or ended, with a job in hand, apart from those that a job killed.
    pub(super) busy_ended: usize,
    pub(super) worker_s: f64,
    pub(super) waits: Vec<Duration>,
    /// When the last job was done.
    pub(super) done: Duration,
    pub(super) left: usize,
    pub(super) causes: BTreeMap<String, usize>,
    /// Starts that were decided while nothing was seen.
    pub(super) blind: usize,
}

/// The calculated fleet.
pub(super) struct World {
    pools: Vec<Pool>,
    policy: Policy,
    trouble: Trouble,
    now: Duration,
    coming: VecDeque<Job>,
    ready: BTreeMap<Kind, VecDeque<(u64, Job)>>,
    next_id: u64,
    workers: BTreeMap<String, Worker>,
    restarts: usize,
    /// It has told the autoscaler of its alarm.
    is_blocked: bool,
    pub(super) outcome: Outcome,
}

impl Worker {
    fn hangs(&self, now: Duration) -> bool {
        now >= self.hangs
    }
}

impl World {
    pub(super) fn new(pools: Vec<Pool>, total: Option<u32>, mut load: Vec<Job>, trouble: Trouble) -> Self {
        load.sort_by_key(|job| job.comes);
        Self {
            policy: Policy::new(pools.clone(), total, "s0"),
            pools,
            trouble,
            now: Duration::ZERO,
            coming: load.into(),
            ready: BTreeMap::new(),
            next_id: 0,
            workers: BTreeMap::new(),
            restarts: 0,
            is_blocked: false,
            outcome: Outcome::default(),
        }
    }

    /// Lets so much time pass.
    pub(super) fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now += STEP;
            self.work();
            self.beat();
            if self.now.as_millis().is_multiple_of(LOOK.as_millis()) {
                self.look();
            }
            let live = self.workers.values().filter(|worker| worker.ended.is_none());
            self.outcome.worker_s += live.clone().count() as f64 * STEP.as_secs_f64();
            self.outcome.most = self.outcome.most.max(live.count());
        }
    }

    /// Until all is done, and then so much longer; fails where that takes more than a day.
    pub(super) fn finish(mut self, then: Duration) -> Outcome {
        while !self.is_done() {
            self.pass(Duration::from_secs(1));
            assert!(self.now < Duration::from_secs(86_400), "nothing is done any more: {:?}", self.outcome);
        }
        self.pass(then);
        self.outcome.left = self.live();
        self.outcome
    }

    pub(super) fn live(&self) -> usize {
        self.workers.values().filter(|worker| worker.ended.is_none()).count()
    }

    pub(super) fn policy(&self) -> &Policy {
        &self.policy
    }

    fn is_done(&self) -> bool {
        self.coming.is_empty()
            && self.ready.values().all(VecDeque::is_empty)
            && self.workers.values().all(|worker| worker.hands.is_empty())
    }

    fn clock(&self) -> Duration {
        let steps = self.trouble.steps.iter().filter(|(at, _)| *at <= self.now).map(|(_, by)| by).sum::<i64>();
        // Far from its beginning, so that it can go back.
        let base = self.now + Duration::from_secs(1_000_000);
        if steps >= 0 {
            base + Duration::from_secs(steps.unsigned_abs())
        } else {
            base - Duration::from_secs(steps.unsigned_abs())
        }
    }

    fn is_out(&self) -> bool {
        self.trouble.outage.is_some_and(|(from, to)| (from..to).contains(&self.now))
    }

    fn is_alarmed(&self) -> bool {
        self.trouble.alarm.is_some_and(|(from, to)| (from..to).contains(&self.now))
    }

    fn start_takes(&self) -> Duration {
        self.trouble.start.unwrap_or(START)
    }

    fn work(&mut self) {
        while self.coming.front().is_some_and(|job| job.comes <= self.now) {
            if let Some(job) = self.coming.pop_front() {
                self.next_id += 1;
                self.ready.entry(job.kind).or_default().push_back((self.next_id, job));
            }
        }
        let (now, is_out, is_alarmed, start) = (self.now, self.is_out(), self.is_alarmed(), self.start_takes());
        for worker in self.workers.values_mut().filter(|worker| worker.ended.is_none() && !worker.hangs(now)) {
            // Short jobs come and go within a step.
            let mut time = if worker.hands.len() < worker.slots { STEP } else { Duration::ZERO };
            loop {
                let before = worker.hands.len();
                let mut killed = None;
                worker.hands.retain(|(id, job, ends)| {
                    if *ends > now || is_out || is_alarmed {
                        return true;
                    }
                    if job.kills > 0 {
                        killed = Some((*id, *job));
                    } else {
                        worker.settled += 1;
                        self.outcome.done = now;
                    }
                    false
                });
                if let Some((id, job)) = killed {
                    worker.ended = Some(false);
                    let again = Job { kills: job.kills - 1, ..job };
                    self.ready.entry(job.kind).or_default().push_back((id, again));
                    for (id, job, _) in worker.hands.drain(..) {
                        self.ready.entry(job.kind).or_default().push_back((id, job));
                    }
                    break;
                }
                let takes = !worker.draining && !worker.mute && !is_out && now >= worker.born + start;
                let mut took = false;
                if takes && worker.hands.len() < worker.slots {
                    for kind in worker.kinds.clone() {
                        if let Some((id, job)) = self.ready.entry(kind).or_default().pop_front() {
                            self.outcome.waits.push(now - job.comes);
                            let ends = if job.lasts < time { now } else { now + job.lasts };
                            time = time.saturating_sub(job.lasts);
                            worker.hands.push((id, job, ends));
                            took = true;
                            break;
                        }
                    }
                }
                if took || worker.hands.len() != before {
                    worker.changed.get_or_insert(now);
                }
                if !took {
                    break;
                }
            }
            if worker.draining && worker.hands.is_empty() {
                worker.ended = Some(true);
            }
        }
    }

    fn beat(&mut self) {
        let (now, clock, start) = (self.now, self.clock(), self.start_takes());
        let is_lost = self.is_out() || self.is_alarmed();
        for (name, worker) in &mut self.workers {
            let up = worker.ended.is_none() && !worker.mute && !worker.hangs(now) && now >= worker.born + start;
            let due =
                worker.beat.is_none_or(|at| now - at >= BEAT) || worker.changed.is_some_and(|at| now - at >= LATE_BEAT);
            if up && due && !is_lost {
                worker.beat = Some(now);
                worker.changed = None;
                self.policy.hear(clock, &word(name, worker, now));
            }
        }
    }

    fn look(&mut self) {
        let clock = self.clock();
        if self.trouble.restart.is_some_and(|at| at <= self.now) {
            self.trouble.restart = None;
            self.restarts += 1;
            self.policy = Policy::new(self.pools.clone(), None, format!("s{}", self.restarts));
        }
        if self.is_out() {
            let turn = self.policy.decide(clock, None);
            self.outcome.blind +=
                turn.decisions.iter().filter(|one| !matches!(one.action, Action::Wait { .. })).count();
            return;
        }
        // Who is quiet is asked, and the broker tells whoever asks that it takes no messages.
        self.is_blocked = self.is_alarmed() && (self.is_blocked || self.policy.is_quiet(clock));
        if self.is_blocked {
            let turn = self.policy.blocked();
            *self.outcome.causes.entry("wait blocked".into()).or_default() += 1;
            self.outcome.blind +=
                turn.decisions.iter().filter(|one| !matches!(one.action, Action::Wait { .. })).count();
            return;
        }
        let start = self.start_takes();
        let state = |worker: &Worker| match worker.ended {
            None => State::Runs,
            Some(well) => State::Ended { well, how: "an end".into() },
        };
        let members = self.workers.iter().map(|(name, worker)| Member {
            name: name.clone(),
            pool: worker.pool.clone(),
            state: state(worker),
        });
        let consumers =
            self.workers.values().filter(|worker| worker.ended.is_none() && !worker.mute && !worker.draining);
        let look = Look {
            ready: self.ready.iter().map(|(kind, jobs)| (*kind, jobs.len() as u64)).collect(),
            consumers: consumers
                .filter(|worker| self.now >= worker.born + start)
                .map(|worker| worker.slots as u64)
                .sum(),
            members: members.collect(),
        };
        let turn = self.policy.decide(clock, Some(&look));
        for decision in turn.decisions {
            if !matches!(decision.action, Action::Wait { .. }) {
                *self.outcome.causes.entry(format!("{} {}", decision.action.name(), decision.cause)).or_default() += 1;
            }
            self.carry_out(clock, decision.action, decision.cause);
        }
    }

    fn carry_out(&mut self, clock: Duration, action: Action, cause: Cause) {
        let now = self.now;
        match action {
            Action::Start { pool, worker, kinds } => {
                self.outcome.starts += 1;
                if self.outcome.starts <= self.trouble.refused {
                    self.policy.could_not_start(clock, &worker);
                    return;
                }
                let slots = self.pools.iter().find(|one| one.name == pool).map_or(1, |one| one.slots as usize);
                let mute = self.outcome.starts <= self.trouble.mute;
                let started = Worker {
                    pool,
                    kinds,
                    slots,
                    born: now,
                    mute,
                    hangs: self.trouble.hang.filter(|_| self.outcome.starts == 1).unwrap_or(Duration::MAX),
                    hands: Vec::new(),
                    draining: false,
                    ended: None,
                    settled: 0,
                    beat: None,
                    changed: None,
                };
                self.workers.insert(worker, started);
            }
            Action::Ask { worker, spare } => {
                let Some(asked) = self.workers.get_mut(&worker) else { return };
                let spared = asked.hands.iter().all(|(_, job, ends)| {
                    let begun = *ends - job.lasts;
                    spare == Spare::Fresh && job.kind == Kind::Trial && now - begun < Duration::from_secs(3)
                });
                if spared && asked.ended.is_none() {
                    asked.draining = true;
                    for (id, job, _) in asked.hands.drain(..) {
                        self.ready.entry(job.kind).or_default().push_back((id, job));
                    }
                }
                let word = word(&worker, asked, now);
                self.policy.hear(clock, &word);
            }
            Action::Stop { worker } | Action::Kill { worker } => {
                if let Some(told) = self.workers.get_mut(&worker) {
                    let works = !told.hands.is_empty() && cause != Cause::Hung && !told.hangs(now);
                    self.outcome.busy_ended += usize::from(works);
                    told.ended = Some(true);
                    for (id, job, _) in told.hands.drain(..) {
                        self.ready.entry(job.kind).or_default().push_back((id, job));
                    }
                }
            }
            Action::Remove { worker } => {
                self.workers.remove(&worker);
            }
            Action::Adopt { .. } | Action::Wait { .. } => {}
        }
    }
}

fn word(name: &str, worker: &Worker, now: Duration) -> Heartbeat {
    let running = worker.hands.iter().map(|(id, job, ends)| Running {
        id: JobId::new(format!("j{id}")).expect("an id"),
        run: Name::new("run").expect("a name"),
        kind: job.kind,
        for_ms: (now + job.lasts).saturating_sub(*ends).as_millis().try_into().expect("short"),
    });
    Heartbeat {
        worker: name.into(),
        host: "host".into(),
        pid: 1,
        version: "0".into(),
        slots: worker.slots.try_into().expect("few"),
        kinds: worker.kinds.clone(),
        draining: worker.draining,
        running: running.collect(),
        settled: worker.settled,
        at: Timestamp::UNIX_EPOCH,
    }
}
