//! The commit protocol under every fault that fits into small bounds: the very code that a worker runs
//! ([`worker::protocol`]) is driven through all interleavings of two workers and a queue that loses connections and
//! doubles letters, with a crash between any two steps.
//!
//! A lost answer is a crash after the step, a lost request a crash before it; a worker that goes on after its connection
//! is gone is the worst of both. `GANNET_TEST_FAULTS=4 tests/run no_fault` raises the bound.

mod world;

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use shared::contract::Kind;
use world::{Bounds, World};

/// What a walk came to.
struct Explored {
    worlds: usize,
    ends: usize,
}

/// Every world that was seen, by its fingerprint: millions of them are too many to keep.
#[derive(Default)]
struct Seen {
    numbers: HashMap<u128, u32>,
    /// From where each was first reached.
    came: Vec<u32>,
    /// Pairs of worlds, the second reached from the first without a fault.
    calmly: Vec<(u32, u32)>,
}

impl Seen {
    /// The world's number, and whether it is new.
    fn number(&mut self, world: &World, from: u32) -> (u32, bool) {
        let next = self.came.len() as u32;
        let number = *self.numbers.entry(fingerprint(world)).or_insert(next);
        if number == next {
            self.came.push(from);
        }
        (number, number == next)
    }

    /// The steps from `first` to world `number`, walked again.
    fn way(&self, first: World, number: u32) -> String {
        let mut numbers = vec![number];
        while let Some(last) = numbers.last().filter(|last| **last != 0) {
            numbers.push(self.came[*last as usize]);
        }
        let mut world = first;
        let mut way = Vec::new();
        for number in numbers.iter().rev().skip(1) {
            let mut steps = world.steps().into_iter();
            let step = steps.find(|step| self.numbers[&fingerprint(&step.to)] == *number).expect("it was taken before");
            way.push(step.name);
            world = step.to;
        }
        format!("{}\n{world:#?}", way.join("\n"))
    }
}

fn fingerprint(world: &World) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        salt.hash(&mut hasher);
        world.hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// Walks every world that can be reached, and fails with the way to the first one that breaks a promise.
fn explore(bounds: Bounds) -> Explored {
    let first = World::new(bounds);
    let mut seen = Seen::default();
    seen.number(&first, 0);
    let mut waiting = VecDeque::from([(0, first.clone())]);
    let mut ends = Vec::new();
    while let Some((at, world)) = waiting.pop_front() {
        let mut checked = world.check();
        if world.is_over() {
            ends.push(at);
            checked = checked.and_then(|()| world.check_end());
        }
        if let Err(problem) = checked {
            panic!("{problem}\n{}", seen.way(first, at));
        }
        for step in world.steps() {
            let (number, is_new) = seen.number(&step.to, at);
            if !step.is_fault {
                seen.calmly.push((at, number));
            }
            if is_new {
                waiting.push_back((number, step.to));
            }
        }
    }
    let explored = Explored { worlds: seen.came.len(), ends: ends.len() };
    if let Some(stuck) = that_reaches_no(&ends, &mut seen) {
        panic!("a job that never ends\n{}", seen.way(first, stuck));
    }
    explored
}

/// A world from which no end is reached without one more fault.
fn that_reaches_no(ends: &[u32], seen: &mut Seen) -> Option<u32> {
    seen.calmly.sort_unstable_by_key(|(_, to)| *to);
    let mut reaches = vec![false; seen.came.len()];
    let mut waiting = ends.to_vec();
    while let Some(at) = waiting.pop() {
        if !std::mem::replace(&mut reaches[at as usize], true) {
            let first = seen.calmly.partition_point(|(_, to)| *to < at);
            let before = seen.calmly[first..].iter().take_while(|(_, to)| *to == at).map(|(from, _)| *from);
            waiting.extend(before.filter(|from| !reaches[*from as usize]));
        }
    }
    reaches.iter().position(|reaches| !reaches).map(|at| at as u32)
}

/// Faults, from the environment where somebody wants more.
fn faults(default: u8) -> u8 {
    std::env::var("GANNET_TEST_FAULTS").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Whether the tests may take minutes.
fn is_full() -> bool {
    std::env::var_os("GANNET_TEST_FULL").is_some()
}

fn check(kind: Kind, bounds: Bounds) {
    let Explored { worlds, ends } = explore(bounds);
    eprintln!("{kind}, {} faults, {} slices: {worlds} worlds, {ends} of them ends", bounds.faults, bounds.slices);
    assert!(ends > 0);
}

#[test]
fn no_fault_loses_or_doubles_a_trial() {
    let faults = faults(if is_full() { 3 } else { 2 });
    check(
        Kind::Trial,
        Bounds { kind: Kind::Trial, slices: 3, faults, mishaps: 0, stops: 1, cancels: 1, damages: 0, replays: 0 },
    );
}

#[test]
fn no_fault_loses_or_doubles_a_trial_that_fails() {
    check(
        Kind::Trial,
        Bounds {
            kind: Kind::Trial,
            slices: 2,
            faults: faults(2),
            mishaps: 2,
            stops: 0,
            cancels: 0,
            damages: 0,
            replays: 0,
        },
    );
}

#[test]
fn no_fault_loses_or_doubles_a_trial_whose_objects_are_damaged() {
    let bounds = Bounds {
        kind: Kind::Trial,
        slices: 2,
        faults: faults(2),
        mishaps: 0,
        stops: 1,
        cancels: 0,
        damages: 1,
        replays: 0,
    };
    check(Kind::Trial, bounds);
}

#[test]
fn no_fault_loses_or_doubles_a_trial_that_is_put_back() {
    let bounds = Bounds {
        kind: Kind::Trial,
        slices: 2,
        faults: faults(1),
        mishaps: 2,
        stops: 0,
        cancels: 0,
        damages: 0,
        replays: 1,
    };
    check(Kind::Trial, bounds);
}

#[test]
fn no_fault_loses_or_doubles_a_batch() {
    check(
        Kind::Batch,
        Bounds {
            kind: Kind::Batch,
            slices: 1,
            faults: faults(if is_full() { 3 } else { 2 }),
            mishaps: 2,
            stops: 1,
            cancels: 1,
            damages: 0,
            replays: 0,
        },
    );
}
