//! From a graph to layers: nodes that one kernel computes together.

use crate::graph::{Activation, Affine, Graph, Op, ParameterId, Value};
use crate::kernels::dense::Finish;
use crate::kernels::pooled;
use crate::simd::LANES;
use crate::window::Window;

use super::Purpose;

/// Nodes that are computed together.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Layer {
    pub(crate) op: LayerOp,
    /// What it reads.
    pub(crate) inputs: Vec<Value>,
    /// The value that it leaves: its last node's.
    pub(crate) output: Value,
}

/// What a layer does; the names are those of [`Op`].
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum LayerOp {
    Conv {
        window: Window,
        groups: usize,
        weight: ParameterId,
        bias: Option<ParameterId>,
        /// A batch norm behind it, with its running statistics: it becomes part of weights and bias. For outputs alone; so is a second
        /// input, that is added then.
        norm: Option<Folded>,
        /// What bounds the outputs: `[0, infinity]` is relu.
        clamp: Option<[f32; 2]>,
        /// A max-pool of 2x2 behind relu.
        pooled: bool,
    },
    Linear {
        weight: ParameterId,
        bias: Option<ParameterId>,
        relu: bool,
    },
    /// With a second input, that is added behind the norm.
    BatchNorm {
        momentum: f64,
        norm: Folded,
        relu: bool,
    },
    Add {
        relu: bool,
    },
    /// A node by itself.
    Alone(Op),
}

impl Layer {
    /// For people: what it does and the shape that it leaves.
    pub(crate) fn name(&self, graph: &Graph) -> String {
        let what = match &self.op {
            LayerOp::Conv { window, groups, pooled, clamp, .. } => {
                let ([rows, columns], stride) = (window.kernel, window.stride[0].max(window.stride[1]));
                let groups = if *groups > 1 { format!(" in {groups} groups") } else { String::new() };
                let behind = match (pooled, clamp) {
                    (true, _) => ", relu, pool",
                    _ if self.inputs.len() > 1 => ", sum",
                    (_, Some(_)) => ", relu",
                    _ => "",
                };
                let from = graph.shape(self.inputs[0])[0];
                &format!("convolution {rows}x{columns}/{stride}{groups} of {from}{behind}")
            }
            LayerOp::Linear { .. } => "linear",
            LayerOp::BatchNorm { .. } if self.inputs.len() > 1 => "batch norm, sum",
            LayerOp::BatchNorm { .. } => "batch norm",
            LayerOp::Add { .. } => "sum",
            LayerOp::Alone(op) => alone(op),
        };
        format!("{what} {:?}", graph.shape(self.output))
    }

    /// Products of numbers that are summed up for an example, by the definition of convolutions and linear layers; none for others.
    pub(crate) fn products(&self, graph: &Graph) -> usize {
        let of = |weight: ParameterId| graph.parameter_shape(weight).iter().product::<usize>();
        match &self.op {
            LayerOp::Conv { weight, window, .. } => of(*weight) * window.outputs(),
            LayerOp::Linear { weight, .. } => of(*weight),
            _ => 0,
        }
    }
}

/// What a node by itself is called.
pub(crate) fn alone(op: &Op) -> &'static str {
    match op {
        Op::RowNorm { .. } => "row norm",
        Op::Activation(_) => "activation",
        Op::MaxPool(_) => "max-pool",
        Op::AvgPool { .. } => "average pool",
        Op::GlobalAvgPool => "global average pool",
        Op::Dropout { .. } => "dropout",
        Op::Flatten => "flatten",
        Op::Concat | Op::Append => "concatenation",
        Op::Constant(_) => "constant",
        Op::Pairwise(_) => "pairs",
        Op::Function(_) => "function",
        Op::Softmax => "softmax",
        Op::ChannelNorm { .. } => "norm of channels",
        Op::Attention { .. } => "attention",
        Op::Channels { .. } | Op::Rearrange { .. } => "copy",
        Op::Input | Op::Conv { .. } | Op::Linear { .. } | Op::BatchNorm { .. } | Op::Add => "layer",
    }
}

