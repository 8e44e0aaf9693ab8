//! The matrix product: the `gemm` crate, into buffers of the caller's.

use gemm::Parallelism;

/// A matrix in a slice: `rows` by `columns`, a step of `down` to the next row and `right` to the next column.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matrix<'a> {
    data: &'a [f32],
    rows: usize,
    columns: usize,
    down: usize,
    right: usize,
}

impl<'a> Matrix<'a> {
    /// A row-major matrix.
    pub(crate) fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        Self { data, rows, columns, down: columns, right: 1 }
    }

    /// The same elements, rows for columns.
    pub(crate) fn transposed(self) -> Self {
        Self { rows: self.columns, columns: self.rows, down: self.right, right: self.down, ..self }
    }

    /// Some of its columns.
    pub(crate) fn columns(self, range: std::ops::Range<usize>) -> Self {
        let start = range.start * self.right;
        Self { data: &self.data[start..], columns: range.len(), ..self }
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

/// `out = scale * a b`, or `out += scale * a b` with `add`; `out` is column-major with columns `stride` elements apart: the
/// way in which `gemm` stores without a detour.
///
/// One thread: callers cut the work. An element's bits depend on the shapes alone.
pub(crate) fn multiply(out: &mut [f32], stride: usize, add: bool, scale: f32, a: Matrix<'_>, b: Matrix<'_>) {
    assert_eq!(a.columns, b.rows, "matrices that can be multiplied");
    assert!(a.fits() && b.fits(), "matrices inside their slices");
    assert!(stride >= a.rows && reach(b.columns, a.rows, stride, 1) <= out.len(), "a result inside its slice");
    let depth = a.columns;
    let parts = depth.div_ceil(LONGEST_SUM).max(1);
    let longest = depth.div_ceil(parts);
    for part in 0..parts {
        let start = (part * longest).min(depth);
        let terms = longest.min(depth - start);
        // SAFETY: the assertions above keep every element of the three matrices inside its slice, of
        // which `out` is borrowed alone.
        unsafe {
            gemm::gemm(
                a.rows,
                b.columns,
                terms,
                out.as_mut_ptr(),
                signed(stride),
                1,
                add || part > 0,
                a.data.as_ptr().add(start * a.right),
                signed(a.right),
                signed(a.down),
                b.data.as_ptr().add(start * b.down),
                signed(b.right),
                signed(b.down),
                1.0,
                scale,
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
