//! One picture, decoded once: that it can be, what it weighs, and its share of means and standard deviations.

use std::path::Path;

use shared::contract::{ImageError, MeanStd};
use shared::digest::Digest;

/// What was seen of a picture.
#[derive(Debug, Clone)]
pub(super) struct Look {
    pub(super) bytes: u64,
    pub(super) digest: Digest,
    /// The means of red, green, blue and luma, 0 to 1.
    means: [f64; 4],
    /// Likewise of their squares.
    squares: [f64; 4],
}

/// Reads and decodes the file at `path`; its pixels are gone when this returns.
///
/// # Errors
/// Those of [`picture::decode`], and that it cannot be read.
pub(super) fn at(path: &Path) -> Result<Look, ImageError> {
    let file = picture::bytes(path)?;
    let (digest, bytes) = (Digest::of(&file), file.len() as u64);
    let pixels = picture::decode(&file, 3)?;
    // Whole numbers, exact: at most 10^8 pixels of 255^2.
    let (mut sums, mut squares) = ([0u64; 4], [0u64; 4]);
    for pixel in pixels.bytes.as_chunks::<3>().0 {
        let [r, g, b] = *pixel;
        for (at, value) in [r, g, b, picture::luma(*pixel)].into_iter().enumerate() {
            sums[at] += u64::from(value);
            squares[at] += u64::from(value) * u64::from(value);
        }
    }
    let count = (pixels.height * pixels.width) as f64;
    Ok(Look {
        bytes,
        digest,
        means: sums.map(|sum| sum as f64 / count / 255.0),
        squares: squares.map(|sum| sum as f64 / count / (255.0 * 255.0)),
    })
}

/// Red, green, blue and luma over all pictures, which count alike whatever their size: so they do once they are
/// resized. A channel that never changes has the standard deviation 1.
pub(super) fn statistics<'a>(looks: &(impl Iterator<Item = &'a Look> + Clone)) -> [MeanStd; 4] {
    let count = looks.clone().count().max(1) as f64;
    std::array::from_fn(|at| {
        let mean = looks.clone().map(|look| look.means[at]).sum::<f64>() / count;
        let variance = looks.clone().map(|look| look.squares[at]).sum::<f64>() / count - mean * mean;
        MeanStd { mean, std: if variance > 1e-12 { variance.sqrt() } else { 1.0 } }
    })
}
