//! The gradients of batch normalisation, of the residual sum and relu behind it.

use super::batch::Constants;
use super::{SUMS, Tile, each_block, each_pixel, lanes, tiles};
use crate::kernels::view::{View, get, joined, put};
use crate::simd::{LANES, Path, Simd, on_path};

/// How the gradient passes relu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mask {
    /// There is none.
    None,
    /// Where `(x - mean) * scale + bias > 0`, computed again: `y` need not be read, nor kept.
    Argument,
    /// Where `y > 0`, as behind a residual sum. [`Backward::masked_sums`] leaves the masked gradient in `dy`: this is the
    /// gradient of the residual as well, so that a plan hands that buffer on and lets `dx` be written elsewhere.
    Result,
}

/// Factors of an input's gradient, `dx = a * dy + b * (x - mean) + c`, and the gradients of weight and bias.
#[derive(Debug, Clone)]
pub struct Slopes {
    factors: [Vec<f32>; 3],
    /// Of the weight.
    pub weight: Vec<f32>,
    /// Of the bias.
    pub bias: Vec<f32>,
}

impl Slopes {
    /// From the parts of a batch's examples, in their order, of `count` elements a channel altogether.
    pub fn new(constants: &Constants, count: usize, parts: &[f64]) -> Self {
        let lanes = constants.mean.len();
        let channels = constants.rest.len();
        let (mut plain, mut along) = (vec![0.0; channels], vec![0.0; channels]);
        for part in parts.chunks_exact(2 * lanes) {
            for channel in 0..channels {
                plain[channel] += part[channel];
                along[channel] += part[lanes + channel];
            }
        }
        let deviation = &constants.deviation;
        for channel in 0..channels {
            along[channel] = (along[channel] - constants.rest[channel] * plain[channel]) * deviation[channel];
        }
        let count = count as f64;
        let shares = |sums: &[f64]| sums.iter().map(|sum| sum / count).collect::<Vec<_>>();
        let [shares_plain, shares_along] = [shares(&plain), shares(&along)];
        let factors = Self::factors(constants, &constants.scale, |channel| {
            let scale = f64::from(constants.scale[channel]);
            [scale * shares_plain[channel], scale * shares_along[channel]]
        });
        let rounded = |sums: &[f64]| sums.iter().map(|sum| *sum as f32).collect();
        Self { factors, weight: rounded(&along), bias: rounded(&plain) }
    }

    /// With `scale` of the gradient, less the shares of the plain sum and of the normalised input.
    pub(super) fn factors(constants: &Constants, scale: &[f32], shares: impl Fn(usize) -> [f64; 2]) -> [Vec<f32>; 3] {
        let (mut b, mut c) = (vec![0.0; scale.len()], vec![0.0; scale.len()]);
        for (channel, rest) in constants.rest.iter().enumerate() {
            let [plain, along] = shares(channel);
            let along = -along * constants.deviation[channel];
            b[channel] = along as f32;
            c[channel] = (-plain - along * rest) as f32;
        }
        [scale.to_vec(), b, c]
    }

    /// Of nothing but factors.
    pub(super) fn of(factors: [Vec<f32>; 3]) -> Self {
        Self { factors, weight: Vec::new(), bias: Vec::new() }
    }
}

/// The gradients of a normalisation, in two passes: the sums of every example, then each example's `dx`.
#[derive(Debug)]
pub struct Backward {
    path: Path,
    x: View,
    y: View,
    dy: View,
    dx: View,
    mask: Mask,
}

impl Backward {
    /// From operands like `x`, `y` (with [`Mask::Result`]; else it is not read) and `dy` to one like `dx`.
    pub fn new(path: Path, x: View, y: View, dy: View, dx: View, mask: Mask) -> Self {
        let [x, y, dy, dx] = joined([x, y, dy, dx]);
        Self { path, x, y, dy, dx, mask }
    }

