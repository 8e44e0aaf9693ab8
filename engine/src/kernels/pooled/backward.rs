//! The sparse backward pass over one example.

use super::lists::{self, Lists};
use super::{WIDTHS, inputs, planar, seen};
use crate::buffer::Buffer;
use crate::kernels::dense::Shape;
use crate::kernels::packing::Packing;
use crate::maps::Maps;
use crate::simd::{LANES, Path, Simd, on_path};

/// Bytes of a block of inputs that a strip reads, and of weights that a pass re-reads: what stays in the first cache.
const STRIP: usize = 24 << 10;
const WEIGHTS: usize = 41 << 10;

/// The backward pass on maps of one kind.
#[derive(Debug)]
pub struct Backward {
    path: Path,
    packing: Packing,
    pub(super) kernel: [usize; 2],
    /// Zeros before the first row and column.
    pub(super) before: [usize; 2],
    pub(super) outs: usize,
    pub(super) x: Maps,
    pub(super) dx: Option<Maps>,
    pub(super) plan: lists::Plan,
    /// How the gradient of the input is cut.
    pub(super) cut: inputs::Cut,
}

/// One example's part of the forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a> {
    /// The convolution's input.
    pub x: &'a [f32],
    /// The gradient of the pooled outputs.
    pub dy: &'a [f32],
    /// What the forward pass wrote of its windows.
    pub winners: &'a [u8],
}

/// Sums over examples.
#[derive(Debug)]
pub struct Sums<'a> {
    /// [`Backward::sums_len`] floats, in an order of their own: see [`Backward::finish`].
    pub dw: &'a mut [f32],
    /// A float for every lane of every block.
    pub db: &'a mut [f32],
}

/// Where the gradient of an input goes.
#[derive(Debug)]
pub struct Input<'a> {
    /// The weights as [`Backward::transpose`] has them.
    pub transposed: &'a [f32],
    /// The maps.
    pub dx: &'a mut [f32],
    /// Adds to what stands there.
    pub add: bool,
}

/// Memory for one thread.
#[derive(Debug)]
pub struct Scratch {
    lists: Option<Lists>,
    floats: Buffer,
}

impl Backward {
    /// The gradients of a convolution of `shape`, pooled, from inputs like `x` and pooled gradients like `dy`; of its
    /// input too where there is a `dx`, which a planar input has not. `None` where [`super::Forward::new`] has none,
    /// and for kernels that are not 1, 3, 5 or 7 wide.
    pub fn new(path: Path, shape: &Shape, x: Maps, dy: Maps, dx: Option<Maps>) -> Option<Self> {
        let shape = Shape { window: seen(&shape.window, shape.groups)?, ..*shape };
        let window = &shape.window;
        let [height, width] = window.kernel;
        if !WIDTHS.contains(&width) {
            return None;
        }
        assert_eq!(dy.size, window.output.map(|outputs| outputs / 2), "maps of half the size");
        assert!(x.halo == x.halo.union(shape.input_halo(x.size)), "zeros around the input");
        assert!(dx.is_none_or(|dx| x.lanes == LANES && dx.size == x.size), "a gradient like the input");
        let packing = Packing::new(shape.outs, shape.ins, 1, window.taps(), x.lanes);
        let cut = on_path!(path, S => inputs::cut::<S>(window.kernel, x.blocks()));
        let parts = cut.blocks * cut.rows;
        // The last pass has fewer parts where they do not come out even, and may need more sets.
        let last = (x.blocks() - 1) % cut.blocks + (height - 1) % cut.rows + 1;
        let sets = [parts, last].map(|parts| on_path!(path, S => inputs::sets::<S>(width, parts)));
        let sets = sets[0].max(sets[1]);
        // As many rows as fit, and strips of about the same height.
        let rows = (STRIP / (4 * x.row()) + 1).saturating_sub(height) / 2;
        let strips = dy.size[0].div_ceil(rows.max(1));
        let blocks = (WEIGHTS / (4 * LANES * LANES * width * parts)).max(1);
        let chunks = dy.blocks().div_ceil(blocks);
        let plan = lists::Plan {
            dy,
            rows: dy.size[0].div_ceil(strips),
            x_row: x.row(),
            chunk: dy.blocks().div_ceil(chunks),
            weights: parts * width * LANES,
            sets,
        };
        Some(Self { path, packing, kernel: window.kernel, before: window.before, outs: shape.outs, x, dx, plan, cut })
    }

