//! A graph that runs: planned once for a batch, then trained or asked for outputs any number of times.
//!
//! Planning lowers the graph to layers ([`lower`]), decides where every value and gradient lies ([`memory`]), and
//! makes a stage of each layer, which owns its kernels. A step of training is one pass over the stages
//! forwards and one backwards.

mod codes;
mod conv;
mod convolution;
mod int8;
mod inverted;
mod linear;
mod lower;
mod memory;
mod norms;
mod outputs;
mod parameters;
mod parts;
mod pooled;
mod pools;
mod ranges;
mod simple;
mod wiring;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::burst;
use crate::graph::{Graph, Op, Unfit, Value};
use crate::kernels::optimizer::{Rule, Step};
use crate::parallel::{self, Space};
use crate::simd::Path;

use codes::Codes;
use lower::{Layer, LayerOp};
use memory::{Arena, Form, Place};
use parameters::{Layout, Parameters, Slot};
use wiring::Wiring;

pub use ranges::Ranges;

/// What a network is planned for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Gradients: every value is kept until its gradient is known.
    Train,
    /// Outputs alone: norms become part of the weights before them, buffers are used again.
    Infer,
    /// Outputs, and what every value is like: [`Net::observe`]. As [`Purpose::Infer`], but no value is left out.
    Observe,
}

/// How numbers are multiplied, for outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Precision {
    /// As they are.
    #[default]
    Fp32,
    /// Rounded to bf16 first, in dense convolutions, where [`Path::has_bf16`] and it is faster. Sums are in fp32.
    Bf16,
    /// As bytes, in convolutions, where [`Path::has_int8`]; values between them are bytes, too, as far as the layers that read them can.
    /// For networks of [`Net::quantized`].
    Int8,
}

/// What a pass is for.
pub enum Mode<'a> {
    /// Outputs: running statistics, no dropout.
    Infer,
    /// Gradients. `drop(number, dropped)` says which elements of a dropout node, `[N, shape…]` in order, are dropped; the
    /// number is the node's.
    Train {
        /// See above.
        drop: &'a (dyn Fn(u64, &mut [bool]) + Sync),
    },
}

impl std::fmt::Debug for Mode<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if matches!(self, Self::Infer) { "Infer" } else { "Train" })
    }
}

/// What a stage works on.
struct Run<'a> {
    /// Examples.
    n: usize,
    mode: &'a Mode<'a>,
    /// With which a layer may move its weights at once: nobody asks for their gradient.
    step: Option<&'a Step>,
    arena: &'a mut Arena,
    parameters: &'a mut Parameters,
    /// What convolutions sum the gradients of their weights in, one after the other.
    spaces: &'a mut Vec<Space<Buffer>>,
    /// For each example whether it has a number that no byte stands for: it is not finite.
    odd: &'a [AtomicBool],
}

/// A layer that runs.
trait Stage: Send + Sync {
    /// Derives what it needs from parameters that have changed.
    fn prepare(&mut self, _parameters: &Parameters) {}

    /// Computes its output.
    fn forward(&mut self, run: &mut Run<'_>);

    /// Computes the gradients of its inputs and parameters from that of its output, which it may overwrite.
    fn backward(&mut self, run: &mut Run<'_>);

    /// Floats of the parameters that it keeps in a form of its own.
    fn kept(&self) -> usize {
        0
    }

    /// How it multiplies.
    fn precision(&self) -> Precision {
        Precision::Fp32
    }
}

/// A stage with what it is called, an example's products, and the time that it has taken forwards and backwards.
struct Timed {
    name: String,
    /// The value that it makes.
    output: (Value, Place),
    products: usize,
    stage: Box<dyn Stage>,
    spent: [Duration; 2],
}

/// A parameter that may be set.
#[derive(Debug)]
pub struct Setter<'a>(&'a mut Slot);

impl Setter<'_> {
    /// Sets it, in the order of a file.
    pub fn set(self, values: &[f32]) {
        self.0.set(values);
    }
}

