//! A network as a list of layers: the trainable form of a model.
//!
//! Read from TOML or JSON. In a study any number, text or flag may be `"$name"`; by the time a
//! network stands in a job every parameter has its value.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

/// A feed-forward network: its layers, first to last. The last one's outputs are the logits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// The layers, first to last.
    pub layers: Vec<Layer>,
}

/// One layer: an operation and, where it matters, a name.
///
/// The name is the whole prefix of the layer's tensors from the root of the weights file, also inside a
/// block (`features.3.squeeze` gives `features.3.squeeze.weight`). Without one the prefix is the layer's
/// position in its list, as in PyTorch's `Sequential`, under the prefix of the block around it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Layer {
    /// The whole prefix of its tensors' names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What it does.
    #[serde(flatten)]
    pub op: Op,
}

/// What a layer does. `C`, `H`, `W` are the channels, height and width of one picture; the batch is
/// always the first dimension and is not written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Op {
    /// Two-dimensional convolution (cross-correlation, as every framework computes it):
    /// `[C, H, W]` to `[filters, H', W']`. Weight `[filters, C / groups, kernel]`.
    Conv {
        /// Output channels.
        filters: usize,
        /// Height and width of the kernel.
        kernel: Size,
        /// Step between outputs.
        #[serde(default = "Size::one")]
        stride: Size,
        /// Zeros around the input.
        #[serde(default)]
        padding: Padding,
        /// Step between the kernel's taps.
        #[serde(default = "Size::one")]
        dilation: Size,
        /// Groups of channels that do not see each other; `groups = C` is a depthwise convolution.
        #[serde(default = "one")]
        groups: usize,
        /// Whether a bias `[filters]` is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Fully connected: `[N]` to `[units]`. Weight `[units, N]`.
    Linear {
        /// Outputs.
        units: usize,
        /// Whether a bias `[units]` is added.
        #[serde(default = "yes")]
        bias: bool,
    },
    /// Batch normalisation over every dimension but the channels (Ioffe and Szegedy 2015), with
    /// PyTorch's conventions: unbiased running variance.
    BatchNorm {
        /// Weight of a new batch in the running mean and variance.
        #[serde(default = "tenth")]
        momentum: f64,
        /// Added to the variance.
        #[serde(default = "epsilon")]
        epsilon: f64,
    },
    /// Normalisation over all dimensions of one example (Ba et al. 2016); weight and bias an element.
    LayerNorm {
        /// Added to the variance.
        #[serde(default = "epsilon")]
        epsilon: f64,
    },
    /// Normalisation over groups of channels of one example (Wu and He 2018).
    GroupNorm {
        /// How many groups; must divide the channels.
        groups: usize,
        /// Added to the variance.
        #[serde(default = "epsilon")]
        epsilon: f64,
    },
    /// An element-wise activation.
    Activation {
        /// Which.
        function: Activation,
    },
    /// `max(x, 0)`: short for the activation of that name.
    Relu {},
    /// The largest value of each window. Padding counts as minus infinity.
    MaxPool {
        /// Height and width of the window.
        kernel: Size,
        /// Step between windows; the kernel's size by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Size>,
        /// Rows and columns around the input.
        #[serde(default)]
        padding: PoolPadding,
        /// Whether a last window that hangs over the edge counts.
        #[serde(default)]
        ceil: bool,
    },
    /// The mean of each window.
    AvgPool {
        /// Height and width of the window.
        kernel: Size,
        /// Step between windows; the kernel's size by default.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stride: Option<Size>,
        /// Rows and columns of zeros around the input.
        #[serde(default)]
        padding: PoolPadding,
        /// Whether the padding's zeros count in the mean.
        #[serde(default = "yes")]
        count_padding: bool,
    },
    /// The mean over height and width: `[C, H, W]` to `[C]`.
    GlobalAvgPool {},
    /// Sets each element to zero with probability `rate` while training and scales the rest by
    /// `1 / (1 - rate)` (Srivastava et al. 2014); does nothing otherwise.
    Dropout {
        /// Probability, 0 to below 1.
        rate: f64,
    },
    /// `[C, H, W]` to `[C * H * W]`.
    Flatten {},
    /// `layers(x) + shortcut(x)` (He et al. 2015); an empty shortcut is the identity.
    Residual {
        /// The main branch.
        layers: Vec<Layer>,
        /// The other branch.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        shortcut: Vec<Layer>,
    },
    /// Every branch on the same input, outputs concatenated along the channels.
    Parallel {
        /// The branches, in the order of their channels.
        branches: Vec<Vec<Layer>>,
    },
}

