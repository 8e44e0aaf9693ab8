use proptest::prelude::*;

use super::{close, noise, padded};
use crate::kernels::linear::{Linear, Scratch};
use crate::kernels::tile::Finish;
use crate::simd::Path;

fn check(path: Path, n: usize, inputs: usize, units: usize, finish: Finish) -> Result<(), TestCaseError> {
    let x = noise("x", n * inputs);
    let weights = noise("weights", units * inputs);
    let bias = noise("bias", units);
    let dy = noise("dy", n * units);
    let wide = |x: f32| f64::from(x);
    let linear = Linear::new(path, inputs, units);
    let mut packed = vec![0.0; linear.packing().len()];
    linear.packing().pack(&weights, &mut packed);
    let mut scratch = Scratch::default();

    let before = noise("before", n * units);
    let mut y = before.clone();
    linear.forward(n, &packed, Some(&padded(&bias)), &x, &mut y, finish, &mut scratch);
    let sum = |(at, before): (usize, &f32)| {
        let (example, unit) = (at / units, at % units);
        let products = (0..inputs).map(|k| wide(x[example * inputs + k]) * wide(weights[unit * inputs + k]));
        let sum = wide(bias[unit]) + products.sum::<f64>() + if finish.add { wide(*before) } else { 0.0 };
        finish.clamp.map_or(sum, |[low, high]| sum.max(low.into()).min(high.into()))
    };
    let expected: Vec<f64> = before.iter().enumerate().map(sum).collect();
    close("y", &y, &expected, (inputs as f64).sqrt(), 1e-5)?;

    let mut dx = noise("dx", n * inputs);
    let expected: Vec<f64> = (0..n * inputs)
        .map(|at| {
            let (example, k) = (at / inputs, at % inputs);
            let products = (0..units).map(|unit| wide(dy[example * units + unit]) * wide(weights[unit * inputs + k]));
            products.sum::<f64>() + if finish.add { wide(dx[at]) } else { 0.0 }
        })
        .collect();
    linear.input_gradient(n, &packed, &dy, &mut dx, finish.add, &mut scratch);
    close("dx", &dx, &expected, (units as f64).sqrt(), 1e-5)?;

    let mut dw = vec![7.0; linear.packing().len()];
    linear.weight_gradient(n, &x, &dy, &mut dw, &mut scratch);
    let mut plain = vec![0.0; weights.len()];
    linear.packing().unpack(&dw, &mut plain);
    let expected: Vec<f64> = (0..units * inputs)
        .map(|at| {
            let (unit, k) = (at / inputs, at % inputs);
            (0..n).map(|example| wide(dy[example * units + unit]) * wide(x[example * inputs + k])).sum()
        })
        .collect();
    close("dw", &plain, &expected, (n as f64).sqrt(), 1e-5)?;
    let mut again = vec![0.0; dw.len()];
    linear.packing().pack(&plain, &mut again);
    prop_assert!(again == dw, "what stands for no weight has no gradient");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn products_match_the_reference(
        n in 1..=70usize,
        inputs in 1..=70usize,
        units in 1..=70usize,
        finish in prop_oneof![Just(Finish::PLAIN), Just(Finish::RELU), Just(Finish::ADD)],
    ) {
        for path in Path::available() {
            check(path, n, inputs, units, finish)?;
        }
    }
}
