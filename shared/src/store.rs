//! The store seam: objects under keys, with one conditional write that decides everything.
//!
//! Two implementations, [`s3`] for fleets and [`dir`] for one machine, pass one contract suite
//! ([`contract_suite`], compiled for tests). [`probe`] checks at start that the conditional write is
//! one; [`layout`] says what lies where.

use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;

use crate::names::Key;

pub mod layout;

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

    /// All objects whose key begins with `prefix` (whole parts: a prefix ends at a `/`), sorted by key.
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
            Self::NotFound { .. } | Self::TooLarge { .. } | Self::Refused { .. } => false,
        }
    }
}
