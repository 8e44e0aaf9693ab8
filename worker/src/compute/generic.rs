//! A graph on candle's operations and autograd: the path for devices that the engine has no kernels for.
//!
//! Only operations that candle has on every device are used, and of these only ones whose gradient is right there
//! ([`ops`] says which are not). Numbers agree with the engine's but for rounding.

mod aside;
mod conv;
mod ops;
mod optimizer;
#[cfg(test)]
mod tests;

use candle_core::{DType, Device, Result, Tensor, Var};
use engine::Mode;
use engine::graph::{Graph, Node, Op, ParameterId};
use engine::kernels::optimizer::{Rule, Step};

use optimizer::moved;

/// A network with its parameters on a device.
pub(super) struct Net {
    graph: Graph,
    device: Device,
    dtype: DType,
    parameters: Vec<Var>,
    /// Of the last pass, by parameter; nothing for those that are not trained.
    gradients: Vec<Option<Tensor>>,
    /// What an optimiser remembers of each parameter.
    sums: Vec<Vec<Tensor>>,
}

impl Net {
    /// `graph` on `device` in numbers of `dtype`. Parameters are zero.
    pub(super) fn new(graph: Graph, device: &Device, dtype: DType) -> Result<Self> {
        let zeros = |p: &engine::graph::Parameter| Var::zeros(p.shape.as_slice(), dtype, device);
        let parameters: Vec<Var> = graph.parameters().iter().map(zeros).collect::<Result<_>>()?;
        let (gradients, sums) = (vec![None; parameters.len()], vec![Vec::new(); parameters.len()]);
        Ok(Self { graph, device: device.clone(), dtype, parameters, gradients, sums })
    }

    /// Sets a parameter.
    pub(super) fn set_parameter(&mut self, index: usize, values: &[f32]) -> Result<()> {
        let parameter = &self.parameters[index];
        parameter.set(&self.tensor(values, parameter.dims())?)
    }

    /// A parameter's numbers.
    pub(super) fn parameter(&self, index: usize) -> Result<Vec<f32>> {
        numbers(&self.parameters[index])
    }

    /// What `rule` remembers of a parameter; zeros before the first step.
    pub(super) fn sums(&mut self, index: usize, rule: Rule) -> Result<Vec<Vec<f32>>> {
        self.begin(index, rule)?;
        self.sums[index].iter().map(numbers).collect()
    }

    /// Goes on from what another step left: sum number `sum` of a parameter.
    pub(super) fn set_sum(&mut self, index: usize, rule: Rule, sum: usize, values: &[f32]) -> Result<()> {
        self.begin(index, rule)?;
        self.sums[index][sum] = self.tensor(values, self.parameters[index].dims())?;
        Ok(())
    }

    /// The outputs `[N, shape…]` of rows `[N, shape…]`.
    pub(super) fn logits(&self, rows: &[f32]) -> Result<Vec<f32>> {
        numbers(&self.forward(&self.input(rows)?, &Mode::Infer)?)
    }

    /// The mean cross-entropy of rows, in nats; where it is finite also the gradients that [`Net::update`] needs.
    pub(super) fn loss(&mut self, rows: &[f32], labels: &[u32], mode: &Mode<'_>) -> Result<f64> {
        let losses = ops::cross_entropy(&self.forward(&self.input(rows)?, mode)?, labels)?;
        let each: Vec<f64> = losses.to_device(&Device::Cpu)?.to_dtype(DType::F64)?.to_vec1()?;
        let loss = each.iter().sum::<f64>() / each.len() as f64;
        if loss.is_finite() {
            let mut gradients = losses.mean_all()?.backward()?;
            // What autograd keeps of constants goes.
            for (index, parameter) in self.graph.parameters().iter().enumerate().filter(|(_, p)| p.trained) {
                let gradient = gradients.remove(&self.parameters[index]);
                debug_assert!(gradient.is_some(), "the outputs depend on `{}`", parameter.name);
                self.gradients[index] = gradient;
            }
        }
        Ok(loss)
    }

    /// Moves every trained parameter by its gradient.
    pub(super) fn update(&mut self, step: &Step) -> Result<()> {
        for index in 0..self.parameters.len() {
            if let Some(gradient) = self.gradients[index].take() {
                self.begin(index, step.rule)?;
                let parameter = &self.parameters[index];
                parameter.set(&moved(step, &parameter.as_detached_tensor(), &gradient, &mut self.sums[index])?)?;
            }
        }
        Ok(())
    }

    /// Makes room for what a rule remembers.
    fn begin(&mut self, index: usize, rule: Rule) -> Result<()> {
        if self.sums[index].len() != rule.sums() {
            let zeros = || self.parameters[index].zeros_like();
            self.sums[index] = (0..rule.sums()).map(|_| zeros()).collect::<Result<_>>()?;
        }
        Ok(())
    }

