//! Loops over examples and parts on rayon's threads, or without rayon where there is one.
//!
//! What is added up is cut into parts by shapes alone, and parts are added in their order: the number
//! of threads changes no bit.

use std::ops::Range;

use rayon::prelude::*;

/// Parts that a sum over a batch is cut into: how many threads can share it.
pub(crate) const PARTS: usize = 8;

/// Whether there is one thread.
pub(crate) fn alone() -> bool {
    rayon::current_num_threads() == 1
}

/// Calls `f(scratch, first example, their floats)` for groups of at most `group` of the first `n` examples, which are `stride` floats apart;
/// `scratch` is made once a thread.
pub(crate) fn groups_with<S>(
    n: usize,
    group: usize,
    out: &mut [f32],
    stride: usize,
    scratch: impl Fn() -> S + Sync + Send,
    f: impl Fn(&mut S, usize, &mut [f32]) + Sync + Send,
) {
    let (out, size) = (&mut out[..n * stride], group.max(1) * stride);
    if alone() {
        let mut scratch = scratch();
        out.chunks_mut(size).enumerate().for_each(|(index, out)| f(&mut scratch, index * group, out));
    } else {
        let chunks = out.par_chunks_mut(size).enumerate();
        chunks.for_each_init(scratch, |scratch, (index, out)| f(scratch, index * group, out));
    }
}

/// Calls `f(example, its floats)` for each of the first `n` examples, which are `stride` floats apart.
pub(crate) fn examples(n: usize, out: &mut [f32], stride: usize, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
    groups_with(n, 1, out, stride, || (), |(), index, out| f(index, out));
}

/// The examples of each part of a batch of `n`.
pub(crate) fn parts(n: usize) -> Vec<Range<usize>> {
    let count = PARTS.min(n);
    (0..count).map(|part| n * part / count..n * (part + 1) / count).collect()
}

/// Sets `total` to the sum over the parts of a batch of `n`, added in their order. `f(examples, sum)` adds onto zeros; `sums` holds
/// space for [`PARTS`] sums on several threads, for one on one.
pub(crate) fn sum(n: usize, total: &mut [f32], sums: &mut Vec<Vec<f32>>, f: impl Fn(Range<usize>, &mut [f32]) + Sync + Send) {
    let parts = parts(n);
    let spaces = if alone() { 1 } else { parts.len() };
    sums.resize_with(spaces.max(sums.len()), Vec::new);
    sums.iter_mut().take(spaces).for_each(|sum| sum.resize(total.len(), 0.0));
    let add = |total: &mut [f32], sum: &[f32], first: bool| {
        if first {
            total.copy_from_slice(sum);
        } else {
            total.iter_mut().zip(sum).for_each(|(total, sum)| *total += sum);
        }
    };
    if alone() {
        for (index, part) in parts.into_iter().enumerate() {
            let sum = &mut sums[0][..total.len()];
            sum.fill(0.0);
            f(part, sum);
            add(total, sum, index == 0);
        }
    } else {
        let length = total.len();
        let work = parts.into_par_iter().zip(&mut sums[..spaces]);
        work.for_each(|(part, sum)| {
            sum[..length].fill(0.0);
            f(part, &mut sum[..length]);
        });
        sums[..spaces].iter().enumerate().for_each(|(index, sum)| add(total, &sum[..length], index == 0));
    }
}

/// Calls `f(first column, columns)` for parts of `out`, whose columns are `stride` floats, at least `least` at once.
pub(crate) fn columns(out: &mut [f32], stride: usize, least: usize, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
    let count = out.len() / stride;
    let threads = rayon::current_num_threads();
    if threads == 1 || count < 2 * least {
        f(0, out);
    } else {
        let part = count.div_ceil(threads).max(least);
        out.par_chunks_mut(part * stride).enumerate().for_each(|(index, out)| f(index * part, out));
    }
}
