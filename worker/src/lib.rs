//! Gannet's worker: takes jobs, computes them in executor processes, commits their results.
//!
//! A job's way: `receive → cache → executor → compute → commit → settle`; ARCHITECTURE.md tells it whole.

pub mod cache;
pub mod compute;
