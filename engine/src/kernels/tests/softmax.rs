use proptest::prelude::*;

use super::{close, differences, noise, wide};
use crate::kernels::softmax::{cross_entropy, measure};
use crate::simd::Path;

/// The mean cross-entropy and its gradient.
fn reference(classes: usize, logits: &[f64], labels: &[u32]) -> (f64, Vec<f64>) {
    let count = labels.len() as f64;
    let (mut loss, mut gradient) = (0.0, Vec::new());
    for (row, label) in logits.chunks(classes).zip(labels) {
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = row.iter().map(|x| libm::exp(x - most)).sum();
        loss += (libm::log(sum) + most - row[*label as usize]) / count;
        let one = |index: usize| f64::from(index == *label as usize);
        gradient.extend(row.iter().enumerate().map(|(index, x)| (libm::exp(x - most) / sum - one(index)) / count));
    }
    (loss, gradient)
}

fn labels(rows: usize, classes: usize) -> Vec<u32> {
    (0..rows).map(|row| ((row * 7 + 3) % classes) as u32).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cross_entropy_matches_the_reference(
        rows in 1..=5usize,
        classes in prop_oneof![1..=40usize, 990..=1010usize],
        size in prop_oneof![Just(1.0f32), Just(100.0f32)],
        ties: bool,
    ) {
        let logits = noise("logits", rows * classes).into_iter().map(|x| {
            let x = x * size;
            if ties { x.round() } else { x }
        });
        let logits: Vec<f32> = logits.collect();
        let labels = labels(rows, classes);
        let (loss, gradient) = reference(classes, &wide(&logits), &labels);
        let mut wrong = 0;
        for (row, label) in logits.chunks(classes).zip(&labels) {
            let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            wrong += u64::from(row.iter().position(|x| *x == most) != Some(*label as usize));
        }
        for path in Path::available() {
            let mut found = vec![0.0; logits.len()];
            let found_loss = cross_entropy(path, &logits, &labels, Some(&mut found));
            prop_assert!((found_loss - loss).abs() < 1e-6 * loss.max(1.0), "{} is not {}", found_loss, loss);
            prop_assert_eq!(cross_entropy(path, &logits, &labels, None), found_loss);
            close("gradient", &found, &gradient, 1.0, 5e-7)?;
            let (sum, found_wrong) = measure(path, &logits, &labels);
            prop_assert!((sum / rows as f64 - found_loss).abs() < 1e-9 * loss.max(1.0));
            prop_assert_eq!(found_wrong, wrong);
        }
    }
}

#[test]
fn the_references_gradient_is_that_of_differences() {
    let logits = wide(&noise("logits", 21));
    let labels = labels(3, 7);
    differences(&logits, &reference(7, &logits, &labels).1, |x| reference(7, x, &labels).0).expect("the gradient");
}

#[test]
fn a_network_that_diverges_does_not_look_healthy() {
    for path in Path::available() {
        for place in [3, 17] {
            let mut logits = vec![0.5; 20];
            logits[place] = f32::NAN;
            let mut gradient = vec![0.0; 20];
            assert!(cross_entropy(path, &logits, &[1], Some(&mut gradient)).is_nan());
            assert!(gradient.iter().all(|slope| slope.is_nan()), "{gradient:?}");
        }
    }
}
