//! Which taps outputs sum over, and where these are.

use crate::maps::Halo;
use crate::window::Window;

/// Outputs that are a stride apart and sum over the same taps.
#[derive(Debug, Clone)]
pub(in crate::kernels) struct Phase {
    /// How many, and the first.
    pub(in crate::kernels) count: [usize; 2],
    pub(in crate::kernels) first: [usize; 2],
    /// From one to the next, in the output and in the source.
    pub(in crate::kernels) step: [usize; 2],
    pub(in crate::kernels) source_step: [usize; 2],
    /// The taps and where they are in the source, from the first output's.
    pub(in crate::kernels) taps: Vec<(usize, [isize; 2])>,
}

impl Phase {
    /// All outputs of a convolution.
    pub(in crate::kernels) fn forward(window: &Window) -> Self {
        let place = |tap: usize| {
            let tap = [tap / window.kernel[1], tap % window.kernel[1]];
            [0, 1].map(|axis| (tap[axis] * window.dilation[axis]) as isize - window.before[axis] as isize)
        };
        Self {
            count: window.output,
            first: [0, 0],
            step: [1, 1],
            source_step: window.stride,
            taps: (0..window.taps()).map(|tap| (tap, place(tap))).collect(),
        }
    }

    /// The zeros that it reads around a source of this size.
    pub(super) fn halo(&self, source: [usize; 2]) -> Halo {
        let mut halo = Halo::default();
        for (_, place) in &self.taps {
            for axis in 0..2 {
                let last = place[axis] + ((self.count[axis] - 1) * self.source_step[axis]) as isize;
                halo.before[axis] = halo.before[axis].max(usize::try_from(-place[axis]).unwrap_or(0));
                let beyond = last - (source[axis] as isize - 1);
                halo.after[axis] = halo.after[axis].max(usize::try_from(beyond).unwrap_or(0));
            }
        }
        halo
    }
}

/// The gradient of an input of `size`: input (row) `i` meets tap `k` in output `(i + before - k * dilation) / stride`, where
/// that is whole.
pub(in crate::kernels) fn phases(window: &Window, size: [usize; 2]) -> Vec<Phase> {
    let along = |axis: usize| {
        let stride = window.stride[axis];
        (0..stride.min(size[axis])).map(move |first| {
            let taps = (0..window.kernel[axis]).filter_map(move |tap| {
                let place = (first + window.before[axis]) as isize - (tap * window.dilation[axis]) as isize;
                (place.rem_euclid(stride as isize) == 0).then(|| (tap, place.div_euclid(stride as isize)))
            });
            (first, (size[axis] - first).div_ceil(stride), taps.collect::<Vec<_>>())
        })
    };
    let mut phases = Vec::new();
    for (first_row, rows, down) in along(0) {
        for (first_column, columns, right) in along(1) {
            let taps = down
                .iter()
                .flat_map(|(ky, dy)| right.iter().map(move |(kx, dx)| (ky * window.kernel[1] + kx, [*dy, *dx])));
            phases.push(Phase {
                count: [rows, columns],
                first: [first_row, first_column],
                step: window.stride,
                source_step: [1, 1],
                taps: taps.collect(),
            });
        }
    }
    phases
}
