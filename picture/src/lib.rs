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
pub use fit::{fit, reduction};

/// The most pixels that a picture may have, as it comes and after it is resized.
const MOST_PIXELS: u64 = 100_000_000;

/// A picture as bytes `[height, width, channels]`, RGB or luma.
#[derive(Debug, Clone, PartialEq)]
pub struct Pixels {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// 3 or 1.
    pub channels: usize,
    /// A row after the other, a pixel's channels together.
    pub bytes: Vec<u8>,
    /// Height and width in the file, which are larger where it was decoded to be smaller.
    size: [usize; 2],
    /// How many of these rows and columns the picture in the file takes up: in the last ones it may end.
    extent: [f64; 2],
}

impl Pixels {
    /// A picture of this height and width.
    pub fn new([height, width]: [usize; 2], channels: usize, bytes: Vec<u8>) -> Self {
        Self { height, width, channels, bytes, size: [height, width], extent: [height as f64, width as f64] }
    }
}

/// Reads a picture and [prepares](prepare) it.
///
/// # Errors
/// `not_found`, `unreadable`, `unsupported_format`, `decode_failed` or `too_large`.
pub fn read(path: &Path, input: [usize; 3], preprocessing: &Preprocessing) -> Result<Vec<u8>, ImageError> {
    prepare(&bytes(path)?, input, preprocessing)
}

/// A picture as bytes `[channels, height, width]`, resized and cropped as `preprocessing` says: luma for one channel, three
/// colours for three. A JPEG that is much larger than what it becomes is decoded to be smaller ([`reduction`]).
///
/// # Errors
/// `unsupported_format`, `decode_failed` or `too_large`.
pub fn prepare(
    file: &[u8],
    [channels, height, width]: [usize; 3],
    preprocessing: &Preprocessing,
) -> Result<Vec<u8>, ImageError> {
    let input = [height, width];
    let pixels = decode::decode_reduced(file, channels, |size| reduction(size, input, preprocessing))?;
    fit(&pixels, input, preprocessing)
}

fn refuse(code: &str, message: impl Into<String>) -> ImageError {
    // Some decoders end their messages with a line's end.
    ImageError { code: code.into(), message: message.into().trim_end().into() }
}
