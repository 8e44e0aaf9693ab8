//! Values inside others: concatenations and sums that are not copied.

use proptest::prelude::*;

use super::{Builder, bits_by, check_outputs, values};
use crate::graph::{Activation, Op, Value};
use crate::kernels::tests::noise;
use crate::net::{Mode, Net, Purpose};
use crate::simd::Path;
use crate::window::Window;

/// A step of a random network: what it does, and to which of the values so far.
type Choice = (u8, [usize; 3]);

/// Networks whose values are read twice, put side by side in parts, again as parts of larger ones, added and overwritten.
fn network(choices: &[Choice], last: usize) -> Builder {
    let mut b = Builder::new(&[3, 5, 6]);
    let input = b.graph.input();
    let mut values: Vec<Value> = (0..2).map(|_| b.conv(input, 16, 3, 1, 1, true)).collect();
    for (what, at) in choices {
        let chosen = at.map(|index| values[index % values.len()]);
        let channels = |value: Value| b.graph.shape(value)[0];
        let alike = values.iter().copied().find(|value| *value != chosen[0] && channels(*value) == channels(chosen[0]));
        let value = match (what, alike) {
            (0, _) => b.conv(chosen[0], [16, 32, 20][at[1] % 3], [1, 3][at[2] % 2], 1, 1, true),
            (1 | 2, Some(other)) => {
                // As blocks of residual networks have it: a convolution to as many channels, and the sum.
                let count = channels(other);
                let x = b.conv(chosen[1], count, 3, 1, 1, *what == 1);
                let x = if *what == 2 { b.batch_norm(x) } else { x };
                let x = b.add(Op::Add, &[x, other]);
                if at[2].is_multiple_of(2) { b.relu(x) } else { x }
            }
            (3, Some(other)) => b.add(Op::Add, &[chosen[0], other]),
            (4, _) => b.add(Op::Concat, &chosen[..2]),
            (5, _) => b.add(Op::Concat, &chosen),
            (6, _) => b.activation(chosen[0], Activation::Relu6),
            (7 | 8, _) => {
                let x = inverted(&mut b, chosen[0]);
                match alike {
                    _ if *what == 7 => b.add(Op::Add, &[x, chosen[0]]),
                    Some(other) => b.add(Op::Add, &[x, other]),
                    None => x,
                }
            }
            _ => b.max_pool(chosen[0], 3, 1, 1),
        };
        // Sums of sums stay numbers that fp32 holds well.
        values.push(value);
        if b.graph.shape(value)[0] > 200 {
            break;
        }
    }
    let output = values[values.len() - 1 - last % 2];
    b.graph.set_output(output);
    b
}

/// An inverted residual to as many channels, without the sum.
fn inverted(b: &mut Builder, x: Value) -> Value {
    let channels = b.graph.shape(x)[0];
    let wide = b.conv(x, 40, 1, 1, 1, true);
    let wide = b.activation(wide, Activation::Relu6);
    let deep = b.conv(wide, 40, 3, 1, 40, false);
    let deep = b.batch_norm(deep);
    let deep = b.relu(deep);
    b.conv(deep, channels, 1, 1, 1, false)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 80, ..ProptestConfig::default() })]

    #[test]
    fn networks_of_parts(choices in prop::collection::vec((0..10u8, [0..8usize, 0..8usize, 0..8usize]), 1..12), last in 0..2usize) {
        check_outputs("a network of parts", &network(&choices, last).graph, 2);
    }
}

#[test]
fn what_a_sum_overwrites_may_be_part_of_what_is_read_later() {
    let mut b = Builder::new(&[3, 5, 6]);
    let input = b.graph.input();
    let one = b.conv(input, 16, 3, 1, 1, true);
    let two = b.conv(input, 16, 3, 1, 1, true);
    let both = b.add(Op::Concat, &[one, two]);
    let more = b.conv(one, 32, 3, 1, 1, true);
    let sum = b.add(Op::Add, &[more, both]);
    let late = b.conv(two, 32, 3, 1, 1, true);
    b.add(Op::Concat, &[sum, late]);
    check_outputs("parts of what a sum overwrites", &b.graph, 2);
}

