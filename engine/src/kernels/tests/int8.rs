use proptest::prelude::*;

use super::reference::inside;
use super::{noise, spare, window};
use crate::kernels::bytes::{self, Code, Depthwise, Quantize, Requantize};
use crate::kernels::dense::{Int8Forward, Shape};
use crate::kernels::depthwise;
use crate::maps::Maps;
use crate::simd::{LANES, Path};
use crate::window::Window;

/// The path that multiplies bytes, if this machine has one.
fn path() -> Option<Path> {
    Path::available().into_iter().find(|path| path.has_int8())
}

/// Bytes that a name stands for, all 256 of them.
fn byte_noise(name: &str, count: usize) -> Vec<u8> {
    noise(name, count).into_iter().map(|x| (x * 128.0 + 128.0).min(255.0) as u8).collect()
}

/// An example of bytes `[C, H, W]` in maps of words, whose halo holds `zero`; lanes behind the last channel hold anything.
fn packed(words: &Maps, channels: usize, values: &[u8], zero: u8) -> Vec<f32> {
    let mut bytes = vec![zero; words.len() * 4];
    let plane = words.size[0] * words.size[1];
    for channel in 0..words.blocks() * LANES {
        for row in 0..words.size[0] {
            for column in 0..words.size[1] {
                let at = words.at(channel / LANES, row as isize, column as isize) * 4 + channel % LANES;
                let value = values.get(channel * plane + row * words.size[1] + column);
                bytes[at] = if channel < channels { *value.expect("a value for every pixel") } else { 77 };
            }
        }
    }
    bytes.as_chunks().0.iter().map(|quad| f32::from_bits(u32::from_le_bytes(*quad))).collect()
}

/// The same back, and whether the halo still holds `zero`.
fn unpacked(words: &Maps, channels: usize, from: &[f32], zero: u8) -> (Vec<u8>, bool) {
    let mut bytes: Vec<u8> = from.iter().flat_map(|word| word.to_bits().to_le_bytes()).collect();
    let mut values = Vec::new();
    for channel in 0..words.blocks() * LANES {
        for row in 0..words.size[0] {
            for column in 0..words.size[1] {
                let at = words.at(channel / LANES, row as isize, column as isize) * 4 + channel % LANES;
                if channel < channels {
                    values.push(bytes[at]);
                }
                bytes[at] = zero;
            }
        }
    }
    (values, bytes.iter().all(|byte| *byte == zero))
}

/// Weights of each output `[outs][terms]` as whole numbers, and what a step is worth.
fn rounded(weights: &[f32], outs: usize) -> (Vec<i32>, Vec<f32>) {
    let rows = weights.chunks_exact(weights.len() / outs);
    let scales: Vec<f32> = rows
        .clone()
        .map(|row| row.iter().fold(0.0, |most: f32, weight| most.max(weight.abs())))
        .map(|most| if most == 0.0 { 1.0 } else { most / 127.0 })
        .collect();
    let whole =
        rows.zip(&scales).flat_map(|(row, scale)| row.iter().map(move |w| (w / scale).round_ties_even() as i32));
    (whole.collect(), scales)
}

/// A code whose channels differ.
fn code(channels: usize, zero: u8) -> Code {
    Code { scales: noise("scales", channels).into_iter().map(|x| 1.5 + x).collect(), zero }
}

/// Weights `[outs][ins][taps]` times their inputs' scales.
fn scaled(weights: &[f32], taps: usize, code: &Code) -> Vec<f32> {
    let steps = code.scales.iter().flat_map(|scale| std::iter::repeat_n(*scale, taps)).cycle();
    weights.iter().zip(steps).map(|(weight, scale)| weight * scale).collect()
}

