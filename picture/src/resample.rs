//! Resizing to the bit as Pillow does, which the pictures of pretrained networks went through: a filter that
//! widens as it shrinks a picture (antialias), in fixed point, across and then down, with bytes in between.

use std::f64::consts::PI;

use shared::contract::Filter;

use super::Pixels;

/// Bits behind the point of a weight. A byte needs 8 more, and weights that overshoot 2.
const PRECISION: u32 = 32 - 8 - 2;

/// The picture with another height and width.
pub(super) fn resample(picture: Pixels, [height, width]: [usize; 2], filter: Filter) -> Pixels {
    let (kernel, support): (fn(f64) -> f64, f64) = match filter {
        Filter::Nearest => return nearest(picture, [height, width]),
        Filter::Bilinear => (triangle, 1.0),
        Filter::Bicubic => (cubic, 2.0),
        Filter::Lanczos => (lanczos, 3.0),
    };
    let windows = |from: usize, to: usize| (from != to).then(|| windows(from, to, kernel, support));
    let picture = match windows(picture.width, width) {
        Some(windows) => across(&picture, &windows),
        None => picture,
    };
    match windows(picture.height, height) {
        Some(windows) => down(&picture, &windows),
        None => picture,
    }
}

/// What one new pixel is made of along one edge.
struct Window {
    /// The first old pixel.
    first: usize,
    /// The weight of each, in fixed point.
    weights: Vec<i32>,
}

fn windows(from: usize, to: usize, kernel: fn(f64) -> f64, support: f64) -> Vec<Window> {
    let scale = from as f64 / to as f64;
    let widening = scale.max(1.0);
    let support = support * widening;
    let window = |index: usize| {
        let centre = (index as f64 + 0.5) * scale;
        // Casts of numbers below zero give zero.
        let first = (centre - support + 0.5) as usize;
        let end = ((centre + support + 0.5) as usize).min(from);
        let weight = |at: usize| kernel((at as f64 - centre + 0.5) * (1.0 / widening));
        let weights: Vec<f64> = (first..end).map(weight).collect();
        let sum: f64 = weights.iter().sum();
        let fixed = |weight: f64| (weight / sum * f64::from(1 << PRECISION)).round() as i32;
        Window { first, weights: weights.into_iter().map(fixed).collect() }
    };
    (0..to).map(window).collect()
}

fn across(picture: &Pixels, windows: &[Window]) -> Pixels {
    match picture.channels {
        1 => across_by::<1>(picture, windows),
        _ => across_by::<3>(picture, windows),
    }
}

fn across_by<const CHANNELS: usize>(picture: &Pixels, windows: &[Window]) -> Pixels {
    let mut bytes = Vec::with_capacity(picture.height * windows.len() * CHANNELS);
    for line in picture.bytes.chunks_exact(picture.width * CHANNELS) {
        let line = line.as_chunks::<CHANNELS>().0;
        for window in windows {
            let mut sums = [HALF; CHANNELS];
            for (weight, pixel) in window.weights.iter().zip(&line[window.first..]) {
                for (sum, byte) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(*byte);
                }
            }
            bytes.extend(sums.map(byte));
        }
    }
    Pixels { width: windows.len(), bytes, ..*picture }
}

fn down(picture: &Pixels, windows: &[Window]) -> Pixels {
    let across = picture.width * picture.channels;
    let mut bytes = Vec::with_capacity(windows.len() * across);
    let mut sums = vec![HALF; across];
    for window in windows {
        sums.fill(HALF);
        for (weight, line) in window.weights.iter().zip(picture.bytes[window.first * across..].chunks_exact(across)) {
            sums.iter_mut().zip(line).for_each(|(sum, byte)| *sum += weight * i32::from(*byte));
        }
        bytes.extend(sums.iter().map(|sum| byte(*sum)));
    }
    Pixels { height: windows.len(), bytes, ..*picture }
}

const HALF: i32 = 1 << (PRECISION - 1);

/// A sum that began with [`HALF`], rounded and cut to a byte.
fn byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn nearest(picture: Pixels, [height, width]: [usize; 2]) -> Pixels {
    if [picture.height, picture.width] == [height, width] {
        return picture;
    }
    let (rows, columns) = (places(picture.height, height), places(picture.width, width));
    let channels = picture.channels;
    let mut bytes = Vec::with_capacity(height * width * channels);
    for row in rows {
        let line = &picture.bytes[row * picture.width * channels..][..picture.width * channels];
        columns.iter().for_each(|column| bytes.extend_from_slice(&line[column * channels..][..channels]));
    }
    Pixels { height, width, channels, bytes }
}

/// The old pixel under the middle of each new one. Added up, as Pillow does: it decides what falls between two.
fn places(from: usize, to: usize) -> Vec<usize> {
    let step = from as f64 / to as f64;
    let next = |at: &f64| Some(at + step);
    std::iter::successors(Some(step * 0.5), next).take(to).map(|at| (at as usize).min(from - 1)).collect()
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
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
