//! Values with a gradient of their own: autograd sees one operation where it would follow dozens.

use candle_core::{CpuStorage, CudaStorage, CustomOp2, Layout, Result, Shape, Storage, Tensor, bail};

/// `value`, which was computed from two tensors aside from autograd, as their function; a function of one has it twice, and no
/// gradient of the second. `backward` makes their gradients from `value`'s. It gets all four without what led to them.
pub(super) fn with_gradient<F>(value: Tensor, [a, b]: [&Tensor; 2], backward: F) -> Result<Tensor>
where
    F: Fn([&Tensor; 2], &Tensor, &Tensor) -> Result<[Option<Tensor>; 2]> + Send + Sync + 'static,
{
    if a.track_op() || b.track_op() { a.apply_op2(b, Aside { value, backward }) } else { Ok(value) }
}

struct Aside<F> {
    value: Tensor,
    backward: F,
}

impl<F> Aside<F> {
    /// candle wants numbers that are the operation's own.
    fn copy(&self) -> Result<(Storage, Shape)> {
        let (storage, layout) = self.value.storage_and_layout();
        if !layout.is_contiguous() || layout.start_offset() != 0 {
            bail!("a value aside from autograd is a tensor of its own");
        }
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }
}

impl<F> CustomOp2 for Aside<F>
where
    F: Fn([&Tensor; 2], &Tensor, &Tensor) -> Result<[Option<Tensor>; 2]> + Send + Sync,
{
    fn name(&self) -> &'static str {
        "aside"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout, _: &CpuStorage, _: &Layout) -> Result<(CpuStorage, Shape)> {
        match self.copy()? {
            (Storage::Cpu(copy), shape) => Ok((copy, shape)),
            _ => bail!("a value aside from autograd is on its inputs' device"),
        }
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout, _: &CudaStorage, _: &Layout) -> Result<(CudaStorage, Shape)> {
        match self.copy()? {
            (Storage::Cuda(copy), shape) => Ok((copy, shape)),
            _ => bail!("a value aside from autograd is on its inputs' device"),
        }
    }

    fn bwd(&self, a: &Tensor, b: &Tensor, y: &Tensor, slope: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let [of_a, of_b] = (self.backward)([&a.detach(), &b.detach()], &y.detach(), &slope.detach())?;
        Ok((of_a.filter(|_| a.track_op()), of_b.filter(|_| b.track_op())))
    }
}
