//! Resizing to the bit as Pillow does, which the pictures of pretrained networks went through: a filter that
//! widens as it shrinks a picture (antialias), in fixed point, across and then down, with bytes in between.
//!
//! Only what a crop keeps is computed.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::borrow::Cow;
use std::f64::consts::PI;
use std::ops::Range;

use shared::contract::Filter;

use super::Pixels;

/// Bits behind the point of a weight. A byte needs 8 more, and weights that overshoot 2.
const PRECISION: u32 = 32 - 8 - 2;
/// The variance, in reduced pixels, of what a JPEG's decoder blurs when it reduces, as a part of that of a bilinear filter of one
/// pixel (1/6). Of a mean of pixels it would be 1/2; the lowest frequencies of a block are sharper. Measured.
const REDUCTION_BLUR: f64 = 0.25;
const HALF: i32 = 1 << (PRECISION - 1);

/// What is kept along one edge of the new picture.
#[derive(Debug, Clone)]
pub(super) struct Edge {
    /// The new picture's pixels.
    pub(super) length: usize,
    /// Of them, those that are kept.
    pub(super) kept: Range<usize>,
}

/// Resizes a picture, and hands over each kept row, `[width, channels]`, from the first on.
pub(super) fn resample(picture: &Pixels, [rows, columns]: [&Edge; 2], filter: Filter, mut row: impl FnMut(&[u8])) {
    let (kernel, support): (fn(f64) -> f64, f64) = match filter {
        Filter::Nearest => return nearest(picture, [rows, columns], row),
        Filter::Box => (hat, 0.5),
        Filter::Bilinear => (triangle, 1.0),
        Filter::Hamming => (hamming, 1.0),
        Filter::Bicubic => (cubic, 2.0),
        Filter::Lanczos => (lanczos, 3.0),
    };
    let [height, width] = picture.extent;
    // What a decoder has reduced is blurred already.
    let is_reduced = picture.size != [picture.height, picture.width];
    let blur = if is_reduced && filter == Filter::Bilinear { REDUCTION_BLUR } else { 0.0 };
    let down = Windows::new((height, picture.height), rows, (kernel, support), blur);
    // Of the rows only those that are looked at.
    let read = down.reach();
    let line = picture.width * picture.channels;
    let source = &picture.bytes[read.start * line..read.end * line];
    let kept = columns.kept.len() * picture.channels;
    let across: Cow<'_, [u8]> = if columns.length as f64 == width && columns.kept == (0..picture.width) {
        source.into()
    } else {
        let windows = Windows::new((width, picture.width), columns, (kernel, support), blur);
        let mut bytes = vec![0; read.len() * kept];
        across(source, &mut bytes, &windows, picture.width, picture.channels);
        bytes.into()
    };
    let mut out = vec![0; kept];
    for (first, weights) in down.iter() {
        let lines = &across[(first - read.start) * kept..][..weights.len() * kept];
        if let [_] = weights {
            row(lines);
            continue;
        }
        sum_rows(lines, weights, &mut out);
        row(&out);
    }
}

/// What the new pixels are made of along one edge.
struct Windows {
    /// Of each the first old pixel, and where its weights begin.
    begins: Vec<(usize, usize)>,
    /// In fixed point, those of each pixel behind another's.
    weights: Vec<i32>,
}

impl Windows {
    /// For an edge that has `pixels`, which show a stretch as long as `extent` of them. The filter is as much narrower as
    /// together with `blur` it widens as much as alone.
    fn new((extent, pixels): (f64, usize), to: &Edge, (kernel, support): (fn(f64) -> f64, f64), blur: f64) -> Self {
        let scale = extent / to.length as f64;
        let widening = if blur == 0.0 { scale.max(1.0) } else { (scale * scale - blur).max(1.0).sqrt() };
        let support = support * widening;
        let mut windows = Self { begins: Vec::with_capacity(to.kept.len()), weights: Vec::new() };
        let mut exact = Vec::new();
        for index in to.kept.clone() {
            let centre = (index as f64 + 0.5) * scale;
            // Casts of numbers below zero give zero.
            let first = ((centre - support + 0.5) as usize).min(pixels - 1);
            let end = ((centre + support + 0.5) as usize).clamp(first + 1, pixels);
            exact.clear();
            exact.extend((first..end).map(|at| kernel((at as f64 - centre + 0.5) * (1.0 / widening))));
            let sum: f64 = exact.iter().sum();
            let fixed = |weight: &f64| (weight / sum * f64::from(1 << PRECISION)).round() as i32;
            let begin = windows.weights.len();
            windows.weights.extend(exact.iter().map(fixed));
            // What counts for nothing need not be read.
            while windows.weights.len() > begin + 1 && windows.weights.last() == Some(&0) {
                windows.weights.pop();
            }
            windows.begins.push((first, begin));
        }
        windows
    }

