//! What the values of a network are like, as far as was seen.

use crate::graph::Value;

use super::memory::Form;

/// What the channels of a network's values were like on some examples: between which numbers, and their means.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ranges {
    values: Vec<Seen>,
}

/// Of a value, by channels.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    extremes: Vec<[f32; 2]>,
    sums: Vec<f64>,
    /// Numbers of each channel.
    count: usize,
}

impl Ranges {
    /// Nothing was seen.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value of the first `n` examples.
    pub(super) fn add(&mut self, value: Value, form: &Form, floats: &[f32], n: usize) {
        if self.values.len() <= value.index() {
            self.values.resize(value.index() + 1, Seen::default());
        }
        let seen = &mut self.values[value.index()];
        let (channels, lanes) = match form {
            Form::Row(len) => (*len, *len),
            Form::Maps(maps) => (maps.channels, maps.lanes),
        };
        seen.extremes.resize(channels, [0.0; 2]);
        seen.sums.resize(channels, 0.0);
        for example in floats.chunks_exact(form.len()).take(n) {
            match form {
                Form::Row(_) => seen.add(0, example, lanes),
                Form::Maps(maps) => {
                    for block in 0..maps.blocks() {
                        for row in 0..maps.size[0] as isize {
                            let line = &example[maps.at(block, row, 0)..][..maps.size[1] * lanes];
                            seen.add(block * lanes, line, lanes);
                        }
                    }
                }
            }
            seen.count += match form {
                Form::Row(_) => 1,
                Form::Maps(maps) => maps.size[0] * maps.size[1],
            };
        }
    }

    /// Between which numbers, and zero, each channel of a value was: infinite where one was not finite. Nothing where it was not seen.
    pub(super) fn get(&self, value: Value) -> &[[f32; 2]] {
        self.values.get(value.index()).map_or(&[], |seen| seen.extremes.as_slice())
    }

    /// The mean of each channel of a value.
    pub(super) fn means(&self, value: Value) -> Vec<f32> {
        let seen = self.values.get(value.index());
        seen.map_or_else(Vec::new, |seen| seen.sums.iter().map(|sum| (sum / seen.count as f64) as f32).collect())
    }
}

impl Seen {
    /// Adds pixels of some channels, from number `first` on. Lanes behind the last channel are no numbers.
    fn add(&mut self, first: usize, pixels: &[f32], lanes: usize) {
        let mut sums = vec![0.0_f32; lanes];
        for pixel in pixels.chunks_exact(lanes) {
            for ((extremes, sum), number) in self.extremes[first..].iter_mut().zip(&mut sums).zip(pixel) {
                *sum += number;
                *extremes = if number.is_finite() {
                    [extremes[0].min(*number), extremes[1].max(*number)]
                } else {
                    [f32::NEG_INFINITY, f32::INFINITY]
                };
            }
        }
        for (total, sum) in self.sums[first..].iter_mut().zip(sums) {
            *total += f64::from(sum);
        }
    }
}
