use proptest::prelude::*;

use super::reference::convolve;
use super::{close, finished, halo_is_clean, noise, packed, padded, spare, unpacked, window};
use crate::kernels::dense::{Bf16Forward, Finish, Shape};
use crate::maps::Maps;
use crate::simd::Path;

/// Noise that bf16 holds: what rounding does is a test of its own.
fn short_noise(name: &str, count: usize) -> Vec<f32> {
    noise(name, count).into_iter().map(|x| f32::from_bits(x.to_bits() & 0xffff_0000)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_of_bf16_match_the_reference(
        (size, window) in [1..=9usize, 1..=30usize].prop_flat_map(|size| (Just(size), window(size, 1..=4, true))),
        ins in 1..=70usize,
        outs in 1..=50usize,
        spare in spare(),
        finish in prop_oneof![Just(Finish::PLAIN), Just(Finish::RELU), Just(Finish::ADD)],
    ) {
        let shape = Shape { ins, outs, groups: 1, window };
        let x_maps = Maps::new(ins, size).with_halo(shape.input_halo(size)).with_halo(spare);
        let y_maps = Maps::new(outs, window.output).with_halo(spare);
        for path in Path::available() {
            let Some(forward) = Bf16Forward::new(path, &shape, x_maps, y_maps) else {
                prop_assert!(!path.has_bf16());
                continue;
            };
            let x = short_noise("x", ins * size[0] * size[1]);
            let weights = short_noise("weights", outs * ins * window.taps());
            let (bias, before) = (noise("bias", outs), noise("before", outs * window.outputs()));
            let expected = convolve(&shape, size, &x, &weights, &bias, &before).y;
            let mut packed_weights = vec![0.0; forward.packing().len()];
            forward.packing().pack(&weights, &mut packed_weights);
            let mut words = vec![0.0; forward.len()];
            forward.round(&packed_weights, &mut words);
            let mut scratch = vec![f32::NAN; forward.scratch_len()];
            let mut y = packed(&y_maps, &before);
            forward.run(&words, Some(&padded(&bias)), &packed(&x_maps, &x), &mut y, finish, &mut scratch);
            let finished = finished(&expected, &before, finish);
            let terms = (ins * window.taps()) as f64;
            close("y", &unpacked(&y_maps, &y), &finished, terms.sqrt(), 1e-5)?;
            prop_assert!(halo_is_clean(&y_maps, &y), "the halo was written");
        }
    }
}
