//! From a file to RGB or luma, as PIL's `convert("RGB")` and `convert("L")` have it.
//!
//! Alpha is dropped, not laid over a colour; 16 bits become 8 by scale; CMYK of a JPEG is taken as Adobe
//! writes it, inverted; the first frame of an animation counts; the orientation in EXIF is applied.

use std::fs::{File, Metadata};
use std::io::{Cursor, ErrorKind, Read as _};
use std::os::unix::fs::FileTypeExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::error::LimitErrorKind;
use image::{DynamicImage, ImageDecoder as _, ImageError as Fault, ImageFormat, ImageReader, Limits};
use shared::contract::ImageError;

use super::{MOST_PIXELS, Pixels, jpeg, palette, refuse};

/// The longest edge, in pixels: PNG's decoder checks nothing else before it reads on.
const LONGEST_EDGE: u32 = 1 << 15;
/// The most memory for a decoder's output, in bytes: the most pixels with alpha, or fewer of 16 bits. Likewise for
/// what the decoder of a JPEG with several scans keeps beside it.
const MOST_MEMORY: u64 = 512 << 20;
/// The largest file, in bytes.
const LARGEST_FILE: u64 = 512 << 20;
const ACCEPTED: &str = "JPEG, PNG, BMP, WebP, GIF and TIFF are accepted";

/// Reads and [decodes](decode) a file.
///
/// # Errors
/// Those of [`bytes`] and of [`decode`].
pub fn load(path: &Path, channels: usize) -> Result<Pixels, ImageError> {
    decode(&bytes(path)?, channels)
}

/// Decodes a picture of any accepted format, told by its content and not by its name, to RGB (`channels` 3) or
/// luma (1).
///
/// # Errors
/// `unsupported_format`, `decode_failed` or `too_large`.
pub fn decode(bytes: &[u8], channels: usize) -> Result<Pixels, ImageError> {
    decode_reduced(bytes, channels, |_| 1)
}

/// Decodes a picture, a JPEG with height and width divided by what `reduction` says for them: 1, 2, 4 or 8.
pub(super) fn decode_reduced(
    bytes: &[u8],
    channels: usize,
    reduction: impl Fn([usize; 2]) -> usize,
) -> Result<Pixels, ImageError> {
    // Decoders read hostile files: should one panic, that is this picture's error and no other's.
    let pixels = || {
        if is_jpeg(bytes) {
            let jpeg::Reduced { picture, size, by } = jpeg::decode(bytes, &reduction)?;
            let extent = size.map(|edge| edge as f64 / by as f64);
            return Ok(Pixels { size, extent, ..flat(picture, channels) });
        }
        Ok(flat(picture(bytes)?, channels))
    };
    catch_unwind(AssertUnwindSafe(pixels)).unwrap_or_else(|_| Err(damaged("its decoder gave up")))
}

fn flat(picture: DynamicImage, channels: usize) -> Pixels {
    let size = [picture.height() as usize, picture.width() as usize];
    let bytes = if channels == 1 { into_luma(picture) } else { picture.into_rgb8().into_raw() };
    Pixels::new(size, channels, bytes)
}

fn is_jpeg(bytes: &[u8]) -> bool {
    image::guess_format(bytes).is_ok_and(|format| format == ImageFormat::Jpeg)
}

/// Looks at a file, as long as it can be a picture's, without opening it: to open a pipe waits for who writes into it.
///
/// # Errors
/// `not_found`, `unreadable`, `unsupported_format` for what is no file, or `too_large`.
pub fn look(path: &Path) -> Result<Metadata, ImageError> {
    let metadata = std::fs::metadata(path).map_err(|error| unreadable(&error))?;
    if !metadata.is_file() {
        let kind = metadata.file_type();
        let what = match () {
            () if kind.is_dir() => "folder",
            () if kind.is_fifo() => "pipe",
            () if kind.is_socket() => "socket",
            () => "device",
        };
        return Err(refuse("unsupported_format", format!("it is a {what}, no file: {ACCEPTED}")));
    }
    check_length(metadata.len())?;
    Ok(metadata)
}

/// A file's content.
///
/// # Errors
/// Those of [`look`].
pub fn bytes(path: &Path) -> Result<Vec<u8>, ImageError> {
    look(path)?;
    let file = File::open(path).map_err(|error| unreadable(&error))?;
    let mut bytes = Vec::new();
    file.take(LARGEST_FILE + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    check_length(bytes.len() as u64)?;
    Ok(bytes)
}

fn unreadable(error: &std::io::Error) -> ImageError {
    match error.kind() {
        ErrorKind::NotFound => refuse("not_found", "the file is not there"),
        _ => refuse("unreadable", format!("the file cannot be read: {error}")),
    }
}

fn check_length(bytes: u64) -> Result<(), ImageError> {
    if bytes > LARGEST_FILE {
        let (has, most) = (bytes.div_ceil(1 << 20), LARGEST_FILE >> 20);
        return Err(refuse("too_large", format!("the file has {has} MiB: at most {most} are accepted")));
    }
    Ok(())
}

fn picture(bytes: &[u8]) -> Result<DynamicImage, ImageError> {
    let mut reader =
        ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(|error| refusal(Fault::IoError(error)))?;
    let format = match reader.format() {
        Some(format) => format,
        None if bytes.is_empty() => return Err(refuse("unsupported_format", "the file is empty")),
        None => return Err(refuse("unsupported_format", format!("the file is no picture that is known: {ACCEPTED}"))),
    };
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
    let longer = width.max(height);
    if longer > LONGEST_EDGE {
        let message = format!("its longer edge has {longer} pixels: at most {LONGEST_EDGE} are accepted");
        return Err(refuse("too_large", message));
    }
    check_pixels("it has", [width, height].map(u64::from))?;
    if memory > MOST_MEMORY {
        let (needed, most) = (memory.div_ceil(1 << 20), MOST_MEMORY >> 20);
        let message = format!(
            "it has {width} x {height} pixels and takes {needed} MiB to decode: at most {most} are accepted; make it \
             smaller, or save it as a plain JPEG"
        );
        return Err(refuse("too_large", message));
    }
    Ok(())
}

/// Refuses more pixels than a picture may have; `has` begins the message.
pub(super) fn check_pixels(has: &str, [width, height]: [u64; 2]) -> Result<(), ImageError> {
    let pixels = width * height;
    if pixels > MOST_PIXELS {
        let (millions, most) = (pixels.div_ceil(1_000_000), MOST_PIXELS / 1_000_000);
        let message =
            format!("{has} {width} x {height} pixels, {millions} million: at most {most} million are accepted");
        return Err(refuse("too_large", message));
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
        Fault::Limits(limit) => {
            let message = match limit.kind() {
                LimitErrorKind::DimensionError => format!("it has an edge of over {LONGEST_EDGE} pixels, the most"),
                _ => format!("it takes over {} MiB to decode, the most", MOST_MEMORY >> 20),
            };
            refuse("too_large", format!("{message} that is accepted"))
        }
        Fault::Unsupported(fault) => {
            refuse("unsupported_format", format!("{fault}: save it as a plain PNG or JPEG; {ACCEPTED}"))
        }
        Fault::IoError(fault) if fault.kind() == ErrorKind::UnexpectedEof => cut_short(),
        fault => damaged(fault),
    }
}
