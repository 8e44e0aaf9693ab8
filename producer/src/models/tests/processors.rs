//! Preprocessing against Hugging Face's image processors and timm's transforms: `tests/golden/processors.py` made the files.

use safetensors::SafeTensors;
use serde_json::{Map, Value};
use shared::contract::ChannelOrder;

use super::*;

fn golden(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    std::fs::read(path).expect("the golden file")
}

#[test]
fn pictures_become_what_other_libraries_make_of_them() {
    let (cases, tensors) = (golden("processors.json"), golden("processors.safetensors"));
    let cases: Map<String, Value> = serde_json::from_slice(&cases).expect("JSON");
    let tensors = SafeTensors::deserialize(&tensors).expect("tensors");
    let source = tensors.tensor("source").expect("the picture");
    let source = picture::Pixels::new([source.shape()[0], source.shape()[1]], 3, source.data().to_vec());
    let mut wrong = Vec::new();
    for (name, document) in &cases {
        let text = serde_json::to_vec(document).expect("JSON");
        let read = match document.get("pretrained_cfg") {
            Some(pretrained) => timm::read(pretrained, 3),
            None => preprocessor::read(&text, 3),
        };
        let read = read.unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let preprocessing = &read.preprocessing;
        let expected = tensors.tensor(name).expect("its tensor");
        let size = [expected.shape()[1], expected.shape()[2]];
        assert_eq!(read.output.map(|(size, _)| size.map(|edge| edge as usize)), Some(size), "{name}");
        let expected: Vec<f64> =
            expected.data().as_chunks().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect();
        let found = picture::fit(&source, size, preprocessing).expect("a picture");
        let plane = size[0] * size[1];
        // In bytes of the picture.
        let apart = found.iter().zip(&expected).enumerate().map(|(at, (found, expected))| {
            let (mean, std) = (preprocessing.mean[at / plane], preprocessing.std[at / plane]);
            (f64::from(*found) - (expected * std + mean) / preprocessing.rescale).abs()
        });
        let most = apart.fold(0.0, f64::max);
        eprintln!("{name}: at most {most:.3} of 255 apart");
        // What runs on tensors, not on Pillow, rounds its weights another way.
        if most > 1.01 {
            wrong.push(format!("{name}: {most:.2} apart"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(cases.len() >= 16, "{}", cases.len());
}

#[test]
fn timms_account_stands_in_for_a_missing_file() {
    let made = Made::new();
    made.write("config.json", CONFIG);
    std::fs::remove_file(made.path("preprocessor_config.json")).expect("removed");
    std::fs::remove_file(made.path("labels.txt")).expect("removed");
    let folder = made.read().expect("a folder");
    assert_eq!(folder.labels, ["tench", "goldfish"]);
    assert_eq!(folder.preprocessing.resize, Some(Resize::Inside([5, 5])));
    assert_eq!(folder.preprocessing.border, [128, 26, 51]);
    assert_eq!(folder.preprocessing.order, ChannelOrder::Rgb);
    assert_eq!(folder.scores, shared::contract::Scores::Sigmoid);
    for (from, to, expected) in [
        (
            "\"border\"",
            "\"middle\"",
            "`pretrained_cfg.crop_mode` is \"middle\": center, squash and border are accepted",
        ),
        ("\"lanczos\"", "\"random\"", "`pretrained_cfg.interpolation` is \"random\": nearest, bilinear"),
        ("0.8,", "0,", "`pretrained_cfg.crop_pct` is 0: a number above 0"),
        ("[3, 4, 4], \"crop", "[1, 4, 4], \"crop", "`pretrained_cfg.input_size` is [1, 4, 4]: 3 channels"),
        (
            "[3, 4, 4], \"crop",
            "[3, 5, 5], \"crop",
            "`pretrained_cfg.input_size` is [5, 5]: the network's input, [4, 4]",
        ),
        ("\"goldfish\"]", "\"goldfish\", \"shark\"]", "has 3 labels: the network has [2] outputs"),
        (
            "multi_label_classification",
            "guessing",
            "`problem_type` is \"guessing\": single_label_classification (softmax)",
        ),
    ] {
        made.write("config.json", CONFIG.replace(from, to));
        let message = format!("{:#}", made.read().expect_err("refused"));
        assert!(message.contains(expected), "{message}");
    }
}

const CONFIG: &str = r#"{
    "input": [3, 4, 4], "layers": [{"type": "global_avg_pool"}, {"type": "linear", "name": "head", "units": 2}],
    "problem_type": "multi_label_classification",
    "label_names": ["tench", "goldfish"],
    "pretrained_cfg": {
        "input_size": [3, 4, 4], "crop_pct": 0.8, "crop_mode": "border", "interpolation": "lanczos",
        "mean": [0.5, 0.1, 0.2], "std": [0.5, 0.5, 0.5], "pool_size": [7, 7], "first_conv": "conv1"
    }
}"#;
