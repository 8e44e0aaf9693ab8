//! Labelling pictures with a model.

use std::path::Path;

use engine::Purpose;
use shared::contract::{
    ImageError, ImageOutcome, ImageVerdict, Model, ModelNetwork, Network, Prediction, Preprocessing,
};

use super::model::Model as Computed;
use super::rows::Standard;
use super::{Backend, ComputeError, weights};

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
    /// Pictures that are computed at once: one a thread.
    batch: usize,
    input: [usize; 3],
    standard: Standard,
    labels: Vec<String>,
}

impl Classifier {
    /// Binds a model to its weights: safetensors with exactly the model's tensors, or an ONNX file with its network.
    ///
    /// # Errors
    /// The model's parts do not fit each other, or the weights are not the model's.
    pub fn load(model: &Model, weights: &Path, backend: &Backend) -> Result<Self, ComputeError> {
        let PictureReader { input, preprocessing } = PictureReader::of(model)?;
        let shape = model.config.input.as_slice();
        let batch = rayon::current_num_threads();
        let computed = match &model.config.network {
            ModelNetwork::Layers(layers) => {
                let network = Network { layers: layers.clone() };
                network.check(shape, model.labels.len()).map_err(|error| invalid(model, error))?;
                let mut computed = Computed::new(&network, shape, batch, Purpose::Infer, backend)?;
                computed.set(&weights::read(weights, computed.parameters())?)?;
                computed
            }
            ModelNetwork::Onnx(_) => {
                let bytes = weights::read_bytes(weights)?;
                Computed::of_onnx(&bytes, shape, model.labels.len(), batch, backend)
                    .map_err(|problem| invalid(model, problem))?
            }
        };
        let standard = Standard::new(&preprocessing.mean, &preprocessing.std, preprocessing.rescale);
        Ok(Self { model: computed, batch, input, standard, labels: model.labels.clone() })
    }

    /// The `top_k` best labels of each picture with a probability of at least `threshold`, best first.
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
        top_k: u32,
        threshold: f64,
    ) -> Result<Vec<ImageOutcome>, ComputeError> {
        let mut outcomes = Vec::with_capacity(pictures.len());
        let mut rest = pictures.into_iter().peekable();
        while rest.peek().is_some() {
            let some: Vec<_> = rest.by_ref().take(self.batch).collect();
            let readable: Vec<&[u8]> = some.iter().filter_map(|(_, pixels)| pixels.as_deref().ok()).collect();
            let mut scores = self.scores(&readable)?.into_iter();
            for (image, pixels) in some {
                let scores = pixels.and_then(|_| scores.next().expect("one for each that could be read"));
                let verdict = match scores {
                    Ok(scores) => ImageVerdict::Predictions(self.best(&scores, top_k as usize, threshold)),
                    Err(error) => ImageVerdict::Error(error),
                };
                outcomes.push(ImageOutcome { image, verdict });
            }
        }
        Ok(outcomes)
    }

    /// The softmax of the logits of each picture, bytes `[channels, height, width]`.
    fn scores(&mut self, pictures: &[&[u8]]) -> Result<Vec<Result<Vec<f64>, ImageError>>, ComputeError> {
        if pictures.is_empty() {
            return Ok(Vec::new());
        }
        let mut input = Vec::with_capacity(pictures.len() * self.input.iter().product::<usize>());
        for pixels in pictures {
            self.standard.extend(&mut input, pixels, |pixel| f32::from(*pixel));
        }
        Ok(self.model.logits(&input)?.chunks_exact(self.labels.len()).map(softmax).collect())
    }

    fn best(&self, scores: &[f64], top_k: usize, threshold: f64) -> Vec<Prediction> {
        let mut order: Vec<usize> = (0..scores.len()).filter(|index| scores[*index] >= threshold).collect();
        // Stable: of equal scores the first label.
        order.sort_by(|a, b| scores[*b].total_cmp(&scores[*a]));
        order.truncate(top_k);
        let prediction = |index: usize| Prediction {
            label: self.labels[index].clone(),
            index: u32::try_from(index).unwrap_or(u32::MAX),
            score: scores[index],
        };
        order.into_iter().map(prediction).collect()
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
