//! Gannet's worker: takes jobs, computes them in executor processes, commits their results.
//!
//! A job's way: `receive → cache → executor → compute → commit → settle`; ARCHITECTURE.md tells it whole.

pub mod cache;
mod cancel;
mod commit;
pub mod compute;
pub mod executor;
pub mod protocol;
mod receive;
pub mod settings;
mod settle;
mod step;
mod supervisor;

pub use settings::WorkerSettings;
pub use supervisor::{Patience, work};
