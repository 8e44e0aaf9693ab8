//! From a picture's file to a network's input. What is in the file comes from anybody: every fault of it
//! is an error of this picture alone.

mod decode;
mod fit;
mod resample;
#[cfg(test)]
mod tests;

use std::path::Path;

use shared::contract::{ImageError, Preprocessing};

use decode::decode;
use fit::fit;

/// The most pixels that a picture may have, as it comes and after it is resized.
const MOST_PIXELS: u64 = 100_000_000;

/// A picture as bytes `[height, width, channels]`, RGB or luma.
#[derive(Debug, Clone, PartialEq)]
struct Pixels {
    height: usize,
    width: usize,
    channels: usize,
    bytes: Vec<u8>,
}

/// Reads a picture as bytes `[channels, height, width]`, resized and cropped as `preprocessing` says: luma
/// for one channel, RGB for three.
///
/// # Errors
/// `not_found`, `unsupported_format`, `decode_failed` or `too_large`.
pub(super) fn read(
    path: &Path,
    [channels, height, width]: [usize; 3],
    preprocessing: &Preprocessing,
) -> Result<Vec<u8>, ImageError> {
    fit(decode(path, channels)?, [height, width], preprocessing)
}

fn refuse(code: &str, message: impl Into<String>) -> ImageError {
    ImageError { code: code.into(), message: message.into() }
}
