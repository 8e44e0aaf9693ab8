//! Datasets on their way into the store: read or drawn into a [`Table`], or found as [`pictures`], then pushed.
//!
//! One file a source ([`idx`], [`csv`], [`pictures`], [`digits`], [`mnist`]), one for the way up ([`push`]). This
//! module decides nothing about training.

use std::collections::BTreeMap;
use std::path::PathBuf;

use shared::contract::{Dataset, ElementType, Shape};
use shared::names::{Key, Name, ObjectRef};
use shared::store::{Store, StoreError, layout};
use shared::{digest::Digest, strict};

pub mod csv;
pub mod digits;
pub mod idx;
pub mod mnist;
pub mod pictures;
mod source;
mod split;
mod upload;

pub use source::Source;
pub use split::Test;
pub(crate) use upload::is_there;
pub use upload::{push, push_pictures};

/// A dataset in memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// The shape of one example: `[C, H, W]` for pictures, `[N]` for rows.
    pub shape: Shape,
    /// How `inputs` hold its elements: bytes or floats.
    pub elements: ElementType,
    /// How many classes the labels name.
    pub classes: u32,
    /// The classes' names, in the order of their indices; may be empty.
    pub labels: Vec<String>,
    /// `train`, and usually `test`.
    pub splits: BTreeMap<String, Rows>,
}

/// The rows of one split.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rows {
    /// `[rows, shape…]`, row after row; floats in little-endian order.
    pub inputs: Vec<u8>,
    /// `[rows]`, each below the number of classes.
    pub labels: Vec<u32>,
}

/// What can go wrong with a dataset.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be read.
    #[error("cannot read `{path}`")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file or a table is not what it should be.
    #[error("{what} {problem}")]
    Wrong {
        /// Which.
        what: String,
        /// What is wrong and what is accepted.
        problem: String,
    },
    /// No dataset of this name.
    #[error("no dataset `{name}` in the store at {place}: {hint}")]
    Unknown {
        /// What was asked for.
        name: Name,
        /// Where.
        place: String,
        /// What is there, and how to bring another.
        hint: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Table {
    /// Elements of one example.
    pub fn width(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of one example in [`Rows::inputs`].
    pub fn row_bytes(&self) -> usize {
        self.width() * if self.elements == ElementType::U8 { 1 } else { 4 }
    }

    /// The classes that no row to train on has.
    pub fn empty_classes(&self) -> Vec<u32> {
        let labels = self.splits.get("train").map_or(&[][..], |rows| &rows.labels);
        let mut empty: Vec<bool> = vec![true; self.classes as usize];
        for label in labels {
            if let Some(empty) = empty.get_mut(*label as usize) {
                *empty = false;
            }
        }
        (0..self.classes).filter(|class| empty[*class as usize]).collect()
    }
}

/// The dataset `name` as it is in use now: a reference to its manifest, and the manifest.
///
/// # Errors
/// [`DataError::Unknown`] with the names that are there, a manifest that cannot be read, or the store.
pub async fn resolve(store: &dyn Store, name: &Name) -> Result<(ObjectRef, Dataset), DataError> {
    let current = match store.get(&layout::dataset_current(name)).await {
        Err(StoreError::NotFound { .. }) => return Err(unknown(store, name).await),
        other => other?,
    };
    let text = String::from_utf8_lossy(&current);
    let digest: Digest = text.trim().parse().map_err(|error| wrong(&layout::dataset_current(name), &error))?;
    let key = layout::dataset_file(name, digest, "dataset.json");
    let manifest = store.get(&key).await?;
    if Digest::of(&manifest) != digest {
        return Err(wrong(&key, &"has another content than its digest says: push the dataset again"));
    }
    let dataset: Dataset = strict::json(&manifest).map_err(|problem| wrong(&key, &problem))?;
    dataset.check().map_err(|problem| wrong(&key, &problem))?;
    Ok((ObjectRef { key, sha256: digest }, dataset))
}

async fn unknown(store: &dyn Store, name: &Name) -> DataError {
    let there = match store.children(&layout::datasets()).await {
        Ok(there) => there,
        Err(error) => return error.into(),
    };
    let mut hint = match there.len() {
        0 => "there is none yet".to_owned(),
        _ => format!("there are {}", there.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
    };
    if let Some(near) = strict::nearest(name.as_str(), there.iter().map(String::as_str)) {
        hint.push_str(&format!("; did you mean `{near}`?"));
    }
    hint.push_str(&format!(" (`gannet data push PATH --name {name}` brings one)"));
    DataError::Unknown { name: name.clone(), place: store.place(), hint }
}

fn wrong(key: &Key, problem: &dyn std::fmt::Display) -> DataError {
    DataError::Wrong { what: format!("the object `{key}`:"), problem: problem.to_string() }
}
