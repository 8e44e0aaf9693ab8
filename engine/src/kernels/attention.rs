//! Scaled dot-product attention (Vaswani et al. 2017): `softmax(scale q k^T) v` of each head.
//!
//! A head's keys and values are copied to where they lie side by side; then a few queries at a time are multiplied with all keys,
//! exponentiated and multiplied with all values, while their scores stay in the first cache.

use super::math::exp;
use super::view::View;
use crate::simd::{LANES, Path, Simd, on_path};

/// Queries of a tile, where there are enough registers.
const QUERIES: usize = 8;

/// Attention of tokens, a pixel each; a head has an equal part of the channels.
#[derive(Debug)]
pub struct Attention {
    path: Path,
    heads: usize,
    scale: f32,
    q: View,
    k: View,
    v: View,
    y: View,
}

/// Where the parts of a head lie in the scratch memory.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    /// Channels of a head in queries and keys, and in values, whole vectors of them.
    depth: usize,
    width: usize,
    /// Tokens of keys, and whole vectors of them.
    keys: usize,
    columns: usize,
}

impl Attention {
    /// Of queries, keys and values like `q`, `k` and `v`, written to one like `y`.
    pub fn new(path: Path, heads: usize, scale: f32, [q, k, v]: [View; 3], y: View) -> Self {
        assert!(q.channels == k.channels && v.channels == y.channels, "channels that fit");
        assert!(q.count() == y.count() && k.count() == v.count(), "tokens that fit");
        assert!(q.channels.is_multiple_of(heads) && v.channels.is_multiple_of(heads), "channels in equal heads");
        Self { path, heads, scale, q, k, v, y }
    }

    fn sizes(&self) -> Sizes {
        Sizes {
            depth: self.q.channels / self.heads,
            width: (self.v.channels / self.heads).next_multiple_of(LANES),
            keys: self.k.count(),
            columns: self.k.count().next_multiple_of(LANES),
        }
    }

    /// Floats that [`Attention::run`] works in.
    pub fn scratch_len(&self) -> usize {
        let Sizes { depth, width, columns, .. } = self.sizes();
        columns * depth + columns * width + QUERIES * depth + QUERIES * columns
    }

    /// One example.
    pub fn run(&self, q: &[f32], k: &[f32], v: &[f32], y: &mut [f32], scratch: &mut [f32]) {
        assert!(q.len() >= self.q.len() && k.len() >= self.k.len(), "operands of the planned size");
        assert!(v.len() >= self.v.len() && y.len() >= self.y.len(), "operands of the planned size");
        assert!(scratch.len() >= self.scratch_len(), "room to work in");
        let Sizes { depth, width, columns, .. } = self.sizes();
        let (keys, rest) = scratch.split_at_mut(columns * depth);
        let (values, rest) = rest.split_at_mut(columns * width);
        let (queries, scores) = rest.split_at_mut(QUERIES * depth);
        keys.fill(0.0);
        values.fill(0.0);
        for head in 0..self.heads {
            self.pack(head, k, v, keys, values);
            on_path!(self.path, S => {
                if S::REGISTERS > 16 {
                    self.head::<S, QUERIES>(head, q, keys, values, queries, scores, y);
                } else {
                    self.head::<S, { QUERIES / 2 }>(head, q, keys, values, queries, scores, y);
                }
            });
        }
    }