/// A planned network.
pub struct Net {
    path: Path,
    purpose: Purpose,
    batch: usize,
    arena: Arena,
    parameters: Parameters,
    stages: Vec<Timed>,
    spaces: Vec<Space<Buffer>>,
    input: Place,
    output: Place,
    output_gradient: Option<Place>,
    odd: Vec<AtomicBool>,
    /// Whether parameters have changed since the stages were prepared.
    stale: bool,
}

impl Net {
    /// Plans `graph` for batches of at most `batch` examples. Parameters are zero.
    ///
    /// # Errors
    /// The graph holds what cannot be planned.
    pub fn new(graph: &Graph, batch: usize, purpose: Purpose, path: Path) -> Result<Self, Unfit> {
        Self::with_precision(graph, batch, purpose, path, Precision::Fp32)
    }

    /// The same with products of a precision; training is in fp32.
    ///
    /// # Errors
    /// Those of [`Net::new`].
    pub fn with_precision(
        graph: &Graph,
        batch: usize,
        purpose: Purpose,
        path: Path,
        precision: Precision,
    ) -> Result<Self, Unfit> {
        Self::planned(graph, batch, purpose, path, precision, None)
    }

    /// For outputs by bytes, as far as this machine and the network's layers can. `ranges` are what [`Net::observe`] saw of the same
    /// graph, in fp32: an output's bits depend on these, the parameters and the path.
    ///
    /// # Errors
    /// Those of [`Net::new`].
    pub fn quantized(graph: &Graph, batch: usize, path: Path, ranges: &Ranges) -> Result<Self, Unfit> {
        Self::planned(graph, batch, Purpose::Infer, path, Precision::Int8, Some(ranges))
    }

    fn planned(
        graph: &Graph,
        batch: usize,
        purpose: Purpose,
        path: Path,
        precision: Precision,
        ranges: Option<&Ranges>,
    ) -> Result<Self, Unfit> {
        let precision = if purpose == Purpose::Train { Precision::Fp32 } else { precision };
        let lean;
        let graph = match purpose {
            Purpose::Train => graph,
            Purpose::Infer | Purpose::Observe => {
                lean = graph.without_dropout();
                &lean
            }
        };
        if let Some(node) = graph.nodes().iter().find(|node| purpose == Purpose::Train && node.op.has_no_gradient()) {
            return Err(Unfit(format!("`{}` is for outputs alone: it cannot be trained", lower::alone(&node.op))));
        }
        let layers = lower::lower(graph, purpose);
        let codes = ranges.map_or_else(|| Codes::none(graph), |ranges| Codes::new(graph, &layers, ranges, path));
        let inverted = inverted::find(graph, &layers, purpose, precision);
        let plan = wiring::wire(graph, &layers, &inverted, &codes, batch, purpose);
        let mut layouts = vec![Layout::Plain; graph.parameters().len()];
        let together = if purpose == Purpose::Train { batch.div_ceil(parallel::PARTS) } else { 1 };
        let size = Size { path, batch, together, precision };
        let mut stages = Vec::with_capacity(layers.len());
        let mut index = 0;
        while index < layers.len() {
            let own = index..index + if inverted[index] { inverted::LAYERS } else { 1 };
            index = own.end;
            let output = (layers[own.end - 1].output, plan.wirings[own.end - 1].output);
            let (layers, wirings) = (&layers[own.clone()], &plan.wirings[own]);
            let names: Vec<String> = layers.iter().map(|layer| layer.name(graph)).collect();
            let products = layers.iter().map(|layer| layer.products(graph)).sum();
            let stage = match (layers, wirings) {
                ([layer], [wiring]) => match int8::stage(layer, wiring, path, &codes, graph, &mut layouts) {
                    Some(stage) => stage,
                    None => stage(graph, layer, wiring, size, &mut layouts)?,
                },
                _ => Box::new(inverted::InvertedStage::new(layers, wirings, size, &mut layouts)),
            };
            stages.push(Timed { name: names.join("; "), output, products, stage, spent: [Duration::ZERO; 2] });
        }
        let parameters = Parameters::new(graph, layouts, purpose == Purpose::Train);
        Ok(Self {
            path,
            purpose,
            batch,
            arena: plan.arena,
            parameters,
            stages,
            spaces: Vec::new(),
            input: plan.input,
            output: plan.output,
            output_gradient: plan.output_gradient,
            odd: std::iter::repeat_with(AtomicBool::default).take(batch).collect(),
            stale: true,
        })
    }

