//! The pictures of a split that holds picture files: decoded and resized when a row is first needed, then kept.

use std::path::{Path, PathBuf};

use rayon::prelude::*;
use shared::contract::{ImageInput, Preprocessing};

use crate::compute::ComputeError;
use crate::compute::weights::bad_file;

/// Decoded pictures that stay from one trial to the next, as long as both use the same file in the same way.
#[derive(Debug)]
pub struct Decoded {
    /// Whose they are.
    of: Option<(PathBuf, ImageInput)>,
    /// A row's bytes `[channels, height, width]`, once it was decoded.
    rows: Vec<Option<Box<[u8]>>>,
    bytes: usize,
    /// The most bytes that are kept. Rows beyond are decoded each time: the same bits, more time.
    room: usize,
}

impl Default for Decoded {
    fn default() -> Self {
        Self::with_room(Self::ROOM)
    }
}

impl Decoded {
    /// The most bytes that are sensible, a gibibyte: ten thousand pictures of 180 by 180 pixels in colour. There is one
    /// for each core of a machine.
    pub const ROOM: usize = 1 << 30;

    /// Nothing yet, and at most `room` bytes.
    pub fn with_room(room: usize) -> Self {
        Self { of: None, rows: Vec::new(), bytes: 0, room }
    }

    /// Lets all of them go.
    pub fn clear(&mut self) {
        *self = Self::with_room(self.room);
    }
}

/// One split's pictures.
pub(super) struct Pictures<'a> {
    /// The dataset, for errors.
    what: String,
    path: PathBuf,
    channels: usize,
    size: [usize; 2],
    preprocessing: Preprocessing,
    /// Where each file begins, and the last ends.
    offsets: Vec<u64>,
    decoded: &'a mut Decoded,
}

impl<'a> Pictures<'a> {
    /// The pictures of the file at `path`. What `decoded` holds of another file, or in another size, goes.
    pub(super) fn new(
        what: String,
        path: &Path,
        image: &ImageInput,
        preprocessing: Preprocessing,
        offsets: Vec<u64>,
        decoded: &'a mut Decoded,
    ) -> Self {
        let of = Some((path.to_owned(), image.clone()));
        let rows = offsets.len().saturating_sub(1);
        if decoded.of != of || decoded.rows.len() != rows {
            *decoded = Decoded { of, rows: vec![None; rows], ..Decoded::with_room(decoded.room) };
        }
        let (channels, size) = (image.channels as usize, image.size.pair());
        Self { what, path: path.to_owned(), channels, size, preprocessing, offsets, decoded }
    }

    /// Checks that the offsets lie in a file of so many bytes, in order.
    pub(super) fn check(&self, bytes: usize) -> Result<(), String> {
        let ends = (self.offsets.first(), self.offsets.last());
        if ends != (Some(&0), Some(&(bytes as u64))) {
            return Err(format!("`offsets` begin and end with {ends:?}: 0 and {bytes} are accepted"));
        }
        match self.offsets.windows(2).position(|pair| pair[0] > pair[1]) {
            Some(row) => Err(format!("`offsets` fall after row {row}")),
            None => Ok(()),
        }
    }

    /// Hands over the bytes of each of `rows`, in order; `inputs` are all files.
    ///
    /// # Errors
    /// The first row whose picture cannot be decoded.
    pub(super) fn each(
        &mut self,
        rows: &[u32],
        inputs: &[u8],
        mut take: impl FnMut(&[u8]),
    ) -> Result<(), ComputeError> {
        let fresh = |row: &u32| self.decoded.rows[*row as usize].is_none().then(|| self.decode(*row as usize, inputs));
        // A picture's bits do not depend on who decodes it.
        let fresh: Vec<_> = match rayon::current_num_threads() {
            1 => rows.iter().map(fresh).collect(),
            _ => rows.par_iter().map(fresh).collect(),
        };
        for (row, fresh) in rows.iter().zip(fresh) {
            let kept = &mut self.decoded.rows[*row as usize];
            match fresh.transpose()? {
                None => kept.iter().for_each(|bytes| take(bytes)),
                Some(bytes) => {
                    take(&bytes);
                    if kept.is_none() && self.decoded.bytes + bytes.len() <= self.decoded.room {
                        self.decoded.bytes += bytes.len();
                        *kept = Some(bytes);
                    }
                }
            }
        }
        Ok(())
    }

    fn decode(&self, row: usize, inputs: &[u8]) -> Result<Box<[u8]>, ComputeError> {
        // Both fit: `check` has seen that the last is the file's length.
        let file = &inputs[self.offsets[row] as usize..self.offsets[row + 1] as usize];
        let [height, width] = self.size;
        picture::prepare(file, [self.channels, height, width], &self.preprocessing)
            .map(Vec::into_boxed_slice)
            .map_err(|error| bad_file(&self.what, &self.path, format!("the picture of row {row}: {}", error.message)))
    }
}

#[cfg(test)]
mod tests;
