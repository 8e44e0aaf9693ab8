//! The probe at start: is the store's conditional write one?
//!
//! Everything that is decided once (a result, a slice, an entry of a study's log) rests on it, and a
//! store that merely checks and then writes loses results silently. So nobody works on such a store.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use super::{Created, Store, StoreError, get_optional, layout};
use crate::names::Key;

/// What to do about a store that fails.
pub(crate) const ACCEPTED: &str = "a store with atomic `If-None-Match: *` on PUT is needed, like Amazon S3 or MinIO; \
                                   on one machine a folder (GANNET_STORE=file:///path) will do";

/// Writers of one key at once.
pub const WRITERS: usize = 32;

/// Rounds, each with a new key. A store that checks and then writes is caught with near certainty in the
/// first, where 32 writers crowd into the gap; the others are for stores behind several front ends or
/// with a warm-up, and all cost less than a second on a local network.
pub const ROUNDS: usize = 3;

/// Rounds that may end undecided: a writer whose answer was lost is told of its own write as another's, or of nothing. A
/// service in trouble may lose every other answer, and is no reason to refuse it.
const UNDECIDED: usize = 20;

/// Writers of a round that may be left without an answer: a busy service turns many away. The others are still enough to
/// crowd into the gap of a store that checks and then writes.
const UNHEARD: usize = WRITERS * 3 / 4;

/// Rounds that may fail with a passing error once one was decided: the store is there, and busy.
const FAILED: usize = 5;

