//! From ONNX nodes to the engine's, one after another.
//!
//! A value is what is known of it ([`What`]) and how its axes stand in one of the engine's values ([`View`](crate::view)). What a
//! later node may change is put off: a convolution's scale, a function of one value, the parts of a layer norm or of attention are
//! kept as such until somebody needs numbers. So patterns are recognised by what they compute, not by how an exporter wrote them.

mod args;
mod arrange;
mod attention;
mod checks;
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
mod spread;
mod start;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use engine::graph::{Graph, Op, ParameterId, Value};

use crate::budget::Budget;
use crate::call::Call;
use crate::error::{Error, Problem, refuse, shown};
use crate::external::Files;
use crate::proto::{self, Attribute, Node};
use crate::tensor::Tensor;
use crate::view::{self, Axis, Dim};
use crate::{Network, Numbers, Options, fold, limits};

use args::Args;
use checks::{numbers_of, planned};
use conv::Pending;
use expr::Expr;
use start::start;

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
    /// A part of a layer norm, and how it is computed where none comes of it.
    Norm(norm::Part, Rc<norm::Recipe>),
    /// A whole layer norm.
    Normal(Rc<norm::Normal>),
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
    /// Elements of all values so far, and of all constants that others were computed of.
    values: usize,
    work: usize,
    budget: Budget,
    /// Where the rows of a product's matrix stand in the value that it reads, if in another order.
    orders: HashMap<Value, Arc<[u32]>>,
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
    let (mut importer, view, channels_last) = start(model.opset, half, input, options, &files.budget)
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
    importer.fits().map_err(|problem| problem.at("graph"))?;
    Ok(Network {
        graph: importer.graph,
        parameters: importer.parameters,
        input: input.name.into(),
        channels_last,
        output: output.name.into(),
        output_shape,
        orders: importer.orders,
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
                tensor.read_out(&self.budget)?;
            }
            inputs.push(items.get(name).cloned());
        }
        let call = Call { node, opset: self.opset };
        let mut results = self.node(&call, &inputs, files)?;
        for (name, item) in node.outputs.iter().zip(&mut results) {
            // What is used twice is computed once.
            if let Item::View(view) = item
                && uses.get(name).is_some_and(|uses| *uses > 1)
                && matches!(view.what, What::Function(..) | What::Pending(_) | What::Normal(_))
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
            // Each is bounded, so that it is no harm to count it now.
            for result in &results {
                let bytes = result.bytes_beside(known.iter().flatten());
                self.budget.take(bytes, 1)?;
                if bytes > 0 {
                    self.work += result.len() + known.iter().flatten().map(Tensor::len).sum::<usize>();
                }
            }
            if self.work > limits::WORK {
                refuse!("more than {} elements of constants are computed with up to here", limits::WORK);
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
            "Shape" | "Size" => {
                let mut view = args.view(0)?;
                // A constant may have widened it.
                if matches!(view.what, What::Norm(..)) {
                    self.settle(&mut view)?;
                }
                let shape = view::shape(&view.axes);
                Ok(vec![Item::Known(match call.node.op {
                    "Shape" => fold::shape_of(call, &shape)?,
                    _ => Tensor::ints(&[], vec![shape.iter().product::<usize>() as i64]),
                })])
            }
            "Conv" => one(self.conv(&args)?),
            "Gemm" => one(self.gemm(&args)?),
            "MatMul" => one(self.matmul(&args)?),
            "BatchNormalization" => one(self.batch_norm(&args)?),
            "LayerNormalization" => one(self.layer_norm(&args)?),
            "InstanceNormalization" | "GroupNormalization" => one(self.group_norm(&args)?),
            "MaxPool" | "AveragePool" => one(self.pool(&args)?),
            "GlobalAveragePool" | "GlobalMaxPool" | "ReduceMean" | "ReduceSum" | "ReduceMax" | "ReduceL2" => {
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
        let mut shape: Vec<usize> = view.axes.iter().skip(1).map(|axis| view::extent(axis)).collect();
        let others = view.axes.iter().skip(1).flatten().any(|atom| atom.dim == Dim::Example);
        if view.axes.first() != Some(&self.example_axis()) || others {
            let shape = view::shape(&view.axes);
            refuse!("it is {shape:?}, and its first dimension is not the batch: [batch, classes] is accepted");
        }
        // `[N, C, 1, 1]` is `[N, C]`.
        while shape.len() > 1 && shape.last() == Some(&1) {
            shape.pop();
        }
        let value = self.settle(&mut view)?;
        let value = match self.graph.shape(value) {
            // Maps that are the whole output in this order stay maps.
            [channels, height, width] if shape == [*channels, *height, *width] => {
                let (value, _) = self.arrange(&view, &[1], &[2, 3], Some([*height, *width]))?;
                value
            }
            _ => {
                let value = self.arrange(&view, &all, &[], None)?.0;
                self.row(value)?
            }
        };
        let (count, wanted) = (self.graph.shape(value).iter().product::<usize>(), shape.iter().product::<usize>());
        if count != wanted {
            refuse!("it has {count} numbers an example: {shape:?} needs {wanted}");
        }
        self.graph.set_output(value);
        Ok(shape)
    }

    fn add(&mut self, op: Op, inputs: &[Value]) -> Result<Value, Problem> {
        numbers_of(&op)?;
        let value = self.graph.add(op, inputs)?;
        self.values = self.values.saturating_add(planned(self.graph.shape(value))?);
        if self.values > limits::VALUES {
            refuse!("the values of an example have more than {} elements up to here", limits::VALUES);
        }
        Ok(value)
    }

    /// A parameter, which takes memory of its own when it is packed, with whomever it shares its numbers here.
    fn parameter(&mut self, name: &str, shape: &[usize], values: impl Into<Numbers>) -> Result<ParameterId, Problem> {
        let values = values.into();
        self.budget.take(values.len(), size_of::<f32>())?;
        debug_assert_eq!(values.len(), shape.iter().product::<usize>());
        self.parameters.push(values);
        Ok(self.graph.parameter(name, shape, true))
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
            What::Norm(_, recipe) => {
                let recipe = recipe.clone();
                *view = self.part(&recipe)?;
                return self.settle(view);
            }
            What::Normal(normal) => {
                let normal = normal.clone();
                self.normal(&normal)?
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
