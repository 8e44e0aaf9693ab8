//! The models that an executor holds: loaded once, kept while there is room, the least used let go.

use std::path::PathBuf;

use shared::contract::Model;

use crate::compute::{Classifier, ComputeError};

/// Weights that are kept beside those in use, in bytes of their files.
const ROOM: u64 = 512 << 20;

/// Loaded models, the last used one last.
#[derive(Default)]
pub(super) struct Models(Vec<Loaded>);

struct Loaded {
    model: Model,
    weights: PathBuf,
    bytes: u64,
    classifier: Classifier,
}

impl Models {
    /// The model, ready to be used.
    pub(super) fn get(&mut self, model: &Model, weights: &PathBuf) -> Result<&Classifier, ComputeError> {
        // The manifest too: two models may share their weights and differ in their labels.
        let known = self.0.iter().position(|loaded| loaded.weights == *weights && loaded.model == *model);
        let loaded = match known {
            Some(at) => self.0.remove(at),
            None => {
                let bytes = std::fs::metadata(weights).map_or(0, |metadata| metadata.len());
                self.make_room(bytes);
                let classifier = Classifier::load(model, weights)?;
                Loaded { model: model.clone(), weights: weights.clone(), bytes, classifier }
            }
        };
        self.0.push(loaded);
        Ok(&self.0.last().expect("just pushed").classifier)
    }

    /// Lets all of them go.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn make_room(&mut self, bytes: u64) {
        let mut held: u64 = self.0.iter().map(|loaded| loaded.bytes).sum();
        while !self.0.is_empty() && held.saturating_add(bytes) > ROOM {
            held -= self.0.remove(0).bytes;
        }
    }
}
