//! A study: what to tune, on which data, over which space; and the trials that follow from it.
//!
//! Everything here is a pure function of the study's text and the dataset's manifest: the same file
//! gives the same jobs on every machine, and everything that is wrong with it is said before anything
//! is enqueued. This module never touches a queue or a store.

use std::path::Path;

use serde_json::Value;
use shared::contract::{ImageInput, Objective};
use shared::names::Name;
use shared::strict::Problem;

mod file;
mod plan;
mod sample;
mod space;
mod template;

pub use file::Validation;
pub use plan::{is_test, test_job, winner};
pub use sample::{MOST_TRIALS, Sampler};
pub use space::{Domain, Parameter, Point, Space};

/// A study as its file describes it, checked as far as that goes without the dataset.
#[derive(Debug, Clone)]
pub struct Study {
    /// What it is called; the default name of its run.
    pub name: Name,
    /// The seed of everything random in it.
    pub seed: u32,
    /// The dataset's name in the store.
    pub dataset: Name,
    /// What is held out of the training split to measure the objective on.
    pub validation: Validation,
    /// Uses only so many of the remaining rows.
    pub train_rows: Option<u32>,
    /// What pictures of any size become.
    pub image: Option<ImageInput>,
    /// Which points are tried.
    pub sampler: Sampler,
    /// What is made small.
    pub objective: Objective,
    /// The parameters and their values.
    pub space: Space,
    network: Value,
    training: Value,
    file: String,
}

/// Why a study cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum StudyError {
    /// The file cannot be read.
    #[error("cannot read the study `{file}`")]
    Unreadable {
        /// The file.
        file: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("{file}: {problem}")]
    Wrong {
        /// The file.
        file: String,
        /// Where, what stood there and what is accepted.
        problem: Problem,
    },
}

/// The largest study file that is read, in bytes.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

impl Study {
    /// Reads the study file at `path`.
    ///
    /// # Errors
    /// The file cannot be read, or what is wrong in it, by its key.
    pub fn read(path: &Path) -> Result<Self, StudyError> {
        use std::io::Read as _;

        let file = path.display().to_string();
        let mut text = String::new();
        std::fs::File::open(path)
            .and_then(|opened| opened.take(MOST_BYTES).read_to_string(&mut text))
            .map_err(|source| StudyError::Unreadable { file: file.clone(), source })?;
        Self::parse(&text, &file)
    }

    /// Reads a study from its text; `file` is what errors call it.
    ///
    /// # Errors
    /// The first thing that is wrong: TOML with its line, or a value with its key.
    pub fn parse(text: &str, file: &str) -> Result<Self, StudyError> {
        file::parse(text, file).map_err(|problem| StudyError::Wrong { file: file.into(), problem })
    }
}
