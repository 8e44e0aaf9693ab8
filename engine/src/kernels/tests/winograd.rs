use proptest::prelude::*;

use super::reference::convolve;
use super::{close, halo_is_clean, noise, packed, padded, spare, unpacked};
use crate::kernels::dense::{Finish, Shape};
use crate::kernels::winograd::{Winograd, pays};
use crate::maps::{Halo, Maps};
use crate::simd::{LANES, Path};
use crate::window::Window;

/// Transforms lose a digit: this is for one product and grows with the root of their number.
const TOLERANCE: f64 = 1e-5;

fn window(size: [usize; 2]) -> impl Strategy<Value = Window> {
    let along = |size: usize, kernel: usize| {
        (0..kernel, 0..kernel).prop_map(move |(before, after)| {
            // At least one output.
            let before = before.max(kernel.saturating_sub(size + after));
            (before, size + before + after + 1 - kernel)
        })
    };
    prop_oneof![Just(3), Just(5)].prop_flat_map(move |kernel| {
        (along(size[0], kernel), along(size[1], kernel)).prop_map(move |(a, b)| Window {
            kernel: [kernel; 2],
            stride: [1, 1],
            dilation: [1, 1],
            before: [a.0, b.0],
            output: [a.1, b.1],
        })
    })
}

/// Examples that differ, one after the other.
fn batch(name: &str, maps: &Maps, examples: usize) -> (Vec<Vec<f32>>, Vec<f32>) {
    let count = maps.channels * maps.size[0] * maps.size[1];
    let plain: Vec<_> = (0..examples).map(|example| noise(&format!("{name}{example}"), count)).collect();
    let stored = plain.iter().flat_map(|values| packed(maps, values)).collect();
    (plain, stored)
}

fn run(winograd: &Winograd, weights: &[f32], bias: Option<&[f32]>, x: &[f32], y: &[f32], finish: Finish) -> Vec<f32> {
    let mut transformed = vec![f32::NAN; winograd.len()];
    winograd.transform(weights, &mut transformed);
    let (mut y, mut scratch) = (y.to_vec(), vec![f32::NAN; winograd.scratch_len()]);
    winograd.run(&transformed, bias, x, &mut y, finish, &mut scratch);
    y
}

fn check(
    path: Path,
    shape: &Shape,
    size: [usize; 2],
    examples: usize,
    spare: Halo,
    finish: Finish,
) -> Result<(), TestCaseError> {
    let x_maps = Maps::new(shape.ins, size).with_halo(shape.input_halo(size)).with_halo(spare);
    let y_maps = Maps::new(shape.outs, shape.window.output).with_halo(shape.gradient_halo(size)).with_halo(spare);
    let (x, x_stored) = batch("x", &x_maps, examples);
    let (before, before_stored) = batch("before", &y_maps, examples);
    let (dy, _) = batch("dy", &y_maps, examples);
    let mut dy_stored = vec![0.0; y_maps.len() * examples];
    for (dy, to) in dy.iter().zip(dy_stored.chunks_exact_mut(y_maps.len())) {
        y_maps.pack(dy, to);
    }
    let weights = noise("weights", shape.outs * shape.ins * shape.window.taps());
    let bias = noise("bias", shape.outs);

    let forward = Winograd::new(path, shape, x_maps, y_maps).expect("it applies");
    let backward = Winograd::gradient(path, shape, x_maps, y_maps).expect("it applies");
    let mut stored_weights = vec![0.0; forward.packing().len()];
    forward.packing().pack(&weights, &mut stored_weights);
    let y = run(&forward, &stored_weights, Some(&padded(&bias)), &x_stored, &before_stored, finish);
    let dx = run(&backward, &stored_weights, None, &dy_stored, &x_stored, Finish::PLAIN);

    let terms = shape.window.taps() as f64;
    for example in 0..examples {
        let expected = convolve(shape, size, &x[example], &weights, &bias, &dy[example]);
        let finished = expected.y.iter().zip(&before[example]).map(|(sum, before)| {
            let sum = if finish.add { sum + f64::from(*before) } else { *sum };
            finish.clamp.map_or(sum, |[low, high]| sum.max(low.into()).min(high.into()))
        });
        let y = &y[example * y_maps.len()..][..y_maps.len()];
        let scale = (shape.ins as f64 * terms).sqrt();
        close("y", &unpacked(&y_maps, y), &finished.collect::<Vec<_>>(), scale, TOLERANCE)?;
        prop_assert!(halo_is_clean(&y_maps, y), "the halo was written");
        let dx = &dx[example * x_maps.len()..][..x_maps.len()];
        let scale = (shape.outs as f64 * terms).sqrt();
        close("dx", &unpacked(&x_maps, dx), &expected.dx, scale, TOLERANCE)?;
        prop_assert!(halo_is_clean(&x_maps, dx), "the halo was written");
        if !shape.ins.is_multiple_of(LANES) {
            let at = x_maps.at(x_maps.blocks() - 1, 0, 0);
            prop_assert!(
                dx[at + shape.ins % LANES..at + LANES].iter().all(|lane| *lane == 0.0),
                "spare lanes of a gradient"
            );
        }
    }

    // Neither the chunks nor the neighbours change a bit.
    let small = Winograd::new(path, shape, x_maps, y_maps).expect("it applies").in_chunks(3);
    let again = run(&small, &stored_weights, Some(&padded(&bias)), &x_stored, &before_stored, finish);
    prop_assert!(y == again, "bits depend on chunks");
    let last = (examples - 1) * x_maps.len();
    let before = &before_stored[(examples - 1) * y_maps.len()..];
    let alone = run(&forward, &stored_weights, Some(&padded(&bias)), &x_stored[last..], before, finish);
    prop_assert!(y[y.len() - alone.len()..] == alone, "bits depend on neighbours");
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn winograd_matches_the_reference(
        (size, window) in prop_oneof![4 => [1..=9usize, 1..=9usize], 1 => [1..=17usize, 10..=24usize]]
            .prop_flat_map(|size| (Just(size), window(size))),
        (ins, outs) in (1..=40usize, 1..=50usize),
        examples in 1..=3usize,
        spare in spare(),
        finish in prop_oneof![Just(Finish::PLAIN), Just(Finish::RELU), Just(Finish::ADD)],
    ) {
        let shape = Shape { ins, outs, groups: 1, window };
        for path in Path::available() {
            check(path, &shape, size, examples, spare, finish)?;
        }
    }
}

