//! Values that lie inside others, for outputs alone: what is put side by side is computed where it is wanted, and a sum
//! where one of its terms lies. So neither copies.

use crate::graph::{Graph, Op, Value};
use crate::simd::LANES;

use super::lower::{Layer, LayerOp};
use super::memory::Form;
use super::wiring::Plan;

/// For each value what it is a part of, and at which channel it begins there.
#[derive(Debug, Clone)]
pub(super) struct Parts(Vec<Option<(Value, usize)>>);

impl Parts {
    /// Every value by itself.
    pub(super) fn none(graph: &Graph) -> Self {
        Self(vec![None; graph.nodes().len()])
    }

    pub(super) fn new(plan: &Plan<'_>, forms: &[Form]) -> Self {
        let mut parts = Self::none(plan.graph);
        // From the last one: a concatenation of what an even larger one holds side by side is a part of that.
        for layer in plan.layers.iter().rev() {
            let mut more = parts.clone();
            match &layer.op {
                LayerOp::Alone(Op::Concat) => more.concatenate(plan, layer, forms),
                LayerOp::Conv { .. } if layer.inputs.len() > 1 => more.add(plan, layer, forms),
                _ => continue,
            }
            if more.fit(plan) {
                parts = more;
            }
        }
        parts
    }

    /// The largest value that `value` is a part of, and its first channel there: itself, and zero, where it is none.
    pub(super) fn whole(&self, value: Value) -> (Value, usize) {
        let (mut whole, mut first) = (value, 0);
        while let Some((next, channel)) = self.0[whole.index()] {
            (whole, first) = (next, first + channel);
        }
        (whole, first)
    }

    /// Whether this value may become a part of another.
    fn is_free(&self, plan: &Plan<'_>, value: Value, forms: &[Form]) -> bool {
        let blocks = forms[value.index()].is_blocks();
        // Constants are copied as a whole.
        let computed = !matches!(plan.graph.node(value).op, Op::Constant(_));
        computed
            && blocks
            && value != plan.graph.input()
            && value != plan.graph.output()
            && self.0[value.index()].is_none()
    }

    fn concatenate(&mut self, plan: &Plan<'_>, layer: &Layer, forms: &[Form]) {
        let channels = |value: &Value| match forms[value.index()] {
            form if form.is_blocks() => plan.graph.shape(*value)[0],
            _ => 0,
        };
        let begins = layer.inputs.iter().scan(0, |next, input| {
            let begin = *next;
            *next += channels(input);
            Some(begin)
        });
        let begins: Vec<usize> = begins.collect();
        let places: Vec<(Value, usize)> = layer.inputs.iter().map(|input| self.whole(*input)).collect();
        let side_by_side =
            places.iter().zip(&begins).all(|(place, begin)| place.0 == places[0].0 && place.1 == places[0].1 + begin);
        let is_inside = side_by_side && places[0].0 != layer.inputs[0];
        if is_inside && self.is_free(plan, layer.output, forms) && plan.padded_alike(layer.output, places[0].0, forms) {
            self.0[layer.output.index()] = Some(places[0]);
            return;
        }
        let whole = self.whole(layer.output).0;
        for (input, begin) in layer.inputs.iter().zip(begins) {
            if begin.is_multiple_of(LANES)
                && self.is_free(plan, *input, forms)
                && plan.padded_alike(*input, whole, forms)
            {
                self.0[input.index()] = Some((layer.output, begin));
            }
        }
    }

    /// What is added last of all lies where the sum does.
    fn add(&mut self, plan: &Plan<'_>, layer: &Layer, forms: &[Form]) {
        let added = layer.inputs[1];
        let readers = &plan.readers[added.index()];
        let last = readers.last().is_some_and(|reader| plan.layers[*reader].output == layer.output);
        let fits = self.is_free(plan, added, forms) && plan.padded_alike(added, self.whole(layer.output).0, forms);
        if last && fits {
            self.0[added.index()] = Some((layer.output, 0));
        }
    }

    /// Whether no layer writes where it reads, but for what it finds in its place, and nobody reads what a sum has overwritten.
    fn fit(&self, plan: &Plan<'_>) -> bool {
        plan.layers.iter().enumerate().all(|(index, layer)| {
            let (whole, mut begin) = self.whole(layer.output);
            let inside = |value: &Value| self.whole(*value).0 == whole;
            // An inverted residual reads its input while it writes; it may do so where each output stands in its input's place.
            let elsewhere = |read: &&Value| layer.inputs.first() != Some(*read) && inside(read);
            let read = plan.begins(index).inputs.first().filter(elsewhere);
            if read.is_some_and(|read| self.whole(*read) != (whole, begin)) {
                return false;
            }
            match &layer.op {
                LayerOp::Alone(Op::Concat) => layer.inputs.iter().all(|input| {
                    let there = self.whole(*input) == (whole, begin);
                    begin += plan.graph.shape(*input)[0];
                    there || !inside(input)
                }),
                LayerOp::Conv { .. } if layer.inputs.get(1).is_some_and(inside) => {
                    let in_place = self.whole(layer.inputs[1]) == (whole, begin);
                    in_place && !inside(&layer.inputs[0]) && self.is_over(plan, index)
                }
                _ => !layer.inputs.iter().any(inside),
            }
        })
    }

    /// Whether everything that this layer writes over was read for the last time.
    fn is_over(&self, plan: &Plan<'_>, layer: usize) -> bool {
        let output = plan.layers[layer].output;
        let range = |value: Value| {
            let (whole, first) = self.whole(value);
            (whole, first..first + plan.graph.shape(value)[0])
        };
        let (whole, written) = range(output);
        plan.layers[..layer].iter().map(|before| before.output).all(|value| {
            let (own, channels) = range(value);
            let apart = own != whole || channels.end <= written.start || written.end <= channels.start;
            apart || plan.readers[value.index()].iter().all(|reader| *reader <= layer)
        })
    }
}