    /// The first old pixel and the weights of each new one.
    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let ends = self.begins.iter().skip(1).map(|(_, begin)| *begin).chain([self.weights.len()]);
        self.begins.iter().zip(ends).map(|((first, begin), end)| (*first, &self.weights[*begin..end]))
    }

    /// The old pixels that are looked at.
    fn reach(&self) -> Range<usize> {
        let first = self.begins.first().map_or(0, |(first, _)| *first);
        first..self.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(first)
    }
}

/// Resizes lines of `width` pixels.
fn across(source: &[u8], out: &mut [u8], windows: &Windows, width: usize, channels: usize) {
    #[cfg(target_arch = "x86_64")]
    if channels == 3 && is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has AVX2.
        return unsafe { avx2::across(source, out, windows, width) };
    }
    match channels {
        1 => across_by::<1>(source, out, windows, width),
        _ => across_by::<3>(source, out, windows, width),
    }
}

fn across_by<const CHANNELS: usize>(source: &[u8], out: &mut [u8], windows: &Windows, width: usize) {
    let lines = source.chunks_exact(width * CHANNELS);
    for (line, out) in lines.zip(out.chunks_exact_mut(windows.begins.len() * CHANNELS)) {
        let line = line.as_chunks::<CHANNELS>().0;
        for ((first, weights), out) in windows.iter().zip(out.as_chunks_mut::<CHANNELS>().0) {
            *out = one(&line[first..], weights);
        }
    }
}

/// One new pixel of the old ones from its first on.
fn one<const CHANNELS: usize>(pixels: &[[u8; CHANNELS]], weights: &[i32]) -> [u8; CHANNELS] {
    let mut sums = [HALF; CHANNELS];
    for (weight, pixel) in weights.iter().zip(pixels) {
        for (sum, byte) in sums.iter_mut().zip(pixel) {
            *sum += weight * i32::from(*byte);
        }
    }
    sums.map(byte)
}

/// A new row of as many old ones as there are weights.
fn sum_rows(lines: &[u8], weights: &[i32], out: &mut [u8]) {
    #[cfg(target_arch = "x86_64")]
    if out.len() >= avx2::BLOCK && is_x86_feature_detected!("avx2") {
        // SAFETY: the machine has AVX2.
        return unsafe { avx2::sum_rows(lines, weights, out) };
    }
    let across = out.len();
    for (at, out) in out.iter_mut().enumerate() {
        let old = lines[at..].iter().step_by(across);
        *out = byte(HALF + weights.iter().zip(old).map(|(weight, old)| weight * i32::from(*old)).sum::<i32>());
    }
}

/// A sum that began with [`HALF`], rounded and cut to a byte.
fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn nearest(picture: &Pixels, [rows, columns]: [&Edge; 2], mut row: impl FnMut(&[u8])) {
    let columns = places(picture.width, columns);
    let channels = picture.channels;
    let mut out = Vec::with_capacity(columns.len() * channels);
    for at in places(picture.height, rows) {
        let line = &picture.bytes[at * picture.width * channels..][..picture.width * channels];
        out.clear();
        columns.iter().for_each(|column| out.extend_from_slice(&line[column * channels..][..channels]));
        row(&out);
    }
}

/// The old pixel under the middle of each kept one. Added up, as Pillow does: it decides what falls between two.
fn places(from: usize, to: &Edge) -> Vec<usize> {
    let step = from as f64 / to.length as f64;
    let next = |at: &f64| Some(at + step);
    let all = std::iter::successors(Some(step * 0.5), next).map(|at| (at as usize).min(from - 1));
    all.take(to.kept.end).skip(to.kept.start).collect()
}

fn hat(x: f64) -> f64 {
    if -0.5 < x && x <= 0.5 { 1.0 } else { 0.0 }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// A sinc under a Hamming window.
fn hamming(x: f64) -> f64 {
    let x = x.abs();
    if x >= 1.0 { 0.0 } else { sinc(x) * (0.54 + 0.46 * libm::cos(x * PI)) }
}

/// Keys's cubic (1981) with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// A sinc under a sinc of three lobes.
fn lanczos(x: f64) -> f64 {
    if (-3.0..3.0).contains(&x) { sinc(x) * sinc(x / 3.0) } else { 0.0 }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { libm::sin(x * PI) / (x * PI) }
}

#[cfg(test)]
mod tests;
