//! Labelling pictures with a model.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use engine::{Purpose, Ranges};
use serde::{Deserialize, Serialize};
use shared::contract::{
    Agreement, Batch, ImageError, ImageOutcome, ImageVerdict, Model, ModelNetwork, Network, Output, Precision,
    Prediction, Preprocessing, Scores,
};
use shared::digest::Digest;

use super::model::{Model as Computed, Numbers};
use super::rows::Standard;
use super::{Backend, ComputeError, simd, weights};

/// What is wanted of each picture.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Wanted {
    /// Labels or the embedding.
    pub output: Output,
    /// What the outputs become.
    pub scores: Scores,
    /// Labels a picture.
    pub top_k: u32,
    /// Labels with lower scores are left out.
    pub threshold: Option<f64>,
}

impl Wanted {
    /// What a batch asks for; what it leaves open is the model's.
    pub fn of(batch: &Batch, model: &Model) -> Self {
        let scores = batch.scores.unwrap_or(model.scores);
        let threshold = batch.threshold.or(model.limit(batch.scores));
        Self { output: batch.output, scores, top_k: batch.top_k, threshold }
    }
}

/// Reads pictures for a model.
#[derive(Debug, Clone)]
pub struct PictureReader {
    input: [usize; 3],
    preprocessing: Preprocessing,
}

impl PictureReader {
    /// The reader for this model's input.
    ///
    /// # Errors
    /// The input is no picture, or the preprocessing cannot be done.
    pub fn of(model: &Model) -> Result<Self, ComputeError> {
        let refuse = || {
            let shape = &model.config.input;
            invalid(model, format!("its input is {shape:?}: [1 or 3, height, width] is accepted"))
        };
        let input = model.picture().ok_or_else(refuse)?;
        let checked = model.preprocessing.check(input[0]).map_err(|problem| problem.inside("preprocessing"));
        checked.map_err(|problem| invalid(model, problem))?;
        Ok(Self { input, preprocessing: model.preprocessing.clone() })
    }

    /// A picture as bytes `[channels, height, width]`.
    ///
    /// # Errors
    /// Those of [`picture::read`].
    pub fn read(&self, path: &Path) -> Result<Vec<u8>, ImageError> {
        picture::read(path, self.input, &self.preprocessing)
    }
}

fn invalid(model: &Model, problem: impl std::fmt::Display) -> ComputeError {
    ComputeError::InvalidJob(format!("the model `{}`: {problem}", model.name))
}

/// A model that is ready to label pictures.
pub struct Classifier {
    model: Computed,
    /// The same network in another precision, if one was asked for.
    coarse: Option<Coarse>,
    output: Output,
    /// Of the present order.
    precision: Precision,
    agreement: Agreement,
    /// Pictures that are computed at once: one a thread.
    batch: usize,
    input: [usize; 3],
    standard: Standard,
    labels: Vec<String>,
}

/// A picture to calibrate on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Sample {
    /// Its file.
    pub file: PathBuf,
    /// Its digest, where the file is an object's: then it never changes.
    pub sha256: Option<Digest>,
}

/// A network in another precision.
struct Coarse {
    asked: Asked,
    /// `None` where nothing would be computed so: this machine, this device or this network has no use for it, or there is no picture to
    /// calibrate it on.
    network: Option<Computed>,
}

/// What a network in another precision was made for.
#[derive(PartialEq)]
struct Asked {
    precision: Precision,
    /// What it is calibrated on.
    calibration: Vec<Stamp>,
}

/// Tells a picture from others.
#[derive(PartialEq)]
enum Stamp {
    Object(Digest),
    /// A file with its size and time, if it has them: it may change under its name.
    File(PathBuf, Option<(u64, SystemTime)>),
}

impl Asked {
    fn of(precision: Precision, calibration: &[Sample]) -> Self {
        let of_file = |path: &PathBuf| {
            let metadata = std::fs::metadata(path).ok()?;
            Some((metadata.len(), metadata.modified().ok()?))
        };
        let stamp = |Sample { file, sha256 }: &Sample| match sha256 {
            Some(sha256) => Stamp::Object(*sha256),
            None => Stamp::File(file.clone(), of_file(file)),
        };
        let calibration = if precision == Precision::Int8 { calibration } else { &[] };
        Self { precision, calibration: calibration.iter().map(stamp).collect() }
    }
}

