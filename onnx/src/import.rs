//! From ONNX nodes to the engine's, one after another.
//!
//! A value is what is known of it ([`What`]) and how its axes stand in one of the engine's values ([`View`](crate::view)). What a
//! later node may change is put off: a convolution's scale, a function of one value, the parts of a layer norm or of attention are
//! kept as such until somebody needs numbers. So patterns are recognised by what they compute, not by how an exporter wrote them.

mod args;
mod arrange;
mod attention;
mod concat;
mod conv;
mod elementwise;
mod expr;
mod function;
mod norm;
mod pool;
mod product;
mod reduce;
mod shapes;

use std::collections::HashMap;
use std::rc::Rc;

use engine::graph::{Graph, Op, ParameterId, Value};

use crate::call::Call;
use crate::error::{Error, Problem, refuse, shown};
use crate::external::Files;
use crate::proto::{self, Attribute, Node};
use crate::tensor::Tensor;
use crate::view::{self, Axis, Dim};
use crate::{Network, Numbers, Options, fold, limits};

use args::Args;
use conv::Pending;
use expr::Expr;

/// What an ONNX value is here.
#[derive(Debug, Clone)]
enum Item {
    Known(Tensor),
    View(View),
}

/// A value that depends on the network's input.
#[derive(Debug, Clone)]
struct View {
    what: What,
    /// Where the axes of the ONNX value stand in the engine's.
    axes: Vec<Axis>,
}

/// What is known of a value.
#[derive(Debug, Clone)]
enum What {
    /// It is computed.
    Value(Value),
    /// A convolution or product that may still be scaled and shifted.
    Pending(Rc<Pending>),
    /// An element-wise function of a value.
    Function(Value, Rc<Expr>),
    /// Another value with zeros, or something else, around it.
    Padded(Rc<shapes::Padded>),
    /// A part of a layer norm.
    Norm(norm::Part),
    /// Products of queries and keys.
    Scores(attention::Scores),
    /// Where another value is not a number.
    IsNan,
}

struct Importer {
    opset: i64,
    /// Examples of the file's batch.
    batch: usize,
    /// Whether numbers of the file are rounded to half precision.
    half: bool,
    graph: Graph,
    parameters: Vec<Numbers>,
    /// Elements of all values so far, and of all constants that were computed.
    values: usize,
    folded: usize,
}

pub(crate) fn import(model: &proto::Model<'_>, files: &Files, options: &Options) -> Result<Network, Error> {
    if !(7..=30).contains(&model.opset) {
        let what = "version 7 to 30 of ONNX's operators is accepted".to_string();
        return Err(Error::Refused { at: format!("operator set {}", model.opset), what });
    }
    let graph = &model.graph;
    let tensors: HashMap<&str, &proto::Tensor<'_>> = graph.tensors.iter().map(|tensor| (tensor.name, tensor)).collect();
    let inputs: Vec<_> = graph.inputs.iter().filter(|input| !tensors.contains_key(input.name)).collect();
    let ([input], [output]) = (inputs.as_slice(), graph.outputs.as_slice()) else {
        let at = "graph".to_string();
        let what =
            format!("it has {} inputs and {} outputs: one of each is accepted", inputs.len(), graph.outputs.len());
        return Err(Error::Refused { at, what });
    };
    let half = graph.tensors.iter().any(|tensor| matches!(tensor.kind, 10 | 16));
    let (mut importer, view, channels_last) = start(model.opset, half, input, options)
        .map_err(|problem| problem.at(format!("input `{}`", shown(input.name))))?;
    let (needed, uses) = needed(graph, output.name);
    let mut items: HashMap<&str, Item> = HashMap::new();
    items.insert(input.name, Item::View(view));
    for (node, _) in graph.nodes.iter().zip(needed).filter(|(_, needed)| *needed) {
        let results =
            importer.run(node, &tensors, &mut items, &uses, files).map_err(|problem| problem.at(node.label()))?;
        for (name, item) in node.outputs.iter().zip(results) {
            if !name.is_empty() {
                items.insert(name, item);
            }
        }
    }
    let place = || format!("output `{}`", shown(output.name));
    let view = match items.remove(output.name) {
        Some(Item::View(view)) => view,
        _ => return Err(Problem("it does not depend on the input".into()).at(place())),
    };
    let output_shape = importer.finish(view).map_err(|problem| problem.at(place()))?;
    Ok(Network {
        graph: importer.graph,
        parameters: importer.parameters,
        input: input.name.into(),
        channels_last,
        output: output.name.into(),
        output_shape,
    })
}

