//! Digits that Gannet draws itself, for machines that cannot have MNIST: pen strokes, bent, slanted and
//! smudged. A row depends on the seed, the split
//! and its number only.

use std::collections::BTreeMap;
use std::f32::consts::TAU;

use rand::Rng as _;
use shared::contract::ElementType;
use shared::random::{self, Stream};

use super::{Rows, Table};

/// Rows and columns of a picture.
const SIDE: usize = 28;

type Point = [f32; 2];
type Stroke = Vec<Point>;

/// Draws `train` and `test` rows of grey digits, `[1, 28, 28]`, ten classes in equal shares.
pub fn draw(train: u32, test: u32, seed: u32) -> Table {
    let splits =
        [("train", train), ("test", test)].map(|(split, rows)| (split.to_owned(), draw_rows(split, rows, seed)));
    Table {
        shape: vec![1, SIDE, SIDE],
        elements: ElementType::U8,
        classes: 10,
        labels: (0..10).map(|digit| digit.to_string()).collect(),
        splits: BTreeMap::from(splits),
    }
}

fn draw_rows(split: &str, rows: u32, seed: u32) -> Rows {
    let labels: Vec<u32> = (0..rows).map(|row| row % 10).collect();
    let mut inputs = Vec::with_capacity(labels.len() * SIDE * SIDE);
    for (row, digit) in (0..rows).zip(&labels) {
        let mut hand = Hand(random::stream(seed, &["digits".into(), split.into(), row.into()]));
        let strokes = glyph(*digit, &mut hand);
        let strokes = hand.bend(strokes);
        inputs.extend(hand.ink(&strokes));
    }
    Rows { inputs, labels }
}

/// A source of random gestures.
struct Hand(Stream);

impl Hand {
    /// Uniform from `low` to `high`.
    fn between(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * ((self.0.next_u32() >> 8) as f32 / (1u32 << 24) as f32)
    }

    fn one_in(&mut self, n: u32) -> bool {
        self.0.next_u32().is_multiple_of(n)
    }

    /// Takes strokes in the unit square to pixels: a wave for an unsteady hand, then a slant, a turn, a
    /// size and a place.
    fn bend(&mut self, strokes: Vec<Stroke>) -> Vec<Stroke> {
        let waves = [0, 1].map(|_| [self.between(0.0, 0.075), self.between(0.4, 1.3), self.between(0.0, TAU)]);
        let slant = self.between(-0.25, 0.45);
        let (sin, cos) = self.between(-0.28, 0.28).sin_cos();
        let size = [self.between(13.0, 21.0), self.between(15.0, 21.5)];
        let place = [self.between(-2.5, 2.5), self.between(-2.5, 2.5)];
        let middle = SIDE as f32 / 2.0;
        let bend = |[x, y]: Point| {
            let wave = |[height, turns, phase]: [f32; 3], along: f32| height * (TAU * turns * along + phase).sin();
            let (x, y) = (x + wave(waves[0], y), y + wave(waves[1], x));
            let (x, y) = ((x - 0.5 - slant * (y - 0.5)) * size[0], (y - 0.5) * size[1]);
            [middle + place[0] + cos * x - sin * y, middle + place[1] + sin * x + cos * y]
        };
        strokes.into_iter().map(|stroke| stroke.into_iter().map(bend).collect()).collect()
    }

    /// Draws strokes in pixels with a round pen, soft edges, uneven pressure and grain.
    fn ink(&mut self, strokes: &[Stroke]) -> Vec<u8> {
        let pen = self.between(0.65, 1.7);
        let dark = self.between(0.65, 1.0);
        let grain = self.between(0.0, 0.16);
        let fade = [self.between(-0.25, 0.25), self.between(-0.25, 0.25)];
        let mut pixels = Vec::with_capacity(SIDE * SIDE);
        for (index, nearest) in distances(strokes, pen + 0.5).into_iter().enumerate() {
            let [x, y] = middle_of(index);
            let pressure = 1.0 + (fade[0] * (x - 14.0) + fade[1] * (y - 14.0)) / 14.0;
            let cover = (pen - nearest + 0.5).clamp(0.0, 1.0) * (dark * pressure).clamp(0.0, 1.0);
            let noise = grain * (self.between(-1.0, 1.0) + self.between(-1.0, 1.0));
            pixels.push(((cover + noise).clamp(0.0, 1.0) * 255.0).round() as u8);
        }
        pixels
    }
}

/// From the middle of each pixel to the nearest stroke, where that is less than `reach`.
fn distances(strokes: &[Stroke], reach: f32) -> Vec<f32> {
    let mut nearest = vec![f32::INFINITY; SIDE * SIDE];
    for pair in strokes.iter().flat_map(|stroke| stroke.windows(2)) {
        let span = |axis: usize| {
            let (low, high) = (pair[0][axis].min(pair[1][axis]) - reach, pair[0][axis].max(pair[1][axis]) + reach);
            low.max(0.0) as usize..(high.max(0.0) as usize + 1).min(SIDE)
        };
        for index in span(1).flat_map(|y| span(0).map(move |x| y * SIDE + x)) {
            nearest[index] = nearest[index].min(distance(middle_of(index), pair[0], pair[1]));
        }
    }
    nearest
}

