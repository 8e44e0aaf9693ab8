//! Networks by bytes beside the same in fp32.

use crate::graph::{Activation, Graph, Op};
use crate::kernels::tests::noise;
use crate::net::{Mode, Net, Precision, Purpose, Ranges};
use crate::simd::Path;
use crate::window::Window;

use super::{Builder, values};

const EXAMPLES: usize = 4;

/// Convolutions of many kinds around a sum, as in a residual network: the sum's terms have codes of their own.
fn residual() -> Graph {
    let mut builder = Builder::new(&[3, 24, 20]);
    let x = builder.conv(builder.graph.input(), 32, 3, 2, 1, true);
    let x = builder.relu(x);
    let x = builder.max_pool(x, 3, 2, 1);
    let short = builder.conv(x, 48, 1, 1, 1, false);
    let short = builder.batch_norm(short);
    let long = builder.conv(x, 24, 1, 1, 1, true);
    let long = builder.relu(long);
    let long = builder.conv(long, 48, 3, 1, 1, false);
    let long = builder.batch_norm(long);
    let sum = builder.add(Op::Add, &[long, short]);
    let x = builder.relu(sum);
    let again = builder.conv(x, 48, 3, 1, 1, true);
    let x = builder.add(Op::Add, &[again, x]);
    let x = builder.relu(x);
    let x = builder.add(Op::GlobalAvgPool, &[x]);
    builder.linear(x, 10);
    builder.graph
}

/// Pieces side by side, with pools of both kinds, and no linear layer at the end.
fn fire() -> Graph {
    let mut builder = Builder::new(&[3, 23, 19]);
    let x = builder.conv(builder.graph.input(), 32, 3, 1, 1, true);
    let x = builder.relu(x);
    let (one, three) = (builder.conv(x, 16, 1, 1, 1, true), builder.conv(x, 32, 3, 1, 1, true));
    let (one, three) = (builder.relu(one), builder.relu(three));
    let window = builder.window(x, 3, 1, 1);
    let mean = builder.add(Op::AvgPool { window, count_padding: true }, &[x]);
    let mean = builder.conv(mean, 16, 1, 1, 1, false);
    let x = builder.add(Op::Concat, &[one, three, mean]);
    let x = builder.max_pool(x, 2, 2, 0);
    let x = builder.conv(x, 10, 1, 1, 1, true);
    builder.add(Op::GlobalAvgPool, &[x]);
    builder.graph
}

/// Depthwise convolutions between narrow layers without a bound, as in MobileNetV2, whose values have a sign.
fn inverted() -> Graph {
    let mut builder = Builder::new(&[3, 21, 26]);
    let x = builder.conv(builder.graph.input(), 24, 3, 2, 1, false);
    let x = builder.batch_norm(x);
    let mut x = builder.activation(x, Activation::Relu6);
    for (stride, is_sum) in [(1, false), (1, true), (2, false)] {
        let wide = builder.conv(x, 72, 1, 1, 1, false);
        let wide = builder.batch_norm(wide);
        let wide = builder.activation(wide, Activation::Relu6);
        let wide = builder.conv(wide, 72, if stride == 1 { 3 } else { 5 }, stride, 72, false);
        let wide = builder.batch_norm(wide);
        let wide = builder.activation(wide, Activation::Relu6);
        let narrow = builder.conv(wide, 24, 1, 1, 1, false);
        let narrow = builder.batch_norm(narrow);
        x = if is_sum { builder.add(Op::Add, &[narrow, x]) } else { narrow };
    }
    let x = builder.conv(x, 64, 1, 1, 1, true);
    let x = builder.activation(x, Activation::HardSwish);
    let x = builder.conv(x, 32, 3, 1, 2, true);
    let x = builder.add(Op::GlobalAvgPool, &[x]);
    builder.linear(x, 10);
    builder.graph
}

/// A sum of values without a sign in a sum of values with one: zero is another byte in each, and a window with a halo reads the inner one's term.
fn sums() -> Graph {
    let mut builder = Builder::new(&[16, 7, 6]);
    let x = builder.conv(builder.graph.input(), 32, 1, 1, 1, true);
    let mut x = builder.relu(x);
    for is_last in [false, true] {
        let long = builder.conv(x, 32, 3, 1, 1, true);
        let long = builder.relu(long);
        let long = builder.conv(long, 32, 1, 1, 1, true);
        let inner = builder.add(Op::Add, &[long, x]);
        let inner = builder.relu(inner);
        let long = builder.conv(inner, 32, 1, 1, 1, true);
        let long = builder.relu(long);
        let long = builder.conv(long, 32, 1, 1, 1, true);
        let sum = builder.add(Op::Add, &[long, inner]);
        x = builder.conv(sum, 32, 1, 1, 1, true);
        if !is_last {
            x = builder.relu(x);
        }
    }
    builder.add(Op::GlobalAvgPool, &[x]);
    builder.graph
}

