//! Sizes a fleet's workers by what there is to do: out at once, in after a stable while, never a busy one.
//!
//! [`policy`] decides and does no I/O; a [`backend`] starts and ends workers; [`scaler`] looks at the queue, hears the
//! workers, asks the policy and carries out what it says.

pub mod backend;
pub mod config;
mod ending;
pub mod metrics;
pub mod policy;
pub mod pool;
pub mod report;
pub mod scaler;
