//! Layer norm (Ba et al. 2016): each example alone, all of it together, a weight an element.

use super::{SUMS, deviation, each, each_pixel, lanes, tiles};
use crate::kernels::view::{View, get, joined, put};
use crate::simd::{LANES, Path, Simd, on_path};

/// Normalises one example, then multiplies each element by a weight of its own and adds a bias of its own.
///
/// A row of features is [`View::rows`] of one row; group norm of such a row is this for each of its parts.
#[derive(Debug)]
pub struct ElementNorm {
    path: Path,
    epsilon: f64,
    /// Views of `x`, the weights, `y`, `dy` and `dx`, of the whole example or of two parts of it.
    parts: Vec<[View; 5]>,
    count: f64,
}

/// The operands' places in a part.
const X: usize = 0;
const W: usize = 1;
const Y: usize = 2;
const DY: usize = 3;
const DX: usize = 4;

impl ElementNorm {
    /// From operands like `x` to operands like `y`, with weights and biases that lie like `weights`; gradients lie like `dx`,
    /// `dy` and `weights`.
    pub fn new(path: Path, epsilon: f64, weights: View, [x, y]: [View; 2], [dx, dy]: [View; 2]) -> Self {
        let count = (x.count() * x.channels) as f64;
        let folded = joined([x, weights, y, dy, dx]).map(View::folded);
        let parts = (0..folded[0].len()).map(|part| [0, 1, 2, 3, 4].map(|index: usize| folded[index][part])).collect();
        Self { path, epsilon, parts, count }
    }