fn networks() -> [(&'static str, Graph); 4] {
    [("residual", residual()), ("fire", fire()), ("inverted", inverted()), ("sums", sums())]
}

fn example(graph: &Graph, number: usize) -> Vec<f32> {
    noise(&format!("example {number}"), graph.shape(graph.input()).iter().product())
}

fn set(net: &mut Net, graph: &Graph) {
    values(graph).iter().enumerate().for_each(|(index, values)| net.set_parameter(index, values));
}

/// The network in fp32, and by bytes with ranges of some examples.
fn both(graph: &Graph, path: Path) -> [Net; 2] {
    let [mut full, mut observer] = [Purpose::Infer, Purpose::Observe].map(|purpose| {
        let mut net = Net::new(graph, EXAMPLES, purpose, path).expect("a plan");
        set(&mut net, graph);
        net
    });
    let mut ranges = Ranges::new();
    for first in [0, EXAMPLES] {
        let examples: Vec<_> = (first..first + EXAMPLES).map(|number| example(graph, number)).collect();
        examples.iter().enumerate().for_each(|(number, example)| observer.set_input(number, example));
        observer.observe(EXAMPLES, &mut ranges);
        assert_eq!(observer.outputs(EXAMPLES), outputs(&mut full, &examples));
    }
    let mut short = Net::quantized(graph, EXAMPLES, path, &ranges).expect("a plan");
    set(&mut short, graph);
    [full, short]
}

fn outputs(net: &mut Net, examples: &[Vec<f32>]) -> Vec<f32> {
    examples.iter().enumerate().for_each(|(number, example)| net.set_input(number, example));
    net.forward(examples.len(), &Mode::Infer);
    net.outputs(examples.len())
}

#[test]
fn outputs_are_near_those_of_fp32() {
    for path in Path::available() {
        for (name, graph) in networks() {
            let [mut full, mut short] = both(&graph, path);
            let examples: Vec<_> = (20..20 + EXAMPLES).map(|number| example(&graph, number)).collect();
            let (expected, found) = (outputs(&mut full, &examples), outputs(&mut short, &examples));
            if !path.has_int8() {
                assert_eq!(short.precision(), Precision::Fp32);
                assert_eq!(found, expected, "{name} on {path:?}");
                continue;
            }
            assert_eq!(short.precision(), Precision::Int8);
            // Beside one that leaves no value out either.
            let whole = Net::new(&graph, EXAMPLES, Purpose::Observe, path).expect("a plan").bytes();
            assert!(short.bytes() < whole, "{name}: {} bytes of values, {whole} in fp32", short.bytes());
            let scale = expected.iter().fold(0.0_f32, |most, y| most.max(y.abs()));
            let error = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max) / scale;
            assert!(error > 0.0 && error < 0.05, "{name}: {error} of the largest output");
        }
    }
}

#[test]
fn bits_depend_on_no_company_and_no_thread() {
    for (name, graph) in networks() {
        let [_, mut net] = both(&graph, Path::best());
        let examples: Vec<_> = (0..EXAMPLES).map(|number| example(&graph, number)).collect();
        let all = outputs(&mut net, &examples);
        assert_eq!(outputs(&mut net, &examples), all, "{name}: a second pass finds what a first one left");
        let each = all.len() / EXAMPLES;
        for (number, example) in examples.iter().enumerate() {
            let alone = outputs(&mut net, std::slice::from_ref(example));
            assert_eq!(alone, all[number * each..][..each], "{name}: example {number}");
        }
        for threads in [2, 3] {
            crate::set_threads(threads);
            assert_eq!(outputs(&mut net, &examples), all, "{name} on {threads} threads");
            assert_eq!(outputs(&mut net, &examples[1..2]), all[each..2 * each], "{name}, one on {threads} threads");
        }
        crate::set_threads(1);
    }
}

