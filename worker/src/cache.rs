//! The worker's cache: objects of the store as files on this host, by content.
//!
//! One download serves every slot of every worker process on the host. A file is never trusted blindly:
//! it is hashed when it arrives and again the first time a process uses it. Nothing here that cannot be
//! fetched again, so the folder may be deleted whenever no worker runs. Knows no jobs and no tensors.
//!
//! How processes keep out of each other's way, all by locks that the kernel drops with their holder:
//! - whoever downloads, checks or evicts an object holds the *stripe* of its digest (`locks/<3 digits>`);
//!   the others look again now and then, and then find the file there;
//! - whoever uses an object holds a shared lock on the file itself, its *pin*; an eviction needs the
//!   exclusive one. A file is pinned before it gets its name, so there is no moment to lose it in.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shared::contract::ErrorCode;
use shared::digest::Digest;
use shared::names::ObjectRef;
use shared::store::{Store, StoreError};

mod counts;
mod files;
mod index;
mod room;

use crate::compute::is_full;
use crate::failpoint;
pub use counts::Counts;
use files::{Files, Incoming, Pin, Stripe, lacks_descriptors};

/// How long to wait before looking again for a file that somebody else downloads. Looking costs some
/// microseconds; a lock that is waited for would hold a thread, and outlive a job that was cancelled.
const PAUSE: Duration = Duration::from_millis(20);

/// A content-addressed cache in a folder. Cheap to clone; many processes may open one folder.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

/// An object's file. It stays where it is while this lives.
#[derive(Debug)]
pub struct Cached {
    /// The file; read only.
    pub path: PathBuf,
    /// What had to be downloaded for this call, in bytes; 0 where the file was there.
    pub bytes_fetched: u64,
    /// The shared lock that keeps it.
    _pin: Pin,
}

/// Why an object cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The store has it not, not as its reference says, or is not to be reached.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No space is left.
    #[error("the disk of the cache `{folder}` is full: free some space, give the cache a lower limit, or move it")]
    Full {
        /// The cache's folder.
        folder: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk failed.
    #[error("cannot {what} `{path}` in the cache")]
    Disk {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl CacheError {
    /// The stable code of an [`shared::contract::ErrorReport`].
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Store(StoreError::NotFound { .. }) => ErrorCode::MissingObject,
            Self::Store(StoreError::Altered { .. } | StoreError::Unreadable { .. }) => ErrorCode::AlteredObject,
            Self::Store(
                StoreError::TooLarge { .. }
                | StoreError::Unreachable { .. }
                | StoreError::Refused { .. }
                | StoreError::Local { .. },
            )
            | Self::Full { .. }
            | Self::Disk { .. } => ErrorCode::Failed,
        }
    }

    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Store(error) => error.is_passing(),
            // Somebody makes room.
            Self::Full { .. } => true,
            Self::Disk { source, .. } => lacks_descriptors(source),
        }
    }
}

