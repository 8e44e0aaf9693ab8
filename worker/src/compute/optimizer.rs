//! The rules that turn gradients into steps, in place. The formulas are PyTorch's.

use std::collections::HashMap;

use candle_core::backprop::GradStore;
use candle_core::{CpuStorage, InplaceOp3, Layout, Result, Tensor};
use shared::contract::{Optimizer, Training};

use super::ops;
use super::parameters::Parameters;

/// An optimiser and what it remembers of each parameter.
pub(super) struct Rule {
    optimizer: Optimizer,
    weight_decay: f64,
    /// One entry a trained parameter: its running sums of gradients, of their squares.
    memory: Vec<Memory>,
}

struct Memory {
    name: String,
    sums: Vec<Tensor>,
}

/// What the sums are called in a checkpoint.
const SUMS: [&str; 2] = ["first", "second"];

impl Rule {
    /// A rule that has made no step.
    pub(super) fn new(training: &Training, parameters: &Parameters) -> Result<Self> {
        let sums = match training.optimizer {
            Optimizer::Sgd { .. } => 0,
            Optimizer::Momentum { .. } | Optimizer::Nesterov { .. } => 1,
            Optimizer::Adam { .. } | Optimizer::Adamw { .. } => 2,
        };
        let memory = parameters.trained().map(|(parameter, var)| {
            let zeros = |_| var.as_detached_tensor().zeros_like();
            Ok(Memory { name: parameter.name.clone(), sums: (0..sums).map(zeros).collect::<Result<_>>()? })
        });
        let memory = memory.collect::<Result<_>>()?;
        Ok(Self { optimizer: training.optimizer.clone(), weight_decay: training.weight_decay, memory })
    }

    /// Step number `step`, from 0, with learning rate `rate`.
    pub(super) fn step(&self, parameters: &Parameters, gradients: &GradStore, rate: f64, step: u64) -> Result<()> {
        for ((_, var), memory) in parameters.trained().zip(&self.memory) {
            if let Some(gradient) = gradients.get(var) {
                self.update(var, &gradient.contiguous()?, &memory.sums, rate, step)?;
            }
        }
        Ok(())
    }

    fn update(&self, w: &Tensor, g: &Tensor, sums: &[Tensor], rate: f64, step: u64) -> Result<()> {
        let decay = self.weight_decay as f32;
        let lr = rate as f32;
        match (&self.optimizer, sums) {
            (Optimizer::Momentum { momentum, .. }, [v]) => {
                let momentum = *momentum as f32;
                each(v, g, w, move |v, g, w| *v = momentum * *v + (g + decay * w))?;
                each(w, v, v, move |w, v, _| *w -= lr * v)
            }
            (Optimizer::Nesterov { momentum, .. }, [v]) => {
                let momentum = *momentum as f32;
                each(v, g, w, move |v, g, w| *v = momentum * *v + (g + decay * w))?;
                each(w, g, v, move |w, g, v| *w -= lr * ((g + decay * *w) + momentum * v))
            }
            (Optimizer::Adam { beta1, beta2, epsilon, .. }, [m, v]) => {
                adam(w, g, [m, v], [*beta1, *beta2], decay, Step { rate, shrink: 1.0, epsilon: *epsilon, step })
            }
            (Optimizer::Adamw { beta1, beta2, epsilon, .. }, [m, v]) => {
                let shrink = 1.0 - rate * self.weight_decay;
                adam(w, g, [m, v], [*beta1, *beta2], 0.0, Step { rate, shrink, epsilon: *epsilon, step })
            }
            _ => each(w, g, g, move |w, g, _| *w -= lr * (g + decay * *w)),
        }
    }

    /// What it remembers, under names for a checkpoint.
    pub(super) fn state(&self) -> impl Iterator<Item = (String, &Tensor)> {
        self.memory
            .iter()
            .flat_map(|memory| memory.sums.iter().zip(SUMS).map(|(sum, word)| (format!("{}.{word}", memory.name), sum)))
    }

    /// Goes on from what a checkpoint holds, under the names of [`Rule::state`].
    pub(super) fn restore(&mut self, values: &HashMap<String, Tensor>) {
        for memory in &mut self.memory {
            for (sum, word) in memory.sums.iter_mut().zip(SUMS) {
                if let Some(value) = values.get(&format!("{}.{word}", memory.name)) {
                    *sum = value.clone();
                }
            }
        }
    }
}

struct Step {
    rate: f64,
    /// What the weights are multiplied by first.
    shrink: f64,
    epsilon: f64,
    step: u64,
}

fn adam(
    w: &Tensor,
    g: &Tensor,
    [m, v]: [&Tensor; 2],
    [beta1, beta2]: [f64; 2],
    decay: f32,
    Step { rate, shrink, epsilon, step }: Step,
) -> Result<()> {
    let (b1, b2) = (beta1 as f32, beta2 as f32);
    let (rest1, rest2) = ((1.0 - beta1) as f32, (1.0 - beta2) as f32);
    each(m, g, w, move |m, g, w| *m = b1 * *m + rest1 * (g + decay * w))?;
    each(v, g, w, move |v, g, w| {
        let g = g + decay * w;
        *v = b2 * *v + rest2 * g * g;
    })?;
    // Both sums begin at zero: these undo that.
    let done = (step + 1) as f64;
    let size = (rate / (1.0 - libm::pow(beta1, done))) as f32;
    let root = (1.0 - libm::pow(beta2, done)).sqrt() as f32;
    let (shrink, epsilon) = (shrink as f32, epsilon as f32);
    each(w, m, v, move |w, m, v| *w = *w * shrink - size * m / (v.sqrt() / root + epsilon))
}

/// Changes every element of `out` by those of `a` and `b` at its place.
fn each(out: &Tensor, a: &Tensor, b: &Tensor, f: impl Fn(&mut f32, f32, f32) + Sync + Send) -> Result<()> {
    out.inplace_op3(a, b, &Each(f))
}

struct Each<F>(F);

impl<F: Fn(&mut f32, f32, f32) + Sync + Send> InplaceOp3 for Each<F> {
    fn name(&self) -> &'static str {
        "optimizer"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        a: &CpuStorage,
        a_layout: &Layout,
        b: &CpuStorage,
        b_layout: &Layout,
    ) -> Result<()> {
        let (CpuStorage::F32(out), CpuStorage::F32(a), CpuStorage::F32(b)) = (out, a, b) else {
            candle_core::bail!("the optimisers work on fp32");
        };
        let layouts = [out_layout, a_layout, b_layout].map(Layout::contiguous_offsets);
        let [Some((o0, o1)), Some((a0, a1)), Some((b0, b1))] = layouts else {
            candle_core::bail!("the optimisers work on contiguous tensors");
        };
        ops::update(&mut out[o0..o1], &a[a0..a1], &b[b0..b1], &self.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