    /// The order of its weights.
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Memory for one thread.
    pub fn scratch(&self) -> Scratch {
        if self.x.lanes == 1 {
            Scratch { lists: None, floats: Buffer::zeros(self.x.len() + LANES) }
        } else {
            let floats = if self.dx.is_some() { self.cut.blocks * self.strip_block() } else { 0 };
            Scratch { lists: Some(Lists::new(self.plan)), floats: Buffer::zeros(floats) }
        }
    }

    /// Floats of the sums of weights' gradients.
    pub fn sums_len(&self) -> usize {
        if self.x.lanes == 1 {
            self.packing.len()
        } else {
            self.x.blocks() * self.outs * self.kernel[0] * self.kernel[1] * LANES
        }
    }

    /// Adds the sums to a gradient in the order of the weights, and sets them to zero.
    pub fn finish(&self, sums: &mut [f32], dw: &mut [f32]) {
        let sums = &mut sums[..self.sums_len()];
        if self.x.lanes == 1 {
            for (to, sum) in dw[..sums.len()].iter_mut().zip(&*sums) {
                *to += sum;
            }
        } else {
            self.visit(|in_block, out, tap, row| {
                let from = ((in_block * self.outs + out) * self.kernel[0] * self.kernel[1] + tap) * LANES;
                let lanes = (self.x.channels - in_block * LANES).min(LANES);
                for (lane, sum) in sums[from..from + lanes].iter().enumerate() {
                    dw[row + lane * LANES] += sum;
                }
            });
        }
        sums.fill(0.0);
    }

    /// Calls `f(input block, output, tap, place in the packed weights)` of every block's first channel; the next ones are
    /// [`LANES`] floats apart.
    fn visit(&self, mut f: impl FnMut(usize, usize, usize, usize)) {
        for in_block in 0..self.x.blocks() {
            for out in 0..self.outs {
                for tap in 0..self.kernel[0] * self.kernel[1] {
                    let row = self.packing.row(out / LANES, in_block * LANES, tap).expect("one group reads all inputs");
                    f(in_block, out, tap, row + out % LANES);
                }
            }
        }
    }

    /// Floats of the weights for a chunk of outputs in one pass: a row of zeros stands behind them.
    fn tile(&self) -> usize {
        (self.plan.chunk * LANES + 1) * self.plan.weights
    }

    /// Where the weights of some input blocks, a chunk of outputs and some rows of taps begin.
    pub(super) fn tile_at(&self, group: usize, chunk: usize, rows: usize) -> usize {
        let passes = self.kernel[0].div_ceil(self.cut.rows);
        ((group * self.plan.dy.blocks().div_ceil(self.plan.chunk) + chunk) * passes + rows) * self.tile()
    }

    /// Floats of the transposed weights.
    pub fn transposed_len(&self) -> usize {
        if self.dx.is_some() { self.tile_at(self.x.blocks().div_ceil(self.cut.blocks), 0, 0) } else { 0 }
    }

