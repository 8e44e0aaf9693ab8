//! Loops over examples and parts, shared out among the team's threads where there are several.
//!
//! What is added up is cut into parts by shapes alone, and parts are added in their order: the number
//! of threads changes no bit.

use std::cell::RefCell;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use crate::buffer::Buffer;
use crate::team;

pub(crate) use crate::team::each;

/// Parts that a sum over a batch is cut into: how many threads can share it.
pub(crate) const PARTS: usize = 8;

/// Whether there is one thread.
pub(crate) fn alone() -> bool {
    team::threads() == 1
}

/// Calls `f(number, item)` for each item.
pub(crate) fn share<T: Send>(items: impl Iterator<Item = T>, f: impl Fn(usize, T) + Sync) {
    if alone() {
        return items.enumerate().for_each(|(index, item)| f(index, item));
    }
    let items: Vec<Mutex<Option<T>>> = items.map(|item| Mutex::new(Some(item))).collect();
    each(items.len(), |index| {
        let item = items[index].lock().unwrap_or_else(PoisonError::into_inner).take();
        item.into_iter().for_each(|item| f(index, item));
    });
}

/// Calls `f` for ranges that are `all` together: one a thread.
pub(crate) fn ranges(all: Range<usize>, f: impl Fn(Range<usize>) + Sync) {
    let (start, count) = (all.start, all.len());
    let parts = team::threads().min(count);
    each(parts, |part| f(start + count * part / parts..start + count * (part + 1) / parts));
}

/// Calls `f(first example, their floats)` for groups of at most `group` of the first `n` examples, which are `stride` floats apart.
pub(crate) fn groups<T: Send>(
    n: usize,
    group: usize,
    out: &mut [T],
    stride: usize,
    f: impl Fn(usize, &mut [T]) + Sync + Send,
) {
    let (out, size) = (&mut out[..n * stride], group * stride);
    share(out.chunks_mut(size), |index, out| f(index * group, out));
}

/// As [`groups`], over two slices at once.
pub(crate) fn groups2<T: Send>(
    n: usize,
    group: usize,
    (a, a_stride): (&mut [f32], usize),
    (b, b_stride): (&mut [T], usize),
    f: impl Fn(usize, &mut [f32], &mut [T]) + Sync + Send,
) {
    let (a, b) = (&mut a[..n * a_stride], &mut b[..n * b_stride]);
    let (a_size, b_size) = (group * a_stride, group * b_stride);
    share(a.chunks_mut(a_size).zip(b.chunks_mut(b_size)), |index, (a, b)| f(index * group, a, b));
}

/// Calls `f(example, its floats)` for each of the first `n` examples, which are `stride` floats apart.
pub(crate) fn examples<T: Send>(n: usize, out: &mut [T], stride: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    groups(n, 1, out, stride, f);
}

thread_local! {
    /// Kept from call to call: a new one would be cleared page by page each time.
    static SCRATCH: RefCell<Buffer> = RefCell::default();
}

/// Calls `f` with `len` floats of this thread's, whatever stands in them.
pub(crate) fn with_scratch<R>(len: usize, f: impl FnOnce(&mut [f32]) -> R) -> R {
    // Taken out meanwhile: `f` may ask for some, too.
    let mut scratch = SCRATCH.take();
    scratch.grow(len);
    let result = f(&mut scratch[..len]);
    SCRATCH.set(scratch);
    result
}

/// The examples of each part of a batch of `n`.
pub(crate) fn parts(n: usize) -> Vec<Range<usize>> {
    let count = PARTS.min(n);
    (0..count).map(|part| n * part / count..n * (part + 1) / count).collect()
}

/// What a part of a batch is summed in.
#[derive(Debug, Default)]
pub(crate) struct Space<T> {
    sum: Vec<f32>,
    scratch: T,
}