/// A batch norm's parameters.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Folded {
    pub(crate) epsilon: f64,
    pub(crate) affine: Affine,
    pub(crate) mean: ParameterId,
    pub(crate) variance: ParameterId,
}

/// The layers that a graph's output depends on, each after those that it reads.
pub(crate) fn lower(graph: &Graph, purpose: Purpose) -> Vec<Layer> {
    let needed = needed(graph);
    let mut consumers = graph.consumers();
    consumers.iter_mut().for_each(|readers| readers.retain(|reader| needed[reader.index()]));
    let mut chains = Chains { graph, consumers, taken: vec![false; graph.nodes().len()] };
    let mut layers: Vec<Layer> = Vec::new();
    for (index, _) in needed.iter().enumerate().skip(1).filter(|(_, needed)| **needed) {
        if !chains.taken[index] {
            layers.push(chains.layer(Value(index), purpose));
        }
    }
    // In the order of their last nodes: what a layer adds has been computed by then.
    layers.sort_by_key(|layer| layer.output);
    if purpose == Purpose::Train {
        return layers;
    }
    let deep = depth_first(&layers, graph);
    if peak(&deep, graph) <= peak(&layers, graph) { deep } else { layers }
}

/// The same layers, branches one after the other, whatever the order of a file's nodes: what a layer reads has just been computed, and is still in a cache.
/// What it adds, its second input, comes before the chain that it ends.
fn depth_first(layers: &[Layer], graph: &Graph) -> Vec<Layer> {
    let mut maker = vec![None; graph.nodes().len()];
    layers.iter().enumerate().for_each(|(index, layer)| maker[layer.output.index()] = Some(index));
    let mut ordered = Vec::with_capacity(layers.len());
    let mut is_placed = vec![false; layers.len()];
    // A stack of its own: a graph from outside may be deep.
    let mut open: Vec<(usize, bool)> = maker[graph.output().index()].map(|last| (last, false)).into_iter().collect();
    while let Some((index, is_ready)) = open.pop() {
        if is_placed[index] {
            continue;
        }
        if is_ready {
            is_placed[index] = true;
            ordered.push(layers[index].clone());
        } else {
            open.push((index, true));
            let makers = layers[index].inputs.iter().filter_map(|input| maker[input.index()]);
            open.extend(makers.map(|maker| (maker, false)));
        }
    }
    ordered
}

/// Elements of values that are needed at once at most, in this order of layers, maps in whole blocks. Readers of files bound it for the order of nodes.
fn peak(layers: &[Layer], graph: &Graph) -> usize {
    let mut last = vec![0; graph.nodes().len()];
    for (index, layer) in layers.iter().enumerate() {
        layer.inputs.iter().for_each(|input| last[input.index()] = index);
    }
    last[graph.output().index()] = layers.len();
    let elements = |value: Value| match graph.shape(value) {
        [channels, pixels @ ..] if !pixels.is_empty() => {
            channels.next_multiple_of(LANES) * pixels.iter().product::<usize>()
        }
        row => row.iter().product(),
    };
    let (mut live, mut most) = (elements(graph.input()), 0);
    for (index, layer) in layers.iter().enumerate() {
        live += elements(layer.output);
        most = most.max(live);
        // A value that is read twice ends once.
        let mut ended: Vec<Value> = layer.inputs.iter().copied().filter(|input| last[input.index()] == index).collect();
        ended.sort();
        ended.dedup();
        live -= ended.into_iter().map(elements).sum::<usize>();
    }
    most
}

/// Which nodes a graph's output depends on.
fn needed(graph: &Graph) -> Vec<bool> {
    let mut needed = vec![false; graph.nodes().len()];
    needed[graph.output().index()] = true;
    for (index, node) in graph.nodes().iter().enumerate().rev() {
        if needed[index] {
            node.inputs.iter().for_each(|input| needed[input.index()] = true);
        }
    }
    needed
}

struct Chains<'a> {
    graph: &'a Graph,
    consumers: Vec<Vec<Value>>,
    taken: Vec<bool>,
}

