//! What a run came to, for people and as JSON.

use std::fmt;
use std::time::Duration;

use serde::Serialize;

use super::audit::Verdict;

/// What a run came to.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The seed of its plan.
    pub seed: u32,
    /// How long things went wrong, in seconds.
    pub chaos_s: f64,
    /// How long it took until all jobs had ended, in seconds.
    pub whole_s: f64,
    /// Workers at once.
    pub workers: usize,
    /// Jobs, and how many of them had a result when everything was healed.
    pub jobs: usize,
    /// See `jobs`.
    pub done_when_healed: usize,
    /// SIGKILLs of workers, and of executors.
    pub killed_workers: u32,
    /// See `killed_workers`.
    pub killed_executors: u32,
    /// SIGKILLs that hit a job in flight, by the victim's log: of a worker that had begun a step of a job and not come to its
    /// acknowledgement; of an executor whose worker waited for it to compute.
    pub kills_in_flight: u32,
    /// SIGTERMs, and those that ended with an error since the broker did not answer.
    pub drains: u32,
    /// See `drains`.
    pub drains_cut_short: u32,
    /// Those that ended well, but dropped what they had in hand, for the same reason.
    pub drains_aborted: u32,
    /// SIGSTOPs.
    pub pauses: u32,
    /// Restarts of the broker, and those that were a SIGKILL of it.
    pub broker_restarts: usize,
    /// See `broker_restarts`.
    pub broker_crashes: u32,
    /// Workers' ways back to a restarted broker that were measured.
    pub reconnects: usize,
    /// The time from the broker's return to a worker's consumer, in seconds: median.
    pub reconnect_p50_s: Option<f64>,
    /// And the 99th of a hundred.
    pub reconnect_p99_s: Option<f64>,
    /// Troubles of lines, and of the store's service.
    pub line_troubles: u32,
    /// See `line_troubles`.
    pub store_troubles: u32,
    /// Commands that enqueued and were killed, and commands that repeated an enqueue.
    pub killed_producers: u32,
    /// See `killed_producers`.
    pub repeated_producers: u32,
    /// Jobs and runs that somebody tried to cancel, jobs and runs that are cancelled, and jobs that failed as they must.
    pub cancels: usize,
    /// See `cancels`.
    pub cancelled_jobs: usize,
    /// See `cancels`.
    pub cancelled_runs: usize,
    /// See `cancels`.
    pub failures: usize,
    /// Results that were told more than once: the same ones.
    pub told_again: usize,
    /// Computations that workers began, and those that the results needed.
    pub computations: usize,
    /// See `computations`.
    pub needed: usize,
    /// What a job may have lost workers for: attempts recorded in the store.
    pub attempts: usize,
    /// Workers that ended by themselves, did not end, or are stuck.
    pub complaints: Vec<String>,
    /// What is wrong with the jobs.
    pub verdict: Verdict,
    /// Whether nothing is wrong.
    pub good: bool,
}

/// How much a run must hit to say something.
#[derive(Debug, Clone, Copy)]
pub struct Floors {
    /// SIGKILLs with a job in flight.
    pub kills: usize,
    /// Restarts of the broker.
    pub restarts: usize,
}

impl Floors {
    /// What a quarter of an hour, or a longer run, is to hit; a shorter one anything.
    pub fn of(length: Duration) -> Self {
        let is_long = length >= Duration::from_secs(15 * 60);
        if is_long { Self { kills: 100, restarts: 20 } } else { Self { kills: 0, restarts: 0 } }
    }
}

impl Report {
    /// Computations that nobody needed, as a share of those that were.
    pub fn repeated(&self) -> f64 {
        self.computations.saturating_sub(self.needed) as f64 / self.needed.max(1) as f64
    }

    /// What it hit less often than `floors` ask for, in words.
    pub fn short_of(&self, floors: &Floors) -> Vec<String> {
        let counts = [
            ("kills in flight", self.kills_in_flight as usize, floors.kills),
            ("broker restarts", self.broker_restarts, floors.restarts),
        ];
        let short = counts.iter().filter(|(_, count, floor)| count < floor);
        short.map(|(what, count, floor)| format!("{count} {what}, and at least {floor} are asked for")).collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: Option<f64>| time.map_or_else(|| "not measured".into(), |time| format!("{time:.1} s"));
        let Verdict { lost, untold, doubled, failed, differing, dead, unburied, unasked, left } = &self.verdict;
        writeln!(f, "chaos with seed {}: {:.0} s, {:.0} s until all had ended", self.seed, self.chaos_s, self.whole_s)?;
        writeln!(
            f,
            "  jobs                {} on {} workers; {} done when all was healed",
            self.jobs, self.workers, self.done_when_healed
        )?;
        writeln!(
            f,
            "  kills               {} in flight of {} workers and {} executors",
            self.kills_in_flight, self.killed_workers, self.killed_executors
        )?;
        writeln!(
            f,
            "  drains, pauses      {} ({} without an answer of the broker, {} with jobs dropped at the last call), {}",
            self.drains, self.drains_cut_short, self.drains_aborted, self.pauses
        )?;
        writeln!(
            f,
            "  broker              {} restarts, {} of them by SIGKILL",
            self.broker_restarts, self.broker_crashes
        )?;
        writeln!(
            f,
            "  consuming again     p50 {}, p99 {} ({} measured)",
            seconds(self.reconnect_p50_s),
            seconds(self.reconnect_p99_s),
            self.reconnects
        )?;
        writeln!(f, "  lines, store        {} troubles, {} troubles", self.line_troubles, self.store_troubles)?;
        writeln!(f, "  producer            {} killed, {} repeated", self.killed_producers, self.repeated_producers)?;
        writeln!(
            f,
            "  work                {} computations, {} needed: {:.1} % repeated; {} attempts recorded",
            self.computations,
            self.needed,
            100.0 * self.repeated(),
            self.attempts
        )?;
        writeln!(
            f,
            "  cancels, failures   {} asked for, {} jobs and {} runs cancelled; {} jobs failed as they must",
            self.cancels, self.cancelled_jobs, self.cancelled_runs, self.failures
        )?;
        writeln!(f, "  told again          {} (the same results)", self.told_again)?;
        let counts = [
            ("lost", lost.len()),
            ("told nobody", untold.len()),
            ("doubled", doubled.len()),
            ("failed", failed.len()),
            ("differing", differing.len()),
            ("dead letters too many", dead.len()),
            ("without a dead letter", unburied.len()),
            ("unasked", unasked.len()),
            ("queues not empty", left.len()),
            ("complaints", self.complaints.len()),
        ];
        let counts: Vec<String> = counts.iter().map(|(what, count)| format!("{count} {what}")).collect();
        writeln!(f, "  audit               {}", counts.join(", "))?;
        let names = [
            ("lost", lost),
            ("told nobody", untold),
            ("doubled", doubled),
            ("failed", failed),
            ("differing", differing),
            ("without a dead letter", unburied),
            ("unasked", unasked),
        ];
        for (what, jobs) in names {
            for job in jobs.iter().take(SHOWN) {
                writeln!(f, "    {what}: {job}")?;
            }
        }
        let left: Vec<String> = left.iter().map(|(queue, left)| format!("{queue} holds {left}")).collect();
        for text in dead.iter().chain(&left).chain(&self.complaints).take(SHOWN) {
            writeln!(f, "    {text}")?;
        }
        write!(f, "  {}", if self.good { "nothing is wrong" } else { "SOMETHING IS WRONG" })
    }
}

/// Jobs named for each thing that is wrong.
const SHOWN: usize = 20;
