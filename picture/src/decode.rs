//! From a file to RGB or luma, as PIL's `convert("RGB")` and `convert("L")` have it.
//!
//! Alpha is dropped, not laid over a colour; 16 bits become 8 by scale; CMYK of a JPEG is taken as Adobe
//! writes it, inverted; the first frame of an animation counts; the orientation in EXIF is applied.

use std::fs::File;
use std::io::{Cursor, ErrorKind, Read as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::{DynamicImage, ImageDecoder as _, ImageError as Fault, ImageFormat, ImageReader, Limits};
use shared::contract::ImageError;

use super::{MOST_PIXELS, Pixels, jpeg, palette, refuse};

/// The longest edge, in pixels: PNG's decoder checks nothing else before it reads on.
const LONGEST_EDGE: u32 = 1 << 15;
/// The most memory for a decoder's output, in bytes: the most pixels with alpha, or fewer of 16 bits.
const MOST_MEMORY: u64 = 512 << 20;
/// The largest file, in bytes.
const LARGEST_FILE: u64 = 512 << 20;
const ACCEPTED: &str = "JPEG, PNG, BMP, WebP, GIF and TIFF are accepted";

/// Reads and [decodes](decode) a file.
///
/// # Errors
/// `not_found`, and those of [`decode`].
pub fn load(path: &Path, channels: usize) -> Result<Pixels, ImageError> {
    decode(&bytes(path)?, channels)
}

/// Decodes a picture of any accepted format, told by its content and not by its name, to RGB (`channels` 3) or
/// luma (1).
///
/// # Errors
/// `unsupported_format`, `decode_failed` or `too_large`.
pub fn decode(bytes: &[u8], channels: usize) -> Result<Pixels, ImageError> {
    // Decoders read hostile files: should one panic, that is this picture's error and no other's.
    let picture =
        catch_unwind(AssertUnwindSafe(|| picture(bytes))).unwrap_or_else(|_| Err(damaged("its decoder gave up")))?;
    let (height, width) = (picture.height() as usize, picture.width() as usize);
    let bytes = if channels == 1 { into_luma(picture) } else { picture.into_rgb8().into_raw() };
    Ok(Pixels { height, width, channels, bytes })
}

/// A file's content, as long as it can be a picture's.
///
/// # Errors
/// `not_found`, `too_large`, or `decode_failed` where it cannot be read.
pub fn bytes(path: &Path) -> Result<Vec<u8>, ImageError> {
    let file = File::open(path).map_err(|error| match error.kind() {
        ErrorKind::NotFound => refuse("not_found", "the file is not there"),
        _ => refuse("not_found", format!("the file cannot be read: {error}")),
    })?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| refuse("decode_failed", format!("the file cannot be read: {error}")))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(refuse("too_large", format!("the file has over {LARGEST_FILE} bytes")));
    }
    Ok(bytes)
}

fn picture(bytes: &[u8]) -> Result<DynamicImage, ImageError> {
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| refusal(Fault::IoError(error)))?;
    let format = match reader.format() {
        Some(format) => format,
        None if bytes.is_empty() => return Err(refuse("unsupported_format", "the file is empty")),
        None => return Err(refuse("unsupported_format", format!("the file is no picture that is known: {ACCEPTED}"))),
    };
    if format == ImageFormat::Jpeg {
        return jpeg::decode(bytes);
    }
    if format == ImageFormat::Tiff
        && let Some(decoded) = palette::decode(bytes)
    {
        return decoded;
    }
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(LONGEST_EDGE), Some(LONGEST_EDGE));
    limits.max_alloc = Some(MOST_MEMORY);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(refusal)?;
    let (width, height) = decoder.dimensions();
    check_size([width, height], decoder.total_bytes())?;
    // An orientation that cannot be read is none.
    let orientation = decoder.orientation().ok();
    let mut picture = DynamicImage::from_decoder(decoder).map_err(refusal)?;
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    Ok(picture)
}

/// Refuses a picture by its header, before it takes memory.
pub(super) fn check_size([width, height]: [u32; 2], memory: u64) -> Result<(), ImageError> {
    if width == 0 || height == 0 {
        return Err(damaged(format!("it has {width} x {height} pixels")));
    }
    if width.max(height) > LONGEST_EDGE || u64::from(width) * u64::from(height) > MOST_PIXELS || memory > MOST_MEMORY {
        return Err(too_large(&format!("it has {width} x {height} pixels")));
    }
    Ok(())
}

pub(super) fn damaged(how: impl std::fmt::Display) -> ImageError {
    refuse("decode_failed", format!("the file is damaged: {how}"))
}

pub(super) fn cut_short() -> ImageError {
    refuse("decode_failed", "the file is cut short: it ends before the picture does")
}

/// A pixel's luma by ITU-R 601-2, in PIL's fixed point: `(299 R + 587 G + 114 B) / 1000`, rounded.
pub fn luma([r, g, b]: [u8; 3]) -> u8 {
    let sum = u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000;
    // The weights add up to 2^16.
    (sum >> 16) as u8
}

fn into_luma(picture: DynamicImage) -> Vec<u8> {
    if !picture.color().has_color() {
        return picture.into_luma8().into_raw();
    }
    picture.into_rgb8().as_chunks().0.iter().map(|pixel| luma(*pixel)).collect()
}

fn refusal(fault: Fault) -> ImageError {
    match fault {
        Fault::Limits(_) => too_large("it is larger than is read here"),
        Fault::Unsupported(fault) => {
            refuse("unsupported_format", format!("{fault}: save it as a plain PNG or JPEG; {ACCEPTED}"))
        }
        Fault::IoError(fault) if fault.kind() == ErrorKind::UnexpectedEof => cut_short(),
        fault => damaged(fault),
    }
}

fn too_large(found: &str) -> ImageError {
    let memory = MOST_MEMORY >> 20;
    let message = format!(
        "{found}: at most {MOST_PIXELS} pixels, {LONGEST_EDGE} along an edge, and {memory} MiB to decode are accepted"
    );
    refuse("too_large", message)
}
