//! Pictures of every kind, good and bad.

mod onnx;
mod outputs;
mod squeezenet;

use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use image::{GrayImage, Luma, Rgb, RgbImage};
use serde_json::json;
use shared::contract::Resize;

use super::*;
use crate::compute::tests::Fixture;

fn model(input: &[usize], layers: &serde_json::Value, labels: usize) -> Model {
    serde_json::from_value(json!({
        "name": "m", "config": {"input": input, "network": {"layers": layers}},
        "preprocessing": {"mean": vec![0.5; input[0]], "std": vec![0.29; input[0]]},
        "labels": (0..labels).map(|n| format!("label {n}")).collect::<Vec<_>>(),
        "weights": {"key": "w", "sha256": "0".repeat(64)}
    }))
    .expect("a model")
}

/// Files to calibrate on.
fn samples(files: &[PathBuf]) -> Vec<Sample> {
    files.iter().map(|file| Sample { file: file.clone(), sha256: None }).collect()
}

/// A model and its reader, as an executor uses them.
#[derive(Debug)]
struct Whole {
    reader: PictureReader,
    classifier: Classifier,
}

impl Whole {
    fn load(model: &Model, weights: &Path) -> Result<Self, ComputeError> {
        Self::of(model, weights, Output::Labels)
    }

    fn of(model: &Model, weights: &Path, output: Output) -> Result<Self, ComputeError> {
        let classifier = Classifier::load(model, weights, output, &Backend::Engine)?;
        Ok(Self { reader: PictureReader::of(model)?, classifier })
    }

    fn classify(&mut self, images: &[(String, PathBuf)], top_k: u32, threshold: f64) -> Vec<ImageOutcome> {
        let (output, scores, threshold) = (Output::Labels, Scores::Softmax, Some(threshold));
        self.answer(images, &Wanted { output, scores, top_k, threshold })
    }

    fn answer(&mut self, images: &[(String, PathBuf)], wanted: &Wanted) -> Vec<ImageOutcome> {
        let read = |(name, path): &(String, PathBuf)| (name.clone(), self.reader.read(path));
        self.classifier.classify(images.iter().map(read).collect(), wanted).expect("it computes")
    }
}

/// A classifier of stripes, trained on the fixture's dataset.
fn stripes() -> (Fixture, Whole) {
    let fixture = Fixture::new(400);
    let layers = json!([
        {"type": "conv", "filters": 4, "kernel": 3, "padding": "same"}, {"type": "relu"}, {"type": "max_pool", "kernel": 2},
        {"type": "flatten"}, {"type": "linear", "units": 3}
    ]);
    fixture.finish(&fixture.trial(layers.clone(), json!({"epochs": 4})), None, "weights");
    let classifier = Whole::load(&model(&[1, 8, 8], &layers, 3), &fixture.path("weights")).expect("a classifier");
    (fixture, classifier)
}

/// A picture with stripes across, `scale` times as large as the network's input.
fn picture(fixture: &Fixture, name: &str, scale: u32) -> (String, PathBuf) {
    let path = fixture.path(name);
    let pixel = |_, y: u32| Luma([if (y / scale).is_multiple_of(2) { 50 } else { 200 }]);
    GrayImage::from_fn(8 * scale, 8 * scale, pixel)
        .save_with_format(&path, image::ImageFormat::Png)
        .expect("a picture");
    (name.into(), path)
}

fn predictions(outcome: &ImageOutcome) -> &[Prediction] {
    match &outcome.verdict {
        ImageVerdict::Predictions(predictions) => predictions,
        other => panic!("{other:?}"),
    }
}

