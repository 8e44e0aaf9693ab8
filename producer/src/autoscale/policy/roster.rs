//! The workers that were heard, ours and others': what each has in hand, by its last word. Knows no pools.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::contract::{Heartbeat, Kind, Running};

/// Three heartbeats: who is not heard for so long does no work that anybody could count on.
pub(super) const SILENT: Duration = Duration::from_secs(15);
/// A heartbeat is missing: whoever is not heard for so long should be asked for a word.
pub(super) const QUIET: Duration = Duration::from_secs(8);

/// A worker's last word.
#[derive(Debug)]
pub(super) struct Heard {
    pub(super) slots: u32,
    pub(super) kinds: Vec<Kind>,
    pub(super) draining: bool,
    pub(super) jobs: Vec<Running>,
    pub(super) settled: u64,
    /// When it was heard.
    pub(super) at: Duration,
    /// Since when it has had nothing in hand.
    pub(super) idle_since: Option<Duration>,
    /// When it was last heard to have settled something: short jobs come and go between two words, and two looks.
    pub(super) worked: Option<Duration>,
}

impl Heard {
    pub(super) fn is_silent(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) > SILENT
    }

    /// How long it has had each job by now.
    pub(super) fn ages(&self, now: Duration) -> impl Iterator<Item = (Kind, Duration)> {
        let since = now.saturating_sub(self.at);
        self.jobs.iter().map(move |job| (job.kind, Duration::from_millis(job.for_ms) + since))
    }

    /// Kinds and times of the jobs that a later word no longer names, or names as begun anew (the next slice).
    pub(super) fn ended_by(&self, after: &Heartbeat) -> impl Iterator<Item = (Kind, Duration)> {
        let goes_on = |job: &Running| {
            after.running.iter().any(|is| is.id == job.id && is.run == job.run && is.for_ms >= job.for_ms)
        };
        let ended = self.jobs.iter().filter(move |job| !goes_on(job));
        ended.map(|job| (job.kind, Duration::from_millis(job.for_ms)))
    }
}

/// Everybody who was heard and has not said that it ends.
#[derive(Debug, Default)]
pub(super) struct Roster(pub(super) BTreeMap<String, Heard>);

impl Roster {
    /// Takes a word; returns what the worker said before.
    pub(super) fn hear(&mut self, now: Duration, word: &Heartbeat) -> Option<Heard> {
        let before = self.0.remove(&word.worker);
        if word.slots > 0 {
            let has_settled = before.as_ref().is_some_and(|before| before.settled < word.settled);
            let worked = if has_settled { Some(now) } else { before.as_ref().and_then(|before| before.worked) };
            let idle_before = before.as_ref().and_then(|before| before.idle_since).filter(|_| !has_settled);
            let heard = Heard {
                slots: word.slots,
                kinds: word.kinds.clone(),
                draining: word.draining,
                jobs: word.running.clone(),
                settled: word.settled,
                at: now,
                idle_since: word.running.is_empty().then(|| idle_before.unwrap_or(now)),
                worked,
            };
            self.0.insert(word.worker.clone(), heard);
        }
        before
    }

    /// Jobs in hand of all that are not silent.
    pub(super) fn in_flight(&self, now: Duration) -> usize {
        self.0.values().filter(|heard| !heard.is_silent(now)).map(|heard| heard.jobs.len()).sum()
    }

    /// The age in the middle of the jobs of a kind that are in hand; one straggler does not move it.
    pub(super) fn middle_age(&self, now: Duration, kind: Kind) -> Option<Duration> {
        let live = self.0.values().filter(|heard| !heard.is_silent(now));
        let mut ages: Vec<Duration> =
            live.flat_map(|heard| heard.ages(now)).filter(|(of, _)| *of == kind).map(|(_, age)| age).collect();
        ages.sort_unstable();
        ages.get(ages.len() / 2).copied()
    }

    /// Whether somebody has lately missed a heartbeat, or ours has.
    pub(super) fn is_quiet(&self, now: Duration, is_ours: impl Fn(&str) -> bool) -> bool {
        self.0.iter().any(|(name, heard)| {
            let silence = now.saturating_sub(heard.at);
            silence > QUIET && (silence <= 2 * SILENT || is_ours(name))
        })
    }

    /// Nobody was heard for reasons of our own: that is nobody's silence.
    pub(super) fn pardon(&mut self, now: Duration) {
        for heard in self.0.values_mut() {
            heard.at = now;
            heard.idle_since = heard.idle_since.map(|_| now);
            heard.worked = None;
        }
    }
}
