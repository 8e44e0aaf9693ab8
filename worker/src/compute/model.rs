//! A network with its parameters, ready to compute on this machine's processors.

use std::collections::HashMap;

use candle_core::{Device, Tensor};
use engine::kernels::optimizer::Rule;
use engine::kernels::softmax;
use engine::{Mode, Net, Path, Purpose};
use rand_chacha::rand_core::Rng as _;
use shared::contract::{Init, Network, Optimizer, Parameter, Training};
use shared::random;

use super::ComputeError;
use super::graph::graph;

/// What the sums of an optimiser are called in a checkpoint.
const SUMS: [&str; 2] = ["first", "second"];

/// A network with its parameters.
pub(super) struct Model {
    net: Net,
    parameters: Vec<Parameter>,
    dropouts: HashMap<u64, f64>,
    input: usize,
}

impl Model {
    /// `network` on inputs of shape `input`, in batches of at most `batch`. All parameters are zero.
    ///
    /// # Errors
    /// The network does not fit its input.
    pub(super) fn new(
        network: &Network,
        input: &[usize],
        batch: usize,
        purpose: Purpose,
    ) -> Result<Self, ComputeError> {
        let invalid = |error: &dyn std::fmt::Display| ComputeError::InvalidJob(format!("the network's {error}"));
        let parameters = network.parameters(input).map_err(|error| invalid(&error))?;
        let graph = graph(network, input)?;
        let dropouts = graph.nodes().iter().filter_map(|node| match node.op {
            engine::graph::Op::Dropout { rate, number } => Some((number, rate)),
            _ => None,
        });
        let dropouts = dropouts.collect();
        let net = Net::new(&graph, batch.max(1), purpose, Path::best()).map_err(|error| invalid(&error))?;
        Ok(Self { net, parameters, dropouts, input: input.iter().product() })
    }

    /// Sets all parameters to their first values. Each tensor's numbers come from a stream of its own, named by `seed` and its name.
    pub(super) fn initialise(&mut self, seed: u32) {
        for (index, parameter) in self.parameters.iter().enumerate() {
            self.net.set_parameter(index, &initial(parameter, seed));
        }
    }

    /// The tensors that it owns.
    pub(super) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Sets each parameter to its tensor in `values`, which has all of them.
    pub(super) fn set(&mut self, values: &HashMap<String, Tensor>) -> candle_core::Result<()> {
        for (index, parameter) in self.parameters.iter().enumerate() {
            if let Some(value) = values.get(&parameter.name) {
                self.net.set_parameter(index, &numbers(value)?);
            }
        }
        Ok(())
    }

    /// All parameters as they are now.
    pub(super) fn copies(&self) -> candle_core::Result<Vec<(String, Tensor)>> {
        let copy = |(index, parameter): (usize, &Parameter)| {
            let values = Tensor::from_vec(self.net.parameter(index), parameter.shape.as_slice(), &Device::Cpu)?;
            Ok((parameter.name.clone(), values))
        };
        self.parameters.iter().enumerate().map(copy).collect()
    }

