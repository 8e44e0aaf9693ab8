//! Networks as a whole: against PyTorch, against finite differences, on one thread and on two.

mod architectures;
mod fixture;
mod golden;
mod gradients;
mod threads;

pub(super) use fixture::{Fixture, noise, tensor};
