//! Where the bytes of tensors are: in the model's file, or in others beside it (ONNX's external data).

use std::cell::RefCell;
use std::collections::HashSet;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use crate::budget::Budget;
use crate::error::{Problem, refuse};
use crate::proto::External;

/// The model's file, and the folder that others may lie in.
#[derive(Debug)]
pub(crate) struct Files {
    model: Bytes,
    folder: Option<PathBuf>,
    /// Others that have been read.
    seen: RefCell<HashSet<PathBuf>>,
    pub(crate) budget: Budget,
}

impl Files {
    pub(crate) fn new(model: Bytes, folder: Option<&Path>) -> Self {
        let budget = Budget::new(model.len() as u64);
        Self { model, folder: folder.map(Path::to_owned), seen: RefCell::default(), budget }
    }

    /// The model's file.
    pub(crate) fn whole(&self) -> Bytes {
        self.model.clone()
    }

    /// A part of it, to be kept.
    pub(crate) fn part(&self, bytes: &[u8]) -> Bytes {
        self.model.slice_ref(bytes)
    }

    /// Reads the `length` bytes of a tensor.
    pub(crate) fn read(&self, place: &External<'_>, length: usize) -> Result<Vec<u8>, Problem> {
        let Some(folder) = &self.folder else { refuse!("it lies in another file, which is not accepted here") };
        let location: String = place.location.chars().take(300).collect();
        let relative = Path::new(place.location);
        let plain = relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if place.location.is_empty() || !plain {
            refuse!("it lies in `{location}`: a path inside the model's folder is accepted");
        }
        let problem = |error: std::io::Error| Problem(format!("cannot read `{location}`, where it lies: {error}"));
        let (folder, path) =
            (folder.canonicalize().map_err(problem)?, folder.join(relative).canonicalize().map_err(problem)?);
        if !path.starts_with(&folder) {
            refuse!("it lies in `{location}`, a link out of the model's folder: a file inside is accepted");
        }
        let number = |text: &str, or: u64| if text.is_empty() { Ok(or) } else { text.parse::<u64>() };
        let (Ok(offset), Ok(promised)) = (number(place.offset, 0), number(place.length, length as u64)) else {
            refuse!("its offset or length in `{location}` is no number");
        };
        if promised != length as u64 {
            refuse!("it has {promised} bytes in `{location}`: its shape needs {length}");
        }
        // Not a pipe or a device: these would keep us waiting.
        if !path.metadata().map_err(problem)?.is_file() {
            refuse!("it lies in `{location}`, which is no file");
        }
        let mut file = File::open(&path).map_err(problem)?;
        let size = file.metadata().map_err(problem)?.len();
        if offset.checked_add(promised).is_none_or(|end| end > size) {
            refuse!("its {promised} bytes from {offset} are not in `{location}`, which has {size}");
        }
        file.seek(SeekFrom::Start(offset)).map_err(problem)?;
        // Tensors may share a file's bytes: each takes memory of its own.
        if self.seen.borrow_mut().insert(path) {
            self.budget.grow(size);
        }
        self.budget.take(length, 1)?;
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).map_err(problem)?;
        Ok(bytes)
    }
}
