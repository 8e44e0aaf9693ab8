//! What producer and worker agree on: the message contract, the queue and the store.
//!
//! This crate knows no tensors and never computes. Its two seams, [`queue::Queue`] and
//! [`store::Store`], have two implementations each (embedded and fleet) and one contract suite.

pub mod arguments;
pub mod contract;
pub mod digest;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod queue;
pub mod random;
pub mod settings;
pub mod store;
pub mod strict;
pub mod traces;
