//! A store in a directory: for one machine, or for several that share a file system.
//!
//! An object is a file under its key. It is written beside the tree (`.tmp`), flushed to disk, and
//! then moved: `rename` replaces, `link` creates and fails where something stands, so a reader sees
//! an object whole or not at all, and a crash leaves nothing but a temporary file. Unlike S3, a key
//! cannot be an object and the beginning of other keys at once: that is refused.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use super::{Created, Entry, MAX_SMALL, Store, StoreError};
use crate::names::Key;

/// Temporary files lie here; no key may begin with it.
const TEMPORARY: &str = ".tmp";

/// A temporary file that is older has been left by a process that died: no write takes a day.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// How often a folder that a racing delete removed is made again. Each round loses only to a delete
/// that emptied this very folder in between.
const ROUNDS: usize = 100;

/// A store in a directory.
#[derive(Debug, Clone)]
pub struct DirStore {
    root: PathBuf,
}

impl DirStore {
    /// Opens the store in `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// [`StoreError::Local`]: the folder cannot be made.
    pub fn open(folder: impl Into<PathBuf>) -> Result<Self, StoreError> {
        let root = folder.into();
        let temporary = root.join(TEMPORARY);
        fs::create_dir_all(&temporary).map_err(local("make the folder", &temporary))?;
        sweep(&temporary);
        Ok(Self { root })
    }

