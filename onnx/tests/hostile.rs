//! Files that are well-formed and still wrong: what they say, and that none of them brings an importer down.

mod message;
mod random;

use std::path::{Path, PathBuf};

use engine::{Mode, Net, Purpose};
use message::{Field, Message, float, floats, int, ints, longs, model, node, tensor_of};
use onnx::{Network, Options};
use random::Random;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn parse(bytes: Vec<u8>) -> Result<Network, onnx::Error> {
    onnx::parse(bytes.into(), None, &Options::default())
}

/// A mean over height and width, as the output.
fn mean(of: &str) -> Message {
    node("ReduceMean", of, "y", &[ints("axes", &[2, 3]), int("keepdims", 0)])
}

fn full(value: f32) -> Message {
    tensor_of("value", &floats("", &[1], &[value]))
}

#[test]
fn what_is_wrong_is_said() {
    let x = [1, 3, 8, 8];
    let one = floats("one", &[], &[1.0]);
    let reduce = |axes: &[i64]| node("ReduceMean", "x", "y", &[ints("axes", axes), int("keepdims", 0)]);
    let large = [node("ConstantOfShape", "size", "w", &[full(0.1)]), node("Flatten", "x", "v0", &[])];
    let products = (0..30).map(|at| node("MatMul", &format!("v{at} w"), &format!("v{}", at + 1), &[]));
    let products: Vec<Message> = large.into_iter().chain(products).chain([node("Identity", "v30", "y", &[])]).collect();
    // Little is kept of much work.
    let sums = (0..40).map(|at| {
        let (x, y) = (if at == 0 { "x".to_string() } else { format!("v{at}") }, format!("v{}", at + 1));
        [node("ReduceSum", "w", &format!("s{at}"), &[]), node("Add", &format!("{x} s{at}"), &y, &[])]
    });
    let sums = [node("ConstantOfShape", "size", "w", &[full(0.1)])].into_iter().chain(sums.flatten());
    let sums: Vec<Message> = sums.chain([mean("v40")]).collect();
    let many: Vec<Message> = (0..1025).map(|at| int(&format!("a{at}"), 0)).collect();
    let elsewhere = |name: &str| {
        let place = |key: &str, value: &str| Message::default().put(1, key).put(2, value);
        Message::default().int(1, 5000).int(2, 1).put(8, name).with(13, &place("location", "w.bin")).int(14, 1)
    };
    let cases: Vec<(&str, Vec<u8>)> = vec![
        (
            "is not the batch",
            model(&x, &[node("GlobalAveragePool", "x", "p", &[]), node("Squeeze", "p", "y", &[])], &[]),
        ),
        ("is not the batch", model(&x, &[node("Reshape", "x s", "y", &[])], &[longs("s", &[3, 64])])),
        (
            "is not the batch",
            model(
                &x,
                &[node("Concat", "x x", "t", &[int("axis", 0)]), node("GlobalMaxPool", "t", "p", &[]), mean("p")],
                &[],
            ),
        ),
        ("name one twice", model(&x, &[reduce(&[2, -2])], &[])),
        (
            "`keepdims` is -1",
            model(&x, &[node("ReduceMean", "x", "y", &[ints("axes", &[2]), int("keepdims", -1)])], &[]),
        ),
        ("`alpha` is NaN", model(&x, &[node("Elu", "x", "t", &[float("alpha", f32::NAN)]), mean("t")], &[])),
        ("is not a number", model(&x, &[node("Max", "x n", "t", &[]), mean("t")], &[floats("n", &[], &[f32::NAN])])),
        ("`min` is NaN", model(&x, &[node("Clip", "x n", "t", &[]), mean("t")], &[floats("n", &[], &[f32::NAN])])),
        (
            "epsilon is inf",
            model(
                &x,
                &[node("InstanceNormalization", "x w w", "t", &[float("epsilon", f32::INFINITY)]), mean("t")],
                &[floats("w", &[3], &[1.0; 3])],
            ),
        ),
        ("at most 65536 are accepted", model(&[1 << 22, 3, 8, 8], &[mean("x")], &[])),
        ("bytes more are needed", model(&[1, 3, 25, 40], &products, &[longs("size", &[3000, 3000])])),
        ("is too large for a value", model(&[1, 3, 1 << 13, 1 << 13], &[mean("x")], &[])),
        ("elements of constants", model(&x, &sums, &[longs("size", &[3000, 10_000])])),
        ("more than 1024 attributes", model(&x, &[node("Relu", "x", "t", &many), mean("t")], &[])),
        ("more than 65536 numbers", model(&x, &[reduce(&[0; 70_000])], &[])),
        (
            "more than 10 dimensions",
            model(&x, &[mean("x")], &[Message::default().put(1, vec![1; 1 << 20]).int(2, 1).put(8, "w")]),
        ),
        (
            "not accepted for constants",
            model(
                &x,
                &[node("Conv", "w w", "t", &[]), node("Add", "x t", "z", &[]), mean("z")],
                &[floats("w", &[3], &[1.0; 3])],
            ),
        ),
        (
            "does not fit",
            model(
                &x,
                &[node("LayerNormalization", "x w", "t", &[int("axis", -1)]), mean("t")],
                &[floats("w", &[5, 1, 3, 3], &[1.0; 45])],
            ),
        ),
        (
            "lies in another file",
            model(
                &x,
                &[
                    node("Constant", "", "w", &[tensor_of("value", &elsewhere(""))]),
                    node("Add", "x w", "z", &[]),
                    mean("z"),
                ],
                std::slice::from_ref(&one),
            ),
        ),
    ];
    for (expected, bytes) in cases {
        let problem = match parse(bytes) {
            Err(problem) => problem.to_string(),
            Ok(_) => panic!("it is accepted: {expected}"),
        };
        assert!(problem.contains(expected), "{problem} instead of {expected}");
    }
}

