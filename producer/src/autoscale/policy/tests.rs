//! The policy over loads: bounds kept, no busy worker ended, no flapping, done in time, at the least when all is done.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use shared::contract::Kind;

use self::world::{Job, Outcome, Trouble, World};
use crate::autoscale::policy::{Action, Cause, Look, Policy, Turn};
use crate::autoscale::pool::Pool;

mod world;

const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn jobs(count: usize, kind: Kind, comes: Duration, lasts: Duration) -> Vec<Job> {
    vec![Job { comes, kind, lasts, kills: 0 }; count]
}

/// A load, the most workers for it, and how many starts are still no flapping.
struct Load {
    name: &'static str,
    max: u32,
    most_starts: usize,
    jobs: Vec<Job>,
}

fn loads(seed: u64) -> Vec<Load> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let load = |name, max, most_starts, jobs| Load { name, max, most_starts, jobs };
    let mut all = vec![
        load("one trial", 8, 1, jobs(1, Kind::Trial, s(10), s(60))),
        load("burst of 24 trials of 60 s", 8, 8, jobs(24, Kind::Trial, s(10), s(60))),
        load("burst of 5 batches of 20 ms", 8, 1, jobs(5, Kind::Batch, s(10), ms(20))),
        load("burst of 2000 batches of 20 ms", 8, 8, jobs(2000, Kind::Batch, s(10), ms(20))),
    ];
    let ramp = (0..60).flat_map(|n| jobs(1 + n / 10, Kind::Trial, s(10 + 5 * n as u64), s(20)));
    all.push(load("ramp to 1.2 trials of 20 s a second", 32, 40, ramp.collect()));
    let trickle = (0..300).flat_map(|n| jobs(1, Kind::Batch, s(10) + ms(1000 * n), ms(100)));
    all.push(load("trickle of a batch a second", 8, 2, trickle.collect()));
    let slow_trickle = (0..6).flat_map(|n| jobs(1, Kind::Trial, s(10 + 120 * n), s(5)));
    all.push(load("a trial of 5 s every two minutes", 8, 6, slow_trickle.collect()));
    let mut stragglers = jobs(200, Kind::Trial, s(10), s(2));
    stragglers.extend(jobs(2, Kind::Trial, s(10), s(300)));
    all.push(load("200 trials of 2 s and two of 300 s", 8, 10, stragglers));
    let bursts = (0..20).flat_map(|n| {
        let (count, lasts) = (random.random_range(1..30), ms(random.random_range(50..8000)));
        let kind = if random.random_range(0..2) == 0 { Kind::Trial } else { Kind::Batch };
        jobs(count, kind, s(10 + 60 * n), lasts)
    });
    all.push(load("20 bursts of anything", 8, 160, bursts.collect()));
    let mixed = (0..200).map(|_| {
        let comes = s(10) + ms(random.random_range(0..120_000));
        match random.random_range(0..10) {
            0 => Job { comes, kind: Kind::Trial, lasts: ms(random.random_range(5000..90_000)), kills: 0 },
            _ => Job { comes, kind: Kind::Batch, lasts: ms(random.random_range(5..900)), kills: 0 },
        }
    });
    all.push(load("two minutes of both kinds", 8, 30, mixed.collect()));
    all
}

/// The least time and the least worker-seconds that anybody could need who knew the load: work at full width from the first
/// moment on.
fn ideal(load: &[Job], max: u32) -> (f64, f64) {
    let work: f64 = load.iter().map(|job| job.lasts.as_secs_f64()).sum();
    let mut free = vec![0.0_f64; max as usize];
    let mut load: Vec<&Job> = load.iter().collect();
    load.sort_by_key(|job| job.comes);
    for job in load {
        let first = free.iter_mut().min_by(|one, other| one.total_cmp(other)).expect("a worker");
        *first = first.max(job.comes.as_secs_f64()) + job.lasts.as_secs_f64();
    }
    (free.into_iter().fold(0.0, f64::max), work)
}

fn mean(waits: &[Duration]) -> f64 {
    waits.iter().map(Duration::as_secs_f64).sum::<f64>() / waits.len().max(1) as f64
}

fn check(name: &str, outcome: &Outcome, max: u32) {
    assert_eq!(outcome.busy_ended, 0, "{name}: a busy worker was ended: {outcome:?}");
    assert!(outcome.most <= max as usize, "{name}: the bound is kept: {outcome:?}");
    assert_eq!(outcome.left, 0, "{name}: at zero when all is done: {outcome:?}");
    assert_eq!(outcome.blind, 0, "{name}: nothing is done blindly");
}

