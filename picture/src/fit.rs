//! From a picture of any size to a network's input: resized as Pillow does, then cropped in the
//! middle.

use shared::contract::{ImageError, Preprocessing, Resize};

use super::Pixels;
use super::decode::check_pixels;
use super::resample::resample;

/// The picture as bytes `[channels, height, width]`.
///
/// # Errors
/// `too_large`: the resized picture would be, because one edge is so much longer than the other.
pub fn fit(picture: Pixels, [height, width]: [usize; 2], preprocessing: &Preprocessing) -> Result<Vec<u8>, ImageError> {
    let size = resized([picture.height, picture.width], preprocessing.resize, [height, width]);
    check_pixels("resized for this network it would have", [size[1], size[0]])?;
    // At most as many as a picture may have pixels.
    let size = size.map(|edge| edge as usize);
    Ok(centre(&resample(picture, size, preprocessing.filter), [height, width]))
}

/// Height and width before the crop.
pub(super) fn resized([height, width]: [usize; 2], resize: Option<Resize>, input: [usize; 2]) -> [u64; 2] {
    match resize {
        None => input.map(|edge| edge as u64),
        Some(Resize::Exact(size)) => size.map(u64::from),
        Some(Resize::ShortestEdge(edge)) => {
            // To the nearest whole number, a half to the even one, as the known scores of our pictures come from:
            // a column more (465 for 464.5) moves one of them by 0.003. torchvision and Hugging Face cut the rest
            // off instead, so that about half of all pictures have a column or row less there.
            let longer = |long: usize, short: usize| {
                let (scaled, short) = (u64::from(edge) * long as u64, short.max(1) as u64);
                let (whole, rest) = (scaled / short, scaled % short);
                whole + u64::from(2 * rest > short || (2 * rest == short && whole % 2 == 1))
            };
            [height, width].map(|side| longer(side, height.min(width)))
        }
    }
}

/// The middle of a picture, channel by channel, with zeros where the picture is smaller.
fn centre(picture: &Pixels, [height, width]: [usize; 2]) -> Vec<u8> {
    let (across, channels) = (picture.width, picture.channels);
    let (row, column) = (begin(picture.height, height), begin(across, width));
    let mut out = vec![0; channels * height * width];
    for (at, out) in out.chunks_exact_mut(width).enumerate() {
        let (channel, line) = (at / height, at % height);
        let Some(line) = (line + row.skipped).checked_sub(row.zeros).filter(|line| *line < picture.height) else {
            continue;
        };
        let line = picture.bytes[line * across * channels..][..across * channels].chunks_exact(channels);
        for (out, pixel) in out.iter_mut().skip(column.zeros).zip(line.skip(column.skipped)) {
            *out = pixel[channel];
        }
    }
    out
}

/// Where a crop begins along one edge.
struct Begin {
    /// Pixels left out.
    skipped: usize,
    /// Zeros put in.
    zeros: usize,
}

/// As Hugging Face's `center_crop`: half a pixel is cut off. (torchvision's rounds it to the even one.)
fn begin(have: usize, want: usize) -> Begin {
    Begin { skipped: have.saturating_sub(want) / 2, zeros: want.saturating_sub(have) / 2 }
}
