use proptest::prelude::*;

use super::{halo_is_clean, noise, packed, padded, spare, window};
use crate::kernels::dense::{Finish, Forward, Shape};
use crate::kernels::depthwise;
use crate::kernels::inverted::{Inverted, Operands, STRIP, suits};
use crate::maps::{Halo, Maps};
use crate::simd::Path;
use crate::window::Window;

/// Channels before, between and behind.
type Channels = [usize; 3];

/// Against the three kernels, which are held against the reference: bit by bit. In place where shapes allow it.
fn check(path: Path, [ins, wide, outs]: Channels, windows: [Window; 2], size: [usize; 2], spare: Halo, add: bool) {
    let [first, middle] = windows;
    let shapes = [
        Shape { ins, outs: wide, groups: 1, window: first },
        Shape { ins: wide, outs: wide, groups: wide, window: middle },
        Shape { ins: wide, outs, groups: 1, window: Window::same([1, 1], middle.output) },
    ];
    assert!(suits(shapes.each_ref()), "{shapes:?}");
    let x_maps = Maps::new(ins, size).with_halo(shapes[0].input_halo(size)).with_halo(spare);
    let wide_maps = Maps::new(wide, first.output).with_halo(shapes[1].input_halo(first.output));
    let [deep_maps, y_maps] = [wide, outs].map(|channels| Maps::new(channels, middle.output).with_halo(spare));
    let finishes = [Finish { add: false, clamp: Some([0.0, 6.0]) }, Finish::RELU, Finish { add, clamp: None }];

    let steps = (
        Forward::new(path, &shapes[0], x_maps, wide_maps),
        depthwise::Forward::new(path, &shapes[1], wide_maps, deep_maps),
        Forward::new(path, &shapes[2], deep_maps, y_maps),
    );
    let dense = |forward: &Forward, name: &str, count: usize| {
        let mut packed = vec![0.0; forward.packing().len()];
        forward.packing().pack(&noise(name, count), &mut packed);
        packed
    };
    let mut taps = vec![0.0; depthwise::packed_len(wide, middle.taps())];
    depthwise::pack(&noise("taps", wide * middle.taps()), middle.taps(), &mut taps);
    let weights = [dense(&steps.0, "first", wide * ins * first.taps()), taps, dense(&steps.2, "last", outs * wide)];
    let biases = [noise("a", wide), noise("b", wide), noise("c", outs)].map(|bias| padded(&bias));
    let operands = [0, 1, 2].map(|index| Operands {
        weights: &weights[index],
        bias: Some(&biases[index]),
        finish: finishes[index],
    });
    let x = packed(&x_maps, &noise("x", ins * size[0] * size[1]));
    let in_place = add && x_maps == y_maps;
    let before = if in_place { x.clone() } else { packed(&y_maps, &noise("y", outs * middle.outputs())) };

    let (mut between, mut deep, mut expected) =
        (vec![0.0; wide_maps.len()], vec![0.0; deep_maps.len()], before.clone());
    steps.0.run(&weights[0], Some(&biases[0]), &x, &mut between, finishes[0]);
    steps.1.run(&weights[1], Some(&biases[1]), &between, &mut deep, finishes[1]);
    steps.2.run(&weights[2], Some(&biases[2]), &deep, &mut expected, finishes[2]);

    for between in [0, STRIP, usize::MAX] {
        let kernel = Inverted::new(path, shapes.each_ref(), x_maps, y_maps, between);
        let mut scratch = vec![f32::NAN; kernel.scratch_len()];
        let mut y = before.clone();
        kernel.run(operands, (!in_place).then_some(&x[..]), &mut y, &mut scratch);
        assert!(y == expected, "{path:?}, {shapes:?}: another result than by three kernels");
        assert!(halo_is_clean(&y_maps, &y), "the halo was written");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn inverted_residuals_are_what_their_convolutions_are(
        (size, first, middle) in [1..=40usize, 1..=40usize].prop_flat_map(|size| {
            let first = prop_oneof![Just(Window::same([1, 1], size)), window(size, 1..=3, false)];
            (Just(size), first).prop_flat_map(|(size, first)| (Just(size), Just(first), window(first.output, 1..=5, true)))
        }),
        ins in 1..=40usize,
        wide in 2..=150usize,
        outs in 1..=40usize,
        spare in spare(),
        add: bool,
    ) {
        for path in Path::available() {
            check(path, [ins, wide, outs], [first, middle], size, spare, add);
        }
    }

    #[test]
    fn inverted_residuals_add_in_place(
        size in [1..=40usize, 1..=40usize],
        channels in 1..=40usize,
        wide in 2..=200usize,
        kernel in prop_oneof![Just(3), Just(5)],
        spare in spare(),
    ) {
        let windows = [Window::same([1, 1], size), Window::same([kernel, kernel], size)];
        for path in Path::available() {
            check(path, [channels, wide, channels], windows, size, spare, true);
        }
    }
}