    /// Numbers of a part: for all lanes the sums of `dy`, then those of `dy * (x - mean)`.
    pub fn len(&self) -> usize {
        2 * self.x.lanes()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One example's part.
    pub fn sums(&self, constants: &Constants, x: &[f32], dy: &[f32], part: &mut [f64]) {
        assert!(x.len() >= self.x.len() && dy.len() >= self.dy.len(), "operands of the planned size");
        assert_eq!(constants.mean.len(), self.x.lanes(), "constants for every channel");
        let (x, dy) = (x.as_ptr(), dy.as_ptr().cast_mut());
        // SAFETY: the lengths are checked; nothing is written but behind `Mask::Result`; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || match self.mask {
                Mask::None => self.pass::<S, NONE>(constants, x, x, dy, part),
                Mask::Argument => self.pass::<S, ARGUMENT>(constants, x, x, dy, part),
                Mask::Result => unreachable!("`masked_sums` writes the mask"),
            });
        });
    }

    /// One example's part behind [`Mask::Result`]. Where `y` is not positive `dy` becomes zero.
    pub fn masked_sums(&self, constants: &Constants, x: &[f32], y: &[f32], dy: &mut [f32], part: &mut [f64]) {
        assert!(x.len() >= self.x.len() && dy.len() >= self.dy.len(), "operands of the planned size");
        assert!(y.len() >= self.y.len() && self.mask == Mask::Result, "a result as planned");
        assert_eq!(constants.mean.len(), self.x.lanes(), "constants for every channel");
        let (x, y, dy) = (x.as_ptr(), y.as_ptr(), dy.as_mut_ptr());
        // SAFETY: as above.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || self.pass::<S, RESULT>(constants, x, y, dy, part));
        });
    }

    #[inline(always)]
    unsafe fn pass<S: Simd, const MASK: u8>(
        &self,
        constants: &Constants,
        x: *const f32,
        y: *const f32,
        dy: *mut f32,
        part: &mut [f64],
    ) {
        let (plain, along) = part[..self.len()].split_at_mut(self.x.lanes());
        for block in 0..self.x.blocks() {
            let here = self.x.lanes_of(block);
            let (plain, along) = (&mut plain[block * LANES..][..LANES], &mut along[block * LANES..][..LANES]);
            plain.fill(0.0);
            along.fill(0.0);
            // SAFETY: the caller's.
            unsafe {
                let [x, dy] = [x.add(self.x.at(block)), dy.add(self.dy.at(block)).cast_const()];
                let y = if MASK == RESULT { y.add(self.y.at(block)) } else { y };
                tiles(
                    &self.x,
                    #[inline(always)]
                    |tile| {
                        let [a, b] = match here {
                            LANES => self.tile::<S, MASK>(constants, block, tile, x, y, dy.cast_mut(), LANES),
                            _ => self.tile::<S, MASK>(constants, block, tile, x, y, dy.cast_mut(), here),
                        };
                        for lane in 0..LANES {
                            plain[lane] += a[lane];
                            along[lane] += b[lane];
                        }
                    },
                );
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "operands of one formula")]
    #[inline(always)]
    unsafe fn tile<S: Simd, const MASK: u8>(
        &self,
        constants: &Constants,
        block: usize,
        tile: Tile,
        x: *const f32,
        y: *const f32,
        dy: *mut f32,
        here: usize,
    ) -> [[f64; LANES]; 2] {
        // SAFETY: the caller's.
        unsafe {
            let zero = S::splat(0.0);
            let [mean, scale, bias] = constants.block::<S>(block);
            let (mut plain, mut along) = ([zero; SUMS], [zero; SUMS]);
            each_pixel!(tile, row, pixel, sum => {
                let to = dy.add(row * self.dy.row + pixel * self.dy.pixel);
                let x = S::sub(get::<S>(x.add(row * self.x.row + pixel * self.x.pixel), here), mean);
                let mut slope = get::<S>(to, here);
                if MASK == ARGUMENT {
                    slope = S::if_greater(S::fma(x, scale, bias), zero, slope, zero);
                } else if MASK == RESULT {
                    let y = get::<S>(y.add(row * self.y.row + pixel * self.y.pixel), here);
                    slope = S::if_greater(y, zero, slope, zero);
                    put::<S>(to, slope, here);
                }
                plain[sum] = S::add(plain[sum], slope);
                along[sum] = S::fma(slope, x, along[sum]);
            });
            [lanes::<S>(plain), lanes::<S>(along)]
        }
    }

    /// One example's `dx`, after the sums of all: it overwrites what stands there, or is added to it. Without a `dy` it is what
    /// stands in `dx`.
    pub fn input(
        &self,
        constants: &Constants,
        slopes: &Slopes,
        x: &[f32],
        dy: Option<&[f32]>,
        dx: &mut [f32],
        add: bool,
    ) {
        assert!(dy.is_some() || (self.dy == self.dx && !add), "a gradient in place lies like its result");
        assert!(x.len() >= self.x.len() && dx.len() >= self.dx.len(), "operands of the planned size");
        assert!(dy.is_none_or(|dy| dy.len() >= self.dy.len()), "operands of the planned size");
        assert!(slopes.factors[0].len() == self.x.lanes() && constants.mean.len() == self.x.lanes(), "all channels");
        let (x, dx) = (x.as_ptr(), dx.as_mut_ptr());
        let dy = dy.map_or(dx.cast_const(), <[f32]>::as_ptr);
        // SAFETY: as above; only `dx` is written.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || match (self.mask, add) {
                (Mask::Argument, false) => self.last::<S, ARGUMENT, false>(constants, slopes, x, dy, dx),
                (Mask::Argument, true) => self.last::<S, ARGUMENT, true>(constants, slopes, x, dy, dx),
                (_, false) => self.last::<S, NONE, false>(constants, slopes, x, dy, dx),
                (_, true) => self.last::<S, NONE, true>(constants, slopes, x, dy, dx),
            });
        });
    }

    #[inline(always)]
    unsafe fn last<S: Simd, const MASK: u8, const ADD: bool>(
        &self,
        constants: &Constants,
        slopes: &Slopes,
        x: *const f32,
        dy: *const f32,
        dx: *mut f32,
    ) {
        each_block(
            &self.x,
            #[inline(always)]
            |block, lanes| {
                // SAFETY: the caller's.
                unsafe {
                    let zero = S::splat(0.0);
                    let [mean, scale, bias] = constants.block::<S>(block);
                    let at = block * LANES;
                    let [a, b, c] = [0, 1, 2].map(
                        #[inline(always)]
                        |i: usize| S::load(slopes.factors[i][at..].as_ptr()),
                    );
                    for row in 0..self.x.rows {
                        let x = x.add(self.x.at(block) + row * self.x.row);
                        let dy = dy.add(self.dy.at(block) + row * self.dy.row);
                        let dx = dx.add(self.dx.at(block) + row * self.dx.row);
                        for pixel in 0..self.x.pixels {
                            let to = dx.add(pixel * self.dx.pixel);
                            let x = S::sub(get::<S>(x.add(pixel * self.x.pixel), lanes), mean);
                            let mut slope = get::<S>(dy.add(pixel * self.dy.pixel), lanes);
                            if MASK == ARGUMENT {
                                slope = S::if_greater(S::fma(x, scale, bias), zero, slope, zero);
                            }
                            slope = S::fma(a, slope, S::fma(b, x, c));
                            if ADD {
                                slope = S::add(slope, get::<S>(to, lanes));
                            }
                            put::<S>(to, slope, lanes);
                        }
                    }
                }
            },
        );
    }
}

/// [`Mask`] as a constant.
const NONE: u8 = 0;
const ARGUMENT: u8 = 1;
const RESULT: u8 = 2;