    /// What an optimiser remembers of each trained parameter, under names for a checkpoint.
    pub(super) fn optimizer_state(&mut self, rule: Rule) -> candle_core::Result<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for (index, parameter) in self.parameters.iter().enumerate().filter(|(_, p)| p.init.is_trained()) {
            for (values, word) in self.net.sums(index, rule).into_iter().zip(SUMS) {
                let values = Tensor::from_vec(values, parameter.shape.as_slice(), &Device::Cpu)?;
                state.push((format!("{}.{word}", parameter.name), values));
            }
        }
        Ok(state)
    }

    /// The names and shapes of [`Model::optimizer_state`].
    pub(super) fn optimizer_shapes(&self, rule: Rule) -> Vec<(String, Vec<usize>)> {
        let trained = self.parameters.iter().filter(|parameter| parameter.init.is_trained());
        let sums = |p: &Parameter| {
            let (name, shape) = (p.name.clone(), p.shape.clone());
            SUMS.into_iter().take(rule.sums()).map(move |word| (format!("{name}.{word}"), shape.clone()))
        };
        trained.flat_map(sums).collect()
    }

    /// Goes on from what a checkpoint holds.
    pub(super) fn restore(&mut self, rule: Rule, values: &HashMap<String, Tensor>) -> candle_core::Result<()> {
        for (index, parameter) in self.parameters.iter().enumerate().filter(|(_, p)| p.init.is_trained()) {
            for (sum, word) in SUMS.into_iter().take(rule.sums()).enumerate() {
                if let Some(value) = values.get(&format!("{}.{word}", parameter.name)) {
                    self.net.set_sum(index, rule, sum, &numbers(value)?);
                }
            }
        }
        Ok(())
    }

    /// The logits `[N, classes]` of rows `[N, shape…]`.
    pub(super) fn logits(&mut self, rows: &[f32]) -> Vec<f32> {
        let n = self.fill(rows);
        self.net.forward(n, &Mode::Infer);
        self.net.outputs(n)
    }

    /// One step of training on rows, if their mean cross-entropy, in nats, is finite: it is returned. `seed` and the step's number name
    /// the dropout's streams.
    pub(super) fn step(&mut self, rows: &[f32], labels: &[u32], seed: u32, step: &Step) -> f64 {
        let n = self.fill(rows);
        let dropouts = &self.dropouts;
        let drop = |number: u64, dropped: &mut [bool]| {
            let rate = dropouts.get(&number).copied().unwrap_or_default();
            let mut stream = random::stream(seed, &["dropout".into(), step.number.into(), number.into()]);
            let threshold = (rate * (f64::from(u32::MAX) + 1.0)) as u32;
            dropped.iter_mut().for_each(|dropped| *dropped = stream.next_u32() < threshold);
        };
        let mode = Mode::Train { drop: &drop };
        self.net.forward(n, &mode);
        let logits = self.net.outputs(n);
        let mut slopes = vec![0.0; logits.len()];
        let loss = softmax::cross_entropy(self.net.path(), &logits, labels, Some(&mut slopes));
        if loss.is_finite() {
            self.net.step(n, &slopes, &mode, step.rule, step.rate, step.decay, step.number);
        }
        loss
    }

    /// The sum of the rows' cross-entropies, and how many rows have another largest logit than their label's.
    pub(super) fn measure(&mut self, rows: &[f32], labels: &[u32]) -> (f64, u64) {
        let logits = self.logits(rows);
        softmax::measure(self.net.path(), &logits, labels)
    }

    /// Writes rows into the network's input, and says how many.
    fn fill(&mut self, rows: &[f32]) -> usize {
        for (example, row) in rows.chunks_exact(self.input).enumerate() {
            self.net.set_input(example, row);
        }
        rows.len() / self.input
    }
}

/// How parameters are moved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    pub(super) rule: Rule,
    /// The learning rate.
    pub(super) rate: f64,
    /// The weight decay.
    pub(super) decay: f64,
    /// From 0, over all epochs.
    pub(super) number: u64,
}

/// A trial's optimiser as a rule.
pub(super) fn rule(training: &Training) -> Rule {
    match training.optimizer {
        Optimizer::Sgd { .. } => Rule::Sgd,
        Optimizer::Momentum { momentum, .. } => Rule::Momentum { momentum },
        Optimizer::Nesterov { momentum, .. } => Rule::Nesterov { momentum },
        Optimizer::Adam { beta1, beta2, epsilon, .. } => Rule::Adam { beta1, beta2, epsilon },
        Optimizer::Adamw { beta1, beta2, epsilon, .. } => Rule::AdamW { beta1, beta2, epsilon },
    }
}

fn numbers(tensor: &Tensor) -> candle_core::Result<Vec<f32>> {
    tensor.flatten_all()?.to_vec1()
}

/// The first values of a parameter.
fn initial(parameter: &Parameter, seed: u32) -> Vec<f32> {
    let elements = parameter.shape.iter().product();
    match parameter.init {
        Init::Zeros | Init::RunningMean => vec![0.0; elements],
        Init::Ones | Init::RunningVariance => vec![1.0; elements],
        Init::HeUniform { fan_in } => {
            let bound = (6.0 / fan_in as f64).sqrt();
            let mut stream = random::stream(seed, &["parameter".into(), parameter.name.as_str().into()]);
            // 24 bits are what fp32 holds between 0 and 1 without rounding.
            let unit = |bits: u32| f64::from(bits >> 8) / f64::from(1 << 24);
            (0..elements).map(|_| (bound * (2.0 * unit(stream.next_u32()) - 1.0)) as f32).collect()
        }
    }
}