    fn tensor(&self, values: &[f32], shape: &[usize]) -> Result<Tensor> {
        Tensor::from_slice(values, shape, &self.device)?.to_dtype(self.dtype)
    }

    fn input(&self, rows: &[f32]) -> Result<Tensor> {
        let shape = self.graph.shape(self.graph.input());
        let n = rows.len() / shape.iter().product::<usize>();
        self.tensor(rows, &[&[n], shape].concat())
    }

    /// The outputs of examples `[N, shape…]`. While training running statistics follow the batch's.
    fn forward(&self, x: &Tensor, mode: &Mode<'_>) -> Result<Tensor> {
        // Without a gradient to come autograd need not keep what led to a value.
        let own = |var: &Var| match mode {
            Mode::Infer => var.as_detached_tensor(),
            Mode::Train { .. } => var.as_tensor().clone(),
        };
        let parameters: Vec<Tensor> = self.parameters.iter().map(own).collect();
        let output = self.graph.output().index();
        let mut readers: Vec<usize> = self.graph.consumers().iter().map(Vec::len).collect();
        readers[output] += 1;
        let mut values: Vec<Option<Tensor>> = vec![None; readers.len()];
        values[0] = Some(x.clone());
        for (index, node) in self.graph.nodes().iter().enumerate().skip(1) {
            let read = |input: &engine::graph::Value| values[input.index()].clone().expect("kept for its last reader");
            let inputs: Vec<Tensor> = node.inputs.iter().map(read).collect();
            values[index] = Some(self.node(node, &inputs, &parameters, mode)?);
            for input in &node.inputs {
                readers[input.index()] -= 1;
                if readers[input.index()] == 0 {
                    values[input.index()] = None;
                }
            }
        }
        Ok(values[output].take().expect("kept for the caller"))
    }

    fn node(&self, node: &Node, inputs: &[Tensor], parameters: &[Tensor], mode: &Mode<'_>) -> Result<Tensor> {
        let x = &inputs[0];
        let own = |id: ParameterId| &parameters[id.index()];
        match &node.op {
            Op::Input => unreachable!("a graph has one input, its first node"),
            Op::Conv { window, groups, weight, bias } => conv::conv(x, window, *groups, own(*weight), bias.map(own)),
            Op::Linear { weight, bias } => ops::linear(x, own(*weight), bias.map(own)),
            Op::BatchNorm { momentum, epsilon, affine, mean, variance } => {
                let affine = [own(affine.weight), own(affine.bias)];
                let Mode::Train { .. } = mode else {
                    return ops::batch_norm(x, [own(*mean), own(*variance)], *epsilon, affine);
                };
                let (y, statistics) = ops::batch_norm_of_batch(x, *epsilon, affine)?;
                self.follow([*mean, *variance], &statistics, x.elem_count() / x.dim(1)?, *momentum)?;
                Ok(y)
            }
            Op::RowNorm { groups, epsilon, affine } => {
                ops::row_norm(x, *groups, *epsilon, [own(affine.weight), own(affine.bias)])
            }
            Op::Activation(function) => ops::activation(*function, x),
            Op::MaxPool(window) => ops::max_pool(x, window),
            Op::AvgPool { window, count_padding } => ops::avg_pool(x, window, *count_padding),
            Op::GlobalAvgPool => x.mean((2, 3)),
            Op::Dropout { rate, number } => match mode {
                Mode::Train { drop } if *rate > 0.0 => {
                    let mut dropped = vec![false; x.elem_count()];
                    drop(*number, &mut dropped);
                    let scale = (1.0 / (1.0 - rate)) as f32;
                    let factors: Vec<f32> = dropped.iter().map(|dropped| if *dropped { 0.0 } else { scale }).collect();
                    x * self.tensor(&factors, x.dims())?
                }
                _ => Ok(x.clone()),
            },
            Op::Flatten => x.flatten_from(1),
            Op::Add => x + &inputs[1],
            Op::Concat => Tensor::cat(inputs, 1),
            _ => candle_core::bail!("this network is computed on the processors alone"),
        }
    }

    /// Moves the running statistics towards those of a batch of `count` elements a channel.
    fn follow(&self, running: [ParameterId; 2], new: &[Tensor; 2], count: usize, momentum: f64) -> Result<()> {
        // One element has no unbiased variance: the last row of an epoch, alone in its batch.
        let unbiased = if count > 1 { Some(count as f64 / (count - 1) as f64) } else { None };
        for ((id, new), factor) in running.into_iter().zip(new).zip([Some(1.0), unbiased]) {
            if let Some(factor) = factor {
                let var = &self.parameters[id.index()];
                let old = (var.as_detached_tensor() * (1.0 - momentum))?;
                var.set(&(old + (new * (factor * momentum))?)?)?;
            }
        }
        Ok(())
    }
}

fn numbers(tensor: &Tensor) -> Result<Vec<f32>> {
    tensor.to_dtype(DType::F32)?.flatten_all()?.to_vec1()
}
