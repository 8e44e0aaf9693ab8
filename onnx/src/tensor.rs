//! Tensors that are known when a network is imported.

use std::sync::Arc;

use bytes::Bytes;
use half::{bf16, f16};

use crate::budget::Budget;
use crate::error::{Error, Problem, refuse};
use crate::external::Files;
use crate::limits;
use crate::numbers::Numbers;
use crate::proto;
use crate::wire::{packed, varints};

/// A tensor's numbers: of all floating-point types as `f32`, of all others as `i64`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Data {
    Floats(Numbers),
    Ints(Arc<[i64]>),
}

/// Numbers of a tensor of which a copy costs nothing.
const FEW: usize = 1 << 12;

/// A known tensor.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<usize>,
    pub(crate) data: Data,
}

/// The product of a shape, if it is within the limit.
pub(crate) fn count(shape: &[usize]) -> Result<usize, Problem> {
    let product = shape.iter().try_fold(1_usize, |product, size| product.checked_mul(*size));
    match product.filter(|count| *count <= limits::ELEMENTS && shape.len() <= limits::RANK) {
        Some(count) => Ok(count),
        None => refuse!("{shape:?} is too large: at most {} elements are accepted", limits::ELEMENTS),
    }
}

impl Tensor {
    pub(crate) fn floats(shape: &[usize], data: Vec<f32>) -> Self {
        Self { shape: shape.to_vec(), data: Data::Floats(data.into()) }
    }

    pub(crate) fn ints(shape: &[usize], data: Vec<i64>) -> Self {
        Self { shape: shape.to_vec(), data: Data::Ints(data.into()) }
    }

    pub(crate) fn len(&self) -> usize {
        match &self.data {
            Data::Floats(data) => data.len(),
            Data::Ints(data) => data.len(),
        }
    }

    /// Its numbers as those of a parameter.
    pub(crate) fn numbers(&self) -> Numbers {
        match &self.data {
            Data::Floats(data) => data.clone(),
            Data::Ints(_) => self.to_floats().into(),
        }
    }

    /// Takes its numbers out of the file, if they are there.
    pub(crate) fn read_out(&mut self, budget: &Budget) -> Result<(), Problem> {
        if let Data::Floats(numbers) = &mut self.data
            && numbers.is_in_file()
        {
            budget.take(numbers.len(), size_of::<f32>())?;
            numbers.read_out();
        }
        Ok(())
    }

    /// Bytes that it takes beside others, with whom it may share its numbers.
    pub(crate) fn bytes_beside<'a>(&self, mut others: impl Iterator<Item = &'a Self>) -> usize {
        let shared = others.any(|other| match (&self.data, &other.data) {
            (Data::Floats(own), Data::Floats(other)) => own.shares(other),
            (Data::Ints(own), Data::Ints(other)) => Arc::ptr_eq(own, other),
            _ => false,
        });
        match &self.data {
            _ if shared => 0,
            Data::Floats(data) => size_of::<f32>() * data.len(),
            Data::Ints(data) => size_of_val(&**data),
        }
    }

    /// Its numbers as floats.
    pub(crate) fn to_floats(&self) -> Arc<[f32]> {
        match &self.data {
            Data::Floats(data) => data.to_floats(),
            Data::Ints(data) => data.iter().map(|x| *x as f32).collect(),
        }
    }

    /// Its numbers, that must be whole.
    pub(crate) fn to_ints(&self) -> Result<Arc<[i64]>, Problem> {
        match &self.data {
            Data::Ints(data) => Ok(data.clone()),
            Data::Floats(_) => refuse!("whole numbers are needed, not floats"),
        }
    }

    /// Its only number.
    pub(crate) fn scalar(&self) -> Option<f64> {
        match &self.data {
            Data::Floats(data) if data.len() == 1 => Some(f64::from(data.to_floats()[0])),
            Data::Ints(data) if data.len() == 1 => Some(data[0] as f64),
            _ => None,
        }
    }

    pub(crate) fn read(tensor: &proto::Tensor<'_>, files: &Files) -> Result<Self, Problem> {
        let mut shape = Vec::new();
        for dim in &tensor.dims {
            match usize::try_from(*dim) {
                Ok(dim) => shape.push(dim),
                Err(_) => refuse!("its shape is {:?}", tensor.dims),
            }
        }
        let count = count(&shape)?;
        let Some(bytes) = bytes_of(tensor.kind) else {
            refuse!(
                "its type is number {} of ONNX's: float, float16, bfloat16, double, bool and whole numbers are accepted",
                tensor.kind
            )
        };
        // Numbers in fp32 stay in the file, if there are many.
        let stays = tensor.kind == FLOAT && count > FEW && (tensor.external.is_some() || tensor.raw.is_some());
        if !stays {
            let is_float = matches!(tensor.kind, 1 | 10 | 11 | 16);
            files.budget.take(count, if is_float { size_of::<f32>() } else { size_of::<i64>() })?;
        }
        let raw = match (&tensor.external, tensor.raw) {
            (Some(place), _) => Some(Bytes::from(files.read(place, count * bytes)?)),
            (None, raw) => raw.map(|raw| files.part(raw)),
        };
        let data = match raw {
            Some(raw) if raw.len() != count * bytes => {
                refuse!("it has {} bytes: its shape {shape:?} needs {}", raw.len(), count * bytes)
            }
            // Most are weights, which nothing here looks at.
            Some(raw) if stays => Data::Floats(Numbers::in_file(raw)),
            Some(raw) => decode(tensor.kind, &raw),
            None => listed(tensor, count, &shape)?,
        };
        Ok(Self { shape, data })
    }
}

