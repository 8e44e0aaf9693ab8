use proptest::prelude::*;

use super::{
    close, differences, halo_is_clean, noise, packed, packed_gradient, padding_is_zero, product, spare, unpacked, wide,
};
use crate::kernels::norm::{Backward, Constants, ElementNorm, GroupNorm, Mask, Moments, Normalise, Slopes};
use crate::kernels::view::View;
use crate::maps::{Halo, Maps};
use crate::simd::Path;

const EPSILON: f64 = 1e-5;

/// What a normalisation of a batch `[N, C, plane]` gives, and the gradients.
#[derive(Default)]
struct Normed {
    mean: Vec<f64>,
    variance: Vec<f64>,
    y: Vec<f64>,
    dx: Vec<f64>,
    dw: Vec<f64>,
    db: Vec<f64>,
    /// The gradient behind relu's mask.
    masked: Vec<f64>,
}

/// Normalises sets of elements that `set` numbers, with weights that `weight` numbers, then adds a residual and applies relu.
struct Reference<'a> {
    sets: usize,
    set: &'a dyn Fn(usize) -> usize,
    weight: &'a dyn Fn(usize) -> usize,
    relu: bool,
}

impl Reference<'_> {
    fn of(&self, x: &[f64], w: &[f64], b: &[f64], residual: Option<&[f64]>, dy: &[f64]) -> Normed {
        let mut all =
            Normed { dw: vec![0.0; w.len()], db: vec![0.0; w.len()], dx: vec![0.0; x.len()], ..Normed::default() };
        let mut normal = vec![0.0; x.len()];
        for set in 0..self.sets {
            let members: Vec<usize> = (0..x.len()).filter(|index| (self.set)(*index) == set).collect();
            let count = members.len() as f64;
            let mean = members.iter().map(|index| x[*index]).sum::<f64>() / count;
            let variance = members.iter().map(|index| (x[*index] - mean).powi(2)).sum::<f64>() / count;
            members.iter().for_each(|index| normal[*index] = (x[*index] - mean) / (variance + EPSILON).sqrt());
            all.mean.push(mean);
            all.variance.push(variance);
        }
        for index in 0..x.len() {
            let weight = (self.weight)(index);
            let sum = normal[index] * w[weight] + b[weight] + residual.map_or(0.0, |residual| residual[index]);
            all.y.push(if self.relu { sum.max(0.0) } else { sum });
            all.masked.push(if self.relu && sum <= 0.0 { 0.0 } else { dy[index] });
            all.dw[weight] += all.masked[index] * normal[index];
            all.db[weight] += all.masked[index];
        }
        for set in 0..self.sets {
            let members: Vec<usize> = (0..x.len()).filter(|index| (self.set)(*index) == set).collect();
            let count = members.len() as f64;
            let slope = |index: usize| all.masked[index] * w[(self.weight)(index)];
            let plain = members.iter().map(|index| slope(*index)).sum::<f64>() / count;
            let along = members.iter().map(|index| slope(*index) * normal[*index]).sum::<f64>() / count;
            let scale = 1.0 / (all.variance[set] + EPSILON).sqrt();
            for index in members {
                all.dx[index] = scale * (slope(index) - plain - normal[index] * along);
            }
        }
        all
    }
}

/// Examples' numbers as they lie in an operand: maps one after another, or rows.
fn to(maps: Option<&Maps>, examples: usize, values: &[f32], gradient: bool) -> Vec<f32> {
    let Some(maps) = maps else { return values.to_vec() };
    let pack = if gradient { packed_gradient } else { packed };
    values.chunks(values.len() / examples).flat_map(|values| pack(maps, values)).collect()
}
fn back(maps: Option<&Maps>, values: &[f32]) -> Vec<f32> {
    let Some(maps) = maps else { return values.to_vec() };
    values.chunks(maps.len()).flat_map(|values| unpacked(maps, values)).collect()
}

/// A batch norm's case.
#[derive(Debug, Clone)]
struct Case {
    is_maps: bool,
    examples: usize,
    channels: usize,
    size: [usize; 2],
    halos: [Halo; 3],
    relu: bool,
    residual: bool,
    add: bool,
    /// Added to all elements: a mean that is large beside the deviation.
    mean: f32,
}

