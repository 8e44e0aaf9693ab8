//! What is read of an ONNX file (onnx.proto, IR versions 3 and later): the messages with the fields that are needed.

use std::cell::Cell;
use std::collections::HashMap;

use crate::error::{Error, shown};
use crate::limits;
use crate::wire::{Field, Fields, packed, varints};

/// `ModelProto`.
#[derive(Debug)]
pub(crate) struct Model<'a> {
    /// The version of ONNX's own operators.
    pub(crate) opset: i64,
    pub(crate) graph: Graph<'a>,
}

/// `GraphProto`.
#[derive(Debug, Default)]
pub(crate) struct Graph<'a> {
    pub(crate) nodes: Vec<Node<'a>>,
    pub(crate) tensors: Vec<Tensor<'a>>,
    pub(crate) inputs: Vec<Variable<'a>>,
    pub(crate) outputs: Vec<Variable<'a>>,
}

/// `NodeProto`.
#[derive(Debug, Default)]
pub(crate) struct Node<'a> {
    pub(crate) op: &'a str,
    pub(crate) domain: &'a str,
    pub(crate) name: &'a str,
    pub(crate) inputs: Vec<&'a str>,
    pub(crate) outputs: Vec<&'a str>,
    pub(crate) attributes: HashMap<&'a str, Attribute<'a>>,
}

/// `AttributeProto`.
#[derive(Debug)]
pub(crate) enum Attribute<'a> {
    Float(f32),
    Int(i64),
    Text(&'a [u8]),
    Floats(Vec<f32>),
    Ints(Vec<i64>),
    Tensor(Box<Tensor<'a>>),
    /// A graph, or what nothing here needs.
    Other,
}

/// `TensorProto`, not yet decoded.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tensor<'a> {
    pub(crate) name: &'a str,
    pub(crate) dims: Vec<i64>,
    pub(crate) kind: i64,
    /// `raw_data`.
    pub(crate) raw: Option<&'a [u8]>,
    /// The bytes of `float_data`, `double_data`, `int32_data`, `int64_data` or `uint64_data`.
    pub(crate) numbers: Vec<&'a [u8]>,
    /// `location`, `offset`, `length` where it lies in another file.
    pub(crate) external: Option<External<'a>>,
}

/// Where a tensor lies in another file.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct External<'a> {
    pub(crate) location: &'a str,
    pub(crate) offset: &'a str,
    pub(crate) length: &'a str,
}

/// `ValueInfoProto` of a tensor.
#[derive(Debug, Default)]
pub(crate) struct Variable<'a> {
    pub(crate) name: &'a str,
    pub(crate) kind: i64,
    /// Its dimensions; those that are not fixed are none. Without a shape, none.
    pub(crate) dims: Option<Vec<Option<i64>>>,
}

/// Adds to a list that may have at most `most` elements.
fn push<T>(list: &mut Vec<T>, most: usize, what: &str, element: T) -> Result<(), Error> {
    if list.len() >= most {
        return Err(Error::Damaged(format!("it has more than {most} {what}")));
    }
    list.push(element);
    Ok(())
}

/// What nodes may still have of anything.
#[derive(Debug)]
struct Left(Cell<usize>);

impl Left {
    fn new() -> Self {
        Self(Cell::new(limits::OF_NODES))
    }

    fn take(&self, count: usize) -> Result<(), Error> {
        match self.0.get().checked_sub(count) {
            Some(left) => {
                self.0.set(left);
                Ok(())
            }
            None => Err(Error::Damaged(format!(
                "its nodes have more than {} inputs, outputs, attributes and numbers of these",
                limits::OF_NODES
            ))),
        }
    }

    /// Takes what is added to an attribute's list.
    fn numbers(&self, has: usize, more: usize) -> Result<(), Error> {
        if has + more > limits::NUMBERS {
            return Err(Error::Damaged(format!("an attribute has more than {} numbers", limits::NUMBERS)));
        }
        self.take(more)
    }
}

/// Calls `f` with each field of a message.
fn each<'a>(message: &'a [u8], mut f: impl FnMut(u64, Field<'a>) -> Result<(), Error>) -> Result<(), Error> {
    let mut fields = Fields::new(message);
    while let Some((number, field)) = fields.next()? {
        f(number, field)?;
    }
    Ok(())
}

impl<'a> Model<'a> {
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Self, Error> {
        let (mut opset, mut graph) = (0, None);
        each(bytes, |number, field| {
            match number {
                7 => graph = Some(Graph::read(field.bytes()?)?),
                8 => {
                    let (mut domain, mut version) = ("", 0);
                    each(field.bytes()?, |number, field| {
                        match number {
                            1 => domain = field.text()?,
                            2 => version = field.int()?,
                            _ => {}
                        }
                        Ok(())
                    })?;
                    if matches!(domain, "" | "ai.onnx") {
                        opset = version;
                    }
                }
                _ => {}
            }
            Ok(())
        })?;
        let graph = graph.ok_or_else(|| Error::Damaged("it has no graph".into()))?;
        Ok(Self { opset, graph })
    }
}

impl<'a> Graph<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Error> {
        let mut graph = Self::default();
        let left = Left::new();
        each(message, |number, field| match number {
            1 => push(&mut graph.nodes, limits::NODES, "nodes", Node::read(field.bytes()?, &left)?),
            5 => push(&mut graph.tensors, limits::TENSORS, "tensors", Tensor::part(field.bytes()?, &left)?),
            11 => push(&mut graph.inputs, limits::TENSORS, "inputs", Variable::read(field.bytes()?)?),
            12 => push(&mut graph.outputs, limits::OF_NODE, "outputs", Variable::read(field.bytes()?)?),
            _ => Ok(()),
        })?;
        Ok(graph)
    }
}