    /// Runs blocking file work off the runtime.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let store = self.clone();
        let place = self.place();
        let done = tokio::task::spawn_blocking(move || work(&store)).await;
        done.unwrap_or_else(|error| Err(StoreError::Unreachable { place, reason: error.to_string() }))
    }

    fn path(&self, key: &Key) -> Result<PathBuf, StoreError> {
        if key.as_str().split('/').next() == Some(TEMPORARY) {
            return Err(self.refused(key, "keys that begin with `.tmp` are the store's own"));
        }
        Ok(self.root.join(key.as_str()))
    }

    /// Writes a temporary file with `fill`, on disk when this returns.
    fn temporary(&self, fill: impl FnOnce(&mut File) -> io::Result<()>) -> Result<Temporary, StoreError> {
        let path = self.root.join(TEMPORARY).join(uuid::Uuid::new_v4().to_string());
        let failed = local("write", &path);
        let mut file = File::create_new(&path).map_err(&failed)?;
        let temporary = Temporary(path.clone());
        fill(&mut file).and_then(|()| file.sync_all()).map_err(&failed)?;
        Ok(temporary)
    }

    /// Gives a temporary file its name with `place_it`, making the folders above it.
    fn settle<T>(
        &self,
        key: &Key,
        temporary: &Temporary,
        place_it: impl Fn(&Path, &Path) -> io::Result<T>,
    ) -> Result<T, StoreError> {
        let path = self.path(key)?;
        let folder = path.parent().unwrap_or(&self.root);
        for _ in 0..ROUNDS {
            let made = !folder.is_dir();
            if made {
                match fs::create_dir_all(folder) {
                    Ok(()) => {}
                    // A delete removed one of them meanwhile, unless an object is in the way.
                    Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::AlreadyExists) => {
                        if folder.ancestors().any(Path::is_file) {
                            return Err(self.not_placed(key, folder, error));
                        }
                        continue;
                    }
                    Err(error) => return Err(self.not_placed(key, folder, error)),
                }
            }
            match place_it(&temporary.0, &path) {
                Ok(done) => {
                    self.flush_folders(folder, made);
                    return Ok(done);
                }
                // A delete removed the folder between the two steps.
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(self.not_placed(key, &path, error)),
            }
        }
        Err(self.not_placed(key, folder, ErrorKind::NotFound.into()))
    }

    /// Flushes the folder's entries, and after new folders those of the ones above. A file system that
    /// cannot flush a folder keeps its own promises: the object is whole either way.
    fn flush_folders(&self, folder: &Path, made: bool) {
        for folder in folder.ancestors().take_while(|folder| folder.starts_with(&self.root)) {
            if let Err(error) = File::open(folder).and_then(|folder| folder.sync_all()) {
                tracing::debug!(folder = %folder.display(), %error, "cannot flush a folder");
            }
            if !made {
                break;
            }
        }
    }

    fn not_placed(&self, key: &Key, path: &Path, error: io::Error) -> StoreError {
        match error.kind() {
            ErrorKind::NotADirectory | ErrorKind::AlreadyExists => {
                self.refused(key, "a part of this key is an object already: use another key")
            }
            ErrorKind::IsADirectory | ErrorKind::DirectoryNotEmpty => {
                self.refused(key, "other keys go on from this one, so it cannot be an object: use another key")
            }
            ErrorKind::InvalidFilename => self.refused(key, "a part of it is too long for this file system"),
            ErrorKind::Unsupported | ErrorKind::PermissionDenied if !self.links() => self.refused(
                key,
                "this file system has no hard links, which conditional writes need: use a folder on another one",
            ),
            _ => local("write", path)(error),
        }
    }

    /// Whether the file system has hard links.
    fn links(&self) -> bool {
        let probe = self.temporary(|_| Ok(()));
        let Ok(probe) = probe else { return true };
        let linked = Temporary(probe.0.with_extension("link"));
        fs::hard_link(&probe.0, &linked.0).is_ok()
    }

    fn refused(&self, key: &Key, reason: &str) -> StoreError {
        StoreError::Refused { place: self.place(), what: format!("the key `{key}`"), reason: reason.into() }
    }

    /// Opens an object to read; returns its size too.
    fn object(&self, key: &Key) -> Result<(File, u64), StoreError> {
        let path = self.path(key)?;
        let absent = || StoreError::NotFound { key: key.clone(), place: self.place() };
        let file =
            File::open(&path).map_err(|error| if no_such(&error) { absent() } else { local("read", &path)(error) })?;
        let about = file.metadata().map_err(local("read", &path))?;
        if about.is_file() { Ok((file, about.len())) } else { Err(absent()) }
    }

    fn read(&self, key: &Key) -> Result<Bytes, StoreError> {
        let (file, size) = self.object(key)?;
        if size > MAX_SMALL {
            return Err(StoreError::TooLarge { key: key.clone(), size, limit: MAX_SMALL });
        }
        let mut body = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
        file.take(MAX_SMALL).read_to_end(&mut body).map_err(local("read", &self.path(key)?))?;
        Ok(body.into())
    }

    fn create_with(&self, key: &Key, body: &[u8]) -> Result<Created, StoreError> {
        let path = self.path(key)?;
        if path.is_file() {
            return Ok(Created::Exists);
        }
        let temporary = self.temporary(|file| file.write_all(body))?;
        self.settle(key, &temporary, |from, to| match fs::hard_link(from, to) {
            Ok(()) => Ok(Created::New),
            Err(error) if error.kind() == ErrorKind::AlreadyExists && to.is_dir() => {
                Err(ErrorKind::IsADirectory.into())
            }
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(Created::Exists),
            Err(error) => Err(error),
        })
    }

    fn remove(&self, key: &Key) -> Result<(), StoreError> {
        let path = self.path(key)?;
        match fs::remove_file(&path) {
            Ok(()) => {}
            Err(error) if no_such(&error) || path.is_dir() => return Ok(()),
            Err(error) => return Err(local("remove", &path)(error)),
        }
        let above = path.ancestors().skip(1).take_while(|folder| *folder != self.root);
        // Fails at the first folder that holds something; a writer that finds its folder gone makes it again.
        let first_full = above.into_iter().find(|folder| fs::remove_dir(folder).is_err());
        self.flush_folders(first_full.unwrap_or(&self.root), false);
        Ok(())
    }

    fn walk(&self, folder: &Path, found: &mut Vec<Entry>) -> Result<(), StoreError> {
        for (name, entry) in entries(folder)? {
            let path = folder.join(&name);
            // Gone again since the folder was read.
            let Ok(about) = entry.metadata() else { continue };
            if about.is_dir() {
                self.walk(&path, found)?;
            } else if let Some(key) = path.strip_prefix(&self.root).ok().and_then(Path::to_str)
                && let Ok(key) = Key::new(key)
            {
                let modified = about.modified().ok().and_then(|at| jiff::Timestamp::try_from(at).ok());
                found.push(Entry { key, size: about.len(), modified });
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Store for DirStore {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        let key = key.clone();
        self.blocking(move |store| store.read(&key)).await
    }

    async fn download(&self, key: &Key, to: &Path) -> Result<u64, StoreError> {
        let (key, to) = (key.clone(), to.to_owned());
        self.blocking(move |store| {
            let (mut object, _) = store.object(&key)?;
            let mut file = File::create(&to).map_err(local("write", &to))?;
            io::copy(&mut object, &mut file).map_err(local("write", &to))
        })
        .await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        let key = key.clone();
        self.blocking(move |store| {
            let temporary = store.temporary(|file| file.write_all(&body))?;
            store.settle(&key, &temporary, |from, to| fs::rename(from, to))
        })
        .await
    }

    async fn upload(&self, key: &Key, from: &Path) -> Result<(), StoreError> {
        let (key, from) = (key.clone(), from.to_owned());
        self.blocking(move |store| {
            let mut file = File::open(&from).map_err(local("read", &from))?;
            let temporary = store.temporary(|to| io::copy(&mut file, to).map(drop))?;
            store.settle(&key, &temporary, |from, to| fs::rename(from, to))
        })
        .await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Created, StoreError> {
        let key = key.clone();
        self.blocking(move |store| store.create_with(&key, &body)).await
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        let prefix = prefix.clone();
        self.blocking(move |store| {
            let mut found = Vec::new();
            store.walk(&store.path(&prefix)?, &mut found)?;
            found.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(found)
        })
        .await
    }

    async fn children(&self, prefix: &Key) -> Result<Vec<String>, StoreError> {
        let prefix = prefix.clone();
        self.blocking(move |store| {
            let folder = store.path(&prefix)?;
            let mut names = Vec::new();
            for (name, entry) in entries(&folder)? {
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if !is_folder || holds_object(&folder.join(&name))? {
                    names.push(name);
                }
            }
            names.sort();
            Ok(names)
        })
        .await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        let key = key.clone();
        self.blocking(move |store| store.remove(&key)).await
    }
}

/// A file that is removed when this is dropped, unless it has been renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already where it was renamed.
        let _ = fs::remove_file(&self.0);
    }
}

/// What lies in a folder, by name; nothing where it is none. Names that no key can have are foreign.
fn entries(folder: &Path) -> Result<Vec<(String, fs::DirEntry)>, StoreError> {
    let read = match fs::read_dir(folder) {
        Ok(read) => read,
        Err(error) if no_such(&error) => return Ok(Vec::new()),
        Err(error) => return Err(local("list", folder)(error)),
    };
    let entries: io::Result<Vec<_>> = read.collect();
    let entries = entries.map_err(local("list", folder))?;
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry));
    Ok(entries.into_iter().filter_map(named).filter(|(name, _)| Key::new(name).is_ok()).collect())
}

/// Whether an object lies beneath: a folder that a crash left empty is no child.
fn holds_object(folder: &Path) -> Result<bool, StoreError> {
    for (name, entry) in entries(folder)? {
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_folder || holds_object(&folder.join(name))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes what dead processes left. It only saves space, so its failures do not matter.
fn sweep(folder: &Path) {
    let Ok(read) = fs::read_dir(folder) else { return };
    for entry in read.flatten() {
        let age = entry.metadata().and_then(|about| about.modified()).map(|at| at.elapsed().unwrap_or_default());
        if age.is_ok_and(|age| age > STALE)
            && let Err(error) = fs::remove_file(entry.path())
        {
            tracing::debug!(file = %entry.path().display(), %error, "cannot remove a stale temporary file");
        }
    }
}

fn no_such(error: &io::Error) -> bool {
    // A name too long for the file system cannot have been written.
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::InvalidFilename)
}

fn local(what: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Local { what, path: path.clone(), source }
}

#[cfg(test)]
mod tests;