fn middle_of(pixel: usize) -> Point {
    [(pixel % SIDE) as f32 + 0.5, (pixel / SIDE) as f32 + 0.5]
}

/// From a point to the nearest of a segment.
fn distance(point: Point, from: Point, to: Point) -> f32 {
    let along = [to[0] - from[0], to[1] - from[1]];
    let out = [point[0] - from[0], point[1] - from[1]];
    let length = (along[0] * along[0] + along[1] * along[1]).max(1e-9);
    let share = ((out[0] * along[0] + out[1] * along[1]) / length).clamp(0.0, 1.0);
    (out[0] - share * along[0]).hypot(out[1] - share * along[1])
}

/// An arc of an ellipse around `(x, y)` from one angle to another, in turns: 0 is right, a quarter is
/// down.
fn arc(x: f32, y: f32, wide: f32, high: f32, from: f32, to: f32) -> Stroke {
    let parts = 4 + (14.0 * (to - from).abs()) as u32;
    (0..=parts)
        .map(|part| {
            let (sin, cos) = (TAU * (from + (to - from) * part as f32 / parts as f32)).sin_cos();
            [x + wide * cos, y + high * sin]
        })
        .collect()
}

fn joined(parts: &[Stroke]) -> Stroke {
    parts.concat()
}

/// The strokes of a digit in the unit square, `y` downwards, in one of the ways people write it.
fn glyph(digit: u32, hand: &mut Hand) -> Vec<Stroke> {
    let (v, w) = (hand.between(-0.08, 0.08), hand.between(-0.08, 0.08));
    let other = hand.one_in(2);
    match digit {
        0 => vec![arc(0.5, 0.5, 0.3 + v, 0.45, -0.25, 0.72 + v / 2.0)],
        1 if other => vec![vec![[0.5, 0.05], [0.5, 0.95]]],
        1 if hand.one_in(2) => vec![vec![[0.3 + v, 0.25], [0.52, 0.05], [0.52, 0.95]]],
        1 => vec![vec![[0.3 + v, 0.25], [0.52, 0.05], [0.52, 0.95]], vec![[0.28, 0.95], [0.76, 0.95]]],
        2 => vec![joined(&[
            arc(0.5, 0.3, 0.28 + v, 0.25, -0.47, 0.1 + w / 2.0),
            vec![[0.2, 0.92], [0.5, 0.92 + w / 2.0], [0.82, 0.93 + v / 2.0]],
        ])],
        3 => vec![joined(&[arc(0.45, 0.27, 0.27 + v, 0.22, -0.43, 0.2), arc(0.45, 0.72, 0.31 + w, 0.24, -0.2, 0.43)])],
        4 if other => {
            vec![vec![[0.62 + v, 0.05], [0.18, 0.62 + w], [0.86, 0.6 + w]], vec![[0.64 + v, 0.3], [0.62 + v, 0.96]]]
        }
        4 => {
            vec![vec![[0.24 + v, 0.07], [0.2 + v, 0.52 + w], [0.8, 0.5 + w]], vec![[0.74 + v, 0.08], [0.72 + v, 0.96]]]
        }
        5 => vec![joined(&[
            vec![[0.8, 0.06 + w / 2.0], [0.32 + v, 0.07], [0.28 + v, 0.44]],
            arc(0.48, 0.67, 0.3 + w, 0.26, -0.36, 0.4),
        ])],
        6 => vec![joined(&[
            vec![[0.7 + v, 0.05], [0.45 + v, 0.25], [0.28, 0.52]],
            arc(0.5, 0.7, 0.27 + w, 0.24, -0.55, 0.42),
        ])],
        7 if other => vec![vec![[0.2, 0.08 + w], [0.8, 0.07], [0.42 + v, 0.95]], vec![[0.32, 0.5], [0.74, 0.5 + w]]],
        7 => vec![vec![[0.2, 0.1 + w], [0.8, 0.07], [0.56 + v, 0.42], [0.42 + v, 0.95]]],
        8 => vec![arc(0.5, 0.27, 0.23 + v, 0.21, 0.25, 1.25), arc(0.5, 0.72, 0.28 + w, 0.24, -0.25, 0.75)],
        _ => vec![joined(&[
            arc(0.5, 0.3, 0.26 + v, 0.24, 0.02, 1.0),
            if other { vec![[0.74, 0.6], [0.68 + w, 0.95]] } else { arc(0.42, 0.62, 0.34, 0.32, 0.03, 0.35) },
        ])],
    }
}