#[test]
fn inverted_residuals() {
    // As MobileNetV2 begins: the first one with a convolution of the input, some with a stride, some with a sum.
    let mut b = Builder::new(&[3, 23, 22]);
    let x = b.conv(b.graph.input(), 20, 3, 2, 1, true);
    let x = b.activation(x, Activation::Relu6);
    let x = b.conv(x, 20, 3, 1, 20, true);
    let x = b.relu(x);
    let x = b.conv(x, 12, 1, 1, 1, true);
    let more = inverted(&mut b, x);
    let x = b.add(Op::Add, &[x, more]);
    let wide = b.conv(x, 70, 1, 1, 1, false);
    let wide = b.batch_norm(wide);
    let deep = b.conv(wide, 70, 5, 2, 70, true);
    let x = b.conv(deep, 24, 1, 1, 1, true);
    let more = inverted(&mut b, x);
    b.add(Op::Add, &[more, x]);
    check_outputs("inverted residuals", &b.graph, 3);
    let x = noise("x", 3 * 23 * 22);
    for path in Path::available() {
        let mut net = Net::new(&b.graph, 1, Purpose::Infer, path).expect("it fits");
        let is_inverted = |(name, _): &(&str, _)| name.matches("convolution").count() == 3;
        assert!(net.times().filter(is_inverted).count() == 4, "{net:?}");
        values(&b.graph).iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
        let mut bits = |threads: usize| bits_by(&mut net, &x, threads);
        let one = bits(1);
        assert!(
            [2, 3].into_iter().all(|threads| bits(threads) == one),
            "other bits by more threads on {}",
            path.name()
        );
    }
}

#[test]
fn concatenations_that_grow() {
    // As in densely connected networks (Huang et al. 2017).
    let mut b = Builder::new(&[3, 5, 6]);
    let mut features = vec![b.conv(b.graph.input(), 32, 3, 1, 1, true)];
    for _ in 0..3 {
        let x = b.add(Op::Concat, &features);
        let x = b.batch_norm(x);
        let x = b.relu(x);
        features.push(b.conv(x, 16, 3, 1, 1, false));
    }
    b.add(Op::Concat, &features);
    check_outputs("concatenations that grow", &b.graph, 3);
}

#[test]
fn stems() {
    // Pools with and without padding, that reach beyond the last row, skip rows, and have rows between those they see.
    let pools = [
        ([3, 2, 0], 1, 0),
        ([3, 2, 1], 1, 0),
        ([2, 2, 0], 1, 1),
        ([2, 3, 0], 1, 0),
        ([3, 1, 1], 2, 0),
        ([5, 4, 2], 1, 1),
    ];
    for (number, ([kernel, stride, before], dilation, beyond)) in pools.into_iter().enumerate() {
        let mut b = Builder::new(&[[3, 16][number % 2], 141, 117]);
        let x = b.conv(b.graph.input(), 33, 3, 2, 1, true);
        let x = if number == 3 { x } else { b.relu(x) };
        let window = b.window(x, 1 + (kernel - 1) * dilation, stride, before);
        let window = Window {
            kernel: [kernel; 2],
            dilation: [dilation; 2],
            output: window.output.map(|size| size + beyond),
            ..window
        };
        let x = b.add(Op::MaxPool(window), &[x]);
        b.conv(x, 5, 1, 1, 1, true);
        for path in Path::available() {
            let outputs = |purpose: Purpose, threads: usize, examples: usize| {
                crate::set_threads(threads);
                let mut net = Net::new(&b.graph, 2, purpose, path).expect("it fits");
                let stages = net.times().filter(|(name, _)| name.contains("; max-pool")).count();
                assert_eq!(stages, usize::from(purpose == Purpose::Infer), "{net:?}");
                values(&b.graph).iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
                for example in 0..examples {
                    net.set_input(
                        example,
                        &noise(&format!("x {example}"), b.graph.shape(b.graph.input()).iter().product()),
                    );
                }
                net.forward(examples, &Mode::Infer);
                net.outputs(examples).into_iter().map(f32::to_bits).collect::<Vec<u32>>()
            };
            let whole = outputs(Purpose::Observe, 1, 2);
            for threads in [1, 2, 3] {
                let name = format!("pool {number} on {}, {threads} threads", path.name());
                assert_eq!(outputs(Purpose::Infer, threads, 2), whole, "{name}");
                assert_eq!(outputs(Purpose::Infer, threads, 1), whole[..whole.len() / 2], "{name}, alone");
            }
        }
    }
}
