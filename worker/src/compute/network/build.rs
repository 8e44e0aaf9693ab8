//! From a description to layers with tensors.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use shared::contract::{Activation, Layer, Network, Op, Shape, Size};

use super::super::ComputeError;
use super::super::ops::{Conv, Window};
use super::{Affine, Net, Node};

impl Net {
    /// Binds `network`, on inputs of shape `input`, to its tensors in `tensors`, which have the names
    /// and shapes of [`Network::parameters`].
    ///
    /// # Errors
    /// The network does not fit its input, or a tensor is missing.
    pub(in crate::compute) fn new(
        network: &Network,
        input: &[usize],
        tensors: &VarBuilder<'_>,
    ) -> Result<Self, ComputeError> {
        network.output_shape(input).map_err(|error| ComputeError::InvalidJob(error.to_string()))?;
        let mut builder = Builder { tensors, shape: input.to_vec(), dropouts: 0 };
        Ok(Self { layers: builder.list(&network.layers, "")? })
    }
}

struct Builder<'a, 'v> {
    tensors: &'a VarBuilder<'v>,
    /// The shape of one example between the layers.
    shape: Shape,
    dropouts: u64,
}

impl Builder<'_, '_> {
    fn list(&mut self, layers: &[Layer], prefix: &str) -> Result<Vec<Node>, ComputeError> {
        let mut nodes: Vec<Node> = Vec::with_capacity(layers.len());
        for (index, layer) in layers.iter().enumerate() {
            let is_relu = matches!(layer.op, Op::Relu {} | Op::Activation { function: Activation::Relu });
            // A relu right behind takes no pass of its own.
            match nodes.last_mut() {
                Some(Node::Conv { conv: Conv { relu, .. }, .. } | Node::Linear { relu, .. }) if is_relu => *relu = true,
                _ => nodes.push(self.layer(&layer.op, &layer.prefix(prefix, index))?),
            }
        }
        Ok(nodes)
    }

    fn layer(&mut self, op: &Op, prefix: &str) -> Result<Node, ComputeError> {
        let input = self.shape.clone();
        Ok(match op {
            Op::Residual { layers, shortcut } => {
                let layers = self.list(layers, &format!("{prefix}.layers"))?;
                let output = std::mem::replace(&mut self.shape, input);
                let shortcut = self.list(shortcut, &format!("{prefix}.shortcut"))?;
                self.shape = output;
                Node::Residual { layers, shortcut }
            }
            Op::Parallel { branches } => {
                let mut channels = 0;
                let mut nodes = Vec::with_capacity(branches.len());
                for (index, branch) in branches.iter().enumerate() {
                    self.shape.clone_from(&input);
                    nodes.push(self.list(branch, &format!("{prefix}.branches.{index}"))?);
                    channels += self.shape[0];
                }
                self.shape[0] = channels;
                Node::Parallel(nodes)
            }
            op => {
                let alone = Network { layers: vec![Layer { name: None, op: op.clone() }] };
                self.shape = alone.output_shape(&input).map_err(|error| ComputeError::InvalidJob(error.to_string()))?;
                self.simple(op, &input, prefix)?
            }
        })
    }

    /// A layer without layers inside; `self.shape` is its output already.
    fn simple(&mut self, op: &Op, input: &[usize], prefix: &str) -> Result<Node, ComputeError> {
        Ok(match op {
            Op::Conv { filters, kernel, stride, padding, dilation, groups, bias } => {
                let (kernel, stride, dilation) = (kernel.pair(), stride.pair(), dilation.pair());
                let weight = self.tensor(prefix, "weight", &[*filters, input[0] / groups, kernel[0], kernel[1]])?;
                let bias = self.bias(prefix, *filters, *bias, &weight)?;
                let before = [0, 1].map(|axis| {
                    let [before, _] = padding.along(axis, input[axis + 1], kernel[axis], stride[axis], dilation[axis]);
                    before
                });
                let window = Window { kernel, stride, before, dilation, output: [self.shape[1], self.shape[2]] };
                Node::Conv { conv: Conv { window, groups: *groups, relu: false }, weight, bias }
            }
            Op::Linear { units, bias } => {
                let weight = self.tensor(prefix, "weight", &[*units, input[0]])?;
                let bias = self.bias(prefix, *units, *bias, &weight)?;
                Node::Linear { weight, bias, relu: false }
            }
            Op::BatchNorm { momentum, epsilon } => {
                let channels = &input[..1];
                Node::BatchNorm {
                    momentum: *momentum,
                    epsilon: *epsilon,
                    affine: self.affine(prefix, channels)?,
                    running_mean: self.tensor(prefix, "running_mean", channels)?.detach(),
                    running_variance: self.tensor(prefix, "running_var", channels)?.detach(),
                }
            }
            Op::LayerNorm { epsilon } => {
                Node::RowNorm { groups: 1, epsilon: *epsilon, affine: self.affine(prefix, input)? }
            }
            Op::GroupNorm { groups, epsilon } => {
                Node::RowNorm { groups: *groups, epsilon: *epsilon, affine: self.affine(prefix, &input[..1])? }
            }
            Op::Activation { function } => Node::Activation(*function),
            Op::Relu {} => Node::Activation(Activation::Relu),
            Op::MaxPool { kernel, stride, padding, .. } => {
                Node::MaxPool(self.pool_window(*kernel, *stride, padding.0.pair()))
            }
            Op::AvgPool { kernel, stride, padding, count_padding } => Node::AvgPool {
                window: self.pool_window(*kernel, *stride, padding.0.pair()),
                count_padding: *count_padding,
            },
            Op::Dropout { rate } => {
                self.dropouts += 1;
                Node::Dropout { rate: *rate, number: self.dropouts }
            }
            Op::Flatten {} => Node::Flatten,
            Op::GlobalAvgPool {} => Node::GlobalAvgPool,
            Op::Residual { .. } | Op::Parallel { .. } => unreachable!("these have layers inside"),
        })
    }

    fn tensor(&self, prefix: &str, name: &str, shape: &[usize]) -> Result<Tensor, ComputeError> {
        Ok(self.tensors.pp(prefix).get(shape, name)?)
    }

    /// A layer's bias; without one, zeros that are never trained.
    fn bias(&self, prefix: &str, units: usize, exists: bool, weight: &Tensor) -> Result<Tensor, ComputeError> {
        if exists {
            return self.tensor(prefix, "bias", &[units]);
        }
        Ok(Tensor::zeros(units, weight.dtype(), weight.device())?)
    }

    fn affine(&self, prefix: &str, shape: &[usize]) -> Result<Affine, ComputeError> {
        Ok(Affine { weight: self.tensor(prefix, "weight", shape)?, bias: self.tensor(prefix, "bias", shape)? })
    }

    fn pool_window(&self, kernel: Size, stride: Option<Size>, before: [usize; 2]) -> Window {
        let stride = stride.unwrap_or(kernel).pair();
        let output = [self.shape[1], self.shape[2]];
        Window { kernel: kernel.pair(), stride, before, dilation: [1, 1], output }
    }
}
