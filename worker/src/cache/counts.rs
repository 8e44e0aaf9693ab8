//! What a cache does, counted.

use shared::metrics::{Counter, Gauge, Registry, Unit};

/// Counts what a cache does. Clones count together.
#[derive(Debug, Clone, Default)]
pub struct Counts {
    /// Objects that were there.
    pub(super) hits: Counter,
    /// Objects that had to be downloaded.
    pub(super) misses: Counter,
    /// Bytes that were downloaded.
    pub(super) fetched: Counter,
    /// Objects that went.
    pub(super) evictions: Counter,
    /// Their bytes.
    pub(super) evicted: Counter,
    /// Bytes that are there, as far as this process knows.
    used: Gauge,
}

impl Counts {
    pub(super) fn holds(&self, bytes: u64) {
        self.used.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Names them, and the cache's `limit` in bytes beside them.
    pub(crate) fn register(&self, registry: &mut Registry, limit: u64) {
        registry.register("gannet_cache_hits", "Objects that were in the cache", self.hits.clone());
        registry.register("gannet_cache_misses", "Objects that were fetched from the store", self.misses.clone());
        registry.register("gannet_cache_evictions", "Objects that had to go from the cache", self.evictions.clone());
        let mut bytes = |name: &str, help: &str, metric: &Counter| {
            registry.register_with_unit(name, help, Unit::Bytes, metric.clone());
        };
        bytes("gannet_cache_fetched", "Fetched from the store", &self.fetched);
        bytes("gannet_cache_evicted", "Gone from the cache", &self.evicted);
        let most = Gauge::<i64>::default();
        most.set(i64::try_from(limit).unwrap_or(i64::MAX));
        registry.register_with_unit("gannet_cache_used", "In the cache", Unit::Bytes, self.used.clone());
        registry.register_with_unit("gannet_cache_limit", "What the cache may hold", Unit::Bytes, most);
    }
}