impl Cache {
    /// Opens the cache in `folder`, which is made where missing, and removes what dead processes left.
    /// Blocks on the disk for a moment.
    ///
    /// The cache holds at most `limit` bytes, apart from what is in use, and from what other processes
    /// on the host have brought since this one last looked: a sixteenth of the limit each.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(folder: impl Into<PathBuf>, limit: u64) -> Result<Self, CacheError> {
        Self::open_counted(folder, limit, Counts::default())
    }

    /// As [`Cache::open`], and counts what it does there.
    ///
    /// # Errors
    /// Likewise.
    pub fn open_counted(folder: impl Into<PathBuf>, limit: u64, counts: Counts) -> Result<Self, CacheError> {
        let files = Files::open(folder.into())?;
        let inner = Inner { files, limit, counts, told: AtomicBool::new(false), state: Mutex::default() };
        inner.make_room()?;
        Ok(Self(Arc::new(inner)))
    }

    /// The object's file, downloaded from `store` where this host has no sound one. Cancel-safe.
    ///
    /// # Errors
    /// An object whose content is not what `object` says is [`StoreError::Altered`], after one download.
    pub async fn fetch(&self, store: &dyn Store, object: &ObjectRef) -> Result<Cached, CacheError> {
        let digest = object.sha256;
        // A few system calls, less than the way to another thread and back.
        if let Some(pin) = self.0.known(digest) {
            self.0.counts.hits.inc();
            return Ok(self.cached(digest, 0, pin));
        }
        let stripe = loop {
            match self.blocking(move |inner| inner.look(digest)).await? {
                Look::Here(pin) => {
                    self.0.counts.hits.inc();
                    return Ok(self.cached(digest, 0, pin));
                }
                Look::Absent(stripe) => break stripe,
                Look::Busy => tokio::time::sleep(PAUSE).await,
            }
        };
        self.0.counts.misses.inc();
        let (incoming, size) = self.download(store, object).await?;
        self.0.counts.fetched.inc_by(size);
        let (place, key) = (store.place(), object.key.clone());
        let accept = move |inner: &Inner| match inner.accept(digest, &incoming)? {
            Ok(pin) => {
                // Room is made without it: an eviction takes the stripes of what it evicts.
                drop(stripe);
                inner.grown(size);
                Ok(pin)
            }
            Err(found) => Err(StoreError::Altered { key, place, expected: digest, found }.into()),
        };
        Ok(self.cached(digest, size, self.blocking(accept).await?))
    }

    /// Lets go of what was not used for longest, since the disk is full: whatever else is written there comes first.
    /// Returns whether anything went.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub async fn make_room(&self) -> Result<bool, CacheError> {
        self.blocking(Inner::make_room_on_the_disk).await
    }

    /// Downloads the object under a name that nobody looks for. A disk that is full of what this cache holds is no full
    /// disk: what was not used for longest goes.
    async fn download(&self, store: &dyn Store, object: &ObjectRef) -> Result<(Incoming, u64), CacheError> {
        loop {
            let incoming = self.0.files.incoming(object.sha256);
            let stored = store.download(&object.key, incoming.path()).await.map_err(|error| self.0.not_stored(error));
            match stored {
                Ok(size) => return Ok((incoming, size)),
                Err(error @ CacheError::Full { .. }) => {
                    drop(incoming);
                    if !self.make_room().await? {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn cached(&self, digest: Digest, bytes_fetched: u64, pin: Pin) -> Cached {
        Cached { path: self.0.files.object(digest), bytes_fetched, _pin: pin }
    }

    /// Runs file work off the runtime.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, CacheError> + Send + 'static,
    ) -> Result<T, CacheError> {
        let inner = Arc::clone(&self.0);
        let done = tokio::task::spawn_blocking(move || work(&inner)).await;
        done.unwrap_or_else(|error| Err(self.0.files.failed("work in", self.0.files.root())(io::Error::other(error))))
    }
}

/// What looking for an object came to.
enum Look {
    /// It is here, sound, and pinned.
    Here(Pin),
    /// It is not, and the caller may download it while it holds this.
    Absent(Stripe),
    /// Somebody else is at it.
    Busy,
}

#[derive(Debug)]
struct Inner {
    files: Files,
    limit: u64,
    counts: Counts,
    /// Whether it was told that an object is larger than the limit.
    told: AtomicBool,
    /// Held for moments, never across file work.
    state: Mutex<State>,
}

/// What this process knows.
#[derive(Debug, Default)]
struct State {
    /// Files that this process has hashed, by inode and size: the same file need not be hashed again,
    /// and one that was cut or replaced shows.
    sound: HashMap<Digest, (u64, u64)>,
    /// The size of all files in bytes, as far as this process knows.
    used: u64,
    /// Bytes that it has brought since it last looked at all files.
    since_look: u64,
}

impl Inner {
    /// The object, if this process has hashed its file before.
    fn known(&self, digest: Digest) -> Option<Pin> {
        let identity = self.state().sound.get(&digest).copied()?;
        self.files.pin(digest).filter(|pin| pin.identity() == identity).inspect(Pin::touch)
    }

    fn look(&self, digest: Digest) -> Result<Look, CacheError> {
        if let Some(pin) = self.known(digest) {
            return Ok(Look::Here(pin));
        }
        let Some(stripe) = self.files.try_stripe(digest)? else { return Ok(Look::Busy) };
        // Looked for again: it may have come between the two steps.
        let Some(pin) = self.files.pin(digest) else { return Ok(Look::Absent(stripe)) };
        if self.state().sound.get(&digest) != Some(&pin.identity()) {
            // The first use by this process. Hashing costs a fraction of a download, finds rotten disks and
            // files that a power cut left in pieces, and so spares every download an fsync.
            let path = self.files.object(digest);
            let problem = match pin.hash() {
                Ok(found) if found == digest => None,
                Ok(found) => Some(format!("its sha256 is {found}")),
                Err(error) => Some(error.to_string()),
            };
            if let Some(problem) = problem {
                tracing::warn!(file = %path.display(), problem, "a file in the cache is damaged: it is fetched again");
                return Ok(Look::Absent(stripe));
            }
            self.state().sound.insert(digest, pin.identity());
        }
        pin.touch();
        Ok(Look::Here(pin))
    }

    /// Takes a download in where it holds what it should; else tells what it holds.
    fn accept(&self, digest: Digest, incoming: &Incoming) -> Result<Result<Pin, Digest>, CacheError> {
        let pin = Pin::of(incoming.path()).map_err(self.files.failed("open", incoming.path()))?;
        let found = pin.hash().map_err(self.files.failed("read", incoming.path()))?;
        if found != digest {
            return Ok(Err(found));
        }
        pin.touch();
        failpoint::pass("cache-places");
        self.files.settle(digest, incoming)?;
        failpoint::pass("cache-has-placed");
        self.state().sound.insert(digest, pin.identity());
        Ok(Ok(pin))
    }

    /// A download that failed; the disk it failed on may be ours.
    fn not_stored(&self, error: StoreError) -> CacheError {
        match error {
            StoreError::Local { what, path, source } => self.files.failed(what, &path)(source),
            error => error.into(),
        }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // A panic elsewhere leaves nothing half done here.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Files {
    /// An error of the disk, told by what it means.
    fn failed(&self, what: &'static str, path: &Path) -> impl Fn(io::Error) -> CacheError {
        let (folder, path) = (self.root().to_owned(), path.to_owned());
        move |source| match is_full(&source) {
            true => CacheError::Full { folder: folder.clone(), source },
            false => CacheError::Disk { what, path: path.clone(), source },
        }
    }
}

#[cfg(test)]
mod tests;
