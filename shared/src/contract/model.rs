//! A model in the store: a manifest, weights, and how pictures become its input.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Network, Shape};
use crate::names::{Name, ObjectRef};

/// `models/<name>/<digest>/model.json`; the digest is that of the manifest's content. Immutable:
/// `models/<name>/current` names the digest in use.
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
    /// Its parameters, as safetensors; names and shapes are those of [`Network::parameters`].
    pub weights: ObjectRef,
}

/// What a model computes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// The shape of one input.
    pub input: Shape,
    /// The network.
    pub network: Network,
}

/// How a picture becomes `[C, H, W]`: resized to the input's height and width, scaled to 0..1, then
/// `(value - mean) / std` a channel. An input of one channel is luma.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// A channel's mean.
    pub mean: Vec<f64>,
    /// A channel's standard deviation.
    pub std: Vec<f64>,
}
