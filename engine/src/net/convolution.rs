//! Which kernel computes a convolution, or the gradient of its input.

use crate::buffer::Buffer;
use crate::kernels::dense::{Finish, Forward, InputGradient, Shape};
use crate::kernels::packing::Packing;
use crate::kernels::winograd::{self, Winograd};
use crate::maps::Maps;
use crate::parallel;
use crate::simd::Path;

/// A convolution in one direction, with its weights as it wants them.
#[derive(Debug)]
pub(super) struct Convolution {
    kernel: Kernel,
    x: Maps,
    y: Maps,
    /// Transformed or transposed; empty where the packed ones will do.
    weights: Buffer,
    scratch: usize,
}

#[derive(Debug)]
enum Kernel {
    Forward(Forward),
    InputGradient(InputGradient),
    Winograd(Winograd),
}

impl Convolution {
    /// From inputs like `x` to outputs like `y`.
    pub(super) fn forward(path: Path, shape: &Shape, x: Maps, y: Maps) -> Self {
        match Winograd::new(path, shape, x, y).filter(|_| winograd::pays(shape)) {
            Some(winograd) => Self::winograd(winograd, x, y),
            None => {
                let kernel = Kernel::Forward(Forward::new(path, shape, x, y));
                Self { kernel, x, y, weights: Buffer::zeros(0), scratch: 0 }
            }
        }
    }

    /// From gradients of outputs like `dy` to gradients of inputs like `dx`.
    pub(super) fn gradient(path: Path, shape: &Shape, dx: Maps, dy: Maps) -> Self {
        match Winograd::gradient(path, shape, dx, dy).filter(|_| winograd::pays(shape)) {
            Some(winograd) => Self::winograd(winograd, dy, dx),
            None => {
                let gradient = InputGradient::new(path, shape, dx, dy);
                let weights = Buffer::zeros(gradient.len());
                Self { kernel: Kernel::InputGradient(gradient), x: dy, y: dx, weights, scratch: 0 }
            }
        }
    }

    fn winograd(winograd: Winograd, x: Maps, y: Maps) -> Self {
        let (weights, scratch) = (Buffer::zeros(winograd.len()), winograd.scratch_len());
        Self { kernel: Kernel::Winograd(winograd), x, y, weights, scratch }
    }

    /// Takes new weights, packed as [`Forward::packing`] says.
    pub(super) fn prepare(&mut self, packed: &[f32]) {
        match &self.kernel {
            Kernel::Forward(_) => {}
            Kernel::InputGradient(gradient) => gradient.transpose(packed, &mut self.weights),
            Kernel::Winograd(winograd) => winograd.transform(packed, &mut self.weights),
        }
    }

    /// The first `n` examples; `packed` are the weights that were prepared.
    pub(super) fn run(&self, n: usize, packed: &[f32], bias: Option<&[f32]>, x: &[f32], y: &mut [f32], finish: Finish) {
        let (x_len, y_len) = (self.x.len(), self.y.len());
        // Winograd's tiles of several examples share a pass over the weights.
        let group = if matches!(self.kernel, Kernel::Winograd(_)) { n.div_ceil(parallel::PARTS) } else { 1 };
        let scratch = || Buffer::zeros(self.scratch);
        parallel::groups_with(n, group, y, y_len, scratch, |scratch, first, y| {
            let x = &x[first * x_len..][..y.len() / y_len * x_len];
            match &self.kernel {
                Kernel::Forward(forward) => forward.run(packed, bias, x, y, finish),
                Kernel::InputGradient(gradient) => gradient.run(&self.weights, x, y, finish),
                Kernel::Winograd(winograd) => winograd.run(&self.weights, bias, x, y, finish, scratch),
            }
        });
    }
}

/// The order of a convolution's weights.
pub(super) fn packing(shape: &Shape, x: &Maps) -> Packing {
    Packing::new(shape.outs, shape.ins, shape.groups, shape.window.taps(), x.lanes)
}
