//! Gannet's engine: networks as graphs, planned once and computed by kernels of our own.
//!
//! Knows tensors and networks; knows no jobs, no files, no queue.

mod buffer;
mod burst;
pub mod graph;
pub mod kernels;
pub mod maps;
mod net;
mod parallel;
pub mod peak;
mod simd;
mod team;
mod window;

pub use buffer::Buffer;
pub use burst::burst;
pub use net::{Mode, Net, Precision, Purpose, Ranges, Setter};
pub use simd::{LANES, Path};
pub use team::{set_threads, threads};
pub use window::Window;
