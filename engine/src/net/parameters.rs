//! Parameters as kernels want them: packed, with their gradients and an optimiser's sums beside them.

use crate::buffer::Buffer;
use crate::graph::{Graph, ParameterId};
use crate::kernels::depthwise;
use crate::kernels::optimizer::Rule;
use crate::kernels::packing::Packing;
use crate::maps::Maps;
use crate::simd::LANES;

/// How a tensor's elements are ordered here.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Layout {
    /// As in a file.
    Plain,
    /// A number a channel, up to a full block.
    Lanes,
    /// A convolution's weights.
    Packed(Packing),
    /// A depthwise convolution's: `[C / 16][taps][16]`.
    Depthwise {
        /// Of the kernel.
        taps: usize,
    },
    /// A number an element of maps.
    Maps(Maps),
}

impl Layout {
    /// Floats of a tensor of `count` elements.
    pub(crate) fn len(&self, count: usize) -> usize {
        match self {
            Self::Plain => count,
            Self::Lanes => count.next_multiple_of(LANES),
            Self::Packed(packing) => packing.len(),
            Self::Depthwise { taps } => depthwise::packed_len(count / taps, *taps),
            Self::Maps(maps) => maps.len(),
        }
    }

    fn pack(&self, plain: &[f32], to: &mut [f32]) {
        match self {
            Self::Plain | Self::Lanes => to[..plain.len()].copy_from_slice(plain),
            Self::Packed(packing) => packing.pack(plain, to),
            Self::Depthwise { taps } => depthwise::pack(plain, *taps, to),
            Self::Maps(maps) => maps.pack(plain, to),
        }
    }

    fn unpack(&self, from: &[f32], plain: &mut [f32]) {
        match self {
            Self::Plain | Self::Lanes => plain.copy_from_slice(&from[..plain.len()]),
            Self::Packed(packing) => packing.unpack(from, plain),
            Self::Depthwise { taps } => depthwise::unpack(from, *taps, plain),
            Self::Maps(maps) => maps.unpack(from, plain),
        }
    }
}

/// One tensor.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) layout: Layout,
    count: usize,
    pub(crate) trained: bool,
    pub(crate) value: Buffer,
    /// Empty where nothing is trained.
    pub(crate) gradient: Buffer,
    /// What an optimiser remembers.
    pub(crate) sums: Vec<Buffer>,
    /// Whether its layer has moved it in this step.
    pub(crate) moved: bool,
}

/// All tensors of a graph, by their numbers.
#[derive(Debug)]
pub(crate) struct Parameters {
    pub(crate) slots: Vec<Slot>,
}

impl Parameters {
    /// Zeros. `layouts` are by number; gradients are kept with `trains`.
    pub(crate) fn new(graph: &Graph, layouts: Vec<Layout>, trains: bool) -> Self {
        let slots = graph.parameters().iter().zip(layouts).map(|(parameter, layout)| {
            let count = parameter.shape.iter().product();
            let len = layout.len(count);
            let trained = parameter.trained && trains;
            let gradient = Buffer::zeros(if trained { len } else { 0 });
            Slot { layout, count, trained, value: Buffer::zeros(len), gradient, sums: Vec::new(), moved: false }
        });
        Self { slots: slots.collect() }
    }

    /// A tensor's numbers.
    pub(crate) fn value(&self, id: ParameterId) -> &[f32] {
        &self.slots[id.index()].value
    }

    /// A tensor's numbers, to be changed.
    pub(crate) fn value_mut(&mut self, id: ParameterId) -> &mut [f32] {
        &mut self.slots[id.index()].value
    }

    /// Sets a tensor's gradient, in the order of its layout; what is behind stays zero.
    pub(crate) fn set_gradient(&mut self, id: ParameterId, values: &[f32]) {
        let gradient = &mut self.slots[id.index()].gradient;
        let count = values.len().min(gradient.len());
        gradient[..count].copy_from_slice(&values[..count]);
    }

    /// A tensor's numbers, and its gradient to be written.
    pub(crate) fn with_gradient(&mut self, id: ParameterId) -> (&[f32], &mut [f32]) {
        let slot = &mut self.slots[id.index()];
        (&slot.value, &mut slot.gradient)
    }
}

impl Slot {
    /// Sets the numbers from a file's order.
    pub(crate) fn set(&mut self, plain: &[f32]) {
        self.layout.pack(plain, &mut self.value);
    }

    /// The numbers of one of its buffers in a file's order.
    pub(crate) fn plain(&self, packed: &[f32]) -> Vec<f32> {
        let mut plain = vec![0.0; self.count];
        self.layout.unpack(packed, &mut plain);
        plain
    }

    /// Makes room for what a rule remembers.
    pub(crate) fn begin(&mut self, rule: Rule) {
        let len = self.value.len();
        self.sums.resize_with(rule.sums(), || Buffer::zeros(len));
    }

    /// Sets an optimiser's sum from a file's order.
    pub(crate) fn set_sum(&mut self, index: usize, plain: &[f32]) {
        self.layout.pack(plain, &mut self.sums[index]);
    }
}
