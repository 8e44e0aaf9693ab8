//! Networks as a whole, against PyTorch.

mod architectures;
mod fixture;
mod golden;

pub(super) use fixture::{Fixture, noise};
