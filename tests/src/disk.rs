//! A disk that is quickly full. The worker's tests use this file, too.

use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small file system in memory, mounted on a folder until this is dropped.
#[derive(Debug)]
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of so many KiB on `folder`, which is made.
    ///
    /// # Errors
    /// Why that cannot be done here: it takes Linux and root.
    pub fn mount(folder: &Path, kib: u32) -> Result<Self, String> {
        std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        let size = format!("size={kib}k");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder).output();
        match mounted {
            Ok(output) if output.status.success() => Ok(Self(folder.to_owned())),
            Ok(output) => {
                Err(format!("no small disk can be mounted: {}", String::from_utf8_lossy(&output.stderr).trim()))
            }
            Err(error) => Err(format!("no small disk can be mounted: {error}")),
        }
    }

    /// Fills what is left of it; whoever removes the file that is returned makes room again.
    ///
    /// # Errors
    /// It is filled in no way.
    pub fn fill(&self) -> std::io::Result<PathBuf> {
        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path)?;
        // In small pieces at the end, so that nothing is left.
        for size in [1 << 16, 1] {
            loop {
                match file.write_all(&vec![0; size]) {
                    Ok(()) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that is about to end may have a file open.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}
