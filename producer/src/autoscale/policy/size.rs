//! From what a pool needs to who is started, and who is asked to leave.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::contract::{Kind, Spare};

use super::Policy;
use super::crew::{LET_WORK, Mate, Stage};
use super::decision::{Action, Cause, Decision, Look, count, said};
use super::life::ask;
use super::need::Need;
use crate::workers::ALL_HEARD;

/// A slice that began no longer ago has done nothing yet.
const FRESH: Duration = Duration::from_secs(1);

impl Policy {
    /// Starts workers of a pool, or asks some to leave.
    pub(super) fn size(
        &mut self,
        now: Duration,
        number: usize,
        need: &Need,
        look: &Look,
        decisions: &mut Vec<Decision>,
    ) {
        let live = self.live(now, number);
        let most_needed = self.pools[number].note(now, need.workers);
        // A slice that ends is ready for a moment, and its worker still thought busy: what one look alone shows does not
        // start a worker beside others.
        let wanted = match self.last_needs.get(number) {
            Some(last) if live > 0 => need.workers.min(*last),
            _ => need.workers,
        };
        if wanted > live {
            self.start(now, number, wanted - live, need, look, decisions);
        } else if need.bounded {
            decisions.push(self.wait(number, Cause::Bound, self.bound_in_words(number, need)));
        }
        if live > most_needed && self.pools[number].is_stable(now) && now >= self.all_heard {
            self.ask_some(now, number, live - most_needed, decisions);
        }
    }

    /// Workers that are there to stay and answer, or start.
    fn live(&self, now: Duration, number: usize) -> u32 {
        let of_pool = self.crew.iter().filter(|(_, mate)| mate.pool == Some(number) && mate.is_up());
        let answers = of_pool.filter(|(name, mate)| match self.roster.0.get(*name) {
            Some(heard) => !heard.is_silent(now),
            None => self.is_starting(now, mate),
        });
        answers.count().try_into().unwrap_or(u32::MAX)
    }

    fn start(
        &mut self,
        now: Duration,
        number: usize,
        wanted: u32,
        need: &Need,
        look: &Look,
        decisions: &mut Vec<Decision>,
    ) {
        let state = &self.pools[number];
        let there =
            |of: Option<usize>| self.crew.values().filter(|mate| of.is_none() || mate.pool == of).count() as u64;
        let room_here = u64::from(state.pool.max).saturating_sub(there(Some(number)));
        let room = room_here.min(self.total.map_or(u64::MAX, |total| u64::from(total).saturating_sub(there(None))));
        if now < state.backoff.until {
            let left = said(state.backoff.until.saturating_sub(now));
            let why = format!("workers of this pool died {} times: the next is tried in {left}", state.backoff.row());
            decisions.push(self.wait(number, Cause::Backoff, why));
            return;
        }
        if now < self.all_heard && self.has_strangers(now, look) {
            let why = format!(
                "somebody takes jobs who was not heard yet: waits for the workers' word, {} at most",
                said(ALL_HEARD)
            );
            decisions.push(self.wait(number, Cause::Unseen, why));
            return;
        }
        let starts = u64::from(wanted).min(room);
        if starts < u64::from(wanted) {
            let more = u32::try_from(u64::from(wanted) - starts).unwrap_or(u32::MAX);
            let (most, of) = match self.total {
                Some(total) if room < room_here => (total, "all pools"),
                _ => (state.pool.max, "this pool"),
            };
            let why = format!(
                "{} more should be there, but with those that end {} of {of} are there, the most that are allowed",
                count(more, "worker"),
                count(most, "worker")
            );
            decisions.push(self.wait(number, Cause::Bound, why));
        }
        let (cause, why) = self.why_start(now, number, need, look);
        let mut wanting = need.wanting.clone();
        for _ in 0..starts {
            let pool = &self.pools[number].pool;
            let kinds = preferred(&pool.kinds, &mut wanting, f64::from(pool.slots));
            self.started += 1;
            let worker = format!("{}-{}-{}", self.prefix, pool.name, self.started);
            let action = Action::Start { pool: pool.name.clone(), worker: worker.clone(), kinds };
            decisions.push(Decision { action, cause, why: why.clone() });
            self.crew.insert(worker, Mate::new(Some(number), now));
        }
    }

    /// Whether more consumers take jobs than slots were heard, and not only ours that start.
    fn has_strangers(&self, now: Duration, look: &Look) -> bool {
        let heard: u64 = self.roster.0.values().map(|heard| u64::from(heard.slots)).sum();
        let starting =
            self.crew.iter().filter(|(name, mate)| self.is_starting(now, mate) && !self.roster.0.contains_key(*name));
        let starting: u64 =
            starting.filter_map(|(_, mate)| mate.pool).map(|pool| u64::from(self.pools[pool].pool.slots)).sum();
        look.consumers > heard + starting
    }

