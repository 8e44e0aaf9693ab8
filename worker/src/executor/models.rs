//! The models that an executor holds: loaded once, kept while there is room, the least used let go.

use std::path::PathBuf;

use shared::contract::Model;

use crate::compute::{Backend, Classifier, ComputeError};

/// Loaded models.
pub(super) struct Models {
    /// The last used one last.
    loaded: Vec<Loaded>,
    /// The most weights that are kept beside those in use, in bytes of their files.
    room: u64,
}

struct Loaded {
    model: Model,
    weights: PathBuf,
    bytes: u64,
    classifier: Classifier,
}

impl Models {
    /// The most that is sensible.
    pub(super) const ROOM: u64 = 512 << 20;

    /// None yet, with room for so many bytes of weights.
    pub(super) fn with_room(room: u64) -> Self {
        Self { loaded: Vec::new(), room }
    }

    /// The model, ready to be used.
    pub(super) fn get(
        &mut self,
        model: &Model,
        weights: &PathBuf,
        backend: &Backend,
    ) -> Result<&mut Classifier, ComputeError> {
        // The manifest too: two models may share their weights and differ in their labels.
        let known = self.loaded.iter().position(|loaded| loaded.weights == *weights && loaded.model == *model);
        let loaded = match known {
            Some(at) => self.loaded.remove(at),
            None => {
                let bytes = std::fs::metadata(weights).map_or(0, |metadata| metadata.len());
                self.make_room(bytes);
                let classifier = Classifier::load(model, weights, backend)?;
                Loaded { model: model.clone(), weights: weights.clone(), bytes, classifier }
            }
        };
        self.loaded.push(loaded);
        Ok(&mut self.loaded.last_mut().expect("just pushed").classifier)
    }

    /// Lets all of them go.
    pub(super) fn clear(&mut self) {
        self.loaded.clear();
    }

    fn make_room(&mut self, bytes: u64) {
        let mut held: u64 = self.loaded.iter().map(|loaded| loaded.bytes).sum();
        while !self.loaded.is_empty() && held.saturating_add(bytes) > self.room {
            held -= self.loaded.remove(0).bytes;
        }
    }
}
