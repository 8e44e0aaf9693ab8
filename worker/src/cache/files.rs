//! The cache's folder: `objects/<2 digits>/<sha256>`, `locks/<3 digits>`, `incoming/<sha256>.<unique>`.
//!
//! Every step here is one that a crash may follow. Decides nothing.

use std::fs::{self, File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use shared::digest::Digest;

use super::CacheError;
use super::index::{Index, Item};
use crate::failpoint;

/// How long a use of a file stands for the next ones: noting each would be a write to the disk each.
const NOTED: Duration = Duration::from_secs(1);

/// The folder.
#[derive(Debug)]
pub(super) struct Files {
    root: PathBuf,
}

/// The right to download, check or evict the objects of one stripe: a locked file. There are 4096, made
/// as needed and never removed; two objects rarely share one, and then only wait for each other.
#[derive(Debug)]
pub(super) struct Stripe {
    _lock: File,
}

/// An object's file under a shared lock: nobody evicts it.
#[derive(Debug)]
pub(super) struct Pin {
    file: File,
    inode: u64,
    size: u64,
    used: Option<SystemTime>,
}

/// A file that is being downloaded; removed when this is dropped, unless it was settled.
#[derive(Debug)]
pub(super) struct Incoming(PathBuf);

/// What an eviction came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Evicted {
    /// The file has gone, whoever removed it.
    Gone,
    /// Somebody uses, downloads or checks it.
    InUse,
}

