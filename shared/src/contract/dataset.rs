//! A dataset in the store: a manifest and a file a split.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Shape;
use crate::names::{Name, ObjectRef};
use crate::strict::Problem;

/// `datasets/<name>/<digest>/dataset.json`; the digest is that of the manifest's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The dataset's name.
    pub name: Name,
    /// The shape of one example: `[C, H, W]` for pictures, `[N]` for rows.
    pub shape: Shape,
    /// How its elements are stored.
    pub elements: ElementType,
    /// How many classes the labels name.
    pub classes: u32,
    /// The classes' names, in the order of their indices; empty when they have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// A channel's (or, for rows, a column's) mean over the training split, after scaling to 0..1 for `u8`.
    pub mean: Vec<f64>,
    /// Likewise the standard deviation, never zero.
    pub std: Vec<f64>,
    /// `train`, and usually `test`.
    pub splits: BTreeMap<String, Split>,
}

/// How a dataset's elements are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ElementType {
    /// Bytes; 255 stands for 1.0.
    U8,
    /// 32-bit floats.
    F32,
}

/// One split's file: safetensors with `inputs` `[rows, shape…]` and `labels` `[rows]` (`u32`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The file.
    pub object: ObjectRef,
    /// Its rows.
    pub rows: u32,
}

impl Dataset {
    /// The training split.
    ///
    /// # Errors
    /// The manifest has none.
    pub fn train(&self) -> Result<&Split, Problem> {
        self.split("train")
    }

    /// The split called `name`.
    ///
    /// # Errors
    /// There is none; the error names those that are there.
    pub fn split(&self, name: &str) -> Result<&Split, Problem> {
        let names: Vec<&str> = self.splits.keys().map(String::as_str).collect();
        self.splits.get(name).ok_or_else(|| {
            Problem::new(
                "splits",
                format!("no split `{name}`"),
                format!("the dataset `{}` has {}", self.name, names.join(", ")),
            )
        })
    }

    /// Checks what can be checked without the files.
    ///
    /// # Errors
    /// The first value that cannot be, by its key.
    pub fn check(&self) -> Result<(), Problem> {
        let features = self.shape.first().copied().unwrap_or(0);
        let elements = self.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n)).unwrap_or(usize::MAX);
        if !matches!(self.shape.len(), 1 | 3) || elements == 0 || elements > 1 << 26 {
            return Err(Problem::new(
                "shape",
                format!("{:?}", self.shape),
                "[channels, height, width] or [columns] is accepted",
            ));
        }
        if !(2..=100_000).contains(&self.classes) {
            return Err(Problem::new("classes", self.classes, "2 to 100000 is accepted"));
        }
        if !self.labels.is_empty() && self.labels.len() != self.classes as usize {
            return Err(Problem::new(
                "labels",
                format!("{} names", self.labels.len()),
                format!("one for each of {} classes is accepted", self.classes),
            ));
        }
        if self.mean.len() != features || self.std.len() != features {
            return Err(Problem::new(
                "mean",
                format!("{} and {} numbers", self.mean.len(), self.std.len()),
                format!("{features} in `mean` and `std` are accepted"),
            ));
        }
        if self.mean.iter().any(|m| !m.is_finite()) || self.std.iter().any(|s| !s.is_finite() || *s <= 0.0) {
            return Err(Problem::new("std", format!("{:?}", self.std), "finite numbers above 0 are accepted"));
        }
        self.train().map(|_| ())
    }
}
