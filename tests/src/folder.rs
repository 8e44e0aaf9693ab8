//! A folder of its own for each test, kept with what was logged in it when the test fails.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use tempfile::TempDir;

/// A temporary folder. When the test panics it stays, and the ends of the logs in it are printed.
#[derive(Debug)]
pub struct Folder(Option<TempDir>, AtomicBool);

impl Folder {
    /// A new, empty folder.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("gannet-test-").tempdir().context("make a temporary folder")?;
        Ok(Self(Some(folder), AtomicBool::new(false)))
    }

    /// Lets it stay, whatever comes.
    pub fn keep(&self) {
        self.1.store(true, Ordering::Relaxed);
    }

    /// Runs a test that needs nothing but a folder.
    ///
    /// # Panics
    /// The test failed.
    pub async fn run(body: impl AsyncFnOnce(&Self) -> Result<()>) {
        let folder = Self::new().expect("a temporary folder");
        body(&folder).await.unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.as_ref().expect("taken in drop only").path()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let panics = std::thread::panicking();
        if (panics || self.1.load(Ordering::Relaxed))
            && let Some(folder) = self.0.take()
        {
            let path = folder.keep();
            if panics {
                print_logs(&path);
            }
            eprintln!("the test's files are kept in {}", path.display());
        }
    }
}

/// The end of everything that the test's processes wrote to standard error.
fn print_logs(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    for path in entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "err")) {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        let tail = lines[lines.len().saturating_sub(40)..].join("\n");
        eprintln!("--- {}\n{tail}", path.file_name().unwrap_or_default().to_string_lossy());
    }
}
