//! Values with a gradient of their own: autograd sees one operation where it would follow dozens.

use candle_core::{CpuStorage, CudaStorage, CustomOp3, Layout, Result, Shape, Storage, Tensor, bail};

/// `value`, which was computed from one to three tensors aside from autograd, as their function. `backward` makes their
/// gradients from them, `value` and its gradient, all of them without what led to them.
pub(super) fn with_gradient<const N: usize, F>(value: Tensor, inputs: [&Tensor; N], backward: F) -> Result<Tensor>
where
    F: Fn([&Tensor; N], &Tensor, &Tensor) -> Result<[Option<Tensor>; N]> + Send + Sync + 'static,
{
    if !inputs.iter().any(|input| input.track_op()) {
        return Ok(value);
    }
    // candle has operations of three: the last stands for those that are missing, and gets no gradient for them.
    let [a, b, c] = [0, 1, 2].map(|index| inputs[index.min(N - 1)]);
    let backward = move |inputs: [&Tensor; 3], value: &Tensor, slope: &Tensor| {
        let mut slopes = backward(std::array::from_fn(|index| inputs[index]), value, slope)?.into_iter();
        Ok([(); 3].map(|()| slopes.next().flatten()))
    };
    a.apply_op3(b, c, Aside { value, backward: Box::new(backward) })
}

type Backward = dyn Fn([&Tensor; 3], &Tensor, &Tensor) -> Result<[Option<Tensor>; 3]> + Send + Sync;

struct Aside {
    value: Tensor,
    backward: Box<Backward>,
}

impl Aside {
    /// candle wants numbers that are the operation's own.
    fn copy(&self) -> Result<(Storage, Shape)> {
        let (storage, layout) = self.value.storage_and_layout();
        if !layout.is_contiguous() || layout.start_offset() != 0 {
            bail!("a value aside from autograd is a tensor of its own");
        }
        Ok((storage.try_clone(layout)?, layout.shape().clone()))
    }
}

impl CustomOp3 for Aside {
    fn name(&self) -> &'static str {
        "aside"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        match self.copy()? {
            (Storage::Cpu(copy), shape) => Ok((copy, shape)),
            _ => bail!("a value aside from autograd is on its inputs' device"),
        }
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> Result<(CudaStorage, Shape)> {
        match self.copy()? {
            (Storage::Cuda(copy), shape) => Ok((copy, shape)),
            _ => bail!("a value aside from autograd is on its inputs' device"),
        }
    }

    fn bwd(
        &self,
        a: &Tensor,
        b: &Tensor,
        c: &Tensor,
        value: &Tensor,
        slope: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let inputs = [a, b, c].map(Tensor::detach);
        let slopes = (self.backward)(inputs.each_ref(), &value.detach(), &slope.detach())?;
        let [of_a, of_b, of_c] = slopes;
        let wanted = |slope: Option<Tensor>, of: &Tensor| slope.filter(|_| of.track_op());
        Ok((wanted(of_a, a), wanted(of_b, b), wanted(of_c, c)))
    }
}
