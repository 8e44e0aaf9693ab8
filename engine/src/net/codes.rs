//! Which values of a network are bytes, and what their bytes stand for.

use crate::graph::{Graph, Op, Value};
use crate::kernels::bytes::{Code, Depthwise};
use crate::kernels::dense;
use crate::simd::{LANES, Path};

use super::convolution::is_depthwise;
use super::lower::{Layer, LayerOp};
use super::ranges::Ranges;
use super::wiring::conv_shape;

/// For each value its code, and whether it lies in memory as bytes.
#[derive(Debug)]
pub(crate) struct Codes {
    codes: Vec<Option<Code>>,
    /// The means of each value's channels.
    means: Vec<Vec<f32>>,
    stored: Vec<bool>,
}

/// How a layer goes with bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Reads numbers or bytes, and writes either; what it adds is what it writes.
    Dense,
    /// What it reads and writes is one or the other.
    Depthwise,
    /// Likewise, and in one code.
    Tied,
    /// Reads either, writes numbers.
    Reader,
    /// Knows numbers alone.
    Numbers,
}

impl Codes {
    /// All values are numbers.
    pub(crate) fn none(graph: &Graph) -> Self {
        let count = graph.nodes().len();
        Self { codes: vec![None; count], means: vec![Vec::new(); count], stored: vec![false; count] }
    }

    /// As many values as possible are bytes: those that all their readers can read, and that are made by layers that can.
    pub(crate) fn new(graph: &Graph, layers: &[Layer], ranges: &Ranges, path: Path) -> Self {
        let mut codes = Self::none(graph);
        if !path.has_int8() {
            return codes;
        }
        for value in (0..graph.nodes().len()).map(Value) {
            let seen = ranges.get(value);
            codes.means[value.index()] = ranges.means(value);
            codes.codes[value.index()] = if seen.is_empty() { None } else { Code::of(seen) };
        }
        let kinds: Vec<Kind> = layers.iter().map(|layer| codes.kind(graph, layer)).collect();
        let writers = [Kind::Dense, Kind::Depthwise, Kind::Tied];
        for (layer, _) in layers.iter().zip(&kinds).filter(|(_, kind)| writers.contains(kind)) {
            let own = layer.output.index();
            codes.stored[own] = layer.output != graph.output() && codes.codes[own].is_some();
        }
        // What one layer cannot have as bytes others can neither, until nothing changes.
        loop {
            let before = codes.stored.clone();
            for (layer, kind) in layers.iter().zip(&kinds) {
                codes.agree(layer, *kind);
            }
            if codes.stored == before {
                break;
            }
        }
        codes.tie(layers, &kinds, ranges);
        codes
    }

    /// A value's code, where it is bytes.
    pub(crate) fn stored(&self, value: Value) -> Option<&Code> {
        self.codes[value.index()].as_ref().filter(|_| self.stored[value.index()])
    }

    /// Whether a layer reads or writes bytes.
    pub(crate) fn touch(&self, layer: &Layer) -> bool {
        layer.inputs.iter().chain([&layer.output]).any(|value| self.stored(*value).is_some())
    }

    /// The means of a value's channels.
    pub(crate) fn means(&self, value: Value) -> &[f32] {
        &self.means[value.index()]
    }

    /// What the halo of a value's maps holds, as bits.
    pub(crate) fn padding(&self, value: Value) -> u32 {
        self.stored(value).map_or(0, |code| Code::word(code.zero).to_bits())
    }

    /// A value's code, also where it is numbers; `None` where nobody knows.
    pub(crate) fn of(&self, value: Value) -> Option<&Code> {
        self.codes[value.index()].as_ref()
    }

