//! Gannet's worker: takes jobs, computes them in executor processes, commits their results.
//!
//! A job's way: `receive → cache → executor → compute → commit → settle`; ARCHITECTURE.md tells it whole.

pub mod cache;
pub mod cancel;
pub mod commit;
pub mod compute;
#[cfg(test)]
mod counting;
pub mod executor;
mod failpoint;
mod memory;
pub mod metrics;
pub mod protocol;
pub mod receive;
pub mod scratch;
pub mod settings;
pub mod settle;
pub mod step;
pub mod supervisor;

pub use settings::WorkerSettings;
pub use supervisor::work;