#[test]
#[expect(clippy::print_stdout, reason = "a table for who reads the test's output")]
fn every_load_is_done_in_time_without_flapping() {
    println!("| load | done after, ideal | worker-seconds, ideal | mean wait | starts | most |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for seed in [1, 2, 3] {
        for Load { name, max, most_starts, jobs } in loads(seed) {
            let (ideal_done, ideal_work) = ideal(&jobs, max);
            let last = jobs.iter().map(|job| job.comes).max().unwrap_or_default();
            let outcome = World::new(vec![Pool::new("all", max)], None, jobs, Trouble::default()).finish(s(120));
            let done = outcome.done.as_secs_f64();
            println!(
                "| {name}, seed {seed} | {done:.1} s, {ideal_done:.1} s | {:.0}, {ideal_work:.0} | {:.2} s | {} | {} |",
                outcome.worker_s,
                mean(&outcome.waits),
                outcome.starts,
                outcome.most
            );
            check(name, &outcome, max);
            assert!(outcome.starts <= most_starts, "{name}: {} starts", outcome.starts);
            // Short work may take as long as it may take; long work no longer than it must, and a start.
            let allowed =
                (ideal_done + 3.0).max(last.as_secs_f64() + 14.0).max(10.0 + 1.25 * (ideal_done - 10.0) + 3.0);
            assert!(done <= allowed, "{name}: done after {done} s, ideal is {ideal_done} s: {outcome:?}");
        }
    }
}

#[test]
fn a_burst_at_zero_starts_at_once() {
    let mut world = World::new(vec![Pool::new("all", 4)], None, jobs(9, Kind::Trial, s(30), s(60)), Trouble::default());
    world.pass(s(30) + ms(200));
    assert_eq!(world.live(), 4, "within one look");
}

#[test]
fn a_poisoned_job_is_tried_more_and_more_slowly() {
    let mut load = jobs(1, Kind::Trial, s(10), s(1));
    load[0].kills = 8;
    let outcome = World::new(vec![Pool::new("all", 4)], None, load, Trouble::default()).finish(s(120));
    check("poison", &outcome, 4);
    assert_eq!(outcome.causes["remove died"], 8, "{outcome:?}");
    assert!(outcome.starts <= 10, "{outcome:?}");
    assert!(outcome.done > s(60), "with waits between: {outcome:?}");
}

#[test]
fn nothing_is_done_while_nothing_is_seen() {
    // The outage falls into the time in which workers would be asked to leave, and ends with more to do.
    let mut load = jobs(4, Kind::Trial, s(10), s(20));
    load.extend(jobs(4, Kind::Trial, s(200), s(20)));
    let trouble = Trouble { outage: Some((s(40), s(190))), ..Trouble::default() };
    let mut world = World::new(vec![Pool::new("all", 4)], None, load, trouble);
    world.pass(s(189));
    assert_eq!(world.live(), 4, "silence is no idleness");
    let outcome = world.finish(s(120));
    check("outage", &outcome, 4);
    assert_eq!(outcome.starts, 4, "the same workers: {outcome:?}");
}

#[test]
fn an_alarm_of_the_broker_ends_and_starts_nobody() {
    // Longer than it takes to be taken for silent, and gone; while jobs are computed that end during it and behind it.
    for max in [1, 4] {
        let load = [jobs(max as usize, Kind::Trial, s(10), s(60)), jobs(1, Kind::Trial, s(100), s(5))].concat();
        let trouble = Trouble { alarm: Some((s(20), s(190))), ..Trouble::default() };
        let pool = Pool { min: 1, ..Pool::new("all", 8) };
        let mut world = World::new(vec![pool], None, load, trouble);
        world.pass(s(189));
        assert!(world.outcome.causes.contains_key("wait blocked"), "{:?}", world.outcome);
        assert_eq!((world.live(), world.outcome.starts), (max as usize, max as usize), "{:?}", world.outcome);
        let outcome = world.finish(s(120));
        assert_eq!((outcome.busy_ended, outcome.blind, outcome.left), (0, 0, 1), "{outcome:?}");
        assert!(outcome.done > s(190) && outcome.done < s(200), "it goes on: {outcome:?}");
        assert!(!outcome.causes.keys().any(|cause| cause.starts_with("stop")), "{outcome:?}");
    }
}

