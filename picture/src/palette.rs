//! TIFF with a palette (TIFF 6.0, section 5), which the image library does not read: read as grey, its values looked up.

use std::io::Cursor;

use image::metadata::Orientation;
use image::{DynamicImage, RgbImage};
use shared::contract::ImageError;
use tiff::decoder::{Decoder, DecodingResult};
use tiff::tags::Tag;
use tiff::{ColorType, TiffError};

use super::decode::{check_size, cut_short, damaged};
use super::refuse;

/// The tag of what a sample means, and two of its meanings.
const PHOTOMETRIC: u16 = 262;
const GREY: u8 = 1;
const PALETTE: u16 = 3;

/// Decodes a TIFF with a palette, turned upright; `None` if it is another TIFF.
pub(super) fn decode(bytes: &[u8]) -> Option<Result<DynamicImage, ImageError>> {
    let meaning = meaning(bytes)?;
    let mut grey = bytes.to_vec();
    // Both bytes of the number, in either order.
    let (first, last) = if bytes[0] == b'I' { (GREY, 0) } else { (0, GREY) };
    grey[meaning..meaning + 2].copy_from_slice(&[first, last]);
    Some(look_up(&grey).map_err(|fault| match fault {
        Fault::Picture(error) => error,
        Fault::Tiff(TiffError::IoError(error)) if error.kind() == std::io::ErrorKind::UnexpectedEof => cut_short(),
        Fault::Tiff(TiffError::UnsupportedError(fault)) => {
            refuse("unsupported_format", format!("{fault}: save it as a plain PNG or JPEG"))
        }
        Fault::Tiff(TiffError::LimitsExceeded) => {
            refuse("too_large", "it takes more memory to decode than is accepted")
        }
        Fault::Tiff(fault) => damaged(fault),
    }))
}

/// Where the meaning `PALETTE` stands in the first directory, if it does.
fn meaning(bytes: &[u8]) -> Option<usize> {
    let little = match bytes.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let number = |at: usize, width: usize| {
        let digits = bytes.get(at..at.checked_add(width)?)?;
        let fold = |value: usize, digit: &u8| value << 8 | usize::from(*digit);
        Some(if little { digits.iter().rev().fold(0, fold) } else { digits.iter().fold(0, fold) })
    };
    let directory = number(4, 4)?;
    let entries = number(directory, 2)?;
    // Twelve bytes an entry: tag, type, count, and a value that is short enough.
    let entry = (0..entries).map(|n| directory + 2 + 12 * n).find(|at| number(*at, 2) == Some(PHOTOMETRIC.into()))?;
    (number(entry + 8, 2)? == usize::from(PALETTE)).then_some(entry + 8)
}

enum Fault {
    Picture(ImageError),
    Tiff(TiffError),
}

impl<E: Into<TiffError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Tiff(error.into())
    }
}

fn look_up(grey: &[u8]) -> Result<DynamicImage, Fault> {
    let mut decoder = Decoder::new(Cursor::new(grey))?;
    let (width, height) = decoder.dimensions()?;
    check_size([width, height], u64::from(width) * u64::from(height)).map_err(Fault::Picture)?;
    let bits = match decoder.colortype()? {
        ColorType::Gray(bits @ (1 | 2 | 4 | 8)) => usize::from(bits),
        other => {
            let message = format!("a palette with {other:?}: save it as a plain PNG or JPEG");
            return Err(Fault::Picture(refuse("unsupported_format", message)));
        }
    };
    let colours = decoder.get_tag_u16_vec(Tag::ColorMap)?;
    let count = 1 << bits;
    if colours.len() != 3 * count {
        let message = format!("its palette has {} numbers: {} belong to {bits} bits", colours.len(), 3 * count);
        return Err(Fault::Picture(damaged(message)));
    }
    let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
    // One that cannot be read is none.
    let orientation = orientation.and_then(Orientation::from_exif);
    let DecodingResult::U8(packed) = decoder.read_image()? else {
        return Err(Fault::Picture(damaged("its samples are no bytes")));
    };
    // Reds first, then greens, then blues, of 16 bits each.
    let colour = |index: usize| [0, 1, 2].map(|part| (colours[part * count + index] >> 8) as u8);
    let a_byte = 8 / bits;
    let width = width as usize;
    let pixel = |line: &[u8], x: usize| usize::from(line[x / a_byte] >> (8 - bits - x % a_byte * bits)) & (count - 1);
    let rgb: Vec<u8> = packed
        .chunks_exact(width.div_ceil(a_byte))
        .flat_map(|line| (0..width).flat_map(move |x| colour(pixel(line, x))))
        .collect();
    let rgb = RgbImage::from_raw(width as u32, height, rgb).ok_or_else(|| Fault::Picture(cut_short()))?;
    let mut picture = DynamicImage::ImageRgb8(rgb);
    if let Some(orientation) = orientation {
        picture.apply_orientation(orientation);
    }
    Ok(picture)
}
