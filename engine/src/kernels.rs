//! What computes: functions of slices, each for one example, generic over the instruction set.
//!
//! Kernels are made once, for shapes; they trust the shapes that they were made for and check the
//! lengths of what they are given. An element's bits depend on the shapes and the [`Path`](crate::simd::Path) alone:
//! never on the batch around an example, or on the number of threads.

pub mod activation;
pub mod attention;
pub mod bytes;
pub mod copy;
pub mod dense;
pub mod depthwise;
pub mod dropout;
pub mod elementwise;
pub mod function;
mod gradient;
pub mod inverted;
pub mod linear;
mod math;
pub mod norm;
pub mod optimizer;
pub mod packing;
pub mod pairwise;
pub mod pixelwise;
pub mod pool;
pub mod pooled;
pub mod slopes;
pub mod softmax;
pub mod stem;
#[cfg(test)]
pub(crate) mod tests;
mod tile;
pub mod view;
pub mod winograd;
