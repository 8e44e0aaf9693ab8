//! The numbers of parameters.

use std::sync::Arc;

use bytes::Bytes;

/// Numbers in fp32: made while a network was imported, or as they lie in its file. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Numbers(Kept);

#[derive(Debug, Clone)]
enum Kept {
    Made(Arc<[f32]>),
    /// Little-endian, on no boundary.
    InFile(Bytes),
}

impl Numbers {
    /// Whole numbers of four bytes.
    pub(crate) fn in_file(bytes: Bytes) -> Self {
        debug_assert!(bytes.len().is_multiple_of(4));
        Self(Kept::InFile(bytes))
    }

    /// How many they are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Kept::Made(floats) => floats.len(),
            Kept::InFile(bytes) => bytes.len() / 4,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers, in `room` where they must be copied: who reads many parameters needs room for the largest alone.
    pub fn read<'a>(&'a self, room: &'a mut Vec<f32>) -> &'a [f32] {
        match &self.0 {
            Kept::Made(floats) => floats,
            Kept::InFile(bytes) => {
                room.clear();
                room.extend(floats(bytes));
                room
            }
        }
    }

    pub(crate) fn is_in_file(&self) -> bool {
        matches!(self.0, Kept::InFile(_))
    }

    /// Whether others are these very numbers.
    pub(crate) fn shares(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Kept::Made(own), Kept::Made(other)) => Arc::ptr_eq(own, other),
            (Kept::InFile(own), Kept::InFile(other)) => own.as_ptr() == other.as_ptr() && own.len() == other.len(),
            _ => false,
        }
    }

    /// Makes them its own.
    pub(crate) fn read_out(&mut self) {
        if self.is_in_file() {
            *self = Self(Kept::Made(self.to_floats()));
        }
    }

    /// Its own, or a copy of the file's.
    pub(crate) fn to_floats(&self) -> Arc<[f32]> {
        match &self.0 {
            Kept::Made(floats) => floats.clone(),
            Kept::InFile(bytes) => floats(bytes).collect(),
        }
    }
}

impl PartialEq for Numbers {
    fn eq(&self, other: &Self) -> bool {
        self.read(&mut Vec::new()) == other.read(&mut Vec::new())
    }
}

impl From<Arc<[f32]>> for Numbers {
    fn from(floats: Arc<[f32]>) -> Self {
        Self(Kept::Made(floats))
    }
}

impl From<Vec<f32>> for Numbers {
    fn from(floats: Vec<f32>) -> Self {
        Self(Kept::Made(floats.into()))
    }
}

impl FromIterator<f32> for Numbers {
    fn from_iter<I: IntoIterator<Item = f32>>(floats: I) -> Self {
        Self(Kept::Made(floats.into_iter().collect()))
    }
}

impl From<&[f32]> for Numbers {
    fn from(floats: &[f32]) -> Self {
        Self(Kept::Made(floats.into()))
    }
}

fn floats(bytes: &[u8]) -> impl ExactSizeIterator<Item = f32> {
    bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes))
}
