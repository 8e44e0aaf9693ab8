//! SqueezeNet 1.1 (Iandola et al. 2016) with torchvision's weights sees what PyTorch sees.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::*;

fn conv(name: &str, filters: usize, kernel: usize, padding: usize) -> Value {
    json!({"type": "conv", "name": name, "filters": filters, "kernel": kernel, "padding": padding})
}

/// A fire module: a squeeze by 1 x 1, then an expansion by 1 x 1 beside one by 3 x 3.
fn fire(layers: &mut Vec<Value>, at: usize, squeeze: usize, expand: usize) {
    let branch = |side: usize| {
        let name = format!("features.{at}.expand{side}x{side}");
        json!([conv(&name, expand, side, side / 2), {"type": "relu"}])
    };
    layers.extend([conv(&format!("features.{at}.squeeze"), squeeze, 1, 0), json!({"type": "relu"})]);
    layers.push(json!({"type": "parallel", "branches": [branch(1), branch(3)]}));
}

fn network() -> Value {
    let pool = json!({"type": "max_pool", "kernel": 3, "stride": 2, "ceil": true});
    let mut first = conv("features.0", 64, 3, 0);
    first["stride"] = json!(2);
    let mut layers = vec![first, json!({"type": "relu"}), pool.clone()];
    fire(&mut layers, 3, 16, 64);
    fire(&mut layers, 4, 16, 64);
    layers.push(pool.clone());
    fire(&mut layers, 6, 32, 128);
    fire(&mut layers, 7, 32, 128);
    layers.push(pool);
    fire(&mut layers, 9, 48, 192);
    fire(&mut layers, 10, 48, 192);
    fire(&mut layers, 11, 64, 256);
    fire(&mut layers, 12, 64, 256);
    layers.extend([json!({"type": "dropout", "rate": 0.5}), conv("classifier.1", 1000, 1, 0)]);
    layers.extend([json!({"type": "relu"}), json!({"type": "global_avg_pool"})]);
    Value::Array(layers)
}

/// The folder of data that every developer has, beside the repository or further up.
fn data() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().map(|folder| folder.join("shared/data")).find(|data| data.join("squeezenet1_1").is_dir())
}

/// The network's manifest for pictures of `side` by `side` pixels, cut out of ones whose shorter edge has 8/7 of these, and its weights.
fn pretrained(data: &Path, side: usize) -> (Model, PathBuf) {
    let labels = std::fs::read_to_string(data.join("squeezenet1_1/labels.txt")).expect("labels");
    let model = serde_json::from_value(json!({
        "name": "squeezenet", "config": {"input": [3, side, side], "network": {"layers": network()}},
        "preprocessing": {
            "resize": {"shortest_edge": side * 8 / 7}, "filter": "bilinear", "rescale": 1.0,
            "mean": [123.0, 117.0, 104.0], "std": [1.0, 1.0, 1.0]
        },
        "labels": labels.lines().collect::<Vec<_>>(),
        "weights": {"key": "w", "sha256": "0".repeat(64)}
    }));
    (model.expect("a model"), data.join("squeezenet1_1/model.safetensors"))
}

/// The pictures with the five best labels that are expected of each.
fn photographs(data: &Path) -> BTreeMap<String, Vec<Prediction>> {
    let expected = std::fs::read_to_string(data.join("images/expected-top5.json")).expect("labels");
    serde_json::from_str(&expected).expect("labels")
}

/// Every picture's labels, all thousand, and the five that are expected; nothing where the data is not there.
fn outcomes(test: &str) -> Vec<(ImageOutcome, Vec<Prediction>)> {
    let Some(data) = data() else {
        eprintln!("SKIPPED {test}: ../shared/data/squeezenet1_1 is not there");
        return Vec::new();
    };
    let (model, weights) = pretrained(&data, 224);
    let mut classifier = Whole::load(&model, &weights).expect("a classifier");
    let expected = photographs(&data);
    let images: Vec<_> = expected.keys().map(|name| (name.clone(), data.join("images").join(name))).collect();
    assert!(images.len() > 10);
    let start = std::time::Instant::now();
    let found = classifier.classify(&images, 1000, 0.0);
    let rate = images.len() as f64 / start.elapsed().as_secs_f64();
    eprintln!("{rate:.1} pictures a second on {} threads", rayon::current_num_threads());
    found.into_iter().zip(expected.into_values()).collect()
}

/// The accepted error of a score.
const TOLERANCE: f64 = 0.02;

