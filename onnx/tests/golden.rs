//! Files that exporters wrote, against what ONNX Runtime computed of them; and the same files damaged.
//!
//! `golden/make.py` wrote both.

mod random;

use std::path::{Path, PathBuf};

use engine::{Mode, Net, Purpose};
use onnx::{Network, Options};
use random::Random;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// A line of `logits.txt`: a file's name and the outputs of some examples.
fn golden() -> Vec<(String, Vec<Vec<f32>>)> {
    let text = std::fs::read_to_string(folder().join("logits.txt")).expect("the table");
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        let name = words.next().expect("a name").to_string();
        let examples: usize = words.next().and_then(|word| word.parse().ok()).expect("how many examples");
        let numbers: Vec<f32> = words.map(|word| word.parse().expect("a number")).collect();
        (name, numbers.chunks(numbers.len() / examples).map(<[f32]>::to_vec).collect())
    };
    text.lines().map(line).collect()
}

fn load(name: &str) -> Network {
    let path = folder().join(format!("{name}.onnx"));
    onnx::load(&path, &Options::default()).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The same input as the script's.
fn input(network: &Network, example: usize) -> Vec<f32> {
    let shape = network.graph.shape(network.graph.input());
    let count: usize = shape.iter().product();
    let number = |index: usize| ((index + 31 * example) * 7919 % 1009) as f32 / 504.5 - 1.0;
    if !network.channels_last {
        return (0..count).map(number).collect();
    }
    let (channels, pixels) = (shape[0], shape[1] * shape[2]);
    (0..count).map(|at| number(at % pixels * channels + at / pixels)).collect()
}

/// How far outputs are apart, beside the largest.
fn error(found: &[f32], expected: &[f32]) -> f32 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
    let apart = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
    apart.fold(0.0, |most, error| if error <= most { most } else { error }) / largest
}

