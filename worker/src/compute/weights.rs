//! Parameters in safetensors files.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;

use bytes::Bytes;
use candle_core::{Device, Tensor};
use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use shared::contract::Parameter;

use super::ComputeError;

/// Reads exactly the tensors of `parameters`, as finite fp32 numbers. Half precision, which networks are often
/// kept in, is accepted.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub(super) fn read(path: &Path, parameters: &[Parameter]) -> Result<HashMap<String, Tensor>, ComputeError> {
    let bytes = mapped(path)?;
    let bad = |problem: String| bad_file("the parameters", path, problem);
    let file = SafeTensors::deserialize(&bytes).map_err(|error| bad(format!("it is no safetensors file: {error}")))?;
    let expected: Vec<(String, &[usize])> = parameters.iter().map(|p| (p.name.clone(), p.shape.as_slice())).collect();
    take(&file, &expected).map_err(|unfit| match unfit {
        Unfit::Other(problem) => bad(problem),
        // The file is what it was when it was sent: nobody altered it.
        unfit @ Unfit::NotFinite(_) => ComputeError::InvalidJob(format!(
            "{unfit} (NaN or infinite) in the network's parameters: its training diverged, or they were damaged before \
             they came into the store"
        )),
    })
}

/// Why a file's tensors cannot be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unfit {
    /// They are others.
    #[error("{0}")]
    Other(String),
    /// The tensor of this name holds what nothing can be computed with.
    #[error("`{0}` holds numbers that are not finite")]
    NotFinite(String),
}

/// PyTorch's count of the batches that a norm has seen: a network computes nothing with it.
const COUNTER: &str = ".num_batches_tracked";

/// Takes exactly the tensors of `expected`, by name and shape, out of a file; half precision becomes fp32.
pub(super) fn take(file: &SafeTensors<'_>, expected: &[(String, &[usize])]) -> Result<HashMap<String, Tensor>, Unfit> {
    let mut tensors = HashMap::with_capacity(expected.len());
    for (name, shape) in expected {
        let view = file
            .tensor(name)
            .map_err(|_| Unfit::Other(format!("it has no tensor `{name}`, which the network needs")))?;
        let Some(numbers) = numbers(&view).filter(|_| view.shape() == *shape) else {
            let found = format!("`{name}` is {:?} {:?}", view.dtype(), view.shape());
            return Err(Unfit::Other(format!("{found}: the network needs F32, F16 or BF16 {shape:?}")));
        };
        if numbers.iter().any(|number| !number.is_finite()) {
            return Err(Unfit::NotFinite(name.clone()));
        }
        let tensor = Tensor::from_vec(numbers, *shape, &Device::Cpu)
            .map_err(|error| Unfit::Other(format!("`{name}` cannot be read: {error}")))?;
        tensors.insert(name.clone(), tensor);
    }
    let is_extra = |name: &&str| !tensors.contains_key(*name) && !name.ends_with(COUNTER);
    match file.names().into_iter().filter(is_extra).min() {
        Some(extra) => Err(Unfit::Other(format!("it has a tensor `{extra}`, which the network has not"))),
        None => Ok(tensors),
    }
}

fn numbers(view: &TensorView<'_>) -> Option<Vec<f32>> {
    let halves = || view.data().as_chunks().0.iter();
    match view.dtype() {
        Dtype::F32 => Some(view.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()),
        Dtype::F16 => Some(halves().map(|bytes| f16::from_le_bytes(*bytes).to_f32()).collect()),
        Dtype::BF16 => Some(halves().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect()),
        _ => None,
    }
}

/// Writes tensors to a new file. The same tensors give the same bytes.
pub(super) fn write(
    path: &Path,
    tensors: &[(String, Tensor)],
    metadata: Option<HashMap<String, String>>,
) -> Result<(), ComputeError> {
    let views = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor));
    safetensors::serialize_to_file(views, metadata, path).map_err(|error| ComputeError::Disk {
        what: format!("write {}", path.display()),
        source: match error {
            safetensors::SafeTensorError::IoError(error) => error,
            other => std::io::Error::other(other.to_string()),
        },
    })
}

/// A file's content, where the system keeps it.
pub(super) fn mapped(path: &Path) -> Result<Bytes, ComputeError> {
    let mapped = || {
        let file = File::open(path)?;
        // Nothing can be mapped of a file that holds nothing.
        if file.metadata()?.len() == 0 {
            return Ok(Bytes::new());
        }
        // SAFETY: files of the cache get their names when they are whole, and are never written again. Who does so all the same
        // ends an executor, which its worker survives.
        unsafe { Mmap::map(&file) }.map(Bytes::from_owner)
    };
    mapped().map_err(|source| ComputeError::Disk { what: format!("read {}", path.display()), source })
}

/// An error about the file at `path`.
pub(super) fn bad_file(what: &str, path: &Path, problem: impl Into<String>) -> ComputeError {
    ComputeError::BadFile { what: format!("{what} ({})", path.display()), problem: problem.into() }
}
