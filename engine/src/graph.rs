//! A network as a graph: operations in the order in which they can run, with the shape of every value.
//!
//! All shapes are those of one example; the batch is the first dimension everywhere and is not written. A
//! graph is built through its methods, each of which checks its inputs and infers its output's shape.

use std::sync::Arc;

use crate::window::Window;

/// A value: the output of the node with this number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub(crate) usize);

/// A tensor that the graph owns, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParameterId(pub(crate) usize);

impl ParameterId {
    /// Its place in [`Graph::parameters`].
    pub fn index(self) -> usize {
        self.0
    }
}

impl Value {
    /// Its place in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0
    }
}

/// A tensor that the graph owns.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameter {
    /// Its name in a weights file.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Whether an optimiser changes it.
    pub trained: bool,
}

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

/// An operation with its inputs and the shape of its output.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// What it does.
    pub op: Op,
    /// To what.
    pub inputs: Vec<Value>,
    /// Of its output, for one example.
    pub shape: Vec<usize>,
}

/// Why an operation does not fit its inputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit(pub String);

impl std::fmt::Display for Unfit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Unfit {}

/// A network.
#[derive(Debug, Clone, PartialEq)]
pub struct Graph {
    nodes: Vec<Node>,
    parameters: Vec<Parameter>,
    output: Value,
}

impl Graph {
    /// A graph that does nothing yet to an input of this shape: `[C, H, W]` or `[N]`.
    pub fn new(input: &[usize]) -> Self {
        let node = Node { op: Op::Input, inputs: Vec::new(), shape: input.to_vec() };
        Self { nodes: vec![node], parameters: Vec::new(), output: Value(0) }
    }

    /// The input.
    pub fn input(&self) -> Value {
        Value(0)
    }

    /// The output: the last node that was added, or what [`Graph::set_output`] chose.
    pub fn output(&self) -> Value {
        self.output
    }

    /// Makes `value` the output.
    pub fn set_output(&mut self, value: Value) {
        self.output = value;
    }

    /// All nodes, each after its inputs. The first is the input.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A value's node.
    pub fn node(&self, value: Value) -> &Node {
        &self.nodes[value.0]
    }

    /// A value's shape.
    pub fn shape(&self, value: Value) -> &[usize] {
        &self.nodes[value.0].shape
    }

