//! The numbers: training, testing and classifying. Knows files and tensors; knows no queue, no store,
//! no cache.
//!
//! Everything here runs inside an executor process, on one thread unless told otherwise, and is
//! deterministic: same files, same job, same SIMD path, same bits, however a trial was cut into slices. On a GPU the
//! bits are those of one sort of GPU, as far as its libraries keep to them.

mod checkpoint;
mod classify;
mod device;
mod evaluate;
mod generic;
mod graph;
mod machine;
mod model;
mod rows;
mod schedule;
#[cfg(test)]
mod tests;
mod trainer;
mod weights;

use std::path::Path;

use shared::contract::{Dataset, EpochMetrics, ErrorCode, Metrics, Trial};

pub use classify::{Classifier, PictureReader, Sample, Wanted};
pub use engine::Path as Simd;

pub use device::{Backend, Device, DeviceChoice, DeviceError, find_device, joined_paths};
pub use evaluate::evaluate;
pub(crate) use machine::simd;
pub use machine::{find_simd, keep_pages, set_simd, set_threads, simd_path};
pub use rows::Decoded;
pub use trainer::train;

/// A trial and the files it needs.
#[derive(Debug, Clone, Copy)]
pub struct TrainingJob<'a> {
    /// What to train.
    pub trial: &'a Trial,
    /// The manifest that `trial.data.dataset` names.
    pub dataset: &'a Dataset,
    /// The training split's file.
    pub train: &'a Path,
    /// The checkpoint to go on from.
    pub resume: Option<&'a Path>,
    /// Where to write the kept parameters, or the checkpoint. It does not exist yet.
    pub out: &'a Path,
    /// What computes.
    pub backend: &'a Backend,
}

/// Told after every step.
#[derive(Debug, Clone)]
pub struct Step {
    /// Share of the trial that is done, 0 to 1.
    pub fraction: f64,
    /// The epoch that has just ended, if one has.
    pub epoch: Option<EpochMetrics>,
}

/// What to do after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    Go,
    /// Write a checkpoint and stop.
    Pause,
}

/// Who is told how a long computation moves on, and is asked about it. A closure hears of steps alone.
pub trait Watch {
    /// A step is done: one of training, or a part of an evaluation.
    fn step(&mut self, step: &Step) -> Flow;

    /// What is needed has been loaded: the first step begins.
    fn loaded(&mut self) {}

    /// Something is done that is no step, like a part of a validation.
    fn alive(&mut self) {}

    /// The disk is full where the outcome is to be written. Whether to try again: the outcome is kept meanwhile.
    fn disk_full(&mut self, _error: &ComputeError) -> bool {
        false
    }
}

impl<F: FnMut(&Step) -> Flow> Watch for F {
    fn step(&mut self, step: &Step) -> Flow {
        self(step)
    }
}

/// How training ended.
#[derive(Debug, Clone)]
pub enum Ended {
    /// `out` holds the kept parameters.
    Finished(Trained),
    /// `out` holds a checkpoint: parameters, the best so far, optimiser state and position.
    Paused,
}

/// What training came to.
#[derive(Debug, Clone)]
pub struct Trained {
    /// One entry an epoch, those of earlier slices included.
    pub epochs: Vec<EpochMetrics>,
    /// The epoch (from 1) whose parameters `out` holds.
    pub best_epoch: u32,
    /// Those parameters on the validation rows.
    pub validation: Metrics,
    /// Numbers in the network that are trained.
    pub parameter_count: u64,
    /// Whether it ended before its last epoch.
    pub stopped_early: bool,
}

/// Why something could not be computed. None of these but [`ComputeError::Disk`] heals by trying again on the same files.
#[derive(Debug, thiserror::Error)]
pub enum ComputeError {
    /// The job does not fit its dataset or model.
    #[error("the job cannot be computed: {0}")]
    InvalidJob(String),
    /// A file is not what its manifest says.
    #[error("the file of {what} cannot be used: {problem}")]
    BadFile {
        /// What it should hold.
        what: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The loss is no longer a finite number.
    #[error("the loss became {loss} in epoch {epoch}: try a smaller learning rate")]
    Diverged {
        /// The loss.
        loss: f64,
        /// Epoch, from 1.
        epoch: u32,
    },
    /// candle refused an operation: a defect of ours, or a device that fails or has no room.
    #[error("the tensor library failed")]
    Tensor(#[from] candle_core::Error),
    /// The disk failed: this machine's fault, not the job's.
    #[error("cannot {what}")]
    Disk {
        /// What was tried, with the file.
        what: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl ComputeError {
    /// Whether there is no room left on the disk.
    pub fn is_full_disk(&self) -> bool {
        matches!(self, Self::Disk { source, .. } if is_full(source))
    }

    /// Which sort of failure it is.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::InvalidJob(_) => ErrorCode::InvalidJob,
            Self::BadFile { .. } => ErrorCode::AlteredObject,
            Self::Diverged { .. } => ErrorCode::Diverged,
            Self::Tensor(_) | Self::Disk { .. } => ErrorCode::Failed,
        }
    }
}

/// Whether the system refuses for lack of room on a disk.
pub(crate) fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}
