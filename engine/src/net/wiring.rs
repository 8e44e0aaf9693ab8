//! Which places each layer reads and writes.

use crate::graph::{Graph, Op, Value};
use crate::kernels::bytes;
use crate::kernels::dense::Shape;
use crate::maps::{Halo, Maps};
use crate::simd::LANES;

use super::Purpose;
use super::codes::Codes;
use super::lower::{Layer, LayerOp};
use super::memory::{Arena, Form, Need, Place};
use super::parts::Parts;

/// Channels of an input that are better read one by one than in a block, of which most would be empty.
const FEW: usize = 4;

/// What becomes of the gradient of one of a layer's inputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Into {
    /// Nobody asks for it.
    Nowhere,
    /// It lies where the output's gradient does, and is written over it.
    Place,
    /// It is written here.
    Write(Place),
    /// It is added to what others wrote here.
    Add(Place),
}

/// A layer's places.
#[derive(Debug, Clone)]
pub(crate) struct Wiring {
    pub(crate) inputs: Vec<Place>,
    pub(crate) output: Place,
    /// The output's gradient, in training.
    pub(crate) gradient: Option<Place>,
    /// For each input.
    pub(crate) into: Vec<Into>,
}

/// All places of a network.
#[derive(Debug)]
pub(crate) struct Wired {
    pub(crate) arena: Arena,
    pub(crate) wirings: Vec<Wiring>,
    pub(crate) input: Place,
    pub(crate) output: Place,
    pub(crate) output_gradient: Option<Place>,
}

/// A convolution of `input` (its shape), as kernels know it.
pub(crate) fn conv_shape(layer: &LayerOp, input: usize, outs: usize) -> Shape {
    let LayerOp::Conv { window, groups, .. } = layer else { unreachable!("a convolution") };
    Shape { ins: input, outs, groups: *groups, window: *window }
}

/// Decides where everything lies. `lengths` tells how many layers the stage has that begins with each: what is between them has a form, and no buffer.
pub(crate) fn wire(
    graph: &Graph,
    layers: &[Layer],
    lengths: &[usize],
    codes: &Codes,
    batch: usize,
    purpose: Purpose,
) -> Wired {
    let plan = Plan::new(graph, layers, lengths, codes);
    let mut arena = Arena::default();
    let values = plan.values(&mut arena, batch, purpose);
    let gradients = match purpose {
        Purpose::Train => plan.gradients(&mut arena, batch),
        Purpose::Infer | Purpose::Observe => vec![None; graph.nodes().len()],
    };
    let mut written = vec![false; graph.nodes().len()];
    let mut wirings = Vec::with_capacity(layers.len());
    for layer in layers.iter().rev() {
        let gradient = gradients[layer.output.index()];
        let mut into = Vec::new();
        for input in &layer.inputs {
            let place = gradients[input.index()];
            into.push(match (place, gradient) {
                (Some(place), Some(own)) if place == own && !written[input.index()] => Into::Place,
                (Some(place), _) if written[input.index()] => Into::Add(place),
                (Some(place), _) => Into::Write(place),
                (None, _) => Into::Nowhere,
            });
            written[input.index()] = true;
        }
        let inputs = layer.inputs.iter().map(|input| values[input.index()].expect("it was computed")).collect();
        let output = values[layer.output.index()].expect("every layer has an output");
        wirings.push(Wiring { inputs, output, gradient, into });
    }
    wirings.reverse();
    let output = graph.output().index();
    Wired {
        arena,
        wirings,
        input: values[0].expect("the input has a place"),
        output: values[output].expect("the output is a layer's"),
        output_gradient: gradients[output],
    }
}

pub(super) struct Plan<'a> {
    pub(super) graph: &'a Graph,
    pub(super) layers: &'a [Layer],
    /// For each value the layers that read it.
    pub(super) readers: Vec<Vec<usize>>,
    /// For each value the layer that computes it.
    maker: Vec<Option<usize>>,
    pub(super) codes: &'a Codes,
    /// For each value whether it is between the layers of a stage, and for each layer the first and the last one of its stage.
    inner: Vec<bool>,
    stages: Vec<[usize; 2]>,
}

/// The place of what is never whole: no buffer.
const NOWHERE: usize = usize::MAX;

