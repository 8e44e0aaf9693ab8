//! A network with its parameters, ready to compute: by the engine on the processors, by candle on other devices.

use std::collections::HashMap;

use bytes::Bytes;
use candle_core::{DType, Device, Result as Computed, Tensor};
use engine::graph::{Graph, Unfit};
use engine::kernels::optimizer::{Rule, Step};
use engine::kernels::softmax;
use engine::{Mode, Precision, Purpose, Ranges};
use rand_chacha::rand_core::Rng as _;
use shared::contract::{Init, Network, Optimizer, Output, Parameter, Training};
use shared::random;

use super::graph::graph;
use super::{Backend, ComputeError, generic, simd};

/// What the sums of an optimiser are called in a checkpoint.
const SUMS: [&str; 2] = ["first", "second"];

const NO_FEATURES: &str =
    "the network has no embedding: its outputs come of no single layer with weights, linear or a convolution";

/// A network with its parameters.
pub(super) struct Model {
    net: Net,
    parameters: Vec<Parameter>,
    dropouts: HashMap<u64, f64>,
    /// Numbers of an example.
    input: usize,
    /// Numbers of its output.
    outputs: usize,
}

/// How a network is to be computed, as far as the engine has kernels for it here: see [`Model::precision`].
#[derive(Debug, Clone, Copy)]
pub(super) enum Numbers<'a> {
    /// In fp32.
    Fp32,
    /// For outputs and [`Model::observe`], in fp32.
    Observed,
    /// For outputs, with products in bf16.
    Bf16,
    /// For outputs, by bytes that stand for what was seen between these ranges.
    Int8(&'a Ranges),
}

/// The engine's plan of a graph.
fn plan(graph: &Graph, batch: usize, purpose: Purpose, numbers: Numbers<'_>) -> Result<Net, Unfit> {
    let batch = batch.max(1);
    let net = match numbers {
        Numbers::Fp32 => engine::Net::new(graph, batch, purpose, simd()),
        Numbers::Observed => engine::Net::new(graph, batch, Purpose::Observe, simd()),
        Numbers::Bf16 => engine::Net::with_precision(graph, batch, purpose, simd(), Precision::Bf16),
        Numbers::Int8(ranges) => engine::Net::quantized(graph, batch, simd(), ranges),
    };
    net.map(|net| Net::Engine(Box::new(net)))
}

/// What computes it.
enum Net {
    Engine(Box<engine::Net>),
    Generic(generic::Net),
}

impl Model {
    /// `network` on inputs of shape `input`, in batches of at most `batch`. All parameters are zero.
    ///
    /// # Errors
    /// The network does not fit its input, or the device has no room for it.
    pub(super) fn new(
        network: &Network,
        input: &[usize],
        batch: usize,
        purpose: Purpose,
        backend: &Backend,
    ) -> Result<Self, ComputeError> {
        Self::with_numbers(network, input, batch, purpose, backend, Numbers::Fp32)
    }

    /// The same, computed otherwise.
    ///
    /// # Errors
    /// Those of [`Model::new`].
    pub(super) fn with_numbers(
        network: &Network,
        input: &[usize],
        batch: usize,
        purpose: Purpose,
        backend: &Backend,
        numbers: Numbers<'_>,
    ) -> Result<Self, ComputeError> {
        let invalid = |error: &dyn std::fmt::Display| ComputeError::InvalidJob(format!("the network's {error}"));
        let parameters = network.parameters(input).map_err(|error| invalid(&error))?;
        Self::of_graph(graph(network, input, &parameters)?, parameters, batch, (purpose, numbers), backend)
    }

    /// The part of a network that [`Graph::features`] computes, likewise. It has all the network's parameters.
    ///
    /// # Errors
    /// Those of [`Model::new`], and that the network has no such part.
    pub(super) fn features(
        network: &Network,
        input: &[usize],
        batch: usize,
        backend: &Backend,
    ) -> Result<Self, ComputeError> {
        let parameters = network.parameters(input).map_err(|error| ComputeError::InvalidJob(error.to_string()))?;
        let features = graph(network, input, &parameters)?.features();
        let graph = features.ok_or_else(|| ComputeError::InvalidJob(NO_FEATURES.into()))?;
        Self::of_graph(graph, parameters, batch, (Purpose::Infer, Numbers::Fp32), backend)
    }