    /// Copies weights, packed as the forward pass has them, into the order that the gradient of the input reads.
    pub fn transpose(&self, packed: &[f32], transposed: &mut [f32]) {
        let transposed = &mut transposed[..self.transposed_len()];
        if transposed.is_empty() {
            return;
        }
        transposed.fill(0.0);
        self.visit(|in_block, out, tap, row| {
            let (chunk, inside) = (out / LANES / self.plan.chunk, out % (self.plan.chunk * LANES));
            let [down, right] = [tap / self.kernel[1], tap % self.kernel[1]];
            // One of the two is always zero.
            let part = in_block % self.cut.blocks + down % self.cut.rows;
            let to = self.tile_at(in_block / self.cut.blocks, chunk, down / self.cut.rows)
                + inside * self.plan.weights
                + (part * self.kernel[1] + right) * LANES;
            let lanes = (self.x.channels - in_block * LANES).min(LANES);
            for (lane, to) in transposed[to..to + lanes].iter_mut().enumerate() {
                *to = packed[row + lane * LANES];
            }
        });
    }

    /// One example: adds to the sums, and writes the gradient of the input, where they are wanted.
    pub fn run(&self, given: Given<'_>, sums: Option<Sums<'_>>, input: Option<Input<'_>>, scratch: &mut Scratch) {
        let Given { x, dy, winners } = given;
        let maps = &self.plan.dy;
        assert!(x.len() >= self.x.len() && dy.len() >= maps.len(), "maps of the planned size");
        assert!(winners.len() >= maps.blocks() * maps.size[0] * maps.size[1] * LANES, "a byte for every lane");
        if let Some(sums) = &sums {
            assert!(sums.dw.len() >= self.sums_len() && sums.db.len() >= maps.blocks() * LANES, "planned sums");
        }
        if let Some(input) = &input {
            let maps = self.dx.expect("planned with a gradient of the input");
            assert!(input.dx.len() >= maps.len(), "maps of the planned size");
            assert!(input.transposed.len() >= self.transposed_len(), "weights of the planned size");
        }
        let Scratch { lists, floats } = scratch;
        let plan = (self.x.lanes == LANES).then_some(&self.plan);
        assert!(lists.as_ref().map(Lists::plan) == plan, "scratch of this kernel");
        match (lists, sums) {
            (Some(lists), sums) => on_path!(self.path, S => self.strips::<S>(&given, sums, input, lists, floats)),
            (None, Some(mut sums)) => on_path!(self.path, S => self.planar::<S>(&given, &mut sums, floats)),
            (None, None) => {}
        }
    }

    /// Adds an example on a planar input to the sums.
    fn planar<S: Simd>(&self, given: &Given<'_>, sums: &mut Sums<'_>, floats: &mut [f32]) {
        let [height, width] = self.kernel;
        // A copy, so that whole vectors may be read behind the last pixels.
        floats[..self.x.len()].copy_from_slice(&given.x[..self.x.len()]);
        assert!(floats.len() >= self.x.len() + LANES, "scratch of the planned size");
        let channels = self.x.channels;
        let [most_rows, most_channels] = planar::pass::<S>(height, width, channels);
        for channel in (0..channels).step_by(most_channels) {
            for top in (0..height).step_by(most_rows) {
                let (together, rows) = (most_channels.min(channels - channel), most_rows.min(height - top));
                let kernel = planar::kernel::<S>(rows, width, together).expect("checked by `new`");
                let first = self.x.at(channel, top as isize - self.before[0] as isize, -(self.before[1] as isize));
                // SAFETY: the input's halo holds every tap of every pixel, and the copy a vector more; the packing of a
                // planar input is `[blocks][channels][taps][LANES]`, and all else was checked by `run`.
                unsafe {
                    kernel(&planar::Job {
                        x: floats.as_ptr().add(first),
                        x_row: self.x.row(),
                        x_block: self.x.block(),
                        dy: given.dy.as_ptr(),
                        maps: self.plan.dy,
                        winners: given.winners.as_ptr(),
                        dw: sums.dw.as_mut_ptr().add((channel * height + top) * width * LANES),
                        dw_channel: height * width * LANES,
                        dw_block: channels * height * width * LANES,
                        db: if channel + top == 0 { sums.db.as_mut_ptr() } else { std::ptr::null_mut() },
                    });
                }
            }
        }
    }
}
