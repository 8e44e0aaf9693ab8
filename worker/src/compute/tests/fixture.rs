//! What the tests of several modules need: numbers, a dataset, a trial.

use std::path::PathBuf;

use rand_chacha::rand_core::Rng as _;
use serde_json::{Value, json};
use shared::contract::{Dataset, Trial};
use shared::random;

use crate::compute::{Backend, ComputeError, Decoded, Ended, Flow, Step, Trained, TrainingJob, train};

/// `count` numbers in -1 to 1, the same for the same name.
pub(in crate::compute) fn noise(name: &str, count: usize) -> Vec<f64> {
    let mut stream = random::stream(9, &[name.into()]);
    (0..count).map(|_| f64::from(stream.next_u32()) / f64::from(u32::MAX) * 2.0 - 1.0).collect()
}

/// A folder with a dataset of three classes that can be told apart: stripes across, stripes down, noise.
pub(in crate::compute) struct Fixture {
    pub(in crate::compute) folder: tempfile::TempDir,
    pub(in crate::compute) dataset: Dataset,
    pub(in crate::compute) rows: usize,
    pub(in crate::compute) backend: Backend,
}

impl Fixture {
    pub(in crate::compute) fn new(rows: usize) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut stream = random::stream(3, &["fixture".into()]);
        let mut pixels = Vec::new();
        let mut labels = Vec::new();
        for _ in 0..rows {
            let label = stream.next_u32() % 3;
            let phase = stream.next_u32() % 2;
            for at in 0..64 {
                let stripe = match label {
                    0 => (at / 8 + phase) % 2 * 128,
                    1 => (at % 8 + phase) % 2 * 128,
                    _ => stream.next_u32() % 2 * 128,
                };
                pixels.push((stripe + stream.next_u32() % 128) as u8);
            }
            labels.extend(label.to_le_bytes());
        }
        let file = folder.path().join("train.safetensors");
        let view = safetensors::tensor::TensorView::new;
        let inputs = view(safetensors::Dtype::U8, vec![rows, 1, 8, 8], &pixels).expect("inputs");
        let labels = view(safetensors::Dtype::U32, vec![rows], &labels).expect("labels");
        safetensors::serialize_to_file([("inputs", inputs), ("labels", labels)], None, &file).expect("a file");
        let dataset = serde_json::from_value(json!({
            "name": "stripes", "shape": [1, 8, 8], "elements": "u8", "classes": 3, "mean": [0.5], "std": [0.29],
            "splits": {"train": {"object": object(), "rows": rows}}
        }));
        Self { folder, dataset: dataset.expect("a dataset"), rows, backend: Backend::Engine }
    }

    pub(in crate::compute) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A job that trains `trial` and leaves `out`.
    pub(in crate::compute) fn train(
        &self,
        trial: &Trial,
        resume: Option<&str>,
        out: &str,
        mut each: &mut dyn FnMut(&Step) -> Flow,
    ) -> Result<Ended, ComputeError> {
        let (file, out) = (self.path("train.safetensors"), self.path(out));
        let resume = resume.map(|name| self.path(name));
        let (dataset, backend, resume) = (&self.dataset, &self.backend, resume.as_deref());
        let job = TrainingJob { trial, dataset, train: &file, resume, out: &out, backend };
        train(&job, &mut Decoded::default(), &mut each)
    }

    /// Trains to the end.
    pub(in crate::compute) fn finish(&self, trial: &Trial, resume: Option<&str>, out: &str) -> Trained {
        match self.train(trial, resume, out, &mut |_| Flow::Go).expect("it trains") {
            Ended::Finished(trained) => trained,
            Ended::Paused => panic!("nobody asked for a pause"),
        }
    }

    /// A trial of `layers` with `training` over the defaults.
    #[expect(clippy::needless_pass_by_value, reason = "callers write their JSON in place")]
    pub(in crate::compute) fn trial(&self, layers: Value, training: Value) -> Trial {
        let mut all = json!({
            "epochs": 2, "batch_size": 16, "optimizer": {"type": "adam", "learning_rate": 0.01}
        });
        for (key, value) in training.as_object().expect("an object") {
            all[key] = value.clone();
        }
        serde_json::from_value(json!({
            "network": {"layers": layers},
            "data": {"dataset": object(), "validation_rows": self.rows / 4, "split_seed": 5},
            "training": all,
            "seed": 11
        }))
        .expect("a trial")
    }
}

/// A reference to an object that nobody looks at.
pub(in crate::compute) fn object() -> Value {
    json!({"key": "some/object", "sha256": "0".repeat(64)})
}
