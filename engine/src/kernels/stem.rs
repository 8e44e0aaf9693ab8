//! A network's stem: a dense convolution, and a max-pool of its outputs.
//!
//! What lies between is the largest value of many networks. It is computed some rows at a time, in scratch that stays in a core's second cache; rows that the
//! next ones read too are kept. Each number is the same as by the two kernels one after the other.

use super::dense::{self, Shape};
use super::inverted::{Operands, STRIP};
use super::pool::MaxPool;
use crate::maps::Maps;
use crate::simd::Path;
use crate::window::Window;

/// The two on maps of one kind.
#[derive(Debug)]
pub struct Stem {
    conv: dense::Forward,
    pool: MaxPool,
    /// Rows of the convolution's outputs, and how many of them there are in all.
    strip: Maps,
    height: usize,
    window: Window,
    /// Rows of the pool's outputs that are computed at once.
    rows: usize,
}

/// Whether they can be computed so, and what is between them is too large to stay in a cache by itself.
pub fn suits(shape: &Shape, pool: &Window) -> bool {
    let between = 4 * shape.outs * shape.window.outputs();
    // Rows that the padding alone holds have nothing to begin with.
    shape.groups == 1 && between > STRIP && pool.before[0] < pool.reach(0) && !pool.output.contains(&0)
}

impl Stem {
    /// From inputs like `x`, whose halo holds the convolution's [`Shape::input_halo`], to outputs of the pool like `y`, with about so many bytes between:
    /// [`STRIP`], or all at once where several threads share an example, one kernel after the other.
    ///
    /// # Panics
    /// Where it does not [suit](suits) them.
    pub fn new(path: Path, shape: &Shape, pool: &Window, x: Maps, y: Maps, between: usize) -> Self {
        assert!(suits(shape, pool), "a stem");
        let [height, width] = shape.window.output;
        let strip = |rows: usize| {
            let needed = (rows - 1) * pool.stride[0] + pool.reach(0);
            Maps::new(shape.outs, [needed.min(height), width])
        };
        let all = pool.output[0];
        let most = (1..=all).take_while(|rows| 4 * strip(*rows).len() <= between).last().unwrap_or(1);
        let rows = all.div_ceil(all.div_ceil(most));
        let strip = strip(rows);
        Self {
            conv: dense::Forward::new(path, shape, x, strip),
            pool: MaxPool::of_rows(path, pool, height, strip, y),
            strip,
            height,
            window: *pool,
            rows,
        }
    }

    /// Floats that [`Stem::run`] works in. Their values do not matter.
    pub fn scratch_len(&self) -> usize {
        self.strip.len()
    }

    /// One example.
    pub fn run(&self, conv: Operands<'_>, x: &[f32], y: &mut [f32], scratch: &mut [f32]) {
        let strip = &mut scratch[..self.strip.len()];
        let (all, row) = (self.window.output[0], self.strip.row());
        let seen = |output: usize| output * self.window.stride[0];
        // The rows that stand in the strip.
        let mut there = 0..0;
        for start in (0..all).step_by(self.rows) {
            let end = (start + self.rows).min(all);
            let first = seen(start).saturating_sub(self.window.before[0]).min(self.height);
            let last = (seen(end - 1) + self.window.reach(0)).saturating_sub(self.window.before[0]).min(self.height);
            // Those that the last ones leave.
            let kept = first.max(there.start).min(there.end)..there.end.min(last);
            for block in strip.chunks_exact_mut(self.strip.block()) {
                block.copy_within((kept.start - there.start) * row..(kept.end - there.start) * row, 0);
            }
            let begin = if kept.is_empty() { first } else { kept.end };
            if begin < last {
                let to = &mut strip[(begin - first) * row..];
                self.conv.run_rows(begin..last, conv.weights, conv.bias, x, to, conv.finish);
            }
            there = first..last;
            self.pool.run_rows(start..end, first, strip, y);
        }
    }
}
