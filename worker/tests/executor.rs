//! Executors as the supervisor has them: real processes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use image::{Rgb, RgbImage};
use serde_json::json;
use shared::contract::{ErrorCode, ImageOutcome, ImageVerdict, Output, Precision, Scores};
use tokio_util::sync::CancellationToken;
use worker::compute::Wanted;
use worker::executor::{Classify, Death, Executor, ExecutorSettings, Order, Report, Say};

/// One label a picture.
const ONE: Wanted = Wanted { output: Output::Labels, scores: Scores::Softmax, top_k: 1, threshold: None };

/// An order's limit that none of these reaches.
const LONG: Duration = Duration::from_secs(3600);

fn settings() -> ExecutorSettings {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_gannet-worker"));
    ExecutorSettings { stall: Duration::from_secs(120), ..ExecutorSettings::new(program) }
}

/// A folder with weights that see whether a picture is red or blue.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let weight: Vec<u8> = [1.0f32, 0.0, -1.0, -1.0, 0.0, 1.0].iter().flat_map(|w| w.to_le_bytes()).collect();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![2, 3], &weight).expect("a tensor");
    let file = safetensors::serialize([("1.weight", view)], None).expect("a file");
    std::fs::write(folder.path().join("weights"), file).expect("a file");
    folder
}

fn picture(folder: &Path, name: &str, side: u32, colour: [u8; 3]) -> (String, PathBuf) {
    let path = folder.join(format!("{name}.png"));
    RgbImage::from_pixel(side, side, Rgb(colour)).save(&path).expect("a picture");
    (name.into(), path)
}

/// An order to label `images` as `labels[0]` (red) or `labels[1]` (blue).
fn order(folder: &Path, labels: [&str; 2], images: Vec<(String, PathBuf)>) -> Order {
    let model = json!({
        "name": "colours",
        "config": {"input": [3, 1, 1], "network": {"layers": [
            {"type": "flatten"}, {"type": "linear", "units": 2, "bias": false}
        ]}},
        "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.1, 0.1]},
        "labels": labels,
        "weights": {"key": "w", "sha256": "0".repeat(64)}
    });
    let model = serde_json::from_value(model).expect("a model");
    let (weights, precision) = (folder.join("weights"), Precision::Fp32);
    Order::Classify(Box::new(Classify { model, weights, images, wanted: ONE, precision, calibration: Vec::new() }))
}

async fn run(executor: &Executor, order: &Order) -> Result<Vec<ImageOutcome>, Death> {
    match executor.run(order, LONG, &mut |_| (), &CancellationToken::new(), &CancellationToken::new()).await? {
        (_, Report::Classified { images, .. }) => Ok(images),
        (_, other) => panic!("{other:?}"),
    }
}

fn labels(outcomes: &[ImageOutcome]) -> Vec<String> {
    let label = |outcome: &ImageOutcome| match &outcome.verdict {
        ImageVerdict::Predictions(found) => format!("{} {}", outcome.image, found[0].label),
        ImageVerdict::Error(error) => format!("{} {}", outcome.image, error.code),
        ImageVerdict::Embedding(_) => panic!("{outcome:?}"),
    };
    outcomes.iter().map(label).collect()
}

#[tokio::test]
async fn two_orders_at_once_are_both_carried_out_each_with_its_own_labels() {
    let folder = folder();
    let at = folder.path();
    let (red, blue) = (picture(at, "red", 3, [255, 0, 0]), picture(at, "blue", 40, [0, 0, 255]));
    let missing = ("missing".to_owned(), at.join("nowhere.png"));
    // More than are read at once.
    let many: Vec<_> = std::iter::repeat_n([red.clone(), blue.clone(), missing.clone()], 30).flatten().collect();
    let english = order(at, ["red", "blue"], many);
    // The same weights under other labels.
    let german = order(at, ["rot", "blau"], vec![blue, red]);
    let executor = Executor::start(&settings()).await.expect("an executor");
    for _ in 0..3 {
        let (english, german) = tokio::join!(run(&executor, &english), run(&executor, &german));
        let expected = ["red red", "blue blue", "missing not_found"].repeat(30);
        assert_eq!(labels(&english.expect("labels")), expected);
        assert_eq!(labels(&german.expect("labels")), ["blue blau", "red rot"]);
    }
}

