//! What supervisor and executor say to each other: one JSON document a line, over the executor's
//! standard input and output. Files go by path, never through the pipes.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use shared::contract::{Agreement, Dataset, EpochMetrics, ErrorReport, ImageOutcome, Metrics, Model, Precision, Trial};

use crate::compute::{Sample, Wanted};

/// To the executor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Train, from the start or from a checkpoint.
    Train {
        /// What to train.
        trial: Box<Trial>,
        /// The dataset's manifest.
        dataset: Box<Dataset>,
        /// The training split.
        train: PathBuf,
        /// The checkpoint to go on from.
        resume: Option<PathBuf>,
        /// Where the parameters or the checkpoint go; it does not exist yet.
        out: PathBuf,
    },
    /// Measure parameters on a split.
    Evaluate {
        /// What was trained.
        trial: Box<Trial>,
        /// The dataset's manifest.
        dataset: Box<Dataset>,
        /// The split.
        split: PathBuf,
        /// The parameters.
        checkpoint: PathBuf,
    },
    /// Label pictures.
    Classify(Box<Classify>),
    /// End the order of this number, counted from 1 in the order of sending: training with a checkpoint at the next
    /// step, anything else without an answer. Comes to nothing where it has ended meanwhile; one that has not begun never does.
    End(u64),
}

/// An order to label pictures.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Classify {
    /// The model's manifest.
    pub model: Model,
    /// Its weights.
    pub weights: PathBuf,
    /// What the producer calls each picture, and its file.
    pub images: Vec<(String, PathBuf)>,
    /// What is wanted of each.
    pub wanted: Wanted,
    /// How to compute, where this machine is faster with it.
    pub precision: Precision,
    /// The pictures that int8 is calibrated on.
    pub calibration: Vec<Sample>,
}

/// From the executor.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Say {
    /// It takes orders.
    Ready,
    /// The order's turn has come: the supervisor's own word, no executor says it.
    #[serde(skip)]
    Begun,
    /// The order is done with, and it took so long until what it needs was loaded; likewise.
    #[serde(skip)]
    Loaded(Duration),
    /// The order moved on.
    Step {
        /// Share that is done, 0 to 1.
        fraction: f64,
        /// The epoch that has just ended, if one has.
        epoch: Option<EpochMetrics>,
    },
    /// What was computed cannot be written, since the disk is full: it is kept, and tried again.
    DiskFull(ErrorReport),
    /// The order is done with.
    Report {
        /// Processor time it took, in milliseconds.
        cpu_ms: u64,
        /// Memory that the executor holds afterwards, in bytes, files that it has mapped apart.
        memory: u64,
        /// Time from its beginning until its model or its rows were loaded, in microseconds.
        load_us: u64,
        /// What it came to.
        report: Report,
    },
}

/// What an order came to.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// `out` holds the kept parameters.
    Trained {
        /// One entry an epoch.
        epochs: Vec<EpochMetrics>,
        /// The epoch whose parameters were kept, from 1.
        best_epoch: u32,
        /// Those parameters on the validation rows.
        validation: Metrics,
        /// Numbers in the network that are trained.
        parameter_count: u64,
        /// Whether it ended before its last epoch.
        stopped_early: bool,
    },
    /// `out` holds a checkpoint.
    Paused,
    /// The parameters on the split.
    Evaluated(Metrics),
    /// The pictures' labels.
    Classified {
        /// One entry a picture.
        images: Vec<ImageOutcome>,
        /// How they were computed.
        precision: Precision,
        /// How that compares with fp32, where it is not.
        agreement: Option<Agreement>,
    },
    /// It was ended before there was an answer, when this share was done.
    Ended(f64),
    /// Its turn did not come in time, and it was taken back: the supervisor's own word, no executor says it.
    #[serde(skip)]
    NotBegun,
    /// It could not be computed.
    Failed(ErrorReport),
    /// It could not be computed, since a file of this machine cannot be read or written: no fault of the job.
    Disk(ErrorReport),
}
