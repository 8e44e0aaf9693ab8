use proptest::prelude::*;

use super::reference::convolve;
use super::{close, halo_is_clean, noise, packed, spare, unpacked};
use crate::kernels::dense::Shape;
use crate::kernels::pooled::{Backward, DEAD, Forward, Given, Input, Sums};
use crate::maps::{Halo, Maps};
use crate::simd::{LANES, Path};
use crate::window::Window;

/// Small whole numbers: sums of their products are exact in any order, and many are equal.
fn whole(name: &str, count: usize) -> Vec<f32> {
    noise(name, count).into_iter().map(|value| (value * 2.5).round()).collect()
}

/// Reads bytes `[blocks][rows][columns][LANES]` as `[channels, rows, columns]`.
fn plain(winners: &[u8], maps: &Maps) -> Vec<u8> {
    let plane = maps.size[0] * maps.size[1];
    let at = |index: usize| (index / plane / LANES * plane + index % plane) * LANES + index / plane % LANES;
    (0..maps.channels * plane).map(|index| winners[at(index)]).collect()
}

/// Where a pooled output's window begins in the plane before it.
fn window_at(index: usize, pooled: [usize; 2], output: [usize; 2]) -> usize {
    let plane = pooled[0] * pooled[1];
    let [row, column] = [index % plane / pooled[1], index % plane % pooled[1]];
    index / plane * output[0] * output[1] + 2 * row * output[1] + 2 * column
}

fn check(
    path: Path,
    shape: &Shape,
    size: [usize; 2],
    planar: bool,
    spare: Halo,
    add: bool,
) -> Result<(), TestCaseError> {
    let output = shape.window.output;
    let pooled = output.map(|outputs| outputs / 2);
    let x_maps = Maps::new(shape.ins, size).with_halo(shape.input_halo(size)).with_halo(spare);
    let x_maps = if planar { x_maps.planar() } else { x_maps };
    let y_maps = Maps::new(shape.outs, pooled).with_halo(spare);
    let dx_maps = Maps::new(shape.ins, size).with_halo(spare);
    let x = whole("x", shape.ins * size[0] * size[1]);
    let weights = whole("weights", shape.outs * shape.ins * shape.window.taps());
    let bias = whole("bias", shape.outs.next_multiple_of(LANES));
    let dy = whole("dy", shape.outs * pooled[0] * pooled[1]);

    // The layers by their definitions, and the gradients by the chain rule.
    let outputs = shape.outs * shape.window.outputs();
    let sums = convolve(shape, size, &x, &weights, &bias, &vec![0.0; outputs]).y;
    let (mut y, mut won, mut db) = (Vec::new(), Vec::new(), vec![0.0; shape.outs]);
    let mut dsums = vec![0.0; outputs];
    for (index, slope) in dy.iter().enumerate() {
        let first = window_at(index, pooled, output);
        let window = [first, first + 1, first + output[1], first + output[1] + 1];
        let most = window.iter().map(|at| sums[*at]).fold(f64::MIN, f64::max);
        let winner = window.iter().position(|at| sums[*at] == most).expect("one of them");
        y.push(most.max(0.0));
        won.push(if most > 0.0 { winner as u8 } else { DEAD });
        if most > 0.0 {
            dsums[window[winner]] = *slope;
            db[index / (pooled[0] * pooled[1])] += f64::from(*slope);
        }
    }
    let expected = convolve(shape, size, &x, &weights, &bias, &dsums);

    let forward = Forward::new(path, shape, x_maps, y_maps).expect("a plain convolution");
    let mut packed_weights = vec![0.0; forward.packing().len()];
    forward.packing().pack(&weights, &mut packed_weights);
    let x = packed(&x_maps, &x);
    let mut found = packed(&y_maps, &vec![9.0; dy.len()]);
    let mut winners = vec![7; forward.winners_len()];
    forward.run(&packed_weights, Some(&bias), &x, &mut found, &mut winners, &mut vec![f32::NAN; forward.scratch_len()]);
    close("y", &unpacked(&y_maps, &found), &y, 1.0, 1e-9)?;
    prop_assert_eq!(plain(&winners, &y_maps), won);
    prop_assert!(halo_is_clean(&y_maps, &found), "the halo was written");

    let backward = Backward::new(path, shape, x_maps, y_maps, (!planar).then_some(dx_maps));
    let backward = backward.expect("a kernel of this width");
    prop_assert_eq!(backward.packing(), forward.packing());
    let mut dy_maps = vec![0.0; y_maps.len()];
    y_maps.pack(&dy, &mut dy_maps);
    let mut transposed = vec![0.0; backward.transposed_len()];
    backward.transpose(&packed_weights, &mut transposed);
    let (mut sums, mut found_db) = (vec![0.0; backward.sums_len()], vec![1.0; bias.len()]);
    let before = vec![9.0; shape.ins * size[0] * size[1]];
    let mut dx = packed(&dx_maps, &before);
    let given = Given { x: &x, dy: &dy_maps, winners: &winners };
    let mut scratch = backward.scratch();
    // Twice: sums go on, and scratch that was used is as good as new.
    for _ in 0..2 {
        let input = (!planar).then(|| Input { transposed: &transposed, dx: &mut dx, add });
        backward.run(given, Some(Sums { dw: &mut sums, db: &mut found_db }), input, &mut scratch);
    }
    let mut dw = vec![0.0; backward.packing().len()];
    backward.finish(&mut sums, &mut dw);
    prop_assert!(sums.iter().all(|sum| *sum == 0.0), "the sums begin again");
    let mut found = vec![0.0; weights.len()];
    backward.packing().unpack(&dw, &mut found);
    close("dw", &found, &expected.dw.iter().map(|dw| 2.0 * dw).collect::<Vec<_>>(), 1.0, 1e-9)?;
    let mut again = vec![0.0; dw.len()];
    backward.packing().pack(&found, &mut again);
    prop_assert!(again == dw, "what stands for no weight has no gradient");
    let db: Vec<_> = db.iter().map(|db| 1.0 + 2.0 * db).collect();
    close("db", &found_db[..shape.outs], &db, 1.0, 1e-9)?;
    if !planar {
        let dx_expected: Vec<_> = expected.dx.iter().map(|dx| if add { 9.0 + 2.0 * dx } else { *dx }).collect();
        close("dx", &unpacked(&dx_maps, &dx), &dx_expected, 1.0, 1e-9)?;
        prop_assert!(halo_is_clean(&dx_maps, &dx), "the halo was written");
        // The gradient of the input alone is the same.
        let mut alone = packed(&dx_maps, &before);
        backward.run(given, None, Some(Input { transposed: &transposed, dx: &mut alone, add: false }), &mut scratch);
        close("dx", &unpacked(&dx_maps, &alone), &expected.dx, 1.0, 1e-9)?;
    }
    Ok(())
}