/// Whether `found` is what outputs lose in the mean when weights `[outs][ins][taps]` become whole.
fn lost(
    found: &[f32],
    weights: &[f32],
    whole: &[i32],
    scales: &[f32],
    code: &Code,
    means: &[f32],
) -> Result<(), TestCaseError> {
    let terms = weights.len() / scales.len();
    let taps = terms / means.len();
    for (out, (found, scale)) in found.iter().zip(scales).enumerate() {
        let less: f64 = (0..terms)
            .map(|term| {
                let (at, channel) = (out * terms + term, term / taps);
                let rounded = f64::from(whole[at]) * f64::from(*scale) / f64::from(code.scales[channel]);
                (f64::from(weights[at]) - rounded) * f64::from(means[channel])
            })
            .sum();
        prop_assert!((f64::from(*found) - less).abs() < 1e-5, "{} is lost, not {}", found, less);
    }
    Ok(())
}

/// The exact sums of a convolution `[outs, H, W]`.
fn sums(shape: &Shape, size: [usize; 2], x: &[u8], zero: u8, weights: &[i32]) -> Vec<i32> {
    let (plane, taps) = (size[0] * size[1], shape.window.taps());
    let (ins, outs) = (shape.ins / shape.groups, shape.outs / shape.groups);
    let mut all = Vec::new();
    for out in 0..shape.outs {
        for output in super::reference::outputs(&shape.window) {
            let mut sum = 0_i64;
            for channel in 0..ins {
                for (tap, place) in inside(&shape.window, size, output) {
                    let x = i64::from(x[(out / outs * ins + channel) * plane + place]) - i64::from(zero);
                    sum += x * i64::from(weights[(out * ins + channel) * taps + tap]);
                }
            }
            all.push(i32::try_from(sum).expect("there is room"));
        }
    }
    all
}

/// How outputs are finished.
#[derive(Debug, Clone, Copy)]
struct Ending {
    add: bool,
    bounds: [f32; 2],
    bytes: bool,
}

impl Ending {
    fn of_bytes(self) -> Self {
        Self { bounds: [self.bounds[0].max(0.0), self.bounds[1].min(255.0)], bytes: true, ..self }
    }
}

fn ending() -> impl Strategy<Value = Ending> {
    let bounds = prop_oneof![Just([0.0, f32::INFINITY]), Just([f32::NEG_INFINITY, f32::INFINITY]), Just([0.0, 200.0])];
    (any::<bool>(), bounds, any::<bool>()).prop_map(|(add, bounds, bytes)| {
        let ending = Ending { add, bounds, bytes: false };
        if bytes { ending.of_bytes() } else { ending }
    })
}

/// Numbers for the lanes of outputs.
struct Lanes {
    scale: Vec<f32>,
    shift: Vec<f32>,
    times: Vec<f32>,
    high: Vec<f32>,
}

impl Lanes {
    /// So that outputs are spread over the bytes.
    fn new(outs: usize, terms: usize, ending: Ending) -> Self {
        let lanes = outs.next_multiple_of(LANES);
        let (least, middle) = if ending.bytes { (0.02, 128.0) } else { (1e-4, 0.0) };
        let least = least / (terms as f32).sqrt();
        let of = |name, middle: f32, around: f32| -> Vec<f32> {
            noise(name, lanes).into_iter().map(|x| middle + around * x).collect()
        };
        let high = vec![ending.bounds[1]; lanes];
        Self {
            scale: of("scale", 1.5 * least, least),
            shift: of("shift", middle, 100.0),
            times: of("times", 0.6, 0.5),
            high,
        }
    }

    fn finish(&self, ending: Ending) -> Requantize<'_> {
        let add = ending.add.then_some(&self.times[..]);
        let [low, _] = ending.bounds;
        Requantize { scale: &self.scale, shift: &self.shift, add, low, high: &self.high, bytes: ending.bytes }
    }

    /// What a sum becomes beside `before`, exactly.
    fn finished(&self, channel: usize, sum: i32, before: f32, ending: Ending) -> f32 {
        let mut y = (sum as f32).mul_add(self.scale[channel], self.shift[channel]);
        if ending.add {
            y = before.mul_add(self.times[channel], y);
        }
        let y = y.max(ending.bounds[0]).min(self.high[channel]);
        if ending.bytes { y.round_ties_even() } else { y }
    }
}