/// ONNX's number of fp32.
const FLOAT: i64 = 1;

/// Bytes of a number of one of ONNX's types, if it is accepted.
pub(crate) fn bytes_of(kind: i64) -> Option<usize> {
    match kind {
        2 | 3 | 9 => Some(1),
        4 | 5 | 10 | 16 => Some(2),
        1 | 6 | 12 => Some(4),
        7 | 11 | 13 => Some(8),
        _ => None,
    }
}

/// Numbers as `raw_data` holds them.
fn decode(kind: i64, raw: &[u8]) -> Data {
    macro_rules! each {
        ($variant:ident, $bytes:literal, $f:expr) => {
            Data::$variant(raw.as_chunks::<$bytes>().0.iter().map(|bytes| ($f)(*bytes)).collect())
        };
    }
    match kind {
        FLOAT => each!(Floats, 4, f32::from_le_bytes),
        10 => each!(Floats, 2, |bytes| f16::from_le_bytes(bytes).to_f32()),
        16 => each!(Floats, 2, |bytes| bf16::from_le_bytes(bytes).to_f32()),
        11 => each!(Floats, 8, |bytes| f64::from_le_bytes(bytes) as f32),
        2 | 9 => each!(Ints, 1, |[byte]: [u8; 1]| i64::from(byte)),
        3 => each!(Ints, 1, |[byte]: [u8; 1]| i64::from(byte.cast_signed())),
        4 => each!(Ints, 2, |bytes| i64::from(u16::from_le_bytes(bytes))),
        5 => each!(Ints, 2, |bytes| i64::from(i16::from_le_bytes(bytes))),
        6 => each!(Ints, 4, |bytes| i64::from(i32::from_le_bytes(bytes))),
        12 => each!(Ints, 4, |bytes| i64::from(u32::from_le_bytes(bytes))),
        _ => each!(Ints, 8, i64::from_le_bytes),
    }
}

/// Numbers in the list of their type.
fn listed(tensor: &proto::Tensor<'_>, count: usize, shape: &[usize]) -> Result<Data, Problem> {
    let numbers = &tensor.numbers;
    let bytes: usize = numbers.iter().map(|part| part.len()).sum();
    // Types of their own list are as in `raw_data`; the others are whole numbers of variable length.
    let fixed = match tensor.kind {
        1 => Some(4),
        11 => Some(8),
        _ => None,
    };
    let found = match fixed {
        Some(each) if bytes.is_multiple_of(each) => bytes / each,
        Some(_) => refuse!("its numbers are cut off"),
        None => numbers.iter().map(|part| packed(part)).sum(),
    };
    if found != count {
        refuse!("it has {found} numbers: its shape {shape:?} needs {count}");
    }
    if fixed.is_some() {
        return Ok(decode(tensor.kind, &numbers.concat()));
    }
    let mut ints = Vec::with_capacity(count);
    for part in numbers {
        ints.extend(varints(part).map_err(|error: Error| Problem(error.to_string()))?);
    }
    Ok(match tensor.kind {
        10 => Data::Floats(ints.iter().map(|bits| f16::from_bits(*bits as u16).to_f32()).collect()),
        16 => Data::Floats(ints.iter().map(|bits| bf16::from_bits(*bits as u16).to_f32()).collect()),
        _ => Data::Ints(ints.into()),
    })
}