/// Which nodes the output needs, and how often each value is used.
fn needed<'a>(graph: &proto::Graph<'a>, output: &'a str) -> (Vec<bool>, HashMap<&'a str, usize>) {
    let mut uses: HashMap<&str, usize> = HashMap::from([(output, 1)]);
    let mut needed = vec![false; graph.nodes.len()];
    for (index, node) in graph.nodes.iter().enumerate().rev() {
        if node.outputs.iter().any(|output| !output.is_empty() && uses.contains_key(output)) {
            needed[index] = true;
            node.inputs.iter().filter(|input| !input.is_empty()).for_each(|input| *uses.entry(input).or_default() += 1);
        }
    }
    (needed, uses)
}

/// An importer whose graph has the input alone, and the input as a view.
fn start(
    opset: i64,
    half: bool,
    input: &proto::Variable<'_>,
    options: &Options,
) -> Result<(Importer, View, bool), Problem> {
    if !matches!(input.kind, 1 | 10 | 11 | 16) {
        refuse!("its type is number {} of ONNX's: a floating-point type is accepted", input.kind);
    }
    let Some(dims) = &input.dims else { refuse!("it has no shape: [batch, channels, height, width] is accepted") };
    let batch = match dims.first() {
        Some(batch) => crate::tensor::count(&[batch.unwrap_or(1) as usize])?,
        None => refuse!("it is a single number: [batch, channels, height, width] is accepted"),
    };
    let size = |dim: Option<i64>, axis: Option<usize>| match (dim, axis.and_then(|axis| Some(options.size?[axis]))) {
        (Some(dim), Some(size)) if dim as u64 != size as u64 => {
            refuse!("it is {dim} high or wide, not {size}")
        }
        (Some(dim), _) => Ok(dim as usize),
        (None, Some(size)) => Ok(size),
        (None, None) => {
            refuse!("{dims:?} leaves a size open: say which height and width it has, or export it with them")
        }
    };
    let few = |dim: Option<i64>| dim.is_some_and(|dim| dim <= 4);
    let example = view::axis(Dim::Example, batch, 1);
    let (shape, axes, last) = match dims[1..] {
        [features] => {
            let features = size(features, None)?;
            (vec![features], vec![example, view::axis(Dim::Channel, features, 1)], false)
        }
        [a, b, c] => {
            let last = few(c) && !few(a);
            let [channels, height, width] = if last { [c, a, b] } else { [a, b, c] };
            let shape = [size(channels, None)?, size(height, Some(0))?, size(width, Some(1))?];
            let channels = view::axis(Dim::Channel, shape[0], 1);
            let (rows, columns) = (view::axis(Dim::Pixel, shape[1], shape[2]), view::axis(Dim::Pixel, shape[2], 1));
            let axes =
                if last { vec![example, rows, columns, channels] } else { vec![example, channels, rows, columns] };
            (shape.to_vec(), axes, last)
        }
        _ => refuse!("its shape is {dims:?}: [batch, channels, height, width] and [batch, features] are accepted"),
    };
    let values = crate::tensor::count(&shape)?;
    if values == 0 {
        refuse!("its shape is {dims:?}: it holds nothing");
    }
    let graph = Graph::new(&shape);
    let view = View { what: What::Value(graph.input()), axes };
    Ok((Importer { opset, batch, half, graph, parameters: Vec::new(), values, folded: 0 }, view, last))
}