    /// How a layer goes with bytes.
    pub(crate) fn kind(&self, graph: &Graph, layer: &Layer) -> Kind {
        let known = layer.inputs.iter().chain([&layer.output]).all(|value| self.of(*value).is_some());
        let whole = |value: &Value| graph.shape(*value)[0].is_multiple_of(LANES);
        // The network's input may lie in maps of another kind than sums.
        let adds_input = layer.inputs.get(1) == Some(&graph.input());
        match &layer.op {
            _ if !known => Kind::Numbers,
            LayerOp::Conv { .. } if adds_input => Kind::Numbers,
            LayerOp::Conv { pooled: false, weight, .. } => {
                let ins = graph.shape(layer.inputs[0])[0];
                let shape = conv_shape(&layer.op, ins, graph.parameter_shape(*weight)[0]);
                if is_depthwise(&shape) && Depthwise::suits(&shape) {
                    Kind::Depthwise
                } else if dense::Int8Forward::suits(&shape) {
                    Kind::Dense
                } else {
                    Kind::Numbers
                }
            }
            LayerOp::Alone(Op::MaxPool(_) | Op::AvgPool { .. }) => Kind::Tied,
            LayerOp::Alone(Op::Concat) if graph.shape(layer.output).len() == 3 && layer.inputs.iter().all(whole) => {
                Kind::Tied
            }
            LayerOp::Alone(Op::GlobalAvgPool) => Kind::Reader,
            _ => Kind::Numbers,
        }
    }

    /// Takes back what a layer cannot have as bytes.
    fn agree(&mut self, layer: &Layer, kind: Kind) {
        let together: Vec<usize> = match kind {
            Kind::Reader => return,
            Kind::Dense => layer.inputs[1..].iter().chain([&layer.output]).map(|value| value.index()).collect(),
            _ => layer.inputs.iter().chain([&layer.output]).map(|value| value.index()).collect(),
        };
        if kind == Kind::Numbers || !together.iter().all(|value| self.stored[*value]) {
            together.iter().for_each(|value| self.stored[*value] = false);
        }
    }

    /// Gives channels that are tied to each other one code, for the range of all of them, and one zero to their values.
    fn tie(&mut self, layers: &[Layer], kinds: &[Kind], ranges: &Ranges) {
        let mut widest: Vec<Vec<[f32; 2]>> =
            (0..self.codes.len()).map(|value| ranges.get(Value(value)).to_vec()).collect();
        // Each value's group, by one of its values.
        let mut group: Vec<usize> = (0..self.codes.len()).collect();
        let tied = || {
            let layers = layers.iter().zip(kinds).filter(|(_, kind)| **kind == Kind::Tied);
            layers.map(|(layer, _)| layer).filter(|layer| self.stored[layer.output.index()])
        };
        for layer in tied() {
            for input in &layer.inputs {
                let (from, to) = (group[input.index()], group[layer.output.index()]);
                group.iter_mut().filter(|group| **group == from).for_each(|group| *group = to);
            }
        }
        // Inputs side by side have the output's channels, as a pool's only one has. What one widens others have, too, until nothing changes.
        loop {
            let before = widest.clone();
            for layer in tied() {
                let own = layer.output.index();
                let mut first = 0;
                for input in &layer.inputs {
                    for channel in 0..widest[input.index()].len() {
                        let (a, b) = (widest[input.index()][channel], widest[own][first + channel]);
                        let both = [a[0].min(b[0]), a[1].max(b[1])];
                        (widest[input.index()][channel], widest[own][first + channel]) = (both, both);
                    }
                    first += widest[input.index()].len();
                }
            }
            if widest == before {
                break;
            }
        }
        for leader in 0..group.len() {
            let members: Vec<usize> = (0..group.len()).filter(|value| group[*value] == leader).collect();
            if members.len() < 2 {
                continue;
            }
            let all: Vec<[f32; 2]> = members.iter().flat_map(|value| widest[*value].iter().copied()).collect();
            let mut code = Code::of(&all);
            for value in &members {
                let rest = code.as_mut().map(|code| code.scales.split_off(widest[*value].len()));
                let zero = code.as_ref().map_or(0, |code| code.zero);
                let own = std::mem::replace(&mut code, rest.map(|scales| Code { scales, zero }));
                self.codes[*value] = own;
            }
        }
    }
}
