//! Inverted residuals (Sandler et al. 2018, "MobileNetV2"): a dense convolution to many channels, a depthwise one of these, and a dense one of
//! single pixels back to few.
//!
//! What lies between is several times as large as what they begin and end with. It is computed some rows at a time, in scratch that stays in a core's
//! second cache; rows that the next ones read too are kept. Each number is the same as by the three kernels one after the other.

use super::dense::{self, Finish, Shape};
use super::depthwise;
use crate::maps::{Halo, Maps};
use crate::simd::{LANES, Path};
use crate::window::Window;

/// Bytes between the convolutions that one thread computes at once. More where the weights, which pass once for each part, are larger.
pub const STRIP: usize = 384 << 10;

/// What a convolution is computed with; a bias has a number for every lane of every block.
#[derive(Debug, Clone, Copy)]
pub struct Operands<'a> {
    /// As the convolution's own kernel wants them.
    pub weights: &'a [f32],
    /// Added to each channel.
    pub bias: Option<&'a [f32]>,
    /// What becomes of the sums.
    pub finish: Finish,
}

/// The three convolutions on maps of one kind.
#[derive(Debug)]
pub struct Inverted {
    first: dense::Forward,
    middle: depthwise::Forward,
    last: dense::Forward,
    /// Rows of the first one's outputs, and how many of them there are in all.
    wide: Maps,
    height: usize,
    /// Rows of the second one's outputs.
    deep: Maps,
    /// How the second one slides.
    window: Window,
    y: Maps,
}

/// Whether these convolutions can be computed so, each from the outputs of the one before.
pub fn suits([first, middle, last]: [&Shape; 3]) -> bool {
    let is_depthwise = middle.groups > 1 && [middle.ins, middle.outs] == [middle.groups; 2];
    // One whose rows are read again where outputs were written over them must not reach back.
    let window = &middle.window;
    let keeps_behind = window.before[0] < window.reach(0);
    let is_last = last.window == Window::same([1, 1], window.output);
    is_depthwise && keeps_behind && is_last && [first.groups, last.groups] == [1; 2] && !window.output.contains(&0)
}

impl Inverted {
    /// From inputs like `x`, whose halo holds the first one's [`Shape::input_halo`], to outputs like `y`, with about so many bytes between: [`STRIP`],
    /// or all at once where several threads share an example, each step after the other.
    ///
    /// # Panics
    /// Where it does not [suit](suits) the shapes.
    pub fn new(path: Path, shapes: [&Shape; 3], x: Maps, y: Maps, between: usize) -> Self {
        assert!(suits(shapes), "an inverted residual");
        let [first, middle, last] = shapes;
        let window = middle.window;
        let ([height, width], [all, columns]) = (first.window.output, window.output);
        let after = middle.input_halo([height, width]).after[1];
        let halo = Halo { before: [0, window.before[1]], after: [0, after] };
        let strip = |rows: usize| {
            let wide = Maps::new(first.outs, [(rows - 1) * window.stride[0] + window.reach(0), width]).with_halo(halo);
            [wide, Maps::new(middle.outs, [rows, columns])]
        };
        let weights = 4 * (first.outs * first.ins * first.window.taps() + last.outs * last.ins);
        let bytes = |rows: &usize| 4 * strip(*rows).iter().map(Maps::len).sum::<usize>();
        let most = (1..=all).take_while(|rows| bytes(rows) <= between.max(2 * weights)).last().unwrap_or(1);
        let rows = all.div_ceil(all.div_ceil(most));
        let [wide, deep] = strip(rows);
        let of_rows = |shape: &Shape, before| {
            let window = Window { before: [0, before], output: deep.size, ..shape.window };
            Shape { window, ..*shape }
        };
        Self {
            first: dense::Forward::new(path, first, x, wide),
            middle: depthwise::Forward::new(path, &of_rows(middle, window.before[1]), wide, deep),
            last: dense::Forward::new(path, &of_rows(last, 0), deep, y),
            wide,
            height,
            deep,
            window,
            y,
        }
    }

    /// Floats that [`Inverted::run`] works in. Their values do not matter.
    pub fn scratch_len(&self) -> usize {
        self.wide.len() + self.deep.len()
    }

    /// One example. Without an `x` the inputs stand where the outputs come.
    pub fn run(&self, operands: [Operands<'_>; 3], x: Option<&[f32]>, y: &mut [f32], scratch: &mut [f32]) {
        let [first, middle, last] = operands;
        let (wide, deep) = scratch[..self.scratch_len()].split_at_mut(self.wide.len());
        let (all, row) = (self.window.output[0], self.wide.row());
        self.clear_columns(wide);
        // Rows of the strip before that this one begins with.
        let mut kept = 0;
        for start in (0..all).step_by(self.deep.size[0]) {
            let rows = self.deep.size[0].min(all - start);
            let needed = (rows - 1) * self.window.stride[0] + self.window.reach(0);
            // Those of the strip that are in the maps.
            let [above, own] = [0, self.height].map(|row| {
                let row = row + self.window.before[0];
                row.saturating_sub(start * self.window.stride[0]).clamp(kept, needed)
            });
            self.clear_rows(wide, kept..above);
            self.clear_rows(wide, own..needed);
            if above < own {
                let first_row = start * self.window.stride[0] + above - self.window.before[0];
                let (to, x) = (&mut wide[above * row..], x.unwrap_or(y));
                let wanted = first_row..first_row + own - above;
                self.first.run_rows(wanted, first.weights, first.bias, x, to, first.finish);
            }
            self.middle.run_rows(rows, middle.weights, middle.bias, wide, deep, middle.finish);
            let y = &mut y[start * self.y.row()..];
            self.last.run_rows(0..rows, last.weights, last.bias, deep, y, last.finish);
            let passed = (rows * self.window.stride[0]).min(needed);
            kept = needed - passed;
            for block in wide.chunks_exact_mut(self.wide.block()) {
                block.copy_within(passed * row..needed * row, 0);
            }
        }
    }

    /// The zeros beside all rows.
    fn clear_columns(&self, wide: &mut [f32]) {
        let width = (self.wide.halo.before[1] + self.wide.size[1]) * LANES;
        for block in wide.chunks_exact_mut(self.wide.block()) {
            for row in block.chunks_exact_mut(self.wide.row()) {
                row[..self.wide.halo.before[1] * LANES].fill(0.0);
                row[width..].fill(0.0);
            }
        }
    }

    fn clear_rows(&self, wide: &mut [f32], rows: std::ops::Range<usize>) {
        for block in wide.chunks_exact_mut(self.wide.block()) {
            block[rows.start * self.wide.row()..rows.end * self.wide.row()].fill(0.0);
        }
    }
}
