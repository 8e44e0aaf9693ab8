//! The probe at start: is the store's conditional write one?
//!
//! Everything that is decided once (a result, a slice, an entry of a study's log) rests on it, and a
//! store that merely checks and then writes loses results silently. So nobody works on such a store.

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use super::{Created, Store, StoreError, get_optional, layout};

/// What to do about a store that fails.
pub(crate) const ACCEPTED: &str = "a store with atomic `If-None-Match: *` on PUT is needed, like Amazon S3 or MinIO; \
                                   on one machine a folder (GANNET_STORE=file:///path) will do";

/// Writers of one key at once.
pub const WRITERS: usize = 32;

/// Rounds, each with a new key. A store that checks and then writes is caught with near certainty in the
/// first, where 32 writers crowd into the gap; the others are for stores behind several front ends or
/// with a warm-up, and all cost less than a second on a local network.
pub const ROUNDS: usize = 3;

/// Rounds that may end undecided: a writer whose answer was lost is told of its own write as another's. A service in trouble
/// may lose every other answer, and is no reason to refuse it.
const UNDECIDED: usize = 20;

/// Lets [`WRITERS`] writers create one new key at once, [`ROUNDS`] times, and cleans up.
///
/// # Errors
/// [`StoreError::Refused`] where a round has two winners, or holds what no winner wrote; and what
/// the store itself says.
pub async fn probe(store: &Arc<dyn Store>) -> Result<(), StoreError> {
    let mut decided = 0;
    let mut undecided = 0;
    while decided < ROUNDS {
        let key = layout::probe(&uuid::Uuid::new_v4().to_string());
        let verdict = round(store, &key).await;
        // The verdict counts for more; what is left is a few bytes.
        if let Err(error) = store.delete(&key).await {
            tracing::warn!(%key, %error, "cannot remove what the probe wrote");
        }
        match verdict? {
            Verdict::Decided => decided += 1,
            Verdict::Lost if undecided < UNDECIDED => undecided += 1,
            Verdict::Lost => return Err(refused(store, "nobody was told that its write was the first")),
        }
    }
    Ok(())
}

enum Verdict {
    /// One winner, and its content.
    Decided,
    /// No winner, but somebody's content.
    Lost,
}

async fn round(store: &Arc<dyn Store>, key: &crate::names::Key) -> Result<Verdict, StoreError> {
    let bodies: Vec<Bytes> = (0..WRITERS).map(|writer| Bytes::from(format!("{key} writer {writer}"))).collect();
    let told = join_all(bodies.iter().map(|body| store.create(key, body.clone()))).await;
    let told = told.into_iter().collect::<Result<Vec<Created>, StoreError>>()?;
    let winners: Vec<&Bytes> =
        bodies.iter().zip(&told).filter(|(_, told)| **told == Created::New).map(|(body, _)| body).collect();
    let found = get_optional(&**store, key).await?;
    match (winners.as_slice(), found) {
        ([winner], Some(found)) if **winner == found => Ok(Verdict::Decided),
        ([], Some(found)) if bodies.contains(&found) => Ok(Verdict::Lost),
        ([_] | [], _) => Err(refused(store, "the object is not what the first writer wrote")),
        (many, _) => {
            let reason = format!("of {WRITERS} writers of one new key, {} were told to be the first", many.len());
            Err(refused(store, &reason))
        }
    }
}

fn refused(store: &Arc<dyn Store>, found: &str) -> StoreError {
    let reason = format!("{found}; {ACCEPTED}");
    StoreError::Refused { place: store.place(), what: "conditional writes".into(), reason }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use async_trait::async_trait;

    use super::*;
    use crate::names::Key;
    use crate::store::Entry;
    use crate::store::dir::DirStore;

    /// A store that looks first and then writes, once every writer has looked.
    #[derive(Debug)]
    struct Careless(DirStore, tokio::sync::Barrier);

    #[async_trait]
    impl Store for Careless {
        fn place(&self) -> String {
            "careless".into()
        }

        async fn create(&self, key: &Key, body: Bytes) -> Result<Created, StoreError> {
            if get_optional(&self.0, key).await?.is_some() {
                return Ok(Created::Exists);
            }
            self.1.wait().await;
            self.0.put(key, body).await.map(|()| Created::New)
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

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_store_that_looks_and_then_writes_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inner = DirStore::open(folder.path()).expect("opened");
        let store: Arc<dyn Store> = Arc::new(Careless(inner, tokio::sync::Barrier::new(WRITERS)));
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
}
