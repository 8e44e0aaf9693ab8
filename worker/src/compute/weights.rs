//! Parameters in safetensors files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::{Dtype, SafeTensors};
use shared::contract::Parameter;

use super::ComputeError;

/// Reads exactly the tensors of `parameters`, as finite fp32 numbers.
///
/// # Errors
/// The file cannot be read, or holds something else.
pub(super) fn read(path: &Path, parameters: &[Parameter]) -> Result<HashMap<String, Tensor>, ComputeError> {
    let bytes = read_bytes(path)?;
    let bad = |problem: String| bad_file("the parameters", path, problem);
    let file = SafeTensors::deserialize(&bytes).map_err(|error| bad(format!("it is no safetensors file: {error}")))?;
    let expected: Vec<(String, &[usize])> = parameters.iter().map(|p| (p.name.clone(), p.shape.as_slice())).collect();
    take(&file, &expected).map_err(bad)
}

/// Takes exactly the tensors of `expected`, by name and shape, out of a file.
pub(super) fn take(file: &SafeTensors<'_>, expected: &[(String, &[usize])]) -> Result<HashMap<String, Tensor>, String> {
    let mut tensors = HashMap::with_capacity(expected.len());
    for (name, shape) in expected {
        let view = file.tensor(name).map_err(|_| format!("it has no tensor `{name}`, which the network needs"))?;
        if view.dtype() != Dtype::F32 || view.shape() != *shape {
            return Err(format!("`{name}` is {:?} {:?}: the network needs F32 {shape:?}", view.dtype(), view.shape()));
        }
        let tensor = Tensor::from_raw_buffer(view.data(), DType::F32, shape, &Device::Cpu)
            .map_err(|error| format!("`{name}` cannot be read: {error}"))?;
        if view.data().chunks_exact(4).any(|b| !f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite()) {
            return Err(format!("`{name}` holds numbers that are not finite"));
        }
        tensors.insert(name.clone(), tensor);
    }
    if file.len() > tensors.len() {
        let extra = file.names().into_iter().filter(|name| !tensors.contains_key(*name)).min().unwrap_or_default();
        return Err(format!("it has a tensor `{extra}`, which the network has not"));
    }
    Ok(tensors)
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

/// A file's content.
pub(super) fn read_bytes(path: &Path) -> Result<Vec<u8>, ComputeError> {
    fs::read(path).map_err(|source| ComputeError::Disk { what: format!("read {}", path.display()), source })
}

/// An error about the file at `path`.
pub(super) fn bad_file(what: &str, path: &Path, problem: impl Into<String>) -> ComputeError {
    ComputeError::BadFile { what: format!("{what} ({})", path.display()), problem: problem.into() }
}
