use proptest::prelude::*;

use super::reference::{inside, outputs};
use super::{
    close, differences, halo_is_clean, noise, packed, packed_gradient, padding_is_zero, product, spare, unpacked, wide,
    window,
};
use crate::kernels::pool::{AvgPool, GlobalAvgPool, MaxPool};
use crate::kernels::slopes::add_channel_sums;
use crate::maps::{Halo, Maps};
use crate::simd::{LANES, Path};
use crate::window::Window;

#[derive(Clone, Copy, Debug)]
enum Kind {
    Max,
    Average { count_padding: bool },
}

/// The outputs of one example, and the gradient of its input.
fn pool(kind: Kind, window: &Window, channels: usize, size: [usize; 2], x: &[f64], dy: &[f64]) -> [Vec<f64>; 2] {
    let plane = size[0] * size[1];
    let (mut y, mut dx) = (Vec::new(), vec![0.0; x.len()]);
    for channel in 0..channels {
        for output in outputs(window) {
            let taps = inside(window, size, output);
            let at = |place: usize| channel * plane + place;
            let slope = dy[y.len()];
            match kind {
                Kind::Max => {
                    let mut best: Option<usize> = None;
                    for (_, place) in taps {
                        if best.is_none_or(|best| x[at(place)] > x[best] || x[at(place)].is_nan()) {
                            best = Some(at(place));
                        }
                    }
                    y.push(best.map_or(f64::NEG_INFINITY, |best| x[best]));
                    if let Some(best) = best {
                        dx[best] += slope;
                    }
                }
                Kind::Average { count_padding } => {
                    let count = if count_padding { window.taps() } else { taps.len().max(1) } as f64;
                    y.push(taps.iter().map(|(_, place)| x[at(*place)]).sum::<f64>() / count);
                    taps.iter().for_each(|(_, place)| dx[at(*place)] += slope / count);
                }
            }
        }
    }
    [y, dx]
}

fn check(
    kind: Kind,
    window: &Window,
    channels: usize,
    size: [usize; 2],
    halos: [Halo; 2],
    add: bool,
    x: &[f32],
) -> Result<(), TestCaseError> {
    let x_maps = Maps::new(channels, size).with_halo(halos[0]);
    let y_maps = Maps::new(channels, window.output).with_halo(halos[1]);
    let dy = noise("dy", channels * window.outputs());
    let before = if add { noise("before", x.len()) } else { vec![0.0; x.len()] };
    let [y, mut dx] = pool(kind, window, channels, size, &wide(x), &wide(&dy));
    dx.iter_mut().zip(&before).for_each(|(dx, before)| *dx += f64::from(*before));
    for path in Path::available() {
        let packed_x = packed(&x_maps, x);
        let mut found = packed(&y_maps, &vec![7.0; dy.len()]);
        let mut found_dx = if add { packed_gradient(&x_maps, &before) } else { packed(&x_maps, &vec![5.0; x.len()]) };
        let dy = packed_gradient(&y_maps, &dy);
        match kind {
            Kind::Max => {
                let pool = MaxPool::new(path, window, x_maps, y_maps);
                let mut kept = vec![0; pool.kept()];
                pool.forward(&packed_x, &mut found, Some(&mut kept));
                let mut alone = found.clone();
                pool.forward(&packed_x, &mut alone, None);
                prop_assert!(
                    alone.iter().zip(&found).all(|(a, b)| a.to_bits() == b.to_bits()),
                    "also without a gradient"
                );
                pool.backward(&kept, &dy, &mut found_dx, add);
                let found = unpacked(&y_maps, &found);
                prop_assert!(
                    found.iter().zip(&y).all(|(a, b)| f64::from(*a) == *b || (a.is_nan() && b.is_nan())),
                    "{:?} is not {:?}",
                    found,
                    y
                );
            }
            Kind::Average { count_padding } => {
                let pool = AvgPool::new(path, window, count_padding, x_maps, y_maps);
                pool.forward(&packed_x, &mut found);
                pool.backward(&dy, &mut found_dx, add);
                close("y", &unpacked(&y_maps, &found), &y, 1.0, 1e-5)?;
            }
        }
        close("dx", &unpacked(&x_maps, &found_dx), &dx, 1.0, 1e-5)?;
        prop_assert!(halo_is_clean(&y_maps, &found), "the halo was written");
        prop_assert!(padding_is_zero(&x_maps, &found_dx), "gradients behind the last channel are zero");
    }
    Ok(())
}

/// Sizes, some with rows of more than one step of the kernel.
fn size() -> impl Strategy<Value = [usize; 2]> {
    prop_oneof![3 => [1..=9usize, 1..=9usize], 1 => [1..=6usize, 10..=24usize]]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pools_match_the_reference(
        (size, window) in size().prop_flat_map(|size| (Just(size), window(size, 1..=4, true))),
        channels in 1..=40usize,
        halos in [spare(), spare()],
        add: bool,
        count_padding: bool,
        levels in prop_oneof![Just(2.0f32), Just(1e6f32)],
    ) {
        // Few levels give ties.
        let x: Vec<f32> = noise("x", channels * size[0] * size[1]).into_iter().map(|x| (x * levels).round() / levels - 1.5).collect();
        for kind in [Kind::Max, Kind::Average { count_padding }] {
            check(kind, &window, channels, size, halos, add, &x)?;
        }
    }
}

