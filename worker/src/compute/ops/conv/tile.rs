//! A batch cut into tiles: a few small pictures, or a few rows of a large one.

use std::ops::Range;

use super::Sizes;
use crate::compute::ops::Real;
use crate::compute::ops::matrix::Matrix;
use crate::compute::ops::wide::wide;

/// Elements of a tile's unfolded matrix: about what the second-level cache holds, in fp32.
const UNFOLDED: usize = 1 << 18;
/// Columns of a tile: enough that packing the weights for each tile does not show.
const COLUMNS: [usize; 2] = [128, 1024];

/// How a batch is cut. It depends on sizes alone.
pub(super) struct Tiling<'a> {
    sizes: &'a Sizes,
    /// Pictures of a unit: what one thread does at a time, in one tile or several.
    pub(super) pictures: usize,
    rows: usize,
}

impl<'a> Tiling<'a> {
    pub(super) fn new(sizes: &'a Sizes) -> Self {
        let [height, width] = sizes.window.output;
        let target = (UNFOLDED / sizes.depth()).clamp(COLUMNS[0], COLUMNS[1]);
        // A unit of several pictures must leave units for other threads.
        let pictures = (target / sizes.window.outputs()).clamp(1, sizes.batch.div_ceil(super::PARTS).max(1));
        let rows = (target / width).clamp(1, height);
        let rows = if pictures > 1 { height } else { height.div_ceil(height.div_ceil(rows)) };
        Self { sizes, pictures, rows }
    }

    /// Columns of the widest tile.
    pub(super) fn widest(&self) -> usize {
        self.pictures * self.rows * self.sizes.window.output[1]
    }

    /// A buffer for unfolded matrices.
    pub(super) fn columns<T: Real>(&self) -> Vec<T> {
        vec![T::zero(); self.sizes.depth() * self.widest()]
    }

    /// A buffer for the gradients of several pictures.
    pub(super) fn gathered<T: Real>(&self) -> Vec<T> {
        vec![T::zero(); if self.pictures > 1 { self.sizes.filters * self.widest() } else { 0 }]
    }

    /// The tiles of one unit, top to bottom.
    pub(super) fn tiles(&self, unit: usize) -> impl Iterator<Item = Tile<'a>> + use<'a> {
        let sizes = self.sizes;
        let first = unit * self.pictures;
        let pictures = first..(first + self.pictures).min(sizes.batch);
        let (height, step) = (sizes.window.output[0], self.rows);
        (0..height).step_by(step).map(move |row| Tile {
            sizes,
            pictures: pictures.clone(),
            rows: row..(row + step).min(height),
        })
    }
}

/// Rows of output of one or more pictures.
pub(super) struct Tile<'a> {
    sizes: &'a Sizes,
    pictures: Range<usize>,
    rows: Range<usize>,
}

