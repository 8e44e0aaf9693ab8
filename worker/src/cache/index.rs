//! What to evict. Pure: knows no files and no clock.

use std::collections::HashMap;

use shared::digest::Digest;

/// Share of the limit that an eviction leaves free, as a divisor, so that a full cache is not looked
/// through again for every object that comes.
const SLACK: u64 = 16;

/// One object in the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Item {
    /// Its size in bytes.
    pub(super) size: u64,
    /// When it was last used, in any unit that grows.
    pub(super) last_used: u64,
    /// Whether somebody works with it now.
    pub(super) pinned: bool,
}

/// What lies in the cache.
#[derive(Debug, Default)]
pub(super) struct Index(HashMap<Digest, Item>);

impl Index {
    /// Adds an object.
    pub(super) fn insert(&mut self, digest: Digest, item: Item) {
        self.0.insert(digest, item);
    }

    /// The object has gone.
    pub(super) fn remove(&mut self, digest: &Digest) {
        self.0.remove(digest);
    }

    /// The object turned out to be in use.
    pub(super) fn pin(&mut self, digest: &Digest) {
        if let Some(item) = self.0.get_mut(digest) {
            item.pinned = true;
        }
    }

    /// Whether the object is known.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.0.contains_key(digest)
    }

    /// The size of all objects in bytes.
    pub(super) fn total(&self) -> u64 {
        self.0.values().map(|item| item.size).sum()
    }

    /// The size of an object in bytes; 0 where it is not here.
    pub(super) fn size(&self, digest: &Digest) -> u64 {
        self.0.get(digest).map_or(0, |item| item.size)
    }

    /// What to evict, least recently used first: nothing up to `limit` bytes; above, as many unpinned
    /// objects as bring the total under the limit with some room to spare, or all of them.
    pub(super) fn victims(&self, limit: u64) -> Vec<Digest> {
        let mut total = self.total();
        if total <= limit {
            return Vec::new();
        }
        let aim = limit - limit / SLACK;
        let mut idle: Vec<_> = self.0.iter().filter(|(_, item)| !item.pinned).collect();
        // The digest decides between equals, so that the same cache always gives the same answer.
        idle.sort_by_key(|(digest, item)| (item.last_used, **digest));
        let mut victims = Vec::new();
        for (digest, item) in idle {
            if total <= aim {
                break;
            }
            total -= item.size;
            victims.push(*digest);
        }
        victims
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn caches() -> impl Strategy<Value = (Vec<Item>, u64)> {
        let item = (0_u64..100, 0_u64..20, any::<bool>());
        let item = item.prop_map(|(size, last_used, pinned)| Item { size, last_used, pinned });
        (proptest::collection::vec(item, 0..40), 0_u64..3_000)
    }

    fn digest(n: usize) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    fn index(items: &[Item]) -> Index {
        Index(items.iter().enumerate().map(|(n, item)| (digest(n), *item)).collect())
    }

    proptest! {
        #[test]
        fn nothing_goes_under_the_limit((items, limit) in caches()) {
            let index = index(&items);
            prop_assert_eq!(index.victims(limit).is_empty(), index.total() <= limit || items.iter().all(|item| item.pinned));
        }

        #[test]
        fn what_is_pinned_stays((items, limit) in caches()) {
            let index = index(&items);
            prop_assert!(index.victims(limit).iter().all(|victim| !index.0[victim].pinned));
        }

        #[test]
        fn it_ends_under_the_limit_where_that_is_possible((items, limit) in caches()) {
            let mut index = index(&items);
            let pinned: u64 = items.iter().filter(|item| item.pinned).map(|item| item.size).sum();
            for victim in index.victims(limit) {
                index.remove(&victim);
            }
            prop_assert!(index.total() <= limit.max(pinned));
        }

        #[test]
        fn the_least_recently_used_go_first((items, limit) in caches()) {
            let index = index(&items);
            let victims = index.victims(limit);
            let ages: Vec<u64> = victims.iter().map(|victim| index.0[victim].last_used).collect();
            prop_assert!(ages.is_sorted());
            let youngest = ages.last().copied().unwrap_or_default();
            let mut kept = index.0.iter().filter(|(digest, item)| !item.pinned && !victims.contains(digest));
            prop_assert!(victims.is_empty() || kept.all(|(_, item)| item.last_used >= youngest));
        }

        #[test]
        fn no_more_go_than_needed((items, limit) in caches()) {
            let mut index = index(&items);
            let victims = index.victims(limit);
            if let Some((_, before)) = victims.split_last() {
                before.iter().for_each(|victim| index.remove(victim));
                prop_assert!(index.total() > limit - limit / SLACK);
            }
        }
    }
}