impl<'a> Plan<'a> {
    fn new(graph: &'a Graph, layers: &'a [Layer], lengths: &[usize], codes: &'a Codes) -> Self {
        let mut readers = vec![Vec::new(); graph.nodes().len()];
        let mut maker = vec![None; graph.nodes().len()];
        for (index, layer) in layers.iter().enumerate() {
            layer.inputs.iter().for_each(|input| readers[input.index()].push(index));
            maker[layer.output.index()] = Some(index);
        }
        let mut inner = vec![false; graph.nodes().len()];
        let mut stages: Vec<_> = (0..layers.len()).map(|layer| [layer; 2]).collect();
        for first in (0..layers.len()).filter(|layer| lengths[*layer] > 1) {
            let end = first + lengths[first] - 1;
            layers[first..end].iter().for_each(|layer| inner[layer.output.index()] = true);
            stages[first..=end].fill([first, end]);
        }
        Self { graph, layers, readers, maker, codes, inner, stages }
    }

    /// The first layer of a layer's stage.
    pub(super) fn begins(&self, layer: usize) -> &Layer {
        &self.layers[self.stages[layer][0]]
    }

    /// Values that have a place: the input and every layer's output.
    fn placed(&self) -> impl Iterator<Item = Value> + '_ {
        let is_made = |value: &Value| self.maker[value.0].is_some() && !self.inner[value.0];
        (0..self.graph.nodes().len()).map(Value).filter(move |value| value.0 == 0 || is_made(value))
    }

    /// A value's form before anybody asks for a halo.
    fn form(&self, value: Value) -> Form {
        let flattens = |layer: &usize| matches!(self.layers[*layer].op, LayerOp::Alone(Op::Flatten));
        match self.graph.shape(value) {
            // An input that is a row to all comes as one.
            shape if value.0 == 0 && self.readers[0].iter().all(flattens) => Form::Row(shape.iter().product()),
            [channels, height, width] => {
                let maps = Maps::new(*channels, [*height, *width]);
                let few = value.0 == 0 && *channels <= FEW;
                let dense = |layer: &usize| matches!(self.layers[*layer].op, LayerOp::Conv { groups: 1, .. });
                if self.codes.stored(value).is_some() {
                    return Form::Maps(bytes::words(maps));
                }
                Form::Maps(if few && self.readers[0].iter().all(dense) { maps.planar() } else { maps })
            }
            shape => Form::Row(shape.iter().product()),
        }
    }

    /// Whether `value`, maps, may lie inside of `whole`, whose halo is there from the start: it has the same, or needs none.
    pub(super) fn padded_alike(&self, value: Value, whole: Value, forms: &[Form]) -> bool {
        self.codes.padding(value) == self.codes.padding(whole) || forms[value.index()].maps().halo == Halo::default()
    }

    /// A layer's convolution, if it is one.
    fn conv(&self, layer: &Layer) -> Option<(Shape, [usize; 2])> {
        let LayerOp::Conv { weight, .. } = layer.op else { return None };
        let &[channels, height, width] = self.graph.shape(layer.inputs[0]) else { return None };
        let outs = self.graph.parameter_shape(weight)[0];
        Some((conv_shape(&layer.op, channels, outs), [height, width]))
    }

    fn values(&self, arena: &mut Arena, batch: usize, purpose: Purpose) -> Vec<Option<Place>> {
        let mut forms: Vec<Form> = (0..self.graph.nodes().len()).map(|index| self.form(Value(index))).collect();
        for layer in self.layers {
            if let Some((shape, size)) = self.conv(layer) {
                widen(&mut forms[layer.inputs[0].index()], shape.input_halo(size));
            }
        }
        let parts = match purpose {
            Purpose::Train => Parts::none(self.graph),
            Purpose::Infer | Purpose::Observe => Parts::new(self, &forms),
        };
        let end = self.layers.len() + 1;
        let mut needs: Vec<Option<Need>> = vec![None; forms.len()];
        for value in self.placed() {
            let (whole, _) = parts.whole(value);
            let (mut from, mut until) = (0, end);
            if purpose != Purpose::Train {
                from = self.maker[value.0].map_or(0, |layer| layer + 1);
                let last = self.readers[value.0].last().map_or(0, |layer| self.stages[*layer][1] + 1);
                until = if value == self.graph.output() { end } else { last };
            }
            let form = forms[value.0];
            let padding = self.codes.padding(whole);
            let need =
                needs[whole.0].get_or_insert(Need { form: forms[whole.0], from, until, padding, has_parts: false });
            (need.from, need.until) = (need.from.min(from), need.until.max(until));
            need.has_parts |= whole != value;
            if whole != value {
                widen(&mut need.form, form.maps().halo);
            }
        }
        let wholes: Vec<usize> = (0..forms.len()).filter(|value| needs[*value].is_some()).collect();
        let list: Vec<Need> = needs.iter().flatten().copied().collect();
        let mut places = vec![None; forms.len()];
        for (whole, place) in wholes.into_iter().zip(arena.place(&list, batch)) {
            places[whole] = Some(place);
        }
        for value in (0..forms.len()).filter(|value| self.inner[*value]) {
            places[value] = Some(Place { buffer: NOWHERE, start: 0, form: forms[value] });
        }
        for value in self.placed() {
            let (whole, first) = parts.whole(value);
            if whole != value {
                let place = places[whole.0].expect("what has parts has a place");
                let (own, maps) = (forms[value.0].maps(), place.form.maps());
                let (maps, start) = maps.part(first * maps.lanes / LANES, own.channels);
                places[value.0] = Some(Place { start, form: Form::Maps(maps), ..place });
            }
        }
        places
    }

    /// Places of gradients. Layers that need not keep their output's gradient have their input's in the same place.
    fn gradients(&self, arena: &mut Arena, batch: usize) -> Vec<Option<Place>> {
        let count = self.graph.nodes().len();
        let mut asked = vec![false; count];
        for layer in self.layers {
            asked[layer.output.index()] =
                has_weights(&layer.op) || layer.inputs.iter().any(|input| asked[input.index()]);
        }
        // Each value's group, by the value that leads it.
        let mut leader: Vec<usize> = (0..count).collect();
        for (index, layer) in self.layers.iter().enumerate().rev() {
            let last_reader = |input: &Value| self.readers[input.index()].last() == Some(&index);
            let only_reader = |input: &Value| self.readers[input.index()].len() == 1;
            let shared = match (&layer.op, layer.inputs.as_slice()) {
                (LayerOp::BatchNorm { .. } | LayerOp::Alone(Op::Activation(_) | Op::Dropout { .. }), [input]) => {
                    Some(input).filter(|input| only_reader(input))
                }
                (LayerOp::BatchNorm { .. }, [_, added]) => Some(added).filter(|added| last_reader(added)),
                (LayerOp::Add { .. }, [a, b]) if a != b => [a, b].into_iter().find(|input| last_reader(input)),
                _ => None,
            };
            if let Some(input) = shared.filter(|input| asked[input.index()]) {
                leader[input.index()] = leader[layer.output.index()];
            }
        }
        let mut halos = vec![Halo::default(); count];
        for layer in self.layers {
            if let Some((shape, size)) = self.conv(layer)
                && asked[layer.inputs[0].index()]
            {
                let group = leader[layer.output.index()];
                halos[group] = halos[group].union(shape.gradient_halo(size));
            }
        }
        let mut needs: Vec<Option<Need>> = vec![None; count];
        let moment = |layer: usize| self.layers.len() - layer;
        for value in self.placed().filter(|value| asked[value.0]) {
            let group = leader[value.0];
            let from = match self.readers[value.0].last() {
                Some(layer) if value != self.graph.output() => moment(*layer),
                _ => 0,
            };
            let until = self.maker[value.0].map_or(self.layers.len() + 1, moment);
            let need = needs[group].get_or_insert_with(|| {
                let mut form = self.form(value);
                if let Form::Maps(maps) = &mut form {
                    maps.lanes = LANES;
                }
                widen(&mut form, halos[group]);
                Need { form, from, until, padding: 0, has_parts: false }
            });
            (need.from, need.until) = (need.from.min(from), need.until.max(until));
        }
        let groups: Vec<usize> = (0..count).filter(|group| needs[*group].is_some()).collect();
        let list: Vec<Need> = needs.iter().flatten().copied().collect();
        let mut places = vec![None; count];
        for (group, place) in groups.iter().zip(arena.place(&list, batch)) {
            for value in self.placed().filter(|value| asked[value.0] && leader[value.0] == *group) {
                places[value.0] = Some(place);
            }
        }
        places
    }
}

/// Whether a layer has parameters of its own.
fn has_weights(op: &LayerOp) -> bool {
    matches!(
        op,
        LayerOp::Conv { .. } | LayerOp::Linear { .. } | LayerOp::BatchNorm { .. } | LayerOp::Alone(Op::RowNorm { .. })
    )
}

fn widen(form: &mut Form, halo: Halo) {
    if let Form::Maps(maps) = form {
        *maps = maps.with_halo(halo);
    }
}