impl Importer {
    /// The outputs of a node.
    fn run<'a>(
        &mut self,
        node: &'a Node<'a>,
        tensors: &HashMap<&'a str, &'a proto::Tensor<'a>>,
        items: &mut HashMap<&'a str, Item>,
        uses: &HashMap<&'a str, usize>,
        files: &Files,
    ) -> Result<Vec<Item>, Problem> {
        if !matches!(node.domain, "" | "ai.onnx") {
            refuse!("operators of `{}` are not accepted", node.domain);
        }
        // Their numbers go into a parameter as they are; others look at them, and each time would copy them.
        let takes_weights = matches!(node.op, "Conv" | "Gemm" | "MatMul");
        let mut inputs = Vec::with_capacity(node.inputs.len());
        for name in &node.inputs {
            if name.is_empty() {
                inputs.push(None);
                continue;
            }
            if !items.contains_key(name) {
                let Some(tensor) = tensors.get(name) else { refuse!("its input `{name}` is no earlier node's output") };
                let tensor =
                    Tensor::read(tensor, files).map_err(|Problem(what)| Problem(format!("tensor `{name}`: {what}")))?;
                items.insert(name, Item::Known(tensor));
            }
            if let Some(Item::Known(tensor)) = items.get_mut(name)
                && !takes_weights
            {
                tensor.read_out();
            }
            inputs.push(items.get(name).cloned());
        }
        let call = Call { node, opset: self.opset };
        let mut results = self.node(&call, &inputs, files)?;
        for (name, item) in node.outputs.iter().zip(&mut results) {
            // What is used twice is computed once.
            if let Item::View(view) = item
                && uses.get(name).is_some_and(|uses| *uses > 1)
                && matches!(view.what, What::Function(..) | What::Pending(_))
            {
                self.settle(view)?;
            }
        }
        Ok(results)
    }

    fn node(&mut self, call: &Call<'_>, inputs: &[Option<Item>], files: &Files) -> Result<Vec<Item>, Problem> {
        if call.node.op == "Constant" {
            return Ok(vec![Item::Known(constant(call, files)?)]);
        }
        let known = |item: &Option<Item>| match item {
            Some(Item::View(_)) => None,
            Some(Item::Known(tensor)) => Some(Some(tensor.clone())),
            None => Some(None),
        };
        if let Some(known) = inputs.iter().map(known).collect::<Option<Vec<_>>>() {
            let results = fold::fold(call, &known, files)?;
            self.folded += results.iter().map(Tensor::len).sum::<usize>();
            if self.folded > limits::ALL_FOLDED {
                refuse!("more than {} elements are computed from constants", limits::ALL_FOLDED);
            }
            return Ok(results.into_iter().map(Item::Known).collect());
        }
        let args = Args { call: *call, inputs };
        let one = |view: View| Ok(vec![Item::View(view)]);
        match call.node.op {
            "Identity" | "Dropout" | "CastLike" => one(args.view(0)?),
            "Cast" => match call.int("to", 1)? {
                1 | 10 | 11 | 16 => one(args.view(0)?),
                _ => refuse!("only constants may be cast to whole numbers"),
            },
            "Shape" => Ok(vec![Item::Known(fold::shape_of(call, &view::shape(&args.view(0)?.axes))?)]),
            "Size" => Ok(vec![Item::Known(Tensor::ints(
                &[],
                vec![view::shape(&args.view(0)?.axes).iter().product::<usize>() as i64],
            ))]),
            "Conv" => one(self.conv(&args)?),
            "Gemm" => one(self.gemm(&args)?),
            "MatMul" => one(self.matmul(&args)?),
            "BatchNormalization" => one(self.batch_norm(&args)?),
            "LayerNormalization" => one(self.layer_norm(&args)?),
            "InstanceNormalization" | "GroupNormalization" => one(self.group_norm(&args)?),
            "MaxPool" | "AveragePool" => one(self.pool(&args)?),
            "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "ReduceSum" | "ReduceMax" => {
                one(self.reduce(&args)?)
            }
            "Softmax" => one(self.softmax(&args)?),
            "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Sum" => one(self.elementwise(&args)?),
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" | "Transpose" | "Expand" | "Slice" | "Gather" | "Pad" => {
                one(self.reshaped(&args)?)
            }
            "Split" => self.split(&args),
            "Concat" => one(self.concat(&args)?),
            "IsNaN" => one(View { what: What::IsNan, ..args.view(0)? }),
            "Where" => one(args.checked()?),
            _ => one(self.unary(&args)?),
        }
    }

    /// Makes a value the output, in the order of its axes, and says which shape an example's has.
    fn finish(&mut self, mut view: View) -> Result<Vec<usize>, Problem> {
        let all: Vec<usize> = (0..view.axes.len()).collect();
        let shape: Vec<usize> = view.axes.iter().skip(1).map(|axis| view::extent(axis)).collect();
        if self.batch > 1 && !view.axes.first().is_some_and(|axis| axis.len() == 1 && axis[0].dim == Dim::Example) {
            refuse!("its first dimension is not the batch");
        }
        let value = self.settle(&mut view)?;
        let value = match self.graph.shape(value) {
            // Maps that are the whole output in this order stay maps.
            [channels, height, width] if shape == [*channels, *height, *width] => {
                let (value, _) = self.arrange(&view, &[1], &[2, 3], Some([*height, *width]))?;
                value
            }
            _ => self.arrange(&view, &all, &[], None)?.0,
        };
        self.graph.set_output(value);
        Ok(shape)
    }

    fn add(&mut self, op: Op, inputs: &[Value]) -> Result<Value, Problem> {
        let value = self.graph.add(op, inputs)?;
        self.values = self.values.saturating_add(crate::tensor::count(self.graph.shape(value))?);
        if self.values > limits::VALUES {
            refuse!("the values of an example have more than {} elements up to here", limits::VALUES);
        }
        Ok(value)
    }

    fn parameter(&mut self, name: &str, shape: &[usize], values: impl Into<Numbers>) -> ParameterId {
        let values = values.into();
        debug_assert_eq!(values.len(), shape.iter().product::<usize>());
        self.parameters.push(values);
        self.graph.parameter(name, shape, true)
    }

    /// Channels and pixels of a value.
    fn dims(&self, value: Value) -> [usize; 2] {
        let shape = self.graph.shape(value);
        [shape[0], shape[1..].iter().product()]
    }

    /// Computes a value, if it is not yet.
    fn settle(&mut self, view: &mut View) -> Result<Value, Problem> {
        let value = match &view.what {
            What::Value(value) => *value,
            What::Pending(pending) => {
                let pending = pending.clone();
                self.emit(&pending)?
            }
            What::Function(base, expr) => {
                let (base, expr) = (*base, expr.clone());
                self.realise(base, &expr)?
            }
            What::Padded(padded) => {
                let padded = padded.clone();
                let (value, axes) = self.padded(&padded)?;
                view.axes = axes;
                value
            }
            What::Norm(part) => {
                let part = part.clone();
                self.normal(&part)?
            }
            What::Scores(_) => {
                refuse!("a product of two computed values is accepted as a part of attention alone: softmax(q k) v")
            }
            What::IsNan => refuse!("what is not a number may be replaced behind attention's softmax alone"),
        };
        view.what = What::Value(value);
        Ok(value)
    }

    fn example_axis(&self) -> Axis {
        view::axis(Dim::Example, self.batch, 1)
    }
}

/// The value of a `Constant` node.
fn constant(call: &Call<'_>, files: &Files) -> Result<Tensor, Problem> {
    let attributes = &call.node.attributes;
    let get = |name: &str| attributes.get(name);
    Ok(match (get("value"), get("value_int"), get("value_float"), get("value_ints"), get("value_floats")) {
        (Some(Attribute::Tensor(tensor)), ..) => Tensor::read(tensor, files)?,
        (_, Some(Attribute::Int(int)), ..) => Tensor::ints(&[], vec![*int]),
        (_, _, Some(Attribute::Float(float)), ..) => Tensor::floats(&[], vec![*float]),
        (_, _, _, Some(Attribute::Ints(ints)), _) => Tensor::ints(&[ints.len()], ints.clone()),
        (.., Some(Attribute::Floats(floats))) => Tensor::floats(&[floats.len()], floats.clone()),
        _ => refuse!("its value is of no type that is accepted: tensors and numbers are"),
    })
}
