//! The reference network in plain candle, as its own examples are written. Its max-pool's gradient is wrong, so the maximum is
//! taken along reshaped axes, whose gradient is right.

use std::path::Path;
use std::time::Instant;

use candle_core::{D, Device, Result, Tensor, Var};

use super::{BATCH, Backend, Measured, WARM_UP};

struct Net {
    weights: Vec<(Var, Var)>,
}

impl Net {
    fn new(device: &Device) -> Result<Self> {
        let shapes: [&[usize]; 4] = [&[32, 1, 5, 5], &[64, 32, 5, 5], &[512, 3136], &[10, 512]];
        let weights = shapes.iter().map(|shape| {
            let bound = (6.0 / shape[1..].iter().product::<usize>() as f64).sqrt() as f32;
            let weight = Var::rand(-bound, bound, *shape, device)?;
            Ok((weight, Var::zeros(shape[0], candle_core::DType::F32, device)?))
        });
        Ok(Self { weights: weights.collect::<Result<_>>()? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut x = x.clone();
        for (index, (weight, bias)) in self.weights.iter().enumerate() {
            x = if index < 2 {
                let y = x.conv2d(weight, 2, 1, 1, 1)?.broadcast_add(&bias.reshape((1, (), 1, 1))?)?.relu()?;
                let (n, c, h, w) = y.dims4()?;
                y.reshape((n, c, h / 2, 2, w / 2, 2))?.max(5)?.max(3)?
            } else {
                let y = x.flatten_from(1)?.matmul(&weight.t()?)?.broadcast_add(bias)?;
                if index == 2 { y.relu()? } else { y }
            };
        }
        Ok(x)
    }
}

pub(super) fn train(started: Instant, file: &Path, images: usize, backend: &Backend) -> anyhow::Result<Measured> {
    let device = if let Backend::Candle(device) = backend { device } else { &Device::Cpu };
    // SAFETY: nobody changes the file while this benchmark runs.
    let file = unsafe { candle_core::safetensors::MmapedSafetensors::new(file) }?;
    let inputs = file.get("inputs")?.data();
    let labels: Vec<u32> = file.load("labels", &Device::Cpu)?.to_vec1()?;
    let net = Net::new(device)?;
    let (mut first_step, mut clock) = (0.0, Instant::now());
    let batches = labels.len() / BATCH;
    let steps = (WARM_UP + images).div_ceil(BATCH);
    for step in 0..steps {
        let at = step % batches * BATCH;
        let pixels: Vec<f32> = inputs[at * 784..(at + BATCH) * 784].iter().map(|x| f32::from(*x) / 255.0).collect();
        let x = Tensor::from_vec(pixels, (BATCH, 1, 28, 28), device)?;
        let y = Tensor::from_vec(labels[at..at + BATCH].to_vec(), (BATCH, 1), device)?;
        let logits = net.forward(&x)?;
        let logits = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?)?;
        let losses = (logits.exp()?.sum_keepdim(D::Minus1)?.log()? - logits.gather(&y, D::Minus1)?)?;
        let gradients = losses.mean_all()?.backward()?;
        for var in net.weights.iter().flat_map(|(weight, bias)| [weight, bias]) {
            if let Some(gradient) = gradients.get(var) {
                var.set(&(var.as_tensor() - (gradient * 0.01)?)?)?;
            }
        }
        if step == 0 {
            device.synchronize()?;
            first_step = started.elapsed().as_secs_f64();
        }
        if (step + 1) * BATCH == WARM_UP {
            device.synchronize()?;
            clock = Instant::now();
        }
    }
    device.synchronize()?;
    let measured = steps * BATCH - WARM_UP;
    Ok(Measured { first_step, images_per_second: measured as f64 / clock.elapsed().as_secs_f64() })
}