/// Pictures of each order that are computed in fp32, too, where it is not the precision.
const COMPARED: u32 = 2;

impl Classifier {
    /// Binds a model to its weights: safetensors with exactly the model's tensors, or an ONNX file with its network.
    ///
    /// # Errors
    /// The model's parts do not fit each other, or the weights are not the model's.
    pub fn load(model: &Model, weights: &Path, output: Output, backend: &Backend) -> Result<Self, ComputeError> {
        let PictureReader { input, preprocessing } = PictureReader::of(model)?;
        let shape = model.config.input.as_slice();
        let batch = rayon::current_num_threads();
        if let ModelNetwork::Layers(layers) = &model.config.network {
            let network = Network { layers: layers.clone() };
            network.check(shape, model.labels.len()).map_err(|error| invalid(model, error))?;
        }
        let computed = computed(model, weights, output, batch, backend, Numbers::Fp32)?;
        let standard = Standard::new(&preprocessing.mean, &preprocessing.std, preprocessing.rescale);
        Ok(Self {
            model: computed,
            coarse: None,
            output,
            precision: Precision::Fp32,
            agreement: Agreement::default(),
            batch,
            input,
            standard,
            labels: model.labels.clone(),
        })
    }

    /// Whether [`Classifier::begin`] has nothing to make.
    pub fn is_ready(&self, precision: Precision, calibration: &[Sample], backend: &Backend) -> bool {
        !self.is_of_use(precision, backend)
            || self.coarse.as_ref().is_some_and(|coarse| coarse.asked == Asked::of(precision, calibration))
    }

    /// Embeddings are in fp32 always, and other devices than the processors know nothing else.
    fn is_of_use(&self, precision: Precision, backend: &Backend) -> bool {
        precision != Precision::Fp32 && self.output == Output::Labels && matches!(backend, Backend::Engine)
    }

    /// Begins an order in a precision. `model`, `weights` and `backend` are those it was loaded with: what is asked for first is made ready
    /// then. Int8 is calibrated on pictures; what is no picture, by its bytes, is left out. `alive` is called after each.
    ///
    /// # Errors
    /// Those of [`Classifier::load`], and a file to calibrate on is not there: the numbers would be others without it.
    pub fn begin(
        &mut self,
        (precision, calibration): (Precision, &[Sample]),
        (model, weights): (&Model, &Path),
        backend: &Backend,
        alive: &mut dyn FnMut(),
    ) -> Result<(), ComputeError> {
        let is_of_use = self.is_of_use(precision, backend);
        if is_of_use {
            let asked = Asked::of(precision, calibration);
            if self.coarse.as_ref().is_none_or(|coarse| coarse.asked != asked) {
                // Its memory first.
                self.coarse = None;
                let network = self.coarse(precision, calibration, (model, weights), backend, alive)?;
                self.coarse = Some(Coarse { asked, network });
            }
        }
        let is_ready = is_of_use && self.coarse.as_ref().is_some_and(|coarse| coarse.network.is_some());
        self.precision = if is_ready { precision } else { Precision::Fp32 };
        self.agreement = Agreement::default();
        Ok(())
    }

    /// The network in another precision, where it is of use.
    fn coarse(
        &self,
        precision: Precision,
        calibration: &[Sample],
        (model, weights): (&Model, &Path),
        backend: &Backend,
        alive: &mut dyn FnMut(),
    ) -> Result<Option<Computed>, ComputeError> {
        let make = |batch, numbers: Numbers<'_>| computed(model, weights, self.output, batch, backend, numbers);
        let (network, wanted) = match precision {
            Precision::Bf16 if simd().has_bf16() => (make(self.batch, Numbers::Bf16)?, engine::Precision::Bf16),
            Precision::Int8 if simd().has_int8() => {
                // One by one: what is seen does not depend on how many are computed at once.
                let ranges =
                    self.ranges(calibration, make(1, Numbers::Observed)?, &PictureReader::of(model)?, alive)?;
                (make(self.batch, Numbers::Int8(&ranges))?, engine::Precision::Int8)
            }
            _ => return Ok(None),
        };
        Ok(Some(network).filter(|network| network.precision() == wanted))
    }