impl Files {
    pub(super) fn open(root: PathBuf) -> Result<Self, CacheError> {
        let files = Self { root };
        for part in ["objects", "locks", "incoming"] {
            let folder = files.root.join(part);
            fs::create_dir_all(&folder).map_err(files.failed("make the folder", &folder))?;
        }
        files.sweep()?;
        Ok(files)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Where an object lies, if it is here.
    pub(super) fn object(&self, digest: Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join("objects").join(&name[..2]).join(name)
    }

    /// A new name for a download of `digest`. Unique, because a download that was cancelled may go on
    /// writing for a moment.
    pub(super) fn incoming(&self, digest: Digest) -> Incoming {
        Incoming(self.root.join("incoming").join(format!("{digest}.{}", uuid::Uuid::new_v4())))
    }

    /// The object's file, if it is here and nobody is evicting it. What cannot be opened is no file of ours.
    pub(super) fn pin(&self, digest: Digest) -> Option<Pin> {
        let path = self.object(digest);
        match Pin::of(&path) {
            // Without a name it has been evicted or replaced since it was opened.
            Ok(pin) => pin.has_name().then_some(pin),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::WouldBlock) => None,
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "a file in the cache cannot be used: it is fetched again");
                None
            }
        }
    }

    /// The stripe of `digest`, unless somebody else has it.
    pub(super) fn try_stripe(&self, digest: Digest) -> Result<Option<Stripe>, CacheError> {
        let path = self.root.join("locks").join(&digest.to_string()[..3]);
        let failed = self.failed("lock", &path);
        let file = File::options().create(true).append(true).open(&path).map_err(&failed)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Stripe { _lock: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Gives a download its name, in place of a damaged file if there is one, or of whatever else is in its way.
    pub(super) fn settle(&self, digest: Digest, incoming: &Incoming) -> Result<(), CacheError> {
        let path = self.object(digest);
        let folder = path.parent().unwrap_or(&self.root);
        let place = || {
            fs::create_dir_all(folder)?;
            fs::rename(incoming.path(), &path)
        };
        let in_the_way = |error: io::Error| match error.kind() {
            ErrorKind::IsADirectory => remove(&path),
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => fs::remove_file(folder),
            _ => Err(error),
        };
        place().or_else(|error| in_the_way(error).and_then(|()| place())).map_err(self.failed("place", &path))
    }

    /// Removes an object that nobody uses.
    pub(super) fn evict(&self, digest: Digest) -> Result<Evicted, CacheError> {
        let path = self.object(digest);
        let failed = self.failed("evict", &path);
        // Whoever has the stripe may be about to put a new file in this one's place.
        let Some(_stripe) = self.try_stripe(digest)? else { return Ok(Evicted::InUse) };
        let file = match open(&path) {
            Ok(file) => Some(file),
            Err(error) if lacks_descriptors(&error) => return Err(failed(error)),
            // What cannot be opened nobody uses.
            Err(_) => None,
        };
        match file.as_ref().map_or(Ok(()), File::try_lock) {
            Ok(()) => {
                failpoint::pass("cache-evicts");
                remove(&path).map_err(failed)?;
                failpoint::pass("cache-has-evicted");
                Ok(Evicted::Gone)
            }
            Err(TryLockError::WouldBlock) => Ok(Evicted::InUse),
            Err(TryLockError::Error(error)) => Err(failed(error)),
        }
    }

    /// Every object that is here. None counts as in use: [`Files::evict`] finds that out.
    pub(super) fn scan(&self) -> Result<Index, CacheError> {
        let mut index = Index::default();
        for folder in self.entries(&self.root.join("objects"))? {
            for entry in self.entries(&folder.path())? {
                let digest = entry.file_name().to_str().and_then(|name| name.parse().ok());
                // Foreign files, and files that have gone meanwhile, are no objects.
                let (Some(digest), Ok(about)) = (digest, entry.metadata()) else { continue };
                let used = about.modified().ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
                let last_used = used.and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or_default();
                index.insert(digest, Item { size: about.len(), last_used, pinned: false });
            }
        }
        Ok(index)
    }

    /// Removes downloads whose process died: nobody has their stripe.
    pub(super) fn sweep(&self) -> Result<(), CacheError> {
        for entry in self.entries(&self.root.join("incoming"))? {
            let name = entry.file_name();
            let digest = name.to_str().and_then(|name| name.split('.').next()).and_then(|text| text.parse().ok());
            let Some(digest) = digest else { continue };
            if let Some(_stripe) = self.try_stripe(digest)? {
                remove(&entry.path()).map_err(self.failed("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    fn entries(&self, folder: &Path) -> Result<Vec<fs::DirEntry>, CacheError> {
        match fs::read_dir(folder).and_then(Iterator::collect) {
            // A foreign file between our folders.
            Err(error) if matches!(error.kind(), ErrorKind::NotADirectory | ErrorKind::NotFound) => Ok(Vec::new()),
            read => read.map_err(self.failed("list", folder)),
        }
    }
}

impl Pin {
    /// Opens and pins a file; `WouldBlock` where it is being evicted.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = open(path)?;
        file.try_lock_shared().map_err(io::Error::from)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        Ok(Self { inode: about.ino(), size: about.len(), used: about.modified().ok(), file })
    }

    /// Tells this file from any that may stand in its place, and from itself when it has been cut.
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.inode, self.size)
    }

    /// Used now. Only the order of evictions hangs on it, so a use that was just noted is not noted again.
    pub(super) fn touch(&self) {
        let now = SystemTime::now();
        let is_fresh = |used: SystemTime| now.duration_since(used).is_ok_and(|age| age < NOTED);
        if self.used.is_some_and(is_fresh) {
            return;
        }
        if let Err(error) = self.file.set_modified(now) {
            tracing::debug!(%error, "cannot note the use of a file in the cache");
        }
    }

    /// The digest of what it holds.
    pub(super) fn hash(&self) -> io::Result<Digest> {
        let mut hasher = Digest::hasher();
        let mut reader = io::BufReader::with_capacity(1024 * 1024, &self.file);
        io::copy(&mut reader, &mut hasher)?;
        Ok(hasher.finish())
    }

    fn has_name(&self) -> bool {
        self.file.metadata().is_ok_and(|about| about.nlink() > 0)
    }
}

impl Incoming {
    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // Gone already where it was settled; the next start sweeps what stays.
        let _ = fs::remove_file(&self.0);
    }
}

/// Whether this process, or the machine, has too many files open: others close theirs.
pub(super) fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Opens a file to read; of anything else that lies there it waits for nothing.
fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Removes whatever lies there, if anything does.
fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}
