//! Networks as a whole, against PyTorch.

mod architectures;
mod fixture;
pub(super) mod golden;

pub(super) use fixture::{Fixture, noise};
