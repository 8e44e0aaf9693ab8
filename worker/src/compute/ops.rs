//! Operations on tensors: what candle lacks, has wrong (the gradient of its max-pool) or does slowly
//! (its convolution). Knows tensors; knows no networks and no training.
//!
//! Each is a [`Kernel`]: a function of plain slices, written once for `f32` and `f64`, that candle's
//! autograd sees as a custom operation. Gradients are kernels too, so that another device only has
//! to bring other forward functions.
//!
//! Any number of threads gives the same bits. Work is cut into parts by its shape alone, never by
//! the number of threads, and partial sums are added in the order of the parts.

mod activation;
mod conv;
mod dropout;
mod linear;
mod loss;
mod matrix;
mod norm;
mod parallel;
mod pool;
mod real;
#[cfg(test)]
mod tests;
mod wide;
mod window;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, CustomOp3, Error, Layout, Result, Shape, Tensor};

pub(super) use activation::activation;
pub(super) use conv::{Conv, conv};
pub(super) use dropout::dropout;
pub(super) use linear::linear;
pub(super) use loss::{cross_entropy, measure};
pub(super) use norm::{BatchStatistics, batch_norm, batch_statistics, row_norm};
pub(super) use parallel::update;
pub(super) use pool::{avg_pool, max_pool};
pub(super) use real::Real;
pub(super) use window::Window;

/// A tensor as a kernel sees it: contiguous, row-major.
#[derive(Debug, Clone, Copy)]
struct View<'a, T> {
    data: &'a [T],
    dims: &'a [usize],
}

/// A function of `N` tensors, of one element type, to one.
///
/// Kernels trust shapes: a network's were checked when it was built.
trait Kernel<const N: usize>: Send + Sync + 'static {
    /// For errors.
    const NAME: &'static str;

    /// The result's elements and its shape.
    fn forward<T: Real>(&self, inputs: [View<'_, T>; N]) -> (Vec<T>, Vec<usize>);

    /// The gradient of each input that needs one, from the gradient of the result.
    fn backward(&self, inputs: [&Tensor; N], output: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; N]> {
        let _ = (inputs, output, gradient);
        Err(Error::BackwardNotSupported { op: Self::NAME })
    }
}

/// A kernel as candle's custom operation.
struct Op<K>(K);

/// Runs a kernel whose result takes part in autograd.
fn apply1<K: Kernel<1>>(kernel: K, x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Op(kernel))
}

fn apply3<K: Kernel<3>>(kernel: K, [a, b, c]: [&Tensor; 3]) -> Result<Tensor> {
    a.contiguous()?.apply_op3(&b.contiguous()?, &c.contiguous()?, Op(kernel))
}

/// Runs a kernel whose result has no history: inside a gradient.
fn plain1<K: Kernel<1>>(kernel: K, x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1_no_bwd(&Op(kernel))
}

fn plain2<K: Kernel<2>>(kernel: K, [a, b]: [&Tensor; 2]) -> Result<Tensor> {
    a.contiguous()?.apply_op2_no_bwd(&b.contiguous()?, &Op(kernel))
}

fn plain3<K: Kernel<3>>(kernel: K, [a, b, c]: [&Tensor; 3]) -> Result<Tensor> {
    a.contiguous()?.apply_op3_no_bwd(&b.contiguous()?, &c.contiguous()?, &Op(kernel))
}

impl<K> Op<K> {
    fn run<const N: usize>(&self, inputs: [(&CpuStorage, &Layout); N]) -> Result<(CpuStorage, Shape)>
    where
        K: Kernel<N>,
    {
        match inputs[0].0 {
            CpuStorage::F32(_) => self.run_as::<f32, N>(inputs),
            CpuStorage::F64(_) => self.run_as::<f64, N>(inputs),
            other => Err(Error::UnsupportedDTypeForOp(candle_core::backend::BackendStorage::dtype(other), K::NAME)),
        }
    }

    fn run_as<T: Real, const N: usize>(&self, inputs: [(&CpuStorage, &Layout); N]) -> Result<(CpuStorage, Shape)>
    where
        K: Kernel<N>,
    {
        let mut views = [View { data: &[], dims: &[] }; N];
        for (view, (storage, layout)) in views.iter_mut().zip(inputs) {
            let data = contiguous(T::cpu_storage_as_slice(storage)?, layout, K::NAME)?;
            *view = View { data, dims: layout.dims() };
        }
        let (data, dims) = self.0.forward(views);
        Ok((T::to_cpu_storage_owned(data), Shape::from(dims)))
    }
}

/// The elements of a contiguous layout.
fn contiguous<'a, T>(data: &'a [T], layout: &Layout, op: &'static str) -> Result<&'a [T]> {
    let (start, end) = layout.contiguous_offsets().ok_or(Error::RequiresContiguous { op })?;
    Ok(&data[start..end])
}

impl<K: Kernel<1>> CustomOp1 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, s: &CpuStorage, l: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run([(s, l)])
    }

    fn bwd(&self, x: &Tensor, output: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        let [gradient] = self.0.backward([x], output, gradient)?;
        Ok(gradient)
    }
}

impl<K: Kernel<2>> CustomOp2 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(&self, s1: &CpuStorage, l1: &Layout, s2: &CpuStorage, l2: &Layout) -> Result<(CpuStorage, Shape)> {
        self.run([(s1, l1), (s2, l2)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [a, b] = self.0.backward([a, b], output, gradient)?;
        Ok((a, b))
    }
}

impl<K: Kernel<3>> CustomOp3 for Op<K> {
    fn name(&self) -> &'static str {
        K::NAME
    }

    fn cpu_fwd(
        &self,
        s1: &CpuStorage,
        l1: &Layout,
        s2: &CpuStorage,
        l2: &Layout,
        s3: &CpuStorage,
        l3: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        self.run([(s1, l1), (s2, l2), (s3, l3)])
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        output: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [a, b, c] = self.0.backward([a, b, c], output, gradient)?;
        Ok((a, b, c))
    }
}
