//! A fully connected layer.

use candle_core::{Result, Tensor};

use super::activation::relu_gradient;
use super::matrix::{Matrix, multiply};
use super::norm::channel_sums;
use super::{Kernel, Real, View, apply3, parallel, plain2};

/// `x` `[N, K]`, `weight` `[M, K]`, `bias` `[M]` to `x weight^T + bias` `[N, M]`, with `relu` its positive part.
pub(in crate::compute) fn linear(x: &Tensor, weight: &Tensor, bias: &Tensor, relu: bool) -> Result<Tensor> {
    apply3(Linear { relu }, [x, weight, bias])
}

/// Multiplications that are worth cutting into parts for other threads.
const WORTHWHILE: usize = 1 << 22;

/// Rows of each of the parts that a product of `work` multiplications and `rows` rows is cut into.
fn part(work: usize, rows: usize) -> usize {
    if work < WORTHWHILE { rows.max(1) } else { rows.div_ceil(4).max(1) }
}

struct Linear {
    relu: bool,
}

impl Kernel<3> for Linear {
    const NAME: &'static str = "linear";

    fn forward<T: Real>(&self, [x, weight, bias]: [View<'_, T>; 3]) -> (Vec<T>, Vec<usize>) {
        let (n, m, k) = (x.dims[0], weight.dims[0], weight.dims[1]);
        // Outputs by rows, since `gemm` then reads the weights, the larger matrix, as they lie.
        let mut transposed = vec![T::zero(); n * m];
        let rows = part(n * m * k, m);
        parallel::each(&mut transposed, rows * n, |index, out| {
            let weight = Matrix::new(&weight.data[index * rows * k..], out.len() / n, k, k);
            multiply(out, n, false, weight, Matrix::new(x.data, n, k, k).transposed());
        });
        let mut out = vec![T::zero(); n * m];
        for (unit, values) in transposed.chunks_exact(n).enumerate() {
            for (out, value) in out[unit..].iter_mut().step_by(m).zip(values) {
                let value = *value + bias.data[unit];
                *out = if self.relu && value < T::zero() { T::zero() } else { value };
            }
        }
        (out, vec![n, m])
    }

    fn backward(
        &self,
        [x, weight, bias]: [&Tensor; 3],
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let gradient = if self.relu { relu_gradient(output, gradient)? } else { gradient.contiguous()? };
        let dx = x.track_op().then(|| plain2(InputGradient, [&gradient, weight])).transpose()?;
        let dw = weight.track_op().then(|| plain2(WeightGradient, [&gradient, x])).transpose()?;
        let db = bias.track_op().then(|| channel_sums(&gradient)).transpose()?;
        Ok([dx, dw, db])
    }
}

struct InputGradient;

impl Kernel<2> for InputGradient {
    const NAME: &'static str = "linear_input_gradient";

    fn forward<T: Real>(&self, [gradient, weight]: [View<'_, T>; 2]) -> (Vec<T>, Vec<usize>) {
        let (n, m, k) = (gradient.dims[0], weight.dims[0], weight.dims[1]);
        let mut dx = vec![T::zero(); n * k];
        let rows = part(n * m * k, n);
        parallel::each(&mut dx, rows * k, |index, out| {
            let gradient = Matrix::new(&gradient.data[index * rows * m..], out.len() / k, m, m);
            multiply(out, k, false, gradient, Matrix::new(weight.data, m, k, k));
        });
        (dx, vec![n, k])
    }
}

struct WeightGradient;

impl Kernel<2> for WeightGradient {
    const NAME: &'static str = "linear_weight_gradient";

    fn forward<T: Real>(&self, [gradient, x]: [View<'_, T>; 2]) -> (Vec<T>, Vec<usize>) {
        let (n, m, k) = (gradient.dims[0], gradient.dims[1], x.dims[1]);
        let mut dw = vec![T::zero(); m * k];
        let rows = part(n * m * k, m);
        let gradient = Matrix::new(gradient.data, n, m, m).transposed();
        parallel::each(&mut dw, rows * k, |index, out| {
            let part = Matrix { data: &gradient.data[index * rows..], rows: out.len() / k, ..gradient };
            multiply(out, k, false, part, Matrix::new(x.data, n, k, k));
        });
        (dw, vec![m, k])
    }
}