#[test]
fn an_alarm_of_any_length_doubles_nobody() {
    for (begins, lasts) in (0..10).flat_map(|n| (1..40).map(move |seconds| (s(20) + ms(500 * n), s(seconds)))) {
        let trouble = Trouble { alarm: Some((begins, begins + lasts)), ..Trouble::default() };
        let outcome =
            World::new(vec![Pool::new("all", 8)], None, jobs(2, Kind::Trial, s(10), s(90)), trouble).finish(s(120));
        check("alarm", &outcome, 8);
        assert_eq!(outcome.starts, 2, "from {begins:?} for {lasts:?}: {outcome:?}");
    }
}

#[test]
fn workers_that_start_in_an_alarm_are_not_multiplied() {
    let trouble = Trouble { alarm: Some((s(20), s(300))), ..Trouble::default() };
    let outcome =
        World::new(vec![Pool::new("all", 8)], None, jobs(2, Kind::Trial, s(30), s(60)), trouble).finish(s(120));
    check("alarm", &outcome, 8);
    assert_eq!((outcome.starts, outcome.causes.get("stop mute")), (2, None), "{outcome:?}");
}

#[test]
fn one_that_hangs_is_ended_and_replaced_alone_or_not() {
    for max in [1, 4] {
        // An alarm in between only delays it.
        for alarm in [None, Some((s(60), s(120)))] {
            let load = jobs(max as usize, Kind::Trial, s(10), s(30));
            let trouble = Trouble { hang: Some(s(20)), alarm, ..Trouble::default() };
            let outcome = World::new(vec![Pool::new("all", max)], None, load, trouble).finish(s(120));
            check("hang", &outcome, max);
            assert_eq!(outcome.causes["stop silent"], 1, "{outcome:?}");
            assert_eq!(outcome.starts, max as usize + 1, "{outcome:?}");
        }
    }
}

#[test]
fn a_slow_start_is_waited_for() {
    let pool = Pool { start_limit: s(120), ..Pool::new("all", 8) };
    let trouble = Trouble { start: Some(s(90)), ..Trouble::default() };
    let outcome = World::new(vec![pool.clone()], None, jobs(2, Kind::Trial, s(10), s(5)), trouble).finish(s(120));
    check("slow", &outcome, 8);
    assert_eq!(outcome.starts, 2, "nobody is doubled meanwhile: {outcome:?}");
    // One that takes longer than it may is ended, and counts as one that failed: the next ones come more and more slowly.
    let trouble = Trouble { start: Some(s(130)), ..Trouble::default() };
    let mut world = World::new(vec![pool], None, jobs(2, Kind::Trial, s(10), s(5)), trouble);
    world.pass(s(10 + 20 * 130));
    assert_eq!(world.outcome.causes["stop mute"], world.outcome.starts - 2, "{:?}", world.outcome);
    assert!(world.outcome.starts <= 36, "{:?}", world.outcome);
}

#[test]
fn a_clock_that_steps_ends_nobody() {
    for by in [7200, -7200] {
        let trouble = Trouble { steps: vec![(s(30), by)], ..Trouble::default() };
        let mut world = World::new(vec![Pool::new("all", 4)], None, jobs(8, Kind::Trial, s(10), s(60)), trouble);
        world.pass(s(100));
        assert_eq!(world.live(), 4, "{by}");
        let outcome = world.finish(s(120));
        check("clock", &outcome, 4);
        assert_eq!(outcome.starts, 4, "{by}: {outcome:?}");
    }
}

#[test]
fn who_never_says_a_word_or_does_not_start_is_replaced() {
    let trouble = Trouble { mute: 2, ..Trouble::default() };
    let outcome =
        World::new(vec![Pool::new("all", 4)], None, jobs(2, Kind::Trial, s(10), s(5)), trouble).finish(s(200));
    check("mute", &outcome, 4);
    assert_eq!(outcome.causes["stop mute"], 2, "{outcome:?}");
    assert!(outcome.done < s(90), "others take their places when their time is over: {outcome:?}");
    assert_eq!(outcome.starts, 4, "and nobody before: {outcome:?}");
    let trouble = Trouble { refused: 3, ..Trouble::default() };
    let outcome =
        World::new(vec![Pool::new("all", 4)], None, jobs(1, Kind::Trial, s(10), s(5)), trouble).finish(s(200));
    check("refused", &outcome, 4);
    assert_eq!(outcome.starts, 4, "{outcome:?}");
}