/// Lets [`WRITERS`] writers create one new key at once, until [`ROUNDS`] rounds of it are decided, and cleans up. A round is
/// decided by the writers that got an answer.
///
/// # Errors
/// [`StoreError::Refused`] where a round has two winners, or holds what no winner wrote; and what
/// the store itself says.
pub async fn probe(store: &Arc<dyn Store>) -> Result<(), StoreError> {
    let (mut decided, mut undecided, mut failed) = (0, 0, 0);
    while decided < ROUNDS {
        let key = layout::probe(&uuid::Uuid::new_v4().to_string());
        let verdict = round(store, &key).await;
        // The verdict counts for more; what is left is a few bytes.
        if let Err(error) = store.delete(&key).await {
            tracing::warn!(%key, %error, "cannot remove what the probe wrote");
        }
        match verdict {
            Ok(Verdict::Decided) => decided += 1,
            Ok(Verdict::Lost) if undecided < UNDECIDED => undecided += 1,
            Ok(Verdict::Lost) => return Err(refused(store, "nobody was told that its write was the first")),
            // The store has waited between its own attempts.
            Err(error) if error.is_passing() && decided > 0 && failed < FAILED => {
                tracing::debug!(%error, "probes once more");
                failed += 1;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[derive(Debug)]
enum Verdict {
    /// One winner, and its content.
    Decided,
    /// No winner that was heard, but somebody's content.
    Lost,
}

async fn round(store: &Arc<dyn Store>, key: &Key) -> Result<Verdict, StoreError> {
    let bodies: Vec<Bytes> = (0..WRITERS).map(|writer| Bytes::from(format!("{key} writer {writer}"))).collect();
    let told = join_all(bodies.iter().map(|body| store.create(key, body.clone()))).await;
    let (mut winners, mut unheard) = (Vec::new(), Vec::new());
    for (body, told) in bodies.iter().zip(told) {
        match told {
            Ok(Created::New) => winners.push(body),
            Ok(Created::Exists) => {}
            Err(error) if error.is_passing() => unheard.push(error),
            Err(error) => return Err(error),
        }
    }
    if winners.len() > 1 {
        let reason = format!("of {WRITERS} writers of one new key, {} were told to be the first", winners.len());
        return Err(refused(store, &reason));
    }
    if unheard.len() > UNHEARD
        && let Some(error) = unheard.pop()
    {
        return Err(error);
    }
    match (winners.pop(), get_optional(&**store, key).await?) {
        (Some(winner), Some(found)) if *winner == found => Ok(Verdict::Decided),
        // Written by one whose answer was lost.
        (None, Some(found)) if bodies.contains(&found) => Ok(Verdict::Lost),
        _ => Err(refused(store, "the object is not what the first writer wrote")),
    }
}

fn refused(store: &Arc<dyn Store>, found: &str) -> StoreError {
    let reason = format!("{found}; {ACCEPTED}");
    StoreError::Refused { place: store.place(), what: "conditional writes".into(), reason }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use async_trait::async_trait;
    use futures::future::BoxFuture;

    use super::*;
    use crate::store::Entry;
    use crate::store::dir::DirStore;

    /// A folder whose conditional writes are answered by `answer`, after it has done what it wants with the folder.
    struct Answering<F>(DirStore, F);

    impl<F> std::fmt::Debug for Answering<F> {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Answering")
        }
    }

    type Answer<'a> = BoxFuture<'a, Result<Created, StoreError>>;

    #[async_trait]
    impl<F: for<'a> Fn(&'a DirStore, &'a Key, Bytes) -> Answer<'a> + Send + Sync> Store for Answering<F> {
        fn place(&self) -> String {
            "careless".into()
        }

        async fn create(&self, key: &Key, body: Bytes) -> Result<Created, StoreError> {
            self.1(&self.0, key, body).await
        }

        async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
            self.0.get(key).await
        }

        async fn download(&self, key: &Key, to: &Path) -> Result<u64, StoreError> {
            self.0.download(key, to).await
        }

        async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
            self.0.put(key, body).await
        }

        async fn upload(&self, key: &Key, from: &Path) -> Result<(), StoreError> {
            self.0.upload(key, from).await
        }

        async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
            self.0.list(prefix).await
        }

        async fn children(&self, prefix: &Key) -> Result<Vec<String>, StoreError> {
            self.0.children(prefix).await
        }

        async fn delete(&self, key: &Key) -> Result<(), StoreError> {
            self.0.delete(key).await
        }
    }

    fn store<F>(folder: &tempfile::TempDir, create: F) -> Arc<dyn Store>
    where
        F: for<'a> Fn(&'a DirStore, &'a Key, Bytes) -> Answer<'a> + Send + Sync + 'static,
    {
        Arc::new(Answering(DirStore::open(folder.path()).expect("opened"), create))
    }

    fn busy() -> StoreError {
        StoreError::Unreachable { place: "busy".into(), reason: "503".into() }
    }

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_store_that_looks_and_then_writes_is_refused() {
        let folder = folder();
        // Once every writer has looked.
        let looked = Arc::new(tokio::sync::Barrier::new(WRITERS));
        let store = store(&folder, move |inner, key, body| {
            let looked = Arc::clone(&looked);
            Box::pin(async move {
                if get_optional(inner, key).await?.is_some() {
                    return Ok(Created::Exists);
                }
                looked.wait().await;
                inner.put(key, body).await.map(|()| Created::New)
            })
        });
        let error = probe(&store).await.expect_err("two winners").to_string();
        assert!(
            error
                .starts_with("the store at careless refused conditional writes: of 32 writers of one new key, 32 were"),
            "{error}"
        );
        assert!(error.contains("MinIO"), "{error}");
        let left = store.children(&Key::new("probe").expect("a key")).await.expect("listed");
        assert!(left.is_empty(), "{left:?}");
    }

    /// Every so many'th writer gets an answer, the first of all among them.
    fn hears_one_in(folder: &tempfile::TempDir, many: usize) -> Arc<dyn Store> {
        let asked = AtomicUsize::new(0);
        store(folder, move |inner, key, body| {
            let is_heard = asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(many);
            Box::pin(async move { if is_heard { inner.create(key, body).await } else { Err(busy()) } })
        })
    }

    #[tokio::test]
    async fn a_round_is_decided_by_those_that_are_heard() {
        probe(&hears_one_in(&folder(), 4)).await.expect("three quarters may be turned away");
        let error = probe(&hears_one_in(&folder(), 5)).await.expect_err("too few").to_string();
        assert!(error.contains("503"), "{error}");
    }

    #[tokio::test]
    async fn a_store_that_is_busy_after_the_first_round_is_asked_again() {
        let folder = folder();
        let asked = AtomicUsize::new(0);
        let store = store(&folder, move |inner, key, body| {
            let round = asked.fetch_add(1, Ordering::Relaxed) / WRITERS;
            Box::pin(async move { if round.is_multiple_of(3) { inner.create(key, body).await } else { Err(busy()) } })
        });
        probe(&store).await.expect("it answers now and then");
    }

    #[tokio::test]
    async fn a_winner_whose_answer_is_lost_leaves_a_round_undecided_and_two_that_are_heard_are_too_many() {
        let (first, second) = (folder(), folder());
        let loses_it = store(&first, |inner, key, body| {
            Box::pin(async move {
                match inner.create(key, body).await? {
                    Created::New => Err(busy()),
                    Created::Exists => Ok(Created::Exists),
                }
            })
        });
        let error = probe(&loses_it).await.expect_err("always").to_string();
        assert!(error.contains("nobody was told that its write was the first"), "{error}");

        let asked = AtomicUsize::new(0);
        let two_win = store(&second, move |inner, key, body| {
            let number = asked.fetch_add(1, Ordering::Relaxed);
            Box::pin(
                async move { if number < 2 { inner.put(key, body).await.map(|()| Created::New) } else { Err(busy()) } },
            )
        });
        let error = probe(&two_win).await.expect_err("two winners").to_string();
        assert!(error.contains("2 were told to be the first"), "{error}");
    }
}
