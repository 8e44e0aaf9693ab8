//! From a picture's file to a network's input. What is in the file comes from anybody: every fault of it
//! is an error of this picture alone.

use std::io::{BufReader, ErrorKind};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::imageops::{FilterType, resize};
use image::{DynamicImage, ImageError as Fault, ImageReader, Limits};
use shared::contract::ImageError;

/// The largest width and height, in pixels.
const MOST_PIXELS: u32 = 1 << 15;
/// The most memory that decoding may take, in bytes: 64 megapixels of RGBA.
const MOST_MEMORY: u64 = 256 << 20;

/// Reads a picture as bytes `[channels, height, width]`: luma for one channel, RGB for three, resized with
/// a triangle filter where its size is another.
pub(super) fn read(path: &Path, [channels, height, width]: [usize; 3]) -> Result<Vec<u8>, ImageError> {
    let picture = decode(path)?;
    // A network's input has at most 2^28 elements, so its sides fit.
    let (height, width) = (u32::try_from(height).unwrap_or(u32::MAX), u32::try_from(width).unwrap_or(u32::MAX));
    if channels == 1 {
        let luma = picture.into_luma8();
        let fits = luma.dimensions() == (width, height);
        let luma = if fits { luma } else { resize(&luma, width, height, FilterType::Triangle) };
        return Ok(luma.into_raw());
    }
    let rgb = picture.into_rgb8();
    let rgb = if rgb.dimensions() == (width, height) { rgb } else { resize(&rgb, width, height, FilterType::Triangle) };
    let pixels = rgb.into_raw();
    Ok((0..3).flat_map(|channel| pixels.iter().skip(channel).step_by(3).copied()).collect())
}

fn decode(path: &Path) -> Result<DynamicImage, ImageError> {
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => refuse("not_found", "the file is not there"),
        _ => refuse("not_found", &format!("the file cannot be read: {error}")),
    })?;
    let mut limits = Limits::default();
    limits.max_image_width = Some(MOST_PIXELS);
    limits.max_image_height = Some(MOST_PIXELS);
    limits.max_alloc = Some(MOST_MEMORY);
    let mut reader = ImageReader::new(BufReader::new(file))
        .with_guessed_format()
        .map_err(|error| refuse("decode_failed", &format!("the file cannot be read: {error}")))?;
    if reader.format().is_none() {
        return Err(refuse("unsupported_format", "the file is in no format that is known here: PNG is accepted"));
    }
    reader.limits(limits);
    // Decoders read hostile files: should one panic, that is this picture's error and no other's.
    let decoded = catch_unwind(AssertUnwindSafe(|| reader.decode()));
    decoded.unwrap_or_else(|_| Err(Fault::IoError(std::io::Error::other("the decoder panicked")))).map_err(|fault| {
        let message = fault.to_string();
        match fault {
            Fault::Limits(_) => refuse(
                "too_large",
                &format!(
                    "{message}: at most {MOST_PIXELS} x {MOST_PIXELS} pixels and {MOST_MEMORY} bytes are accepted"
                ),
            ),
            Fault::Unsupported(_) => refuse("unsupported_format", &format!("{message}: PNG is accepted")),
            Fault::Decoding(_) | Fault::Encoding(_) | Fault::Parameter(_) | Fault::IoError(_) => {
                refuse("decode_failed", &message)
            }
        }
    })
}

fn refuse(code: &str, message: &str) -> ImageError {
    ImageError { code: code.into(), message: message.into() }
}
