//! The matrix product: candle's own, the `gemm` crate, into a buffer of the caller's.

use gemm::Parallelism;

use super::Real;

/// A matrix in a slice: `rows` by `columns`, a step of `down` to the next row and `right` to the next column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    pub(super) data: &'a [T],
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) down: usize,
    pub(super) right: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// A row-major matrix whose rows are `stride` elements apart.
    pub(super) fn new(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        Self { data, rows, columns, down: stride, right: 1 }
    }

    /// The same elements, rows for columns.
    pub(super) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, down: self.right, right: self.down, ..self }
    }

    fn fits(&self) -> bool {
        reach(self.rows, self.columns, self.down, self.right) <= self.data.len()
    }
}

/// Elements from the first to the last of a matrix.
fn reach(rows: usize, columns: usize, down: usize, right: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * down + (columns - 1) * right + 1 }
}

/// Terms that are summed in one go. `gemm` cuts longer sums by the size of the machine's caches, but
/// never below 512: cut here first, every machine adds in the same order.
const LONGEST_SUM: usize = 512;

/// `out = a b`, or `out += a b` with `add`; `out` has rows that are `stride` elements apart.
///
/// One thread: callers cut the work. An element's bits depend on the shapes alone.
pub(super) fn multiply<T: Real>(out: &mut [T], stride: usize, add: bool, a: Matrix<'_, T>, b: Matrix<'_, T>) {
    assert_eq!(a.columns, b.rows, "matrices that can be multiplied");
    assert!(a.fits() && b.fits(), "matrices inside their slices");
    assert!(stride >= b.columns && reach(a.rows, b.columns, stride, 1) <= out.len(), "a result inside its slice");
    let depth = a.columns;
    let parts = depth.div_ceil(LONGEST_SUM).max(1);
    let longest = depth.div_ceil(parts);
    for part in 0..parts {
        let start = part * longest;
        let terms = longest.min(depth - start);
        // SAFETY: the assertions above keep every element of the three matrices inside its slice, of
        // which `out` is borrowed alone; `T` is f32 or f64, which are the types that `gemm` takes.
        unsafe {
            gemm::gemm(
                a.rows,
                b.columns,
                terms,
                out.as_mut_ptr(),
                1,
                signed(stride),
                add || part > 0,
                a.data.as_ptr().add(start * a.right),
                signed(a.right),
                signed(a.down),
                b.data.as_ptr().add(start * b.down),
                signed(b.right),
                signed(b.down),
                T::one(),
                T::one(),
                false,
                false,
                false,
                Parallelism::None,
            );
        }
    }
}

/// A stride, which is below a slice's length and so fits.
#[expect(clippy::cast_possible_wrap, reason = "slices have at most isize::MAX elements")]
fn signed(stride: usize) -> isize {
    stride as isize
}