#[test]
fn pictures_are_labelled_whatever_their_size() {
    let (fixture, mut classifier) = stripes();
    let outcomes = classifier.classify(&[picture(&fixture, "as-is", 1), picture(&fixture, "larger", 5)], 3, 0.0);
    for outcome in &outcomes {
        let labels = predictions(outcome);
        assert_eq!((labels.len(), labels[0].index, labels[0].label.as_str()), (3, 0, "label 0"), "{outcome:?}");
        assert!(labels.windows(2).all(|pair| pair[0].score >= pair[1].score));
        assert!((labels.iter().map(|p| p.score).sum::<f64>() - 1.0).abs() < 1e-12);
    }
    assert_eq!(outcomes[0].image, "as-is");
    let one = &classifier.classify(&[picture(&fixture, "as-is", 1)], 1, 0.0)[0];
    assert_eq!(predictions(one).len(), 1);
    let sure = predictions(one)[0].score;
    let none = &classifier.classify(&[picture(&fixture, "as-is", 1)], 3, (sure + 1.0) / 2.0)[0];
    assert_eq!(predictions(none).len(), 0);
}

#[test]
fn a_bad_picture_is_one_entry_and_changes_no_other() {
    let (fixture, mut classifier) = stripes();
    let (good, larger) = (picture(&fixture, "good", 1), picture(&fixture, "larger", 3));
    let alone = classifier.classify(std::slice::from_ref(&good), 3, 0.0);
    let file = |name: &str, bytes: &[u8]| {
        std::fs::write(fixture.path(name), bytes).expect("a file");
        (name.to_owned(), fixture.path(name))
    };
    let png = std::fs::read(&good.1).expect("a file");
    // A header that promises 2^31 - 1 columns, with its checksum.
    let mut huge = png[..33].to_vec();
    huge[16..20].copy_from_slice(&0x7fff_ffffu32.to_be_bytes());
    let checksum = crc32(&huge[12..29]);
    huge[29..33].copy_from_slice(&checksum.to_be_bytes());
    let images = [
        file("half", &png[..png.len() / 2]),
        file("text", b"this is no picture"),
        file("empty", b""),
        file("jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01"),
        file("huge", &huge),
        ("missing".into(), fixture.path("missing")),
        ("folder".into(), fixture.folder.path().to_owned()),
        good,
        larger,
    ];
    let outcomes = classifier.classify(&images, 3, 0.0);
    let codes: Vec<&str> = outcomes
        .iter()
        .map(|outcome| match &outcome.verdict {
            ImageVerdict::Error(error) => error.code.as_str(),
            _ => "",
        })
        .collect();
    let expected = [
        "decode_failed",
        "unsupported_format",
        "unsupported_format",
        "decode_failed",
        "too_large",
        "not_found",
        "unsupported_format",
        "",
        "",
    ];
    assert_eq!(codes, expected, "{outcomes:?}");
    assert_eq!(outcomes[7], alone[0]);
}

/// PNG's checksum, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0u32.wrapping_sub(crc & 1)))
    })
}

#[test]
fn three_channels_are_red_green_and_blue() {
    let folder = tempfile::tempdir().expect("a folder");
    let layers = json!([{"type": "global_avg_pool"}, {"type": "linear", "units": 3, "bias": false}]);
    let weights = folder.path().join("weights");
    let eye = Tensor::eye(3, DType::F32, &Device::Cpu).expect("a tensor");
    weights::write(&weights, &[("1.weight".into(), eye)], None).expect("a file");
    let mut classifier = Whole::load(&model(&[3, 2, 2], &layers, 3), &weights).expect("a classifier");
    for channel in 0..3 {
        let path = folder.path().join("picture.png");
        let mut pixel = [0; 3];
        pixel[channel] = 255;
        RgbImage::from_pixel(4, 2, Rgb(pixel)).save(&path).expect("a picture");
        let outcome = &classifier.classify(&[("p".into(), path)], 1, 0.0)[0];
        assert_eq!(predictions(outcome)[0].index as usize, channel);
    }
}

#[test]
fn the_first_of_equal_logits_counts_and_none_that_is_no_number() {
    assert_eq!(first_largest(&[0.5, 2.0, 2.0]), Some(1));
    assert_eq!(first_largest(&[-1.0]), Some(0));
    for none in [&[][..], &[1.0, f32::NAN], &[f32::INFINITY, 1.0]] {
        assert_eq!(first_largest(none), None);
    }
}