#[test]
fn a_tensor_of_a_node_may_lie_in_another_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let weights: Vec<f32> = (0..10).map(|at| at as f32).collect();
    let raw: Vec<u8> = weights.iter().flat_map(|weight| weight.to_le_bytes()).collect();
    std::fs::write(folder.path().join("w.bin"), raw).expect("a file");
    let place = |key: &str, value: &str| Message::default().put(1, key).put(2, value);
    let tensor = Message::default().int(1, 5).int(1, 2).int(2, 1).with(13, &place("location", "w.bin")).int(14, 1);
    let nodes = [node("Constant", "", "w", &[tensor_of("value", &tensor)]), node("MatMul", "x w", "y", &[])];
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model(&[1, 5], &nodes, &[])).expect("a file");
    onnx::load(&path, &Options::default()).expect("it is whole with its folder");
    let whole = onnx::gathered(&path).expect("it is whole").expect("it was in two");
    let network = parse(whole).expect("it needs no folder");
    assert_eq!(network.parameters[0].read(&mut Vec::new()), [0.0, 2.0, 4.0, 6.0, 8.0, 1.0, 3.0, 5.0, 7.0, 9.0]);
}

#[test]
fn tensors_that_share_a_files_bytes_do_not_multiply_them() {
    let folder = tempfile::tempdir().expect("a folder");
    // A hole: no disk is taken.
    let file = std::fs::File::create(folder.path().join("w.bin")).expect("a file");
    file.set_len(16 << 20).expect("a length");
    let place = |key: &str, value: &str| Message::default().put(1, key).put(2, value);
    let tensors: Vec<Message> = (0..200)
        .map(|at| {
            let message = Message::default().int(1, 4 << 20).int(2, 1).put(8, format!("w{at}"));
            message.with(13, &place("location", "w.bin")).int(14, 1)
        })
        .collect();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model(&[1, 3, 8, 8], &[mean("x")], &tensors)).expect("a file");
    let problem = onnx::gathered(&path).expect_err("3 GiB of 16 MiB").to_string();
    assert!(problem.contains("bytes more are needed"), "{problem}");
}