#[test]
fn a_pretrained_network_gives_the_known_labels_and_scores() {
    let mut furthest: f64 = 0.0;
    for (outcome, expected) in outcomes("a_pretrained_network_gives_the_known_labels_and_scores") {
        let found = predictions(&outcome);
        for wanted in &expected {
            let found = found.iter().find(|p| p.index == wanted.index).expect("every label");
            assert_eq!(found.label, wanted.label);
            furthest = furthest.max((found.score - wanted.score).abs());
            assert!((found.score - wanted.score).abs() < TOLERANCE, "{}: {found:?}, not {wanted:?}", outcome.image);
        }
        assert_eq!(predictions(&outcome)[0].index, expected[0].index, "the best of {}", outcome.image);
    }
    eprintln!("the scores are at most {furthest:.5} apart");
}

/// Nine parts of every photograph, each two thirds as high and wide.
fn parts(data: &Path, folder: &Path) -> Vec<(String, PathBuf)> {
    const WHOLE: usize = 336;
    const PART: u32 = 224;
    let reader = PictureReader::of(&pretrained(data, WHOLE).0).expect("a reader");
    let mut parts = Vec::new();
    for name in photographs(data).into_keys() {
        let planes = reader.read(&data.join("images").join(&name)).expect("a picture");
        for part in 0..9 {
            let [left, top] = [part % 3, part / 3].map(|at| at * (WHOLE - PART as usize) / 2);
            let pixel = |x: u32, y: u32| {
                let at = (top + y as usize) * WHOLE + left + x as usize;
                Rgb([0, 1, 2].map(|channel| planes[channel * WHOLE * WHOLE + at]))
            };
            let path = folder.join(format!("{name}-{part}"));
            let cut = RgbImage::from_fn(PART, PART, pixel);
            cut.save_with_format(&path, image::ImageFormat::Bmp).expect("a picture");
            parts.push((format!("{name}-{part}"), path));
        }
    }
    parts
}

#[test]
fn int8_mostly_sees_what_fp32_sees() {
    const TEST: &str = "int8_mostly_sees_what_fp32_sees";
    let Some(data) = data() else {
        eprintln!("SKIPPED {TEST}: ../shared/data/squeezenet1_1 is not there");
        return;
    };
    if !simd().has_int8() {
        eprintln!("SKIPPED {TEST}: it needs AVX-512 VNNI and VBMI");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let parts = parts(&data, folder.path());
    // Others than those that are compared.
    let calibration: Vec<PathBuf> = parts.iter().step_by(3).map(|(_, path)| path.clone()).collect();
    let compared: Vec<_> =
        parts.iter().enumerate().filter(|(at, _)| at % 3 != 0).map(|(_, part)| part.clone()).collect();
    let (model, weights) = pretrained(&data, 224);
    let mut whole = Whole::load(&model, &weights).expect("a classifier");
    let full = whole.classify(&compared, 2, 0.0);
    let begin = |whole: &mut Whole, calibration: &[PathBuf]| {
        let asked = (Precision::Int8, &samples(calibration)[..]);
        whole.classifier.begin(asked, (&model, &weights), &Backend::Engine, &mut || {}).expect("ready");
    };
    begin(&mut whole, &calibration);
    let short = whole.classify(&compared, 2, 0.0);
    assert_eq!(whole.classifier.precision().0, Precision::Int8);
    let best = |outcome: &ImageOutcome| predictions(outcome)[0].index;
    // Many of these parts show little: fp32's two best labels are then as good as one another, and any rounding swaps some.
    let (mut agreed, mut sure, mut agreed_and_sure) = (0, 0, 0);
    for (full, short) in full.iter().zip(&short) {
        let is_same = usize::from(best(full) == best(short));
        let is_sure = usize::from(predictions(full)[0].score - predictions(full)[1].score > 0.1);
        (agreed, sure, agreed_and_sure) = (agreed + is_same, sure + is_sure, agreed_and_sure + is_same * is_sure);
    }
    let all = compared.len();
    eprintln!(
        "{agreed} of {all} have the same best label; of those whose best label is 0.1 ahead {agreed_and_sure} of {sure}"
    );
    assert!(agreed * 100 >= all * 80 && 2 * sure > all && sure == agreed_and_sure, "{agreed} of {all}");
    // The same pictures to calibrate on, the same bits; others, others. Files that are no pictures say nothing.
    begin(&mut whole, &calibration[..8]);
    assert_ne!(whole.classify(&compared, 2, 0.0), short);
    begin(&mut whole, &[calibration.clone(), vec![weights.clone()]].concat());
    assert_eq!(whole.classify(&compared, 2, 0.0), short);
    begin(&mut whole, std::slice::from_ref(&weights));
    assert_eq!(whole.classifier.precision(), (Precision::Fp32, None));
    assert_eq!(whole.classify(&compared, 2, 0.0), full);
}
