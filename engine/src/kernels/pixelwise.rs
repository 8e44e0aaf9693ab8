//! What is computed over the channels of each pixel by itself: softmax and layer norm.

use super::math::exp;
use super::view::{View, get, lanes, put};
use crate::simd::{LANES, Path, Simd, on_path};

/// Calls `$body` for each pixel with where it begins in the operand and in the result.
macro_rules! each_pixel {
    ($x:expr, $y:expr, $from:expr, $to:expr, |$a:ident, $b:ident| $body:block) => {
        for row in 0..$x.rows {
            for pixel in 0..$x.pixels {
                let $a = $from.add($x.at(0) + row * $x.row + pixel * $x.pixel);
                let $b = $to.add($y.at(0) + row * $y.row + pixel * $y.pixel);
                $body
            }
        }
    };
}

/// Checks operands of one shape and their lengths.
fn check(x: &View, y: &View, x_len: usize, y_len: usize) {
    assert!((x.channels, x.rows, x.pixels) == (y.channels, y.rows, y.pixels), "operands of one shape");
    assert!(x_len >= x.len() && y_len >= y.len(), "operands of the planned size");
}

/// A block's channels that mean something, as a mask.
#[inline(always)]
unsafe fn real<S: Simd>(view: &View, block: usize) -> (usize, S::M) {
    let count = (view.channels - block * LANES).min(LANES);
    // SAFETY: the caller's.
    (count, unsafe { S::mask(((1_u32 << count) - 1) as u16) })
}

/// `e^x / sum(e^x)` over the channels of each pixel.
#[derive(Debug)]
pub struct Softmax {
    path: Path,
    x: View,
    y: View,
}

impl Softmax {
    /// Of operands like `x`, written to one like `y`.
    pub fn new(path: Path, x: View, y: View) -> Self {
        Self { path, x, y }
    }

    /// One example. Lanes behind the last channel become zero.
    pub fn run(&self, x: &[f32], y: &mut [f32]) {
        let (x_view, y_view) = (&self.x, &self.y);
        check(x_view, y_view, x.len(), y.len());
        let (from, to) = (x.as_ptr(), y.as_mut_ptr());
        // SAFETY: the lengths are checked; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                let (none, zero) = (S::splat(f32::NEG_INFINITY), S::splat(0.0));
                each_pixel!(x_view, y_view, from, to, |x, y| {
                    let mut most = none;
                    for block in 0..x_view.blocks() {
                        let (count, mask) = real::<S>(x_view, block);
                        let v = S::load_first(x.add(block * x_view.block), count);
                        // What is not a number stands first: it is passed over here and met in the sum.
                        most = S::max(S::select(mask, v, none), most);
                    }
                    let most = lanes::<S>(most).into_iter().fold(f32::NEG_INFINITY, |m, v| if v > m { v } else { m });
                    let mut sum = zero;
                    for block in 0..x_view.blocks() {
                        let (count, mask) = real::<S>(x_view, block);
                        let v = S::load_first(x.add(block * x_view.block), count);
                        let e = S::select(mask, exp::<S>(S::sub(v, S::splat(most))), zero);
                        sum = S::add(sum, e);
                        put::<S>(y.add(block * y_view.block), e, y_view.lanes_of(block));
                    }
                    let total: f64 = lanes::<S>(sum).into_iter().map(f64::from).sum();
                    let share = S::splat((1.0 / total) as f32);
                    for block in 0..x_view.blocks() {
                        let (y, count) = (y.add(block * y_view.block), y_view.lanes_of(block));
                        put::<S>(y, S::mul(get::<S>(y, count), share), count);
                    }
                });
            });
        });
    }
}

/// Layer norm (Ba et al. 2016) over the channels of each pixel, with a weight and a bias a channel.
#[derive(Debug)]
pub struct ChannelNorm {
    path: Path,
    epsilon: f64,
    x: View,
    y: View,
}

impl ChannelNorm {
    /// Of operands like `x`, written to one like `y`.
    pub fn new(path: Path, epsilon: f64, x: View, y: View) -> Self {
        Self { path, epsilon, x, y }
    }

    /// One example; weight and bias have a number for every lane of every block, zero behind the last channel.
    pub fn run(&self, weight: &[f32], bias: &[f32], x: &[f32], y: &mut [f32]) {
        let (x_view, y_view) = (&self.x, &self.y);
        check(x_view, y_view, x.len(), y.len());
        assert!(weight.len() >= x_view.lanes() && bias.len() >= x_view.lanes(), "a number for every lane");
        let (from, to, weight, bias) = (x.as_ptr(), y.as_mut_ptr(), weight.as_ptr(), bias.as_ptr());
        let channels = x_view.channels as f64;
        // SAFETY: the lengths are checked; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                let zero = S::splat(0.0);
                each_pixel!(x_view, y_view, from, to, |x, y| {
                    let mut sum = zero;
                    for block in 0..x_view.blocks() {
                        let (count, _) = real::<S>(x_view, block);
                        sum = S::add(sum, S::load_first(x.add(block * x_view.block), count));
                    }
                    let mean = (lanes::<S>(sum).into_iter().map(f64::from).sum::<f64>() / channels) as f32;
                    let centre = S::splat(mean);
                    // A second pass around the mean: a large one costs no digits.
                    let (mut sum, mut squares) = (zero, zero);
                    for block in 0..x_view.blocks() {
                        let (count, mask) = real::<S>(x_view, block);
                        let v = S::sub(S::load_first(x.add(block * x_view.block), count), centre);
                        let v = S::select(mask, v, zero);
                        sum = S::add(sum, v);
                        squares = S::fma(v, v, squares);
                    }
                    let off = lanes::<S>(sum).into_iter().map(f64::from).sum::<f64>() / channels;
                    let square = lanes::<S>(squares).into_iter().map(f64::from).sum::<f64>() / channels;
                    let deviation = (square - off * off).max(0.0) + self.epsilon;
                    let (scale, off) = (S::splat((1.0 / deviation.sqrt()) as f32), S::splat(off as f32));
                    for block in 0..x_view.blocks() {
                        let (count, _) = real::<S>(x_view, block);
                        let v = S::sub(S::sub(S::load_first(x.add(block * x_view.block), count), centre), off);
                        let (weight, bias) = (S::load(weight.add(block * LANES)), S::load(bias.add(block * LANES)));
                        let v = S::fma(v, S::mul(scale, weight), bias);
                        put::<S>(y.add(block * y_view.block), v, y_view.lanes_of(block));
                    }
                });
            });
        });
    }
}
