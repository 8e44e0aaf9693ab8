//! A small dataset made on the spot: bars and crosses of 12 by 12 pixels, as IDX files.

use std::path::Path;

use anyhow::{Context, Result};

/// Height and width.
const SIDE: usize = 12;

/// Pictures of three classes: a horizontal bar, a vertical bar, a cross; with noise, the same at every call.
#[derive(Debug, Clone, Copy)]
pub struct Pictures {
    /// Rows of the training split.
    pub train: u32,
    /// Rows of the test split.
    pub test: u32,
}

impl Pictures {
    /// Writes the four files that a folder of handwritten digits has, not compressed.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(self, dir: &Path) -> Result<()> {
        std::fs::create_dir_all(dir).context("make the folder for pictures")?;
        let mut noise = Noise(20_240_229);
        for (split, rows) in [("train", self.train), ("t10k", self.test)] {
            let mut images = idx_header(&[rows, SIDE as u32, SIDE as u32]);
            let mut labels = idx_header(&[rows]);
            for row in 0..rows {
                let class = (row % 3) as u8;
                images.extend(picture(class, &mut noise));
                labels.push(class);
            }
            std::fs::write(dir.join(format!("{split}-images-idx3-ubyte")), images).context("write the pictures")?;
            std::fs::write(dir.join(format!("{split}-labels-idx1-ubyte")), labels).context("write the labels")?;
        }
        Ok(())
    }
}

/// Classes of [`write_folder`], in order.
pub const CLASSES: [&str; 3] = ["across", "both", "down"];

/// Writes `each` coloured pictures a class, of many sizes, into one sub-folder per class; the same at every call.
///
/// # Errors
/// The disk refuses.
pub fn write_folder(dir: &Path, each: usize) -> Result<()> {
    let mut noise = Noise(19_690_720);
    for (class, name) in CLASSES.iter().enumerate() {
        std::fs::create_dir_all(dir.join(name)).context("make a class's folder")?;
        for number in 0..each {
            let (width, height) = (16 + noise.below(20), 16 + noise.below(20));
            let (row, column) = (height / 4 + noise.below(height / 2), width / 4 + noise.below(width / 2));
            let pixel = |x: usize, y: usize| {
                let across = y.abs_diff(row) <= height / 10 && class != 2;
                let down = x.abs_diff(column) <= width / 10 && class != 0;
                let ink = if across || down { 190 } else { 20 };
                [ink, 40, 255 - ink].map(|shade| (shade + noise.below(40).min(255 - shade)) as u8)
            };
            std::fs::write(dir.join(name).join(format!("{number}.bmp")), bmp([width, height], pixel))
                .context("write a picture")?;
        }
    }
    Ok(())
}

/// Writes a picture of one colour, `side` by `side` pixels.
///
/// # Errors
/// The disk refuses.
pub fn write_colour(path: &Path, side: usize, colour: [u8; 3]) -> Result<()> {
    std::fs::write(path, bmp([side, side], |_, _| colour)).with_context(|| format!("write {}", path.display()))
}

/// Side of a picture that takes tens of milliseconds to read, in pixels.
const LARGE: u32 = 3000;

/// Pictures that keep a worker busy for a while: `count` in `dir`, half of them red, half blue, two small files under
/// many names.
///
/// # Errors
/// The disk refuses.
pub fn write_large(dir: &Path, count: usize) -> Result<()> {
    std::fs::create_dir_all(dir).context("make the folder for pictures")?;
    for (name, colour) in [("red", [250, 10, 10]), ("blue", [10, 10, 250])] {
        let file = |number: usize| dir.join(format!("{name}-{number:04}.png"));
        image::RgbImage::from_pixel(LARGE, LARGE, image::Rgb(colour)).save(file(0)).context("write a picture")?;
        for number in 1..count / 2 {
            std::fs::hard_link(file(0), file(number)).context("give a picture another name")?;
        }
    }
    Ok(())
}

/// A bitmap of 24 bits a pixel, which needs no encoder.
fn bmp([width, height]: [usize; 2], mut pixel: impl FnMut(usize, usize) -> [u8; 3]) -> Vec<u8> {
    let line = (3 * width).next_multiple_of(4);
    let mut bytes = b"BM".to_vec();
    let header = [54 + line * height, 0, 54, 40, width, height, 1 | 24 << 16, 0, line * height, 2835, 2835, 0, 0];
    bytes.extend(header.iter().flat_map(|number| (*number as u32).to_le_bytes()));
    for y in (0..height).rev() {
        let begin = bytes.len();
        (0..width).for_each(|x| bytes.extend(pixel(x, y).iter().rev()));
        bytes.resize(begin + line, 0);
    }
    bytes
}

/// Two zeros, the type (8: unsigned byte), the number of dimensions, then each of them, big endian.
fn idx_header(dimensions: &[u32]) -> Vec<u8> {
    let mut header = vec![0, 0, 8, dimensions.len() as u8];
    header.extend(dimensions.iter().flat_map(|n| n.to_be_bytes()));
    header
}

fn picture(class: u8, noise: &mut Noise) -> Vec<u8> {
    let middle_row = 2 + noise.below(SIDE - 4);
    let middle_column = 2 + noise.below(SIDE - 4);
    let mut pixels = vec![0u8; SIDE * SIDE];
    for (at, pixel) in pixels.iter_mut().enumerate() {
        let (row, column) = (at / SIDE, at % SIDE);
        let bar = row.abs_diff(middle_row) <= 1 && class != 1;
        let post = column.abs_diff(middle_column) <= 1 && class != 0;
        let ink = if bar || post { 190 } else { 0 };
        *pixel = ink + noise.below(60) as u8;
    }
    pixels
}

/// A linear congruential generator: enough for noise, and the same everywhere.
struct Noise(u64);

impl Noise {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }
}
