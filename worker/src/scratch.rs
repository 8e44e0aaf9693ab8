//! Folders that live as long as a delivery, for what is computed and not yet in the store.

use std::fs::{File, TryLockError};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// A worker's folder for scratch folders. A lock on the folder itself, that only a living process holds, tells others that
/// it is in use; what dead workers left is removed.
#[derive(Debug)]
pub struct ScratchHome {
    path: PathBuf,
    _lock: File,
}

impl ScratchHome {
    /// A new one beneath `parent`.
    ///
    /// # Errors
    /// The disk.
    pub fn new(parent: &Path) -> std::io::Result<Self> {
        std::fs::create_dir_all(parent)?;
        for entry in std::fs::read_dir(parent)? {
            let path = entry?.path();
            let folder = File::open(&path);
            if folder.is_ok_and(|folder| folder.try_lock().is_ok()) {
                let _ = std::fs::remove_dir_all(&path);
            }
        }
        loop {
            let path = parent.join(uuid::Uuid::new_v4().to_string());
            std::fs::create_dir(&path)?;
            // Between the two steps somebody may take it for a dead worker's.
            let lock = match File::open(&path) {
                Ok(lock) => lock,
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            match lock.try_lock() {
                Ok(()) if path.exists() => return Ok(Self { path, _lock: lock }),
                Ok(()) | Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// A folder for one delivery.
    ///
    /// # Errors
    /// The disk.
    pub fn folder(&self) -> std::io::Result<Scratch> {
        let path = self.path.join(uuid::Uuid::new_v4().to_string());
        std::fs::create_dir_all(&path).map_err(|error| {
            std::io::Error::new(error.kind(), format!("create the folder `{}`: {error}", path.display()))
        })?;
        Ok(Scratch(path))
    }
}

impl Drop for ScratchHome {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// A folder of one delivery's own, removed with it.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Left over: swept when the next worker starts.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dead_workers_left_goes_and_what_living_ones_have_stays() {
        let parent = tempfile::tempdir().expect("a folder");
        let living = ScratchHome::new(parent.path()).expect("one");
        let job = living.folder().expect("a job's");
        std::fs::write(job.path().join("out"), "half").expect("written");
        for left in ["left", ".left"] {
            std::fs::create_dir_all(parent.path().join(left).join("job")).expect("made");
        }
        let other = ScratchHome::new(parent.path()).expect("another");
        assert!(job.path().join("out").exists() && other.path.exists());
        assert_eq!(std::fs::read_dir(parent.path()).expect("read").count(), 2);
        drop((living, other));
        assert_eq!(std::fs::read_dir(parent.path()).expect("read").count(), 0);
    }
}
