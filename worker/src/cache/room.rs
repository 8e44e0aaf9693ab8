//! Room in the cache: what was not used for longest goes.

use std::sync::atomic::Ordering;

use super::files::Evicted;
use super::{CacheError, Inner};

/// Share of the limit, as a divisor, that a process downloads before it looks what others brought.
const SLACK: u64 = 16;

impl Inner {
    /// `size` bytes have come.
    pub(super) fn grown(&self, size: u64) {
        if size > self.limit && !self.told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                size_mib = size >> 20,
                limit_mib = self.limit >> 20,
                "an object is larger than the whole cache: it is fetched again and again, and everything else with it; \
                 set GANNET_CACHE_MIB (--cache-mib) to some times its size"
            );
        }
        let full = {
            let mut state = self.state();
            state.used += size;
            self.counts.holds(state.used);
            state.since_look += size;
            state.used > self.limit || state.since_look > self.limit / SLACK
        };
        // The object is here all the same.
        if full && let Err(error) = self.make_room() {
            tracing::warn!(folder = %self.files.root().display(), %error, "cannot make room in the cache");
        }
    }

    /// Looks what lies here, and evicts until it is under the limit or all the rest is in use.
    pub(super) fn make_room(&self) -> Result<(), CacheError> {
        // What died in the middle of a download takes room, too.
        self.files.sweep()?;
        self.evict_down_to(self.limit).map(drop)
    }

    /// Evicts half of what is here, at least one object, and returns whether anything went.
    pub(super) fn make_room_on_the_disk(&self) -> Result<bool, CacheError> {
        self.files.sweep()?;
        let used = self.files.scan()?.total();
        let went = self.evict_down_to(used / 2)?;
        if went {
            tracing::warn!(
                folder = %self.files.root().display(),
                used_mib = used >> 20,
                limit_mib = self.limit >> 20,
                "the disk is full before the cache is: half of it goes; set GANNET_CACHE_MIB (--cache-mib) to less"
            );
        }
        Ok(went)
    }

    /// Returns whether anything went.
    fn evict_down_to(&self, limit: u64) -> Result<bool, CacheError> {
        let mut index = self.files.scan()?;
        let mut went = false;
        loop {
            let victims = index.victims(limit);
            if victims.is_empty() {
                break;
            }
            // Each round removes or pins at least one, so it ends.
            for victim in victims {
                match self.files.evict(victim) {
                    Ok(Evicted::Gone) => {
                        self.counts.evictions.inc();
                        self.counts.evicted.inc_by(index.size(&victim));
                        index.remove(&victim);
                        went = true;
                    }
                    Ok(Evicted::InUse) => index.pin(&victim),
                    Err(error) => {
                        tracing::warn!(error = %error, "an object in the cache cannot be evicted");
                        index.pin(&victim);
                    }
                }
            }
        }
        let mut state = self.state();
        state.sound.retain(|digest, _| index.contains(digest));
        state.used = index.total();
        self.counts.holds(state.used);
        state.since_look = 0;
        Ok(went)
    }
}
