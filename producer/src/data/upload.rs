//! From a table, or a folder of pictures, to objects in the store: a safetensors file a split, and the manifest.
//!
//! A split's file lies under the digest of its own content, `datasets/<name>/<sha256>/<split>.safetensors`,
//! and the manifest, which refers to it, under its own: neither key depends on itself, and two versions of
//! a dataset share the splits that are alike. `current` is written last.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use shared::contract::{Dataset, ElementType, Split};
use shared::digest::Digest;
use shared::names::{Key, Name, ObjectRef};
use shared::store::{Store, StoreError, layout};

use super::pictures::Pictures;
use super::{DataError, Rows, Table};

mod pictures;

/// Puts `table` into the store as the dataset `name` and makes it the current one; returns the reference
/// to its manifest. The same data give the same reference, and what is there is not sent again.
///
/// `progress` is told bytes done and bytes in all, after each file.
///
/// # Errors
/// A table that is no dataset, or the store; then `current` is what it was.
pub async fn push(
    store: &dyn Store,
    name: &Name,
    table: Arc<Table>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<ObjectRef, DataError> {
    // Hashing and statistics over all rows: off the runtime.
    let owner = name.clone();
    let packed = off_the_runtime(move || pack(&owner, &table)).await?;
    send(store, name, packed, progress).await
}

/// Likewise a folder of pictures, whose files are read once more and go through a temporary file a split.
///
/// # Errors
/// A file has changed since it was looked at or cannot be read, or as for [`push`].
pub async fn push_pictures(
    store: &dyn Store,
    name: &Name,
    found: Arc<Pictures>,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<ObjectRef, DataError> {
    let owner = name.clone();
    let packed = off_the_runtime(move || pictures::pack(&owner, &found)).await?;
    send(store, name, packed, progress).await
}

async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, DataError> + Send + 'static,
) -> Result<T, DataError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

async fn send(
    store: &dyn Store,
    name: &Name,
    packed: Packed,
    progress: &(dyn Fn(u64, u64) + Sync),
) -> Result<ObjectRef, DataError> {
    let total = packed.files.iter().map(|(_, body)| body.size()).sum();
    let mut done = 0;
    progress(done, total);
    for (key, body) in packed.files {
        let size = body.size();
        if !is_there(store, &key, size).await? {
            match body {
                Body::Memory(bytes) => store.put(&key, bytes).await?,
                Body::File(file, _) => store.upload(&key, &file).await?,
            }
        }
        done += size;
        progress(done, total);
    }
    let current = layout::dataset_current(name);
    let digest = packed.manifest.sha256.to_string();
    let names_it = match store.get(&current).await {
        Ok(text) => text == digest.as_bytes(),
        Err(StoreError::NotFound { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    if !names_it {
        store.put(&current, Bytes::from(digest)).await?;
    }
    Ok(packed.manifest)
}

/// Keys say what objects hold, and objects appear whole: one of the right size is the right one.
pub(crate) async fn is_there(store: &dyn Store, key: &Key, size: u64) -> Result<bool, StoreError> {
    let Some(folder) = key.as_str().rsplit_once('/').and_then(|(folder, _)| Key::new(folder).ok()) else {
        return Ok(false);
    };
    Ok(store.list(&folder).await?.iter().any(|entry| entry.key == *key && entry.size == size))
}

struct Packed {
    manifest: ObjectRef,
    /// In the order in which they are written: the manifest after what it refers to.
    files: Vec<(Key, Body)>,
}

enum Body {
    Memory(Bytes),
    /// A file that goes with this, and its size.
    File(tempfile::TempPath, u64),
}

impl Body {
    fn size(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File(_, size) => *size,
        }
    }
}

fn pack(name: &Name, table: &Table) -> Result<Packed, DataError> {
    for (split, rows) in &table.splits {
        check(table, rows).map_err(|problem| refuse(&format!("split `{split}`"), problem))?;
    }
    let train = table.splits.get("train").ok_or_else(|| refuse("splits", "is missing `train`".into()))?;
    let (mean, std) = statistics(table, train);
    let mut splits = BTreeMap::new();
    let mut files = Vec::new();
    for (split, rows) in &table.splits {
        let body = safetensors(table, rows).map_err(|error| refuse(split, format!("cannot be written: {error}")))?;
        let sha256 = Digest::of(&body);
        let object = ObjectRef { key: split_key(name, split, sha256), sha256 };
        files.push((object.key.clone(), Body::Memory(body.into())));
        splits.insert(split.clone(), Split { object, rows: rows.labels.len() as u32 });
    }
    let dataset = Dataset {
        name: name.clone(),
        shape: table.shape.clone(),
        elements: table.elements,
        classes: table.classes,
        labels: table.labels.clone(),
        mean,
        std,
        luma: None,
        splits,
    };
    finish(&dataset, files)
}

fn split_key(name: &Name, split: &str, sha256: Digest) -> Key {
    layout::dataset_file(name, sha256, &format!("{split}.safetensors"))
}

/// Adds the manifest to the files of its splits.
fn finish(dataset: &Dataset, mut files: Vec<(Key, Body)>) -> Result<Packed, DataError> {
    dataset.check().map_err(|problem| refuse("manifest", format!("{problem}")))?;
    let body = serde_json::to_vec_pretty(dataset).map_err(|error| refuse("manifest", error.to_string()))?;
    let sha256 = Digest::of(&body);
    let key = layout::dataset_file(&dataset.name, sha256, "dataset.json");
    files.push((key.clone(), Body::Memory(body.into())));
    Ok(Packed { manifest: ObjectRef { key, sha256 }, files })
}

fn refuse(part: &str, problem: String) -> DataError {
    DataError::Wrong { what: format!("the dataset's {part}"), problem }
}

fn check(table: &Table, rows: &Rows) -> Result<(), String> {
    let count = rows.labels.len();
    if count == 0 || u32::try_from(count).is_err() {
        return Err(format!("has {count} rows: 1 to {} are accepted", u32::MAX));
    }
    if count.checked_mul(table.row_bytes()) != Some(rows.inputs.len()) {
        let found = rows.inputs.len();
        return Err(format!("has {found} bytes for {count} rows of shape {:?}", table.shape));
    }
    if let Some((row, label)) = rows.labels.iter().enumerate().find(|(_, label)| **label >= table.classes) {
        return Err(format!("has the label {label} in row {row} (from 0): 0 to {} is accepted", table.classes - 1));
    }
    if table.elements != ElementType::U8
        && let Some(index) = floats(&rows.inputs).position(|value| !value.is_finite())
    {
        return Err(format!("has a number that is not finite in row {} (from 0)", index / table.width().max(1)));
    }
    Ok(())
}

/// Mean and standard deviation of every channel (column, for rows), bytes scaled to 0..1. A channel that
/// never changes has the standard deviation 1.
fn statistics(table: &Table, rows: &Rows) -> (Vec<f64>, Vec<f64>) {
    let channels = table.shape.first().copied().unwrap_or(1).max(1);
    let area = (table.width() / channels).max(1);
    let count = (rows.labels.len() * area) as f64;
    let channel = |index: usize| index / area % channels;
    let mut mean = vec![0.0; channels];
    let mut variance = vec![0.0; channels];
    match table.elements {
        ElementType::U8 => {
            // Whole numbers, exact: at most 2^32 rows of 2^26 elements of 255^2.
            let mut sums = vec![(0u128, 0u128); channels];
            for (index, plane) in rows.inputs.chunks(area).enumerate() {
                let sum: u64 = plane.iter().map(|byte| u64::from(*byte)).sum();
                let squares: u64 = plane.iter().map(|byte| u64::from(*byte).pow(2)).sum();
                let entry = &mut sums[index % channels];
                *entry = (entry.0 + u128::from(sum), entry.1 + u128::from(squares));
            }
            for (index, (sum, squares)) in sums.into_iter().enumerate() {
                mean[index] = sum as f64 / count / 255.0;
                let spread = squares as f64 - sum as f64 * (sum as f64 / count);
                variance[index] = spread / count / (255.0 * 255.0);
            }
        }
        // A table never holds the third type: pictures as files are no elements.
        ElementType::F32 | ElementType::Encoded => {
            let mut ranges = vec![(f32::INFINITY, f32::NEG_INFINITY); channels];
            for (index, value) in floats(&rows.inputs).enumerate() {
                let (least, most) = &mut ranges[channel(index)];
                (*least, *most) = (least.min(value), most.max(value));
                mean[channel(index)] += f64::from(value) / count;
            }
            for (index, value) in floats(&rows.inputs).enumerate() {
                let (least, most) = ranges[channel(index)];
                // Rounding gives the mean of equal numbers a distance to them.
                if least < most {
                    variance[channel(index)] += (f64::from(value) - mean[channel(index)]).powi(2) / count;
                }
            }
        }
    }
    let std = variance.into_iter().map(|v: f64| if v > 1e-20 { v.sqrt() } else { 1.0 }).collect();
    (mean, std)
}

fn floats(bytes: &[u8]) -> impl Iterator<Item = f32> {
    bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk))
}

fn safetensors(table: &Table, rows: &Rows) -> Result<Vec<u8>, safetensors::SafeTensorError> {
    let dtype = if table.elements == ElementType::U8 { Dtype::U8 } else { Dtype::F32 };
    let shape = std::iter::once(rows.labels.len()).chain(table.shape.iter().copied()).collect();
    let labels: Vec<u8> = rows.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let inputs = TensorView::new(dtype, shape, &rows.inputs)?;
    let labels = TensorView::new(Dtype::U32, vec![rows.labels.len()], &labels)?;
    safetensors::serialize([("inputs", inputs), ("labels", labels)], None)
}
