//! What lies where in the store. The only place that spells a key.

use crate::digest::Digest;
use crate::names::{JobId, Key, Name};

fn key(text: String) -> Key {
    Key::new(text).expect("made of checked names")
}

/// `runs`
pub fn runs() -> Key {
    key("runs".into())
}

/// `runs/<run>`: everything of one run.
pub fn run(run: &Name) -> Key {
    key(format!("runs/{run}"))
}

/// `runs/<run>/run.json`: what was asked.
pub fn run_manifest(run: &Name) -> Key {
    key(format!("runs/{run}/run.json"))
}

/// `runs/<run>/calibration.json`: the pictures that int8 is calibrated on, for who takes the run up.
pub fn calibration(run: &Name) -> Key {
    key(format!("runs/{run}/calibration.json"))
}

/// `runs/<run>/results`: one object a job.
pub fn results(run: &Name) -> Key {
    key(format!("runs/{run}/results"))
}

/// `runs/<run>/results/<job>.json`: the first writer's result.
pub fn result(run: &Name, job: &JobId) -> Key {
    key(format!("runs/{run}/results/{job}.json"))
}

/// `runs/<run>/checkpoints/<job>/<slice>.json`: which delivery ended the slice, and with what.
pub fn checkpoint_record(run: &Name, job: &JobId, slice: u32) -> Key {
    key(format!("runs/{run}/checkpoints/{job}/{slice:06}.json"))
}

/// `runs/<run>/checkpoints/<job>/<sha256>.safetensors`: tensors, by content.
pub fn checkpoint_tensors(run: &Name, job: &JobId, digest: Digest) -> Key {
    key(format!("runs/{run}/checkpoints/{job}/{digest}.safetensors"))
}

/// `runs/<run>/checkpoints`
pub fn checkpoints(run: &Name) -> Key {
    key(format!("runs/{run}/checkpoints"))
}

/// `runs/<run>/checkpoints/<job>`: the records and tensors of one job.
pub fn job_checkpoints(run: &Name, job: &JobId) -> Key {
    key(format!("runs/{run}/checkpoints/{job}"))
}

/// `runs/<run>/attempts/<job>`: one object an attempt that began on a redelivery, by slice.
pub fn attempts(run: &Name, job: &JobId) -> Key {
    key(format!("runs/{run}/attempts/{job}"))
}

/// `runs/<run>/attempts/<job>/<slice>`: those at one slice.
pub fn attempts_at(run: &Name, job: &JobId, slice: u32) -> Key {
    key(format!("runs/{run}/attempts/{job}/{slice:06}"))
}

/// `runs/<run>/attempts/<job>/<slice>/<id>`.
pub fn attempt(run: &Name, job: &JobId, slice: u32, id: &str) -> Key {
    key(format!("runs/{run}/attempts/{job}/{slice:06}/{id}"))
}

/// `runs/<run>/dead/<job>`: written once the job lies among the dead letters, so that it is put there once.
pub fn buried(run: &Name, job: &JobId) -> Key {
    key(format!("runs/{run}/dead/{job}"))
}

/// `runs/<run>/images/<sha256>`: an uploaded picture, by content.
pub fn image(run: &Name, digest: Digest) -> Key {
    key(format!("runs/{run}/images/{digest}"))
}

/// The last part of [`cancelled`].
pub const CANCELLED: &str = "cancelled";

/// `runs/<run>/cancelled`: the run's cancel marker, and all that is left of a deleted run.
pub fn cancelled(run: &Name) -> Key {
    key(format!("runs/{run}/{CANCELLED}"))
}

/// `runs/<run>/look`: its jobs may have results before anybody takes them, since one was cancelled or published
/// again: whoever takes one looks first.
pub fn look(run: &Name) -> Key {
    key(format!("runs/{run}/look"))
}

/// `runs/<run>/enqueued`: what producers were about to publish, written before they did.
pub fn enqueued(run: &Name) -> Key {
    key(format!("runs/{run}/enqueued"))
}

/// `runs/<run>/enqueued/<sha256>.json`: some jobs, by the digest of their ids.
pub fn enqueued_part(run: &Name, digest: Digest) -> Key {
    key(format!("runs/{run}/enqueued/{digest}.json"))
}

/// `datasets`
pub fn datasets() -> Key {
    key("datasets".into())
}

/// `datasets/<name>/current`: the digest in use.
pub fn dataset_current(name: &Name) -> Key {
    key(format!("datasets/{name}/current"))
}

/// `datasets/<name>/<digest>/<file>`.
pub fn dataset_file(name: &Name, digest: Digest, file: &str) -> Key {
    key(format!("datasets/{name}/{digest}/{file}"))
}

/// `models`
pub fn models() -> Key {
    key("models".into())
}

/// `models/<name>`: every version of a model, and which one its name stands for.
pub fn model(name: &Name) -> Key {
    key(format!("models/{name}"))
}

/// `models/<name>/pointer`: which version the name stands for, and stood for.
pub fn model_pointer(name: &Name) -> Key {
    key(format!("models/{name}/{POINTER}"))
}

/// The last part of [`model_pointer`].
pub const POINTER: &str = "pointer";

/// `models/<name>/pointer/<number>.json`: a move of the pointer, create-only; the highest number counts.
pub fn model_move(name: &Name, number: u32) -> Key {
    key(format!("models/{name}/{POINTER}/{number:06}.json"))
}

/// `models/<name>/<digest>/<file>`.
pub fn model_file(name: &Name, digest: Digest, file: &str) -> Key {
    key(format!("models/{name}/{digest}/{file}"))
}

/// `probe`
pub fn probes() -> Key {
    key("probe".into())
}

/// `probe/<id>`: what the probe at start writes and removes.
pub fn probe(id: &str) -> Key {
    key(format!("probe/{id}"))
}
