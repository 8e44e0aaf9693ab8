use proptest::prelude::*;

use super::reference::convolve;
use super::{close, finished, halo_is_clean, noise, packed, padded, spare, unpacked, window};
use crate::kernels::dense::{Finish, Forward, InputGradient, Shape, WeightGradient};
use crate::kernels::depthwise;
use crate::maps::{Halo, Maps};
use crate::simd::Path;

/// What stands there, too, within bounds.
const BOUNDED_SUM: Finish = Finish { add: true, clamp: Some([-0.5, 0.5]) };

/// Mostly small maps, some so wide that a row takes several tiles.
fn size() -> impl Strategy<Value = [usize; 2]> {
    prop_oneof![4 => [1..=9usize, 1..=9usize], 1 => [1..=20usize, 20..=44usize]]
}

fn check(
    path: Path,
    shape: &Shape,
    size: [usize; 2],
    planar: bool,
    spare: Halo,
    finish: Finish,
) -> Result<(), TestCaseError> {
    let x_maps = Maps::new(shape.ins, size).with_halo(shape.input_halo(size)).with_halo(spare);
    let x_maps = if planar { x_maps.planar() } else { x_maps };
    let y_maps = Maps::new(shape.outs, shape.window.output).with_halo(shape.gradient_halo(size)).with_halo(spare);
    let x = noise("x", shape.ins * size[0] * size[1]);
    let weights = noise("weights", shape.outs * shape.ins / shape.groups * shape.window.taps());
    let bias = noise("bias", shape.outs);
    let dy = noise("dy", shape.outs * shape.window.outputs());
    let before = noise("before", dy.len());
    let terms = (shape.ins / shape.groups * shape.window.taps()) as f64;
    let expected = convolve(shape, size, &x, &weights, &bias, &dy);

    let forward = Forward::new(path, shape, x_maps, y_maps);
    let mut packed_weights = vec![0.0; forward.packing().len()];
    forward.packing().pack(&weights, &mut packed_weights);
    let x = packed(&x_maps, &x);
    let mut y = packed(&y_maps, &before);
    forward.run(&packed_weights, Some(&padded(&bias)), &x, &mut y, finish);
    let finished = finished(&expected.y, &before, finish);
    close("y", &unpacked(&y_maps, &y), &finished, terms.sqrt(), 1e-5)?;
    prop_assert!(halo_is_clean(&y_maps, &y), "the halo was written");

    let mut dy_maps = vec![0.0; y_maps.len()];
    y_maps.pack(&dy, &mut dy_maps);
    let gradient = WeightGradient::new(path, shape, x_maps, y_maps);
    prop_assert_eq!(gradient.packing(), forward.packing());
    let mut dw = vec![0.0; gradient.packing().len()];
    gradient.add(&x, &dy_maps, &mut dw);
    gradient.packing().clear_padding(&mut dw);
    let mut plain = vec![0.0; weights.len()];
    gradient.packing().unpack(&dw, &mut plain);
    close("dw", &plain, &expected.dw, (shape.window.outputs() as f64).sqrt(), 1e-5)?;
    gradient.packing().pack(&plain, &mut packed_weights.clone());
    let mut again = vec![0.0; dw.len()];
    gradient.packing().pack(&plain, &mut again);
    prop_assert!(again == dw, "what stands for no weight has no gradient");

    if !planar {
        let gradient = InputGradient::new(path, shape, x_maps, y_maps);
        let mut transposed = vec![0.0; gradient.len()];
        gradient.transpose(&packed_weights, &mut transposed);
        let mut dx = packed(&x_maps, &vec![9.0; x.len().min(shape.ins * size[0] * size[1])]);
        gradient.run(&transposed, &dy_maps, &mut dx, Finish::PLAIN);
        close(
            "dx",
            &unpacked(&x_maps, &dx),
            &expected.dx,
            (shape.outs as f64 * terms / shape.ins as f64).sqrt(),
            1e-5,
        )?;
        prop_assert!(halo_is_clean(&x_maps, &dx), "the halo was written");
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_match_the_reference(
        (size, window) in size().prop_flat_map(|size| (Just(size), window(size, 1..=5, true))),
        (groups, ins, outs) in prop_oneof![
            3 => (Just(1), 1..=40usize, 1..=50usize),
            1 => (2..=4usize, 1..=12usize, 1..=12usize),
        ],
        planar: bool,
        spare in spare(),
        finish in prop_oneof![Just(Finish::PLAIN), Just(Finish::RELU), Just(Finish::ADD), Just(BOUNDED_SUM)],
    ) {
        let shape = Shape { ins: groups * ins, outs: groups * outs, groups, window };
        let planar = planar && groups == 1 && ins < 8;
        for path in Path::available() {
            check(path, &shape, size, planar, spare, finish)?;
        }
    }
}

#[test]
fn maps_without_the_zeros_that_a_window_reads_are_refused() {
    // All of them lie behind the maps: such a kernel would read on.
    let window = crate::Window { before: [0, 0], ..crate::Window::same([3, 3], [5, 5]) };
    let maps = Maps::new(16, [5, 5]);
    for groups in [1, 16] {
        let shape = Shape { ins: 16, outs: 16, groups, window };
        let room = maps.with_halo(shape.input_halo([5, 5])).with_halo(shape.gradient_halo([5, 5]));
        let refused = |make: &dyn Fn(Maps)| {
            make(room);
            let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| make(maps)));
            assert!(made.is_err(), "{groups} groups");
        };
        for path in Path::available() {
            if groups == 1 {
                refused(&|x| drop(Forward::new(path, &shape, x, maps)));
                refused(&|dy| drop(InputGradient::new(path, &shape, maps, dy)));
                refused(&|x| drop(WeightGradient::new(path, &shape, x, maps)));
            } else {
                refused(&|x| drop(depthwise::Forward::new(path, &shape, x, maps)));
                refused(&|dy| drop(depthwise::InputGradient::new(path, &shape, maps, dy)));
                refused(&|x| drop(depthwise::WeightGradient::new(path, &shape, x, maps)));
            }
        }
    }
}

#[test]
fn a_sum_that_is_not_a_number_stays_one_behind_relu() {
    let shape = Shape { ins: 16, outs: 16, groups: 1, window: crate::Window::same([1, 1], [1, 1]) };
    let maps = Maps::new(16, [1, 1]);
    for path in Path::available() {
        let forward = Forward::new(path, &shape, maps, maps);
        let mut y = vec![0.0; maps.len()];
        forward.run(&vec![f32::NAN; forward.packing().len()], None, &[1.0; 16], &mut y, Finish::RELU);
        assert!(y.iter().all(|y| y.is_nan()), "{path:?}: {y:?}");
    }
}