#[test]
fn windows_of_more_taps_than_a_byte_can_name() {
    let window = Window { kernel: [18, 17], stride: [1, 2], before: [3, 2], dilation: [1, 1], output: [4, 3] };
    let size = [18, 19];
    let x = noise("x", 3 * size[0] * size[1]);
    check(Kind::Max, &window, 3, size, [Halo::default(); 2], false, &x).expect("the reference's result");
    // More than two bytes can name, and the last one wins.
    let window = Window { kernel: [257, 256], stride: [1, 1], before: [0, 0], dilation: [1, 1], output: [1, 1] };
    let mut x = noise("x", window.taps());
    x[window.taps() - 1] = 2.0;
    check(Kind::Max, &window, 1, window.kernel, [Halo::default(); 2], false, &x).expect("the reference's result");
}

#[test]
fn not_a_number_and_minus_infinity_come_through() {
    let window = Window { kernel: [3, 3], stride: [1, 1], before: [1, 1], dilation: [1, 1], output: [4, 9] };
    let mut x = noise("x", 36);
    (x[3], x[4], x[30]) = (f32::NAN, f32::NAN, f32::NAN);
    check(Kind::Max, &window, 1, [4, 9], [Halo::default(); 2], false, &x).expect("the reference's result");
    check(Kind::Max, &window, 1, [4, 9], [Halo::default(); 2], false, &[f32::NEG_INFINITY; 36])
        .expect("the reference's result");
}

#[test]
fn means_and_sums_of_large_maps_lose_no_digits() {
    // A sum of all in one would be off by a hundredth.
    for size in [[1024, 1024], [1, 1 << 20]] {
        let (maps, one) = (Maps::new(1, size), Maps::new(1, [1, 1]));
        let x = packed_gradient(&maps, &vec![0.1; 1 << 20]);
        for path in Path::available() {
            let near = |found: f32, expected: f64| assert!((f64::from(found) / expected - 1.0).abs() < 2e-4, "{found}");
            let mut y = vec![0.0; one.len()];
            GlobalAvgPool::new(path, &maps).forward(&x, &mut y);
            near(y[0], 0.1);
            let mut sums = vec![0.0; LANES];
            add_channel_sums(path, &maps, &x, &mut sums);
            near(sums[0] / 0.1, f64::from(1 << 20));
            if size[0] > 1 {
                let window = Window { kernel: size, stride: [1, 1], before: [0, 0], dilation: [1, 1], output: [1, 1] };
                AvgPool::new(path, &window, true, maps, one).forward(&x, &mut y);
                near(y[0], 0.1);
            }
        }
    }
}

#[test]
fn the_references_gradients_are_those_of_differences() {
    let window = Window { kernel: [3, 2], stride: [2, 1], before: [1, 1], dilation: [1, 2], output: [3, 5] };
    let x = wide(&noise("x", 60));
    let dy = wide(&noise("dy", 30));
    for kind in [Kind::Max, Kind::Average { count_padding: true }, Kind::Average { count_padding: false }] {
        let [_, dx] = pool(kind, &window, 2, [5, 6], &x, &dy);
        differences(&x, &dx, |x| product(&pool(kind, &window, 2, [5, 6], x, &dy)[0], &dy)).expect("the gradient");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn means_of_maps_match_the_reference(channels in 1..=40usize, size in [1..=9usize, 1..=9usize], spare in spare(), add: bool) {
        let maps = Maps::new(channels, size).with_halo(spare);
        let plane = size[0] * size[1];
        let (x, dy) = (noise("x", channels * plane), noise("dy", channels));
        let before = if add { noise("before", x.len()) } else { vec![0.0; x.len()] };
        for path in Path::available() {
            let pool = GlobalAvgPool::new(path, &maps);
            let mut y = vec![3.0; channels + 1];
            pool.forward(&packed(&maps, &x), &mut y);
            let means: Vec<f64> = wide(&x).chunks(plane).map(|plane| plane.iter().sum::<f64>() / plane.len() as f64).collect();
            close("y", &y[..channels], &means, 1.0, 1e-6)?;
            prop_assert_eq!(y[channels], 3.0);
            let mut dx = if add { packed_gradient(&maps, &before) } else { packed(&maps, &vec![5.0; x.len()]) };
            pool.backward(&dy, &mut dx, add);
            let slopes: Vec<f64> = (0..x.len()).map(|i| f64::from(dy[i / plane]) / plane as f64 + f64::from(before[i])).collect();
            close("dx", &unpacked(&maps, &dx), &slopes, 1.0, 1e-6)?;
            prop_assert!(padding_is_zero(&maps, &dx), "gradients behind the last channel are zero");
        }
    }
}
