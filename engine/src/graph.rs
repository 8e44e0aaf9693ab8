//! A network as a graph: operations in the order in which they can run, with the shape of every value.
//!
//! All shapes are those of one example; the batch is the first dimension everywhere and is not written. A
//! graph is built through its methods, each of which checks its inputs and infers its output's shape.

mod op;
mod shapes;

pub use op::{Activation, Affine, Function, Op, Pairwise};

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

    /// The graph up to what its last layer with weights reads, a linear one or a convolution: the features that its outputs are
    /// made of. Of maps the mean over height and width. `None` where several values lead to the outputs, or no weights.
    #[must_use]
    pub fn features(&self) -> Option<Self> {
        let one = |value: Value| {
            let mut inputs =
                self.node(value).inputs.iter().filter(|input| !matches!(self.node(**input).op, Op::Constant(_)));
            inputs.next().copied().filter(|_| inputs.next().is_none())
        };
        let mut value = self.output;
        while !matches!(self.node(value).op, Op::Conv { .. } | Op::Linear { .. }) {
            value = one(value)?;
        }
        value = one(value)?;
        let mut features = self.clone();
        features.nodes.truncate(value.0 + 1);
        features.output = value;
        if self.shape(value).len() == 3 {
            features.add(Op::GlobalAvgPool, &[value]).ok()?;
        }
        Some(features)
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
