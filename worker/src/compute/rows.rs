//! The rows of a dataset's split: which are trained on, in which order, and how they become input.

use std::path::Path;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{Device, Tensor};
use rand_chacha::rand_core::Rng as _;
use safetensors::Dtype;
use shared::contract::{Dataset, ElementType, TrialData};
use shared::random::{self, Stream};

use super::ComputeError;
use super::weights::bad_file;

/// One split's file, mapped: only the rows in use take memory.
pub(super) struct Rows {
    file: MmapedSafetensors,
    shape: Vec<usize>,
    elements: ElementType,
    labels: Vec<u32>,
    standard: Standard,
}

/// Makes elements have mean 0 and standard deviation 1.
#[derive(Debug, Clone)]
pub(super) struct Standard {
    /// A channel's factor and summand.
    channels: Vec<(f32, f32)>,
}

/// A batch: inputs `[N, shape…]` and the rows' labels.
pub(super) struct Batch {
    pub(super) inputs: Tensor,
    pub(super) labels: Vec<u32>,
}

impl Standard {
    /// From means and standard deviations of elements after they are multiplied by `rescale`.
    pub(super) fn new(mean: &[f64], std: &[f64], rescale: f64) -> Self {
        let channel = |(mean, std): (&f64, &f64)| ((rescale / std) as f32, (-mean / std) as f32);
        Self { channels: mean.iter().zip(std).map(channel).collect() }
    }

    /// Appends one example's elements, channel by channel.
    pub(super) fn extend(&self, out: &mut Vec<f32>, elements: impl ExactSizeIterator<Item = f32>) {
        let channel = elements.len() / self.channels.len();
        let mut elements = elements;
        for (factor, summand) in &self.channels {
            out.extend(elements.by_ref().take(channel).map(|element| element * factor + summand));
        }
    }
}

impl Rows {
    /// Opens the file of a split of `dataset`, which has one of the numbers of rows in `accepted`.
    ///
    /// # Errors
    /// The file cannot be read or is not what the manifest says.
    pub(super) fn open(dataset: &Dataset, accepted: &[u32], path: &Path) -> Result<Self, ComputeError> {
        dataset.check().map_err(|problem| ComputeError::InvalidJob(format!("the dataset's {problem}")))?;
        let bad = |problem: String| bad_file(&format!("the dataset `{}`", dataset.name), path, problem);
        if let Err(source) = std::fs::File::open(path) {
            return Err(ComputeError::Disk { what: format!("read {}", path.display()), source });
        }
        // SAFETY: the file is a cache's entry, which is written once under another name and then never
        // changed; were it cut short regardless, this process, which exists to take such blows, would end.
        let file = unsafe { MmapedSafetensors::new(path) };
        let file = file.map_err(|error| bad(format!("it is no safetensors file: {error}")))?;
        let dtype = match dataset.elements {
            ElementType::U8 => Dtype::U8,
            ElementType::F32 => Dtype::F32,
        };
        let rows = file.get("labels").ok().and_then(|view| view.shape().first().copied()).unwrap_or(0);
        if !accepted.iter().any(|accepted| *accepted as usize == rows) {
            return Err(bad(format!("it has {rows} labels: the manifest says {accepted:?}")));
        }
        let shape: Vec<usize> = std::iter::once(rows).chain(dataset.shape.iter().copied()).collect();
        for (name, dtype, shape) in [("inputs", dtype, &shape), ("labels", Dtype::U32, &vec![rows])] {
            let view = file.get(name).map_err(|_| bad(format!("it has no tensor `{name}`")))?;
            if view.dtype() != dtype || view.shape() != *shape {
                let found = format!("`{name}` is {:?} {:?}", view.dtype(), view.shape());
                return Err(bad(format!("{found}: the manifest says {dtype:?} {shape:?}")));
            }
        }
        let labels: Vec<u32> =
            file.get("labels")?.data().as_chunks().0.iter().map(|b| u32::from_le_bytes(*b)).collect();
        if let Some((row, label)) = labels.iter().enumerate().find(|(_, label)| **label >= dataset.classes) {
            return Err(bad(format!(
                "row {row} has label {label}: the dataset has {} classes, from 0",
                dataset.classes
            )));
        }
        let rescale = if dataset.elements == ElementType::U8 { 1.0 / 255.0 } else { 1.0 };
        let standard = Standard::new(&dataset.mean, &dataset.std, rescale);
        Ok(Self { file, shape: dataset.shape.clone(), elements: dataset.elements, labels, standard })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The rows of these numbers, standardised.
    pub(super) fn batch(&self, rows: &[u32]) -> Result<Batch, ComputeError> {
        let elements: usize = self.shape.iter().product();
        let view = self.file.get("inputs")?;
        let mut inputs = Vec::with_capacity(rows.len() * elements);
        for row in rows {
            let row = *row as usize;
            match self.elements {
                ElementType::U8 => {
                    let bytes = &view.data()[row * elements..][..elements];
                    self.standard.extend(&mut inputs, bytes.iter().map(|byte| f32::from(*byte)));
                }
                ElementType::F32 => {
                    let bytes = &view.data()[row * elements * 4..][..elements * 4];
                    self.standard.extend(&mut inputs, bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)));
                }
            }
        }
        let shape: Vec<usize> = std::iter::once(rows.len()).chain(self.shape.iter().copied()).collect();
        let labels = rows.iter().map(|row| self.labels[*row as usize]).collect();
        Ok(Batch { inputs: Tensor::from_vec(inputs, shape, &Device::Cpu)?, labels })
    }
}

