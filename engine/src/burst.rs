//! Work that is done once, before anything is computed, on all of the machine's cores: a first job waits for it, whatever number
//! of threads it is computed with.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Threads at most: what is done here waits for memory.
const MOST: usize = 8;
/// Floats that are worth another thread.
const WORTH: usize = 1 << 20;

/// Calls `f` with each item, the work being about as much as writing so many floats. What each call does must not depend on the others.
pub fn burst<T: Send>(floats: usize, items: impl Iterator<Item = T> + Send, f: impl Fn(T) + Sync) {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    let others = (floats / WORTH).min(cores).min(MOST).saturating_sub(1);
    let items = Mutex::new(items);
    let work = || {
        loop {
            // The lock is given back before the call.
            let next = items.lock().unwrap_or_else(PoisonError::into_inner).next();
            match next {
                Some(item) => f(item),
                None => break,
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..others {
            // Where the system gives no thread, this one does it all.
            if thread::Builder::new().spawn_scoped(scope, work).is_err() {
                break;
            }
        }
        work();
    });
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn every_item_comes_once() {
        for floats in [0, 100 * WORTH] {
            let counts: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
            burst(floats, counts.iter(), |count| {
                count.fetch_add(1, Ordering::Relaxed);
            });
            assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }
}