impl<'a> Node<'a> {
    fn read(message: &'a [u8], left: &Left) -> Result<Self, Error> {
        let mut node = Self::default();
        let mut attributes = 0;
        each(message, |number, field| {
            if matches!(number, 1 | 2 | 5) {
                left.take(1)?;
            }
            match number {
                1 => push(&mut node.inputs, limits::OF_NODE, "inputs of a node", field.text()?)?,
                2 => push(&mut node.outputs, limits::OF_NODE, "outputs of a node", field.text()?)?,
                3 => node.name = field.text()?,
                4 => node.op = field.text()?,
                5 => {
                    attributes += 1;
                    if attributes > limits::OF_NODE {
                        return Err(Error::Damaged(format!(
                            "it has more than {} attributes of a node",
                            limits::OF_NODE
                        )));
                    }
                    let (name, attribute) = Attribute::read(field.bytes()?, left)?;
                    node.attributes.insert(name, attribute);
                }
                7 => node.domain = field.text()?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(node)
    }

    /// For people: its name and operator.
    pub(crate) fn label(&self) -> String {
        let name = if self.name.is_empty() { self.outputs.first().copied().unwrap_or_default() } else { self.name };
        format!("node `{}` ({})", shown(name), self.op.chars().take(100).collect::<String>())
    }
}

impl<'a> Attribute<'a> {
    fn read(message: &'a [u8], left: &Left) -> Result<(&'a str, Self), Error> {
        let (mut name, mut kind) = ("", 0);
        let (mut float, mut int, mut text, mut tensor) = (0.0, 0, &[][..], None);
        let (mut floats, mut ints) = (Vec::new(), Vec::new());
        each(message, |number, field| {
            match number {
                1 => name = field.text()?,
                2 => float = field.float()?,
                3 => int = field.int()?,
                4 => text = field.bytes()?,
                5 => tensor = Some(Box::new(Tensor::part(field.bytes()?, left)?)),
                7 => {
                    let (numbers, rest) = field.numbers().as_chunks::<4>();
                    if !rest.is_empty() {
                        return Err(Error::Damaged(format!("attribute `{name}` is cut off")));
                    }
                    left.numbers(floats.len(), numbers.len())?;
                    floats.extend(numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)));
                }
                8 => {
                    left.numbers(ints.len(), packed(field.numbers()))?;
                    ints.extend(varints(field.numbers())?);
                }
                20 => kind = field.int()?,
                _ => {}
            }
            Ok(())
        })?;
        let attribute = match (kind, tensor) {
            (1, _) => Self::Float(float),
            (2, _) => Self::Int(int),
            (3, _) => Self::Text(text),
            (4, Some(tensor)) => Self::Tensor(tensor),
            (6, _) => Self::Floats(floats),
            (7, _) => Self::Ints(ints),
            _ => Self::Other,
        };
        Ok((name, attribute))
    }
}

impl<'a> Tensor<'a> {
    pub(crate) fn read(message: &'a [u8]) -> Result<Self, Error> {
        Self::part(message, &Left::new())
    }

    /// Of a graph whose parts are counted: numbers may stand in many pieces.
    fn part(message: &'a [u8], left: &Left) -> Result<Self, Error> {
        let mut tensor = Self::default();
        let mut external = External::default();
        let mut elsewhere = false;
        each(message, |number, field| {
            match number {
                1 => {
                    if tensor.dims.len() + packed(field.numbers()) > limits::RANK {
                        return Err(Error::Damaged(format!("a tensor has more than {} dimensions", limits::RANK)));
                    }
                    tensor.dims.extend(varints(field.numbers())?);
                }
                2 => tensor.kind = field.int()?,
                4 | 5 | 7 | 10 | 11 => {
                    left.take(1)?;
                    tensor.numbers.push(field.numbers());
                }
                8 => tensor.name = field.text()?,
                9 => tensor.raw = Some(field.bytes()?),
                13 => {
                    let (mut key, mut value) = ("", "");
                    each(field.bytes()?, |number, field| {
                        match number {
                            1 => key = field.text()?,
                            2 => value = field.text()?,
                            _ => {}
                        }
                        Ok(())
                    })?;
                    match key {
                        "location" => external.location = value,
                        "offset" => external.offset = value,
                        "length" => external.length = value,
                        _ => {}
                    }
                }
                14 => elsewhere = field.int()? == 1,
                _ => {}
            }
            Ok(())
        })?;
        tensor.external = elsewhere.then_some(external);
        Ok(tensor)
    }
}

impl<'a> Variable<'a> {
    fn read(message: &'a [u8]) -> Result<Self, Error> {
        let mut variable = Self::default();
        each(message, |number, field| {
            match number {
                1 => variable.name = field.text()?,
                // TypeProto, of which a tensor is the first.
                2 => each(field.bytes()?, |number, field| match number {
                    1 => each(field.bytes()?, |number, field| {
                        match number {
                            1 => variable.kind = field.int()?,
                            2 => variable.dims = Some(dims(field.bytes()?)?),
                            _ => {}
                        }
                        Ok(())
                    }),
                    _ => Ok(()),
                })?,
                _ => {}
            }
            Ok(())
        })?;
        Ok(variable)
    }
}

/// `TensorShapeProto`.
fn dims(message: &[u8]) -> Result<Vec<Option<i64>>, Error> {
    let mut dims = Vec::new();
    each(message, |number, field| {
        if number == 1 {
            let mut dim = None;
            each(field.bytes()?, |number, field| {
                if number == 1 {
                    dim = Some(field.int()?).filter(|dim| *dim > 0);
                }
                Ok(())
            })?;
            push(&mut dims, limits::RANK, "dimensions of a tensor", dim)?;
        }
        Ok(())
    })?;
    Ok(dims)
}
