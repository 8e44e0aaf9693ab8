//! Kernels on random shapes, on every path of this machine, against scalar loops in `f64`.

mod activation;
mod bf16;
mod copy;
mod dense;
mod depthwise;
mod int8;
mod inverted;
mod linear;
mod norm;
mod optimizer;
mod pool;
mod pooled;
pub(crate) mod reference;
mod softmax;
mod winograd;

use std::ops::RangeInclusive;

use proptest::prelude::*;

use crate::kernels::dense::Finish;
use crate::maps::{Halo, Maps};
use crate::simd::LANES;
use crate::window::Window;

/// Numbers between -1 and 1 that a name stands for.
pub(crate) fn noise(name: &str, count: usize) -> Vec<f32> {
    // An xorshift is enough: all that is asked is that neighbours differ.
    let mut state = name.bytes().fold(0x9e37_79b9_7f4a_7c15_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(17)
    });
    let next = move |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(next).collect()
}

/// What becomes of sums with `before` in their place.
pub(crate) fn finished(sums: &[f64], before: &[f32], finish: Finish) -> Vec<f64> {
    let one = |(sum, before): (&f64, &f32)| {
        let sum = if finish.add { sum + f64::from(*before) } else { *sum };
        finish.clamp.map_or(sum, |[low, high]| sum.max(low.into()).min(high.into()))
    };
    sums.iter().zip(before).map(one).collect()
}

/// A window that fits into `input`, with as many outputs as it gives.
pub(crate) fn window(
    input: [usize; 2],
    kernels: RangeInclusive<usize>,
    dilated: bool,
) -> impl Strategy<Value = Window> {
    let along = move |size: usize| {
        let dilation = if dilated { 1..=3usize } else { 1..=1 };
        (kernels.clone(), 1..=3usize, dilation, 0..=2usize, 0..=2usize).prop_map(move |drawn| {
            let (mut kernel, stride, mut dilation, before, after) = drawn;
            loop {
                // Padding below and right is what the number of outputs implies.
                let (before, after) = (before.min(kernel / 2), after.min(kernel / 2));
                let reach = (kernel - 1) * dilation + 1;
                if let Some(room) = (size + before + after).checked_sub(reach) {
                    return (kernel, stride, dilation, before, room / stride + 1);
                }
                if dilation > 1 {
                    dilation -= 1;
                } else {
                    kernel -= 1;
                }
            }
        })
    };
    (along(input[0]), along(input[1])).prop_map(|(a, b)| Window {
        kernel: [a.0, b.0],
        stride: [a.1, b.1],
        dilation: [a.2, b.2],
        before: [a.3, b.3],
        output: [a.4, b.4],
    })
}

/// A halo that a plan may choose beside what a kernel needs: other kernels read the same maps.
pub(crate) fn spare() -> impl Strategy<Value = Halo> {
    [0..=2usize, 0..=2usize, 0..=2usize, 0..=2usize].prop_map(|[a, b, c, d]| Halo { before: [a, b], after: [c, d] })
}

/// An example in maps whose lanes beyond the last channel hold what padding may hold: anything finite.
pub(crate) fn packed(maps: &Maps, values: &[f32]) -> Vec<f32> {
    let mut to = vec![0.0; maps.len()];
    for block in 0..maps.blocks() {
        for row in 0..maps.size[0] {
            for column in 0..maps.size[1] {
                let at = maps.at(block, row as isize, column as isize);
                to[at..at + maps.lanes].fill(0.25);
            }
        }
    }
    maps.pack(values, &mut to);
    to
}

/// A bias for every lane of every block.
pub(super) fn padded(bias: &[f32]) -> Vec<f32> {
    let mut bias = bias.to_vec();
    bias.resize(bias.len().next_multiple_of(LANES), 0.0);
    bias
}

/// The example in maps, `[C, H, W]`.
pub(crate) fn unpacked(maps: &Maps, from: &[f32]) -> Vec<f32> {
    let mut values = vec![0.0; maps.channels * maps.size[0] * maps.size[1]];
    maps.unpack(from, &mut values);
    values
}

/// Whether the halo is still zero.
pub(crate) fn halo_is_clean(maps: &Maps, from: &[f32]) -> bool {
    let mut rest = from[..maps.len()].to_vec();
    for block in 0..maps.blocks() {
        for row in 0..maps.size[0] {
            let start = maps.at(block, row as isize, 0);
            rest[start..start + maps.size[1] * maps.lanes].fill(0.0);
        }
    }
    rest.iter().all(|value| *value == 0.0)
}

/// Compares with a reference, relative to the size of what was summed.
pub(crate) fn close(
    what: &str,
    found: &[f32],
    expected: &[f64],
    scale: f64,
    tolerance: f64,
) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs() / scale.max(1.0);
        prop_assert!(error < tolerance, "{}[{}] is {}, not {}", what, index, found, expected);
    }
    Ok(())
}

/// An example's gradients in maps: zero in lanes beyond the last channel.
pub(super) fn packed_gradient(maps: &Maps, values: &[f32]) -> Vec<f32> {
    let mut to = vec![0.0; maps.len()];
    maps.pack(values, &mut to);
    to
}

/// Whether lanes beyond the last channel and the halo are zero, as in every gradient.
pub(super) fn padding_is_zero(maps: &Maps, from: &[f32]) -> bool {
    packed_gradient(maps, &unpacked(maps, from)) == from
}

/// Checks a reference's gradients: those of `sum(f(x) * dy)` by `x` are `dx`, as finite differences tell. `x` stays away from
/// where `f` has a kink.
pub(super) fn differences(x: &[f64], dx: &[f64], mut f: impl FnMut(&[f64]) -> f64) -> Result<(), TestCaseError> {
    let step = 1e-5;
    for index in 0..x.len() {
        let mut at = |step: f64| {
            let mut x = x.to_vec();
            x[index] += step;
            f(&x)
        };
        let slope = (at(step) - at(-step)) / (2.0 * step);
        let error = (slope - dx[index]).abs() / dx[index].abs().max(1.0);
        prop_assert!(error < 1e-6, "the reference's gradient [{}] is {}, by differences {}", index, dx[index], slope);
    }
    Ok(())
}

/// The same numbers in `f64`.
pub(super) fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// The sum of products.
pub(super) fn product(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Numbers between 0 and 1 that a name stands for.
pub(super) fn shares(name: &str, count: usize) -> Vec<f32> {
    noise(name, count).into_iter().map(f32::abs).collect()
}
