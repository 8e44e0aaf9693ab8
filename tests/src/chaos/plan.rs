//! What goes wrong when: all of it drawn from a seed, before anything starts. Does nothing itself.

use std::time::Duration;

use rand::RngExt as _;
use shared::random::{Stream, Word, stream};

use crate::Trouble;
use crate::s3_server::{Fault, Rule};

/// Something that goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Planned {
    /// When, from the begin.
    pub(super) at: Duration,
    /// What.
    pub(super) event: Event,
}

/// What goes wrong.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Event {
    /// SIGKILL of a worker.
    KillWorker(usize),
    /// SIGKILL of a worker's executor.
    KillExecutor(usize),
    /// SIGTERM of a worker.
    Drain(usize),
    /// SIGSTOP of a worker, and SIGCONT so much later.
    Pause(usize, Duration),
    /// The broker is gone for a while.
    Restart {
        /// By SIGKILL, not in order.
        crash: bool,
        /// How long it stays away.
        away: Duration,
    },
    /// A line has a trouble for a while.
    Line(Who, End, Trouble, Duration),
    /// A line forgets its connections: they are half-open from now on.
    Forget(Who, End),
    /// So many answers on a line break off in the middle.
    BreakAnswers(Who, End, u32),
    /// The store's service fails for a while.
    Store(Rule, Duration),
    /// SIGKILL of the command that enqueues, so long after its start; of the next one where none runs.
    KillProducer(Duration),
    /// Somebody cancels one of the jobs that were enqueued last, or the run of one: which, is a share of them.
    Cancel {
        /// The whole run.
        run: bool,
        /// From 0, the last one, to 1.
        share: f64,
    },
}

/// Whose line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// One worker's.
    Worker(usize),
    /// Everybody's, the producer's too.
    All,
    /// The producer's.
    Producer,
}

/// Where a line leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// To the broker.
    Broker,
    /// To the store.
    Store,
}

/// Nothing happens at first: every worker is to be there.
const CALM: Duration = Duration::from_secs(8);

/// Everything that goes wrong within `length`, in order.
pub(super) fn plan(seed: u32, length: Duration, workers: usize) -> Vec<Planned> {
    let mut planned = Vec::new();
    let mut sort = |name: &str, every_s: f64, draw: &dyn Fn(&mut Stream) -> Event| {
        let mut random = stream(seed, &[Word::Text("chaos"), Word::Text(name)]);
        let mut at = CALM.as_secs_f64();
        loop {
            at += every_s * (0.5 + random.random::<f64>());
            if at >= length.as_secs_f64() {
                return;
            }
            planned.push(Planned { at: Duration::from_secs_f64(at), event: draw(&mut random) });
        }
    };
    let one = |random: &mut Stream| random.random_range(0..workers);
    sort("kill a worker", 7.0, &|random| Event::KillWorker(one(random)));
    sort("kill an executor", 25.0, &|random| Event::KillExecutor(one(random)));
    sort("drain", 25.0, &|random| Event::Drain(one(random)));
    sort("pause", 30.0, &|random| {
        // A quarter of them is longer than the broker waits for a sign of life, which is twice 15 s.
        let longest = if random.random_bool(0.25) { 45.0 } else { 8.0 };
        Event::Pause(one(random), seconds(random, 0.5, longest))
    });
    sort("restart", 42.0, &|random| Event::Restart { crash: random.random_bool(0.5), away: seconds(random, 0.0, 4.0) });
    sort("line", 9.0, &|random| line(random, workers));
    sort("store", 20.0, &|random| {
        let rule = rule(random);
        Event::Store(rule, seconds(random, 2.0, 8.0))
    });
    sort("producer", 20.0, &|random| Event::KillProducer(seconds(random, 0.0, 0.4)));
    sort("cancel a job", 12.0, &|random| Event::Cancel { run: false, share: random.random() });
    sort("cancel a run", 90.0, &|random| Event::Cancel { run: true, share: random.random() });
    planned.sort_by_key(|planned| planned.at);
    planned
}

fn line(random: &mut Stream, workers: usize) -> Event {
    let who = match random.random_range(0..10) {
        0 | 1 => Who::All,
        2 => Who::Producer,
        _ => Who::Worker(random.random_range(0..workers)),
    };
    let end = if random.random_bool(0.5) { End::Broker } else { End::Store };
    let trouble = match random.random_range(0..6) {
        0 => return Event::Forget(who, end),
        1 => return Event::BreakAnswers(who, end, random.random_range(1..=3)),
        2 => Trouble::Slow(Duration::from_millis(random.random_range(20..=300))),
        3 => Trouble::Narrow(random.random_range(20..=200) * 1024),
        4 => Trouble::Silent,
        _ => Trouble::Cut,
    };
    Event::Line(who, end, trouble, seconds(random, 1.0, 12.0))
}

fn rule(random: &mut Stream) -> Rule {
    let parts = ["datasets/", "models/", "pictures/", ".safetensors"];
    // An object is altered once: what is altered whenever it is read is lost, and a job that needs it rightly fails.
    let reading =
        |random: &mut Stream, fault| Rule::reading(parts[random.random_range(0..parts.len())], u64::MAX, fault);
    match random.random_range(0..6) {
        0 => Rule::every(random.random_range(2..=4), Fault::Answer("SlowDown".into())),
        1 => Rule::every(random.random_range(2..=4), Fault::Answer("InternalError".into())),
        2 => Rule::every(1, Fault::Answer("SlowDown".into())),
        3 => Rule::every(random.random_range(2..=5), Fault::LostAnswer),
        4 => reading(random, Fault::Altered),
        _ => reading(random, Fault::Truncated),
    }
}

fn seconds(random: &mut Stream, least: f64, most: f64) -> Duration {
    Duration::from_secs_f64(least + (most - least) * random.random::<f64>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_names_a_plan_and_a_quarter_of_an_hour_has_enough_of_everything() {
        let length = Duration::from_secs(15 * 60);
        let planned = plan(3, length, 4);
        assert_eq!(planned, plan(3, length, 4));
        assert_ne!(planned, plan(4, length, 4));
        let count = |wanted: fn(&Event) -> bool| planned.iter().filter(|planned| wanted(&planned.event)).count();
        assert!(count(|event| matches!(event, Event::KillWorker(_))) > 110);
        assert!(count(|event| matches!(event, Event::Restart { .. })) >= 20);
        assert!(count(|event| matches!(event, Event::Forget(..))) > 5);
        assert!(planned.iter().all(|planned| planned.at < length));
    }
}
