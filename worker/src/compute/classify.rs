//! Labelling pictures with a model.

use std::path::Path;

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use rayon::prelude::*;
use shared::contract::{ImageError, ImageOutcome, ImageVerdict, Model, Prediction, Preprocessing};

use super::network::{Mode, Net};
use super::rows::Standard;
use super::{ComputeError, weights};

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
    net: Net,
    input: [usize; 3],
    standard: Standard,
    labels: Vec<String>,
}

impl Classifier {
    /// Binds a model to its weights: safetensors with exactly the model's tensors.
    ///
    /// # Errors
    /// The model's parts do not fit each other, or the weights are not the model's.
    pub fn load(model: &Model, weights: &Path) -> Result<Self, ComputeError> {
        let PictureReader { input, preprocessing } = PictureReader::of(model)?;
        let (network, shape) = (&model.config.network, model.config.input.as_slice());
        network.check(shape, model.labels.len()).map_err(|error| invalid(model, error))?;
        let list = network.parameters(shape).map_err(|error| invalid(model, error))?;
        let tensors = weights::read(weights, &list)?;
        let net = Net::new(network, shape, &VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu))?;
        let standard = Standard::new(&preprocessing.mean, &preprocessing.std, preprocessing.rescale);
        Ok(Self { net, input, standard, labels: model.labels.clone() })
    }

    /// The `top_k` best labels of each picture with a probability of at least `threshold`, best first.
    /// One entry a picture, in order: `pictures` are names, repeated in the outcome, and what [`PictureReader::read`]
    /// gave for each.
    ///
    /// Each picture is computed alone, so its numbers are the same to the bit in any company.
    pub fn classify(
        &self,
        pictures: Vec<(String, Result<Vec<u8>, ImageError>)>,
        top_k: u32,
        threshold: f64,
    ) -> Vec<ImageOutcome> {
        let one = |(image, pixels): (String, Result<Vec<u8>, ImageError>)| {
            let verdict = match pixels.and_then(|pixels| self.scores(&pixels)) {
                Ok(scores) => ImageVerdict::Predictions(self.best(&scores, top_k as usize, threshold)),
                Err(error) => ImageVerdict::Error(error),
            };
            ImageOutcome { image, verdict }
        };
        if rayon::current_num_threads() == 1 {
            return pictures.into_iter().map(one).collect();
        }
        pictures.into_par_iter().map(one).collect()
    }

    /// The softmax of the logits of a picture, bytes `[channels, height, width]`.
    fn scores(&self, pixels: &[u8]) -> Result<Vec<f64>, ImageError> {
        let mut input = Vec::with_capacity(pixels.len());
        self.standard.extend(&mut input, pixels.iter().map(|pixel| f32::from(*pixel)));
        let failed = |message: String| ImageError { code: "failed".into(), message };
        let [channels, height, width] = self.input;
        let logits: Vec<f32> = Tensor::from_vec(input, (1, channels, height, width), &Device::Cpu)
            .and_then(|input| self.net.forward(&input, Mode::Infer)?.flatten_all()?.to_vec1())
            .map_err(|error| failed(format!("the network cannot be computed: {error}")))?;
        let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let scores: Vec<f64> = logits.iter().map(|logit| libm::exp(f64::from(*logit) - f64::from(most))).collect();
        let sum: f64 = scores.iter().sum();
        if !sum.is_finite() {
            return Err(failed("the network's outputs are not finite numbers".into()));
        }
        Ok(scores.iter().map(|score| score / sum).collect())
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

impl std::fmt::Debug for Classifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Classifier").field("input", &self.input).field("labels", &self.labels.len()).finish()
    }
}

#[cfg(test)]
mod tests;