    /// The instruction set that it computes with.
    pub fn path(&self) -> Path {
        self.path
    }

    /// Examples of the largest batch.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Bytes of all values and gradients.
    pub fn bytes(&self) -> usize {
        self.arena.bytes()
    }

    /// Bytes of all that it holds: values, gradients, parameters, and these in the forms that kernels want.
    pub fn held(&self) -> usize {
        let slot =
            |slot: &Slot| slot.value.len() + slot.gradient.len() + slot.sums.iter().map(|sum| sum.len()).sum::<usize>();
        let parameters: usize = self.parameters.slots.iter().map(slot).sum();
        let kept: usize = self.stages.iter().map(|timed| timed.stage.kept()).sum();
        self.bytes() + (parameters + kept) * size_of::<f32>()
    }

    /// How its products are computed: in bf16, or as bytes, where any of them are.
    pub fn precision(&self) -> Precision {
        let mut all = self.stages.iter().map(|timed| timed.stage.precision());
        all.find(|precision| *precision != Precision::Fp32).unwrap_or_default()
    }

    /// What each layer is called, and the time that it has taken so far forwards and backwards.
    pub fn times(&self) -> impl Iterator<Item = (&str, [Duration; 2])> {
        self.stages.iter().map(|timed| (timed.name.as_str(), timed.spent))
    }

    /// The products of numbers that each layer sums up for an example, in the order of [`Net::times`]: those of the definition, however it is computed.
    pub fn products(&self) -> impl Iterator<Item = usize> {
        self.stages.iter().map(|timed| timed.products)
    }

    /// Sets a parameter, in the order of a file.
    pub fn set_parameter(&mut self, index: usize, values: &[f32]) {
        self.parameters.slots[index].set(values);
        self.stale = true;
    }

