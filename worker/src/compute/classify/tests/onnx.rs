//! An ONNX file as a model.

use engine::{Mode, Net, Path as Simd};

use super::*;

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx/tests/golden").join(name)
}

fn model(labels: usize) -> Model {
    serde_json::from_value(json!({
        "name": "m", "config": {"input": [3, 64, 64], "network": {"onnx": {"parameters": 1}}},
        "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]},
        "labels": (0..labels).map(|n| format!("label {n}")).collect::<Vec<_>>(),
        "weights": {"key": "w", "sha256": "0".repeat(64)}
    }))
    .expect("a model")
}

#[test]
fn its_scores_are_its_networks() {
    let path = file("mobilenet_v3-13.onnx");
    let folder = tempfile::tempdir().expect("a folder");
    let pixel = |x: u32, y: u32| Rgb([(x * 4) as u8, (y * 4) as u8, (x * y % 256) as u8]);
    let picture = folder.path().join("picture");
    let image = RgbImage::from_fn(64, 64, pixel);
    image.save_with_format(&picture, image::ImageFormat::Png).expect("a picture");
    let mut whole = Whole::load(&model(10), &path).expect("a model");
    let outcomes = whole.classify(&[("picture".into(), picture)], 10, 0.0);
    let network = ::onnx::load(&path, &::onnx::Options::default()).expect("a network");
    let mut net = Net::new(&network.graph, 1, Purpose::Infer, Simd::best()).expect("a plan");
    network.fill(&mut net).expect("finite parameters");
    let channel = |channel: usize| image.pixels().map(move |pixel| (f32::from(pixel.0[channel]) / 255.0 - 0.5) / 0.25);
    net.set_input(0, &(0..3).flat_map(channel).collect::<Vec<f32>>());
    net.forward(1, &Mode::Infer);
    let scores = softmax(&net.outputs(1)).expect("numbers");
    for prediction in predictions(&outcomes[0]) {
        let expected = scores[prediction.index as usize];
        assert!((prediction.score - expected).abs() < 1e-4, "{prediction:?} instead of {expected}");
    }
}

/// So many pictures that differ.
fn pictures(folder: &Path, count: u32) -> Vec<(String, PathBuf)> {
    let write = |number: u32| {
        let picture = folder.join(number.to_string());
        let pixel = |x: u32, y: u32| Rgb([(x * 4) as u8, (y * number) as u8, (x * y % 256) as u8]);
        let image = RgbImage::from_fn(64, 64, pixel);
        image.save_with_format(&picture, image::ImageFormat::Png).expect("a picture");
        (number.to_string(), picture)
    };
    (1..=count).map(write).collect()
}

#[test]
fn in_bf16_some_are_compared_and_nothing_is_left_behind() {
    let path = file("mobilenet_v3-13.onnx");
    let folder = tempfile::tempdir().expect("a folder");
    let images = pictures(folder.path(), 5);
    let model = model(10);
    let mut whole = Whole::load(&model, &path).expect("a model");
    let before = (whole.classify(&images, 10, 0.0), whole.classifier.bytes());
    let begin = |whole: &mut Whole, precision| {
        whole.classifier.begin((precision, &[]), (&model, &path), &Backend::Engine, &mut || {}).expect("ready");
    };
    begin(&mut whole, Precision::Bf16);
    let rounded = whole.classify(&images, 10, 0.0);
    if Simd::best().has_bf16() {
        let (precision, agreement) = whole.classifier.precision();
        assert_eq!((precision, agreement.map(|agreement| agreement.compared)), (Precision::Bf16, Some(2)));
        assert!(whole.classifier.bytes() > before.1, "it is another network");
        assert_ne!(rounded, before.0);
        for (rounded, full) in rounded.iter().zip(&before.0) {
            for prediction in predictions(rounded) {
                let same = predictions(full).iter().find(|full| full.index == prediction.index).expect("all are told");
                assert!((prediction.score - same.score).abs() < 0.02, "{prediction:?}, {same:?} in fp32");
            }
        }
    } else {
        assert_eq!(whole.classifier.precision(), (Precision::Fp32, None));
        assert_eq!((&rounded, whole.classifier.bytes()), (&before.0, before.1));
    }
    // The next order is in fp32 again, to the bit.
    begin(&mut whole, Precision::Fp32);
    assert_eq!(whole.classify(&images, 10, 0.0), before.0);
    assert_eq!(whole.classifier.precision(), (Precision::Fp32, None));
}

