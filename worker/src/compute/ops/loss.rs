//! Softmax and cross-entropy in one, so that neither large nor small logits overflow.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Kernel, Real, View, apply1, plain1};

/// The mean cross-entropy, in nats, of `logits` `[N, classes]` against the rows' labels: a scalar.
pub(in crate::compute) fn cross_entropy(logits: &Tensor, labels: &[u32]) -> Result<Tensor> {
    apply1(CrossEntropy { labels: labels.into() }, logits)
}

/// The sum of the rows' cross-entropies, and how many rows have another largest logit than their label's.
pub(in crate::compute) fn measure(logits: &Tensor, labels: &[u32]) -> Result<(f64, u64)> {
    let rows: Vec<Vec<f32>> = logits.to_vec2()?;
    let mut sum = 0.0;
    let mut wrong = 0;
    for (row, label) in rows.iter().zip(labels) {
        sum += row_loss(row, *label as usize);
        wrong += u64::from(largest(row) != *label as usize);
    }
    Ok((sum, wrong))
}

/// The place of the largest element; of equal ones the first.
fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

struct CrossEntropy {
    labels: Arc<[u32]>,
}

impl Kernel<1> for CrossEntropy {
    const NAME: &'static str = "cross_entropy";

    fn forward<T: Real>(&self, [logits]: [View<'_, T>; 1]) -> (Vec<T>, Vec<usize>) {
        let rows = logits.data.chunks_exact(logits.dims[1]).zip(&*self.labels);
        let sum: f64 = rows.map(|(row, label)| row_loss(row, *label as usize)).sum();
        (vec![T::from_f64(sum / logits.dims[0] as f64)], vec![])
    }

    fn backward(&self, [logits]: [&Tensor; 1], _: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let labels = self.labels.clone();
        Ok([Some(plain1(LogitsGradient { labels }, logits)?.broadcast_mul(gradient)?)])
    }
}

/// The gradient of the logits: `(softmax - one at the label) / N`.
struct LogitsGradient {
    labels: Arc<[u32]>,
}

impl Kernel<1> for LogitsGradient {
    const NAME: &'static str = "cross_entropy_gradient";

    fn forward<T: Real>(&self, [logits]: [View<'_, T>; 1]) -> (Vec<T>, Vec<usize>) {
        let share = 1.0 / logits.dims[0] as f64;
        let mut out = Vec::with_capacity(logits.data.len());
        for (row, label) in logits.data.chunks_exact(logits.dims[1]).zip(&*self.labels) {
            let (most, sum) = exponentials(row);
            out.extend(row.iter().enumerate().map(|(index, logit)| {
                let one = if index == *label as usize { 1.0 } else { 0.0 };
                T::from_f64((libm::exp(logit.to_f64() - most) / sum - one) * share)
            }));
        }
        (out, logits.dims.to_vec())
    }
}

/// The largest logit, and the sum of the exponentials of all after it is subtracted.
fn exponentials<T: Real>(row: &[T]) -> (f64, f64) {
    let most = row.iter().fold(f64::NEG_INFINITY, |most, logit| most.max(logit.to_f64()));
    (most, row.iter().map(|logit| libm::exp(logit.to_f64() - most)).sum())
}

fn row_loss<T: Real>(row: &[T], label: usize) -> f64 {
    let (most, sum) = exponentials(row);
    libm::log(sum) + most - row[label].to_f64()
}