    /// The tensors that the graph owns.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Those who read each value.
    pub fn consumers(&self) -> Vec<Vec<Value>> {
        let mut consumers = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for input in &node.inputs {
                consumers[input.0].push(Value(index));
            }
        }
        consumers
    }

    /// A new parameter.
    pub fn parameter(&mut self, name: impl Into<String>, shape: &[usize], trained: bool) -> ParameterId {
        self.parameters.push(Parameter { name: name.into(), shape: shape.to_vec(), trained });
        ParameterId(self.parameters.len() - 1)
    }

    /// The parameter with this number, if there is one.
    pub fn parameter_id(&self, number: usize) -> Option<ParameterId> {
        (number < self.parameters.len()).then_some(ParameterId(number))
    }

    /// A parameter's shape.
    pub fn parameter_shape(&self, parameter: ParameterId) -> &[usize] {
        &self.parameters[parameter.0].shape
    }

    /// Adds a node and makes it the output.
    ///
    /// # Errors
    /// The operation does not fit its inputs or its parameters.
    pub fn add(&mut self, op: Op, inputs: &[Value]) -> Result<Value, Unfit> {
        let shape = self.infer(&op, inputs)?;
        self.nodes.push(Node { op, inputs: inputs.to_vec(), shape });
        self.output = Value(self.nodes.len() - 1);
        Ok(self.output)
    }

    /// The same graph without dropout, for outputs alone.
    #[must_use]
    pub fn without_dropout(&self) -> Self {
        let mut lean = Self { nodes: Vec::new(), parameters: self.parameters.clone(), output: self.output };
        let mut renamed = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            let inputs: Vec<Value> = node.inputs.iter().map(|input| renamed[input.0]).collect();
            if matches!(node.op, Op::Dropout { .. }) {
                renamed.push(inputs[0]);
            } else {
                renamed.push(Value(lean.nodes.len()));
                lean.nodes.push(Node { inputs, ..node.clone() });
            }
        }
        lean.output = renamed[self.output.0];
        lean
    }

    fn infer(&self, op: &Op, inputs: &[Value]) -> Result<Vec<usize>, Unfit> {
        let unfit = |problem: String| Err(Unfit(problem));
        let one = || match inputs {
            [input] => Ok(self.shape(*input)),
            _ => Err(Unfit(format!("it has {} inputs instead of one", inputs.len()))),
        };
        let maps = || {
            let shape = one()?;
            <[usize; 3]>::try_from(shape)
                .map_err(|_| Unfit(format!("its input is {shape:?}: [channels, height, width] is needed")))
        };
        let owns = |parameter: ParameterId, shape: &[usize]| {
            let found = self.parameter_shape(parameter);
            let name = &self.parameters[parameter.0].name;
            if found == shape { Ok(()) } else { Err(Unfit(format!("`{name}` is {found:?}: {shape:?} is needed"))) }
        };
        let pooled = |window: &Window| {
            let [channels, height, width] = maps()?;
            reaches([height, width], window)?;
            Ok(vec![channels, window.output[0], window.output[1]])
        };
        match op {
            Op::Input => unfit("a graph has one input".into()),
            Op::Conv { window, groups, weight, bias } => {
                let [channels, height, width] = maps()?;
                let filters = self.parameter_shape(*weight).first().copied().unwrap_or(0);
                if *groups == 0 || !channels.is_multiple_of(*groups) || filters == 0 || !filters.is_multiple_of(*groups)
                {
                    return unfit(format!("{groups} groups do not divide {channels} channels and {filters} filters"));
                }
                owns(*weight, &[filters, channels / groups, window.kernel[0], window.kernel[1]])?;
                bias.map_or(Ok(()), |bias| owns(bias, &[filters]))?;
                // A window that lies in the padding alone gives the bias.
                slides([height, width], window)?;
                Ok(vec![filters, window.output[0], window.output[1]])
            }
            Op::Linear { weight, bias } => {
                let shape = one()?;
                let [inputs] = shape else { return unfit(format!("its input is {shape:?}: a flat one is needed")) };
                let units = self.parameter_shape(*weight).first().copied().unwrap_or(0);
                owns(*weight, &[units, *inputs])?;
                bias.map_or(Ok(()), |bias| owns(bias, &[units]))?;
                Ok(vec![units])
            }
            Op::BatchNorm { affine, mean, variance, .. } => {
                let shape = one()?;
                for parameter in [affine.weight, affine.bias, *mean, *variance] {
                    owns(parameter, &shape[..1])?;
                }
                Ok(shape.to_vec())
            }
            Op::RowNorm { groups, affine, .. } => {
                let shape = one()?;
                if *groups == 0 || !shape[0].is_multiple_of(*groups) {
                    return unfit(format!("{groups} groups do not divide {} channels", shape[0]));
                }
                let weight = self.parameter_shape(affine.weight);
                owns(affine.bias, weight)?;
                if weight != &shape[..1] && (weight != shape || *groups > 1) {
                    return unfit(format!(
                        "its weight is {weight:?}: {:?} is needed, or with one group {shape:?}",
                        &shape[..1]
                    ));
                }
                Ok(shape.to_vec())
            }
            Op::Activation(_) | Op::Dropout { .. } => Ok(one()?.to_vec()),
            Op::MaxPool(window) | Op::AvgPool { window, .. } => pooled(window),
            Op::GlobalAvgPool => Ok(vec![maps()?[0]]),
            Op::Flatten => Ok(vec![one()?.iter().product()]),
            Op::Add => match inputs {
                [a, b] if self.shape(*a) == self.shape(*b) => Ok(self.shape(*a).to_vec()),
                [a, b] => unfit(format!("{:?} and {:?} cannot be added", self.shape(*a), self.shape(*b))),
                _ => unfit(format!("it has {} inputs instead of two", inputs.len())),
            },
            Op::Concat => {
                let Some(first) = inputs.first() else { return unfit("it has no inputs".into()) };
                let mut shape = self.shape(*first).to_vec();
                for input in &inputs[1..] {
                    let other = self.shape(*input);
                    if other.len() != shape.len() || other[1..] != shape[1..] {
                        return unfit(format!("{other:?} does not fit beside {shape:?}"));
                    }
                    shape[0] += other[0];
                }
                Ok(shape)
            }
            Op::Constant(parameter) => match self.parameter_shape(*parameter) {
                shape @ ([_] | [_, _, _]) => Ok(shape.to_vec()),
                shape => unfit(format!("a constant is {shape:?}: [N] or [channels, height, width] is needed")),
            },
            Op::Pairwise(_) => {
                let [a, b] = inputs else { return unfit(format!("it has {} inputs instead of two", inputs.len())) };
                let (a, b) = (self.shape(*a), self.shape(*b));
                let fits = |one: &[usize], all: &[usize]| one[0] == all[0] && one[1..].iter().all(|size| *size == 1);
                match (a, b) {
                    _ if a == b || fits(b, a) => Ok(a.to_vec()),
                    _ if fits(a, b) => Ok(b.to_vec()),
                    _ => unfit(format!("{b:?} does not fit {a:?}")),
                }
            }
            Op::Function(_) | Op::Softmax => Ok(one()?.to_vec()),
            Op::ChannelNorm { affine, .. } => {
                let shape = one()?;
                owns(affine.weight, &shape[..1])?;
                owns(affine.bias, &shape[..1])?;
                Ok(shape.to_vec())
            }
            Op::Attention { heads, .. } => self.attention(*heads, inputs),
            Op::Channels { first, count } => {
                let mut shape = one()?.to_vec();
                if *count == 0 || first.checked_add(*count).is_none_or(|end| end > shape[0]) {
                    return unfit(format!("{count} channels from {first} are not in {shape:?}"));
                }
                shape[0] = *count;
                Ok(shape)
            }
            Op::Append => {
                let channels = inputs.first().map_or(0, |first| self.shape(*first)[0]);
                let mut pixels = 0;
                for shape in inputs.iter().map(|input| self.shape(*input)) {
                    if shape[0] != channels {
                        return unfit(format!("{shape:?} does not fit behind {channels} channels"));
                    }
                    pixels += shape[1..].iter().product::<usize>();
                }
                if pixels == 0 { unfit("it has no inputs".into()) } else { Ok(vec![channels, 1, pixels]) }
            }
            Op::Rearrange { from, shape, .. } => {
                one()?;
                let fits = matches!(shape.len(), 1 | 3) && shape.iter().product::<usize>() == from.len();
                if fits && !from.is_empty() {
                    Ok(shape.clone())
                } else {
                    unfit(format!("{} places are not {shape:?}", from.len()))
                }
            }
        }
    }
}