#[test]
fn in_int8_it_is_calibrated_and_nothing_is_left_behind() {
    let path = file("mobilenet_v3-13.onnx");
    let folder = tempfile::tempdir().expect("a folder");
    let images = pictures(folder.path(), 6);
    let model = model(10);
    let mut whole = Whole::load(&model, &path).expect("a model");
    let before = whole.classify(&images, 10, 0.0);
    let files: Vec<PathBuf> = images.iter().map(|(_, path)| path.clone()).collect();
    let begin = |whole: &mut Whole, asked: (Precision, &[PathBuf])| {
        let asked = (asked.0, &samples(asked.1)[..]);
        whole.classifier.begin(asked, (&model, &path), &Backend::Engine, &mut || {}).expect("ready");
    };
    begin(&mut whole, (Precision::Int8, &files[..]));
    let found = whole.classify(&images, 10, 0.0);
    if Simd::best().has_int8() {
        let (precision, agreement) = whole.classifier.precision();
        assert_eq!((precision, agreement.map(|agreement| agreement.compared)), (Precision::Int8, Some(2)));
        assert_ne!(found, before);
        // Another precision takes its place; back in int8 it is calibrated to the same bits.
        begin(&mut whole, (Precision::Bf16, &[]));
        whole.classify(&images, 10, 0.0);
        begin(&mut whole, (Precision::Int8, &files[..]));
        assert_eq!(whole.classify(&images[2..3], 10, 0.0), found[2..3], "alone");
        // A file that was changed under its name is looked at again.
        let white = RgbImage::from_pixel(64, 64, Rgb([255; 3]));
        white.save_with_format(&files[0], image::ImageFormat::Png).expect("a picture");
        begin(&mut whole, (Precision::Int8, &files[..]));
        assert_ne!(whole.classify(&images[2..3], 10, 0.0), found[2..3]);
        // An object never does, whenever its file was used.
        let object = |file: &PathBuf| Sample {
            sha256: Some(Digest::of(b"0")),
            ..samples(std::slice::from_ref(file))[0].clone()
        };
        let objects: Vec<Sample> = files.iter().map(object).collect();
        let mut calls = 0;
        let asked = (Precision::Int8, &objects[..]);
        whole.classifier.begin(asked, (&model, &path), &Backend::Engine, &mut || calls += 1).expect("ready");
        assert_eq!(calls, files.len(), "a sign of life after each");
        std::fs::File::options()
            .append(true)
            .open(&files[0])
            .and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH))
            .expect("a new time");
        assert!(whole.classifier.is_ready(Precision::Int8, &objects, &Backend::Engine));
        assert!(!whole.classifier.is_ready(Precision::Int8, &samples(&files), &Backend::Engine));
        // Without one of them the numbers would be others.
        let away = folder.path().join("away");
        std::fs::rename(&files[1], &away).expect("moved away");
        let asked = (Precision::Int8, &samples(&files)[..]);
        let error =
            whole.classifier.begin(asked, (&model, &path), &Backend::Engine, &mut || {}).expect_err("one is missing");
        assert!(error.to_string().contains(&format!("calibrated on `{}`", files[1].display())), "{error}");
        std::fs::rename(&away, &files[1]).expect("moved back");
    } else {
        assert_eq!(whole.classifier.precision(), (Precision::Fp32, None));
        assert_eq!(found, before);
    }
    begin(&mut whole, (Precision::Fp32, &[]));
    assert_eq!(whole.classify(&images[1..], 10, 0.0), before[1..]);
}

#[test]
fn its_head_makes_its_outputs_of_its_embedding() {
    let folder = tempfile::tempdir().expect("a folder");
    let picture = folder.path().join("picture");
    let pixel = |x: u32, y: u32| Rgb([(x * 4) as u8, (y * 4) as u8, (x * y % 256) as u8]);
    RgbImage::from_fn(64, 64, pixel).save_with_format(&picture, image::ImageFormat::Png).expect("a picture");
    let picture = [("picture".to_owned(), picture)];
    for name in ["mobilenet_v3-13.onnx", "resnet-11.onnx"] {
        let answer = |output: Output| {
            let wanted = Wanted { output, scores: Scores::Raw, top_k: 10, threshold: None };
            Whole::of(&model(10), &file(name), output).expect("a model").answer(&picture, &wanted).remove(0)
        };
        let ImageVerdict::Embedding(embedding) = answer(Output::Embedding).verdict else { panic!("no embedding") };
        let network = ::onnx::load(&file(name), &::onnx::Options::default()).expect("a network");
        let head = network.graph.nodes().iter().rev().find_map(|node| match node.op {
            engine::graph::Op::Linear { weight, bias } | engine::graph::Op::Conv { weight, bias, .. } => {
                Some((weight, bias))
            }
            _ => None,
        });
        let (weight, bias) = head.expect("a head");
        let parameter = |id: engine::graph::ParameterId| network.parameters[id.index()].read(&mut Vec::new()).to_vec();
        let weight = parameter(weight);
        let bias = bias.map(parameter);
        let weights = weight.chunks_exact(embedding.len());
        let products: Vec<f64> =
            weights.map(|row| row.iter().zip(&embedding).map(|(a, b)| f64::from(a * b)).sum()).collect();
        for prediction in predictions(&answer(Output::Labels)) {
            let at = prediction.index as usize;
            let expected = products[at] + bias.as_ref().map_or(0.0, |bias| f64::from(bias[at]));
            assert!((prediction.score - expected).abs() < 1e-3, "{name}: {prediction:?} instead of {expected}");
        }
    }
}

#[test]
fn one_that_does_not_fit_is_refused() {
    let refused = |labels: usize, name: &str| {
        let error = Whole::load(&model(labels), &file(name)).expect_err("it does not fit").to_string();
        assert!(error.contains("the model `m`"), "{error}");
        error
    };
    assert!(refused(9, "mobilenet_v3-13.onnx").contains("to [9] is needed"));
    assert!(refused(10, "vit-14.onnx").contains("it is 32 high or wide, not 64"));
    assert!(refused(10, "resnet-18.onnx").contains("it lies in another file"));
    assert!(refused(10, "make.py").contains("is no ONNX file"));
}