    fn why_start(&self, now: Duration, number: usize, need: &Need, look: &Look) -> (Cause, String) {
        let pool = &self.pools[number].pool;
        if need.wanting.is_empty() && need.workers <= pool.min {
            return (Cause::Minimum, format!("{} should always be there", count(pool.min, "worker")));
        }
        let ready: u64 = look.ready.iter().filter(|(kind, _)| pool.kinds.contains(kind)).map(|(_, jobs)| jobs).sum();
        let slots = need.workers.saturating_mul(pool.slots);
        let why = format!(
            "{ready} ready and {} in hand need {} to be done within {}",
            self.roster.in_flight(now),
            count(slots, "slot"),
            said(pool.clear_within),
        );
        (Cause::Backlog, why)
    }

    fn bound_in_words(&self, number: usize, need: &Need) -> String {
        let max = self.pools[number].pool.max;
        let allowed = match self.total {
            Some(total) if need.most < max => {
                format!("the most that {} of all pools leave to this one", count(total, "worker"))
            }
            _ => "the most that are allowed".into(),
        };
        format!("there is more to do than {} can, {allowed}", count(need.most, "worker"))
    }

    fn wait(&self, number: usize, cause: Cause, why: String) -> Decision {
        Decision { action: Action::Wait { pool: Some(self.pools[number].pool.name.clone()) }, cause, why }
    }

    /// Asks workers to leave that nobody would miss: those that have had nothing for longest, and where workers have many
    /// slots, those whose slices have just begun.
    fn ask_some(&mut self, now: Duration, number: usize, surplus: u32, decisions: &mut Vec<Decision>) {
        let already =
            self.crew.values().filter(|mate| mate.pool == Some(number) && matches!(mate.stage, Stage::Asked { .. }));
        let surplus = (surplus as usize).saturating_sub(already.count());
        let idle_for = self.pools[number].pool.idle;
        let spare = self.spare(now, Some(number));
        let asked = spare.len().min(surplus);
        for (name, spare) in spare.into_iter().take(surplus) {
            let why = match spare {
                Spare::Idle => format!("one too many for {}, and it has nothing in hand", said(idle_for)),
                Spare::Fresh => format!("one too many for {}, and what it has in hand has just begun", said(idle_for)),
            };
            self.ask(now, &name, spare, why, decisions);
        }
        if asked < surplus {
            let surplus = u32::try_from(surplus - asked).unwrap_or(u32::MAX);
            let why = format!("{} too many, but each has a job: waits for its end", count(surplus, "worker"));
            decisions.push(self.wait(number, Cause::Busy, why));
        }
    }

    /// Workers of pools that are no more leave as soon as they have nothing in hand.
    pub(super) fn retire(&mut self, now: Duration, decisions: &mut Vec<Decision>) {
        if now < self.all_heard {
            return;
        }
        for (name, spare) in self.spare(now, None) {
            self.ask(now, &name, spare, "its pool is no more, and it has nothing in hand".into(), decisions);
        }
    }

    fn ask(&mut self, now: Duration, name: &str, spare: Spare, why: String, decisions: &mut Vec<Decision>) {
        if let Some(mate) = self.crew.get_mut(name) {
            mate.stage = Stage::Asked { spare, said: now, times: 1 };
            decisions.push(ask(name, spare, why));
        }
    }

    /// Who may be asked, the best first. Their last word may be outdated: they decide.
    fn spare(&self, now: Duration, number: Option<usize>) -> Vec<(String, Spare)> {
        let mut spare = Vec::new();
        for (name, mate) in self.crew.iter().filter(|(_, mate)| mate.pool == number && mate.stage == Stage::Up) {
            let let_work = mate.stayed.is_some_and(|stayed| now.saturating_sub(stayed) < LET_WORK);
            let Some(heard) = self.roster.0.get(name).filter(|heard| !let_work && !heard.is_silent(now)) else {
                continue;
            };
            if let Some(since) = heard.idle_since {
                spare.push((Spare::Idle, since, name.clone()));
            } else if number.is_some_and(|number| self.pools[number].pool.slots > 1)
                && heard.ages(now).all(|(kind, age)| kind == Kind::Trial && age < FRESH)
            {
                spare.push((Spare::Fresh, heard.at, name.clone()));
            }
        }
        spare.sort_by_key(|one| (one.0 as u8, one.1));
        spare.into_iter().map(|(spare, _, name)| (name, spare)).collect()
    }
}

/// The kinds that a worker takes, first the one that most wants slots; it gets this worker's.
fn preferred(kinds: &[Kind], wanting: &mut BTreeMap<Kind, f64>, slots: f64) -> Vec<Kind> {
    let mut kinds = kinds.to_vec();
    let wants = |kind: &Kind| wanting.get(kind).copied().unwrap_or(0.0);
    // Stable: where nothing wants more, the pool's own order.
    kinds.sort_by(|one, other| wants(other).total_cmp(&wants(one)));
    if let Some(first) = kinds.first().and_then(|kind| wanting.get_mut(kind)) {
        *first -= slots;
    }
    kinds
}
