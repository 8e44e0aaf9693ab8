//! Whether a run is cancelled: its marker in the store, read at most every two seconds a run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use shared::names::Name;
use shared::store::{Store, StoreError, layout};

/// How old an answer may be: what a cancel may take to be seen.
pub const FRESH: Duration = Duration::from_secs(2);

/// The cancel markers of the runs that this worker has met.
#[derive(Debug)]
pub struct Cancels {
    store: Arc<dyn Store>,
    /// Held for look-ups only, never across an await.
    seen: Mutex<HashMap<Name, (Instant, bool)>>,
}

impl Cancels {
    /// None seen yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, seen: Mutex::new(HashMap::new()) }
    }

    /// Whether the run has a marker.
    pub async fn is_cancelled(&self, run: &Name) -> Result<bool, StoreError> {
        if let Some((at, cancelled)) = self.seen.lock().expect("no panic holds it").get(run)
            // A cancelled run stays cancelled.
            && (*cancelled || at.elapsed() < FRESH)
        {
            return Ok(*cancelled);
        }
        let cancelled = match self.store.get(&layout::cancelled(run)).await {
            Ok(_) => true,
            Err(StoreError::NotFound { .. }) => false,
            Err(error) => return Err(error),
        };
        let mut seen = self.seen.lock().expect("no panic holds it");
        seen.retain(|_, (at, _)| at.elapsed() < 60 * FRESH);
        seen.insert(run.clone(), (Instant::now(), cancelled));
        Ok(cancelled)
    }

    /// Looks again at the next question: somebody said that this run was cancelled.
    pub fn forget(&self, run: &Name) {
        self.seen.lock().expect("no panic holds it").remove(run);
    }
}
