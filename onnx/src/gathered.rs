//! One file of several: tensors in other files are written into the model's.

use crate::error::{Error, Problem, refuse};
use crate::external::Files;
use crate::limits;
use crate::proto::{Attribute, Model, Tensor};
use crate::tensor;
use crate::wire::{Field, Fields};

/// The fields of ONNX's messages that matter here.
const GRAPH: u64 = 7;
const NODE: u64 = 1;
const INITIALIZER: u64 = 5;
const ATTRIBUTE: u64 = 5;
const TENSOR: u64 = 5;
const RAW: u64 = 9;
const EXTERNAL: u64 = 13;
const LOCATION: u64 = 14;

/// A model with all its tensors; none where nothing has to be done.
pub(crate) fn gathered(model: &[u8], files: &Files) -> Result<Option<Vec<u8>>, Error> {
    let graph = Model::read(model)?.graph;
    let of_nodes =
        graph.nodes.iter().flat_map(|node| node.attributes.values()).filter_map(|attribute| match attribute {
            Attribute::Tensor(tensor) => Some(&**tensor),
            _ => None,
        });
    if graph.tensors.iter().chain(of_nodes).all(|tensor| tensor.external.is_none()) {
        return Ok(None);
    }
    let whole = rewritten(model, |number, field| match number {
        GRAPH => {
            let graph = rewritten(field.bytes()?, |number, field| match number {
                INITIALIZER => inside(field.bytes()?, files),
                NODE => node(field.bytes()?, files),
                _ => Ok(None),
            })?;
            Ok(Some(graph))
        }
        _ => Ok(None),
    })?;
    Ok(Some(whole))
}

/// A node's message with the bytes of its attributes' tensors in it.
fn node(message: &[u8], files: &Files) -> Result<Option<Vec<u8>>, Error> {
    let node = rewritten(message, |number, field| match number {
        ATTRIBUTE => {
            let attribute = rewritten(field.bytes()?, |number, field| match number {
                TENSOR => inside(field.bytes()?, files),
                _ => Ok(None),
            })?;
            Ok(Some(attribute))
        }
        _ => Ok(None),
    })?;
    Ok(Some(node))
}

/// A tensor's message with its bytes in it, if they are elsewhere.
fn inside(message: &[u8], files: &Files) -> Result<Option<Vec<u8>>, Error> {
    let tensor = Tensor::read(message)?;
    let Some(place) = tensor.external else { return Ok(None) };
    let length = || {
        let dims: Option<Vec<usize>> = tensor.dims.iter().map(|dim| usize::try_from(*dim).ok()).collect();
        match (dims, tensor::bytes_of(tensor.kind)) {
            (Some(dims), Some(bytes)) => Ok(tensor::count(&dims)? * bytes),
            _ => refuse!("its shape or type is not accepted"),
        }
    };
    let bytes = length().and_then(|length| files.read(&place, length));
    let bytes = bytes.map_err(|problem: Problem| problem.at(format!("tensor `{}`", tensor.name)))?;
    let mut result = Vec::with_capacity(bytes.len() + 64);
    let mut fields = Fields::new(message);
    while let Some((number, field)) = fields.next()? {
        if !matches!(number, RAW | EXTERNAL | LOCATION) {
            put(&mut result, number, field);
        }
    }
    put(&mut result, RAW, Field::Bytes(&bytes));
    Ok(Some(result))
}

/// A message with some of its messages replaced.
fn rewritten<'a>(
    message: &'a [u8],
    mut f: impl FnMut(u64, Field<'a>) -> Result<Option<Vec<u8>>, Error>,
) -> Result<Vec<u8>, Error> {
    let mut result = Vec::new();
    let mut fields = Fields::new(message);
    while let Some((number, field)) = fields.next()? {
        match f(number, field)? {
            Some(bytes) => put(&mut result, number, Field::Bytes(&bytes)),
            None => put(&mut result, number, field),
        }
        if result.len() as u64 > limits::FILE {
            let most = limits::FILE;
            return Err(Error::Damaged(format!("with its tensors it has more than {most} bytes, which are accepted")));
        }
    }
    Ok(result)
}

fn put(to: &mut Vec<u8>, number: u64, field: Field<'_>) {
    let (kind, bytes) = match field {
        Field::Varint(_, bytes) => (0, bytes),
        Field::Fixed(bytes) => (if bytes.len() == 8 { 1 } else { 5 }, bytes),
        Field::Bytes(bytes) => (2, bytes),
    };
    varint(to, number << 3 | kind);
    if kind == 2 {
        varint(to, bytes.len() as u64);
    }
    to.extend_from_slice(bytes);
}

fn varint(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}
