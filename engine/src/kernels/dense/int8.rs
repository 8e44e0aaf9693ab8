//! Dense convolution of bytes by bytes, with whole sums of 32 bits: four times as many products an instruction as in fp32.
//!
//! Four channels make a word, so that words are what floats are to the kernels: the same walk over places serves. Inputs have no
//! sign and weights have one (`vpdpbusd`). Sums are exact in any order; each then becomes a float once, and one product and sum
//! gives the output: that is all the rounding there is.

use super::gather::{Gather, Tiles};
use super::{Phase, Shape};
use crate::buffer::Buffer;
use crate::kernels::bytes::{Code, QUAD, Requantize, Weights, on_quads};
use crate::kernels::packing::Packing;
use crate::kernels::tile::{Kernel, Kernels, MOST};
use crate::maps::Maps;
use crate::simd::{LANES, Path, Simd};

/// Products of a sum at most: so many of 255 by 127 are below 2^31.
const TERMS: usize = (i32::MAX / (255 * 127)) as usize;

/// A convolution on maps of one kind.
#[derive(Debug)]
pub struct Forward {
    gather: Gather,
    /// The order of the weights in fp32.
    packing: Packing,
    ins: usize,
}

impl Forward {
    /// On inputs like `x`, words whose halo holds [`Shape::input_halo`], to outputs like `y`, of floats or words. `None` where the machine has no such products, or
    /// this does not suit the shape.
    pub fn new(path: Path, shape: &Shape, x: Maps, y: Maps) -> Option<Self> {
        let taps = shape.window.taps();
        if !path.has_int8() || !Self::suits(shape) {
            return None;
        }
        assert!([1, LANES / QUAD].contains(&x.lanes) && x.channels == shape.ins.div_ceil(QUAD), "words");
        let lanes = if x.lanes == 1 { 1 } else { LANES };
        let words = Packing::new(shape.outs, x.channels, 1, taps, x.lanes);
        let packing = Packing::new(shape.outs, shape.ins, 1, taps, lanes);
        let tile = on_quads!(S => S::TILE);
        Some(Self { gather: Gather::new(Phase::forward(&shape.window), words, x, y, tile), packing, ins: shape.ins })
    }

    /// Whether there is one group, and room for every sum.
    pub fn suits(shape: &Shape) -> bool {
        shape.groups == 1 && shape.ins * shape.window.taps() <= TERMS
    }

    /// The order of the weights that [`Forward::round`] takes: that of [`super::Forward`].
    pub fn packing(&self) -> &Packing {
        &self.packing
    }

    /// Words of 32 bits that [`Weights`] hold.
    pub fn len(&self) -> usize {
        self.gather.packing.len() + 3 * self.packing.blocks() * LANES
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Rounds packed weights, for inputs in this code: those of each output to steps of their own, from -127 to 127. A sum in
    /// such steps is of numbers, not of bytes. `means` are the inputs' channels'.
    pub fn round(&self, packed: &[f32], code: &Code, means: &[f32]) -> Weights {
        assert!([code.scales.len(), means.len()] == [self.ins; 2], "a scale and a mean for every channel");
        let to = &self.gather.packing;
        let taps = self.gather.phase.taps.len();
        let mut words = Buffer::zeros(to.len());
        let mut begin = Buffer::zeros(to.blocks() * LANES);
        let (mut scales, mut lost) = (vec![0.0; to.blocks() * LANES], vec![0.0; to.blocks() * LANES]);
        for block in 0..to.blocks() {
            let from = |channel, tap| self.packing.row(block, channel, tap).expect("there are no groups");
            let mut most = [0.0_f32; LANES];
            for (channel, step) in code.scales.iter().enumerate() {
                for tap in 0..taps {
                    let row = &packed[from(channel, tap)..][..LANES];
                    for (most, weight) in most.iter_mut().zip(row.iter().map(|weight| weight * step)) {
                        *most = most.max(Weights::size(weight));
                    }
                }
            }
            let scale = most.map(Weights::step);
            scales[block * LANES..][..LANES].copy_from_slice(&scale);
            let mut sums = [0_i32; LANES];
            let mut less = [0.0_f64; LANES];
            for (channel, (step, mean)) in code.scales.iter().zip(means).enumerate() {
                for tap in 0..taps {
                    let from = from(channel, tap);
                    let row = to.row(block, channel / QUAD, tap).expect("there are no groups");
                    for lane in 0..LANES {
                        let byte = Weights::byte(packed[from + lane] * step, scale[lane]);
                        Weights::put(&mut words[row + lane], channel % QUAD, byte);
                        sums[lane] += i32::from(byte);
                        let rounded = f64::from(byte) * f64::from(scale[lane]) / f64::from(*step);
                        less[lane] += (f64::from(packed[from + lane]) - rounded) * f64::from(*mean);
                    }
                }
            }
            lost[block * LANES..][..LANES].copy_from_slice(&less.map(|less| less as f32));
            for (begin, sum) in begin[block * LANES..].iter_mut().zip(sums) {
                *begin = f32::from_bits((-i32::from(code.zero) * sum).cast_unsigned());
            }
        }
        Weights { words, begin, scales, lost }
    }

    /// One example, by weights of this convolution.
    pub fn run(&self, weights: &Weights, x: &[f32], y: &mut [f32], finish: Requantize<'_>) {
        let lanes = self.packing.blocks() * LANES;
        assert!(finish.holds(lanes), "numbers for every lane");
        assert_eq!(self.gather.y.lanes, if finish.bytes { LANES / QUAD } else { LANES }, "outputs of the planned kind");
        let rows = 0..self.gather.phase.count[0];
        on_quads!(S => self.gather.run::<S, _>(rows, &weights.words, Some(&weights.begin), x, y, finish));
    }
}

impl<S: Simd> Tiles<S> for Requantize<'_> {
    fn of(step: usize, run: usize) -> [[Kernel<Self>; MOST]; 2] {
        match (step, run) {
            (4, QUAD) => Kernels::<S, 4, QUAD, Self>::ALL,
            (8, QUAD) => Kernels::<S, 8, QUAD, Self>::ALL,
            (_, QUAD) => Kernels::<S, 0, QUAD, Self>::ALL,
            (2, _) => Kernels::<S, 2, 1, Self>::ALL,
            _ => Kernels::<S, 0, 1, Self>::ALL,
        }
    }
}
