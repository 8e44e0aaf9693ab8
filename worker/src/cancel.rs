//! Whether a run or a job is cancelled: a marker in the store, read at most every two seconds a run, and the job's own
//! result. What is heard from others only makes this look at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shared::contract::JobResult;
use shared::names::{JobId, Name};
use shared::store::{Store, StoreError, get_optional, layout};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::commit::find_result;

/// How old an answer may be: what a cancellation may take to be seen.
const FRESH: Duration = Duration::from_secs(2);
/// The shortest pause between two looks, where the store fails.
const PAUSE: Duration = Duration::from_millis(500);

/// How a run stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Its jobs are to be done.
    Open,
    /// Likewise, but some may have a result before anybody takes them.
    LookFirst,
    /// Its jobs are to be dropped.
    Cancelled,
}

/// What is known of a run.
#[derive(Debug, Default)]
struct Seen {
    /// Held for look-ups only.
    answer: Mutex<Option<(Instant, Standing)>>,
    /// Held while the store is asked.
    asking: tokio::sync::Mutex<()>,
}

impl Seen {
    fn answer(&self) -> Option<(Instant, Standing)> {
        *self.answer.lock().expect("no panic holds it")
    }

    /// What need not be asked again.
    fn fresh(&self) -> Option<Standing> {
        // A cancelled run stays cancelled.
        let still = |(at, standing): &(Instant, Standing)| *standing == Standing::Cancelled || at.elapsed() < FRESH;
        self.answer().filter(still).map(|(_, standing)| standing)
    }
}

/// How the runs stand that this worker has met.
#[derive(Debug)]
pub struct Cancels {
    store: Arc<dyn Store>,
    /// Held for look-ups only, never across an await.
    seen: Mutex<HashMap<Name, Arc<Seen>>>,
    /// Counts what was heard of cancellations; everybody who waits in [`Cancels::ended`] looks then.
    heard: watch::Sender<u64>,
}

impl Cancels {
    /// None seen yet.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, seen: Mutex::new(HashMap::new()), heard: watch::Sender::new(0) }
    }

    /// How the run stands.
    ///
    /// # Errors
    /// The store fails: that says nothing about the run.
    pub async fn standing(&self, run: &Name) -> Result<Standing, StoreError> {
        let seen = self.seen(run);
        if let Some(standing) = seen.fresh() {
            return Ok(standing);
        }
        // Many jobs of a run ask at once: one question is enough. Where it failed, each asks for itself: an outage must not
        // be waited for by one after the other.
        let asking = seen.asking.try_lock();
        if asking.is_err() {
            drop(seen.asking.lock().await);
            if let Some(standing) = seen.fresh() {
                return Ok(standing);
            }
        }
        // The answer is as old as the question.
        let asked = Instant::now();
        let (cancelled, look) = (layout::cancelled(run), layout::look(run));
        let store = self.store.as_ref();
        let standing = match tokio::try_join!(get_optional(store, &cancelled), get_optional(store, &look))? {
            (Some(_), _) => Standing::Cancelled,
            (None, Some(_)) => Standing::LookFirst,
            (None, None) => Standing::Open,
        };
        *seen.answer.lock().expect("no panic holds it") = Some((asked, standing));
        Ok(standing)
    }

    fn seen(&self, run: &Name) -> Arc<Seen> {
        let mut all = self.seen.lock().expect("no panic holds it");
        if let Some(seen) = all.get(run) {
            return Arc::clone(seen);
        }
        all.retain(|_, seen| seen.answer().is_none_or(|(at, _)| at.elapsed() < 60 * FRESH));
        Arc::clone(all.entry(run.clone()).or_default())
    }

    /// Looks again, now: somebody said that this run or a job of it was cancelled. The answer to a question that is under way
    /// may be older than the word, and is forgotten, too.
    pub fn forget(&self, run: &Name) {
        self.seen.lock().expect("no panic holds it").remove(run);
        self.heard.send_modify(|count| *count += 1);
    }

    /// Returns once nobody needs the job any more: with its result, or with none where its run is cancelled.
    ///
    /// The first look comes after `FRESH`, so that short jobs cost none.
    pub async fn ended(&self, run: &Name, job: &JobId) -> Option<JobResult> {
        let mut heard = self.heard.subscribe();
        let mut looked = Instant::now();
        loop {
            // The run's answer may be older than the job's, where another job asked for it.
            let due = self.due(run).min(looked + FRESH).max(Instant::now() + PAUSE);
            let told = tokio::select! {
                () = sleep_until(due) => false,
                _ = heard.changed() => true,
            };
            if matches!(self.standing(run).await, Ok(Standing::Cancelled)) {
                return None;
            }
            if told || looked.elapsed() >= FRESH {
                looked = Instant::now();
                if let Ok(Some(result)) = find_result(self.store.as_ref(), run, job).await {
                    return Some(result);
                }
            }
        }
    }

    /// When the run's answer is no longer fresh.
    fn due(&self, run: &Name) -> Instant {
        self.seen(run).answer().map_or_else(Instant::now, |(at, _)| at + FRESH)
    }
}

