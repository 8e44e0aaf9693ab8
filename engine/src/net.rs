//! A graph that runs: planned once for a batch, then trained or asked for outputs any number of times.
//!
//! Planning lowers the graph to layers ([`lower`]), decides where every value and gradient lies ([`memory`]), and
//! makes a stage of each layer, which owns its kernels. A step of training is one pass over the stages
//! forwards and one backwards.

mod codes;
mod conv;
mod convolution;
mod fused;
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
mod stage;
mod stem;
mod training;
mod wiring;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::buffer::Buffer;
use crate::burst;
use crate::graph::{Graph, Unfit, Value};
use crate::parallel::{self, Space};
use crate::simd::Path;

use codes::Codes;
use memory::{Arena, Form, Place};
use parameters::{Layout, Parameters, Slot};
use stage::{Run, Size, Stage, Timed};

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
        let lengths = fused::find(graph, &layers, purpose, precision);
        let plan = wiring::wire(graph, &layers, &lengths, &codes, batch, purpose);
        let mut layouts = vec![Layout::Plain; graph.parameters().len()];
        let together = if purpose == Purpose::Train { batch.div_ceil(parallel::PARTS) } else { 1 };
        let size = Size { path, batch, together, precision };
        let mut stages = Vec::with_capacity(layers.len());
        let mut index = 0;
        while index < layers.len() {
            let own = index..index + lengths[index];
            index = own.end;
            let output = (layers[own.end - 1].output, plan.wirings[own.end - 1].output);
            let (layers, wirings) = (&layers[own.clone()], &plan.wirings[own]);
            let names: Vec<String> = layers.iter().map(|layer| layer.name(graph)).collect();
            let products = layers.iter().map(|layer| layer.products(graph)).sum();
            let stage = match (layers, wirings) {
                ([layer], [wiring]) => match int8::stage(layer, wiring, path, &codes, graph, &mut layouts) {
                    Some(stage) => stage,
                    None if codes.touch(layer) => {
                        return Err(Unfit(format!("`{}` has no kernel for bytes", layer.name(graph))));
                    }
                    None => stage::of(graph, layer, wiring, size, &mut layouts)?,
                },
                _ => fused::stage(layers, wirings, size, &mut layouts),
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

    /// Writes an example `[shape…]` into the input. A pass may write its values where the input lies: it is set before each pass.
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
}

impl std::fmt::Debug for Net {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Net").field("stages", &self.stages.len()).field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