#[test]
fn features_are_in_the_files_order() {
    let nodes = [
        node("MaxPool", "x", "m", &[ints("kernel_shape", &[1, 1])]),
        node("Transpose", "m", "t", &[ints("perm", &[0, 2, 3, 1])]),
        node("Flatten", "t", "f", &[]),
        node("MatMul", "f w", "y", &[]),
    ];
    let weights: Vec<f32> = (0..60).map(|at| (at * 7 % 11) as f32).collect();
    let network = parse(model(&[1, 3, 2, 5], &nodes, &[floats("w", &[30, 2], &weights)])).expect("it is whole");
    let features = network.features().expect("it has some");
    let mut net = Net::new(&features, 1, Purpose::Infer, engine::Path::best()).expect("a plan");
    network.fill(&mut net).expect("finite parameters");
    net.set_input(0, &(0..30).map(|at| at as f32).collect::<Vec<f32>>());
    net.forward(1, &Mode::Infer);
    let expected: Vec<f32> = (0..30).map(|at| (at % 3 * 10 + at / 3) as f32).collect();
    assert_eq!(net.outputs(1), expected);
}

impl Random {
    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

const OPERATORS: [&str; 40] = [
    "Relu",
    "Sigmoid",
    "Add",
    "Mul",
    "Sub",
    "Div",
    "Max",
    "Min",
    "Transpose",
    "Reshape",
    "Flatten",
    "ReduceMean",
    "ReduceMax",
    "ReduceSum",
    "Softmax",
    "GlobalAveragePool",
    "Concat",
    "Neg",
    "Sqrt",
    "Reciprocal",
    "Squeeze",
    "Unsqueeze",
    "Gather",
    "Identity",
    "MatMul",
    "Exp",
    "Pow",
    "Split",
    "Expand",
    "Where",
    "Clip",
    "LayerNormalization",
    "InstanceNormalization",
    "MaxPool",
    "AveragePool",
    "Pad",
    "Slice",
    "Conv",
    "Gemm",
    "PRelu",
];

/// Another number in the place of one.
fn other(random: &mut Random, number: i64) -> i64 {
    let all = [number + 1, number - 1, -number, 0, 1, 2, -1, 3, number.wrapping_mul(2), 1 << 16, 1 << 40];
    *random.of(&all)
}

/// Changes a field of those with one of some numbers, if there is one.
fn change(message: &mut Message, numbers: &[u64], random: &mut Random, f: impl FnOnce(&mut Field, &mut Random)) {
    let places: Vec<usize> = (0..message.0.len()).filter(|at| numbers.contains(&message.0[*at].0)).collect();
    if !places.is_empty() {
        let at = *random.of(&places);
        f(&mut message.0[at].1, random);
    }
}

/// The same for a field that is a message.
fn inside(field: &mut Field, random: &mut Random, f: impl FnOnce(&mut Message, &mut Random)) {
    if let Field::Bytes(bytes) = field {
        let mut message = Message::parse(bytes);
        f(&mut message, random);
        *bytes = message.bytes();
    }
}

fn number(field: &mut Field, random: &mut Random) {
    if let Field::Varint(number) = field {
        *number = other(random, number.cast_signed()).cast_unsigned();
    }
}

fn mutate_node(node: &mut Message, names: &[Vec<u8>], random: &mut Random) {
    match random.below(10) {
        0..=4 => change(node, &[5], random, |attribute, random| {
            inside(attribute, random, |attribute, random| match random.below(8) {
                0 => attribute.0.push((8, Field::Varint(1))),
                1 => change(attribute, &[2], random, |float, random| {
                    let value = *random.of(&[0.0, -1.0, 1e30, f32::NAN, f32::INFINITY]);
                    *float = Field::Fixed(value.to_le_bytes().to_vec());
                }),
                _ => change(attribute, &[3, 8], random, number),
            });
        }),
        5 | 6 => change(node, &[4], random, |op, random| *op = Field::Bytes(random.of(&OPERATORS).as_bytes().to_vec())),
        7 | 8 => change(node, &[1], random, |input, random| *input = Field::Bytes(random.of(names).clone())),
        _ => {
            let at = random.below(node.0.len());
            node.0.remove(at);
        }
    }
}

fn mutate(graph: &mut Message, random: &mut Random) {
    let mut names = vec![b"x".to_vec(), Vec::new()];
    for (number, field) in &graph.0 {
        let Field::Bytes(bytes) = field else { continue };
        // Outputs of nodes, and tensors.
        let wanted = match *number {
            message::NODE => 2,
            message::INITIALIZER => 8,
            _ => continue,
        };
        if bytes.len() < 2000 {
            names.extend(Message::parse(bytes).0.into_iter().filter_map(|(number, field)| match field {
                Field::Bytes(name) if number == wanted => Some(name),
                _ => None,
            }));
        }
    }
    match random.below(10) {
        0..=6 => change(graph, &[message::NODE], random, |node, random| {
            inside(node, random, |node, random| mutate_node(node, &names, random));
        }),
        7 | 8 => change(graph, &[message::INITIALIZER], random, |tensor, random| {
            inside(tensor, random, |tensor, random| match random.below(4) {
                0 => tensor.0.insert(0, (1, Field::Varint(1))),
                1 => {
                    let dims: Vec<usize> = (0..tensor.0.len()).filter(|at| tensor.0[*at].0 == 1).collect();
                    if let [a, .., b] = dims[..] {
                        tensor.0.swap(a, b);
                    }
                }
                // A number of a shape.
                _ => change(tensor, &[9], random, |raw, random| match raw {
                    Field::Bytes(raw) if raw.len() <= 80 && raw.len() % 8 == 0 && !raw.is_empty() => {
                        let at = random.below(raw.len() / 8) * 8;
                        let value = *random.of(&[0, -1, 1, 2, 3, 5, 7, 1 << 40]);
                        raw[at..at + 8].copy_from_slice(&i64::to_le_bytes(value));
                    }
                    _ => {}
                }),
            });
        }),
        _ => change(graph, &[message::INPUT], random, |input, random| {
            // Its type, its tensor, its shape, a dimension.
            inside(input, random, |input, random| {
                change(input, &[2], random, |kind, random| {
                    inside(kind, random, |kind, random| {
                        change(kind, &[1], random, |tensor, random| {
                            inside(tensor, random, |tensor, random| {
                                change(tensor, &[2], random, |shape, random| {
                                    inside(shape, random, |shape, random| {
                                        change(shape, &[1], random, |dim, random| {
                                            let size = *random.of(&[1, 2, 3, 4, 7, 33]);
                                            *dim = Field::Bytes(Message::default().int(1, size).bytes());
                                        });
                                    });
                                });
                            });
                        });
                    });
                });
            });
        }),
    }
}

/// Plans and runs what is accepted, but for what would take long.
fn run(network: &Network) -> bool {
    let elements: usize = network.graph.nodes().iter().map(|node| node.shape.iter().product::<usize>()).sum();
    if elements > 2_000_000 {
        return false;
    }
    let Ok(mut net) = Net::new(&network.graph, 1, Purpose::Infer, engine::Path::best()) else { return false };
    if network.fill(&mut net).is_err() {
        return false;
    }
    let len: usize = network.graph.shape(network.graph.input()).iter().product();
    net.set_input(0, &(0..len).map(|at| (at * 7919 % 1009) as f32 / 504.5 - 1.0).collect::<Vec<f32>>());
    net.forward(1, &Mode::Infer);
    assert_eq!(net.outputs(1).len(), network.output_shape.iter().product::<usize>());
    let features = network.features();
    assert!(features.is_none_or(|features| !features.shape(features.output()).is_empty()));
    true
}

#[test]
fn changed_networks_are_refused_or_run() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut refused, mut ran) = (0, 0);
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())
        .expect("a folder")
        .map(|entry| entry.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "onnx"))
        .collect();
    files.sort();
    for path in files {
        let whole = Message::parse(&std::fs::read(&path).expect("a file"));
        for _ in 0..40 {
            let mut model = whole.clone();
            for _ in 0..1 + random.below(3) {
                change(&mut model, &[message::GRAPH], &mut random, |graph, random| inside(graph, random, mutate));
            }
            match onnx::parse(model.bytes().into(), Some(&folder()), &Options::default()) {
                Ok(network) => ran += usize::from(run(&network)),
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().len() < 4000, "a short message");
                }
            }
        }
    }
    assert!(ran > 200 && refused > 200, "{ran} ran, {refused} were refused");
}
