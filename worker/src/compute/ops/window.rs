//! A window that slides over a picture: the geometry that convolutions and pools share.

use std::ops::Range;

/// A sliding window; every pair is `[height, width]`.
#[derive(Debug, Clone, Copy)]
pub(in crate::compute) struct Window {
    /// Taps.
    pub(in crate::compute) kernel: [usize; 2],
    /// Step between windows.
    pub(in crate::compute) stride: [usize; 2],
    /// Padding above and left. Below and right it is whatever `output` needs.
    pub(in crate::compute) before: [usize; 2],
    /// Step between taps.
    pub(in crate::compute) dilation: [usize; 2],
    /// Windows.
    pub(in crate::compute) output: [usize; 2],
}

impl Window {
    /// Windows of one picture.
    pub(super) fn outputs(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Taps of one window.
    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether every window is one element, at its own place.
    pub(super) fn is_pointwise(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.before == [0, 0]
    }

    /// The windows, along `axis`, whose tap number `tap` falls on one of `input` elements, and the
    /// element under the first of them.
    pub(super) fn inside(&self, axis: usize, tap: usize, input: usize) -> (Range<usize>, usize) {
        let (stride, before) = (self.stride[axis], self.before[axis]);
        let shift = tap * self.dilation[axis];
        let end = (input + before).saturating_sub(shift).div_ceil(stride).min(self.output[axis]);
        let start = before.saturating_sub(shift).div_ceil(stride).min(end);
        (start..end, (start * stride + shift).saturating_sub(before))
    }

    /// The elements, along `axis`, that window number `index` covers among `input` elements (without
    /// dilation), as a range.
    pub(super) fn covers(&self, axis: usize, index: usize, input: usize) -> Range<usize> {
        let start = index * self.stride[axis];
        let end = (start + self.kernel[axis]).saturating_sub(self.before[axis]).min(input);
        start.saturating_sub(self.before[axis]).min(end)..end
    }
}
