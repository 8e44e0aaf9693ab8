use super::{close, noise, shares};
use crate::kernels::optimizer::{Rule, Step};
use crate::simd::Path;

const RULES: [Rule; 5] = [
    Rule::Sgd,
    Rule::Momentum { momentum: 0.9 },
    Rule::Nesterov { momentum: 0.9 },
    Rule::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
    Rule::AdamW { beta1: 0.9, beta2: 0.99, epsilon: 1e-6 },
];

/// PyTorch's formulas, one weight at a time.
fn reference(rule: Rule, rate: f64, decay: f64, number: u64, w: &mut f64, g: f64, [m, v]: &mut [f64; 2]) {
    let plain = g + decay * *w;
    match rule {
        Rule::Sgd => *w -= rate * plain,
        Rule::Momentum { momentum } => {
            *m = momentum * *m + plain;
            *w -= rate * *m;
        }
        Rule::Nesterov { momentum } => {
            *m = momentum * *m + plain;
            *w -= rate * (plain + momentum * *m);
        }
        Rule::Adam { beta1, beta2, epsilon } | Rule::AdamW { beta1, beta2, epsilon } => {
            let apart = matches!(rule, Rule::AdamW { .. });
            let g = if apart { g } else { plain };
            if apart {
                *w *= 1.0 - rate * decay;
            }
            *m = beta1 * *m + (1.0 - beta1) * g;
            *v = beta2 * *v + (1.0 - beta2) * g * g;
            let done = (number + 1) as i32;
            let (m, v) = (*m / (1.0 - beta1.powi(done)), *v / (1.0 - beta2.powi(done)));
            *w -= rate * m / (v.sqrt() + epsilon);
        }
    }
}

#[test]
fn steps_match_the_reference_with_the_same_bits_on_all_paths() {
    for rule in RULES {
        for count in [1, 15, 16, 77] {
            let mut bits = Vec::new();
            for path in Path::available() {
                let mut w = noise("w", count);
                let mut exact: Vec<f64> = w.iter().map(|w| f64::from(*w)).collect();
                let mut exact_sums = vec![[0.0; 2]; count];
                let mut sums = vec![vec![0.0; count]; rule.sums()];
                for number in 0..5 {
                    // Away from zero, where Adam's first step is the gradient's sign.
                    let g: Vec<f32> = shares(&format!("g{number}"), count).into_iter().map(|g| g + 0.1).collect();
                    let mut slices: Vec<&mut [f32]> = sums.iter_mut().map(Vec::as_mut_slice).collect();
                    Step { rule, rate: 0.01, decay: 0.1, number }.run(path, &mut w, &g, &mut slices);
                    for index in 0..count {
                        let g = f64::from(g[index]);
                        reference(rule, 0.01, 0.1, number, &mut exact[index], g, &mut exact_sums[index]);
                    }
                }
                close("w", &w, &exact, 1.0, 1e-6).unwrap_or_else(|error| panic!("{path:?} {rule:?}: {error}"));
                bits.push(w.iter().map(|w| w.to_bits()).collect::<Vec<_>>());
            }
            assert!(bits.windows(2).all(|pair| pair[0] == pair[1]), "{rule:?} has other bits on another path");
        }
    }
}

#[test]
fn a_step_in_parts_has_the_same_bits() {
    for rule in RULES {
        for path in Path::available() {
            let (g, before) = (noise("g", 100), noise("w", 100));
            let run = |cuts: &[usize]| {
                let mut w = before.clone();
                let mut sums = vec![vec![0.25; 100]; rule.sums()];
                for pair in cuts.windows(2) {
                    let range = pair[0]..pair[1];
                    let mut slices: Vec<&mut [f32]> = sums.iter_mut().map(|sum| &mut sum[range.clone()]).collect();
                    Step { rule, rate: 0.01, decay: 0.1, number: 7 }.run(
                        path,
                        &mut w[range.clone()],
                        &g[range],
                        &mut slices,
                    );
                }
                w
            };
            assert_eq!(run(&[0, 100]), run(&[0, 33, 34, 80, 100]));
        }
    }
}
