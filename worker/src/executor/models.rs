//! The models that an executor holds: loaded once, kept while there is room, the one that was not used for longest let go.

use std::collections::HashMap;
use std::path::PathBuf;

use shared::contract::{Model, Output};

use super::wire::Classify;
use crate::compute::{Backend, Classifier, ComputeError};

/// Loaded models.
pub(super) struct Models {
    /// The last used one last.
    loaded: Vec<Loaded>,
    /// The most that they hold together, in bytes: weights as kernels want them, and the values between layers. One that is
    /// larger is held alone.
    room: u64,
    /// What models held that were loaded before, by the files of their weights: the same file takes as much again.
    sizes: HashMap<PathBuf, u64>,
}

struct Loaded {
    model: Model,
    weights: PathBuf,
    /// What it computes: labels need another network than embeddings.
    output: Output,
    classifier: Classifier,
}

impl Loaded {
    fn bytes(&self) -> u64 {
        self.classifier.bytes() as u64
    }
}

/// What a model holds at most, as a multiple of its file: its weights as they are, with norms in them, and transformed for
/// kernels, which makes four of one where windows are 3x3.
const TIMES_FILE: u64 = 6;
/// Sizes that are remembered.
const KNOWN: usize = 1_000;

impl Models {
    /// The most that is sensible.
    pub(super) const ROOM: u64 = 1 << 30;

    /// None yet, with room for so many bytes.
    pub(super) fn with_room(room: u64) -> Self {
        Self { loaded: Vec::new(), room, sizes: HashMap::new() }
    }

    /// The order's model, ready for it.
    pub(super) fn get(
        &mut self,
        order: &Classify,
        backend: &Backend,
        alive: &mut dyn FnMut(),
    ) -> Result<&mut Classifier, ComputeError> {
        let Classify { model, weights, precision, calibration, .. } = order;
        let output = order.wanted.output;
        // The manifest too: two models may share their weights and differ in their labels.
        let is_wanted =
            |loaded: &Loaded| loaded.weights == *weights && loaded.output == output && loaded.model == *model;
        let known = self.loaded.iter().position(is_wanted);
        let mut loaded = match known {
            Some(at) => self.loaded.remove(at),
            None => {
                self.make_room(self.expected(weights));
                let classifier = Classifier::load(model, weights, output, backend)?;
                Loaded { model: model.clone(), weights: weights.clone(), output, classifier }
            }
        };
        let before = loaded.bytes();
        // In another precision than fp32 it is a second network, which is made now if this is the first time.
        if !loaded.classifier.is_ready(*precision, calibration, backend) {
            self.make_room(before.saturating_add(self.expected(weights)));
        }
        loaded.classifier.begin((*precision, calibration), (model, weights), backend, alive)?;
        let bytes = loaded.bytes();
        if known.is_none() || bytes != before {
            self.make_room(bytes);
            if self.sizes.len() == KNOWN {
                self.sizes.clear();
            }
            self.sizes.insert(weights.clone(), bytes);
        }
        self.loaded.push(loaded);
        Ok(&mut self.loaded.last_mut().expect("just pushed").classifier)
    }

    /// Lets all of them go.
    pub(super) fn clear(&mut self) {
        self.loaded.clear();
    }

    /// Bytes that a model is going to hold. Too much lets others go too early, too little overdraws the memory while it is
    /// loaded: rather too much.
    fn expected(&self, weights: &PathBuf) -> u64 {
        let of_file = || std::fs::metadata(weights).map_or(0, |metadata| metadata.len().saturating_mul(TIMES_FILE));
        self.sizes.get(weights).copied().unwrap_or_else(of_file)
    }

    fn make_room(&mut self, bytes: u64) {
        let mut held: u64 = self.loaded.iter().map(Loaded::bytes).sum();
        while !self.loaded.is_empty() && held.saturating_add(bytes) > self.room {
            held -= self.loaded.remove(0).bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use serde_json::json;
    use shared::contract::{Precision, Scores};

    use super::*;
    use crate::compute::Wanted;

    const INPUTS: usize = 3 * 32 * 32;
    const UNITS: usize = 64;

    /// A model of one linear layer, of 0.75 MiB.
    fn model(folder: &tempfile::TempDir, name: &str) -> (Model, PathBuf) {
        let weights = folder.path().join(name);
        let weight = Tensor::zeros((UNITS, INPUTS), DType::F32, &Device::Cpu).expect("a tensor");
        candle_core::safetensors::save(&HashMap::from([("1.weight", weight)]), &weights).expect("a file");
        let model = json!({
            "name": name,
            "config": {"input": [3, 32, 32], "network": {"layers": [
                {"type": "flatten"}, {"type": "linear", "units": UNITS, "bias": false}
            ]}},
            "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.1, 0.1]},
            "labels": (0..UNITS).map(|label| label.to_string()).collect::<Vec<_>>(),
            "weights": {"key": "w", "sha256": "0".repeat(64)}
        });
        (serde_json::from_value(model).expect("a model"), weights)
    }

    fn order((model, weights): &(Model, PathBuf)) -> Classify {
        let wanted = Wanted { output: Output::Labels, scores: Scores::Softmax, top_k: 1, threshold: None };
        let (model, weights, precision) = (model.clone(), weights.clone(), Precision::Fp32);
        Classify { model, weights, images: Vec::new(), wanted, precision, calibration: Vec::new() }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_when_there_is_no_room() {
        let folder = tempfile::tempdir().expect("a folder");
        let all = ["a", "b", "c"].map(|name| model(&folder, name));
        let each = {
            let mut models = Models::with_room(u64::MAX);
            models.get(&order(&all[0]), &Backend::Engine, &mut || {}).expect("loaded").bytes() as u64
        };
        let file = (INPUTS * UNITS * size_of::<f32>()) as u64;
        assert!(each >= file, "{each} bytes are held of {file} of weights");
        let mut models = Models::with_room(2 * each + each / 2);
        let mut use_one = |name: &str| {
            let wanted = &all[usize::from(name.as_bytes()[0] - b'a')];
            models.get(&order(wanted), &Backend::Engine, &mut || {}).expect("loaded");
            let held: u64 = models.loaded.iter().map(Loaded::bytes).sum();
            assert!(held <= models.room, "{held} bytes where {} have room", models.room);
            models.loaded.iter().map(|loaded| loaded.model.name.to_string()).collect::<Vec<_>>().concat()
        };
        // How large they are is learnt first.
        for name in ["a", "b", "c"] {
            use_one(name);
        }
        let held = ["a", "b", "a", "c", "a", "c", "b", "a"].map(&mut use_one);
        assert_eq!(held, ["ca", "ab", "ba", "ac", "ca", "ac", "cb", "ba"]);
        // One that has no room at all is held alone.
        models.room = each / 2;
        models.get(&order(&all[2]), &Backend::Engine, &mut || {}).expect("loaded");
        assert_eq!(models.loaded.len(), 1);
    }
}