    /// Copies a head's keys to `[keys / 16][depth][16]` and its values to `[keys][width]`.
    fn pack(&self, head: usize, k: &[f32], v: &[f32], keys: &mut [f32], values: &mut [f32]) {
        let Sizes { depth, width, .. } = self.sizes();
        for (from, view, each) in [(k, &self.k, depth), (v, &self.v, self.v.channels / self.heads)] {
            for part in parts(head * each, each) {
                for row in 0..view.rows {
                    for pixel in 0..view.pixels {
                        let at = view.at(part.block) + row * view.row + pixel * view.pixel + part.lane;
                        let (from, token) = (&from[at..at + part.count], row * view.pixels + pixel);
                        if std::ptr::eq(view, &raw const self.v) {
                            values[token * width + part.first..][..part.count].copy_from_slice(from);
                        } else {
                            let to = &mut keys[(token / LANES * depth + part.first) * LANES + token % LANES..];
                            from.iter().enumerate().for_each(|(index, x)| to[index * LANES] = *x);
                        }
                    }
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "operands of one formula and what it works in")]
    #[expect(clippy::needless_range_loop, reason = "with iterators the sums would live in memory")]
    fn head<S: Simd, const Q: usize>(
        &self,
        head: usize,
        q: &[f32],
        keys: &[f32],
        values: &[f32],
        queries: &mut [f32],
        scores: &mut [f32],
        y: &mut [f32],
    ) {
        let Sizes { depth, width, keys: count, columns } = self.sizes();
        let each = self.v.channels / self.heads;
        let (q_view, y_view) = (&self.q, &self.y);
        let place = |view: &View, token: usize| token / view.pixels * view.row + token % view.pixels * view.pixel;
        for first in (0..q_view.count()).step_by(Q) {
            let here = Q.min(q_view.count() - first);
            for query in 0..here {
                for part in parts(head * depth, depth) {
                    let at = q_view.at(part.block) + place(q_view, first + query) + part.lane;
                    let to = &mut queries[query * depth + part.first..][..part.count];
                    to.iter_mut().zip(&q[at..]).for_each(|(to, x)| *to = x * self.scale);
                }
            }
            let mut shares = [0.0_f32; QUERIES];
            // SAFETY: `queries` holds `Q` rows of `depth`, `scores` `Q` rows of `columns`, and keys and values are as `pack` leaves them;
            // the path is the machine's.
            unsafe {
                S::run(
                    #[inline(always)]
                    || {
                        for block in 0..columns / LANES {
                            let mut sums = [S::splat(0.0); Q];
                            let keys = keys.as_ptr().add(block * depth * LANES);
                            for channel in 0..depth {
                                let key = S::load(keys.add(channel * LANES));
                                for query in 0..Q {
                                    let x = *queries.as_ptr().add(query * depth + channel);
                                    sums[query] = S::fma(S::splat(x), key, sums[query]);
                                }
                            }
                            for query in 0..Q {
                                S::store(scores.as_mut_ptr().add(query * columns + block * LANES), sums[query]);
                            }
                        }
                        for query in 0..here {
                            let total = exponentials::<S>(&mut scores[query * columns..][..columns], count);
                            shares[query] = (1.0 / total) as f32;
                        }
                        for block in 0..width / LANES {
                            let mut sums = [S::splat(0.0); Q];
                            for key in 0..count {
                                let value = S::load(values.as_ptr().add(key * width + block * LANES));
                                for query in 0..Q {
                                    let x = *scores.as_ptr().add(query * columns + key);
                                    sums[query] = S::fma(S::splat(x), value, sums[query]);
                                }
                            }
                            for query in 0..Q {
                                let mut lanes = [0.0; LANES];
                                S::store(lanes.as_mut_ptr(), S::mul(sums[query], S::splat(shares[query])));
                                if query < here {
                                    let from = block * LANES;
                                    for part in parts(head * each + from, LANES.min(each - from)) {
                                        let at = y_view.at(part.block) + place(y_view, first + query) + part.lane;
                                        y[at..][..part.count].copy_from_slice(&lanes[part.first..][..part.count]);
                                    }
                                }
                            }
                        }
                    },
                );
            }
        }
    }
}

/// `e^(x - largest)` of the first `count` numbers, zero behind them, and their sum.
#[inline(always)]
unsafe fn exponentials<S: Simd>(scores: &mut [f32], count: usize) -> f64 {
    let most = scores[..count].iter().fold(f32::NEG_INFINITY, |most, x| if *x > most { *x } else { most });
    let mut total = 0.0;
    for (block, scores) in scores.chunks_exact_mut(LANES).enumerate() {
        // SAFETY: the caller's.
        unsafe { S::store(scores.as_mut_ptr(), exp::<S>(S::sub(S::load(scores.as_ptr()), S::splat(most)))) };
        let real = LANES.min(count.saturating_sub(block * LANES));
        scores[real..].fill(0.0);
        total += f64::from(scores.iter().sum::<f32>());
    }
    total
}

/// Channels that lie in one block.
#[derive(Debug, Clone, Copy)]
struct Part {
    block: usize,
    lane: usize,
    /// How many, and the number of the first among all.
    count: usize,
    first: usize,
}

/// `count` channels from `start`, by blocks.
fn parts(start: usize, count: usize) -> impl Iterator<Item = Part> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let at = start + done;
        let part =
            Part { block: at / LANES, lane: at % LANES, count: (LANES - at % LANES).min(count - done), first: done };
        done += part.count;
        (part.count > 0).then_some(part)
    })
}
