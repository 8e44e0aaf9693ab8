use proptest::prelude::*;

use super::{close, differences, halo_is_clean, noise, packed, packed_gradient, product, spare, unpacked, wide};
use crate::graph::Activation;
use crate::kernels::activation::{Backward, Forward};
use crate::kernels::dropout::Dropout;
use crate::kernels::elementwise::Sum;
use crate::kernels::math;
use crate::kernels::view::View;
use crate::maps::Maps;
use crate::simd::{LANES, Path, Simd, on_path};

const ALL: [Activation; 8] = [
    Activation::Relu,
    Activation::Relu6,
    Activation::LeakyRelu,
    Activation::Gelu,
    Activation::Silu,
    Activation::HardSwish,
    Activation::Sigmoid,
    Activation::Tanh,
];

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + libm::exp(-x))
}

fn below(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// A function and its slope.
fn reference(function: Activation, x: f64) -> [f64; 2] {
    match function {
        Activation::Relu => [x.max(0.0), f64::from(x > 0.0)],
        Activation::Relu6 => [x.clamp(0.0, 6.0), f64::from(x > 0.0 && x < 6.0)],
        Activation::LeakyRelu if x > 0.0 => [x, 1.0],
        Activation::LeakyRelu => [0.01 * x, 0.01],
        Activation::Gelu => {
            let density = libm::exp(-0.5 * x * x) / (2.0 * std::f64::consts::PI).sqrt();
            [x * below(x), below(x) + x * density]
        }
        Activation::Silu => [x * sigmoid(x), sigmoid(x) * (1.0 + x * (1.0 - sigmoid(x)))],
        Activation::HardSwish if x <= -3.0 => [0.0, 0.0],
        Activation::HardSwish if x >= 3.0 => [x, 1.0],
        Activation::HardSwish => [x * (x + 3.0) / 6.0, (2.0 * x + 3.0) / 6.0],
        Activation::Sigmoid => [sigmoid(x), sigmoid(x) * (1.0 - sigmoid(x))],
        Activation::Tanh => [libm::tanh(x), 1.0 - libm::tanh(x).powi(2)],
    }
}

#[test]
fn the_references_slopes_are_those_of_differences() {
    for function in ALL {
        // No kink is so close to a step.
        let x: Vec<f64> = (0..140).map(|i| f64::from(i) * 0.1 - 7.013).collect();
        let slopes: Vec<f64> = x.iter().map(|x| reference(function, *x)[1]).collect();
        let sum = |x: &[f64]| x.iter().map(|x| reference(function, *x)[0]).sum();
        differences(&x, &slopes, sum).expect("the slope");
    }
}

/// Calls `f(x, f64 value, value)` for floats of all sizes and signs, one in `STEP` of them.
fn over_all(
    path: Path,
    of: fn(f64) -> f64,
    run: impl Fn(&[f32; LANES]) -> [f32; LANES],
    mut f: impl FnMut(f32, f64, f32),
) {
    const STEP: u32 = 9_973;
    let mut bits = 0_u32;
    loop {
        let x: [f32; LANES] = std::array::from_fn(|i| f32::from_bits(bits.wrapping_add(STEP * i as u32)));
        let y = run(&x);
        for (x, y) in x.into_iter().zip(y) {
            if x.is_nan() {
                assert!(y.is_nan(), "{path:?}: {x} gives {y}");
            } else {
                f(x, of(f64::from(x)), y);
            }
        }
        match bits.checked_add(STEP * LANES as u32) {
            Some(next) => bits = next,
            None => return,
        }
    }
}

/// The largest error in units of the last place of the result, and where.
fn worst(path: Path, of: fn(f64) -> f64, run: impl Fn(&[f32; LANES]) -> [f32; LANES]) -> (f64, f32) {
    let mut worst = (0.0, 0.0);
    over_all(path, of, run, |x, exact, found| {
        if exact.abs() > f64::from(f32::MAX) {
            assert!(found.is_infinite() || found == f32::MAX, "{x} gives {found}");
            return;
        }
        let size = (exact.abs() as f32).max(f32::MIN_POSITIVE);
        let unit = f64::from(f32::from_bits(size.to_bits() + 1)) - f64::from(size);
        let error = (f64::from(found) - exact).abs() / unit;
        assert!(!error.is_nan(), "{x} gives {found}, not {exact}");
        if error > worst.0 {
            worst = (error, x);
        }
    });
    worst
}

macro_rules! bound {
    ($path:expr, $name:ident, $of:expr, $bound:expr) => {
        let run = |x: &[f32; LANES]| {
            let mut y = [0.0; LANES];
            // SAFETY: the path is the machine's; the arrays hold a vector.
            on_path!($path, S => unsafe {
                S::run(#[inline(always)] || S::store(y.as_mut_ptr(), math::$name::<S>(S::load(x.as_ptr()))));
            });
            y
        };
        let (error, at) = worst($path, $of, run);
        println!("{:?}: {} is within {error:.2} ulp, worst at {at}", $path, stringify!($name));
        assert!(error < $bound, "{:?}: {} is {error} ulp off at {at}", $path, stringify!($name));
    };
}

#[test]
fn approximations_are_within_their_bounds_over_all_floats() {
    for path in Path::available() {
        bound!(path, exp, libm::exp, 2.0);
        bound!(path, sigmoid, sigmoid, 4.0);
        bound!(path, tanh, libm::tanh, 3.0);
        bound!(path, erf, libm::erf, 3.0);
    }
}

/// Operands of maps with other halos, or of rows that are no multiple of a vector.
fn views(
    maps: bool,
    channels: usize,
    size: [usize; 2],
    halos: [crate::maps::Halo; 3],
) -> ([View; 3], Option<[Maps; 3]>) {
    if maps {
        let all = halos.map(|halo| Maps::new(channels, size).with_halo(halo));
        (all.map(|maps| View::maps(&maps)), Some(all))
    } else {
        ([View::rows(size[0], channels); 3], None)
    }
}

/// Numbers in an operand, and back.
fn to(maps: Option<&Maps>, values: &[f32]) -> Vec<f32> {
    maps.map_or(values.to_vec(), |maps| packed(maps, values))
}
fn back(maps: Option<&Maps>, values: &[f32]) -> Vec<f32> {
    maps.map_or(values.to_vec(), |maps| unpacked(maps, values))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn elementwise_functions_match_the_reference(
        is_maps: bool,
        channels in 1..=40usize,
        size in [1..=5usize, 1..=5usize],
        halos in [spare(), spare(), spare()],
        function in 0..ALL.len(),
        add: bool,
    ) {
        let function = ALL[function];
        let (views, maps) = views(is_maps, channels, size, halos);
        let maps = maps.as_ref();
        let map = |i: usize| maps.map(|maps| &maps[i]);
        let count = channels * size[0] * if is_maps { size[1] } else { 1 };
        let x: Vec<f32> = noise("x", count).into_iter().map(|x| x * 8.0).collect();
        let dy = noise("dy", count);
        let other = noise("other", count);
        for path in Path::available() {
            let mut y = to(map(2), &other);
            Forward::new(path, function, views[0], views[2]).run(Some(&to(map(0), &x)), &mut y);
            let expected: Vec<f64> = x.iter().map(|x| reference(function, f64::from(*x))[0]).collect();
            close("y", &back(map(2), &y), &expected, 1.0, 2e-6)?;
            prop_assert!(map(2).is_none_or(|maps| halo_is_clean(maps, &y)), "the halo was written");
            let mut in_place = to(map(0), &x);
            Forward::new(path, function, views[0], views[0]).run(None, &mut in_place);
            prop_assert_eq!(back(map(0), &in_place), back(map(2), &y));

            let kept = if function.keeps_result() { back(map(2), &y) } else { x.clone() };
            let mut dx = to(map(2), &other);
            let backward = Backward::new(path, function, views[0], views[1], views[2]);
            backward.run(&to(map(0), &kept), Some(&to(map(1), &dy)), &mut dx, add);
            let slopes = x.iter().zip(&dy).zip(&other).map(|((x, dy), other)| {
                f64::from(*dy) * reference(function, f64::from(*x))[1] + if add { f64::from(*other) } else { 0.0 }
            });
            close("dx", &back(map(2), &dx), &slopes.collect::<Vec<_>>(), 1.0, 2e-6)?;
            prop_assert!(map(2).is_none_or(|maps| halo_is_clean(maps, &dx)), "the halo was written");
            if !add {
                let mut in_place = to(map(1), &dy);
                Backward::new(path, function, views[0], views[1], views[1]).run(&to(map(0), &kept), None, &mut in_place, false);
                prop_assert_eq!(back(map(1), &in_place), back(map(2), &dx));
            }
        }
    }

    #[test]
    fn sums_and_dropout_match_the_reference(
        is_maps: bool,
        channels in 1..=40usize,
        size in [1..=5usize, 1..=5usize],
        halos in [spare(), spare(), spare()],
        relu: bool,
    ) {
        let (views, maps) = views(is_maps, channels, size, halos);
        let maps = maps.as_ref();
        let map = |i: usize| maps.map(|maps| &maps[i]);
        let count = channels * size[0] * if is_maps { size[1] } else { 1 };
        let (a, b) = (noise("a", count), noise("b", count));
        for path in Path::available() {
            let mut y = to(map(2), &b);
            let sum = Sum::new(path, views[0], views[1], views[2]);
            let sum = if relu { sum.with_relu() } else { sum };
            sum.run(&to(map(0), &a), &to(map(1), &b), &mut y);
            let expected = a.iter().zip(&b).map(|(a, b)| {
                let sum = f64::from(*a) + f64::from(*b);
                if relu { sum.max(0.0) } else { sum }
            });
            close("sum", &back(map(2), &y), &expected.collect::<Vec<_>>(), 1.0, 1e-6)?;
            prop_assert!(map(2).is_none_or(|maps| halo_is_clean(maps, &y)), "the halo was written");

            let dropout = Dropout::new(path, views[0], views[2]);
            let keep: Vec<u16> = noise("keep", dropout.words()).into_iter().map(|x| (x.abs() * 65_536.0) as u16).collect();
            // The same mask, by what it does to ones, which stand in order in the operand.
            dropout.run(&keep, 2.0, Some(&to(map(0), &a)), &mut y);
            let kept = back(map(2), &y);
            for (index, (a, y)) in a.iter().zip(&kept).enumerate() {
                let (channel, pixel) = (index / (size[0] * size[1]), index % (size[0] * size[1]));
                let bit = if is_maps {
                    keep[channel / LANES * size[0] * size[1] + pixel] >> (channel % LANES) & 1
                } else {
                    keep[index / LANES] >> (index % LANES) & 1
                };
                prop_assert_eq!(*y, if bit == 1 { a * 2.0 } else { 0.0 });
            }
            prop_assert!(map(2).is_none_or(|maps| halo_is_clean(maps, &y)), "the halo was written");
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    for path in Path::available() {
        for function in ALL {
            let mut y = [f32::NAN; 19];
            Forward::new(path, function, View::rows(1, 19), View::rows(1, 19)).run(None, &mut y);
            assert!(y.iter().all(|y| y.is_nan()), "{path:?} {function:?}: {y:?}");
        }
    }
}

#[test]
fn gradients_of_padding_stay_zero() {
    let maps = Maps::new(5, [3, 3]);
    let dy = packed_gradient(&maps, &noise("dy", 45));
    for path in Path::available() {
        for function in ALL {
            let mut dx = dy.clone();
            let view = View::maps(&maps);
            Backward::new(path, function, view, view, view).run(&packed(&maps, &noise("x", 45)), None, &mut dx, false);
            assert!(super::padding_is_zero(&maps, &dx), "{path:?} {function:?}");
        }
    }
    assert!(product(&wide(&dy), &wide(&dy)) > 0.0);
}
