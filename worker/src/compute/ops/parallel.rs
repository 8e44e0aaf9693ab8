//! Loops over slices on rayon's threads, or without rayon where there is one.
//!
//! The parts of a loop are fixed by its caller, so their number of threads changes no bit.

use rayon::prelude::*;

use super::Real;
use super::wide::wide;

/// Elements of a simple loop that are worth another thread.
const WORTHWHILE: usize = 1 << 14;

fn alone() -> bool {
    rayon::current_num_threads() == 1
}

/// Calls `f(index, chunk)` for every chunk of `size` elements.
pub(super) fn each<T: Real>(out: &mut [T], size: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) {
    chunks(out, size, || (), |(), index, chunk| f(index, chunk));
}

/// Calls `f(scratch, index, chunk)` for every chunk of `size` elements; `scratch` is made once a thread.
pub(super) fn chunks<T: Real, S>(
    out: &mut [T],
    size: usize,
    scratch: impl Fn() -> S + Sync + Send,
    f: impl Fn(&mut S, usize, &mut [T]) + Sync + Send,
) {
    if alone() {
        let mut scratch = scratch();
        out.chunks_mut(size).enumerate().for_each(|(index, chunk)| f(&mut scratch, index, chunk));
    } else {
        out.par_chunks_mut(size).enumerate().for_each_init(scratch, |scratch, (index, chunk)| f(scratch, index, chunk));
    }
}

/// As [`chunks`], over two slices at once.
pub(super) fn chunks2<T: Real, U: Send>(
    (a, a_size): (&mut [T], usize),
    (b, b_size): (&mut [U], usize),
    f: impl Fn(usize, &mut [T], &mut [U]) + Sync + Send,
) {
    if alone() {
        a.chunks_mut(a_size).zip(b.chunks_mut(b_size)).enumerate().for_each(|(index, (a, b))| f(index, a, b));
    } else {
        let pairs = a.par_chunks_mut(a_size).zip(b.par_chunks_mut(b_size));
        pairs.enumerate().for_each(|(index, (a, b))| f(index, a, b));
    }
}

/// The sum of `parts` vectors of `len` elements, added in order. `f(part, sum)` adds onto zeros.
pub(super) fn sum_of_parts<T: Real>(parts: usize, len: usize, f: impl Fn(usize, &mut [T]) + Sync + Send) -> Vec<T> {
    let mut total = vec![T::zero(); len];
    let mut add = |part: &[T]| total.iter_mut().zip(part).for_each(|(sum, term)| *sum += *term);
    if alone() {
        let mut part = vec![T::zero(); len];
        for index in 0..parts {
            part.fill(T::zero());
            f(index, &mut part);
            add(&part);
        }
    } else {
        let sums = (0..parts).into_par_iter().map(|index| {
            let mut part = vec![T::zero(); len];
            f(index, &mut part);
            part
        });
        sums.collect::<Vec<_>>().iter().for_each(|part| add(part));
    }
    total
}

/// `f(index)` for every index below `n`, in order.
pub(super) fn list<R: Send>(n: usize, f: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    if alone() { (0..n).map(f).collect() } else { (0..n).into_par_iter().map(f).collect() }
}

/// `f` of every element.
pub(super) fn map1<T: Real>(a: &[T], f: impl Fn(T) -> T + Sync + Send) -> Vec<T> {
    if a.len() < WORTHWHILE || alone() {
        return wide!(a.iter().map(|a| f(*a)).collect());
    }
    let mut out = vec![T::zero(); a.len()];
    out.par_chunks_mut(WORTHWHILE).zip(a.par_chunks(WORTHWHILE)).for_each(|(out, a)| {
        wide!(out.iter_mut().zip(a).for_each(|(out, a)| *out = f(*a)));
    });
    out
}

/// `f` of every pair of elements.
pub(super) fn map2<T: Real>(a: &[T], b: &[T], f: impl Fn(T, T) -> T + Sync + Send) -> Vec<T> {
    if a.len() < WORTHWHILE || alone() {
        return wide!(a.iter().zip(b).map(|(a, b)| f(*a, *b)).collect());
    }
    let mut out = vec![T::zero(); a.len()];
    let inputs = a.par_chunks(WORTHWHILE).zip(b.par_chunks(WORTHWHILE));
    out.par_chunks_mut(WORTHWHILE).zip(inputs).for_each(|(out, (a, b))| {
        wide!(out.iter_mut().zip(a.iter().zip(b)).for_each(|(out, (a, b))| *out = f(*a, *b)));
    });
    out
}

/// Changes every element of `out` by the elements of `a` and `b` at its place.
pub(in crate::compute) fn update<T: Real>(out: &mut [T], a: &[T], b: &[T], f: impl Fn(&mut T, T, T) + Sync + Send) {
    let all = |out: &mut [T], a: &[T], b: &[T]| {
        wide!(out.iter_mut().zip(a).zip(b).for_each(|((out, a), b)| f(out, *a, *b)));
    };
    if out.len() < WORTHWHILE || alone() {
        all(out, a, b);
    } else {
        let inputs = a.par_chunks(WORTHWHILE).zip(b.par_chunks(WORTHWHILE));
        out.par_chunks_mut(WORTHWHILE).zip(inputs).for_each(|(out, (a, b))| all(out, a, b));
    }
}