/// Compares every bit of outputs `[outs, H, W]` of a convolution with what they should be.
#[expect(clippy::too_many_arguments, reason = "operands of a test")]
fn check(
    shape: &Shape,
    y_maps: &Maps,
    sums: &[i32],
    lanes: &Lanes,
    before: &[u8],
    ending: Ending,
    zero: u8,
    run: impl FnOnce(&mut [f32], Requantize<'_>),
) -> Result<(), TestCaseError> {
    let finish = lanes.finish(ending);
    let plane = shape.window.outputs();
    let found: Vec<f32> = if ending.bytes {
        let mut y = packed(y_maps, shape.outs, before, zero);
        run(&mut y, finish);
        let (values, clean) = unpacked(y_maps, shape.outs, &y, zero);
        prop_assert!(clean, "the halo was written");
        values.into_iter().map(f32::from).collect()
    } else {
        let floats: Vec<f32> = before.iter().map(|byte| f32::from(*byte)).collect();
        let mut y = super::packed(y_maps, &floats);
        run(&mut y, finish);
        prop_assert!(super::halo_is_clean(y_maps, &y), "the halo was written");
        super::unpacked(y_maps, &y)
    };
    for (index, found) in found.iter().enumerate() {
        let expected = lanes.finished(index / plane, sums[index], f32::from(before[index]), ending);
        prop_assert_eq!(*found, expected, "output {} of sum {}", index, sums[index]);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn convolutions_of_bytes_are_exact(
        (size, window) in [1..=9usize, 1..=30usize].prop_flat_map(|size| (Just(size), window(size, 1..=4, true))),
        ins in 1..=70usize,
        outs in 1..=50usize,
        spare in spare(),
        zero in prop_oneof![Just(0_u8), Just(128), Just(255), any::<u8>()],
        ending in ending(),
    ) {
        let Some(path) = path() else { return Ok(()) };
        let shape = Shape { ins, outs, groups: 1, window };
        let x_maps = bytes::words(Maps::new(ins, size).with_halo(shape.input_halo(size)).with_halo(spare));
        let y_maps = Maps::new(outs, window.output).with_halo(spare);
        let y_maps = if ending.bytes { bytes::words(y_maps) } else { y_maps };
        let forward = Int8Forward::new(path, &shape, x_maps, y_maps).expect("it suits");
        let x = byte_noise("x", ins * size[0] * size[1]);
        let weights = noise("weights", outs * ins * window.taps());
        let before = byte_noise("before", outs * window.outputs());
        let code = code(ins, zero);
        let (whole, scales) = rounded(&scaled(&weights, window.taps(), &code), outs);
        let means = noise("means", ins);
        let mut packed_weights = vec![0.0; forward.packing().len()];
        forward.packing().pack(&weights, &mut packed_weights);
        let rounded = forward.round(&packed_weights, &code, &means);
        prop_assert_eq!(&rounded.scales[..outs], &scales);
        lost(&rounded.lost, &weights, &whole, &scales, &code, &means)?;
        let sums = sums(&shape, size, &x, zero, &whole);
        let lanes = Lanes::new(outs, ins * window.taps(), ending);
        let x = packed(&x_maps, ins, &x, zero);
        check(&shape, &y_maps, &sums, &lanes, &before, ending, 9, |y, finish| forward.run(&rounded, &x, y, finish))?;
    }

    #[test]
    fn depthwise_convolutions_of_bytes_are_exact(
        (size, window) in [1..=9usize, 1..=30usize].prop_flat_map(|size| (Just(size), window(size, 1..=7, false))),
        channels in 1..=40usize,
        spare in spare(),
        zero in prop_oneof![Just(0_u8), Just(128), Just(255), any::<u8>()],
        ending in ending(),
    ) {
        let Some(path) = path() else { return Ok(()) };
        let ending = ending.of_bytes();
        let shape = Shape { ins: channels, outs: channels, groups: channels, window };
        let x_maps = bytes::words(Maps::new(channels, size).with_halo(shape.input_halo(size)).with_halo(spare));
        let y_maps = bytes::words(Maps::new(channels, window.output).with_halo(spare));
        let forward = Depthwise::new(path, &shape, x_maps, y_maps).expect("it suits");
        let x = byte_noise("x", channels * size[0] * size[1]);
        let weights = noise("weights", channels * window.taps());
        let before = byte_noise("before", channels * window.outputs());
        // One input an output: its scale goes with each channel's weights.
        let code = code(channels, zero);
        let (whole, scales) = rounded(&scaled(&weights, window.taps(), &code), channels);
        let means = noise("means", channels);
        let mut packed_weights = vec![0.0; depthwise::packed_len(channels, window.taps())];
        depthwise::pack(&weights, window.taps(), &mut packed_weights);
        let rounded = forward.round(&packed_weights, &code, &means);
        prop_assert_eq!(&rounded.scales[..channels], &scales);
        for channel in 0..channels {
            let of = |all: &[f32]| all[channel * window.taps()..][..window.taps()].to_vec();
            let whole = &whole[channel * window.taps()..][..window.taps()];
            let code = Code { scales: vec![code.scales[channel]], zero };
            lost(&rounded.lost[channel..], &of(&weights), whole, &scales[channel..=channel], &code, &means[channel..=channel])?;
        }
        let sums = sums(&shape, size, &x, zero, &whole);
        let lanes = Lanes::new(channels, window.taps(), ending);
        // To the end of what may be read, and no further.
        let x = packed(&x_maps, channels, &x, zero);
        check(&shape, &y_maps, &sums, &lanes, &before, ending, 9, |y, finish| forward.run(&rounded, &x, y, finish))?;
    }

    #[test]
    fn pools_of_bytes_are_exact(
        (size, window) in [1..=12usize, 1..=12usize].prop_flat_map(|size| (Just(size), window(size, 1..=4, true))),
        channels in 1..=40usize,
        spare in spare(),
        zero in any::<u8>(),
        count_padding in any::<bool>(),
    ) {
        if path().is_none() {
            return Ok(());
        }
        let code = code(channels, zero);
        let x_maps = bytes::words(Maps::new(channels, size).with_halo(spare));
        let y_maps = bytes::words(Maps::new(channels, window.output).with_halo(spare));
        let plane = size[0] * size[1];
        let x = byte_noise("x", channels * plane);
        let words = packed(&x_maps, channels, &x, zero);
        let of = |found: &[f32]| unpacked(&y_maps, channels, found, zero);
        let mut most = packed(&y_maps, channels, &vec![3; channels * window.outputs()], zero);
        bytes::MaxPool::new(&window, x_maps, y_maps).run(&words, &mut most);
        let mut mean = packed(&y_maps, channels, &vec![3; channels * window.outputs()], zero);
        bytes::AvgPool::new(&window, count_padding, x_maps, y_maps, zero).run(&words, &mut mean);
        let ((most, most_clean), (mean, mean_clean)) = (of(&most), of(&mean));
        prop_assert!(most_clean && mean_clean, "the halo was written");
        let mut index = 0;
        for x in x.chunks_exact(plane) {
            for output in super::reference::outputs(&window) {
                let seen: Vec<u8> = inside(&window, size, output).into_iter().map(|(_, at)| x[at]).collect();
                prop_assert_eq!(most[index], seen.iter().copied().max().unwrap_or(0));
                let taps = if count_padding || seen.is_empty() { window.taps() } else { seen.len() };
                let sum = seen.iter().map(|byte| u32::from(*byte)).sum::<u32>() + u32::from(zero) * (taps - seen.len()) as u32;
                let expected = sum as f32 * (1.0 / taps as f64) as f32;
                prop_assert_eq!(f32::from(mean[index]), expected.round_ties_even());
                index += 1;
            }
        }
        let mut means = vec![0.0; channels];
        bytes::GlobalAvgPool::new(x_maps, code.clone()).run(&words, &mut means);
        for ((mean, scale), x) in means.iter().zip(&code.scales).zip(x.chunks_exact(plane)) {
            let sum: f64 = x.iter().map(|byte| f64::from(*byte) - f64::from(zero)).sum();
            prop_assert_eq!(*mean, (sum * f64::from(*scale) / plane as f64) as f32);
        }
    }

    #[test]
    fn numbers_become_the_nearest_bytes(
        channels in 1..=40usize,
        size in [1..=9usize, 1..=20usize],
        spare in spare(),
        planar in any::<bool>(),
        ranges in proptest::collection::vec([-3.0..=0.0f32, 0.0..=3.0f32], 40),
        odd in proptest::option::of(prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)]),
    ) {
        if path().is_none() {
            return Ok(());
        }
        let channels = if planar { channels.min(4) } else { channels };
        let maps = Maps::new(channels, size).with_halo(spare);
        let maps = if planar { maps.planar() } else { maps };
        let code = Code::of(&ranges[..channels]).expect("finite");
        let quantize = Quantize::new(maps, &code).expect("it suits");
        let plane = size[0] * size[1];
        // Some are outside the range.
        let mut x: Vec<f32> = noise("x", channels * plane).into_iter().map(|x| 4.0 * x).collect();
        if let Some(odd) = odd {
            let at = x.len() / 2;
            x[at] = odd;
        }
        let mut words = vec![f32::NAN; quantize.maps().len()];
        let finite = quantize.run(&super::packed(&maps, &x), &mut words);
        prop_assert_eq!(finite, odd.is_none());
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_bits().to_le_bytes()).collect();
        for (index, x) in x.iter().enumerate().filter(|(_, x)| x.is_finite()) {
            let (channel, pixel) = (index / plane, index % plane);
            let (row, column) = ((pixel / size[1]) as isize, (pixel % size[1]) as isize);
            let at = if planar {
                quantize.maps().at(0, row, column) * 4 + channel
            } else {
                quantize.maps().at(channel / LANES, row, column) * 4 + channel % LANES
            };
            let (scale, [low, high]) = (code.scales[channel], ranges[channel]);
            let place = x.mul_add(1.0 / scale, f32::from(code.zero)).clamp(0.0, 255.0);
            prop_assert_eq!(f32::from(bytes[at]), place.round_ties_even(), "of {}", x);
            // So a number inside the range is at most half a step away from what its byte stands for.
            if (low..=high).contains(x) {
                let stands = (f32::from(bytes[at]) - f32::from(code.zero)) * scale;
                prop_assert!((stands - x).abs() <= 0.501 * scale + 1e-6, "{} stands for {}", stands, x);
            }
        }
    }
}

