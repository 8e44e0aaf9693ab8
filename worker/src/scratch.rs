//! Folders that live as long as a delivery, for what is computed and not yet in the store.

use std::path::{Path, PathBuf};

/// A worker's folder for scratch folders. A lock that only a living process holds tells others that it is
/// in use; what dead workers left is removed.
#[derive(Debug)]
pub struct ScratchHome {
    path: PathBuf,
    _lock: std::fs::File,
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
            // Somebody makes it at this moment.
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.')) {
                continue;
            }
            let lock = std::fs::File::open(path.join("lock"));
            if lock.is_ok_and(|lock| lock.try_lock().is_ok()) {
                let _ = std::fs::remove_dir_all(&path);
            }
        }
        // Made under another name, so that nobody sees it unlocked.
        let name = uuid::Uuid::new_v4().to_string();
        let (young, path) = (parent.join(format!(".{name}")), parent.join(name));
        std::fs::create_dir(&young)?;
        let lock = std::fs::File::create(young.join("lock"))?;
        lock.lock()?;
        std::fs::rename(&young, &path)?;
        Ok(Self { path, _lock: lock })
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
