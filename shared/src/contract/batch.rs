//! A batch: label these pictures.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Scores;
use crate::digest::Digest;
use crate::names::ObjectRef;
use crate::strict::Problem;

/// Pictures to classify with one model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch {
    /// The model's `model.json`.
    pub model: ObjectRef,
    /// The pictures.
    pub images: Vec<ImageRef>,
    /// How many labels a picture.
    #[serde(default = "five")]
    pub top_k: u32,
    /// Labels with a lower score are left out; 0.5 by default for sigmoid scores, none otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// What the outputs become; what the model says by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scores: Option<Scores>,
    /// What is told of each picture.
    #[serde(default, skip_serializing_if = "Output::is_labels")]
    pub output: Output,
    /// How the network is computed, where the worker's machine is faster with it.
    #[serde(default, skip_serializing_if = "Precision::is_full")]
    pub precision: Precision,
    /// The pictures that int8 is calibrated on: what the network's values are like on them says what their bytes stand for. With int8, and
    /// not without.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub calibration: Vec<ImageRef>,
}

/// How the numbers of a network are multiplied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// As they are.
    #[default]
    Fp32,
    /// Rounded to bf16 (8 bits of precision) first, in convolutions; sums are in fp32.
    Bf16,
    /// As bytes, in convolutions, with whole sums; values between layers are bytes as far as possible.
    Int8,
}

impl Precision {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }

    fn is_full(&self) -> bool {
        *self == Self::Fp32
    }
}

/// What is told of a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    /// Its best labels.
    #[default]
    Labels,
    /// What the network's last layer with weights (linear, or a convolution) reads; the mean over height and width where that
    /// is a map.
    Embedding,
}

impl Output {
    fn is_labels(&self) -> bool {
        *self == Self::Labels
    }
}

/// One picture: an object in the store, or, where queue and store are folders of one machine, a file
/// on it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageRef {
    /// What the producer calls it: a path or an address, repeated in the result.
    pub image: String,
    /// The object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    /// The file's absolute path, read in place. A worker of a fleet refuses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
}

impl ImageRef {
    /// A picture in the store.
    pub fn object(image: impl Into<String>, object: ObjectRef) -> Self {
        Self { image: image.into(), object: Some(object), file: None }
    }

    /// A picture on this machine.
    pub fn file(image: impl Into<String>, file: impl Into<String>) -> Self {
        Self { image: image.into(), object: None, file: Some(file.into()) }
    }
}

/// What a batch came to: one entry a picture, in the order of the job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct BatchOutcome {
    /// The model's digest: that of its `model.json`.
    pub model: Digest,
    /// How it was computed: not always as the job asked, since not every machine has bf16 or int8.
    #[serde(default, skip_serializing_if = "Precision::is_full")]
    pub precision: Precision,
    /// How it compares with fp32, where it was computed otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Agreement>,
    /// One entry a picture.
    pub images: Vec<ImageOutcome>,
}

/// Some pictures that were computed in fp32, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Agreement {
    /// How many.
    pub compared: u32,
    /// Of them, how many have the same best label both ways.
    pub agreed: u32,
}

/// One picture's labels or embedding, or why it has none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ImageOutcome {
    /// The picture, as the job called it.
    pub image: String,
    /// Its labels, its embedding or its error.
    #[serde(flatten)]
    pub verdict: ImageVerdict,
}

/// Labels, an embedding or an error: one of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImageVerdict {
    /// The best labels, best first.
    Predictions(Vec<Prediction>),
    /// The numbers that [`Output::Embedding`] asks for.
    Embedding(Vec<f32>),
    /// Why there are none.
    Error(ImageError),
}

/// One label.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Prediction {
    /// The label's text.
    pub label: String,
    /// Its position among the model's outputs, from 0.
    pub index: u32,
    /// A probability from 0 to 1, or with raw scores any number.
    pub score: f64,
}

/// Why one picture has no labels.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ImageError {
    /// A stable code. Of the file: `decode_failed` (it is damaged or cut short), `too_large`, `unsupported_format` (it is
    /// of a kind that is not read here, or no picture at all), `not_found`, `unreadable` (it or its folder may not be
    /// read), `altered` (the object has another sha256). Of the network: `failed`. From `gannet classify` alone:
    /// `batch_failed`, where the whole job came to nothing.
    pub code: String,
    /// For people.
    pub message: String,
}

/// Pictures a batch may hold.
const MOST_IMAGES: usize = 1_000;
/// Pictures that int8 may be calibrated on: each worker computes them in fp32 before its first batch.
const MOST_CALIBRATION: usize = 128;
/// Labels that a batch may ask for in all: its result is one object, read whole.
const MOST_LABELS: usize = 100_000;
/// Embeddings that a batch may ask for, likewise: of several thousand numbers each.
const MOST_EMBEDDINGS: usize = 250;

