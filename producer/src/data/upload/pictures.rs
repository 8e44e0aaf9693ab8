//! A split of picture files as one safetensors file, written piece by piece: no more than one picture is in memory.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read as _, Write};

use serde_json::json;
use shared::contract::{Dataset, ElementType, MeanStd, Split};
use shared::digest::{Digest, Hasher};
use shared::names::{Name, ObjectRef};

use super::{Body, Packed, finish, refuse, split_key};
use crate::data::DataError;
use crate::data::pictures::{Picture, Pictures};

pub(super) fn pack(name: &Name, found: &Pictures) -> Result<Packed, DataError> {
    let mut splits = BTreeMap::new();
    let mut files = Vec::new();
    for (split, pictures) in &found.splits {
        let rows = u32::try_from(pictures.len()).map_err(|_| refuse(split, "has too many rows".into()))?;
        let (file, size, sha256) = write(split, pictures)?;
        let object = ObjectRef { key: split_key(name, split, sha256), sha256 };
        files.push((object.key.clone(), Body::File(file, size)));
        splits.insert(split.clone(), Split { object, rows });
    }
    let numbers = |of: fn(&MeanStd) -> f64| found.channels.iter().map(of).collect();
    let dataset = Dataset {
        name: name.clone(),
        shape: Vec::new(),
        elements: ElementType::Encoded,
        classes: u32::try_from(found.labels.len()).unwrap_or(u32::MAX),
        labels: found.labels.clone(),
        mean: numbers(|channel| channel.mean),
        std: numbers(|channel| channel.std),
        luma: Some(found.luma),
        splits,
    };
    finish(&dataset, files)
}

/// Writes a split's file; returns it with its size and digest.
fn write(split: &str, pictures: &[Picture]) -> Result<(tempfile::TempPath, u64, Digest), DataError> {
    let failed = |error: io::Error| {
        refuse(&format!("split `{split}`"), format!("cannot be written to a temporary file: {error}"))
    };
    let file = tempfile::NamedTempFile::new().map_err(failed)?;
    let mut out = Hashed { inner: BufWriter::with_capacity(1 << 20, file), hasher: Digest::hasher(), size: 0 };
    write_head(&mut out, pictures).map_err(failed)?;
    for picture in pictures {
        let unreadable = |source| DataError::Unreadable { path: picture.path.clone(), source };
        let mut bytes = Vec::new();
        File::open(&picture.path)
            .and_then(|file| file.take(picture.bytes + 1).read_to_end(&mut bytes))
            .map_err(unreadable)?;
        if bytes.len() as u64 != picture.bytes {
            let what = format!("the picture `{}`", picture.path.display());
            return Err(DataError::Wrong { what, problem: "has changed while it was pushed: push again".into() });
        }
        out.write_all(&bytes).map_err(failed)?;
    }
    let Hashed { inner, hasher, size } = out;
    let file = inner.into_inner().map_err(|error| failed(error.into_error()))?;
    Ok((file.into_temp_path(), size, hasher.finish()))
}

/// The header of a safetensors file and everything before `inputs`, which come last: so all numbers are aligned.
fn write_head(out: &mut impl Write, pictures: &[Picture]) -> io::Result<()> {
    let rows = pictures.len() as u64;
    let mut offsets = vec![0u64];
    offsets.extend(pictures.iter().scan(0, |end, picture| {
        *end += picture.bytes;
        Some(*end)
    }));
    let bytes = offsets.last().copied().unwrap_or(0);
    let (labels_at, inputs_at) = (8 * (rows + 1), 8 * (rows + 1) + 4 * rows);
    let mut header = json!({
        "offsets": {"dtype": "U64", "shape": [rows + 1], "data_offsets": [0, labels_at]},
        "labels": {"dtype": "U32", "shape": [rows], "data_offsets": [labels_at, inputs_at]},
        "inputs": {"dtype": "U8", "shape": [bytes], "data_offsets": [inputs_at, inputs_at + bytes]},
    })
    .to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    offsets.iter().try_for_each(|offset| out.write_all(&offset.to_le_bytes()))?;
    pictures.iter().try_for_each(|picture| out.write_all(&picture.label.to_le_bytes()))
}

/// A writer that also takes the digest.
struct Hashed<W> {
    inner: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