#[test]
fn the_largest_sums_have_room() {
    let Some(path) = path() else { return };
    let window = Window::same([3, 3], [3, 3]);
    for (ins, sign) in [(2048, 1.0), (2048, -1.0), (7300, 1.0)] {
        let shape = Shape { ins, outs: 1, groups: 1, window };
        let x_maps = bytes::words(Maps::new(ins, [3, 3]).with_halo(shape.input_halo([3, 3])));
        let y_maps = Maps::new(1, [3, 3]);
        let forward = Int8Forward::new(path, &shape, x_maps, y_maps).expect("it suits");
        let mut weights = vec![0.0; forward.packing().len()];
        forward.packing().pack(&vec![sign; ins * 9], &mut weights);
        let rounded = forward.round(&weights, &Code { scales: vec![1.0; ins], zero: 0 }, &vec![0.0; ins]);
        let x = packed(&x_maps, ins, &vec![255; ins * 9], 0);
        let mut y = vec![0.0; y_maps.len()];
        let (scale, shift, low, high) = ([1.0; LANES], [0.0; LANES], f32::NEG_INFINITY, [f32::INFINITY; LANES]);
        let finish = Requantize { scale: &scale, shift: &shift, add: None, low, high: &high, bytes: false };
        forward.run(&rounded, &x, &mut y, finish);
        // The middle one sees all: every product is the largest that there is.
        let most = i64::try_from(ins * 9 * 255 * 127).expect("a sum");
        assert!(i32::try_from(most).is_ok());
        assert_eq!(super::unpacked(&y_maps, &y)[4], sign * most as f32);
    }
    assert!(!Int8Forward::suits(&Shape { ins: 7400, outs: 1, groups: 1, window }), "there is no room");
    assert!(!Int8Forward::suits(&Shape { ins: 32, outs: 32, groups: 2, window }));
}