impl Batch {
    /// The most pictures of a batch that asks for so many labels each, or for embeddings.
    pub fn most_images(output: Output, top_k: u32) -> usize {
        match output {
            Output::Labels => (MOST_LABELS / top_k.max(1) as usize).clamp(1, MOST_IMAGES),
            Output::Embedding => MOST_EMBEDDINGS,
        }
    }

    /// Checks every value.
    ///
    /// # Errors
    /// The first one out of range, by its key.
    pub fn check(&self) -> Result<(), Problem> {
        if !(1..=MOST_IMAGES).contains(&self.images.len()) {
            return Err(Problem::new(
                "batch.images",
                format!("{} pictures", self.images.len()),
                "1 to 1000 are accepted",
            ));
        }
        for (list, images) in [("images", &self.images), ("calibration", &self.calibration)] {
            let is_wrong = |image: &&ImageRef| image.object.is_some() == image.file.is_some();
            if let Some((index, image)) = images.iter().enumerate().find(|(_, image)| is_wrong(image)) {
                return Err(Problem::new(
                    format!("batch.{list}[{index}]"),
                    format!("`{}`", image.image),
                    "exactly one of `object` and `file` is accepted",
                ));
            }
        }
        if self.precision != Precision::Fp32 && self.output == Output::Embedding {
            return Err(Problem {
                at: "batch.precision".into(),
                what: "stands beside embeddings, which are computed in fp32".into(),
            });
        }
        let (accepted, what) = match self.precision {
            Precision::Int8 => (1..=MOST_CALIBRATION, "1 to 128 are accepted with int8"),
            Precision::Fp32 | Precision::Bf16 => (0..=0, "none is accepted without int8"),
        };
        if !accepted.contains(&self.calibration.len()) {
            return Err(Problem::new("batch.calibration", format!("{} pictures", self.calibration.len()), what));
        }
        if !(1..=1_000).contains(&self.top_k) {
            return Err(Problem::new("batch.top_k", self.top_k, "1 to 1000 is accepted"));
        }
        let most = Self::most_images(self.output, self.top_k);
        if self.images.len() > most {
            let (pictures, labels) = (self.images.len(), self.top_k);
            let (found, with) = match self.output {
                Output::Labels => (format!("{pictures} pictures with {labels} labels each"), "so many labels"),
                Output::Embedding => (format!("{pictures} pictures with embeddings"), "embeddings"),
            };
            return Err(Problem::new("batch.images", found, format!("at most {most} are accepted with {with}")));
        }
        if self.output == Output::Embedding && (self.scores.is_some() || self.threshold.is_some()) {
            let at = if self.scores.is_some() { "batch.scores" } else { "batch.threshold" };
            return Err(Problem { at: at.into(), what: "stands beside embeddings, which have no scores".into() });
        }
        // Where the model says what the outputs become, it is not known here.
        let accepted = match self.scores {
            Some(Scores::Softmax | Scores::Sigmoid) => (0.0..=1.0, "0 to 1 is accepted"),
            None | Some(Scores::Raw) => (f64::MIN..=f64::MAX, "a finite number is accepted"),
        };
        match self.threshold {
            Some(threshold) if !accepted.0.contains(&threshold) => {
                Err(Problem::new("batch.threshold", threshold, accepted.1))
            }
            _ => Ok(()),
        }
    }
}

fn five() -> u32 {
    5
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::{Job, Work};

    #[test]
    fn int8_goes_with_pictures_to_calibrate_on_and_nothing_else_does() {
        let job: Job =
            serde_json::from_str(include_str!("../../golden/v1/job-int8.json")).expect("the golden file is a job");
        let Work::Batch(batch) = job.work else { panic!("a batch") };
        batch.check().expect("it is sound");
        let problem = |change: &dyn Fn(&mut Batch)| {
            let mut other = (*batch).clone();
            change(&mut other);
            other.check().expect_err("it is refused").to_string()
        };
        let none = problem(&|batch| batch.calibration.clear());
        assert!(none.contains("batch.calibration") && none.contains("1 to 128"), "{none}");
        let many = problem(&|batch| batch.calibration = vec![batch.images[0].clone(); MOST_CALIBRATION + 1]);
        assert!(many.contains("1 to 128"), "{many}");
        let other = problem(&|batch| batch.precision = Precision::Bf16);
        assert!(other.contains("none is accepted without int8"), "{other}");
        let both = problem(&|batch| batch.calibration[0].file = Some("/x".into()));
        assert!(both.contains("batch.calibration[0]"), "{both}");
    }
}
