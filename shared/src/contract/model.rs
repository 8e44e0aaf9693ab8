//! A model in the store: a manifest, weights, and how pictures become its input.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Layer, Network, Shape};
use crate::names::{Name, ObjectRef};
use crate::strict::Problem;

/// `models/<name>/<digest>/model.json`; the digest is that of the manifest's content. Immutable:
/// of `models/<name>/pointer/<number>.json` the one with the highest number names the digest in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// The model's name.
    pub name: Name,
    /// What it computes.
    pub config: ModelConfig,
    /// How pictures become its input.
    pub preprocessing: Preprocessing,
    /// The labels of its outputs, in order.
    pub labels: Vec<String>,
    /// What its outputs become.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scores: Scores,
    /// Labels with a lower score are left out where a batch says neither a limit nor other scores: of a model whose outputs are
    /// probabilities already, and of which several labels may be right.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Its parameters, as safetensors whose names and shapes are those of [`Network::parameters`]; or the ONNX file.
    pub weights: ObjectRef,
}

impl Model {
    /// The limit below which labels are left out where nobody says another; `scores` are a batch's own.
    pub fn limit(&self, scores: Option<Scores>) -> Option<f64> {
        match scores {
            Some(scores) => scores.threshold(),
            None => self.threshold.or(self.scores.threshold()),
        }
    }

    /// `[channels, height, width]`, where its input is a picture: grey or RGB.
    pub fn picture(&self) -> Option<[usize; 3]> {
        match *self.config.input.as_slice() {
            [channels @ (1 | 3), height, width] => Some([channels, height, width]),
            _ => None,
        }
    }
}

/// What a model computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The shape of one input.
    pub input: Shape,
    /// The network.
    pub network: ModelNetwork,
}

/// What a model's outputs are computed by.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelNetwork {
    /// Layers, first to last, as in [`Network`].
    Layers(Vec<Layer>),
    /// What the ONNX file holds that stands in the place of the weights.
    Onnx(OnnxNetwork),
}

/// An ONNX file's network. It is computed on the processors.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OnnxNetwork {
    /// Its parameters: numbers, not tensors.
    pub parameters: u64,
}

impl From<Network> for ModelNetwork {
    fn from(network: Network) -> Self {
        Self::Layers(network.layers)
    }
}

/// What a network's outputs (logits) become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scores {
    /// Probabilities that add up to 1: one label is right.
    #[default]
    Softmax,
    /// A probability for each label alone, `1 / (1 + exp(-x))`: any number of labels may be right.
    Sigmoid,
    /// The outputs as they are.
    Raw,
}

impl Scores {
    /// Labels with a lower score are left out where nobody says another limit.
    pub fn threshold(self) -> Option<f64> {
        (self == Self::Sigmoid).then_some(0.5)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// How a picture becomes `[C, H, W]`: resized, cropped in the middle to the input's height and width,
/// multiplied by `rescale`, then `(value - mean) / std` a channel. An input of one channel is luma.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// How it is resized before the crop; straight to the input's height and width by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// How new pixels are made of old ones.
    #[serde(default)]
    pub filter: Filter,
    /// Where the crop begins when an odd number of rows or columns is cut off.
    #[serde(default, skip_serializing_if = "is_default")]
    pub crop: Crop,
    /// A byte a channel of what lies around a picture that is smaller than the input; zeros by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub border: Vec<u8>,
    /// The order of the channels; `mean`, `std` and `border` have it, too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub order: ChannelOrder,
    /// What a byte is multiplied by.
    #[serde(default = "one_255th")]
    pub rescale: f64,
    /// A channel's mean, after `rescale`.
    pub mean: Vec<f64>,
    /// A channel's standard deviation, after `rescale`.
    pub std: Vec<f64>,
}

/// A picture's size before the crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Resize {
    /// The shorter edge gets so many pixels, the longer one keeps the shape: rounded to the nearest pixel, a half to the
    /// even one.
    ShortestEdge(u32),
    /// The same, but a part of a pixel is cut off, as torchvision and Hugging Face's processors do it.
    ShortestEdgeCut(u32),
    /// Height and width, whatever the shape was.
    Exact([u32; 2]),
    /// The smallest picture of its shape that covers this height and width, rounded as `shortest_edge` is.
    Covering([u32; 2]),
    /// The largest picture of its shape that lies inside this height and width, rounded likewise.
    Inside([u32; 2]),
}

/// Where a crop in the middle begins when it leaves an odd number of rows or columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Crop {
    /// The half is cut off, as Hugging Face does it.
    #[default]
    Down,
    /// At the even one of the two rows or columns, as torchvision and timm do it.
    Even,
}

/// The order of a picture's channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChannelOrder {
    /// Red, green, blue.
    #[default]
    Rgb,
    /// Blue, green, red.
    Bgr,
}

/// Resampling filters, by their names in PIL; all of them widen when they shrink a picture (antialias).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Filter {
    /// The nearest pixel.
    Nearest,
    /// A triangle of two pixels.
    #[default]
    Bilinear,
    /// A cubic of four pixels (a = -0.5).
    Bicubic,
    /// A windowed sinc of six pixels.
    Lanczos,
    /// The mean of the old pixels under a new one.
    Box,
    /// A windowed sinc of two pixels.
    Hamming,
}

/// The longest edge that a picture is resized to.
const LONGEST_EDGE: u32 = 1 << 14;

impl Resize {
    /// Checks that the size is one that a picture can have.
    ///
    /// # Errors
    /// An edge of 0, or a very long one.
    pub fn check(self) -> Result<(), Problem> {
        let edges = match self {
            Self::ShortestEdge(edge) | Self::ShortestEdgeCut(edge) => [edge; 2],
            Self::Exact(size) | Self::Covering(size) | Self::Inside(size) => size,
        };
        match edges.iter().find(|edge| !(1..=LONGEST_EDGE).contains(edge)) {
            Some(edge) => {
                Err(Problem::new("resize", format!("{edge} pixels"), format!("1 to {LONGEST_EDGE} are accepted")))
            }
            None => Ok(()),
        }
    }
}

impl Preprocessing {
    /// Straight to the input's size, bytes to 0..1, standardised.
    pub fn standard(mean: Vec<f64>, std: Vec<f64>) -> Self {
        let (crop, order, border) = (Crop::default(), ChannelOrder::default(), Vec::new());
        Self { resize: None, filter: Filter::default(), crop, border, order, rescale: one_255th(), mean, std }
    }

    /// Checks every value, for an input of so many channels.
    ///
    /// # Errors
    /// The first one that cannot be, by its key.
    pub fn check(&self, channels: usize) -> Result<(), Problem> {
        let accepted = format!("{channels} finite numbers are accepted, one a channel");
        if self.mean.len() != channels || self.mean.iter().any(|mean| !mean.is_finite()) {
            return Err(Problem::new("mean", format!("{:?}", self.mean), accepted));
        }
        if self.std.len() != channels || self.std.iter().any(|std| !std.is_finite() || *std <= 0.0) {
            return Err(Problem::new("std", format!("{:?}", self.std), format!("{accepted}, above 0")));
        }
        if !self.border.is_empty() && self.border.len() != channels {
            let accepted = format!("{channels} bytes are accepted, one a channel");
            return Err(Problem::new("border", format!("{:?}", self.border), accepted));
        }
        if !self.rescale.is_finite() || self.rescale <= 0.0 {
            return Err(Problem::new("rescale", self.rescale, "a number above 0 is accepted"));
        }
        self.resize.map_or(Ok(()), Resize::check)
    }
}

fn one_255th() -> f64 {
    1.0 / 255.0
}
