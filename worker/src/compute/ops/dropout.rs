//! Dropout with a mask of the caller's.

use std::sync::Arc;

use candle_core::{Result, Tensor};

use super::{Kernel, Real, View, apply1, plain1};

/// `x` with the elements zeroed whose `mask` says so, the others times `scale`.
pub(in crate::compute) fn dropout(x: &Tensor, dropped: Vec<bool>, scale: f64) -> Result<Tensor> {
    apply1(Dropout { dropped: dropped.into(), scale }, x)
}

#[derive(Clone)]
struct Dropout {
    dropped: Arc<[bool]>,
    scale: f64,
}

impl Kernel<1> for Dropout {
    const NAME: &'static str = "dropout";

    fn forward<T: Real>(&self, [x]: [View<'_, T>; 1]) -> (Vec<T>, Vec<usize>) {
        let scale = T::from_f64(self.scale);
        let kept = |(x, dropped): (&T, &bool)| if *dropped { T::zero() } else { *x * scale };
        (x.data.iter().zip(&*self.dropped).map(kept).collect(), x.dims.to_vec())
    }

    fn backward(&self, _: [&Tensor; 1], _: &Tensor, gradient: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(plain1(self.clone(), gradient)?)])
    }
}