    /// All parameters, to be set each by itself, on any thread.
    pub fn setters(&mut self) -> impl Iterator<Item = Setter<'_>> + Send {
        self.stale = true;
        self.parameters.slots.iter_mut().map(Setter)
    }

    /// Makes what kernels want of the parameters, on all cores. Left out, the next pass does it on one.
    pub fn prepare(&mut self) {
        let kept = self.stages.iter().map(|timed| timed.stage.kept()).sum();
        let parameters = &self.parameters;
        // The last layers tend to be the largest: what is begun last should be small.
        burst(kept, self.stages.iter_mut().rev(), |timed| timed.stage.prepare(parameters));
        self.stale = false;
    }

    /// A parameter's numbers, in the order of a file.
    pub fn parameter(&self, index: usize) -> Vec<f32> {
        let slot = &self.parameters.slots[index];
        slot.plain(&slot.value)
    }

    /// A parameter's gradient after [`Net::backward`], in the order of a file; of one that is trained.
    pub fn gradient(&self, index: usize) -> Vec<f32> {
        let slot = &self.parameters.slots[index];
        slot.plain(&slot.gradient)
    }

    /// Writes an example `[shape…]` into the input.
    pub fn set_input(&mut self, example: usize, values: &[f32]) {
        let len = self.input.form.len();
        let to = &mut self.arena.write(&self.input)[example * len..][..len];
        match self.input.form {
            Form::Maps(maps) => {
                maps.pack(values, to);
                // Another value may have left there what is not finite: it would reach every output.
                maps.clear_padding(to);
            }
            Form::Row(_) => to.copy_from_slice(values),
        }
    }

    /// Computes the outputs of the first `n` examples.
    pub fn forward(&mut self, n: usize, mode: &Mode<'_>) {
        self.forwards(n, mode, |_, _, _| {});
    }

    /// The same in a network that is planned for it, and adds what it sees of every value to `ranges`.
    pub fn observe(&mut self, n: usize, ranges: &mut Ranges) {
        assert!(self.purpose == Purpose::Observe, "a network that is planned for observing");
        ranges.add(Value(0), &self.input.form, self.arena.read(&self.input), n);
        self.forwards(n, &Mode::Infer, |value, place, arena| ranges.add(value, &place.form, arena.read(place), n));
    }

    /// Calls `seen` with every value as soon as it is there.
    fn forwards(&mut self, n: usize, mode: &Mode<'_>, mut seen: impl FnMut(Value, &Place, &Arena)) {
        assert!(n <= self.batch, "a batch of the planned size");
        if self.stale {
            self.stages.iter_mut().for_each(|timed| timed.stage.prepare(&self.parameters));
            self.stale = false;
        }
        self.odd.iter().for_each(|odd| odd.store(false, Ordering::Relaxed));
        let (arena, parameters, spaces) = (&mut self.arena, &mut self.parameters, &mut self.spaces);
        let mut run = Run { n, mode, step: None, arena, parameters, spaces, odd: &self.odd };
        for Timed { stage, output: (value, place), spent: [forwards, _], .. } in &mut self.stages {
            let begun = Instant::now();
            stage.forward(&mut run);
            *forwards += begun.elapsed();
            seen(*value, place, run.arena);
        }
    }

    /// The outputs of the first `n` examples, `[n, shape…]`.
    pub fn outputs(&self, n: usize) -> Vec<f32> {
        let len = self.output.form.len();
        let from = &self.arena.read(&self.output)[..n * len];
        let mut outputs = self.plain_outputs(n, from);
        let each = outputs.len() / n.max(1);
        for (odd, outputs) in self.odd.iter().zip(outputs.chunks_exact_mut(each.max(1))) {
            if odd.load(Ordering::Relaxed) {
                outputs.fill(f32::NAN);
            }
        }
        outputs
    }

    fn plain_outputs(&self, n: usize, from: &[f32]) -> Vec<f32> {
        let len = self.output.form.len();
        match self.output.form {
            Form::Row(_) => from.to_vec(),
            Form::Maps(maps) => {
                let plain = maps.channels * maps.size[0] * maps.size[1];
                let mut outputs = vec![0.0; n * plain];
                for (from, to) in from.chunks_exact(len).zip(outputs.chunks_exact_mut(plain)) {
                    maps.unpack(from, to);
                }
                outputs
            }
        }
    }

    /// Computes the gradients of all parameters from those of the outputs of the first `n` examples, after a pass forwards in
    /// [`Mode::Train`].
    pub fn backward(&mut self, n: usize, slopes: &[f32], mode: &Mode<'_>) {
        self.backwards(n, slopes, mode, None);
    }

    /// The same, and moves every trained parameter by its gradient, which is not kept.
    pub fn step(&mut self, n: usize, slopes: &[f32], mode: &Mode<'_>, step: &Step) {
        for slot in self.parameters.slots.iter_mut().filter(|slot| slot.trained) {
            slot.begin(step.rule);
            slot.moved = false;
        }
        self.backwards(n, slopes, mode, Some(step));
        let path = self.path;
        for slot in self.parameters.slots.iter_mut().filter(|slot| slot.trained && !slot.moved) {
            let Slot { value, gradient, sums, .. } = slot;
            let sums = sums.iter_mut().map(|sum| &mut **sum);
            parallel::update(value, gradient, sums, |value, gradient, sums| step.run(path, value, gradient, sums));
        }
        self.stale = true;
    }

    fn backwards(&mut self, n: usize, slopes: &[f32], mode: &Mode<'_>, step: Option<&Step>) {
        assert!(self.purpose == Purpose::Train, "a network that is planned for training");
        // Nobody asks for a gradient where nothing is trained.
        let Some(place) = self.output_gradient else { return };
        let len = place.form.len();
        let to = &mut self.arena.write(&place)[..n * len];
        match place.form {
            Form::Row(_) => to.copy_from_slice(slopes),
            Form::Maps(maps) => {
                let plain = maps.channels * maps.size[0] * maps.size[1];
                for (from, to) in slopes.chunks_exact(plain).zip(to.chunks_exact_mut(len)) {
                    to.fill(0.0);
                    maps.pack(from, to);
                }
            }
        }
        let (arena, parameters, spaces) = (&mut self.arena, &mut self.parameters, &mut self.spaces);
        let mut run = Run { n, mode, step, arena, parameters, spaces, odd: &self.odd };
        for Timed { stage, spent: [_, backwards], .. } in self.stages.iter_mut().rev() {
            let begun = Instant::now();
            stage.backward(&mut run);
            *backwards += begun.elapsed();
        }
    }

    /// What `rule` remembers of a trained parameter, in the order of a file; zeros before the first step.
    pub fn sums(&mut self, index: usize, rule: Rule) -> Vec<Vec<f32>> {
        let slot = &mut self.parameters.slots[index];
        slot.begin(rule);
        slot.sums.iter().map(|sum| slot.plain(sum)).collect()
    }

    /// Goes on from what another step left: sum number `sum` of a trained parameter, in the order of a file.
    pub fn set_sum(&mut self, index: usize, rule: Rule, sum: usize, values: &[f32]) {
        let slot = &mut self.parameters.slots[index];
        slot.begin(rule);
        slot.set_sum(sum, values);
    }
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("stages", &self.stages.len()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

/// What all stages are made for.
#[derive(Debug, Clone, Copy)]
struct Size {
    path: Path,
    /// Examples at most.
    batch: usize,
    /// Examples that share a pass over weights. Kernels are chosen by this number, and with them an example's bits: for
    /// outputs it is one, whatever the batch.
    together: usize,
    precision: Precision,
}

fn stage(
    graph: &Graph,
    layer: &Layer,
    wiring: &Wiring,
    size: Size,
    layouts: &mut [Layout],
) -> Result<Box<dyn Stage>, Unfit> {
    let Size { path, batch, .. } = size;
    Ok(match &layer.op {
        LayerOp::Conv { pooled: true, .. } => {
            let stage = pooled::PooledStage::new(&layer.op, wiring, size, layouts);
            Box::new(stage.ok_or_else(|| Unfit("a pooled convolution that no kernel suits".into()))?)
        }
        LayerOp::Conv { .. } => Box::new(conv::ConvStage::new(&layer.op, wiring, size, layouts)),
        LayerOp::Linear { weight, bias, relu } => {
            Box::new(linear::LinearStage::new((*weight, *bias), *relu, wiring, path, layouts))
        }
        LayerOp::BatchNorm { momentum, norm, relu } => {
            Box::new(norms::BatchNormStage::new(*momentum, *norm, *relu, wiring, path, layouts))
        }
        LayerOp::Add { relu } => Box::new(simple::AddStage::new(*relu, wiring, path)),
        LayerOp::Alone(op) => match op {
            Op::RowNorm { groups, epsilon, affine } => {
                let by_element = *groups == 1 && graph.parameter_shape(affine.weight) == graph.shape(layer.output);
                Box::new(norms::RowNormStage::new(*groups, *epsilon, *affine, by_element, wiring, path, layouts))
            }
            Op::Activation(function) => Box::new(simple::ActivationStage::new(*function, wiring, path)),
            Op::MaxPool(window) => Box::new(pools::MaxPoolStage::new(window, wiring, path, batch)),
            Op::AvgPool { window, count_padding } => {
                Box::new(pools::AvgPoolStage::new(window, *count_padding, wiring, path))
            }
            Op::GlobalAvgPool => Box::new(pools::GlobalAvgPoolStage::new(wiring, path)),
            Op::Dropout { rate, number } => Box::new(simple::DropoutStage::new(*rate, *number, wiring, path)),
            Op::Flatten => Box::new(simple::FlattenStage::new(wiring, path)),
            Op::Concat => Box::new(simple::ConcatStage::new(wiring, path)),
            op if op.has_no_gradient() => Box::new(outputs::OutputStage::new(op, wiring, path, layouts)),
            _ => unreachable!("lowering has layers of its own for the others"),
        },
    })
}

#[cfg(test)]
mod tests;