#[test]
fn weights_that_are_not_finite_spoil_their_output_alone() {
    let Some(path) = path() else { return };
    let shape = Shape { ins: 4, outs: 2, groups: 1, window: Window::same([1, 1], [1, 1]) };
    let (x_maps, y_maps) = (bytes::words(Maps::new(4, [1, 1])), Maps::new(2, [1, 1]));
    let forward = Int8Forward::new(path, &shape, x_maps, y_maps).expect("it suits");
    for odd in [f32::NAN, f32::INFINITY] {
        let mut weights = vec![0.0; forward.packing().len()];
        forward.packing().pack(&[1.0, odd, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5], &mut weights);
        let rounded = forward.round(&weights, &Code { scales: vec![1.0; 4], zero: 0 }, &[0.0; 4]);
        let (shift, low, high) = ([0.0; LANES], f32::NEG_INFINITY, [f32::INFINITY; LANES]);
        let mut y = vec![0.0; y_maps.len()];
        let finish = Requantize { scale: &rounded.scales, shift: &shift, add: None, low, high: &high, bytes: false };
        forward.run(&rounded, &packed(&x_maps, 4, &[2; 4], 0), &mut y, finish);
        assert!(!y[0].is_finite() && (y[1] - 4.0).abs() < 1e-3, "{:?}", &y[..2]);
    }
}