/// A plain window of a kernel, with padding up to the half of it, and at least two outputs.
fn windows(size: [usize; 2]) -> impl Strategy<Value = Window> {
    let widths = prop_oneof![Just(1usize), Just(3), Just(5), Just(7)];
    let padding = [0..=3usize, 0..=3usize, 0..=3usize, 0..=3usize];
    (1..=6usize, widths, padding).prop_filter_map("two outputs a side", move |(height, width, padding)| {
        let kernel = [height, width];
        let before = [padding[0].min(height / 2), padding[1].min(width / 2)];
        let mut output = [0; 2];
        for axis in 0..2 {
            let padded = size[axis] + before[axis] + padding[2 + axis].min(kernel[axis] / 2);
            output[axis] = (padded + 1).checked_sub(kernel[axis]).filter(|outputs| *outputs >= 2)?;
        }
        Some(Window { kernel, stride: [1, 1], before, dilation: [1, 1], output })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pooled_convolutions_match_the_reference(
        (size, window, ins, outs) in prop_oneof![
            // Small maps, tall ones of several strips, and channels of several chunks.
            3 => ([2..=12usize, 2..=12usize], 1..=36usize, 1..=40usize),
            1 => ([24..=44usize, 8..=24usize], 1..=18usize, 1..=8usize),
            1 => ([2..=6usize, 2..=6usize], 1..=36usize, 90..=150usize),
        ].prop_flat_map(|(size, ins, outs)| (Just(size), windows(size), Just(ins), Just(outs))),
        planar: bool,
        spare in spare(),
        add: bool,
    ) {
        let shape = Shape { ins: if planar { ins.min(6) } else { ins }, outs, groups: 1, window };
        for path in Path::available() {
            check(path, &shape, size, planar, spare, add)?;
        }
    }
}

#[test]
fn the_usual_shapes_match_the_reference() {
    for (ins, outs, size, kernel) in [(1, 32, 28, 5), (32, 64, 14, 5), (3, 32, 32, 3), (32, 64, 16, 3), (16, 16, 64, 3)]
    {
        let shape = Shape { ins, outs, groups: 1, window: Window::same([kernel; 2], [size; 2]) };
        for path in Path::available() {
            check(path, &shape, [size; 2], ins < 8, Halo::default(), false).expect("as the reference");
        }
    }
}

#[test]
fn what_is_not_a_number_stays_so() {
    let shape = Shape { ins: 16, outs: 16, groups: 1, window: Window::same([1, 1], [2, 2]) };
    let (x_maps, y_maps) = (Maps::new(16, [2, 2]), Maps::new(16, [1, 1]));
    for path in Path::available() {
        let forward = Forward::new(path, &shape, x_maps, y_maps).expect("a plain convolution");
        for place in 0..4 {
            for other in [-1.0, 0.0, 1.0, f32::INFINITY, f32::NEG_INFINITY] {
                let mut x = vec![other; x_maps.len()];
                x[place * LANES..][..LANES].fill(f32::NAN);
                let (mut y, mut winners) = (vec![0.0; LANES], vec![0; LANES]);
                let weights = vec![1.0; forward.packing().len()];
                forward.run(&weights, None, &x, &mut y, &mut winners, &mut vec![f32::NAN; forward.scratch_len()]);
                assert!(y.iter().all(|y| y.is_nan()), "{path:?}, {place}, {other}: {y:?}");
                assert!(winners.iter().all(|winner| *winner < DEAD), "{path:?}, {place}, {other}: {winners:?}");
            }
        }
    }
}

#[test]
fn no_kernel_for_what_it_cannot_do() {
    let maps = |window: &Window| Maps::new(16, window.output.map(|outputs| outputs / 2));
    let same = Window::same([3, 3], [8, 8]);
    for (window, groups, forward, backward) in [
        (same, 1, true, true),
        (same, 2, false, false),
        (Window { stride: [2, 2], output: [4, 4], ..same }, 1, false, false),
        (Window { output: [1, 8], ..same }, 1, false, false),
        (Window { kernel: [3, 2], ..same }, 1, true, false),
    ] {
        let shape = Shape { ins: 16, outs: 16, groups, window };
        let x = Maps::new(16, [8, 8]).with_halo(shape.input_halo([8, 8]));
        assert_eq!(Forward::new(Path::Portable, &shape, x, maps(&window)).is_some(), forward);
        assert_eq!(Backward::new(Path::Portable, &shape, x, maps(&window), Some(x)).is_some(), backward);
    }
}
