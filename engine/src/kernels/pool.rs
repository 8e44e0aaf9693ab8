//! Pools of any window on blocked maps. Padding counts for nothing, but where an average is told to count it.
//!
//! Gradients are gathered: every input sums over the outputs that it is in, so that each is written once.

mod average;
mod max;

pub use average::{AvgPool, GlobalAvgPool};
pub use max::MaxPool;

use std::ops::Range;

use crate::maps::Maps;
use crate::simd::LANES;
use crate::window::Window;

/// Where a window lies on maps.
#[derive(Debug)]
struct Places {
    window: Window,
    x: Maps,
    y: Maps,
    /// For each row and each column of outputs the taps that are inside the maps.
    taps: [Vec<Range<usize>>; 2],
    /// For each row and each column of inputs the outputs that it is in, with their taps.
    uses: [Vec<Vec<(usize, usize)>>; 2],
    /// Columns of outputs with all taps inside.
    inner: Range<usize>,
}

impl Places {
    fn new(window: &Window, x: Maps, y: Maps) -> Self {
        assert!(x.lanes == LANES && y.lanes == LANES, "maps in blocks");
        assert!(x.channels == y.channels && y.size == window.output, "outputs of the window");
        let taps = [0, 1].map(|axis| {
            let of = |output: usize| {
                let inside = |tap: &usize| {
                    let at = output * window.stride[axis] + tap * window.dilation[axis];
                    at >= window.before[axis] && at < window.before[axis] + x.size[axis]
                };
                let first = (0..window.kernel[axis]).find(inside).unwrap_or(0);
                first..first + (first..window.kernel[axis]).take_while(inside).count()
            };
            (0..window.output[axis]).map(of).collect::<Vec<_>>()
        });
        let uses = [0, 1].map(|axis| {
            let mut uses = vec![Vec::new(); x.size[axis]];
            for (output, taps) in taps[axis].iter().enumerate() {
                for tap in taps.clone() {
                    let at = output * window.stride[axis] + tap * window.dilation[axis] - window.before[axis];
                    uses[at].push((output, tap));
                }
            }
            uses
        });
        let whole = |taps: &Range<usize>| taps.len() == window.kernel[1];
        let start = taps[1].iter().position(whole).unwrap_or(0);
        let inner = start..start + taps[1][start..].iter().take_while(|taps| whole(taps)).count();
        Self { window: *window, x, y, taps, uses, inner }
    }

    /// Where the source of a row of outputs begins in a block, for one of its taps: in a halo maybe, so it counts from the
    /// row's first column.
    fn source_row(&self, output: usize, tap: usize) -> usize {
        let window = &self.window;
        let row = output * window.stride[0] + tap * window.dilation[0] - window.before[0];
        self.x.at(0, row as isize, 0)
    }

    /// The column of a tap's source.
    fn source_column(&self, output: usize, tap: usize) -> usize {
        let window = &self.window;
        output * window.stride[1] + tap * window.dilation[1] - window.before[1]
    }
}
