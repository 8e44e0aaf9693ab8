//! Which kernel computes a convolution and its gradients.

use std::ops::Range;

use crate::buffer::Buffer;
use crate::kernels::dense::{Bf16Forward, Finish, Forward, InputGradient, Shape, WeightGradient};
use crate::kernels::depthwise;
use crate::kernels::packing::Packing;
use crate::kernels::winograd::{self, Winograd};
use crate::maps::Maps;
use crate::parallel;
use crate::simd::{LANES, Path};

use super::parameters::Layout;
use super::{Precision, Size};

/// A convolution in one direction, with its weights as it wants them.
#[derive(Debug)]
pub(super) struct Convolution {
    kernel: Kernel,
    x: Maps,
    y: Maps,
    /// Transformed or transposed; empty where the packed ones will do.
    weights: Buffer,
}

#[derive(Debug)]
enum Kernel {
    Forward(Forward),
    Bf16(Bf16Forward),
    Line(Box<winograd::Line>),
    InputGradient(InputGradient),
    Winograd(Winograd),
    Depthwise(depthwise::Forward),
    DepthwiseGradient(depthwise::InputGradient),
}

/// Whether every channel is convolved by itself.
pub(super) fn is_depthwise(shape: &Shape) -> bool {
    shape.groups > 1 && shape.groups == shape.ins && shape.groups == shape.outs
}

/// Whether it may be computed some rows at a time: Winograd's, which are faster by themselves, are not.
pub(super) fn is_direct(shape: &Shape) -> bool {
    shape.window.taps() == 1 || !shape.window.is_plain()
}

/// The order of a convolution's weights.
pub(super) fn layout(shape: &Shape, x: &Maps) -> Layout {
    if is_depthwise(shape) {
        return Layout::Depthwise { taps: shape.window.taps() };
    }
    Layout::Packed(Packing::new(shape.outs, shape.ins, shape.groups, shape.window.taps(), x.lanes))
}

/// Multiplies the weights of each output by its factor, a number for every lane of every block.
pub(super) fn scale(layout: &Layout, weights: &mut [f32], factors: &[f32]) {
    for (block, factors) in factors.chunks_exact(LANES).enumerate() {
        let range = match layout {
            Layout::Packed(packing) => packing.block(block),
            Layout::Depthwise { taps } => block * taps * LANES..(block + 1) * taps * LANES,
            Layout::Plain | Layout::Lanes | Layout::Maps(_) => unreachable!("a convolution's weights"),
        };
        for row in weights[range].chunks_exact_mut(LANES) {
            row.iter_mut().zip(factors).for_each(|(weight, factor)| *weight *= factor);
        }
    }
}

impl Convolution {
    /// From inputs like `x` to outputs like `y`.
    pub(super) fn forward(size: Size, shape: &Shape, x: Maps, y: Maps) -> Self {
        let Size { path, together, precision, .. } = size;
        if is_depthwise(shape) {
            let kernel = Kernel::Depthwise(depthwise::Forward::new(path, shape, x, y));
            return Self { kernel, x, y, weights: Buffer::zeros(0) };
        }
        let bf16 = (precision == Precision::Bf16).then(|| Bf16Forward::new(path, shape, x, y)).flatten();
        let at_once = if bf16.is_some() { 2 } else { 1 };
        // In training its weights would have to be transformed at every step.
        let line = (together == 1 && winograd::line::pays(shape, at_once))
            .then(|| winograd::Line::new(path, shape, x, y))
            .flatten();
        let tiles = winograd::pays(shape, together, at_once).then(|| Winograd::new(path, shape, x, y)).flatten();
        let tiles = tiles.map(|tiles| tiles.for_examples(shape, together));
        let (weights, kernel) = match (line, tiles, bf16) {
            (Some(line), ..) => (line.len(), Kernel::Line(Box::new(line))),
            (None, Some(winograd), _) => (winograd.len(), Kernel::Winograd(winograd)),
            (None, None, Some(bf16)) => (bf16.len(), Kernel::Bf16(bf16)),
            (None, None, None) => (0, Kernel::Forward(Forward::new(path, shape, x, y))),
        };
        Self { kernel, x, y, weights: Buffer::zeros(weights) }
    }

    /// From gradients of outputs like `dy` to gradients of inputs like `dx`, of `together` examples at once.
    pub(super) fn gradient(path: Path, shape: &Shape, together: usize, dx: Maps, dy: Maps) -> Self {
        if is_depthwise(shape) {
            let gradient = depthwise::InputGradient::new(path, shape, dx, dy);
            let weights = Buffer::zeros(gradient.len());
            return Self { kernel: Kernel::DepthwiseGradient(gradient), x: dy, y: dx, weights };
        }
        let tiles = winograd::pays(shape, together, 1).then(|| Winograd::gradient(path, shape, dx, dy)).flatten();
        let tiles = tiles.map(|tiles| tiles.for_examples(shape, together));
        let (weights, kernel) = match tiles {
            Some(winograd) => (winograd.len(), Kernel::Winograd(winograd)),
            None => {
                let gradient = InputGradient::new(path, shape, dx, dy);
                (gradient.len(), Kernel::InputGradient(gradient))
            }
        };
        Self { kernel, x: dy, y: dx, weights: Buffer::zeros(weights) }
    }

