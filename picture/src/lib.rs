//! From a picture's file to a network's input: bytes, no tensors. What is in the file comes from anybody: every fault
//! of it is an error of this picture alone.

mod decode;
mod fit;
mod jpeg;
mod palette;
mod resample;
#[cfg(test)]
mod tests;

use std::path::Path;

use shared::contract::{ImageError, Preprocessing};

pub use decode::{bytes, decode, load, look, luma};
pub use fit::fit;

/// The most pixels that a picture may have, as it comes and after it is resized.
const MOST_PIXELS: u64 = 100_000_000;

/// A picture as bytes `[height, width, channels]`, RGB or luma.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pixels {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 3 or 1.
    pub channels: usize,
    /// A row after the other, a pixel's channels together.
    pub bytes: Vec<u8>,
}

/// Reads a picture as bytes `[channels, height, width]`, resized and cropped as `preprocessing` says: luma
/// for one channel, RGB for three.
///
/// # Errors
/// `not_found`, `unreadable`, `unsupported_format`, `decode_failed` or `too_large`.
pub fn read(
    path: &Path,
    [channels, height, width]: [usize; 3],
    preprocessing: &Preprocessing,
) -> Result<Vec<u8>, ImageError> {
    fit(load(path, channels)?, [height, width], preprocessing)
}

fn refuse(code: &str, message: impl Into<String>) -> ImageError {
    // Some decoders end their messages with a line's end.
    ImageError { code: code.into(), message: message.into().trim_end().into() }
}
