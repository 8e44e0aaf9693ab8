//! The generic path on the processors, in f64: its gradients against differences, its layers against PyTorch's.

mod golden;
mod gradients;

use candle_core::{DType, Device, Tensor};
use rand_chacha::rand_core::Rng as _;
use shared::random;

/// Numbers from -1 to 1, the same for the same name.
fn noise(name: &str, count: usize) -> Vec<f64> {
    let mut stream = random::stream(1, &["test".into(), name.into()]);
    (0..count).map(|_| f64::from(stream.next_u32()) / f64::from(1u32 << 31) - 1.0).collect()
}

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_vec(noise(name, shape.iter().product()), shape, &Device::Cpu).expect("a tensor")
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers")
}
