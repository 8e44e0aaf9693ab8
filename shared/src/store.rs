//! The store seam: objects under keys, with one conditional write that decides everything.
//!
//! Two implementations, [`s3`] for fleets and [`dir`] for one machine, pass one contract suite
//! (`contract_suite`, compiled for tests). [`probe`] checks at start that the conditional write is
//! one; [`layout`] says what lies where.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::digest::Digest;
use crate::names::{Key, ObjectRef};
use crate::settings::{Places, StorePlace};
use crate::strict::{self, Problem};

#[cfg(test)]
mod contract_suite;
pub mod dir;
pub mod layout;
pub mod probe;
pub mod s3;

/// Opens the store that `places` names. An S3 store is not asked anything yet, apart from looking for
/// credentials: [`probe::probe`] is the first word with it.
///
/// # Errors
/// The folder cannot be made; no credentials or no region can be found.
pub async fn open(places: &Places) -> Result<Arc<dyn Store>, StoreError> {
    match &places.store {
        StorePlace::Dir(folder) => Ok(Arc::new(dir::DirStore::open(folder)?)),
        StorePlace::S3 { bucket, prefix, endpoint } => {
            Ok(Arc::new(s3::S3Store::open(bucket, prefix, endpoint.as_deref()).await?))
        }
    }
}

/// Objects under keys. Cheap to share. Passing faults are tried again inside, with backoff and
/// jitter; what comes out is final for this call.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// Where it is, without credentials, for messages to people.
    fn place(&self) -> String;

    /// A small object, whole.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::TooLarge`] over [`MAX_SMALL`], or another.
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError>;

    /// An object of any size into a new file at `to`, streamed; returns its size in bytes. After an
    /// error the file may stand there in part.
    async fn download(&self, key: &Key, to: &Path) -> Result<u64, StoreError>;

    /// Writes an object, whatever was there.
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError>;

    /// Writes the file at `from` as an object, whatever was there, streamed.
    async fn upload(&self, key: &Key, from: &Path) -> Result<(), StoreError>;

    /// Writes an object only if there is none under this key: of any number of callers exactly one is
    /// told [`Created::New`].
    ///
    /// After a lost answer the caller's own write may be reported as [`Created::Exists`]: read it, and
    /// compare something only this writer wrote.
    async fn create(&self, key: &Key, body: Bytes) -> Result<Created, StoreError>;

    /// All objects beneath `prefix` (whole parts: a prefix ends at a `/`), sorted by key.
    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError>;

    /// The parts that follow `prefix` directly, sorted: the names of "folders" and objects in it.
    async fn children(&self, prefix: &Key) -> Result<Vec<String>, StoreError>;

    /// Removes an object; one that is not there is removed already.
    async fn delete(&self, key: &Key) -> Result<(), StoreError>;
}

/// The largest object that [`Store::get`] reads into memory, in bytes.
pub const MAX_SMALL: u64 = 64 * 1024 * 1024;

/// What a conditional write came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Created {
    /// The object is this caller's.
    New,
    /// There was one already; it is unchanged.
    Exists,
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its key.
    pub key: Key,
    /// Its size in bytes.
    pub size: u64,
    /// When it was last written, by the store's clock, where it tells.
    pub modified: Option<jiff::Timestamp>,
}

/// What can go wrong with a store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No object under this key.
    #[error("no object `{key}` in the store at {place}")]
    NotFound {
        /// The key.
        key: Key,
        /// Where, without credentials.
        place: String,
    },
    /// The object is larger than the caller can take.
    #[error("the object `{key}` has {size} bytes: at most {limit} are accepted here")]
    TooLarge {
        /// The key.
        key: Key,
        /// Its size in bytes.
        size: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// Nobody answers there, or it answers with its own troubles (500, 503, time out).
    #[error("the store at {place} cannot be reached: {reason}")]
    Unreachable {
        /// Where, without credentials.
        place: String,
        /// What was tried and what came back.
        reason: String,
    },
    /// It answers, and refuses: credentials, permissions, no such bucket, no conditional writes.
    #[error("the store at {place} refused {what}: {reason}")]
    Refused {
        /// Where, without credentials.
        place: String,
        /// What was asked.
        what: String,
        /// What it said.
        reason: String,
    },
    /// The object is not what its reference says.
    #[error(
        "the object `{key}` in the store at {place} has sha256 {found}, its reference says {expected}: put it again"
    )]
    Altered {
        /// The key.
        key: Key,
        /// Where, without credentials.
        place: String,
        /// What the reference says.
        expected: Digest,
        /// What was found.
        found: Digest,
    },
    /// The object is no document of the expected kind.
    #[error("the object `{key}` in the store at {place} cannot be read: {problem}")]
    Unreadable {
        /// The key.
        key: Key,
        /// Where, without credentials.
        place: String,
        /// What is wrong with it.
        problem: Problem,
    },
    /// The local disk failed.
    #[error("cannot {what} `{path}`")]
    Local {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl StoreError {
    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Local { .. } => true,
            Self::NotFound { .. }
            | Self::TooLarge { .. }
            | Self::Refused { .. }
            | Self::Altered { .. }
            | Self::Unreadable { .. } => false,
        }
    }
}

