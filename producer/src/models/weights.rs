//! `model.safetensors` of a model's folder: its header against what the network owns.
//!
//! Only the header is read for the check, and no more of it than a network can need; then the numbers, piece by piece.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use shared::contract::Parameter;
use shared::strict;

/// The largest header, in bytes: 50,000 tensors with long names.
const MOST_HEADER: u64 = 16 << 20;
/// Tensors that a message names.
const MOST_NAMED: usize = 10;
/// PyTorch's count of the batches that a norm has seen: nothing is computed with it.
const COUNTER: &str = ".num_batches_tracked";

/// A weights file, by its header.
#[derive(Debug)]
pub(super) struct Weights {
    path: PathBuf,
    /// Where the tensors' bytes begin.
    data: u64,
    tensors: BTreeMap<String, TensorInfo>,
    /// Tensors that nothing is computed with.
    pub(super) ignored: Vec<String>,
}

impl Weights {
    /// Reads the header.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let mut file = File::open(path)?;
        let size = file.metadata()?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).context("is no safetensors file: it has less than 8 bytes")?;
        let length = u64::from_le_bytes(length);
        if length > MOST_HEADER || length.saturating_add(8) > size {
            bail!(
                "is no safetensors file: it has {size} bytes and promises a header of {length} (at most {MOST_HEADER} are accepted)"
            );
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)?;
        // Checks that the tensors lie one behind the other, each as long as its shape says.
        let metadata: Metadata =
            serde_json::from_slice(&header).context("has a safetensors header that cannot be read")?;
        let tensors: BTreeMap<String, TensorInfo> =
            metadata.tensors().into_iter().map(|(name, info)| (name, info.clone())).collect();
        let data = length + 8;
        let end = tensors.values().map(|info| info.data_offsets.1 as u64).max().unwrap_or(0);
        if data.saturating_add(end) != size {
            bail!("has {size} bytes but its header promises {}: it is cut off or damaged", data.saturating_add(end));
        }
        Ok(Self { path: path.to_owned(), data, tensors, ignored: Vec::new() })
    }

    /// What stands before every tensor's name, where without it the names would be the network's.
    fn prefix(&self, expected: &[Parameter]) -> Option<&str> {
        let known = |name: &str| expected.iter().any(|parameter| parameter.name == name);
        // Up to a dot in the first name that holds a known one.
        let of = |name: &str| name.match_indices('.').map(|(dot, _)| dot + 1).find(|end| known(&name[*end..]));
        let prefix = self.tensors.keys().find_map(|name| of(name).map(|end| &name[..end]))?;
        let stripped: Option<Vec<&str>> = self.tensors.keys().map(|name| name.strip_prefix(prefix)).collect();
        (2 * stripped?.into_iter().filter(|name| known(name)).count() >= expected.len()).then_some(prefix)
    }

    /// The first dimension of a tensor.
    pub(super) fn rows(&self, tensor: &str) -> Option<usize> {
        self.tensors.get(tensor)?.shape.first().copied()
    }

    /// Checks that every number of a kept tensor is one.
    pub(super) fn check_finite(&self) -> anyhow::Result<()> {
        let mut file = io::BufReader::with_capacity(1 << 20, File::open(&self.path)?);
        let mut kept: Vec<_> = self.tensors.iter().filter(|(name, _)| !self.ignored.contains(name)).collect();
        kept.sort_by_key(|(_, info)| info.data_offsets);
        let mut piece = vec![0; 1 << 20];
        for (name, info) in kept {
            file.seek(SeekFrom::Start(self.data + info.data_offsets.0 as u64))?;
            let mut left = info.data_offsets.1 - info.data_offsets.0;
            while left > 0 {
                let piece = &mut piece[..left.min(1 << 20)];
                file.read_exact(piece)?;
                if !are_finite(info.dtype, piece) {
                    bail!(
                        "holds numbers that are not finite (NaN or infinite) in `{name}`: no picture gets a score with \
                         them; save the network before its training diverged"
                    );
                }
                left -= piece.len();
            }
        }
        Ok(())
    }

    /// Compares with what the network owns; tensors for which `ignores` holds may be there.
    pub(super) fn check(&mut self, expected: &[Parameter], ignores: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        if let Some(prefix) = self.prefix(expected) {
            bail!(
                "has `{prefix}` before the name of each tensor, as wrappers (DataParallel, for example) write it: remove \
                 it. In Python: from safetensors.torch import load_file, save_file; \
                 save_file({{name.removeprefix(\"{prefix}\"): tensor for name, tensor in \
                 load_file(\"model.safetensors\").items()}}, \"model.safetensors\")"
            );
        }
        let known: BTreeSet<&str> = expected.iter().map(|parameter| parameter.name.as_str()).collect();
        let (ignored, surplus): (Vec<_>, Vec<_>) = self
            .tensors
            .keys()
            .filter(|name| !known.contains(name.as_str()))
            .cloned()
            .partition(|name| name.ends_with(COUNTER) || ignores(name));
        let mut missing = Vec::new();
        let mut wrong = Vec::new();
        for parameter in expected {
            match self.tensors.get(&parameter.name) {
                None => missing.push(parameter),
                Some(info) if info.shape != parameter.shape => wrong.push(format!(
                    "`{}` has the shape {:?}: the network needs {:?}",
                    parameter.name, info.shape, parameter.shape
                )),
                Some(info) if !matches!(info.dtype, Dtype::F32 | Dtype::F16 | Dtype::BF16) => {
                    wrong.push(format!("`{}` holds {:?}: F32, F16 and BF16 are accepted", parameter.name, info.dtype));
                }
                Some(_) => {}
            }
        }
        let hint = |name: &String| {
            let near = strict::nearest(name, missing.iter().map(|parameter| parameter.name.as_str()));
            near.map_or_else(|| format!("`{name}`"), |near| format!("`{name}` (did you mean `{near}`?)"))
        };
        let surplus: Vec<String> = listed(&surplus, hint);
        let missing: Vec<String> = listed(&missing, |p| format!("`{}` {:?}", p.name, p.shape));
        let parts = [("missing", missing), ("not the network's", surplus), ("wrong", listed(&wrong, String::clone))];
        let parts: Vec<String> = parts
            .into_iter()
            .filter(|(_, lines)| !lines.is_empty())
            .map(|(what, lines)| format!("{what}:\n    {}", lines.join("\n    ")))
            .collect();
        if !parts.is_empty() {
            bail!("does not hold the network's tensors\n  {}", parts.join("\n  "));
        }
        self.ignored = ignored;
        Ok(())
    }

    /// The file to send: this one, or one without the ignored tensors, which lies in the folder for temporary
    /// files for as long as what is returned lives.
    pub(super) fn to_send(&self) -> anyhow::Result<Sent> {
        if self.ignored.is_empty() {
            return Ok(Sent { path: self.path.clone(), temporary: None });
        }
        let temporary = tempfile::NamedTempFile::new().context("make a temporary file")?;
        self.write_kept(temporary.as_file()).with_context(|| {
            format!("copy `{}` to `{}` without unused tensors", self.path.display(), temporary.path().display())
        })?;
        Ok(Sent { path: temporary.path().to_owned(), temporary: Some(temporary) })
    }

    fn write_kept(&self, mut to: &File) -> io::Result<()> {
        let mut kept: Vec<_> = self.tensors.iter().filter(|(name, _)| !self.ignored.contains(name)).collect();
        kept.sort_by_key(|(_, info)| info.data_offsets);
        let mut header = serde_json::Map::new();
        let mut end = 0;
        for (name, info) in &kept {
            let begin = end;
            end += info.data_offsets.1 - info.data_offsets.0;
            let info = TensorInfo { data_offsets: (begin, end), ..(*info).clone() };
            header.insert((*name).clone(), serde_json::to_value(info)?);
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize(header.len().next_multiple_of(8), b' ');
        to.write_all(&(header.len() as u64).to_le_bytes())?;
        to.write_all(&header)?;
        let mut from = File::open(&self.path)?;
        for (_, info) in kept {
            from.seek(SeekFrom::Start(self.data + info.data_offsets.0 as u64))?;
            let bytes = (info.data_offsets.1 - info.data_offsets.0) as u64;
            if io::copy(&mut (&from).take(bytes), &mut to)? != bytes {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter"));
            }
        }
        Ok(())
    }
}

/// Whether these bytes of a tensor, whole numbers of them in little-endian order, are finite: an exponent of ones is not.
fn are_finite(dtype: Dtype, bytes: &[u8]) -> bool {
    match dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().all(|number| f32::from_le_bytes(*number).is_finite()),
        Dtype::F16 => bytes.as_chunks().0.iter().all(|number| u16::from_le_bytes(*number) & 0x7c00 != 0x7c00),
        Dtype::BF16 => bytes.as_chunks().0.iter().all(|number| u16::from_le_bytes(*number) & 0x7f80 != 0x7f80),
        _ => true,
    }
}

/// A file that is sent.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) path: PathBuf,
    /// Removed with this.
    #[expect(dead_code, reason = "held, not read")]
    pub(super) temporary: Option<tempfile::NamedTempFile>,
}

/// The first lines, and how many more there are.
fn listed<T>(all: &[T], line: impl Fn(&T) -> String) -> Vec<String> {
    let mut lines: Vec<String> = all.iter().take(MOST_NAMED).map(line).collect();
    if all.len() > MOST_NAMED {
        lines.push(format!("and {} more", all.len() - MOST_NAMED));
    }
    lines
}