#[test]
fn codes_hold_their_ranges_and_zero() {
    for ranges in [
        vec![[0.0, 6.0]],
        vec![[-1.0, 1.0], [-0.5, 0.0]],
        vec![[-0.375, 12.0], [0.0, 0.0], [-0.1, 0.2], [-0.375, 0.0]],
        vec![[2.0, 3.0], [0.0, 1e-6]],
        vec![[-0.07, 12.0], [0.0, 1.0]],
        vec![[0.0, 12.0], [-0.02, 0.02]],
        vec![[-5.0, -4.0], [0.0, 0.0]],
        vec![[-1e-3, 1e30]],
        vec![[0.0, 1e-30], [0.0, 1e-33]],
    ] {
        let code = Code::of(&ranges).expect("finite");
        for ([low, high], scale) in ranges.iter().zip(&code.scales) {
            let of = |byte: f32| (byte - f32::from(code.zero)) * scale;
            // Zero is a whole number of steps from the ends, which may cut off half of one.
            assert!(of(0.0) <= low + 0.51 * scale && of(255.0) >= high - 0.51 * scale, "{low} to {high} by {scale}");
        }
        let [most, least] = [f32::max, f32::min].map(|of| code.scales.iter().copied().reduce(of).expect("channels"));
        assert!(least > 0.0 && most <= 17.0 * least, "{:?}", code.scales);
    }
    // Nothing but zero, or next to nothing: any step will do.
    for ranges in [vec![[0.0, 0.0]], vec![[-0.0, 0.0], [-1e-45, 1e-45]]] {
        assert_eq!(Code::of(&ranges), Some(Code { scales: vec![1.0; ranges.len()], zero: 0 }));
    }
    for odd in [[f32::NEG_INFINITY, 0.0], [0.0, f32::INFINITY]] {
        assert_eq!(Code::of(&[[0.0, 1.0], odd]), None);
    }
}
