//! The vectors' sums are the plain ones, to the bit.

use proptest::prelude::*;

use super::*;

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Mostly extremes, which show what overflows.
        match state >> 60 {
            0..5 => 0,
            5..10 => 255,
            _ => (state >> 40) as u8,
        }
    };
    (0..bytes).map(|_| next()).collect()
}

proptest! {
    #[test]
    fn vectors_give_the_plain_sums(
        (height, width) in (1usize..30, 1usize..90), (to_height, to_width) in (1usize..40, 1usize..60), seed: u64, which in 0usize..4
    ) {
        let (kernel, support): (fn(f64) -> f64, f64) = [(hat as fn(f64) -> f64, 0.5), (triangle, 1.0), (cubic, 2.0), (lanczos, 3.0)][which];
        let source = noise(seed, height * width * 3);
        let edge = |length: usize| Edge { length, kept: length / 4..length };
        let windows = Windows::new((width as f64, width), &edge(to_width), (kernel, support), 0.0);
        let kept = windows.begins.len() * 3;
        let (mut plain, mut fast) = (vec![0; height * kept], vec![0; height * kept]);
        across_by::<3>(&source, &mut plain, &windows, width);
        across(&source, &mut fast, &windows, width, 3);
        prop_assert_eq!(&plain, &fast);
        let windows = Windows::new((height as f64, height), &edge(to_height), (kernel, support), 0.0);
        for (first, weights) in windows.iter() {
            let lines = &plain[first * kept..][..weights.len() * kept];
            let mut fast = vec![0; kept];
            sum_rows(lines, weights, &mut fast);
            let column = |at: usize| lines[at..].iter().step_by(kept).map(|byte| [*byte]).collect::<Vec<_>>();
            let plain: Vec<u8> = (0..kept).map(|at| one(&column(at), weights)[0]).collect();
            prop_assert_eq!(plain, fast);
        }
    }
}