    /// What a network's values are like on pictures.
    fn ranges(
        &self,
        calibration: &[Sample],
        mut observer: Computed,
        reader: &PictureReader,
        alive: &mut dyn FnMut(),
    ) -> Result<Ranges, ComputeError> {
        let mut ranges = Ranges::new();
        for Sample { file, .. } in calibration {
            match reader.read(file) {
                Ok(pixels) => {
                    let mut input = Vec::with_capacity(pixels.len());
                    self.standard.extend(&mut input, &pixels, |pixel| f32::from(*pixel));
                    observer.observe(&input, &mut ranges);
                }
                // Its bytes are no picture, for every worker: it says nothing.
                Err(error) if ["decode_failed", "too_large", "unsupported_format"].contains(&error.code.as_str()) => {}
                Err(error) => {
                    let (file, message) = (file.display(), error.message);
                    return Err(ComputeError::InvalidJob(format!("int8 is to be calibrated on `{file}`: {message}")));
                }
            }
            alive();
        }
        Ok(ranges)
    }

    /// How the present order is computed, and how that compares with fp32 where it is not.
    pub fn precision(&self) -> (Precision, Option<Agreement>) {
        (self.precision, (self.precision != Precision::Fp32).then_some(self.agreement))
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        let coarse = self.coarse.as_ref().and_then(|coarse| coarse.network.as_ref());
        self.model.bytes() + coarse.map_or(0, Computed::bytes)
    }

    /// The best labels of each picture, best first, or its embedding: what [`Classifier::load`] was told.
    /// One entry a picture, in order: `pictures` are names, repeated in the outcome, and what [`PictureReader::read`]
    /// gave for each.
    ///
    /// By the engine a picture's numbers are the same to the bit in any company.
    ///
    /// # Errors
    /// The device fails.
    pub fn classify(
        &mut self,
        pictures: Vec<(String, Result<Vec<u8>, ImageError>)>,
        wanted: &Wanted,
    ) -> Result<Vec<ImageOutcome>, ComputeError> {
        let mut outcomes = Vec::with_capacity(pictures.len());
        let mut rest = pictures.into_iter().peekable();
        while rest.peek().is_some() {
            let some: Vec<_> = rest.by_ref().take(self.batch).collect();
            let readable: Vec<&[u8]> = some.iter().filter_map(|(_, pixels)| pixels.as_deref().ok()).collect();
            let outputs = self.outputs(&readable)?;
            let mut outputs = outputs.chunks_exact(self.model.outputs());
            for (image, pixels) in some {
                let verdict =
                    pixels.and_then(|_| self.verdict(outputs.next().expect("one for each that could be read"), wanted));
                let verdict = verdict.unwrap_or_else(ImageVerdict::Error);
                outcomes.push(ImageOutcome { image, verdict });
            }
        }
        Ok(outcomes)
    }

    fn verdict(&self, outputs: &[f32], wanted: &Wanted) -> Result<ImageVerdict, ImageError> {
        match wanted.output {
            Output::Labels => Ok(ImageVerdict::Predictions(self.best(&scores(outputs, wanted.scores)?, wanted))),
            Output::Embedding => finite(outputs).map(|()| ImageVerdict::Embedding(outputs.to_vec())),
        }
    }

    /// The network's outputs for pictures, bytes `[channels, height, width]`, one behind the other.
    fn outputs(&mut self, pictures: &[&[u8]]) -> Result<Vec<f32>, ComputeError> {
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let mut input = Vec::with_capacity(pictures.len() * self.input.iter().product::<usize>());
        for pixels in pictures {
            self.standard.extend(&mut input, pixels, |pixel| f32::from(*pixel));
        }
        self.logits(&input)
    }

