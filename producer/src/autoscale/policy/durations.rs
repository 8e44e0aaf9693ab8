//! How long jobs take, learnt from what workers say they have in hand. A slice of a trial counts as a job: it is what a
//! slot has in hand at once.

use std::time::Duration;

use shared::contract::{Heartbeat, Kind};

use super::roster::Heard;

/// Before anything is known: a trial is worth a slot of its own, batches are many and short.
const GUESS: [(Kind, Duration); 2] = [(Kind::Trial, Duration::from_secs(60)), (Kind::Batch, Duration::from_secs(1))];

/// The weight of what came last is one in so many.
const MEMORY: u32 = 8;

/// Mean times by kind; the last ones count most.
#[derive(Debug, Default)]
pub(super) struct Durations {
    trial: Option<Duration>,
    batch: Option<Duration>,
}

impl Durations {
    /// The mean, or a guess.
    pub(super) fn of(&self, kind: Kind) -> Duration {
        let known = match kind {
            Kind::Trial => self.trial,
            Kind::Batch => self.batch,
        };
        known.unwrap_or_else(|| GUESS.iter().find(|(of, _)| *of == kind).map_or(Duration::ZERO, |(_, guess)| *guess))
    }

    /// Learns from two words of one worker, `between` apart: jobs that it names no more have ended, and what it settled in
    /// all tells of those that came and went in between.
    pub(super) fn learn(&mut self, before: &Heard, after: &Heartbeat, between: Duration) {
        let settled = after.settled.saturating_sub(before.settled);
        if settled == 0 {
            return;
        }
        let by_rate = between * after.slots.max(1) / u32::try_from(settled).unwrap_or(u32::MAX).max(1);
        let ended: Vec<(Kind, Duration)> = before.ended_by(after).collect();
        for (kind, ran) in &ended {
            // It ended at some time between the two words; where more did than are known by name, they were short.
            let took = *ran + between / 2;
            self.note(*kind, if settled > ended.len() as u64 { took.min(by_rate) } else { took });
        }
        if ended.is_empty()
            && let Some(kind) = only_kind(after)
        {
            self.note(kind, by_rate.min(between));
        }
    }

    fn note(&mut self, kind: Kind, took: Duration) {
        let mean = match kind {
            Kind::Trial => &mut self.trial,
            Kind::Batch => &mut self.batch,
        };
        *mean = Some(mean.map_or(took, |mean| (mean * (MEMORY - 1) + took) / MEMORY));
    }
}

/// What a worker's jobs were, where that is sure.
fn only_kind(heartbeat: &Heartbeat) -> Option<Kind> {
    match heartbeat.kinds.as_slice() {
        [kind] => Some(*kind),
        _ => {
            let first = heartbeat.running.first()?.kind;
            heartbeat.running.iter().all(|job| job.kind == first).then_some(first)
        }
    }
}
