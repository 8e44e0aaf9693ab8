//! A network that runs: the layers of a description, bound to tensors.
//!
//! Its shapes come from the description's own rules, so that both cannot disagree.

mod build;

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Tensor};
use rand_chacha::rand_core::Rng as _;
use shared::contract::Activation;
use shared::random;

use super::ops::{self, BatchStatistics, Conv, Window};

/// A feed-forward network.
pub(super) struct Net {
    layers: Vec<Node>,
}

/// Why a network runs.
#[derive(Debug, Clone, Copy)]
pub(super) enum Mode {
    /// For its outputs: nothing is remembered for a gradient.
    Infer,
    /// For its gradient: batch statistics and dropout are at work.
    Train {
        /// The trial's seed.
        seed: u32,
        /// Number of the step, from 0, over all epochs: it names the dropout's stream.
        step: u64,
    },
}

/// A layer with its tensors.
enum Node {
    Conv {
        conv: Conv,
        weight: Tensor,
        bias: Tensor,
    },
    Linear {
        weight: Tensor,
        bias: Tensor,
        relu: bool,
    },
    BatchNorm {
        momentum: f64,
        epsilon: f64,
        affine: Affine,
        running_mean: Tensor,
        running_variance: Tensor,
    },
    RowNorm {
        groups: usize,
        epsilon: f64,
        affine: Affine,
    },
    Activation(Activation),
    MaxPool(Window),
    AvgPool {
        window: Window,
        count_padding: bool,
    },
    GlobalAvgPool,
    /// The number tells this layer's masks from those of other dropout layers.
    Dropout {
        rate: f64,
        number: u64,
    },
    Flatten,
    Residual {
        layers: Vec<Node>,
        shortcut: Vec<Node>,
    },
    Parallel(Vec<Vec<Node>>),
}

/// A norm's weight and bias.
struct Affine {
    weight: Tensor,
    bias: Tensor,
}

impl Net {
    /// The logits `[N, classes]` of a batch `[N, shape…]`.
    pub(super) fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        run(&self.layers, x, mode)
    }
}

fn run(layers: &[Node], x: &Tensor, mode: Mode) -> Result<Tensor> {
    layers.iter().try_fold(x.clone(), |x, layer| layer.forward(&x, mode))
}

impl Mode {
    /// The tensor, with its gradient or without.
    fn of(self, tensor: &Tensor) -> Tensor {
        match self {
            Self::Infer => tensor.detach(),
            Self::Train { .. } => tensor.clone(),
        }
    }
}

impl Node {
    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        match self {
            Self::Conv { conv, weight, bias } => ops::conv(*conv, x, &mode.of(weight), &mode.of(bias)),
            Self::Linear { weight, bias, relu } => ops::linear(x, &mode.of(weight), &mode.of(bias), *relu),
            Self::BatchNorm { momentum, epsilon, affine, running_mean, running_variance } => {
                let statistics = match mode {
                    Mode::Infer => running(running_mean, running_variance)?,
                    Mode::Train { .. } => {
                        let statistics = ops::batch_statistics(x)?;
                        follow(&statistics, *momentum, running_mean, running_variance)?;
                        statistics
                    }
                };
                ops::batch_norm(&statistics, *epsilon, x, &mode.of(&affine.weight), &mode.of(&affine.bias))
            }
            Self::RowNorm { groups, epsilon, affine } => {
                ops::row_norm(*groups, *epsilon, x, &mode.of(&affine.weight), &mode.of(&affine.bias))
            }
            Self::Activation(function) => ops::activation(*function, x),
            Self::MaxPool(window) => ops::max_pool(*window, x),
            Self::AvgPool { window, count_padding } => ops::avg_pool(*window, *count_padding, x),
            Self::GlobalAvgPool => {
                let (_, _, height, width) = x.dims4()?;
                let window = Window {
                    kernel: [height, width],
                    stride: [1, 1],
                    before: [0, 0],
                    dilation: [1, 1],
                    output: [1, 1],
                };
                ops::avg_pool(window, false, x)?.flatten_from(1)
            }
            Self::Dropout { rate, number } => match mode {
                Mode::Infer => Ok(x.clone()),
                Mode::Train { seed, step } => drop_out(x, *rate, seed, step, *number),
            },
            Self::Flatten => x.flatten_from(1),
            Self::Residual { layers, shortcut } => run(layers, x, mode)? + run(shortcut, x, mode)?,
            Self::Parallel(branches) => {
                let outputs: Vec<_> = branches.iter().map(|branch| run(branch, x, mode)).collect::<Result<_>>()?;
                Tensor::cat(&outputs, 1)
            }
        }
    }
}

fn drop_out(x: &Tensor, rate: f64, seed: u32, step: u64, number: u64) -> Result<Tensor> {
    if rate == 0.0 {
        return Ok(x.clone());
    }
    let mut stream = random::stream(seed, &["dropout".into(), step.into(), number.into()]);
    let threshold = (rate * (f64::from(u32::MAX) + 1.0)) as u32;
    let dropped = (0..x.elem_count()).map(|_| stream.next_u32() < threshold).collect();
    ops::dropout(x, dropped, 1.0 / (1.0 - rate))
}

/// The statistics that training left.
fn running(mean: &Tensor, variance: &Tensor) -> Result<BatchStatistics> {
    let numbers = |t: &Tensor| t.to_dtype(candle_core::DType::F64)?.to_vec1();
    Ok(BatchStatistics { mean: numbers(mean)?, variance: numbers(variance)?, count: 0 })
}

/// Moves the running statistics towards a batch's.
fn follow(statistics: &BatchStatistics, momentum: f64, mean: &Tensor, variance: &Tensor) -> Result<()> {
    let count = statistics.count as f64;
    mean.inplace_op1(&Blend { momentum, new: statistics.mean.clone() })?;
    if statistics.count < 2 {
        // One element has no unbiased variance: the last row of an epoch, alone in its batch.
        return Ok(());
    }
    let unbiased = statistics.variance.iter().map(|variance| variance * count / (count - 1.0)).collect();
    variance.inplace_op1(&Blend { momentum, new: unbiased })
}

/// `old * (1 - momentum) + new * momentum`.
struct Blend {
    momentum: f64,
    new: Vec<f64>,
}

impl InplaceOp1 for Blend {
    fn name(&self) -> &'static str {
        "blend"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, _: &Layout) -> Result<()> {
        let blend = |old: f64, new: f64| old * (1.0 - self.momentum) + new * self.momentum;
        match storage {
            CpuStorage::F32(old) => {
                old.iter_mut().zip(&self.new).for_each(|(old, new)| *old = blend(f64::from(*old), *new) as f32);
            }
            CpuStorage::F64(old) => old.iter_mut().zip(&self.new).for_each(|(old, new)| *old = blend(*old, *new)),
            _ => candle_core::bail!("running statistics are floating-point numbers"),
        }
        Ok(())
    }
}