    /// The logits of pictures as the network reads them. In another precision the first of an order are computed in fp32, too.
    fn logits(&mut self, input: &[f32]) -> Result<Vec<f32>, ComputeError> {
        let coarse = self.coarse.as_mut().and_then(|coarse| coarse.network.as_mut());
        let Some(coarse) = coarse.filter(|_| self.precision != Precision::Fp32) else {
            return Ok(self.model.logits(input)?);
        };
        let logits = coarse.logits(input)?;
        let pictures = input.chunks_exact(self.input.iter().product()).zip(logits.chunks_exact(self.labels.len()));
        for (picture, logits) in pictures {
            if self.agreement.compared == COMPARED {
                break;
            }
            // A picture that has no label in fp32 either says nothing.
            if let Some(best) = first_largest(&self.model.logits(picture)?) {
                self.agreement.compared += 1;
                self.agreement.agreed += u32::from(first_largest(logits) == Some(best));
            }
        }
        Ok(logits)
    }

    fn best(&self, scores: &[f64], wanted: &Wanted) -> Vec<Prediction> {
        let suffices = |index: &usize| wanted.threshold.is_none_or(|threshold| scores[*index] >= threshold);
        let mut order: Vec<usize> = (0..scores.len()).filter(suffices).collect();
        // Stable: of equal scores the first label.
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        order.truncate(wanted.top_k as usize);
        let prediction = |index: usize| Prediction {
            label: self.labels[index].clone(),
            index: u32::try_from(index).unwrap_or(u32::MAX),
            score: scores[index],
        };
        order.into_iter().map(prediction).collect()
    }
}

/// The network of a model that was checked.
fn computed(
    model: &Model,
    weights: &Path,
    output: Output,
    batch: usize,
    backend: &Backend,
    numbers: Numbers<'_>,
) -> Result<Computed, ComputeError> {
    let shape = model.config.input.as_slice();
    match &model.config.network {
        ModelNetwork::Layers(layers) => {
            let network = Network { layers: layers.clone() };
            let mut computed = match output {
                Output::Labels => Computed::with_numbers(&network, shape, batch, Purpose::Infer, backend, numbers)?,
                Output::Embedding => Computed::features(&network, shape, batch, backend)?,
            };
            computed.set(&weights::read(weights, computed.parameters())?)?;
            Ok(computed)
        }
        ModelNetwork::Onnx(_) => {
            let file = weights::mapped(weights)?;
            Computed::of_onnx(file, shape, model.labels.len(), output, batch, backend, numbers)
                .map_err(|problem| invalid(model, problem))
        }
    }
}

/// Where the largest number is, the first of equal ones; nowhere where one is not finite.
fn first_largest(logits: &[f32]) -> Option<usize> {
    let finite = logits.iter().all(|logit| logit.is_finite());
    let larger = |best: usize, index: usize| if logits[index] > logits[best] { index } else { best };
    (0..logits.len()).filter(|_| finite).reduce(larger)
}

fn finite(outputs: &[f32]) -> Result<(), ImageError> {
    if outputs.iter().all(|output| output.is_finite()) {
        return Ok(());
    }
    Err(ImageError { code: "failed".into(), message: "the network's outputs are not finite numbers".into() })
}

/// What one picture's outputs become.
fn scores(outputs: &[f32], scores: Scores) -> Result<Vec<f64>, ImageError> {
    let sigmoid = |output: &f32| 1.0 / (1.0 + libm::exp(-f64::from(*output)));
    match scores {
        Scores::Softmax => softmax(outputs),
        Scores::Sigmoid => finite(outputs).map(|()| outputs.iter().map(sigmoid).collect()),
        Scores::Raw => finite(outputs).map(|()| outputs.iter().map(|output| f64::from(*output)).collect()),
    }
}

/// The softmax of one picture's logits.
fn softmax(logits: &[f32]) -> Result<Vec<f64>, ImageError> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scores: Vec<f64> = logits.iter().map(|logit| libm::exp(f64::from(*logit) - f64::from(most))).collect();
    let sum: f64 = scores.iter().sum();
    if !sum.is_finite() {
        let message = "the network's outputs are not finite numbers".into();
        return Err(ImageError { code: "failed".into(), message });
    }
    Ok(scores.iter().map(|score| score / sum).collect())
}

impl std::fmt::Debug for Classifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classifier").field("input", &self.input).field("labels", &self.labels.len()).finish()
    }
}

#[cfg(test)]
mod tests;
