//! The microkernel of weights' gradients: a few weights by one or two blocks of sixteen output channels, summed over
//! all outputs of an example.

use std::sync::Arc;

use crate::simd::{LANES, Simd};

/// Blocks of outputs that are summed together.
#[derive(Debug)]
pub(super) struct Panel {
    pub(super) block: usize,
    pub(super) blocks: usize,
    /// For each row of sixteen weights: where its input is for the first output.
    pub(super) rows: Arc<[usize]>,
}

/// How outputs and their inputs follow each other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Walk {
    /// Rows and columns of outputs.
    pub(super) count: [usize; 2],
    /// Floats from an output's inputs to those of the next row's and the next column's.
    pub(super) x_step: [usize; 2],
    /// Floats from a row of gradients to the next.
    pub(super) dy_row: usize,
    /// Floats from a block of gradients to the next.
    pub(super) dy_block: usize,
    /// Whether the sums begin at zero, not at what stands there.
    pub(super) fresh: bool,
}

/// Adds an example's gradient to the panel's sums, whose blocks are `dw_block` floats apart.
///
/// # Safety
/// The panel's rows and the walk stay inside `x`; the machine has `S`.
pub(super) unsafe fn add<S: Simd>(panel: &Panel, walk: &Walk, x: &[f32], dy: &[f32], dw: &mut [f32], dw_block: usize) {
    let last = (panel.blocks - 1) * walk.dy_block + (walk.count[0] - 1) * walk.dy_row + walk.count[1] * LANES;
    assert!(dy.len() >= last, "gradients of the planned size");
    assert!(dw.len() >= (panel.blocks - 1) * dw_block + panel.rows.len() * LANES, "sums of the planned size");
    let most = S::GRADIENT[0];
    for (index, rows) in panel.rows.chunks(most).enumerate() {
        let dw = &mut dw[index * most * LANES..];
        macro_rules! by_rows {
            ($blocks:literal: $($rows:literal)*) => {
                match rows.len() {
                    // SAFETY: the caller's.
                    $($rows => unsafe { sum::<S, $rows, $blocks>(rows, walk, x.as_ptr(), dy.as_ptr(), dw.as_mut_ptr(), dw_block) },)*
                    _ => unreachable!("a panel's rows are cut by the instruction set"),
                }
            };
        }
        match panel.blocks {
            1 => by_rows!(1: 1 2 3 4 5 6 7 8),
            _ => by_rows!(2: 1 2 3 4 5 6 7 8),
        }
    }
}

unsafe fn sum<S: Simd, const ROWS: usize, const BLOCKS: usize>(
    rows: &[usize],
    walk: &Walk,
    x: *const f32,
    dy: *const f32,
    dw: *mut f32,
    dw_block: usize,
) {
    if ROWS > S::GRADIENT[0] || BLOCKS > S::GRADIENT[1] {
        return;
    }
    // SAFETY: the caller's.
    unsafe {
        S::run(
            #[inline(always)]
            || {
                let mut sums = [[S::splat(0.0); BLOCKS]; ROWS];
                if !walk.fresh {
                    for (row, sum) in sums.iter_mut().enumerate() {
                        for (block, sum) in sum.iter_mut().enumerate() {
                            *sum = S::load(dw.add(block * dw_block + row * LANES));
                        }
                    }
                }
                for row in 0..walk.count[0] {
                    let mut inputs = [x; ROWS];
                    for (input, place) in inputs.iter_mut().zip(rows) {
                        *input = x.add(place + row * walk.x_step[0]);
                    }
                    let mut dy = dy.add(row * walk.dy_row);
                    let mut place = 0;
                    for _ in 0..walk.count[1] {
                        let mut slopes = [S::splat(0.0); BLOCKS];
                        for (block, slope) in slopes.iter_mut().enumerate() {
                            *slope = S::load(dy.add(block * walk.dy_block));
                        }
                        for (sum, input) in sums.iter_mut().zip(&inputs) {
                            let x = S::splat(*input.add(place));
                            for (sum, slope) in sum.iter_mut().zip(&slopes) {
                                *sum = S::fma(x, *slope, *sum);
                            }
                        }
                        dy = dy.add(LANES);
                        place += walk.x_step[1];
                    }
                }
                for (row, sum) in sums.iter().enumerate() {
                    for (block, sum) in sum.iter().enumerate() {
                        S::store(dw.add(block * dw_block + row * LANES), *sum);
                    }
                }
            },
        );
    }
}