/// An order to label a picture with a model of one layer that has so many MiB of weights.
fn large(folder: &Path, name: &str, mib: usize, image: (String, PathBuf)) -> Order {
    let (inputs, units) = (3 * 64 * 64, mib * (1 << 20) / (4 * 3 * 64 * 64));
    let (weights, whole) = (folder.join(name), folder.join("whole"));
    if !whole.exists() {
        let zeros = vec![0; 4 * inputs * units];
        let view = safetensors::tensor::TensorView::new(safetensors::Dtype::F32, vec![units, inputs], &zeros);
        let file = safetensors::serialize([("1.weight", view.expect("a tensor"))], None).expect("a file");
        std::fs::write(&whole, file).expect("a file");
    }
    if !weights.exists() {
        std::fs::hard_link(&whole, &weights).expect("another name");
    }
    let model = json!({
        "name": name,
        "config": {"input": [3, 64, 64], "network": {"layers": [
            {"type": "flatten"}, {"type": "linear", "units": units, "bias": false}
        ]}},
        "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.1, 0.1]},
        "labels": (0..units).map(|label| format!("{name} {label}")).collect::<Vec<_>>(),
        "weights": {"key": "w", "sha256": "0".repeat(64)}
    });
    let model = serde_json::from_value(model).expect("a model");
    let (images, precision) = (vec![image], Precision::Fp32);
    Order::Classify(Box::new(Classify { model, weights, images, wanted: ONE, precision, calibration: Vec::new() }))
}

#[tokio::test]
async fn models_in_turn_that_do_not_all_fit_fail_no_order() {
    let folder = folder();
    let red = picture(folder.path(), "red", 3, [255, 0, 0]);
    // A quarter of its memory is for models: room for two. All of it would not hold all of them.
    let mut settings = settings();
    settings.limit_memory(Some(600 << 20));
    settings.recycle_memory = None;
    let executor = Executor::start(&settings).await.expect("an executor");
    for name in "abcabcbacdefghijabc".chars().map(String::from) {
        let order = large(folder.path(), &name, 60, red.clone());
        let labelled = run(&executor, &order).await.unwrap_or_else(|death| panic!("{name}: {death}"));
        assert_eq!(labels(&labelled), [format!("red {name} 0")]);
    }
    assert!(executor.is_alive());
}

#[tokio::test]
async fn an_order_that_cannot_be_carried_out_does_not_touch_the_next() {
    let folder = folder();
    let red = picture(folder.path(), "red", 3, [255, 0, 0]);
    let good = order(folder.path(), ["red", "blue"], vec![red.clone()]);
    let Order::Classify(mut bad) = order(folder.path(), ["red", "blue"], vec![red; 50]) else { unreachable!() };
    bad.weights = folder.path().join("nowhere");
    let bad = Order::Classify(bad);
    let executor = Executor::start(&settings()).await.expect("an executor");
    let (pause, give_up) = (CancellationToken::new(), CancellationToken::new());
    let mut each = |_: Say| ();
    let (failed, labelled) = tokio::join!(executor.run(&bad, LONG, &mut each, &pause, &give_up), run(&executor, &good));
    // Weights that came from the cache and are gone are no fault of the job.
    let (_, Report::Disk(report)) = failed.expect("a report") else { panic!("it has no weights") };
    assert_eq!(report.code, ErrorCode::Failed, "{report}");
    assert_eq!(labels(&labelled.expect("labels")), ["red red"]);
}

#[tokio::test]
async fn nobody_is_blamed_when_an_executor_dies_with_two_orders() {
    let folder = folder();
    let large = picture(folder.path(), "large", 3000, [255, 0, 0]);
    let long = order(folder.path(), ["red", "blue"], vec![large; 1000]);
    let executor = Executor::start(&settings()).await.expect("an executor");
    let (pause, give_up) = (CancellationToken::new(), CancellationToken::new());
    // The first one's caller gives up when the other one has been sent.
    let heard = AtomicUsize::new(0);
    let mut each = |_: Say| {
        if heard.fetch_add(1, Ordering::Relaxed) == 1 {
            give_up.cancel();
        }
    };
    let (first, second) = tokio::join!(executor.run(&long, LONG, &mut each, &pause, &give_up), run(&executor, &long));
    assert!(matches!(first, Err(Death::GivenUp)), "{first:?}");
    assert!(matches!(second, Err(Death::InCompany(_))), "{second:?}");
    assert!(!executor.is_alive());
    let third = run(&executor, &long).await;
    assert!(matches!(third, Err(Death::InCompany(_))), "sent too late: {third:?}");
}