#[test]
fn an_autoscaler_that_starts_again_doubles_nobody() {
    let trouble = Trouble { restart: Some(s(40)), ..Trouble::default() };
    let outcome =
        World::new(vec![Pool::new("all", 4)], None, jobs(12, Kind::Trial, s(10), s(30)), trouble).finish(s(120));
    check("restart", &outcome, 4);
    assert_eq!((outcome.starts, outcome.causes["adopt found"]), (4, 4), "{outcome:?}");
}

#[test]
fn pools_keep_their_kinds_their_bounds_and_the_total() {
    let trials = Pool { kinds: vec![Kind::Trial], min: 1, ..Pool::new("trials", 3) };
    let batches = Pool { kinds: vec![Kind::Batch], ..Pool::new("batches", 6) };
    let mut load = jobs(10, Kind::Trial, s(10), s(60));
    load.extend(jobs(40, Kind::Batch, s(10), s(20)));
    let mut world = World::new(vec![trials, batches], Some(5), load, Trouble::default());
    world.pass(s(20));
    assert_eq!(world.live(), 5, "the total");
    let outcome = world.finish(s(300));
    assert_eq!((outcome.left, outcome.busy_ended), (1, 0), "the least stays: {outcome:?}");
    assert!(outcome.most <= 5, "{outcome:?}");
}

#[test]
fn what_later_pools_always_have_is_set_aside_first() {
    let trials = Pool { kinds: vec![Kind::Trial], ..Pool::new("trials", 6) };
    let batches = Pool { kinds: vec![Kind::Batch], min: 2, ..Pool::new("batches", 3) };
    let ready = BTreeMap::from([(Kind::Trial, 10)]);
    let desired = |turn: &Turn| turn.pools.iter().map(|pool| pool.desired).collect::<Vec<_>>();
    let mut policy = Policy::new(vec![trials.clone(), batches.clone()], Some(5), "p");
    let look = Look { ready: ready.clone(), ..Look::default() };
    let turn = policy.decide(s(100), Some(&look));
    assert_eq!(desired(&turn), [3, 2]);
    let started = |pool: &str| {
        let is_one = |action: &Action| matches!(action, Action::Start { pool: of, .. } if of == pool);
        turn.decisions.iter().filter(|one| is_one(&one.action)).map(|one| (one.cause, one.why.as_str())).collect()
    };
    let (of_trials, of_batches): (Vec<_>, Vec<_>) = (started("trials"), started("batches"));
    assert_eq!((of_trials.len(), of_trials[0].0), (3, Cause::Backlog));
    assert_eq!(of_batches, [(Cause::Minimum, "2 workers should always be there"); 2]);
    let turn = policy.decide(s(100) + ms(200), Some(&look));
    let waits: Vec<_> = turn.decisions.iter().map(|one| (one.cause, one.why.as_str())).collect();
    let why = "there is more to do than 3 workers can, the most that 5 workers of all pools leave to this one";
    assert_eq!(waits, [(Cause::Bound, why)]);

    // Where the total does not suffice for what there should always be, earlier pools have theirs first.
    for (total, expected) in [(1, [1, 0]), (2, [1, 1]), (3, [1, 2]), (4, [2, 2]), (9, [6, 2])] {
        let pools = vec![Pool { min: 1, ..trials.clone() }, batches.clone()];
        let mut policy = Policy::new(pools, Some(total), "p");
        assert_eq!(desired(&policy.decide(s(100), Some(&look))), expected, "{total}");
    }
    // The pool's own bound is said where it is that.
    let mut policy = Policy::new(vec![trials], None, "p");
    policy.decide(s(100), Some(&look));
    let turn = policy.decide(s(100) + ms(200), Some(&look));
    assert_eq!(turn.decisions[0].why, "there is more to do than 6 workers can, the most that are allowed");
}

#[test]
fn what_has_just_begun_is_moved_together() {
    // Four workers of four slots; what remains is a slice on each, over and over: one worker is enough for all.
    let pool = Pool { slots: 4, ..Pool::new("wide", 4) };
    let mut load = jobs(16, Kind::Trial, s(10), s(30));
    load.extend((0..80).flat_map(|n| jobs(2, Kind::Trial, s(41 + 12 * n), s(12))));
    let mut world = World::new(vec![pool], None, load, Trouble::default());
    world.pass(s(30));
    assert_eq!(world.live(), 4);
    world.pass(s(270));
    assert_eq!(world.live(), 1, "{:?}", world.outcome);
    assert!(world.policy().answers().accepted >= 3);
    let outcome = world.finish(s(120));
    check("wide", &outcome, 4);
}
