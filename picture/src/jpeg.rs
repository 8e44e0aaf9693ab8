//! JPEG, decoded by libjpeg-turbo's code to the byte as Pillow has it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use image::metadata::Orientation;
use image::{DynamicImage, ImageBuffer};
use mozjpeg::decompress::DecompressStarted;
use mozjpeg::{ColorSpace, Decompress, Marker};
use shared::contract::ImageError;

use super::decode::{check_size, cut_short, damaged};
use super::refuse;

/// A progressive picture is decoded once a scan: a small file with thousands of them would take hours.
const MOST_SCANS: usize = 256;

/// A picture that may have been decoded to be smaller.
pub(super) struct Reduced {
    /// Luma or RGB, turned upright.
    pub(super) picture: DynamicImage,
    /// Height and width in the file, turned upright.
    pub(super) size: [usize; 2],
    /// What they were divided by, rounded up.
    pub(super) by: usize,
}

/// Decodes a JPEG as luma or RGB, turned upright, its height and width divided by what `reduction` says for them: fewer
/// coefficients of each block are transformed, which is the mean of the pixels but for the highest frequencies that are left.
pub(super) fn decode(bytes: &[u8], reduction: &dyn Fn([usize; 2]) -> usize) -> Result<Reduced, ImageError> {
    let kept = check_markers(bytes)?;
    // The library reports a fault by unwinding, with its message.
    catch_unwind(AssertUnwindSafe(|| decompress(bytes, kept, reduction))).unwrap_or_else(|fault| {
        let said = fault.downcast_ref::<String>().map_or("its decoder gave up", String::as_str);
        if said.contains("Insufficient memory") {
            // No fault of the picture's: what Rust does when memory is full.
            std::alloc::handle_alloc_error(std::alloc::Layout::for_value(bytes));
        }
        Err(damaged(said.trim_start_matches("libjpeg fatal error: ")))
    })
}

fn decompress(bytes: &[u8], kept: Kept, reduction: &dyn Fn([usize; 2]) -> usize) -> Result<Reduced, ImageError> {
    let mut file = Decompress::builder().with_markers(&[Marker::APP(1)]).from_mem(bytes).map_err(damaged)?;
    let (width, height) = file.size();
    let size = [width, height].map(|edge| u32::try_from(edge).unwrap_or(u32::MAX));
    let shares = file.components().iter().map(|part| (part.h_samp_factor * part.v_samp_factor) as u64);
    let most = shares.clone().max().unwrap_or(1).max(1);
    let area = (width as u64).saturating_mul(height as u64);
    check_size(
        size,
        match kept {
            Kept::Pixels => area.saturating_mul(file.components().len() as u64),
            // Two bytes each; a component that is sampled less often has fewer.
            Kept::Coefficients => (2 * area).saturating_mul(shares.sum()).div_ceil(most),
        },
    )?;
    // An orientation that cannot be read is none.
    let orientation =
        file.markers().find_map(|marker| Orientation::from_exif_chunk(marker.data.strip_prefix(b"Exif\0\0")?));
    let lies = orientation.is_some_and(|orientation| orientation.to_exif() >= 5);
    let upright = if lies { [width, height] } else { [height, width] };
    let by = reduction(upright);
    file.scale(u8::try_from(8 / by).unwrap_or(8));
    let size = size.map(|edge| edge.div_ceil(by as u32));
    let mut picture = match file.components().len() {
        1 => pixels(file.grayscale(), size, DynamicImage::ImageLuma8)?,
        3 => pixels(file.rgb(), size, DynamicImage::ImageRgb8)?,
        4 => {
            let inks = lines(file.to_colorspace(ColorSpace::JCS_CMYK))?;
            let light = inks.as_chunks().0.iter().flat_map(light).collect();
            buffer(light, size).map(DynamicImage::ImageRgb8)?
        }
        components => {
            let message = format!("it has {components} colour components: save it as a plain PNG or JPEG");
            return Err(refuse("unsupported_format", message));
        }
    };
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    Ok(Reduced { picture, size: upright, by })
}

