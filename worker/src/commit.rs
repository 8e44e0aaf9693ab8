//! The create-only writes that decide: a job's result, a slice's checkpoint.

use std::path::Path;

use serde::{Deserialize, Serialize};
use shared::contract::{Cost, Durations, ErrorCode, Job, JobResult, Status};
use shared::digest::Digest;
use shared::names::{JobId, Name, ObjectRef};
use shared::store::{Store, StoreError, get_optional_json, layout, settle_json};

use crate::protocol::{Found, Spent};

/// What ended a slice: `runs/<run>/checkpoints/<job>/<slice>.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointRecord {
    /// The identity of the delivery that won: only its redelivery may publish the next slice.
    pub message_id: String,
    /// Parameters, optimiser state, position.
    pub tensors: ObjectRef,
    /// What all slices so far were computed with, as in a result.
    pub simd: String,
    /// Who wrote it.
    pub worker: String,
    /// Time of all slices so far.
    pub durations: Durations,
    /// Costs of all slices so far.
    pub costs: Cost,
}

/// Reads a job's result, if there is one.
pub async fn find_result(store: &dyn Store, run: &Name, job: &JobId) -> Result<Option<JobResult>, StoreError> {
    get_optional_json(store, &layout::result(run, job)).await
}

/// Creates a job's result, or returns the one that stands there.
///
/// A write whose answer was lost finds its own nonce and knows itself again.
pub async fn create_result(store: &dyn Store, result: &JobResult) -> Result<Option<JobResult>, StoreError> {
    let stands = settle_json(store, &layout::result(&result.run, &result.id), result.clone()).await?;
    Ok((stands.nonce != result.nonce).then_some(stands))
}

/// Where a found result leaves its job.
pub fn judge(result: &JobResult) -> Found {
    let code = result.error.as_ref().map(|error| error.code);
    match result.status {
        Status::Failed if code != Some(ErrorCode::Diverged) => Found::Buried(code.and_then(last_attempt)),
        _ => Found::Settled,
    }
}

/// The attempt that such a failure spent. Exhaustive, so that a new sort forces a decision.
fn last_attempt(code: ErrorCode) -> Option<Spent> {
    match code {
        ErrorCode::Failed => Some(Spent::Error),
        ErrorCode::Crashed | ErrorCode::OutOfMemory | ErrorCode::TimeLimit => Some(Spent::Crash),
        ErrorCode::Diverged
        | ErrorCode::InvalidJob
        | ErrorCode::MissingObject
        | ErrorCode::AlteredObject
        | ErrorCode::Preempted => None,
    }
}

/// Reads the record that ended a slice, if there is one.
pub async fn find_checkpoint(store: &dyn Store, job: &Job, slice: u32) -> Result<Option<CheckpointRecord>, StoreError> {
    get_optional_json(store, &layout::checkpoint_record(&job.run, &job.id, slice)).await
}

/// Creates the record that ends a slice, or returns the one that stands there.
pub async fn create_checkpoint(
    store: &dyn Store,
    job: &Job,
    slice: u32,
    record: &CheckpointRecord,
) -> Result<CheckpointRecord, StoreError> {
    settle_json(store, &layout::checkpoint_record(&job.run, &job.id, slice), record.clone()).await
}

/// Uploads a file of tensors under a key of its content: uploading it twice is harmless.
pub async fn upload_tensors(store: &dyn Store, job: &Job, file: &Path) -> Result<ObjectRef, StoreError> {
    let path = file.to_owned();
    let hashed = tokio::task::spawn_blocking(move || {
        let mut hasher = Digest::hasher();
        std::io::copy(&mut std::fs::File::open(&path)?, &mut hasher)?;
        Ok(hasher.finish())
    });
    let local = |source| StoreError::Local { what: "read", path: file.to_owned(), source };
    let sha256 = hashed.await.map_err(|error| local(std::io::Error::other(error)))?.map_err(local)?;
    let key = layout::checkpoint_tensors(&job.run, &job.id, sha256);
    store.upload(&key, file).await?;
    Ok(ObjectRef { key, sha256 })
}
