//! From a network's description to the graph that every device computes.
//!
//! Shapes come from the description's own rules, so that both cannot disagree.

use engine::Window;
use engine::graph::{Activation, Affine, Graph, Op as Node, ParameterId, Unfit, Value};
use shared::contract::{self, Layer, Network, Op, Parameter, Shape, Size};

use super::ComputeError;

/// The graph of `network` on inputs of shape `input`. Its parameters are `parameters`, those of [`Network::parameters`], in that order.
///
/// # Errors
/// The network does not fit its input.
pub(super) fn graph(network: &Network, input: &[usize], parameters: &[Parameter]) -> Result<Graph, ComputeError> {
    let mut graph = Graph::new(input);
    for parameter in parameters {
        graph.parameter(&parameter.name, &parameter.shape, parameter.init.is_trained());
    }
    let value = graph.input();
    let mut builder = Builder { graph, next: 0, dropouts: 0 };
    let output = builder.list(&network.layers, value)?;
    builder.graph.set_output(output);
    Ok(builder.graph)
}

struct Builder {
    graph: Graph,
    /// The number of the next parameter: layers own theirs in the order in which they are walked.
    next: usize,
    dropouts: u64,
}

impl Builder {
    fn list(&mut self, layers: &[Layer], mut value: Value) -> Result<Value, ComputeError> {
        for layer in layers {
            value = self.layer(&layer.op, value)?;
        }
        Ok(value)
    }

    fn layer(&mut self, op: &Op, x: Value) -> Result<Value, ComputeError> {
        match op {
            Op::Residual { layers, shortcut } => {
                let main = self.list(layers, x)?;
                let other = self.list(shortcut, x)?;
                self.add(Node::Add, &[main, other])
            }
            Op::Parallel { branches } => {
                let outputs: Vec<Value> =
                    branches.iter().map(|branch| self.list(branch, x)).collect::<Result<_, _>>()?;
                if let [alone] = outputs.as_slice() { Ok(*alone) } else { self.add(Node::Concat, &outputs) }
            }
            op => {
                let input = self.graph.shape(x).to_vec();
                let node = self.node(op, &input)?;
                self.add(node, &[x])
            }
        }
    }

    /// A layer without layers inside, on an input of shape `input`.
    fn node(&mut self, op: &Op, input: &[usize]) -> Result<Node, ComputeError> {
        let output = || {
            let alone = Network { layers: vec![Layer { name: None, op: op.clone() }] };
            alone.output_shape(input).map_err(|error| ComputeError::InvalidJob(error.to_string()))
        };
        Ok(match op {
            Op::Conv { kernel, stride, padding, dilation, groups, bias, .. } => {
                let (kernel, stride, dilation) = (kernel.pair(), stride.pair(), dilation.pair());
                let before = [0, 1].map(|axis| {
                    let [before, _] = padding.along(axis, input[axis + 1], kernel[axis], stride[axis], dilation[axis]);
                    before
                });
                let window = Window { kernel, stride, before, dilation, output: maps(&output()?) };
                Node::Conv { window, groups: *groups, weight: self.own(), bias: bias.then(|| self.own()) }
            }
            Op::Linear { bias, .. } => Node::Linear { weight: self.own(), bias: bias.then(|| self.own()) },
            Op::BatchNorm { momentum, epsilon } => {
                let affine = self.affine();
                let (mean, variance) = (self.own(), self.own());
                Node::BatchNorm { momentum: *momentum, epsilon: *epsilon, affine, mean, variance }
            }
            Op::LayerNorm { epsilon } => Node::RowNorm { groups: 1, epsilon: *epsilon, affine: self.affine() },
            Op::GroupNorm { groups, epsilon } => {
                Node::RowNorm { groups: *groups, epsilon: *epsilon, affine: self.affine() }
            }
            Op::Activation { function } => Node::Activation(activation(*function)),
            Op::Relu {} => Node::Activation(Activation::Relu),
            Op::MaxPool { kernel, stride, padding, .. } => {
                Node::MaxPool(pool_window(*kernel, *stride, padding.0.pair(), &output()?))
            }
            Op::AvgPool { kernel, stride, padding, count_padding } => Node::AvgPool {
                window: pool_window(*kernel, *stride, padding.0.pair(), &output()?),
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

    fn add(&mut self, node: Node, inputs: &[Value]) -> Result<Value, ComputeError> {
        self.graph.add(node, inputs).map_err(|Unfit(problem)| ComputeError::InvalidJob(problem))
    }

    /// The layer's next parameter.
    fn own(&mut self) -> ParameterId {
        let id = self.graph.parameter_id(self.next).expect("a layer's parameters are in the description's list");
        self.next += 1;
        id
    }

    fn affine(&mut self) -> Affine {
        Affine { weight: self.own(), bias: self.own() }
    }
}

/// Height and width of maps.
fn maps(shape: &Shape) -> [usize; 2] {
    [shape[1], shape[2]]
}

fn pool_window(kernel: Size, stride: Option<Size>, before: [usize; 2], output: &Shape) -> Window {
    let stride = stride.unwrap_or(kernel).pair();
    Window { kernel: kernel.pair(), stride, before, dilation: [1, 1], output: maps(output) }
}

fn activation(function: contract::Activation) -> Activation {
    match function {
        contract::Activation::Relu => Activation::Relu,
        contract::Activation::Relu6 => Activation::Relu6,
        contract::Activation::LeakyRelu => Activation::LeakyRelu,
        contract::Activation::Gelu => Activation::Gelu,
        contract::Activation::Silu => Activation::Silu,
        contract::Activation::HardSwish => Activation::HardSwish,
        contract::Activation::Sigmoid => Activation::Sigmoid,
        contract::Activation::Tanh => Activation::Tanh,
    }
}
