//! How many slots there should be for what there is to do. A job takes a share of a slot: all of it where it lasts as long
//! as a pool may take to clear what waits, and less where it is shorter.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::contract::Kind;

use super::Policy;
use crate::autoscale::pool::Pool;

/// A word is late by a quarter of a second, and looks are a second apart at most.
const LATELY: Duration = Duration::from_secs(1);

/// What a pool needs.
#[derive(Debug, Default, Clone)]
pub(super) struct Need {
    /// Workers, between the pool's bounds.
    pub(super) workers: u32,
    /// Workers at most: what the pool's own bound and the total leave to it.
    pub(super) most: u32,
    /// Whether the bounds leave something to wait.
    pub(super) bounded: bool,
    /// What has no slot yet, in slots, by kind.
    pub(super) wanting: BTreeMap<Kind, f64>,
    /// Slots that what is in hand, and what those in place will take, fills.
    filled: f64,
}

/// A place where jobs may go.
struct Place<'a> {
    /// Its pool; `None` of others' workers.
    pool: Option<usize>,
    kinds: &'a [Kind],
    /// Slots that what is in hand leaves, in shares.
    free: f64,
}

impl Policy {
    /// What every pool needs for these jobs that nobody has taken.
    pub(super) fn needs(&self, now: Duration, ready: &BTreeMap<Kind, u64>) -> Vec<Need> {
        let mut needs = vec![Need::default(); self.pools.len()];
        let mut left: BTreeMap<Kind, f64> = ready.iter().map(|(kind, jobs)| (*kind, *jobs as f64)).collect();
        let lasts: BTreeMap<Kind, Duration> = Kind::ALL.into_iter().map(|kind| (kind, self.lasts(now, kind))).collect();
        let mut places = self.places(now, &lasts, &mut needs);
        // Others' workers first: they are there anyway. Then our pools in their order.
        places.sort_by_key(|place| place.pool.map_or(0, |pool| pool + 1));
        for place in places {
            let pool = &self.pools[place.pool.unwrap_or(0)].pool;
            let (mut free, mut taken) = (place.free, 0.0);
            for kind in place.kinds {
                let (jobs, share) = (left.entry(*kind).or_default(), pool.share(lasts[kind]));
                let takes = jobs.min(free / share);
                *jobs -= takes;
                free -= takes * share;
                taken += takes * share;
            }
            if let Some(pool) = place.pool {
                needs[pool].filled += taken;
            }
        }
        let mut total_left = self.total.unwrap_or(u32::MAX);
        // What later pools should always have is no earlier one's. Where the total does not suffice for that, earlier pools
        // have theirs first.
        let mut set_aside = self.pools.iter().fold(0_u32, |sum, state| sum.saturating_add(state.pool.min));
        for (need, state) in needs.iter_mut().zip(&self.pools) {
            let pool = &state.pool;
            set_aside = set_aside.saturating_sub(pool.min);
            let most = pool.max.min(total_left.saturating_sub(set_aside).max(pool.min.min(total_left)));
            need.most = most;
            let mut slots = need.filled;
            for kind in &pool.kinds {
                let (jobs, share) = (left.entry(*kind).or_default(), pool.share(lasts[kind]));
                let room = (f64::from(most) * f64::from(pool.slots) - slots).max(0.0);
                let wants = *jobs * share;
                let takes = wants.min(room);
                if takes > 0.0 {
                    *need.wanting.entry(*kind).or_default() += takes;
                }
                slots += takes;
                *jobs -= takes / share;
            }
            need.workers = workers_for(slots, pool).clamp(pool.min.min(most), most);
            total_left -= need.workers.min(total_left);
        }
        // What a later pool takes does not wait.
        for (need, state) in needs.iter_mut().zip(&self.pools) {
            need.bounded = state.pool.kinds.iter().any(|kind| left.get(kind).is_some_and(|jobs| *jobs > 1e-6));
        }
        needs
    }

    /// Everywhere a job may go; notes what fills the pools' slots already.
    fn places(&self, now: Duration, lasts: &BTreeMap<Kind, Duration>, needs: &mut [Need]) -> Vec<Place<'_>> {
        let mut places = Vec::new();
        for (name, heard) in &self.roster.0 {
            let mate = self.crew.get(name);
            let pool = mate.and_then(|mate| mate.pool);
            if heard.is_silent(now) || heard.draining || mate.is_some_and(|mate| !mate.is_up()) {
                continue;
            }
            let sizes = &self.pools[pool.unwrap_or(0)].pool;
            let slots = f64::from(heard.slots);
            let full: f64 = heard.ages(now).map(|(kind, age)| sizes.share(age.max(lasts[&kind]))).sum();
            // What came and went unseen needs somebody, too.
            let has_worked = heard.worked.is_some_and(|worked| now.saturating_sub(worked) < LATELY);
            let full = (full + if has_worked { sizes.share(Duration::ZERO) } else { 0.0 }).min(slots);
            if let Some(pool) = pool {
                needs[pool].filled += full;
            }
            places.push(Place { pool, kinds: &heard.kinds, free: slots - full });
        }
        for (name, mate) in &self.crew {
            if let Some(pool) = mate.pool
                && mate.is_up()
                && self.is_starting(now, mate)
                && !self.roster.0.contains_key(name)
            {
                let sizes = &self.pools[pool].pool;
                places.push(Place { pool: Some(pool), kinds: &sizes.kinds, free: f64::from(sizes.slots) });
            }
        }
        places
    }

    /// How long a job of this kind is thought to last: what was learnt, unless those in hand show that it is longer now.
    fn lasts(&self, now: Duration, kind: Kind) -> Duration {
        self.durations.of(kind).max(self.roster.middle_age(now, kind).unwrap_or_default())
    }
}

/// Whole workers for so many slots.
fn workers_for(slots: f64, pool: &Pool) -> u32 {
    // What is added up from shares may lie a hair above a whole number.
    (slots / f64::from(pool.slots.max(1)) - 1e-9).ceil().clamp(0.0, f64::from(u32::MAX)) as u32
}