#[test]
fn logits_are_those_of_onnx_runtime() {
    let golden = golden();
    assert!(golden.len() >= 22, "all networks of the script");
    let mut failed = Vec::new();
    for (name, expected) in &golden {
        let path = folder().join(format!("{name}.onnx"));
        let network = match onnx::load(&path, &Options::default()) {
            Ok(network) => network,
            Err(error) => {
                failed.push(format!("{name}: {error}"));
                continue;
            }
        };
        for path in engine::Path::available() {
            // Several examples at once give what each gives alone.
            let mut net = Net::new(&network.graph, expected.len(), Purpose::Infer, path).expect("it can be planned");
            network.fill(&mut net).expect("finite parameters");
            for round in 0..2 {
                // Another value may lie where they were.
                (0..expected.len()).for_each(|example| net.set_input(example, &input(&network, example)));
                net.forward(expected.len(), &Mode::Infer);
                let found = net.outputs(expected.len());
                for (example, expected) in expected.iter().enumerate() {
                    let found = &found[example * expected.len()..][..expected.len()];
                    let error = error(found, expected);
                    // The issue asks for 1e-3; what is lost in fp32 is less.
                    if error.is_nan() || error > 5e-5 {
                        failed.push(format!("{name} on {}, round {round}, example {example}: {error:e}", path.name()));
                    }
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn what_is_one_operation_stays_one() {
    for (name, function, expected) in [
        ("convnext-11", "Activation(Gelu)", 4),
        ("convnext-18", "Activation(Gelu)", 4),
        ("vit-14", "Activation(Gelu)", 2),
        ("vit-18", "Activation(Gelu)", 2),
        ("mobilenet_v3-13", "Activation(HardSwish)", 7),
        ("mobilenet_v3-17", "Activation(HardSwish)", 7),
        ("efficientnet-17", "Activation(Silu)", 13),
        ("parts-13", "Function(Mish)", 1),
        ("parts-13", "Function(GeluTanh)", 1),
        // One that several nodes read.
        ("parts-18", "ChannelNorm", 1),
    ] {
        let network = load(name);
        let ops: Vec<String> = network.graph.nodes().iter().map(|node| format!("{:?}", node.op)).collect();
        assert_eq!(ops.iter().filter(|op| op.starts_with(function)).count(), expected, "{function} in {name}");
        let in_parts = |op: &String| op.contains("Erf") || op.contains("Exp") || op.contains("Sqrt");
        assert!(!ops.iter().any(in_parts), "{name}: {ops:?}");
    }
}

#[test]
fn examples_do_not_depend_on_their_batch() {
    for name in ["mobilenet_v3-13", "vit-17-batch2", "convnext-18", "keras-15"] {
        let network = load(name);
        let run = |examples: &[usize]| {
            let mut net =
                Net::new(&network.graph, examples.len(), Purpose::Infer, engine::Path::best()).expect("a plan");
            network.fill(&mut net).expect("finite parameters");
            examples.iter().enumerate().for_each(|(at, example)| net.set_input(at, &input(&network, *example)));
            net.forward(examples.len(), &Mode::Infer);
            net.outputs(examples.len())
        };
        let together = run(&[4, 2, 9, 0, 7]);
        let alone: Vec<f32> = [4, 2, 9, 0, 7].iter().flat_map(|example| run(&[*example])).collect();
        assert_eq!(together, alone, "{name}");
    }
}

#[test]
fn tensors_stay_in_the_models_folder() {
    let from = folder();
    let inner = tempfile::tempdir().expect("a folder");
    let folder = inner.path().join("model");
    std::fs::create_dir(&folder).expect("a folder");
    let bytes = std::fs::read(from.join("resnet-18.onnx")).expect("a file");
    let model = folder.join("model.onnx");
    std::fs::write(&model, &bytes).expect("a file");
    let data = std::fs::read(from.join("resnet-18.data")).expect("a file");
    let place = folder.join("resnet-18.data");
    let problem = || onnx::load(&model, &Options::default()).expect_err("it is refused").to_string();
    assert!(problem().contains("resnet-18.data"), "{}", problem());
    std::fs::write(&place, &data[..data.len() / 2]).expect("a file");
    assert!(problem().contains("are not in `resnet-18.data`"), "{}", problem());
    std::fs::write(&place, &data).expect("a file");
    onnx::load(&model, &Options::default()).expect("it is whole");
    // With all in one file nothing else is needed.
    let whole = onnx::gathered(&model).expect("it is whole").expect("it was in two");
    let one = onnx::parse(whole.into(), None, &Options::default()).expect("it is one");
    assert_eq!(one.parameters, load("resnet-18").parameters);
    assert!(onnx::parse(bytes.clone().into(), None, &Options::default()).is_err(), "the other file is missing");
    std::fs::remove_file(&place).expect("removed");
    let outside = inner.path().join("outside.data");
    std::fs::write(&outside, &data).expect("a file");
    std::os::unix::fs::symlink(&outside, &place).expect("a link");
    assert!(problem().contains("a link out of the model's folder"), "{}", problem());
    let at = bytes.windows(14).position(|part| part == b"resnet-18.data").expect("its name");
    let mut other = bytes.clone();
    other[at..at + 14].copy_from_slice(b"../outside.dat");
    std::fs::write(&model, &other).expect("a file");
    assert!(problem().contains("a path inside the model's folder is accepted"), "{}", problem());
}

#[test]
fn damaged_files_are_errors() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut refused = 0;
    let mut all = 0;
    for (name, _) in golden() {
        let whole = std::fs::read(folder().join(format!("{name}.onnx"))).expect("a file");
        for case in 0..60 {
            let mut bytes = whole.clone();
            match case % 4 {
                0 => bytes.truncate(random.below(whole.len())),
                1 => {
                    let at = random.below(bytes.len());
                    bytes[at] = random.below(256) as u8;
                }
                2 => {
                    for _ in 0..20 {
                        let at = random.below(bytes.len());
                        bytes[at] ^= 1 << random.below(8);
                    }
                }
                _ => {
                    // The graph's nodes stand first, weights behind.
                    for _ in 0..3 {
                        let at = random.below(bytes.len().min(4000));
                        bytes[at] = random.below(256) as u8;
                    }
                }
            }
            all += 1;
            // What is accepted all the same can be planned.
            match onnx::parse(bytes.into(), Some(&folder()), &Options::default()) {
                Ok(network) => {
                    Net::new(&network.graph, 1, Purpose::Infer, engine::Path::best()).map(drop).unwrap_or_default();
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().len() < 4000, "{name}: a short message");
                }
            }
        }
    }
    assert!(refused > all / 3, "{refused} of {all} were refused");
}