#[cfg(test)]
mod tests {
    use shared::contract::Kind;
    use shared::store::create_json;
    use shared::store::dir::DirStore;

    use super::*;
    use crate::counting::Counting;

    /// Longer than anything takes on a machine under load.
    const LIMIT: Duration = Duration::from_secs(60);

    fn cancels() -> (tempfile::TempDir, Arc<dyn Store>, Cancels, Name, JobId) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store: Arc<dyn Store> = Arc::new(DirStore::open(folder.path()).expect("a store"));
        let cancels = Cancels::new(Arc::clone(&store));
        (folder, store, cancels, Name::new("r").expect("a name"), JobId::new("j").expect("an id"))
    }

    #[tokio::test]
    async fn many_that_ask_at_once_are_one_question() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Arc::new(Counting::new(DirStore::open(folder.path()).expect("a store")));
        let cancels = Cancels::new(Arc::clone(&store) as Arc<dyn Store>);
        let run = Name::new("r").expect("a name");
        let standings = futures::future::join_all((0..50).map(|_| cancels.standing(&run))).await;
        assert!(standings.into_iter().all(|standing| standing.expect("read") == Standing::Open));
        assert_eq!(store.gets(), 2, "a look at each of the two markers");
    }

    async fn mark(store: &dyn Store, key: &shared::names::Key) {
        store.put(key, "{}".into()).await.expect("written");
    }

    #[tokio::test]
    async fn a_run_is_open_then_suspect_then_cancelled() {
        let (_folder, store, cancels, run, _) = cancels();
        let standing = async || cancels.standing(&run).await.expect("read");
        assert_eq!(standing().await, Standing::Open);
        mark(&*store, &layout::look(&run)).await;
        assert_eq!(standing().await, Standing::Open, "an answer of a moment ago will do");
        cancels.forget(&run);
        assert_eq!(standing().await, Standing::LookFirst);
        mark(&*store, &layout::cancelled(&run)).await;
        cancels.forget(&run);
        assert_eq!(standing().await, Standing::Cancelled);
    }

    #[tokio::test]
    async fn a_result_of_the_job_or_a_marker_of_its_run_ends_the_wait_also_where_nobody_tells() {
        let (_folder, store, cancels, run, job) = cancels();
        let result = JobResult::cancelled(run.clone(), job.clone(), Kind::Trial, "test".into());
        let waits = tokio::time::timeout(LIMIT, cancels.ended(&run, &job));
        let (ended, _) = tokio::join!(waits, async {
            create_json(&*store, &layout::result(&run, &job), &result).await.expect("written");
        });
        assert_eq!(ended.expect("in time"), Some(result));

        let other = JobId::new("other").expect("an id");
        let waits = tokio::time::timeout(LIMIT, cancels.ended(&run, &other));
        let marker = layout::cancelled(&run);
        let (ended, ()) = tokio::join!(waits, mark(&*store, &marker));
        assert_eq!(ended.expect("in time"), None);
    }

    #[tokio::test]
    async fn a_word_ends_the_wait_at_once() {
        let (_folder, store, cancels, run, job) = cancels();
        let begun = Instant::now();
        let (ended, ()) = tokio::join!(cancels.ended(&run, &job), async {
            mark(&*store, &layout::cancelled(&run)).await;
            tokio::task::yield_now().await;
            cancels.forget(&run);
        });
        assert_eq!(ended, None);
        assert!(begun.elapsed() < LIMIT);
    }
}
