//! Scores of every kind, and embeddings.

use super::*;

fn image(folder: &Path, name: &str, colour: [u8; 3]) -> (String, PathBuf) {
    let path = folder.join(name);
    RgbImage::from_pixel(4, 4, Rgb(colour)).save_with_format(&path, image::ImageFormat::Png).expect("a picture");
    (name.into(), path)
}

/// A network whose outputs are the means of the channels, and a red picture.
fn means() -> (tempfile::TempDir, Model, PathBuf, (String, PathBuf)) {
    let folder = tempfile::tempdir().expect("a folder");
    let layers = json!([{"type": "global_avg_pool"}, {"type": "linear", "units": 3, "bias": false}]);
    let weights = folder.path().join("weights");
    let eye = Tensor::eye(3, DType::F32, &Device::Cpu).expect("a tensor");
    weights::write(&weights, &[("1.weight".into(), eye)], None).expect("a file");
    let red = image(folder.path(), "red", [255, 0, 0]);
    (folder, model(&[3, 2, 2], &layers, 3), weights, red)
}

fn embedding(outcome: &ImageOutcome) -> &[f32] {
    match &outcome.verdict {
        ImageVerdict::Embedding(numbers) => numbers,
        other => panic!("{other:?}"),
    }
}

const FEATURES: Wanted = Wanted { output: Output::Embedding, scores: Scores::Softmax, top_k: 5, threshold: None };

fn batch(value: &serde_json::Value) -> Batch {
    let mut whole = json!({"model": {"key": "m", "sha256": "0".repeat(64)}, "images": []});
    whole.as_object_mut().expect("an object").extend(value.as_object().expect("an object").clone());
    serde_json::from_value(whole).expect("a batch")
}

#[test]
fn outputs_become_what_the_batch_or_the_model_says() {
    let (_folder, mut model, weights, red) = means();
    let mut whole = Whole::load(&model, &weights).expect("a classifier");
    let bright: f64 = (1.0 - 0.5) / 0.29;
    let dark = -bright;
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let mut found = |batch: &Batch, model: &Model| -> Vec<f64> {
        let outcome = whole.answer(std::slice::from_ref(&red), &Wanted::of(batch, model)).remove(0);
        predictions(&outcome).iter().map(|prediction| prediction.score).collect()
    };
    let close = |found: &[f64], expected: &[f64]| {
        assert_eq!(found.len(), expected.len(), "{found:?}, {expected:?}");
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}, {expected:?}");
    };
    let sum = bright.exp() + 2.0 * dark.exp();
    close(&found(&batch(&json!({})), &model), &[bright.exp() / sum, dark.exp() / sum, dark.exp() / sum]);
    close(&found(&batch(&json!({"scores": "raw"})), &model), &[bright, dark, dark]);
    close(&found(&batch(&json!({"scores": "raw", "threshold": 0.0})), &model), &[bright]);
    // A model of several labels: those that are more likely than not, or than what is asked for.
    model.scores = Scores::Sigmoid;
    close(&found(&batch(&json!({})), &model), &[sigmoid(bright)]);
    close(&found(&batch(&json!({"threshold": 0.1})), &model), &[sigmoid(bright), sigmoid(dark), sigmoid(dark)]);
    close(&found(&batch(&json!({"scores": "raw", "top_k": 1})), &model), &[bright]);
}

#[test]
fn an_embedding_is_what_the_last_layer_with_weights_reads() {
    let (folder, plain, weights, red) = means();
    let mut whole = Whole::of(&plain, &weights, Output::Embedding).expect("a classifier");
    let expected = [1.0f32, 0.0, 0.0].map(|share| (share - 0.5) / 0.29);
    let check = |found: &[f32]| {
        assert_eq!(found.len(), 3, "{found:?}");
        assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{found:?}");
    };
    check(embedding(&whole.answer(std::slice::from_ref(&red), &FEATURES)[0]));
    // A head that is a convolution, as SqueezeNet's: the mean of the maps that it reads.
    let layers = json!([
        {"type": "dropout", "rate": 0.5}, {"type": "conv", "filters": 5, "kernel": 1}, {"type": "relu"}, {"type": "global_avg_pool"}
    ]);
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).expect("a tensor");
    let head = [("1.weight".into(), zeros(&[5, 3, 1, 1])), ("1.bias".into(), zeros(&[5]))];
    let weights = folder.path().join("head");
    weights::write(&weights, &head, None).expect("a file");
    let mut whole = Whole::of(&model(&[3, 2, 2], &layers, 5), &weights, Output::Embedding).expect("a classifier");
    check(embedding(&whole.answer(&[red], &FEATURES)[0]));
    // A linear layer alone reads the picture.
    let layers = json!([{"type": "flatten"}, {"type": "linear", "units": 2, "bias": false}]);
    weights::write(&weights, &[("1.weight".into(), zeros(&[2, 12]))], None).expect("a file");
    let mut whole = Whole::of(&model(&[3, 2, 2], &layers, 2), &weights, Output::Embedding).expect("a classifier");
    let blue = image(folder.path(), "blue", [0, 0, 255]);
    let found = whole.answer(&[blue], &FEATURES);
    let channel = |at: usize| (if at < 8 { 0.0 } else { 1.0 } - 0.5) / 0.29;
    let found = embedding(&found[0]);
    assert_eq!(found.len(), 12);
    assert!(found.iter().enumerate().all(|(at, number)| (number - channel(at)).abs() < 1e-6), "{found:?}");
}