impl Graph {
    fn attention(&self, heads: usize, inputs: &[Value]) -> Result<Vec<usize>, Unfit> {
        let [q, k, v] = inputs else {
            return Err(Unfit(format!("it has {} inputs instead of queries, keys and values", inputs.len())));
        };
        let (q, k, v) = (self.shape(*q), self.shape(*k), self.shape(*v));
        let divides = |shape: &[usize]| heads > 0 && shape[0].is_multiple_of(heads);
        if q[0] == k[0] && k[1..] == v[1..] && divides(q) && divides(v) {
            return Ok([&v[..1], &q[1..]].concat());
        }
        Err(Unfit(format!("queries {q:?}, keys {k:?} and values {v:?} do not fit together in {heads} heads")))
    }
}

/// Checks that a window has outputs, taps and steps.
fn slides(size: [usize; 2], window: &Window) -> Result<(), Unfit> {
    let all = [size, window.kernel, window.stride, window.dilation, window.output];
    if all.iter().flatten().all(|number| *number > 0) {
        return Ok(());
    }
    Err(Unfit(format!("{window:?} does not fit {size:?}")))
}

/// Checks that every output of a window meets its input.
fn reaches(size: [usize; 2], window: &Window) -> Result<(), Unfit> {
    slides(size, window)?;
    let meets = |axis: usize| (window.output[axis] - 1) * window.stride[axis] < size[axis] + window.before[axis];
    if meets(0) && meets(1) {
        return Ok(());
    }
    Err(Unfit(format!("{window:?} does not fit {size:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_norm_of_several_groups_has_a_weight_a_channel() {
        for (groups, weight, fits) in
            [(1, &[4, 3, 2][..], true), (1, &[4], true), (2, &[4], true), (2, &[4, 3, 2], false)]
        {
            let mut graph = Graph::new(&[4, 3, 2]);
            let affine =
                Affine { weight: graph.parameter("w", weight, true), bias: graph.parameter("b", weight, true) };
            let added = graph.add(Op::RowNorm { groups, epsilon: 1e-5, affine }, &[graph.input()]);
            assert_eq!(added.is_ok(), fits, "{groups} groups, {weight:?}");
        }
    }
}
