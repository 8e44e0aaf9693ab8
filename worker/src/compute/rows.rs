//! The rows of a dataset's split: which are trained on, in which order, and how they become input.
//! Pictures of any size are decoded here, when they are first needed ([`Decoded`]).

use std::path::Path;

use candle_core::safetensors::MmapedSafetensors;
use rand_chacha::rand_core::Rng as _;
use safetensors::Dtype;
use shared::contract::{Dataset, ElementType, ImageInput, TrialData};
use shared::random::{self, Stream};

use super::ComputeError;
use super::weights::bad_file;

mod pictures;

pub use pictures::Decoded;
use pictures::Pictures;

/// One split's file, mapped: only the rows in use take memory.
pub(super) struct Rows<'a> {
    file: MmapedSafetensors,
    shape: Vec<usize>,
    form: Form<'a>,
    labels: Vec<u32>,
    standard: Standard,
}

/// How the file holds examples.
enum Form<'a> {
    Bytes,
    Floats,
    Pictures(Pictures<'a>),
}

/// Makes elements have mean 0 and standard deviation 1.
#[derive(Debug, Clone)]
pub(super) struct Standard {
    /// A channel's factor and summand.
    channels: Vec<(f32, f32)>,
}

/// A batch: inputs `[N, shape…]` and the rows' labels.
pub(super) struct Batch {
    pub(super) inputs: Vec<f32>,
    pub(super) labels: Vec<u32>,
}

impl Standard {
    /// From means and standard deviations of elements after they are multiplied by `rescale`.
    pub(super) fn new(mean: &[f64], std: &[f64], rescale: f64) -> Self {
        let channel = |(mean, std): (&f64, &f64)| ((rescale / std) as f32, (-mean / std) as f32);
        Self { channels: mean.iter().zip(std).map(channel).collect() }
    }

    /// Appends one example's elements, channel by channel, as `number` reads them.
    pub(super) fn extend<T>(&self, out: &mut Vec<f32>, elements: &[T], number: impl Fn(&T) -> f32) {
        let channels = elements.chunks_exact(elements.len() / self.channels.len());
        for (channel, (factor, summand)) in channels.zip(&self.channels) {
            out.extend(channel.iter().map(|element| number(element) * factor + summand));
        }
    }
}

impl<'a> Rows<'a> {
    /// Opens the file of a split of `dataset`, which has one of the numbers of rows in `accepted`. Pictures become
    /// what `image` says; decoded ones stay in `decoded`.
    ///
    /// # Errors
    /// The file cannot be read or is not what the manifest says.
    pub(super) fn open(
        dataset: &Dataset,
        image: Option<&ImageInput>,
        accepted: &[u32],
        path: &Path,
        decoded: &'a mut Decoded,
    ) -> Result<Self, ComputeError> {
        let invalid = |problem| ComputeError::InvalidJob(format!("the dataset's {problem}"));
        dataset.check().map_err(invalid)?;
        let shape = dataset.input(image).map_err(invalid)?;
        let what = format!("the dataset `{}`", dataset.name);
        let bad = |problem: String| bad_file(&what, path, problem);
        if let Err(source) = std::fs::File::open(path) {
            return Err(ComputeError::Disk { what: format!("read {}", path.display()), source });
        }
        // SAFETY: the file is a cache's entry, which is written once under another name and then never
        // changed; were it cut short regardless, this process, which exists to take such blows, would end.
        let file = unsafe { MmapedSafetensors::new(path) };
        let file = file.map_err(|error| bad(format!("it is no safetensors file: {error}")))?;
        let first = |name: &str| file.get(name).ok().and_then(|view| view.shape().first().copied()).unwrap_or(0);
        let rows = first("labels");
        if !accepted.iter().any(|accepted| *accepted as usize == rows) {
            return Err(bad(format!("it has {rows} labels: the manifest says {accepted:?}")));
        }
        for (name, dtype, shape) in tensors(dataset, rows, first("inputs")) {
            let view = file.get(name).map_err(|_| bad(format!("it has no tensor `{name}`")))?;
            if view.dtype() != dtype || view.shape() != shape {
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
        let preprocessing = dataset.preprocessing(image);
        let rescale = if dataset.elements == ElementType::F32 { 1.0 } else { preprocessing.rescale };
        let standard = Standard::new(&preprocessing.mean, &preprocessing.std, rescale);
        let form = match (dataset.elements, image) {
            (ElementType::Encoded, Some(image)) => {
                let offsets =
                    file.get("offsets")?.data().as_chunks().0.iter().map(|b| u64::from_le_bytes(*b)).collect();
                let pictures = Pictures::new(what.clone(), path, image, preprocessing, offsets, decoded);
                pictures.check(first("inputs")).map_err(bad)?;
                Form::Pictures(pictures)
            }
            (elements, _) => {
                // What was decoded for another trial is in this one's way.
                decoded.clear();
                if elements == ElementType::U8 { Form::Bytes } else { Form::Floats }
            }
        };
        Ok(Self { file, shape, form, labels, standard })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.labels.len()
    }

    /// The shape of one.
    pub(super) fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The rows of these numbers, standardised.
    ///
    /// # Errors
    /// A row's picture cannot be decoded.
    pub(super) fn batch(&mut self, rows: &[u32]) -> Result<Batch, ComputeError> {
        let elements: usize = self.shape.iter().product();
        let view = self.file.get("inputs")?;
        let mut inputs = Vec::with_capacity(rows.len() * elements);
        let standard = &self.standard;
        let mut extend_bytes = |bytes: &[u8]| standard.extend(&mut inputs, bytes, |byte| f32::from(*byte));
        match &mut self.form {
            Form::Bytes => {
                rows.iter().for_each(|row| extend_bytes(&view.data()[*row as usize * elements..][..elements]));
            }
            Form::Pictures(pictures) => pictures.each(rows, view.data(), extend_bytes)?,
            Form::Floats => {
                for row in rows {
                    let bytes = &view.data()[*row as usize * elements * 4..][..elements * 4];
                    standard.extend(&mut inputs, bytes.as_chunks().0, |bytes| f32::from_le_bytes(*bytes));
                }
            }
        }
        let labels = rows.iter().map(|row| self.labels[*row as usize]).collect();
        Ok(Batch { inputs, labels })
    }
}

/// The tensors of a split's file with so many rows, and so many bytes of pictures.
fn tensors(dataset: &Dataset, rows: usize, bytes: usize) -> Vec<(&'static str, Dtype, Vec<usize>)> {
    let inputs = || std::iter::once(rows).chain(dataset.shape.iter().copied()).collect();
    let mut tensors = match dataset.elements {
        ElementType::U8 => vec![("inputs", Dtype::U8, inputs())],
        ElementType::F32 => vec![("inputs", Dtype::F32, inputs())],
        ElementType::Encoded => vec![("inputs", Dtype::U8, vec![bytes]), ("offsets", Dtype::U64, vec![rows + 1])],
    };
    tensors.push(("labels", Dtype::U32, vec![rows]));
    tensors
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
