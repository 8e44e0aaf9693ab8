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

/// Pixels that are computed side by side: enough to hide the latency of what waits for itself.
const SIDE: usize = 4;

/// Where a window lies on maps.
#[derive(Debug)]
struct Places {
    window: Window,
    x: Maps,
    y: Maps,
    /// For each row and each column of outputs the taps that are inside the maps.
    taps: [Vec<Range<usize>>; 2],
    /// For each row of inputs the rows of outputs that it is in, with their taps.
    uses: Vec<Vec<(usize, usize)>>,
    /// Columns of inputs, together all of them.
    spans: Vec<Span>,
    /// Columns of outputs with all taps inside.
    inner: Range<usize>,
}

/// Columns of inputs that are a stride apart and in outputs by the same taps: the next one in the next ones.
#[derive(Debug)]
struct Span {
    first: usize,
    count: usize,
    /// The outputs of the first column, with their taps.
    uses: Vec<(usize, usize)>,
}

impl Span {
    /// Spans of columns whose outputs and taps are `uses`.
    fn all(uses: &[Vec<(usize, usize)>], stride: usize) -> Vec<Self> {
        let mut spans: Vec<Self> = Vec::new();
        for phase in 0..stride.min(uses.len()) {
            let first = spans.len();
            for column in (phase..uses.len()).step_by(stride) {
                let fits = |span: &Self| {
                    let next = span.uses.iter().map(|(output, tap)| (output + span.count, *tap));
                    next.eq(uses[column].iter().copied())
                };
                match spans[first..].last_mut().filter(|span| fits(span)) {
                    Some(span) => span.count += 1,
                    None => spans.push(Self { first: column, count: 1, uses: uses[column].clone() }),
                }
            }
        }
        spans
    }
}

/// For each output along an axis the taps that are inside maps of this size.
pub(super) fn taps_inside(window: &Window, axis: usize, size: usize) -> Vec<Range<usize>> {
    let of = |output: usize| {
        let inside = |tap: &usize| {
            let at = output * window.stride[axis] + tap * window.dilation[axis];
            at >= window.before[axis] && at < window.before[axis] + size
        };
        let first = (0..window.kernel[axis]).find(inside).unwrap_or(0);
        first..first + (first..window.kernel[axis]).take_while(inside).count()
    };
    (0..window.output[axis]).map(of).collect()
}

impl Places {
    fn new(window: &Window, x: Maps, y: Maps) -> Self {
        assert!(x.lanes == LANES && y.lanes == LANES, "maps in blocks");
        assert!(x.channels == y.channels && y.size == window.output, "outputs of the window");
        let taps = [0, 1].map(|axis| taps_inside(window, axis, x.size[axis]));
        let [uses, columns] = [0, 1].map(|axis| {
            let mut uses = vec![Vec::new(); x.size[axis]];
            for (output, taps) in taps[axis].iter().enumerate() {
                for tap in taps.clone() {
                    let at = output * window.stride[axis] + tap * window.dilation[axis] - window.before[axis];
                    uses[at].push((output, tap));
                }
            }
            uses
        });
        let spans = Span::all(&columns, window.stride[1]);
        let whole = |taps: &Range<usize>| taps.len() == window.kernel[1];
        let start = taps[1].iter().position(whole).unwrap_or(0);
        let inner = start..start + taps[1][start..].iter().take_while(|taps| whole(taps)).count();
        Self { window: *window, x, y, taps, uses, spans, inner }
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