/// The numbers of the rows that a trial uses, in rising order.
pub(super) struct Division {
    pub(super) train: Vec<u32>,
    pub(super) validation: Vec<u32>,
}

impl Division {
    /// Draws the validation rows, and those to train on from the rest. The same rows for every trial
    /// with the same `split_seed` and numbers.
    ///
    /// # Errors
    /// There are too few rows.
    pub(super) fn draw(data: &TrialData, rows: usize) -> Result<Self, ComputeError> {
        let held_out = data.validation_rows as usize;
        if held_out == 0 || held_out >= rows {
            return Err(ComputeError::InvalidJob(format!(
                "`data.validation_rows` is {held_out}: 1 to {} is accepted, since the training split has {rows} rows",
                rows.saturating_sub(1)
            )));
        }
        let rest = rows - held_out;
        let wanted = data.train_rows.map_or(rest, |wanted| wanted as usize);
        if wanted == 0 || wanted > rest {
            return Err(ComputeError::InvalidJob(format!(
                "`data.train_rows` is {wanted}: 1 to {rest} is accepted, since {held_out} of {rows} rows are held out"
            )));
        }
        let mut all = numbers(rows);
        shuffle(&mut all, &mut random::stream(data.split_seed, &["split".into()]));
        let mut validation = all[..held_out].to_vec();
        let mut train = all[held_out..held_out + wanted].to_vec();
        validation.sort_unstable();
        train.sort_unstable();
        Ok(Self { train, validation })
    }

    /// The rows to train on, in the order of epoch number `epoch`, from 0.
    pub(super) fn order(&self, seed: u32, epoch: u32) -> Vec<u32> {
        let mut order = self.train.clone();
        shuffle(&mut order, &mut random::stream(seed, &["shuffle".into(), epoch.into()]));
        order
    }
}

/// `0..rows`.
pub(super) fn numbers(rows: usize) -> Vec<u32> {
    (0..u32::try_from(rows).unwrap_or(u32::MAX)).collect()
}

/// Fisher and Yates's shuffle, written out so that no library's next version changes its order.
fn shuffle(items: &mut [u32], stream: &mut Stream) {
    for last in (1..items.len()).rev() {
        let below = (u128::from(stream.next_u64()) * (last as u128 + 1)) >> 64;
        items.swap(last, below as usize);
    }
}

#[cfg(test)]
mod tests;
