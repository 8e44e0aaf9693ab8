use proptest::prelude::*;

use super::reference::convolve;
use super::{close, finished, halo_is_clean, noise, packed, padded, spare, unpacked, window};
use crate::kernels::dense::{Finish, Shape};
use crate::kernels::depthwise::{Forward, InputGradient, WeightGradient, pack, packed_len, unpack};
use crate::maps::{Halo, Maps};
use crate::simd::Path;
use crate::window::Window;

fn check(path: Path, shape: &Shape, size: [usize; 2], spare: Halo, finish: Finish) -> Result<(), TestCaseError> {
    let (channels, taps) = (shape.groups, shape.window.taps());
    let x_maps = Maps::new(channels, size).with_halo(shape.input_halo(size)).with_halo(spare);
    let y_maps = Maps::new(channels, shape.window.output).with_halo(shape.gradient_halo(size)).with_halo(spare);
    let x = noise("x", channels * size[0] * size[1]);
    let weights = noise("weights", channels * taps);
    let bias = noise("bias", channels);
    let dy = noise("dy", channels * shape.window.outputs());
    let before = noise("before", dy.len());
    let expected = convolve(shape, size, &x, &weights, &bias, &dy);

    let mut stored = vec![f32::NAN; packed_len(shape.outs, shape.window.taps())];
    pack(&weights, taps, &mut stored);
    let (x, mut y) = (packed(&x_maps, &x), packed(&y_maps, &before));
    Forward::new(path, shape, x_maps, y_maps).run(&stored, Some(&padded(&bias)), &x, &mut y, finish);
    let finished = finished(&expected.y, &before, finish);
    close("y", &unpacked(&y_maps, &y), &finished, (taps as f64).sqrt(), 1e-6)?;
    prop_assert!(halo_is_clean(&y_maps, &y), "the halo was written");

    let mut slopes = vec![0.0; y_maps.len()];
    y_maps.pack(&dy, &mut slopes);
    let mut dw = vec![0.0; stored.len()];
    WeightGradient::new(path, shape, x_maps, y_maps).add(&x, &slopes, &mut dw);
    let mut plain = vec![0.0; weights.len()];
    unpack(&dw, taps, &mut plain);
    close("dw", &plain, &expected.dw, (shape.window.outputs() as f64).sqrt(), 1e-5)?;
    let mut again = vec![0.0; dw.len()];
    pack(&plain, taps, &mut again);
    prop_assert!(again == dw, "what stands for no weight has no gradient");

    let gradient = InputGradient::new(path, shape, x_maps, y_maps);
    let mut reordered = vec![f32::NAN; gradient.len()];
    gradient.reorder(&stored, &mut reordered);
    let mut dx = packed(&x_maps, &vec![9.0; channels * size[0] * size[1]]);
    gradient.run(&reordered, &slopes, &mut dx, Finish::PLAIN);
    close("dx", &unpacked(&x_maps, &dx), &expected.dx, (taps as f64).sqrt(), 1e-6)?;
    prop_assert!(halo_is_clean(&x_maps, &dx), "the halo was written");
    Ok(())
}

/// The windows that networks are made of.
fn usual(size: [usize; 2]) -> impl Strategy<Value = Window> {
    (prop_oneof![Just(3), Just(5)], 1..=2usize).prop_map(move |(kernel, stride)| Window {
        stride: [stride; 2],
        output: size.map(|size| size.div_ceil(stride)),
        ..Window::same([kernel; 2], size)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn depthwise_convolutions_match_the_reference(
        (size, window) in prop_oneof![2 => [1..=9usize, 1..=9usize], 1 => [1..=6usize, 9..=40usize]]
            .prop_flat_map(|size| (Just(size), prop_oneof![window(size, 1..=7, true), usual(size)])),
        channels in 1..=40usize,
        spare in spare(),
        finish in prop_oneof![Just(Finish::PLAIN), Just(Finish::RELU), Just(Finish::ADD)],
    ) {
        let shape = Shape { ins: channels, outs: channels, groups: channels, window };
        for path in Path::available() {
            check(path, &shape, size, spare, finish)?;
        }
    }
}