#[test]
fn what_does_not_suit_is_left_to_others() {
    let plain = Shape { ins: 16, outs: 16, groups: 1, window: Window::same([3, 3], [8, 8]) };
    let maps = Maps::new(16, [8, 8]).with_halo(plain.input_halo([8, 8]));
    let applies = |shape: &Shape, x: Maps| {
        let y = Maps::new(shape.outs, shape.window.output);
        Winograd::new(Path::Portable, shape, x, y).is_some()
            && Winograd::gradient(Path::Portable, shape, x, y).is_some()
    };
    assert!(applies(&plain, maps));
    assert!(!applies(&plain, maps.planar()));
    assert!(!applies(&Shape { groups: 2, ..plain }, maps));
    let window = plain.window;
    for window in [
        Window { stride: [2, 1], ..window },
        Window { dilation: [1, 2], ..window },
        Window { kernel: [3, 5], ..window },
        Window { kernel: [1, 1], ..window },
    ] {
        assert!(!applies(&Shape { window, ..plain }, maps), "{window:?}");
    }
}

/// Shapes whose times were measured: a change of the rule has to agree with them.
#[test]
fn it_pays_where_it_was_measured_to() {
    let shape = |ins, outs, size, kernel| Shape { ins, outs, groups: 1, window: Window::same([kernel; 2], [size; 2]) };
    for (ins, outs, size, kernel, one, many) in [
        (32, 64, 14, 5, true, true),
        (16, 16, 32, 3, true, true),
        (32, 32, 16, 3, true, true),
        (64, 64, 8, 3, true, true),
        (64, 64, 4, 3, true, true),
        (256, 256, 14, 3, true, true),
        (512, 512, 14, 3, true, true),
        (16, 16, 28, 5, true, true),
        (128, 128, 4, 3, false, true),
        (512, 512, 7, 3, false, true),
        (64, 64, 1, 3, false, false),
        (16, 16, 5, 3, false, false),
        (8, 16, 28, 5, false, false),
        (64, 64, 8, 1, false, false),
    ] {
        let shape = shape(ins, outs, size, kernel);
        assert_eq!([pays(&shape, 1), pays(&shape, 16)], [one, many], "{shape:?}");
    }
    assert!(!pays(&Shape { groups: 2, ..shape(64, 64, 32, 3) }, 16));
}

/// The error of long sums, against the root of their sum of squares; what a network's layers see.
#[test]
fn errors_stay_small() {
    for (kernel, ins, size) in [(3, 64, 8), (3, 256, 8), (5, 32, 8), (5, 128, 4), (3, 64, 2)] {
        let shape = Shape { ins, outs: 16, groups: 1, window: Window::same([kernel; 2], [size; 2]) };
        let x_maps = Maps::new(ins, [size; 2]).with_halo(shape.input_halo([size; 2]));
        let y_maps = Maps::new(16, [size; 2]);
        let x = noise("x", ins * size * size);
        let weights = noise("weights", 16 * ins * kernel * kernel);
        let expected = convolve(&shape, [size; 2], &x, &weights, &[0.0; 16], &vec![0.0; 16 * size * size]);
        for path in Path::available() {
            let winograd = Winograd::new(path, &shape, x_maps, y_maps).expect("it applies");
            let mut stored = vec![0.0; winograd.packing().len()];
            winograd.packing().pack(&weights, &mut stored);
            let y = run(&winograd, &stored, None, &packed(&x_maps, &x), &vec![0.0; y_maps.len()], Finish::PLAIN);
            // Products of numbers between -1 and 1 have a mean square of 1 / 9.
            let scale = (expected.y.iter().map(|y| y * y).sum::<f64>() / expected.y.len() as f64).sqrt();
            let errors: Vec<f64> = unpacked(&y_maps, &y)
                .iter()
                .zip(&expected.y)
                .map(|(y, sum)| (f64::from(*y) - sum).abs() / scale)
                .collect();
            let mean = (errors.iter().map(|e| e * e).sum::<f64>() / errors.len() as f64).sqrt();
            let largest = errors.iter().copied().fold(0.0, f64::max);
            eprintln!("{} {kernel}x{kernel} {ins} channels: rms {mean:.1e}, largest {largest:.1e}", path.name());
            assert!(largest < 1e-5 && mean < 2e-6, "{path:?}: {largest} {mean}");
        }
    }
}