    /// One example. Gives its mean and the reciprocal of its standard deviation, for the gradient.
    pub fn forward(&self, weight: &[f32], bias: &[f32], x: &[f32], y: &mut [f32]) -> [f64; 2] {
        assert!(x.len() >= self.len(X) && y.len() >= self.len(Y), "operands of the planned size");
        assert!(weight.len() >= self.len(W) && bias.len() >= self.len(W), "a weight and a bias for every element");
        let (x, y, weight, bias) = (x.as_ptr(), y.as_mut_ptr(), weight.as_ptr(), bias.as_ptr());
        // SAFETY: the lengths are checked; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                let sum = self.sum::<S>(x, #[inline(always)] |x| x);
                let mean = sum / self.count;
                let centre = S::splat(mean as f32);
                let squares = self.sum::<S>(x, #[inline(always)] |x| {
                    let x = S::sub(x, centre);
                    S::mul(x, x)
                });
                let off = mean - f64::from(mean as f32);
                let variance = (squares / self.count - off * off).max(0.0);
                let deviation = deviation(variance, self.epsilon);
                let (scale, shift) = (S::splat(deviation as f32), S::splat((-off * deviation) as f32));
                self.each(#[inline(always)] |part, row, pixel, block, here| {
                    let at = place(&part[W], block, row, pixel);
                    let normal = S::fma(S::sub(get::<S>(x.add(place(&part[X], block, row, pixel)), here), centre), scale, shift);
                    let v = S::fma(normal, get::<S>(weight.add(at), here), get::<S>(bias.add(at), here));
                    put::<S>(y.add(place(&part[Y], block, row, pixel)), v, here);
                });
                [mean, deviation]
            })
        })
    }

    /// One example's `dx`, which overwrites what stands there or is added to it; without a `dy` it is what stands in `dx`. The
    /// gradients of weight and bias are added to `dw` and `db`.
    #[expect(clippy::too_many_arguments, reason = "operands of one formula")]
    pub fn backward(
        &self,
        weight: &[f32],
        [mean, deviation]: [f64; 2],
        x: &[f32],
        dy: Option<&[f32]>,
        dx: &mut [f32],
        add: bool,
        dw: &mut [f32],
        db: &mut [f32],
    ) {
        let alike = self.parts.iter().all(|part| part[DY] == part[DX]);
        assert!(dy.is_some() || (alike && !add), "a gradient in place lies like its result");
        assert!(x.len() >= self.len(X) && dx.len() >= self.len(DX), "operands of the planned size");
        assert!(dy.is_none_or(|dy| dy.len() >= self.len(DY)), "operands of the planned size");
        let len = self.len(W);
        assert!(weight.len() >= len && dw.len() >= len && db.len() >= len, "a weight for every element");
        let (x, dx, weight) = (x.as_ptr(), dx.as_mut_ptr(), weight.as_ptr());
        let (dw, db) = (dw.as_mut_ptr(), db.as_mut_ptr());
        let dy = dy.map_or(dx.cast_const(), <[f32]>::as_ptr);
        // SAFETY: the lengths are checked; the path is the machine's.
        on_path!(self.path, S => unsafe {
            S::run(#[inline(always)] || {
                let (centre, scale) = (S::splat(mean as f32), S::splat(deviation as f32));
                let mut totals = [0.0; 2];
                for (part, block) in self.blocks() {
                    let here = part[X].lanes_of(block);
                    tiles(&part[X], #[inline(always)] |tile| {
                        let mut sums = [[S::splat(0.0); SUMS]; 2];
                        // Lanes beyond the last channel add nothing: their gradients are zero.
                        each_pixel!(tile, row, pixel, sum => {
                            let slope = get::<S>(dy.add(place(&part[DY], block, row, pixel)), here);
                            let x = S::sub(get::<S>(x.add(place(&part[X], block, row, pixel)), here), centre);
                            let at = place(&part[W], block, row, pixel);
                            let (to_w, to_b) = (dw.add(at), db.add(at));
                            put::<S>(to_w, S::fma(slope, S::mul(x, scale), get::<S>(to_w, here)), here);
                            put::<S>(to_b, S::add(slope, get::<S>(to_b, here)), here);
                            let slope = S::mul(slope, get::<S>(weight.add(at), here));
                            sums[0][sum] = S::add(sums[0][sum], slope);
                            sums[1][sum] = S::fma(slope, x, sums[1][sum]);
                        });
                        for (total, sums) in totals.iter_mut().zip(sums) {
                            *total += lanes::<S>(sums).iter().sum::<f64>();
                        }
                    });
                }
                let along = -deviation * deviation * deviation * totals[1] / self.count;
                let plain = -deviation * totals[0] / self.count;
                let (b, c) = (S::splat(along as f32), S::splat(plain as f32));
                self.each(#[inline(always)] |part, row, pixel, block, here| {
                    let slope = get::<S>(dy.add(place(&part[DY], block, row, pixel)), here);
                    let x = S::sub(get::<S>(x.add(place(&part[X], block, row, pixel)), here), centre);
                    let weight = get::<S>(weight.add(place(&part[W], block, row, pixel)), here);
                    let mut v = S::fma(S::mul(weight, scale), slope, S::fma(b, x, c));
                    v = S::select(S::mask(inside(&part[X], block)), v, S::splat(0.0));
                    let to = dx.add(place(&part[DX], block, row, pixel));
                    if add {
                        v = S::add(v, get::<S>(to, here));
                    }
                    put::<S>(to, v, here);
                });
            });
        });
    }

    /// Floats that an operand has at least.
    fn len(&self, index: usize) -> usize {
        self.parts.iter().map(|part| part[index].len()).max().unwrap_or(0)
    }

    /// All blocks of all parts.
    #[inline(always)]
    fn blocks(&self) -> impl Iterator<Item = (&[View; 5], usize)> {
        self.parts.iter().flat_map(|part| (0..part[X].blocks()).map(move |block| (part, block)))
    }

    /// The sum of `f(x)` over all elements.
    #[inline(always)]
    unsafe fn sum<S: Simd>(&self, x: *const f32, f: impl Fn(S::V) -> S::V) -> f64 {
        let mut total = 0.0;
        for (part, block) in self.blocks() {
            let here = part[X].lanes_of(block);
            let inside = inside(&part[X], block);
            tiles(
                &part[X],
                #[inline(always)]
                |tile| {
                    // SAFETY: the caller's.
                    unsafe {
                        let mut sums = [S::splat(0.0); SUMS];
                        each_pixel!(tile, row, pixel, sum => {
                            let x = get::<S>(x.add(place(&part[X], block, row, pixel)), here);
                            sums[sum] = S::add(sums[sum], f(x));
                        });
                        let sums = lanes::<S>(sums);
                        for (lane, sum) in sums.iter().enumerate() {
                            total += if inside >> lane & 1 == 1 { *sum } else { 0.0 };
                        }
                    }
                },
            );
        }
        total
    }

    /// Calls `f(part, row, pixel, block, lanes)` for every vector.
    #[inline(always)]
    fn each(&self, mut f: impl FnMut(&[View; 5], usize, usize, usize, usize)) {
        for (part, block) in self.blocks() {
            for row in 0..part[X].rows {
                each(
                    part[X].pixels,
                    part[X].lanes_of(block),
                    #[inline(always)]
                    |pixel, here| f(part, row, pixel, block, here),
                );
            }
        }
    }
}

/// A bit for each lane of a block that holds a channel.
#[inline(always)]
fn inside(view: &View, block: usize) -> u16 {
    ((1_u32 << (view.channels - block * LANES).min(LANES)) - 1) as u16
}

/// Where a vector of a view is.
#[inline(always)]
fn place(view: &View, block: usize, row: usize, pixel: usize) -> usize {
    view.at(block) + row * view.row + pixel * view.pixel
}
