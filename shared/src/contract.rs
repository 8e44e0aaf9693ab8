//! The message contract: what travels on the queue and what lies in the store, for clients in any
//! language.
//!
//! Every type here refuses unknown fields by name, has a JSON Schema ([`schema`]) and golden files
//! under `shared/golden/v1`. Messages hold references only: never pixels, never weights.

mod architectures;
mod batch;
mod control;
mod dataset;
mod image;
mod job;
mod model;
mod network;
mod progress;
mod result;
pub mod schema;
mod shapes;
mod training;
mod trial;

pub use architectures::Architecture;
pub use batch::{
    Agreement, Batch, BatchOutcome, ImageError, ImageOutcome, ImageRef, ImageVerdict, Output, Precision, Prediction,
};
pub use control::{Control, Spare};
pub use dataset::{Dataset, ElementType, MeanStd, Split};
pub use image::ImageInput;
pub use job::{Job, Kind, Work};
pub use model::{
    ChannelOrder, Crop, Filter, Model, ModelConfig, ModelNetwork, OnnxNetwork, Preprocessing, Resize, Scores,
};
pub use network::{Activation, Layer, Network, Op, Padding, PoolPadding, Size};
pub use progress::{Heartbeat, Progress, Running};
pub use result::{Cost, Durations, ErrorCode, ErrorReport, JobResult, Outcome, Status};
pub use shapes::{Init, NetworkError, Parameter, Shape};
pub use training::{EarlyStop, Objective, Optimizer, Schedule, Training};
pub use trial::{EpochMetrics, Evaluate, Metrics, Trial, TrialData, TrialOutcome};

/// The contract's major version: part of every queue's name and routing key, so that fleets of two
/// versions can share one broker.
pub const VERSION: &str = "v1";

/// The largest message body, in bytes. A larger result is published as a reference.
pub const MAX_MESSAGE: usize = 256 * 1024;