impl Tile<'_> {
    /// Outputs of one channel of one picture.
    pub(super) fn piece(&self) -> usize {
        self.rows.len() * self.sizes.window.output[1]
    }

    /// Outputs of one channel.
    pub(super) fn width(&self) -> usize {
        self.pictures.len() * self.piece()
    }

    /// Whether the unfolded matrix is the input itself.
    fn is_direct(&self) -> bool {
        self.sizes.window.is_pointwise() && self.pictures.len() == 1
    }

    /// One group's inputs `[depth, width]`: row (channel, tap), one column an output.
    pub(super) fn unfold<'b, T: Real>(&self, x: &'b [T], group: usize, columns: &'b mut [T]) -> Matrix<'b, T> {
        let sizes = self.sizes;
        let plane = sizes.input[0] * sizes.input[1];
        let group_start = |picture: usize| picture * sizes.in_picture() + group * sizes.channels * plane;
        if self.is_direct() {
            let start = group_start(self.pictures.start) + self.rows.start * sizes.input[1];
            return Matrix::new(&x[start..], sizes.channels, self.width(), plane);
        }
        let (width, piece) = (self.width(), self.piece());
        for (index, picture) in self.pictures.clone().enumerate() {
            let x = &x[group_start(picture)..][..sizes.channels * plane];
            self.each_row(|channel, tap, row| {
                let to = &mut columns[row * width + index * piece..][..piece];
                wide!(self.unfold_row(&x[channel * plane..][..plane], tap, to));
            });
        }
        Matrix::new(columns, sizes.depth(), width, width)
    }

    /// The inputs under one tap, for each output of the tile's rows.
    #[inline(always)]
    fn unfold_row<T: Real>(&self, plane: &[T], [ky, kx]: [usize; 2], to: &mut [T]) {
        let window = &self.sizes.window;
        let (step, width) = (window.stride[1], window.output[1]);
        let (lines, first_line) = window.inside(0, ky, self.sizes.input[0]);
        let (inside, first) = window.inside(1, kx, self.sizes.input[1]);
        for (line, to) in self.rows.clone().zip(to.chunks_exact_mut(width)) {
            if !lines.contains(&line) || inside.is_empty() {
                to.fill(T::zero());
                continue;
            }
            let line = first_line + (line - lines.start) * window.stride[0];
            let from = &plane[line * self.sizes.input[1] + first..];
            to[..inside.start].fill(T::zero());
            to[inside.end..].fill(T::zero());
            let to = &mut to[inside.clone()];
            if step == 1 {
                to.copy_from_slice(&from[..to.len()]);
            } else {
                to.iter_mut().zip(from.iter().step_by(step)).for_each(|(to, from)| *to = *from);
            }
        }
    }

    /// Where the gradient of one group's input `[depth, width]` lies in the unit's `dx`, and the step
    /// between its rows, if it can be written there as it is.
    pub(super) fn direct<'b, T>(&self, group: usize, dx: &'b mut [T]) -> Option<(&'b mut [T], usize)> {
        let plane = self.sizes.input[0] * self.sizes.input[1];
        let start = group * self.sizes.channels * plane + self.rows.start * self.sizes.input[1];
        self.is_direct().then(|| (&mut dx[start..], plane))
    }

    /// Adds unfolded gradients `[depth, width]` to the unit's inputs under them.
    pub(super) fn fold<T: Real>(&self, columns: &[T], group: usize, dx: &mut [T]) {
        let sizes = self.sizes;
        let plane = sizes.input[0] * sizes.input[1];
        let (width, piece) = (self.width(), self.piece());
        for index in 0..self.pictures.len() {
            let start = index * sizes.in_picture() + group * sizes.channels * plane;
            let dx = &mut dx[start..][..sizes.channels * plane];
            self.each_row(|channel, tap, row| {
                let from = &columns[row * width + index * piece..][..piece];
                wide!(self.fold_row(from, tap, &mut dx[channel * plane..][..plane]));
            });
        }
    }

    #[inline(always)]
    fn fold_row<T: Real>(&self, from: &[T], [ky, kx]: [usize; 2], plane: &mut [T]) {
        let window = &self.sizes.window;
        let (step, width) = (window.stride[1], window.output[1]);
        let (lines, first_line) = window.inside(0, ky, self.sizes.input[0]);
        let (inside, first) = window.inside(1, kx, self.sizes.input[1]);
        for (line, from) in self.rows.clone().zip(from.chunks_exact(width)) {
            if !lines.contains(&line) || inside.is_empty() {
                continue;
            }
            let line = first_line + (line - lines.start) * window.stride[0];
            let to = &mut plane[line * self.sizes.input[1] + first..];
            let from = &from[inside.clone()];
            if step == 1 {
                to.iter_mut().zip(from).for_each(|(to, from)| *to += *from);
            } else {
                to.iter_mut().step_by(step).zip(from).for_each(|(to, from)| *to += *from);
            }
        }
    }

    /// Calls `f(channel, tap, row)` for every row of a group's unfolded matrix.
    #[inline(always)]
    fn each_row(&self, mut f: impl FnMut(usize, [usize; 2], usize)) {
        let [height, width] = self.sizes.window.kernel;
        for channel in 0..self.sizes.channels {
            for ky in 0..height {
                for kx in 0..width {
                    f(channel, [ky, kx], (channel * height + ky) * width + kx);
                }
            }
        }
    }

    /// One group's gradients `[filters, width]`.
    pub(super) fn gather<'b, T: Real>(&self, gradient: &'b [T], group: usize, gathered: &'b mut [T]) -> Matrix<'b, T> {
        let sizes = self.sizes;
        let outputs = sizes.window.outputs();
        let start =
            |picture: usize, filter: usize| picture * sizes.out_picture() + (group * sizes.filters + filter) * outputs;
        let (width, piece) = (self.width(), self.piece());
        if self.pictures.len() == 1 {
            let start = start(self.pictures.start, 0) + self.rows.start * sizes.window.output[1];
            return Matrix::new(&gradient[start..], sizes.filters, width, outputs);
        }
        for (index, picture) in self.pictures.clone().enumerate() {
            for filter in 0..sizes.filters {
                let to = &mut gathered[filter * width + index * piece..][..piece];
                to.copy_from_slice(&gradient[start(picture, filter)..][..piece]);
            }
        }
        Matrix::new(gathered, sizes.filters, width, width)
    }

    /// One channel's outputs in the unit's `out`, a piece a picture.
    pub(super) fn pieces<'b, T>(&self, channel: usize, out: &'b mut [T]) -> impl Iterator<Item = &'b mut [T]> {
        let outputs = self.sizes.window.outputs();
        let start = channel * outputs + self.rows.start * self.sizes.window.output[1];
        let piece = self.piece();
        out.chunks_mut(self.sizes.out_picture()).map(move |picture| &mut picture[start..][..piece])
    }
}
