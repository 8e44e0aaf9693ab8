//! A dataset in the store: a manifest and a file a split.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ImageInput, Preprocessing, Shape};
use crate::names::{Name, ObjectRef};
use crate::strict::Problem;

/// `datasets/<name>/<digest>/dataset.json`; the digest is that of the manifest's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dataset {
    /// The dataset's name.
    pub name: Name,
    /// The shape of one example: `[C, H, W]` for pictures, `[N]` for rows. Absent where they are `encoded`: a trial's
    /// `image` says it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub shape: Shape,
    /// How its elements are stored.
    pub elements: ElementType,
    /// How many classes the labels name.
    pub classes: u32,
    /// The classes' names, in the order of their indices; empty when they have none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
    /// A channel's (or, for rows, a column's) mean over the training split, after scaling to 0..1 for bytes. Of
    /// `encoded` pictures: red, green and blue as they come, before any resizing, each picture counting alike.
    pub mean: Vec<f64>,
    /// Likewise the standard deviation, never zero.
    pub std: Vec<f64>,
    /// Likewise of luma, for networks that see grey; for `encoded` pictures only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub luma: Option<MeanStd>,
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
    /// Picture files as they are, of any size and format.
    Encoded,
}

/// A mean and a standard deviation, after scaling to 0..1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MeanStd {
    /// The mean.
    pub mean: f64,
    /// The standard deviation, never zero.
    pub std: f64,
}

/// One split's file: safetensors with `inputs` `[rows, shape…]` and `labels` `[rows]` (`u32`). Where elements are
/// `encoded`, `inputs` `[bytes]` (`u8`) holds one picture file after another, and `offsets` `[rows + 1]` (`u64`) where
/// each begins and the last ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// The file.
    pub object: ObjectRef,
    /// Its rows.
    pub rows: u32,
}

/// Elements of one example.
pub(super) const MOST_ELEMENTS: usize = 1 << 26;

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
        let features = self.channels()?;
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
        match (self.elements == ElementType::Encoded, self.luma) {
            (true, None) => {
                return Err(Problem::new("luma", "missing", "`encoded` pictures have its `mean` and `std`"));
            }
            (false, Some(_)) => {
                return Err(Problem::new("luma", "there", "it is accepted for `encoded` pictures only"));
            }
            (_, Some(luma)) if !(luma.mean.is_finite() && luma.std.is_finite() && luma.std > 0.0) => {
                return Err(Problem::new("luma", format!("{luma:?}"), "finite numbers, `std` above 0, are accepted"));
            }
            _ => {}
        }
        self.train().map(|_| ())
    }

    /// How many numbers `mean` and `std` have, if the shape can be.
    fn channels(&self) -> Result<usize, Problem> {
        let found = || format!("{:?}", self.shape);
        if self.elements == ElementType::Encoded {
            let accepted = "none is accepted where `elements` is \"encoded\"";
            return if self.shape.is_empty() { Ok(3) } else { Err(Problem::new("shape", found(), accepted)) };
        }
        let elements = self.shape.iter().try_fold(1usize, |product, n| product.checked_mul(*n));
        match self.shape.as_slice() {
            &[features] | &[features, _, _] if elements.is_some_and(|n| (1..=MOST_ELEMENTS).contains(&n)) => {
                Ok(features)
            }
            _ => Err(Problem::new("shape", found(), "[channels, height, width] or [columns] is accepted")),
        }
    }

    /// The shape of one example in a trial that says `image`.
    ///
    /// # Errors
    /// `image` is missing for pictures of any size, or there for examples that have a shape.
    pub fn input(&self, image: Option<&ImageInput>) -> Result<Shape, Problem> {
        let name = &self.name;
        match (self.elements == ElementType::Encoded, image) {
            (true, Some(image)) => image.check().map(|()| image.shape()).map_err(|problem| problem.inside("image")),
            (true, None) => {
                let accepted = format!(
                    "`{name}` holds pictures of any size: `image = {{ size = 64 }}`, for example, says what they become"
                );
                Err(Problem::new("image", "missing", accepted))
            }
            (false, None) => Ok(self.shape.clone()),
            (false, Some(_)) => {
                let accepted = format!(
                    "the examples of `{name}` have the shape {:?} already; only folders of pictures take it: remove it",
                    self.shape
                );
                Err(Problem::new("image", "there", accepted))
            }
        }
    }

    /// How a picture becomes the input of a network that was trained so: what training saw.
    pub fn preprocessing(&self, image: Option<&ImageInput>) -> Preprocessing {
        let (mean, std) = match (self.luma, image) {
            (Some(luma), Some(ImageInput { channels: 1, .. })) => (vec![luma.mean], vec![luma.std]),
            _ => (self.mean.clone(), self.std.clone()),
        };
        let standard = Preprocessing::standard(mean, std);
        match image {
            Some(image) => Preprocessing { resize: image.resize, filter: image.filter, ..standard },
            None => standard,
        }
    }
}