    fn of_graph(
        graph: Graph,
        parameters: Vec<Parameter>,
        batch: usize,
        (purpose, numbers): (Purpose, Numbers<'_>),
        backend: &Backend,
    ) -> Result<Self, ComputeError> {
        let invalid = |error: &dyn std::fmt::Display| ComputeError::InvalidJob(format!("the network's {error}"));
        let count = |value| graph.shape(value).iter().product();
        let (input, outputs) = (count(graph.input()), count(graph.output()));
        let dropouts = graph.nodes().iter().filter_map(|node| match node.op {
            engine::graph::Op::Dropout { rate, number } => Some((number, rate)),
            _ => None,
        });
        let dropouts = dropouts.collect();
        let net = match backend {
            Backend::Engine => plan(&graph, batch, purpose, numbers).map_err(|error| invalid(&error))?,
            Backend::Candle(device) => Net::Generic(generic::Net::new(graph, device, DType::F32)?),
        };
        Ok(Self { net, parameters, dropouts, input, outputs })
    }

    /// Numbers of an example's output.
    pub(super) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The network of an ONNX file with its parameters, for outputs alone, or for its features.
    ///
    /// # Errors
    /// What is wrong with the file, or with the network for this input and so many outputs.
    pub(super) fn of_onnx(
        file: Bytes,
        input: &[usize],
        outputs: usize,
        wanted: Output,
        batch: usize,
        backend: &Backend,
        numbers: Numbers<'_>,
    ) -> Result<Self, String> {
        if !matches!(backend, Backend::Engine) {
            return Err(
                "an ONNX file is computed on the processors: let a worker with the device `cpu` take the job".into()
            );
        }
        let size = input.get(1..3).and_then(|size| <[usize; 2]>::try_from(size).ok());
        let network = onnx::parse(file, None, &onnx::Options { size }).map_err(|error| error.to_string())?;
        let found = network.graph.shape(network.graph.input());
        let count: usize = network.graph.shape(network.graph.output()).iter().product();
        if found != input || network.output_shape != [outputs] || count != outputs {
            let shapes = format!("from {found:?} to {:?}", network.output_shape);
            return Err(format!("the ONNX file goes {shapes}: from {input:?} to [{outputs}] is needed"));
        }
        let graph = match wanted {
            Output::Labels => network.graph.clone(),
            Output::Embedding => network.features().ok_or(NO_FEATURES)?,
        };
        let mut net = plan(&graph, batch, Purpose::Infer, numbers).map_err(|error| error.to_string())?;
        if let Net::Engine(net) = &mut net {
            network.fill(net).map_err(|error| error.to_string())?;
        }
        let (input, outputs) = (input.iter().product(), graph.shape(graph.output()).iter().product());
        Ok(Self { net, parameters: Vec::new(), dropouts: HashMap::new(), input, outputs })
    }

    /// Computes rows and adds what the network's values are like to `ranges`; by the engine alone, with [`Numbers::Observed`].
    pub(super) fn observe(&mut self, rows: &[f32], ranges: &mut Ranges) {
        if let Net::Engine(net) = &mut self.net {
            let n = fill(net, rows, self.input);
            net.observe(n, ranges);
        }
    }

    /// How its products are computed.
    pub(super) fn precision(&self) -> Precision {
        match &self.net {
            Net::Engine(net) => net.precision(),
            Net::Generic(_) => Precision::Fp32,
        }
    }

    /// Bytes that it holds, as far as they are known: on another device the parameters'.
    pub(super) fn bytes(&self) -> usize {
        let numbers = |parameter: &Parameter| parameter.shape.iter().product::<usize>();
        match &self.net {
            Net::Engine(net) => net.held(),
            Net::Generic(_) => self.parameters.iter().map(numbers).sum::<usize>() * size_of::<f32>(),
        }
    }

    /// Sets all parameters to their first values. Each tensor's numbers come from a stream of its own, named by `seed` and its name.
    pub(super) fn initialise(&mut self, seed: u32) -> Computed<()> {
        for (index, parameter) in self.parameters.iter().enumerate() {
            self.net.set_parameter(index, &initial(parameter, seed))?;
        }
        Ok(())
    }

    /// The tensors that it owns.
    pub(super) fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Sets each parameter to its tensor in `values`, which has all of them.
    pub(super) fn set(&mut self, values: &HashMap<String, Tensor>) -> Computed<()> {
        for (index, parameter) in self.parameters.iter().enumerate() {
            if let Some(value) = values.get(&parameter.name) {
                self.net.set_parameter(index, &numbers(value)?)?;
            }
        }
        Ok(())
    }

    /// All parameters as they are now.
    pub(super) fn copies(&self) -> Computed<Vec<(String, Tensor)>> {
        let copy = |(index, parameter): (usize, &Parameter)| {
            let values = match &self.net {
                Net::Engine(net) => net.parameter(index),
                Net::Generic(net) => net.parameter(index)?,
            };
            Ok((parameter.name.clone(), Tensor::from_vec(values, parameter.shape.as_slice(), &Device::Cpu)?))
        };
        self.parameters.iter().enumerate().map(copy).collect()
    }

    /// What an optimiser remembers of each trained parameter, under names for a checkpoint.
    pub(super) fn optimizer_state(&mut self, rule: Rule) -> Computed<Vec<(String, Tensor)>> {
        let mut state = Vec::new();
        for (index, parameter) in self.parameters.iter().enumerate().filter(|(_, p)| p.init.is_trained()) {
            let sums = match &mut self.net {
                Net::Engine(net) => net.sums(index, rule),
                Net::Generic(net) => net.sums(index, rule)?,
            };
            for (values, word) in sums.into_iter().zip(SUMS) {
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
    pub(super) fn restore(&mut self, rule: Rule, values: &HashMap<String, Tensor>) -> Computed<()> {
        for (index, parameter) in self.parameters.iter().enumerate().filter(|(_, p)| p.init.is_trained()) {
            for (sum, word) in SUMS.into_iter().take(rule.sums()).enumerate() {
                if let Some(value) = values.get(&format!("{}.{word}", parameter.name)) {
                    let values = numbers(value)?;
                    match &mut self.net {
                        Net::Engine(net) => net.set_sum(index, rule, sum, &values),
                        Net::Generic(net) => net.set_sum(index, rule, sum, &values)?,
                    }
                }
            }
        }
        Ok(())
    }

    /// The logits `[N, classes]`, or features, of rows `[N, shape…]`.
    pub(super) fn logits(&mut self, rows: &[f32]) -> Computed<Vec<f32>> {
        match &mut self.net {
            Net::Engine(net) => {
                let n = fill(net, rows, self.input);
                net.forward(n, &Mode::Infer);
                Ok(net.outputs(n))
            }
            Net::Generic(net) => net.logits(rows),
        }
    }

    /// One step of training on rows, if their mean cross-entropy, in nats, is finite: it is returned. `seed` and the step's number name
    /// the dropout's streams.
    pub(super) fn step(&mut self, rows: &[f32], labels: &[u32], seed: u32, step: &Step) -> Computed<f64> {
        let dropouts = &self.dropouts;
        let drop = |number: u64, dropped: &mut [bool]| {
            let rate = dropouts.get(&number).copied().unwrap_or_default();
            let mut stream = random::stream(seed, &["dropout".into(), step.number.into(), number.into()]);
            let threshold = (rate * (f64::from(u32::MAX) + 1.0)) as u32;
            dropped.iter_mut().for_each(|dropped| *dropped = stream.next_u32() < threshold);
        };
        let mode = Mode::Train { drop: &drop };
        let net = match &mut self.net {
            Net::Engine(net) => net,
            Net::Generic(net) => {
                let loss = net.loss(rows, labels, &mode)?;
                if loss.is_finite() {
                    net.update(step)?;
                }
                return Ok(loss);
            }
        };
        let n = fill(net, rows, self.input);
        net.forward(n, &mode);
        let logits = net.outputs(n);
        let mut slopes = vec![0.0; logits.len()];
        let loss = softmax::cross_entropy(net.path(), &logits, labels, Some(&mut slopes));
        if loss.is_finite() {
            net.step(n, &slopes, &mode, step);
        }
        Ok(loss)
    }

    /// The sum of the rows' cross-entropies, and how many rows have another largest logit than their label's.
    pub(super) fn measure(&mut self, rows: &[f32], labels: &[u32]) -> Computed<(f64, u64)> {
        Ok(softmax::measure(simd(), &self.logits(rows)?, labels))
    }
}

impl Net {
    fn set_parameter(&mut self, index: usize, values: &[f32]) -> Computed<()> {
        match self {
            Self::Engine(net) => net.set_parameter(index, values),
            Self::Generic(net) => net.set_parameter(index, values)?,
        }
        Ok(())
    }
}

/// Writes rows of `len` numbers into a network's input, and says how many.
fn fill(net: &mut engine::Net, rows: &[f32], len: usize) -> usize {
    for (example, row) in rows.chunks_exact(len).enumerate() {
        net.set_input(example, row);
    }
    rows.len() / len
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

fn numbers(tensor: &Tensor) -> Computed<Vec<f32>> {
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

#[cfg(test)]
mod tests;