impl Chains<'_> {
    /// The only node that reads a value, if `fits` its operation; it is taken then.
    fn take(&mut self, value: &mut Value, fits: impl Fn(&Op) -> bool) -> Option<Op> {
        let next = self.next(*value)?;
        let op = &self.graph.node(next).op;
        if !fits(op) {
            return None;
        }
        self.taken[next.index()] = true;
        *value = next;
        Some(op.clone())
    }

    fn next(&self, value: Value) -> Option<Value> {
        match self.consumers[value.index()].as_slice() {
            [next] if value != self.graph.output() && !self.taken[next.index()] => Some(*next),
            _ => None,
        }
    }

    fn take_relu(&mut self, value: &mut Value) -> bool {
        self.take(value, |op| *op == Op::Activation(Activation::Relu)).is_some()
    }

    /// The other value of the sum that is the only reader of `value`; the sum is taken then.
    fn take_sum(&mut self, value: &mut Value, own: Value) -> Option<Value> {
        let next = self.next(*value)?;
        let other = self.graph.node(next).inputs.iter().copied().find(|input| input != value)?;
        // What is added to itself, as it was or after this layer, has two gradients: the sum stays a layer of its own.
        if other == own {
            return None;
        }
        self.take(value, |op| *op == Op::Add).map(|_| other)
    }

    fn layer(&mut self, first: Value, purpose: Purpose) -> Layer {
        let node = self.graph.node(first).clone();
        let mut output = first;
        let mut inputs = node.inputs;
        let op = match node.op {
            Op::Conv { window, groups, weight, bias } => {
                let is_norm = |op: &Op| purpose != Purpose::Train && matches!(op, Op::BatchNorm { .. });
                let norm = self.take(&mut output, is_norm).and_then(|op| folded(&op));
                if purpose != Purpose::Train {
                    inputs.extend(self.take_sum(&mut output, inputs[0]));
                }
                let bounds = |op: &Op| clamp(op, purpose).is_some();
                let clamp = self.take(&mut output, bounds).and_then(|op| clamp(&op, purpose));
                let halves = |op: &Op| matches!(op, Op::MaxPool(pool) if is_halving(pool, window.output));
                let plain = norm.is_none() && inputs.len() == 1 && clamp == Finish::RELU.clamp;
                let pooled = plain && pooled::suits(&window, groups) && self.take(&mut output, halves).is_some();
                LayerOp::Conv { window, groups, weight, bias, norm, clamp, pooled }
            }
            Op::Linear { weight, bias } => LayerOp::Linear { weight, bias, relu: self.take_relu(&mut output) },
            ref op @ Op::BatchNorm { momentum, .. } => {
                let norm = folded(op).expect("a norm");
                inputs.extend(self.take_sum(&mut output, inputs[0]));
                LayerOp::BatchNorm { momentum, norm, relu: self.take_relu(&mut output) }
            }
            Op::Add => LayerOp::Add { relu: self.take_relu(&mut output) },
            op => LayerOp::Alone(op),
        };
        Layer { op, inputs, output }
    }
}

fn folded(op: &Op) -> Option<Folded> {
    match *op {
        Op::BatchNorm { epsilon, affine, mean, variance, .. } => Some(Folded { epsilon, affine, mean, variance }),
        _ => None,
    }
}

/// The bounds of an activation that a convolution's kernels apply. In training the gradient must be known from the result.
fn clamp(op: &Op, purpose: Purpose) -> Option<[f32; 2]> {
    match op {
        Op::Activation(Activation::Relu) => Finish::RELU.clamp,
        Op::Activation(Activation::Relu6) if purpose != Purpose::Train => Some([0.0, 6.0]),
        _ => None,
    }
}

/// Whether a pool takes the largest of each whole 2x2 of maps of this size: none that hangs over their end, and all the others.
fn is_halving(window: &Window, size: [usize; 2]) -> bool {
    let plain = window.before == [0, 0] && window.dilation == [1, 1];
    plain && [window.kernel, window.stride] == [[2, 2]; 2] && window.output == size.map(|size| size / 2)
}
