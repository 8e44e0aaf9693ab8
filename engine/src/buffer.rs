//! Memory for tensors: aligned to vectors, zero at first.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes that a buffer is aligned to: a cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// A fixed number of floats, on a cache line's boundary.
pub struct Buffer {
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: the memory is owned, and reached only through `&` and `&mut`.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros. Pages that nobody writes take no memory.
    pub fn zeros(len: usize) -> Self {
        if len == 0 {
            return Self { start: NonNull::dangling(), len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero.
        let start = unsafe { alloc_zeroed(layout) }.cast();
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, len }
    }

    /// Makes room for at least `len` floats; a larger buffer is zero.
    pub fn grow(&mut self, len: usize) {
        if len > self.len {
            *self = Self::zeros(len);
        }
    }

    fn layout(len: usize) -> Layout {
        Layout::array::<f32>(len).and_then(|layout| layout.align_to(ALIGNMENT)).expect("shapes are bounded")
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::zeros(0)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: allocated by `zeros` with this layout.
            unsafe { dealloc(self.start.as_ptr().cast(), Self::layout(self.len)) }
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: `len` floats, initialised and owned; for none the dangling pointer is aligned.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        // SAFETY: as above, and borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl std::fmt::Debug for Buffer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buffer of {} floats", self.len)
    }
}

impl From<&[f32]> for Buffer {
    fn from(values: &[f32]) -> Self {
        let mut buffer = Self::zeros(values.len());
        buffer.copy_from_slice(values);
        buffer
    }
}