fn lines(started: std::io::Result<DecompressStarted<&[u8]>>) -> Result<Vec<u8>, ImageError> {
    started.and_then(|mut started| started.read_scanlines()).map_err(damaged)
}

fn buffer<P: image::Pixel<Subpixel = u8>>(
    bytes: Vec<u8>,
    [width, height]: [u32; 2],
) -> Result<ImageBuffer<P, Vec<u8>>, ImageError> {
    ImageBuffer::from_raw(width, height, bytes).ok_or_else(cut_short)
}

fn pixels<P: image::Pixel<Subpixel = u8>>(
    started: std::io::Result<DecompressStarted<&[u8]>>,
    size: [u32; 2],
    kind: fn(ImageBuffer<P, Vec<u8>>) -> DynamicImage,
) -> Result<DynamicImage, ImageError> {
    buffer(lines(started)?, size).map(kind)
}

/// Four inks as Adobe writes them, 255 for none, become light: each times black, divided by 255 and rounded.
fn light([cyan, magenta, yellow, black]: &[u8; 4]) -> [u8; 3] {
    [cyan, magenta, yellow].map(|ink| {
        let missing = u32::from(255 - ink) * u32::from(*black) + 128;
        // Of `black` at most: it does not go below zero.
        black.saturating_sub((((missing >> 8) + missing) >> 8) as u8)
    })
}

/// What a decoder has in memory of a whole picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    /// What it gives.
    Pixels,
    /// Every coefficient until the last scan has come, too: where a scan holds some of the picture only.
    Coefficients,
}

/// Checks that a JPEG's end is there (ITU-T T.81, annex B), since its decoder would fill up what is missing with grey,
/// that it is of a kind that is decoded here, and that it has not too many scans. What lies behind the end does not matter.
fn check_markers(bytes: &[u8]) -> Result<Kept, ImageError> {
    let (mut at, mut scans, mut components, mut kept) = (2, 0, 0, Kept::Pixels);
    while let Some(found) = next_marker(bytes, at) {
        at = found + 2;
        // Of the segment behind its length.
        let byte = |position: usize| bytes.get(at + 2 + position).copied().unwrap_or(0);
        match bytes[at - 1] {
            0xd9 => return Ok(kept),
            // Restarts and the like have no length.
            0x01 | 0xd0..=0xd8 => continue,
            0xda => {
                scans += 1;
                if byte(0) < components {
                    kept = Kept::Coefficients;
                }
            }
            frame @ (0xc0..=0xc2) => {
                check_precision(byte(0))?;
                components = byte(5);
                if frame == 0xc2 {
                    kept = Kept::Coefficients;
                }
            }
            0xc9 | 0xca => return Err(unsupported("its numbers are coded arithmetically")),
            0xc3 | 0xc5..=0xc7 | 0xcb | 0xcd..=0xcf => return Err(unsupported("it is lossless or hierarchical")),
            _ => {}
        }
        if scans > MOST_SCANS {
            return Err(refuse("too_large", format!("it has over {MOST_SCANS} scans: save it as a plain JPEG")));
        }
        // Over the segment: a thumbnail in it has an end of its own.
        let Some(length) = bytes.get(at..at + 2) else { break };
        at += usize::from(u16::from_be_bytes([length[0], length[1]])).max(2);
    }
    Err(cut_short())
}

fn check_precision(bits: u8) -> Result<(), ImageError> {
    // Of a damaged file the decoder tells more.
    if matches!(bits, 12 | 16) { Err(unsupported(&format!("it has {bits} bits a sample"))) } else { Ok(()) }
}

fn unsupported(how: &str) -> ImageError {
    refuse("unsupported_format", format!("this kind of JPEG is not read here ({how}): save it as a plain JPEG or PNG"))
}

/// Where the next marker begins, from `at` on.
fn next_marker(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        at += memchr::memchr(0xff, bytes.get(at..)?)?;
        if bytes.get(at..at + 2).is_some_and(is_marker) {
            return Some(at);
        }
        at += 1;
    }
}

/// Not fill (`ff ff`), nor a byte of the picture that happens to be `ff` (`ff 00`).
fn is_marker(pair: &[u8]) -> bool {
    pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff)
}