/// A small object, or `None` where there is none.
///
/// # Errors
/// As [`Store::get`], not found apart.
pub async fn get_optional(store: &dyn Store, key: &Key) -> Result<Option<Bytes>, StoreError> {
    match store.get(key).await {
        Ok(body) => Ok(Some(body)),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// A JSON document; unknown fields are refused where the type refuses them.
///
/// # Errors
/// As [`Store::get`]; [`StoreError::Unreadable`] names the object, the place in it and what is accepted.
pub async fn get_json<T: DeserializeOwned>(store: &dyn Store, key: &Key) -> Result<T, StoreError> {
    parse(store, key, &store.get(key).await?)
}

/// A JSON document, or `None` where there is none.
///
/// # Errors
/// As [`get_json`], not found apart.
pub async fn get_optional_json<T: DeserializeOwned>(store: &dyn Store, key: &Key) -> Result<Option<T>, StoreError> {
    get_optional(store, key).await?.map(|body| parse(store, key, &body)).transpose()
}

/// Writes a document as JSON, whatever was there.
///
/// # Errors
/// As [`Store::put`].
pub async fn put_json<T: Serialize>(store: &dyn Store, key: &Key, document: &T) -> Result<(), StoreError> {
    store.put(key, to_json(store, key, document)?).await
}

/// Writes a document as JSON only if there is none.
///
/// # Errors
/// As [`Store::create`].
pub async fn create_json<T: Serialize>(store: &dyn Store, key: &Key, document: &T) -> Result<Created, StoreError> {
    store.create(key, to_json(store, key, document)?).await
}

/// Writes a document as JSON only if there is none, and returns the one that then stands there: whoever writes
/// something that is only his into it knows whether it is his, also after a lost answer.
///
/// # Errors
/// As [`Store::create`] and [`get_json`].
pub async fn settle_json<T>(store: &dyn Store, key: &Key, document: T) -> Result<T, StoreError>
where
    T: Serialize + DeserializeOwned,
{
    let body = to_json(store, key, &document)?;
    loop {
        if store.create(key, body.clone()).await? == Created::New {
            return Ok(document);
        }
        // Deleted in between: try again.
        if let Some(found) = get_optional_json(store, key).await? {
            return Ok(found);
        }
    }
}

/// A small object whose content is what its reference says.
///
/// # Errors
/// As [`Store::get`]; [`StoreError::Altered`] where its digest differs.
pub async fn fetch_checked(store: &dyn Store, object: &ObjectRef) -> Result<Bytes, StoreError> {
    let body = store.get(&object.key).await?;
    let (key, place, expected, found) = (object.key.clone(), store.place(), object.sha256, Digest::of(&body));
    if found == expected { Ok(body) } else { Err(StoreError::Altered { key, place, expected, found }) }
}

fn parse<T: DeserializeOwned>(store: &dyn Store, key: &Key, body: &[u8]) -> Result<T, StoreError> {
    strict::json(body).map_err(|problem| StoreError::Unreadable { key: key.clone(), place: store.place(), problem })
}

fn to_json<T: Serialize>(store: &dyn Store, key: &Key, document: &T) -> Result<Bytes, StoreError> {
    let text = serde_json::to_vec(document).map_err(|error| StoreError::Unreadable {
        key: key.clone(),
        place: store.place(),
        problem: Problem { at: String::new(), what: format!("cannot be written as JSON: {error}") },
    })?;
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Document {
        epochs: u32,
    }

    async fn store() -> (tempfile::TempDir, Arc<dyn Store>) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let home = folder.path().to_str().expect("text").to_owned();
        let places = Places::read(&|name| (name == "GANNET_HOME").then(|| home.clone())).expect("valid");
        let store = open(&places).await.expect("opened");
        (folder, store)
    }

    fn key(text: &str) -> Key {
        Key::new(text).expect("a key")
    }

    #[tokio::test]
    async fn documents_come_back() {
        let (_folder, store) = store().await;
        assert_eq!(get_optional_json::<Document>(&*store, &key("a")).await.expect("read"), None);
        put_json(&*store, &key("a"), &Document { epochs: 3 }).await.expect("written");
        let created = create_json(&*store, &key("a"), &Document { epochs: 4 }).await.expect("answered");
        assert_eq!(created, Created::Exists);
        assert_eq!(get_json::<Document>(&*store, &key("a")).await.expect("read"), Document { epochs: 3 });
        for (place, epochs) in [("a", 3), ("b", 5)] {
            let stands = settle_json(&*store, &key(place), Document { epochs: 5 }).await.expect("answered");
            assert_eq!(stands, Document { epochs });
        }
    }

    #[tokio::test]
    async fn a_document_that_does_not_fit_is_told_by_its_key() {
        let (_folder, store) = store().await;
        store.put(&key("a"), r#"{"epoch": 3}"#.into()).await.expect("written");
        let error = get_json::<Document>(&*store, &key("a")).await.expect_err("unknown field");
        let text = error.to_string();
        assert!(text.starts_with("the object `a` in the store at ") && text.contains("`epoch`"), "{text}");
        assert!(!error.is_passing());
    }

    #[tokio::test]
    async fn an_altered_object_is_told_with_both_digests() {
        let (_folder, store) = store().await;
        let object = ObjectRef { key: key("a"), sha256: Digest::of(b"right") };
        store.put(&object.key, "right".into()).await.expect("written");
        assert_eq!(fetch_checked(&*store, &object).await.expect("right"), "right");
        store.put(&object.key, "wrong".into()).await.expect("written");
        let text = fetch_checked(&*store, &object).await.expect_err("altered").to_string();
        assert!(text.contains(&Digest::of(b"right").to_string()) && text.contains(&Digest::of(b"wrong").to_string()));
    }
}