#[test]
fn where_nothing_is_multiplied_in_bf16_it_is_fp32() {
    let layers = json!([{"type": "flatten"}, {"type": "linear", "units": 3, "bias": false}]);
    let linear = model(&[1, 8, 8], &layers, 3);
    let folder = tempfile::tempdir().expect("a folder");
    let weights = folder.path().join("weights");
    let zeros = Tensor::zeros((3, 64), DType::F32, &Device::Cpu).expect("a tensor");
    weights::write(&weights, &[("1.weight".into(), zeros)], None).expect("a file");
    let mut classifier = Classifier::load(&linear, &weights, Output::Labels, &Backend::Engine).expect("a classifier");
    let alone = classifier.bytes();
    classifier.begin((Precision::Bf16, &[]), (&linear, &weights), &Backend::Engine, &mut || {}).expect("ready");
    assert_eq!((classifier.precision(), classifier.bytes()), ((Precision::Fp32, None), alone));
}

#[test]
fn a_model_whose_parts_do_not_fit_is_refused() {
    let layers = json!([{"type": "flatten"}, {"type": "linear", "units": 3}]);
    let path = Path::new("there-is-no-such-file");
    let refused = |model: &Model| Whole::load(model, path).expect_err("refused").to_string();
    assert!(refused(&model(&[2, 8, 8], &layers, 3)).contains("[1 or 3, height, width]"));
    assert!(refused(&model(&[1, 8, 8], &layers, 4)).contains("4 classes"));
    let mut wrong = model(&[1, 8, 8], &layers, 3);
    wrong.preprocessing.std = vec![0.0];
    assert!(refused(&wrong).contains("`preprocessing.std` is [0.0]"));
    wrong = model(&[1, 8, 8], &layers, 3);
    wrong.preprocessing.rescale = 0.0;
    assert!(refused(&wrong).contains("`preprocessing.rescale` is 0"));
    wrong = model(&[1, 8, 8], &layers, 3);
    wrong.preprocessing.resize = Some(Resize::Exact([8, 0]));
    assert!(refused(&wrong).contains("`preprocessing.resize` is 0 pixels"));
    assert!(refused(&model(&[1, 8, 8], &layers, 3)).contains("cannot read"));
}

#[test]
fn weights_in_half_precision_are_accepted_and_a_counter_is_passed_over() {
    let fixture = Fixture::new(10);
    let layers = json!([{"type": "flatten"}, {"type": "linear", "units": 3, "bias": false}]);
    let values = crate::compute::tests::noise("w", 3 * 64);
    let values =
        Tensor::from_vec(values, (3, 64), &Device::Cpu).and_then(|t| t.to_dtype(DType::F32)).expect("a tensor");
    let scores = |dtype: DType| {
        let path = fixture.path(&format!("{dtype:?}"));
        let weight = values.to_dtype(dtype).expect("a tensor");
        let counter = Tensor::new(7i64, &Device::Cpu).expect("a tensor");
        weights::write(&path, &[("1.weight".into(), weight), ("1.num_batches_tracked".into(), counter)], None)
            .expect("a file");
        let mut classifier = Whole::load(&model(&[1, 8, 8], &layers, 3), &path)?;
        let (_, path) = picture(&fixture, "p", 1);
        let pixels = classifier.reader.read(&path).expect("a picture");
        Ok::<_, ComputeError>(softmax(&classifier.classifier.outputs(&[&pixels])?).expect("scores"))
    };
    let full = scores(DType::F32).expect("a classifier");
    let path = fixture.path("infinite");
    let infinite = (&values / 0.0).expect("a tensor");
    weights::write(&path, &[("1.weight".into(), infinite)], None).expect("a file");
    let refused = Whole::load(&model(&[1, 8, 8], &layers, 3), &path).expect_err("refused");
    assert!(matches!(refused, ComputeError::InvalidJob(_)), "nobody altered the file: {refused}");
    assert!(refused.to_string().contains("`1.weight` holds numbers that are not finite"), "{refused}");
    for dtype in [DType::F16, DType::BF16] {
        for (full, half) in full.iter().zip(scores(dtype).expect("a classifier")) {
            assert!((full - half).abs() < 0.05, "{full} in fp32, {half} in {dtype:?}");
        }
    }
    assert!(scores(DType::F64).expect_err("refused").to_string().contains("needs F32, F16 or BF16 [3, 64]"));
}
