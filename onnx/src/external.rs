//! Tensors in other files, beside the model's (ONNX's external data).

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Component, Path, PathBuf};

use crate::error::{Problem, refuse};
use crate::proto::External;

/// The folder that such files may lie in.
#[derive(Debug)]
pub(crate) struct Files {
    folder: Option<PathBuf>,
}

impl Files {
    pub(crate) fn new(folder: Option<&Path>) -> Self {
        Self { folder: folder.map(Path::to_owned) }
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
        let mut bytes = vec![0; length];
        file.read_exact(&mut bytes).map_err(problem)?;
        Ok(bytes)
    }
}