    /// Floats of the weights that it has made its own.
    pub(super) fn kept(&self) -> usize {
        self.weights.len()
    }

    /// How it multiplies.
    pub(super) fn precision(&self) -> Precision {
        if matches!(self.kernel, Kernel::Bf16(_)) { Precision::Bf16 } else { Precision::Fp32 }
    }

    /// Takes new weights, packed as [`Forward::packing`] says.
    pub(super) fn prepare(&mut self, packed: &[f32]) {
        match &self.kernel {
            Kernel::Forward(_) | Kernel::Depthwise(_) => {}
            Kernel::Bf16(forward) => forward.round(packed, &mut self.weights),
            Kernel::Line(line) => line.transform(packed, &mut self.weights),
            Kernel::DepthwiseGradient(gradient) => gradient.reorder(packed, &mut self.weights),
            Kernel::InputGradient(gradient) => gradient.transpose(packed, &mut self.weights),
            Kernel::Winograd(winograd) => winograd.transform(packed, &mut self.weights),
        }
    }

    /// The first `n` examples; `packed` are the weights that were prepared.
    pub(super) fn run(&self, n: usize, packed: &[f32], bias: Option<&[f32]>, x: &[f32], y: &mut [f32], finish: Finish) {
        let (x_len, y_len) = (self.x.len(), self.y.len());
        // Winograd's tiles of several examples share a pass over the weights.
        let group = if matches!(self.kernel, Kernel::Winograd(_)) { n.div_ceil(parallel::PARTS).max(1) } else { 1 };
        parallel::groups(n, group, y, y_len, |first, y| {
            let x = &x[first * x_len..][..y.len() / y_len * x_len];
            match &self.kernel {
                Kernel::Forward(forward) => forward.run(packed, bias, x, y, finish),
                Kernel::InputGradient(gradient) => gradient.run(&self.weights, x, y, finish),
                Kernel::Bf16(forward) => parallel::with_scratch(forward.scratch_len(), |scratch| {
                    forward.run(&self.weights, bias, x, y, finish, scratch);
                }),
                Kernel::Line(line) => parallel::with_scratch(line.scratch_len(), |scratch| {
                    line.run(&self.weights, bias, x, y, finish, scratch);
                }),
                Kernel::Winograd(winograd) if n == 1 && winograd.is_better_apart() => {
                    winograd.run_apart(&self.weights, bias, x, y, finish);
                }
                Kernel::Winograd(winograd) => parallel::with_scratch(winograd.scratch_len(), |scratch| {
                    winograd.run(&self.weights, bias, x, y, finish, scratch);
                }),
                Kernel::Depthwise(forward) => forward.run(packed, bias, x, y, finish),
                Kernel::DepthwiseGradient(gradient) => gradient.run(&self.weights, x, y, finish),
            }
        });
    }
}

/// The gradient of a convolution's weights.
#[derive(Debug)]
pub(super) struct Weights {
    kernel: WeightsKernel,
    x: Maps,
    dy: Maps,
}

#[derive(Debug)]
enum WeightsKernel {
    Dense(WeightGradient),
    Winograd(winograd::WeightGradient),
    Depthwise(depthwise::WeightGradient),
}

impl Weights {
    /// From inputs like `x` and gradients of outputs like `dy`, of `together` examples at once.
    pub(super) fn new(path: Path, shape: &Shape, together: usize, x: Maps, dy: Maps) -> Self {
        let fast = || winograd::WeightGradient::new(path, shape, x, dy);
        let kernel = if is_depthwise(shape) {
            WeightsKernel::Depthwise(depthwise::WeightGradient::new(path, shape, x, dy))
        } else if let Some(fast) = fast().filter(|_| winograd::gradient_pays(shape, together)) {
            WeightsKernel::Winograd(fast)
        } else {
            WeightsKernel::Dense(WeightGradient::new(path, shape, x, dy))
        };
        Self { kernel, x, dy }
    }

    /// Adds that of some examples of a batch, a part of it at once.
    pub(super) fn add(&self, examples: Range<usize>, x: &[f32], dy: &[f32], dw: &mut [f32], scratch: &mut Buffer) {
        let of = |maps: &Maps, examples: &Range<usize>| examples.start * maps.len()..examples.end * maps.len();
        let (x, dy) = (&x[of(&self.x, &examples)], &dy[of(&self.dy, &examples)]);
        let each = x.chunks_exact(self.x.len()).zip(dy.chunks_exact(self.dy.len()));
        match &self.kernel {
            WeightsKernel::Dense(gradient) => each.for_each(|(x, dy)| gradient.add(x, dy, dw)),
            WeightsKernel::Depthwise(gradient) => each.for_each(|(x, dy)| gradient.add(x, dy, dw)),
            WeightsKernel::Winograd(gradient) => {
                scratch.grow(gradient.scratch_len());
                gradient.add(x, dy, dw, scratch);
            }
        }
    }

    /// After the last example: what stands for no weight becomes zero.
    pub(super) fn finish(&self, dw: &mut [f32]) {
        match &self.kernel {
            WeightsKernel::Dense(gradient) => gradient.packing().clear_padding(dw),
            WeightsKernel::Winograd(gradient) => gradient.packing().clear_padding(dw),
            // Behind the last channel gradients are zero.
            WeightsKernel::Depthwise(_) => {}
        }
    }
}
