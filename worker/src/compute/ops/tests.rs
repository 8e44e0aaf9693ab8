//! Convolutions and pools of random shapes against a scalar reference in `f64`, forward and backward.

mod reference;

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::real::sum2;
use super::wide::wide;
use super::{Conv, Window, avg_pool, conv, max_pool};
use crate::compute::tests::{noise, tensor};
use reference::Reference;

/// A window that fits into `input`, with as many outputs as it gives.
fn window(input: [usize; 2], dilated: bool) -> impl Strategy<Value = Window> {
    let along = move |size: usize| {
        let dilation = if dilated { 1..=3usize } else { 1..=1 };
        (1..=5usize, 1..=3usize, dilation, 0..=2usize, 0..=2usize).prop_map(move |drawn| {
            let (mut kernel, stride, mut dilation, before, after) = drawn;
            loop {
                // Padding below and right is what the number of outputs implies.
                let (before, after) = (before.min(kernel / 2), after.min(kernel / 2));
                let reach = (kernel - 1) * dilation + 1;
                if let Some(room) = (size + before + after).checked_sub(reach) {
                    return (kernel, stride, dilation, before, room / stride + 1);
                }
                if dilation > 1 {
                    dilation -= 1;
                } else {
                    kernel -= 1;
                }
            }
        })
    };
    (along(input[0]), along(input[1])).prop_map(|(a, b)| Window {
        kernel: [a.0, b.0],
        stride: [a.1, b.1],
        dilation: [a.2, b.2],
        before: [a.3, b.3],
        output: [a.4, b.4],
    })
}

/// Mostly small pictures, some so large that they are cut into tiles of rows.
fn size() -> impl Strategy<Value = [usize; 2]> {
    prop_oneof![4 => [1..=9usize, 1..=9usize], 1 => [30..=44usize, 30..=44usize]]
}

fn close(what: &str, found: &Tensor, expected: &[f64], tolerance: f64) -> Result<(), TestCaseError> {
    let found: Vec<f64> = found.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers");
    prop_assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (found - expected).abs() / expected.abs().max(1.0);
        prop_assert!(error < tolerance, "{what}[{index}] is {found}, not {expected}");
    }
    Ok(())
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).and_then(|t| t.flatten_all()?.to_vec1()).expect("numbers")
}

/// Compares `f` of `inputs` and its gradients with the reference's.
fn compare(
    inputs: &[Tensor],
    tolerance: f64,
    f: impl Fn(&[Var]) -> candle_core::Result<Tensor>,
    expected: impl Fn(&[Vec<f64>], &dyn Fn(usize) -> Vec<f64>) -> (Vec<f64>, Vec<Vec<f64>>),
) -> Result<(), TestCaseError> {
    let vars: Vec<Var> = inputs.iter().map(|t| Var::from_tensor(t).expect("a variable")).collect();
    let output = f(&vars).expect("an output");
    let weights = tensor("weights", output.dims(), output.dtype());
    let gradients = (&output * &weights).and_then(|y| y.sum_all()?.backward()).expect("gradients");
    let plain: Vec<Vec<f64>> = inputs.iter().map(numbers).collect();
    let (value, slopes) = expected(&plain, &|count| {
        assert_eq!(count, weights.elem_count());
        numbers(&weights)
    });
    close("output", &output, &value, tolerance)?;
    for (index, (var, slope)) in vars.iter().zip(&slopes).enumerate() {
        close(&format!("gradient {index}"), gradients.get(var).expect("a gradient"), slope, tolerance)?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_match_the_reference(
        (input, window) in size().prop_flat_map(|input| (Just(input), window(input, true))),
        batch in 1..=11usize,
        groups in 1..=3usize,
        channels in 1..=3usize,
        filters in 1..=3usize,
        relu: bool,
        single: bool,
    ) {
        let batch = if input[0] > 9 { batch.min(2) } else { batch };
        let (dtype, tolerance) = if single { (DType::F32, 1e-4) } else { (DType::F64, 1e-10) };
        let x = tensor("x", &[batch, groups * channels, input[0], input[1]], dtype);
        let w = tensor("w", &[groups * filters, channels, window.kernel[0], window.kernel[1]], dtype);
        let b = tensor("b", &[groups * filters], dtype);
        // In fp32 a sum next to zero may fall on the other side of the kink.
        let layer = Conv { window, groups, relu: relu && !single };
        let reference = Reference { window, batch, input };
        compare(&[x, w, b], tolerance, |v| conv(layer, &v[0], &v[1], &v[2]), |v, weights| {
            reference.conv(&layer, [channels, filters], &v[0], &v[1], &v[2], weights)
        })?;
    }

    #[test]
    fn pools_match_the_reference(
        (input, window) in size().prop_flat_map(|input| (Just(input), window(input, false))),
        batch in 1..=3usize,
        channels in 1..=3usize,
        counted: bool,
        single: bool,
    ) {
        let (dtype, tolerance) = if single { (DType::F32, 1e-4) } else { (DType::F64, 1e-10) };
        let x = tensor("x", &[batch, channels, input[0], input[1]], dtype);
        let reference = Reference { window, batch: batch * channels, input };
        compare(std::slice::from_ref(&x), tolerance, |v| max_pool(window, &v[0]), |v, weights| {
            reference.max_pool(&v[0], weights)
        })?;
        compare(&[x], tolerance, |v| avg_pool(window, counted, &v[0]), |v, weights| {
            reference.avg_pool(counted, &v[0], weights)
        })?;
    }
}

#[test]
fn an_input_without_history_gets_no_gradient() {
    let x = tensor("x", &[2, 1, 5, 5], DType::F32);
    let w = Var::from_tensor(&tensor("w", &[2, 1, 3, 3], DType::F32)).expect("a variable");
    let b = Tensor::zeros(2, DType::F32, &Device::Cpu).expect("zeros");
    let window = Window { kernel: [3, 3], stride: [1, 1], before: [0, 0], dilation: [1, 1], output: [3, 3] };
    let y = conv(Conv { window, groups: 1, relu: false }, &x, &w, &b).expect("an output");
    let gradients = y.sum_all().and_then(|y| y.backward()).expect("gradients");
    assert!(gradients.get(&w).is_some());
    assert!(gradients.get(&x).is_none() && gradients.get(&b).is_none());
}

#[test]
fn wide_vectors_add_in_the_same_order() {
    let (a, b) = (noise("a", 1003), noise("b", 1003));
    let single = |x: &[f64]| x.iter().map(|x| *x as f32).collect::<Vec<f32>>();
    let (a, b) = (single(&a), single(&b));
    let wide = wide!(sum2(&a, &b, |a, b| a * b + a));
    assert_eq!(wide.to_bits(), sum2(&a, &b, |a, b| a * b + a).to_bits());
}

#[test]
fn not_a_number_stays_one() {
    let window = Window { kernel: [2, 2], stride: [2, 2], before: [0, 0], dilation: [1, 1], output: [1, 1] };
    for place in 0..4 {
        let mut values = noise("nan", 4);
        values[place] = f64::NAN;
        let x = Tensor::from_vec(values, (1, 1, 2, 2), &Device::Cpu).expect("a tensor");
        assert!(numbers(&max_pool(window, &x).expect("an output"))[0].is_nan());
    }
}
