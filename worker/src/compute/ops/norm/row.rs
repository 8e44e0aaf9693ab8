//! Normalisation of each example alone: layer norm (Ba et al. 2016) and group norm (Wu and He 2018).

use candle_core::{Result, Tensor};

use crate::compute::ops::real::{sum1, sum2};
use crate::compute::ops::{Kernel, Real, View, apply3, parallel, plain2, plain3};

/// Normalises each of `groups` equal parts of every example of `x` `[N, …]` to mean 0 and variance 1,
/// then multiplies by `weight` and adds `bias`. These have one number for each run of
/// `elements / weight.len()` elements of an example: an element with layer norm, a channel with group norm.
pub(in crate::compute) fn row_norm(
    groups: usize,
    epsilon: f64,
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
) -> Result<Tensor> {
    apply3(RowNorm { groups, epsilon }, [x, weight, bias])
}

#[derive(Clone, Copy)]
struct RowNorm {
    groups: usize,
    epsilon: f64,
}

/// Sizes of one application.
struct Rows {
    /// Elements of one row.
    row: usize,
    /// Elements that share a weight.
    run: usize,
    /// Numbers of the weight that one row uses.
    weights: usize,
    groups: usize,
}

impl Rows {
    fn new(norm: RowNorm, dims: &[usize], weights: usize) -> Self {
        let example: usize = dims[1..].iter().product();
        let groups = norm.groups;
        Self { row: example / groups, run: example / weights, weights: weights / groups, groups }
    }

    /// The first number of the weight that row number `index` uses.
    fn first(&self, index: usize) -> usize {
        index % self.groups * self.weights
    }
}

/// A row's mean and the reciprocal of its standard deviation.
fn normal<T: Real>(row: &[T], epsilon: f64) -> (T, T) {
    let count = row.len() as f64;
    let mean = T::from_f64(sum1(row, |x| x).to_f64() / count);
    let variance = sum1(row, |x| (x - mean) * (x - mean)).to_f64() / count;
    (mean, T::from_f64(1.0 / (variance + epsilon).sqrt()))
}

impl Kernel<3> for RowNorm {
    const NAME: &'static str = "row_norm";

    fn forward<T: Real>(&self, [x, weight, bias]: [View<'_, T>; 3]) -> (Vec<T>, Vec<usize>) {
        let rows = Rows::new(*self, x.dims, weight.data.len());
        let mut out = vec![T::zero(); x.data.len()];
        parallel::each(&mut out, rows.row, |index, out| {
            let x = &x.data[index * rows.row..][..rows.row];
            let (mean, scale) = normal(x, self.epsilon);
            let first = rows.first(index);
            for (part, (out, x)) in out.chunks_mut(rows.run).zip(x.chunks(rows.run)).enumerate() {
                let (weight, bias) = (weight.data[first + part], bias.data[first + part]);
                out.iter_mut().zip(x).for_each(|(out, x)| *out = (*x - mean) * scale * weight + bias);
            }
        });
        (out, x.dims.to_vec())
    }

    fn backward(&self, [x, weight, _]: [&Tensor; 3], _: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let gradient = &gradient.contiguous()?;
        let dx = plain3(InputGradient(*self), [x, weight, gradient])?;
        let sums = plain2(WeightGradient { norm: *self, weights: weight.elem_count() }, [x, gradient])?;
        let part = |index| sums.get(index)?.copy()?.reshape(weight.dims());
        Ok([Some(dx), Some(part(0)?), Some(part(1)?)])
    }
}

struct InputGradient(RowNorm);

impl Kernel<3> for InputGradient {
    const NAME: &'static str = "row_norm_input_gradient";

    fn forward<T: Real>(&self, [x, weight, gradient]: [View<'_, T>; 3]) -> (Vec<T>, Vec<usize>) {
        let rows = Rows::new(self.0, x.dims, weight.data.len());
        let mut out = vec![T::zero(); x.data.len()];
        parallel::each(&mut out, rows.row, |index, dx| {
            let x = &x.data[index * rows.row..][..rows.row];
            let (mean, scale) = normal(x, self.0.epsilon);
            let first = rows.first(index);
            // The gradient of the normalised values stands in `dx` until its sums are known.
            let gradient = &gradient.data[index * rows.row..][..rows.row];
            for (part, (dx, gradient)) in dx.chunks_mut(rows.run).zip(gradient.chunks(rows.run)).enumerate() {
                let weight = weight.data[first + part];
                dx.iter_mut().zip(gradient).for_each(|(dx, g)| *dx = *g * weight);
            }
            let count = rows.row as f64;
            let plain = T::from_f64(sum1(dx, |g| g).to_f64() / count);
            let along = T::from_f64(sum2(dx, x, |g, x| g * (x - mean) * scale).to_f64() / count);
            dx.iter_mut().zip(x).for_each(|(dx, x)| *dx = scale * (*dx - plain - (*x - mean) * scale * along));
        });
        (out, x.dims.to_vec())
    }
}

/// The gradients of weight and bias, `[2, weights]`.
struct WeightGradient {
    norm: RowNorm,
    weights: usize,
}

impl Kernel<2> for WeightGradient {
    const NAME: &'static str = "row_norm_weight_gradient";

    fn forward<T: Real>(&self, [x, gradient]: [View<'_, T>; 2]) -> (Vec<T>, Vec<usize>) {
        let rows = Rows::new(self.norm, x.dims, self.weights);
        let (mut dw, mut db) = (vec![0.0; self.weights], vec![0.0; self.weights]);
        for (index, (x, gradient)) in x.data.chunks(rows.row).zip(gradient.data.chunks(rows.row)).enumerate() {
            let (mean, scale) = normal(x, self.norm.epsilon);
            let first = rows.first(index);
            for (part, (x, gradient)) in x.chunks(rows.run).zip(gradient.chunks(rows.run)).enumerate() {
                dw[first + part] += sum2(x, gradient, |x, g| (x - mean) * scale * g).to_f64();
                db[first + part] += sum1(gradient, |g| g).to_f64();
            }
        }
        (dw.into_iter().chain(db).map(T::from_f64).collect(), vec![2, self.weights])
    }
}
