//! Memory for tensors: aligned to vectors, zero at first.

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;

/// Bytes that a buffer is aligned to: a cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// A fixed number of floats, on a cache line's boundary.
pub struct Buffer {
    /// What was allocated; the floats begin at its first boundary.
    memory: NonNull<u8>,
    start: NonNull<f32>,
    len: usize,
}

// SAFETY: the memory is owned, and reached only through `&` and `&mut`.
unsafe impl Send for Buffer {}
// SAFETY: as above.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros. Large ones are fresh from the system: pages that nobody writes take no memory.
    pub fn zeros(len: usize) -> Self {
        if len == 0 {
            return Self { memory: NonNull::dangling(), start: NonNull::dangling(), len };
        }
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout));
        // SAFETY: the layout has room for the floats behind the first boundary.
        let start = unsafe { memory.add(memory.align_offset(ALIGNMENT)) }.cast();
        Self { memory, start, len }
    }

    /// Makes room for at least `len` floats; a larger buffer is zero.
    pub fn grow(&mut self, len: usize) {
        if len > self.len {
            *self = Self::zeros(len);
        }
    }

    /// Room for as many floats behind a boundary. The allocator is not asked for the boundary itself: it would write its zeros.
    fn layout(len: usize) -> Layout {
        len.checked_add(ALIGNMENT / size_of::<f32>())
            .and_then(|len| Layout::array::<f32>(len).ok())
            .expect("shapes are bounded")
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
            unsafe { dealloc(self.memory.as_ptr(), Self::layout(self.len)) }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_begin_on_a_boundary_and_are_zero() {
        for len in [0, 1, 15, 16, 17, 1000, 1 << 20] {
            let mut buffer = Buffer::zeros(len);
            assert!(buffer.len() == len && buffer.iter().all(|value| *value == 0.0));
            assert!(len == 0 || buffer.as_ptr().addr().is_multiple_of(ALIGNMENT));
            buffer.fill(1.0);
            buffer.grow(len + 1);
            assert!(buffer.iter().all(|value| *value == 0.0));
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn pages_that_nobody_writes_take_no_memory() {
        let resident = || -> usize {
            let pages = std::fs::read_to_string("/proc/self/statm").expect("what the system tells");
            pages.split(' ').nth(1).and_then(|field| field.parse().ok()).expect("pages in memory")
        };
        let before = resident();
        // Other tests allocate meanwhile: a gibibyte, so that a quarter of it is far from both.
        let buffer = Buffer::zeros(1 << 28);
        let pages = resident().saturating_sub(before);
        assert!(pages < buffer.len() * size_of::<f32>() / 4096 / 4, "{pages} pages");
    }
}
