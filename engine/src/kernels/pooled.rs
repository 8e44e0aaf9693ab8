//! Convolution, bias, relu and max-pool of two by two as one kernel, and its sparse gradients.
//!
//! The map before the pool is never stored whole: some of its rows are computed into scratch and pooled at once. What is kept for the
//! backward pass is a byte for every pooled output, which of the four won.
//!
//! Behind a pool at most one gradient of four is not zero, and relu kills more. The [`Backward`] pass multiplies with the live ones alone,
//! by lists of them for every output channel (for the weights) and for every pixel (for the input).

mod backward;
mod inputs;
mod lists;
mod planar;
mod pool;
mod strips;
mod weights;

pub use backward::{Backward, Given, Input, Scratch, Sums};
pub use pool::pool;

use super::dense::{self, Finish, Shape};
use super::packing::Packing;
use crate::maps::{Halo, Maps};
use crate::simd::{LANES, Path};
use crate::window::Window;

/// The byte of an output that relu has set to zero; those before it name the window's pixels, row by row.
pub const DEAD: u8 = 4;

/// Weights that stay in the first cache beside a few rows of outputs.
const SMALL_WEIGHTS: usize = 16 << 10;

/// Bytes of outputs before the pool: those that stay in the first cache, and those that stay in the second.
const SCRATCH: [usize; 2] = [16 << 10, 256 << 10];

/// Widths of kernels that the backward pass is compiled for.
const WIDTHS: [usize; 4] = [1, 3, 5, 7];

/// The part of a convolution's window that a pool of two by two sees: an odd last row or column is not computed. `None` where
/// nothing is left, or where the convolution is not plain: a stride, a dilation, groups.
fn seen(window: &Window, groups: usize) -> Option<Window> {
    let output = window.output.map(|outputs| outputs / 2 * 2);
    let plain = window.is_plain() && groups == 1 && output[0] > 0 && output[1] > 0;
    plain.then_some(Window { output, ..*window })
}

/// Whether both passes have kernels for a convolution with this window and these groups.
pub fn suits(window: &Window, groups: usize) -> bool {
    seen(window, groups).is_some() && WIDTHS.contains(&window.kernel[1])
}

/// The forward pass on maps of one kind.
#[derive(Debug)]
pub struct Forward {
    path: Path,
    convolution: dense::Forward,
    /// Some rows before the pool.
    scratch: Maps,
    y: Maps,
    rows: usize,
}

impl Forward {
    /// A convolution of `shape` on inputs like `x`, whose halo holds [`Shape::input_halo`], pooled to outputs like `y`: half as large,
    /// rounded down. `None` for a convolution with strides, dilation or groups, and where no output is left.
    pub fn new(path: Path, shape: &Shape, x: Maps, y: Maps) -> Option<Self> {
        let shape = Shape { window: seen(&shape.window, shape.groups)?, ..*shape };
        let output = shape.window.output;
        assert!(x.halo == x.halo.union(shape.input_halo(x.size)), "zeros around the input");
        assert_eq!(y.size, output.map(|outputs| outputs / 2), "maps of half the size");
        let weights = shape.ins * shape.window.taps() * 2 * LANES * 4;
        let bytes = SCRATCH[usize::from(weights > SMALL_WEIGHTS)];
        let row = output[1] * LANES * 4 * shape.outs.div_ceil(LANES);
        let rows = (bytes / (2 * row) * 2).clamp(2, output[0]);
        let scratch = Maps { halo: Halo::default(), ..Maps::new(shape.outs, [rows, output[1]]) };
        let convolution = dense::Forward::new(path, &shape, x, scratch);
        Some(Self { path, convolution, scratch, y, rows: output[0] })
    }

    /// The order of its weights.
    pub fn packing(&self) -> &Packing {
        self.convolution.packing()
    }

    /// Bytes that say which pixels won.
    pub fn winners_len(&self) -> usize {
        self.y.blocks() * self.y.size[0] * self.y.size[1] * LANES
    }

    /// Floats that [`Forward::run`] works in. Their values do not matter.
    pub fn scratch_len(&self) -> usize {
        self.scratch.len()
    }

    /// One example: `y = relu(max(x * weights) + bias)`, and in `winners` `[blocks][rows][columns][LANES]` which of its
    /// window each one was, or [`DEAD`]. A bias has a number for every lane of every block.
    pub fn run(
        &self,
        weights: &[f32],
        bias: Option<&[f32]>,
        x: &[f32],
        y: &mut [f32],
        winners: &mut [u8],
        scratch: &mut [f32],
    ) {
        let step = self.scratch.size[0];
        for first in (0..self.rows).step_by(step) {
            let rows = first..self.rows.min(first + step);
            self.convolution.run_rows(rows.clone(), weights, None, x, scratch, Finish::PLAIN);
            pool(self.path, &self.scratch, scratch, bias, &self.y, first / 2..rows.end / 2, y, winners);
        }
    }
}
