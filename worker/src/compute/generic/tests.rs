//! The generic path on the processors, in f64: its gradients against differences, its layers against PyTorch's.

mod golden;
mod gradients;

use candle_core::{DType, Tensor};

use crate::compute::tests::{apart, noise};

fn tensor(name: &str, shape: &[usize]) -> Tensor {
    Tensor::from_vec(noise(name, shape.iter().product()), shape, &apart()).expect("a tensor")
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers")
}
