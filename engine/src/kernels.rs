//! What computes: functions of slices, each for one example, generic over the instruction set.
//!
//! Kernels are made once, for shapes; they trust the shapes that they were made for and check the
//! lengths of what they are given. An element's bits depend on the shapes and the [`Path`](crate::simd::Path) alone:
//! never on the batch around an example, or on the number of threads.

pub mod dense;
pub mod slopes;
pub mod depthwise;
mod gradient;
pub mod linear;
pub mod packing;
pub mod pooled;
#[cfg(test)]
pub(crate) mod tests;
mod tile;
pub mod winograd;