#[test]
fn a_network_without_one_last_layer_has_no_embedding() {
    let folder = tempfile::tempdir().expect("a folder");
    let linear = json!({"type": "linear", "units": 2, "bias": false});
    let two = json!([{"type": "flatten"}, {"type": "residual", "layers": [linear], "shortcut": [linear]}]);
    let zeros = Tensor::zeros((2, 12), DType::F32, &Device::Cpu).expect("a tensor");
    let weights = folder.path().join("weights");
    let parameters = Network { layers: serde_json::from_value(two.clone()).expect("layers") };
    let parameters = parameters.parameters(&[3, 2, 2]).expect("a network");
    let tensors: Vec<_> = parameters.iter().map(|parameter| (parameter.name.clone(), zeros.clone())).collect();
    weights::write(&weights, &tensors, None).expect("a file");
    let refused = Whole::of(&model(&[3, 2, 2], &two, 2), &weights, Output::Embedding).expect_err("refused").to_string();
    assert!(refused.contains("the network has no embedding"), "{refused}");
}

/// A network with convolutions, batch norm and a residual block, with noise for weights.
fn mixed(folder: &Path) -> (Model, PathBuf) {
    let layers = json!([
        {"type": "conv", "filters": 20, "kernel": 3, "padding": "same"}, {"type": "batch_norm"}, {"type": "relu"},
        {"type": "residual", "layers": [{"type": "conv", "filters": 20, "kernel": 3, "padding": "same"}, {"type": "relu"}]},
        {"type": "max_pool", "kernel": 2}, {"type": "conv", "filters": 33, "kernel": 1}, {"type": "activation", "function": "silu"},
        {"type": "global_avg_pool"}, {"type": "linear", "units": 7}
    ]);
    let model = model(&[3, 24, 20], &layers, 7);
    let network = Network { layers: serde_json::from_value(layers).expect("layers") };
    let tensor = |parameter: &shared::contract::Parameter| {
        let count = parameter.shape.iter().product();
        let noise: Vec<f32> = crate::compute::tests::noise(&parameter.name, count)
            .into_iter()
            .map(|x| (0.2 * x as f32).abs() + 0.05)
            .collect();
        let tensor = Tensor::from_vec(noise, parameter.shape.as_slice(), &Device::Cpu).expect("a tensor");
        (parameter.name.clone(), tensor)
    };
    let tensors: Vec<_> = network.parameters(&[3, 24, 20]).expect("a network").iter().map(tensor).collect();
    let weights = folder.join("mixed");
    weights::write(&weights, &tensors, None).expect("a file");
    (model, weights)
}

#[test]
fn numbers_depend_on_no_batch_neighbour_or_thread() {
    let folder = tempfile::tempdir().expect("a folder");
    let (model, weights) = mixed(folder.path());
    let mut images: Vec<_> =
        (0..9u8).map(|n| image(folder.path(), &format!("{n}"), [n * 28, 255 - n * 20, n * n])).collect();
    let broken = folder.path().join("broken");
    std::fs::write(&broken, b"no picture").expect("a file");
    let kinds = [Scores::Softmax, Scores::Sigmoid, Scores::Raw].map(|scores| Wanted {
        output: Output::Labels,
        scores,
        top_k: 7,
        threshold: None,
    });
    for wanted in kinds.into_iter().chain([FEATURES]) {
        let load = || Whole::of(&model, &weights, wanted.output).expect("a classifier");
        let with = |threads: usize, images: &[(String, PathBuf)]| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            pool.install(|| load().answer(images, &wanted))
        };
        let mut alone: Vec<_> = images.iter().flat_map(|one| with(1, std::slice::from_ref(one))).collect();
        let text = |outcomes: &[ImageOutcome]| serde_json::to_string(outcomes).expect("plain data");
        assert_eq!(text(&with(1, &images)), text(&alone), "{wanted:?}, together");
        for threads in [2, 3, 4] {
            assert_eq!(text(&with(threads, &images)), text(&alone), "{wanted:?}, {threads} threads");
        }
        // In another order, with a broken one between them.
        images.reverse();
        alone.reverse();
        let mut mixed = images.clone();
        mixed.insert(4, ("broken".into(), broken.clone()));
        let mut found = with(2, &mixed);
        assert!(matches!(found.remove(4).verdict, ImageVerdict::Error(_)));
        assert_eq!(text(&found), text(&alone), "{wanted:?}, in another order");
    }
}