/// Element-wise activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// `max(x, 0)`.
    Relu,
    /// `min(max(x, 0), 6)`.
    Relu6,
    /// `x` above zero, `0.01 x` below.
    LeakyRelu,
    /// `x * Phi(x)` with the error function (Hendrycks and Gimpel 2016).
    Gelu,
    /// `x * sigmoid(x)`.
    Silu,
    /// `x * relu6(x + 3) / 6` (Howard et al. 2019).
    HardSwish,
    /// The logistic function.
    Sigmoid,
    /// The hyperbolic tangent.
    Tanh,
}

/// Height and width: one number for both, or `[height, width]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "a number, or [height, width]")]
pub enum Size {
    /// Both alike.
    Square(usize),
    /// Height, then width.
    Pair([usize; 2]),
}

impl Size {
    fn one() -> Self {
        Self::Square(1)
    }

    /// `[height, width]`.
    pub fn pair(self) -> [usize; 2] {
        match self {
            Self::Square(side) => [side, side],
            Self::Pair(pair) => pair,
        }
    }
}

/// The zeros around a convolution's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "\"same\", \"valid\", a number, or [height, width]")]
pub enum Padding {
    /// A rule.
    Rule(PaddingRule),
    /// Rows above and below, columns left and right.
    Fixed(Size),
}

/// Padding by rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PaddingRule {
    /// None.
    Valid,
    /// So that the output has `ceil(input / stride)` rows and columns; an odd remainder goes below
    /// and right, as in TensorFlow.
    Same,
}

impl Default for Padding {
    fn default() -> Self {
        Self::Rule(PaddingRule::Valid)
    }
}

impl Padding {
    /// `[before, after]` along one dimension.
    pub fn along(self, axis: usize, input: usize, kernel: usize, stride: usize, dilation: usize) -> [usize; 2] {
        match self {
            Self::Rule(PaddingRule::Valid) => [0, 0],
            Self::Fixed(size) => [size.pair()[axis]; 2],
            Self::Rule(PaddingRule::Same) => {
                let outputs = input.div_ceil(stride);
                let reach = dilation.saturating_mul(kernel - 1) + 1;
                let total = ((outputs - 1) * stride + reach).saturating_sub(input);
                [total / 2, total - total / 2]
            }
        }
    }
}

/// The rows and columns around a pool's input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct PoolPadding(pub Size);

impl Default for PoolPadding {
    fn default() -> Self {
        Self(Size::Square(0))
    }
}

fn one() -> usize {
    1
}

fn yes() -> bool {
    true
}

fn tenth() -> f64 {
    0.1
}

fn epsilon() -> f64 {
    1e-5
}

// By hand because `flatten` and `deny_unknown_fields` exclude each other: the name is taken out
// first and the rest must be an operation.
impl<'de> Deserialize<'de> for Layer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut map = serde_json::Map::deserialize(deserializer)?;
        let name = match map.remove("name") {
            None => None,
            Some(serde_json::Value::String(name)) if is_tensor_prefix(&name) => Some(name),
            Some(other) => {
                return Err(D::Error::custom(format!(
                    "a layer's `name` is {other}: letters, digits, `_`, `-` and dots between them are accepted"
                )));
            }
        };
        let op = serde_json::from_value(map.into()).map_err(D::Error::custom)?;
        Ok(Self { name, op })
    }
}

fn is_tensor_prefix(name: &str) -> bool {
    let part_fits =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b));
    name.len() <= 200 && name.split('.').all(part_fits)
}

impl JsonSchema for Layer {
    fn schema_name() -> Cow<'static, str> {
        "Layer".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let mut schema = Op::json_schema(generator);
        let variants = schema.get_mut("oneOf").and_then(serde_json::Value::as_array_mut);
        for variant in variants.into_iter().flatten() {
            variant["properties"]["name"] = serde_json::json!({
                "type": "string",
                "description": "The whole prefix of the layer's tensors, also inside a block; by default the layer's position under the prefix of the block around it."
            });
        }
        schema
    }
}