fn batch(case: &Case) -> Result<(), TestCaseError> {
    let Case { is_maps, examples, channels, size, halos, relu, residual, add, mean } = case.clone();
    let plane = if is_maps { size[0] * size[1] } else { 1 };
    let count = examples * channels * plane;
    let x: Vec<f32> = noise("x", count).into_iter().map(|x| x * 2.0 + mean).collect();
    let (dy, before, added) = (noise("dy", count), noise("before", count), noise("residual", count));
    let (weight, bias) = (noise("weight", channels), noise("bias", channels));
    let channel = |index: usize| index / plane % channels;
    let reference = Reference { sets: channels, set: &channel, weight: &channel, relu };
    let wide_added = wide(&added);
    let expected = reference.of(&wide(&x), &wide(&weight), &wide(&bias), residual.then_some(&wide_added), &wide(&dy));
    // Next to relu's kink the mask is chance.
    let scale = expected.variance.iter().fold(1.0, |most: f64, variance| most.max(1.0 / (variance + EPSILON).sqrt()));
    let kink = expected.y.iter().any(|y| *y > 0.0 && *y < 1e-5 * scale);

    let map = halos.map(|halo| is_maps.then(|| Maps::new(channels, size).with_halo(halo)));
    let view = map.map(|maps| maps.as_ref().map_or(View::rows(examples, channels), View::maps));
    let parts = if is_maps { examples } else { 1 };
    for path in Path::available() {
        let [x, added] = [(0, &x), (1, &added)].map(|(i, values)| to(map[i].as_ref(), examples, values, false));
        let len = [0, 1, 2].map(|i: usize| map[i].map_or(count, |maps: Maps| maps.len()));
        let example = |i: usize, example: usize| example * len[i]..(example + 1) * len[i];

        let moments = Moments::new(path, view[0]);
        let mut sums = vec![0.0; parts * moments.len()];
        for (index, part) in sums.chunks_mut(moments.len()).enumerate() {
            moments.run(&x[example(0, index)], part);
        }
        let statistics = moments.merge(&sums);
        prop_assert_eq!(statistics.count, count / channels);
        for channel in 0..channels {
            let error = [
                (statistics.mean[channel] - expected.mean[channel]).abs(),
                (statistics.variance[channel] - expected.variance[channel]).abs() / (expected.variance[channel] + 1e-3),
            ];
            prop_assert!(error[0] < 1e-6 && error[1] < 1e-6, "statistics are off by {:?}", error);
        }

        let constants = Constants::new(&statistics, EPSILON, &weight, &bias);
        let normalise = Normalise::new(path, view[0], residual.then_some(view[1]), view[2], relu);
        let mut y = to(map[2].as_ref(), examples, &before, false);
        for index in 0..parts {
            let added = residual.then(|| &added[example(1, index)]);
            normalise.run(&constants, Some(&x[example(0, index)]), added, &mut y[example(2, index)]);
        }
        close("y", &back(map[2].as_ref(), &y), &expected.y, scale, 2e-6)?;
        if kink {
            continue;
        }

        let mask = match (relu, residual) {
            (false, _) => Mask::None,
            (true, false) => Mask::Argument,
            (true, true) => Mask::Result,
        };
        let backward = Backward::new(path, view[0], view[2], view[1], view[2], mask);
        let mut slopes_y = to(map[1].as_ref(), examples, &dy, true);
        let mut sums = vec![0.0; parts * backward.len()];
        for (index, part) in sums.chunks_mut(backward.len()).enumerate() {
            let (x, dy) = (&x[example(0, index)], &mut slopes_y[example(1, index)]);
            match mask {
                Mask::Result => backward.masked_sums(&constants, x, &y[example(2, index)], dy, part),
                _ => backward.sums(&constants, x, dy, part),
            }
        }
        if mask == Mask::Result {
            close("masked", &back(map[1].as_ref(), &slopes_y), &expected.masked, 1.0, 1e-9)?;
        }
        let slopes = Slopes::new(&constants, statistics.count, &sums);
        let terms = (statistics.count as f64).sqrt();
        close("dw", &slopes.weight, &expected.dw, terms * scale, 2e-6)?;
        close("db", &slopes.bias, &expected.db, terms, 2e-6)?;

        let mut dx = to(map[2].as_ref(), examples, &before, add);
        for index in 0..parts {
            let (x, dy) = (&x[example(0, index)], Some(&slopes_y[example(1, index)]));
            backward.input(&constants, &slopes, x, dy, &mut dx[example(2, index)], add);
        }
        let sums = expected.dx.iter().zip(&before).map(|(dx, before)| dx + if add { f64::from(*before) } else { 0.0 });
        close("dx", &back(map[2].as_ref(), &dx), &sums.collect::<Vec<_>>(), scale * scale, 4e-6)?;
        let in_place = Backward::new(path, view[0], view[2], view[1], view[1], mask);
        for index in 0..parts {
            in_place.input(&constants, &slopes, &x[example(0, index)], None, &mut slopes_y[example(1, index)], false);
        }
        prop_assert!(add || back(map[1].as_ref(), &slopes_y) == back(map[2].as_ref(), &dx), "also in place");
        if let [_, Some(dy_maps), Some(maps)] = map {
            for index in 0..examples {
                prop_assert!(halo_is_clean(&maps, &y[example(2, index)]), "the halo was written");
                prop_assert!(
                    padding_is_zero(&maps, &dx[example(2, index)]),
                    "gradients behind the last channel are zero"
                );
                prop_assert!(
                    padding_is_zero(&dy_maps, &slopes_y[example(1, index)]),
                    "gradients behind the last channel"
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn batch_norm_matches_the_reference(
        is_maps: bool,
        examples in 1..=4usize,
        channels in 1..=36usize,
        size in prop_oneof![4 => [1..=6usize, 1..=6usize], 1 => [1..=20usize, 10..=30usize]],
        halos in [spare(), spare(), spare()],
        [relu, residual, add] in [any::<bool>(), any::<bool>(), any::<bool>()],
        mean in prop_oneof![Just(0.0f32), Just(-3.0), Just(100.0)],
    ) {
        // A channel of one element has no deviation: its scale is all rounding.
        let examples = if is_maps && size[0] * size[1] > 3 { examples } else { examples + 3 };
        batch(&Case { is_maps, examples, channels, size, halos, relu, residual, add, mean })?;
    }

    #[test]
    fn group_norm_matches_the_reference(
        groups in 1..=5usize,
        per_group in 1..=9usize,
        size in [2..=6usize, 2..=6usize],
        halos in [spare(), spare()],
        add: bool,
        mean in prop_oneof![Just(0.0f32), Just(50.0)],
    ) {
        let (channels, plane) = (groups * per_group, size[0] * size[1]);
        let x: Vec<f32> = noise("x", channels * plane).into_iter().map(|x| x * 2.0 + mean).collect();
        let (dy, before) = (noise("dy", x.len()), noise("before", x.len()));
        let (weight, bias) = (noise("weight", channels), noise("bias", channels));
        let (set, of) = (|index: usize| index / (per_group * plane), |index: usize| index / plane);
        let reference = Reference { sets: groups, set: &set, weight: &of, relu: false };
        let expected = reference.of(&wide(&x), &wide(&weight), &wide(&bias), None, &wide(&dy));
        let scale = expected.variance.iter().fold(1.0, |most: f64, variance| most.max(1.0 / variance.sqrt()));
        let maps = halos.map(|halo| Maps::new(channels, size).with_halo(halo));
        let views = maps.map(|maps| View::maps(&maps));
        for path in Path::available() {
            let norm = GroupNorm::new(path, groups, EPSILON, views, views);
            let mut kept = vec![0.0; norm.kept()];
            let packed_x = packed(&maps[0], &x);
            let mut y = packed(&maps[1], &before);
            norm.forward(&weight, &bias, &packed_x, &mut y, &mut kept);
            close("y", &unpacked(&maps[1], &y), &expected.y, scale, 2e-6)?;
            prop_assert!(halo_is_clean(&maps[1], &y), "the halo was written");
            let mut dx = if add { packed_gradient(&maps[0], &before) } else { packed(&maps[0], &before) };
            let mut part = vec![0.0; 2 * channels];
            norm.backward(&weight, &kept, &packed_x, Some(&packed_gradient(&maps[1], &dy)), &mut dx, add, &mut part);
            let part: Vec<f32> = part.iter().map(|sum| *sum as f32).collect();
            close("dw", &part[..channels], &expected.dw, scale * (plane as f64).sqrt(), 2e-6)?;
            close("db", &part[channels..], &expected.db, (plane as f64).sqrt(), 2e-6)?;
            let sums = expected.dx.iter().zip(&before).map(|(dx, before)| dx + if add { f64::from(*before) } else { 0.0 });
            close("dx", &unpacked(&maps[0], &dx), &sums.collect::<Vec<_>>(), scale * scale, 4e-6)?;
            prop_assert!(padding_is_zero(&maps[0], &dx), "gradients behind the last channel are zero");
        }
    }

    #[test]
    fn layer_norm_matches_the_reference(
        is_maps: bool,
        channels in 4..=70usize,
        size in [1..=6usize, 1..=6usize],
        halos in [spare(), spare(), spare()],
        add: bool,
        mean in prop_oneof![Just(0.0f32), Just(50.0)],
    ) {
        let count = channels * if is_maps { size[0] * size[1] } else { 1 };
        let x: Vec<f32> = noise("x", count).into_iter().map(|x| x * 2.0 + mean).collect();
        let (dy, before) = (noise("dy", count), noise("before", count));
        let (weight, bias) = (noise("weight", count), noise("bias", count));
        let reference = Reference { sets: 1, set: &|_| 0, weight: &|index| index, relu: false };
        let expected = reference.of(&wide(&x), &wide(&weight), &wide(&bias), None, &wide(&dy));
        let scale = expected.variance.iter().fold(1.0, |most: f64, variance| most.max(1.0 / variance.sqrt()));
        let map = halos.map(|halo| is_maps.then(|| Maps::new(channels, size).with_halo(halo)));
        let view = map.map(|maps| maps.as_ref().map_or(View::rows(1, channels), View::maps));
        let to = |i: usize, values: &[f32], gradient: bool| to(map[i].as_ref(), 1, values, gradient);
        for path in Path::available() {
            let norm = ElementNorm::new(path, EPSILON, view[2], [view[0], view[1]], [view[0], view[1]]);
            let (weights, biases, inputs) = (to(2, &weight, false), to(2, &bias, false), to(0, &x, false));
            let mut y = to(1, &before, false);
            let kept = norm.forward(&weights, &biases, &inputs, &mut y);
            close("y", &back(map[1].as_ref(), &y), &expected.y, scale, 2e-6)?;
            let (mut dw, mut db) = (to(2, &before, true), to(2, &before, true));
            let mut dx = to(0, &before, add);
            norm.backward(&weights, kept, &inputs, Some(&to(1, &dy, true)), &mut dx, add, &mut dw, &mut db);
            let plus = |sums: &[f64], add: bool| -> Vec<f64> {
                sums.iter().zip(&before).map(|(sum, before)| sum + if add { f64::from(*before) } else { 0.0 }).collect()
            };
            close("dw", &back(map[2].as_ref(), &dw), &plus(&expected.dw, true), scale, 4e-6)?;
            close("db", &back(map[2].as_ref(), &db), &plus(&expected.db, true), 1.0, 2e-6)?;
            close("dx", &back(map[0].as_ref(), &dx), &plus(&expected.dx, add), scale * scale, 4e-6)?;
            if let [Some(x_maps), Some(y_maps), Some(maps)] = map {
                prop_assert!(halo_is_clean(&y_maps, &y), "the halo was written");
                prop_assert!(padding_is_zero(&x_maps, &dx) && padding_is_zero(&maps, &dw), "gradients of padding are zero");
            }
        }
    }
}

#[test]
fn the_references_gradients_are_those_of_differences() {
    let (channels, plane) = (4, 5);
    let x = wide(&noise("x", 2 * channels * plane));
    let (dy, added) = (wide(&noise("dy", x.len())), wide(&noise("residual", x.len())));
    let (w, b) = (wide(&noise("weight", channels)), wide(&noise("bias", channels)));
    let channel = |index: usize| index / plane % channels;
    let pair = |index: usize| index / (2 * plane);
    for (sets, set) in [(4, &channel as &dyn Fn(usize) -> usize), (4, &pair), (1, &|_| 0)] {
        for relu in [false, true] {
            let reference = Reference { sets, set, weight: &channel, relu };
            let all = reference.of(&x, &w, &b, Some(&added), &dy);
            let sum = |x: &[f64], w: &[f64], b: &[f64], added: &[f64]| {
                product(&reference.of(x, w, b, Some(added), &dy).y, &dy)
            };
            differences(&x, &all.dx, |x| sum(x, &w, &b, &added)).expect("the input's gradient");
            differences(&w, &all.dw, |w| sum(&x, w, &b, &added)).expect("the weight's gradient");
            differences(&b, &all.db, |b| sum(&x, &w, b, &added)).expect("the bias's gradient");
            differences(&added, &all.masked, |added| sum(&x, &w, &b, added)).expect("the residual's gradient");
        }
    }
}