#[test]
fn what_is_not_finite_spoils_its_own_example_alone() {
    for (name, graph) in networks() {
        let [_, mut net] = both(&graph, Path::best());
        let mut examples: Vec<_> = (0..EXAMPLES).map(|number| example(&graph, number)).collect();
        let before = outputs(&mut net, &examples);
        let each = before.len() / EXAMPLES;
        for odd in [f32::NAN, f32::INFINITY] {
            examples[1][57] = odd;
            let after = outputs(&mut net, &examples);
            for (number, (before, after)) in before.chunks(each).zip(after.chunks(each)).enumerate() {
                if number == 1 {
                    assert!(after.iter().any(|y| !y.is_finite()), "{name}: {odd} is lost");
                } else {
                    assert_eq!(before, after, "{name}: example {number}");
                }
            }
        }
        // What is far outside of the range that was seen is cut off.
        examples[1][57] = 1e30;
        assert!(outputs(&mut net, &examples).iter().all(|y| y.is_finite()), "{name}");
    }
}

#[test]
fn ranges_of_nothing_and_of_what_is_not_finite_are_no_obstacle() {
    let graph = residual();
    // Nothing was seen: all is computed in fp32.
    let mut full = Net::new(&graph, 1, Purpose::Infer, Path::best()).expect("a plan");
    let mut blind = Net::quantized(&graph, 1, Path::best(), &Ranges::new()).expect("a plan");
    set(&mut full, &graph);
    set(&mut blind, &graph);
    assert_eq!(blind.precision(), Precision::Fp32);
    let example = [example(&graph, 0)];
    assert_eq!(outputs(&mut full, &example), outputs(&mut blind, &example));

    // A black picture and weights of zero: every range has no width.
    let mut ranges = Ranges::new();
    let mut zero = Net::new(&graph, 1, Purpose::Observe, Path::best()).expect("a plan");
    zero.observe(1, &mut ranges);
    let mut net = Net::quantized(&graph, 1, Path::best(), &ranges).expect("a plan");
    assert!(outputs(&mut net, &example).iter().all(|y| *y == 0.0));

    // One that is not finite: what is computed of it is in fp32.
    let mut ranges = Ranges::new();
    let mut odd = example[0].clone();
    odd[3] = f32::NAN;
    let mut observer = Net::new(&graph, 1, Purpose::Observe, Path::best()).expect("a plan");
    set(&mut observer, &graph);
    observer.set_input(0, &odd);
    observer.observe(1, &mut ranges);
    let mut net = Net::quantized(&graph, 1, Path::best(), &ranges).expect("a plan");
    set(&mut net, &graph);
    assert_eq!(net.precision(), Precision::Fp32);
    assert_eq!(outputs(&mut full, &example), outputs(&mut net, &example));
}

#[test]
fn a_window_that_pads_meets_the_zero_of_the_code() {
    // Values with a sign between two convolutions that pad: their halo is not byte 0.
    let mut builder = Builder::new(&[16, 6, 6]);
    let x = builder.conv(builder.graph.input(), 16, 1, 1, 1, true);
    let x = builder.conv(x, 16, 3, 1, 1, true);
    let window = Window { before: [1, 1], ..builder.window(x, 3, 1, 1) };
    let x = builder.add(Op::AvgPool { window, count_padding: false }, &[x]);
    let x = builder.conv(x, 8, 5, 1, 1, true);
    builder.add(Op::GlobalAvgPool, &[x]);
    let graph = builder.graph;
    let [mut full, mut short] = both(&graph, Path::best());
    let examples: Vec<_> = (0..EXAMPLES).map(|number| example(&graph, number)).collect();
    let (expected, found) = (outputs(&mut full, &examples), outputs(&mut short, &examples));
    let scale = expected.iter().fold(0.0_f32, |most, y| most.max(y.abs()));
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 0.05 * scale, "{found} instead of {expected}");
    }
}

#[test]
fn what_has_no_kernel_for_bytes_is_computed_in_fp32() {
    // More taps than a sum of bytes has room for.
    let mut builder = Builder::new(&[16, 182, 182]);
    let x = builder.conv(builder.graph.input(), 16, 1, 1, 1, true);
    let x = builder.conv(x, 16, 182, 182, 16, true);
    let x = builder.conv(x, 16, 1, 1, 1, true);
    builder.add(Op::GlobalAvgPool, &[x]);
    let graph = builder.graph;
    let [mut full, mut short] = both(&graph, Path::best());
    let examples = [example(&graph, 20)];
    let (expected, found) = (outputs(&mut full, &examples), outputs(&mut short, &examples));
    let scale = expected.iter().fold(0.0_f32, |most, y| most.max(y.abs()));
    // Of 33,124 products of either sign little is left, but for what rounding makes of them.
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 0.2 * scale, "{found} instead of {expected}");
    }
}
