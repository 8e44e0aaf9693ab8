//! What nodes do.

use std::sync::Arc;

use super::ParameterId;
use crate::window::Window;

/// Element-wise functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

/// Element-wise functions for outputs alone; numbers are written as in ONNX.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Function {
    /// `min(max(x, low), high)`.
    Clip {
        /// The least.
        low: f32,
        /// The most.
        high: f32,
    },
    /// `x` above zero, `slope * x` below.
    LeakyRelu {
        /// See above.
        slope: f32,
    },
    /// `min(max(alpha * x + beta, 0), 1)`.
    HardSigmoid {
        /// See above.
        alpha: f32,
        /// See above.
        beta: f32,
    },
    /// `x` above zero, `alpha * (e^x - 1)` below (Clevert et al. 2015).
    Elu {
        /// See above.
        alpha: f32,
    },
    /// `x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2`: Gelu's approximation.
    GeluTanh,
    /// `x * tanh(ln(1 + e^x))` (Misra 2019).
    Mish,
    /// `e^x`.
    Exp,
    /// The square root.
    Sqrt,
    /// The error function.
    Erf,
    /// `|x|`.
    Abs,
}

/// What becomes of two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pairwise {
    /// `a + b`.
    Add,
    /// `a - b`.
    Sub,
    /// `a * b`.
    Mul,
    /// `a / b`.
    Div,
    /// The larger.
    Max,
    /// The smaller.
    Min,
}

/// A norm's parameters that are trained.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Affine {
    /// What normalised values are multiplied by.
    pub weight: ParameterId,
    /// What is added then.
    pub bias: ParameterId,
}

/// What a node does. `C`, `H`, `W` are channels, height and width.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// The network's input.
    Input,
    /// Convolution, `[C, H, W]` to `[filters, H', W']`; weight `[filters, C / groups, kernel]`.
    Conv {
        /// How it slides.
        window: Window,
        /// Groups of channels that do not see each other.
        groups: usize,
        /// Its weights.
        weight: ParameterId,
        /// Added, `[filters]`.
        bias: Option<ParameterId>,
    },
    /// Fully connected, `[N]` to `[units]`; weight `[units, N]`.
    Linear {
        /// Its weights.
        weight: ParameterId,
        /// Added, `[units]`.
        bias: Option<ParameterId>,
    },
    /// Batch normalisation (Ioffe and Szegedy 2015) over all but the channels, PyTorch's conventions.
    BatchNorm {
        /// Weight of a new batch in the running statistics.
        momentum: f64,
        /// Added to the variance.
        epsilon: f64,
        /// A number a channel.
        affine: Affine,
        /// The running mean.
        mean: ParameterId,
        /// The running variance, unbiased.
        variance: ParameterId,
    },
    /// Normalisation of `groups` equal parts of each example: layer norm (Ba et al. 2016) with one group and a weight an element,
    /// group norm (Wu and He 2018) with a weight a channel.
    RowNorm {
        /// Parts.
        groups: usize,
        /// Added to the variance.
        epsilon: f64,
        /// A number a channel, or with one group an element.
        affine: Affine,
    },
    /// An element-wise function.
    Activation(Activation),
    /// The largest of each window; padding counts as minus infinity.
    MaxPool(Window),
    /// The mean of each window.
    AvgPool {
        /// How it slides.
        window: Window,
        /// Whether the zeros around count.
        count_padding: bool,
    },
    /// The mean over height and width, `[C, H, W]` to `[C]`.
    GlobalAvgPool,
    /// Zero with probability `rate` while training (Srivastava et al. 2014).
    Dropout {
        /// Probability.
        rate: f64,
        /// Tells this node's masks from those of others.
        number: u64,
    },
    /// `[C, H, W]` to `[C * H * W]`.
    Flatten,
    /// The sum of two values of one shape.
    Add,
    /// Values side by side along the channels.
    Concat,
    /// A tensor that does not depend on the input. This and what follows is for outputs alone: it has no gradients.
    Constant(ParameterId),
    /// Two values number by number. One of them may have a single pixel, `[C]` or `[C, 1, 1]`: it stands beside each of the other's.
    Pairwise(Pairwise),
    /// An element-wise function.
    Function(Function),
    /// Softmax over the channels of each pixel.
    Softmax,
    /// Layer norm over the channels of each pixel, with a weight a channel.
    ChannelNorm {
        /// Added to the variance.
        epsilon: f64,
        /// A number a channel.
        affine: Affine,
    },
    /// Scaled dot-product attention (Vaswani et al. 2017) of queries, keys and values, the three inputs: pixels are tokens, and
    /// each head has an equal part of the channels.
    Attention {
        /// Heads.
        heads: usize,
        /// What products are multiplied by before the softmax.
        scale: f32,
    },
    /// `count` channels from `first`.
    Channels {
        /// The first.
        first: usize,
        /// How many.
        count: usize,
    },
    /// The pixels of several values of the same channels one after another, `[C, 1, pixels]`.
    Append,
    /// Any elements of the input in any order: `from[i]` is the place in the input of the output's element `i`, both in the
    /// order of `[C, H, W]`; behind the input's end `fill` is meant.
    Rearrange {
        /// See above.
        from: Arc<[u32]>,
        /// The output's shape.
        shape: Vec<usize>,
        /// See above.
        fill: f32,
    },
}

impl Op {
    /// Whether it is for outputs alone.
    pub fn has_no_gradient(&self) -> bool {
        matches!(
            self,
            Self::Constant(_)
                | Self::Pairwise(_)
                | Self::Function(_)
                | Self::Softmax
                | Self::ChannelNorm { .. }
                | Self::Attention { .. }
                | Self::Channels { .. }
                | Self::Append
                | Self::Rearrange { .. }
        )
    }
}