/// Sets `total` to the sum over the parts of a batch of `n`, added in their order. `f(examples, sum, their floats of out, scratch)` adds onto zeros;
/// `out` has `stride` floats an example. `spaces` are kept from call to call: one, or on several threads one a part.
pub(crate) fn sum<T: Default + Send>(
    n: usize,
    total: &mut [f32],
    (out, stride): (&mut [f32], usize),
    spaces: &mut Vec<Space<T>>,
    f: impl Fn(Range<usize>, &mut [f32], &mut [f32], &mut T) + Sync + Send,
) {
    let parts = parts(n);
    // Asked once: another number of threads may be set meanwhile.
    let alone = alone();
    let wanted = if alone { 1 } else { parts.len() };
    spaces.resize_with(wanted.max(spaces.len()), Space::default);
    let length = total.len();
    let mut rest = out;
    let mut work = Vec::with_capacity(parts.len());
    for part in parts {
        let (own, others) = std::mem::take(&mut rest).split_at_mut(part.len() * stride);
        rest = others;
        work.push((part, own));
    }
    let one = |(part, out): (Range<usize>, &mut [f32]), space: &mut Space<T>| {
        space.sum.clear();
        space.sum.resize(length, 0.0);
        f(part, &mut space.sum, out, &mut space.scratch);
    };
    let mut add = |space: &Space<T>, first: bool| {
        if first {
            total.copy_from_slice(&space.sum);
        } else {
            total.iter_mut().zip(&space.sum).for_each(|(total, sum)| *total += sum);
        }
    };
    if alone {
        for (index, part) in work.into_iter().enumerate() {
            one(part, &mut spaces[0]);
            add(&spaces[0], index == 0);
        }
    } else {
        let count = work.len();
        share(work.into_iter().zip(&mut spaces[..count]), |_, (part, space)| one(part, space));
        spaces[..count].iter().enumerate().for_each(|(index, space)| add(space, index == 0));
    }
}

/// Calls `f(first column, columns)` for parts of `out`, whose columns are `stride` floats, at least `least` at once.
pub(crate) fn columns(out: &mut [f32], stride: usize, least: usize, f: impl Fn(usize, &mut [f32]) + Sync + Send) {
    let count = out.len() / stride;
    let part = count.div_ceil(team::threads()).max(least).max(1);
    share(out.chunks_mut(part * stride), |index, out| f(index * part, out));
}

/// Rows of one length whose columns several threads write.
pub(crate) struct Columns<'a> {
    start: *mut f32,
    pub(crate) rows: usize,
    pub(crate) len: usize,
    borrowed: PhantomData<&'a mut [f32]>,
}

// SAFETY: it gives out parts only to who vouches that nobody else has them.
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    /// Of rows of `len` floats.
    pub(crate) fn new(floats: &'a mut [f32], len: usize) -> Self {
        let rows = floats.len().checked_div(len).unwrap_or(0);
        Self { start: floats.as_mut_ptr(), rows, len, borrowed: PhantomData }
    }

    /// Where a column of a row is.
    pub(crate) fn at(&self, row: usize, column: usize) -> *mut f32 {
        assert!(row < self.rows && column < self.len, "a place inside");
        // SAFETY: inside.
        unsafe { self.start.add(row * self.len + column) }
    }

    /// Some columns of a row.
    ///
    /// # Safety
    /// Nobody else reads or writes them meanwhile.
    #[expect(clippy::mut_from_ref, reason = "the caller vouches for it")]
    pub(crate) unsafe fn part(&self, row: usize, first: usize, count: usize) -> &mut [f32] {
        assert!(first + count <= self.len, "a part inside");
        // SAFETY: inside, and the caller's.
        unsafe { std::slice::from_raw_parts_mut(self.at(row, first), count) }
    }
}

/// Elements of a simple loop that are worth another thread.
const WORTHWHILE: usize = 1 << 15;

/// Calls `f(out, input, sums)` for parts of slices of one length: what it does must not depend on where they are cut.
pub(crate) fn update<'a>(
    out: &mut [f32],
    input: &[f32],
    sums: impl Iterator<Item = &'a mut [f32]>,
    f: impl Fn(&mut [f32], &[f32], &mut [&mut [f32]]) + Sync + Send,
) {
    let size = if alone() { out.len().max(1) } else { WORTHWHILE };
    panels(out, sums, size, |panel, out, sums| f(out, &input[panel * size..][..out.len()], sums));
}

/// Calls `f(number, out, sums)` for parts of `size` floats of slices of one length.
pub(crate) fn panels<'a>(
    out: &mut [f32],
    sums: impl Iterator<Item = &'a mut [f32]>,
    size: usize,
    f: impl Fn(usize, &mut [f32], &mut [&mut [f32]]) + Sync + Send,
) {
    let mut parts: Vec<Vec<&mut [f32]>> = Vec::new();
    parts.resize_with(out.len().div_ceil(size), Vec::new);
    for sum in sums {
        parts.iter_mut().zip(sum.chunks_mut(size)).for_each(|(part, sum)| part.push(sum));
    }
    share(out.chunks_mut(size).zip(parts), |index, (out, mut sums)| f(index, out, &mut sums));
}
