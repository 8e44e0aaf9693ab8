//! What an executor may die of, and what its supervisor makes of it: real processes.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use shared::contract::{ErrorCode, Output, Precision, Scores};
use tokio_util::sync::CancellationToken;
use worker::compute::Wanted;
use worker::executor::{Classify, Death, Executor, ExecutorSettings, Order, Report, Say};

/// One label a picture.
const ONE: Wanted = Wanted { output: Output::Labels, scores: Scores::Softmax, top_k: 1, threshold: None };

#[path = "../../tests/src/disk.rs"]
pub mod disk;

/// An order's limit that none of these reaches.
const LONG: Duration = Duration::from_secs(3600);
/// One that each of these reaches.
const SHORT: Duration = Duration::from_millis(100);

fn settings() -> ExecutorSettings {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_gannet-worker"));
    ExecutorSettings { stall: Duration::from_secs(120), ..ExecutorSettings::new(program) }
}

/// One of the programs that behave like no executor should.
fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs").join(name)
}

async fn start(settings: &ExecutorSettings) -> Executor {
    Executor::start(settings).await.expect("an executor")
}

/// Orders over one folder of files.
struct Orders(tempfile::TempDir);

impl Orders {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let pixels: Vec<u8> = (0..64 * 64 * 20u32).map(|at| (at * 7 % 251) as u8).collect();
        let labels: Vec<u8> = (0..20u32).flat_map(|row| (row % 3).to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new;
        let inputs = view(safetensors::Dtype::U8, vec![20, 1, 64, 64], &pixels).expect("inputs");
        let labels = view(safetensors::Dtype::U32, vec![20], &labels).expect("labels");
        let rows = folder.path().join("rows");
        safetensors::serialize_to_file([("inputs", inputs), ("labels", labels)], None, &rows).expect("a file");
        let weight: Vec<u8> = [1.0f32, 0.0, -1.0, -1.0, 0.0, 1.0].iter().flat_map(|w| w.to_le_bytes()).collect();
        let weight = view(safetensors::Dtype::F32, vec![2, 3], &weight).expect("a tensor");
        let weights = folder.path().join("weights");
        safetensors::serialize_to_file([("1.weight", weight)], None, &weights).expect("a file");
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Trains a network with one hidden layer.
    fn train(&self, hidden: u32, epochs: u32, out: PathBuf) -> Order {
        let object = json!({"key": "some/object", "sha256": "0".repeat(64)});
        let trial = json!({
            "network": {"layers": [
                {"type": "flatten"}, {"type": "linear", "units": hidden}, {"type": "linear", "units": 3}
            ]},
            "data": {"dataset": object, "validation_rows": 5},
            "training": {"epochs": epochs, "batch_size": 5, "optimizer": {"type": "sgd", "learning_rate": 1e-9}},
            "seed": 1
        });
        let dataset = json!({
            "name": "rows", "shape": [1, 64, 64], "elements": "u8", "classes": 3, "mean": [0.5], "std": [0.3],
            "splits": {"train": {"object": object, "rows": 20}}
        });
        Order::Train { trial: read(trial), dataset: read(dataset), train: self.path("rows"), resume: None, out }
    }

    /// Labels a large picture so many times.
    fn classify(&self, count: usize) -> Order {
        let picture = self.path("picture.png");
        RgbImage::from_pixel(2000, 2000, Rgb([255, 0, 0])).save(&picture).expect("a picture");
        let model = json!({
            "name": "colours",
            "config": {"input": [3, 1, 1], "network": {"layers": [
                {"type": "flatten"}, {"type": "linear", "units": 2, "bias": false}
            ]}},
            "preprocessing": {"mean": [0.5, 0.5, 0.5], "std": [0.1, 0.1, 0.1]},
            "labels": ["red", "blue"],
            "weights": {"key": "w", "sha256": "0".repeat(64)}
        });
        let images = vec![("red".to_owned(), picture); count];
        let weights = self.path("weights");
        let model = serde_json::from_value(model).expect("a model");
        let precision = Precision::Fp32;
        Order::Classify(Box::new(Classify { model, weights, images, wanted: ONE, precision, calibration: Vec::new() }))
    }
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("as the contract has it")
}

async fn run(executor: &Executor, order: &Order, limit: Duration, each: &mut (dyn FnMut(Say) + Send)) -> Ran {
    let never = CancellationToken::new();
    executor.run(order, limit, each, &never, &never).await
}

type Ran = Result<(u64, Report), Death>;

fn send(signal: i32, executor: &Executor) {
    // SAFETY: a signal to a child of ours, which has not been waited for while `executor` lives.
    unsafe { libc::kill(executor.id() as libc::pid_t, signal) };
}

#[tokio::test]
async fn an_executor_that_dies_of_a_signal_says_which() {
    let orders = Orders::new();
    let order = orders.classify(1000);
    for (signal, name) in [
        (libc::SIGSEGV, "signal 11 (SIGSEGV)"),
        (libc::SIGABRT, "signal 6 (SIGABRT)"),
        (libc::SIGBUS, "signal 7 (SIGBUS)"),
        (libc::SIGKILL, "(SIGKILL)"),
    ] {
        let executor = start(&settings()).await;
        let death = run(&executor, &order, LONG, &mut |_| send(signal, &executor)).await.expect_err("it dies");
        assert!(death.to_string().contains(name), "{death}");
        assert!(!executor.is_alive());
    }
}

#[tokio::test]
async fn an_executor_that_leaves_says_its_exit_code_and_its_last_words() {
    let executor = start(&ExecutorSettings { program: program("quitter"), ..settings() }).await;
    let death = run(&executor, &Orders::new().classify(1), LONG, &mut |_| ()).await.expect_err("it leaves");
    assert_eq!(death.code(), ErrorCode::Crashed);
    let text = death.to_string();
    assert!(text.contains("exit code 3") && text.contains("I am off"), "{text}");
}

#[tokio::test]
async fn an_executor_out_of_memory_says_so_and_dies_alone() {
    let orders = Orders::new();
    let settings = ExecutorSettings { memory: Some(256 << 20), ..settings() };
    let executor = start(&settings).await;
    // Parameters of a gigabyte.
    let order = orders.train(65_536, 1, orders.path("out"));
    let death = run(&executor, &order, LONG, &mut |_| ()).await.expect_err("it dies");
    assert_eq!(death.code(), ErrorCode::OutOfMemory, "{death}");
    let text = death.to_string();
    assert!(text.contains("256 MiB were full") && text.contains("--executor-mib"), "{text}");
    // What fits is done by the next one.
    let order = orders.train(8, 1, orders.path("out"));
    let (_, report) = run(&start(&settings).await, &order, LONG, &mut |_| ()).await.expect("a report");
    assert!(matches!(report, Report::Trained { .. }), "{report:?}");
}

#[tokio::test]
async fn an_executor_ends_an_order_at_its_limit_and_takes_the_next() {
    let orders = Orders::new();
    let executor = start(&settings()).await;
    let (_, report) = run(&executor, &orders.classify(100_000), SHORT, &mut |_| ()).await.expect("a report");
    assert!(matches!(report, Report::Ended(done) if done < 1.0), "{report:?}");
    let (_, report) =
        run(&executor, &orders.train(8, 100_000, orders.path("out")), SHORT, &mut |_| ()).await.expect("a report");
    assert!(matches!(report, Report::Paused), "{report:?}");
    // Counted from its own turn, and an end that comes late is not meant for the next.
    let (long, short) = (orders.classify(100_000), orders.classify(1));
    let (mut mute, mut silent) = (|_: Say| (), |_: Say| ());
    let (first, second) =
        tokio::join!(run(&executor, &long, SHORT, &mut mute), run(&executor, &short, LONG, &mut silent));
    assert!(matches!(first, Ok((_, Report::Ended(_)))), "{first:?}");
    assert!(matches!(second, Ok((_, Report::Classified { .. }))), "{second:?}");
}

#[tokio::test]
async fn an_executor_that_hangs_is_killed_for_its_silence() {
    let stall = Duration::from_secs(1);
    let executor = start(&ExecutorSettings { stall, ..settings() }).await;
    let orders = Orders::new();
    let order = orders.classify(1000);
    let death = run(&executor, &order, LONG, &mut |_| send(libc::SIGSTOP, &executor)).await.expect_err("killed");
    assert!(matches!(death, Death::Silent(silent) if silent == stall), "{death}");
    assert_eq!(death.code(), ErrorCode::TimeLimit);
    assert!(death.to_string().starts_with("time limit: "), "{death}");
}

#[tokio::test]
async fn an_executor_that_does_not_end_its_order_is_killed() {
    let stall = Duration::from_secs(1);
    let executor = start(&ExecutorSettings { program: program("chatterbox"), stall, ..settings() }).await;
    let death = run(&executor, &Orders::new().classify(1), SHORT, &mut |_| ()).await.expect_err("killed");
    assert!(matches!(death, Death::Overtime { limit, grace } if (limit, grace) == (SHORT, stall)), "{death}");
    assert_eq!(death.code(), ErrorCode::TimeLimit);
    assert!(!executor.is_alive());
}

#[tokio::test]
async fn an_executor_that_never_ends_a_line_is_killed() {
    let executor = start(&ExecutorSettings { program: program("babbler"), ..settings() }).await;
    let death = run(&executor, &Orders::new().classify(1), LONG, &mut |_| ()).await.expect_err("killed");
    assert!(death.to_string().contains("it said a line of more than 64 MiB"), "{death}");
    assert_eq!(death.code(), ErrorCode::Crashed);
}

#[tokio::test]
async fn an_order_whose_turn_does_not_come_is_taken_back_and_never_carried_out() {
    let orders = Orders::new();
    let executor = start(&ExecutorSettings { wait: SHORT, ..settings() }).await;
    let (pause, never) = (CancellationToken::new(), CancellationToken::new());
    let (long, short) = (orders.train(8, 100_000, orders.path("out")), orders.classify(1));
    let mut mute = |_: Say| ();
    let (first, second) = tokio::join!(executor.run(&long, LONG, &mut mute, &pause, &never), async {
        let second = run(&executor, &short, LONG, &mut |_| ()).await;
        pause.cancel();
        second
    });
    assert!(matches!(first, Ok((_, Report::Paused))), "{first:?}");
    assert!(matches!(second, Ok((_, Report::NotBegun))), "{second:?}");
    let third = loop {
        match run(&executor, &short, LONG, &mut |_| ()).await {
            Ok((_, Report::NotBegun)) => {}
            third => break third,
        }
    };
    assert!(matches!(third, Ok((_, Report::Classified { .. }))), "{third:?}");
}

#[tokio::test]
async fn an_executor_is_worn_after_so_many_orders_or_so_much_memory() {
    let orders = Orders::new();
    let (jobs, memory) = (
        ExecutorSettings { recycle_jobs: 2, ..settings() },
        ExecutorSettings { recycle_memory: Some(1), ..settings() },
    );
    let executor = start(&jobs).await;
    for (worn_by_jobs, worn_by_memory) in [(false, true), (true, true)] {
        run(&executor, &orders.classify(1), LONG, &mut |_| ()).await.expect("a report");
        assert_eq!((executor.is_worn(&jobs), executor.is_worn(&memory)), (worn_by_jobs, worn_by_memory));
        assert!(!executor.is_worn(&settings()));
    }
}

#[tokio::test]
async fn an_executor_keeps_what_it_trained_until_there_is_room_on_the_disk() {
    let test = "an_executor_keeps_what_it_trained_until_there_is_room_on_the_disk";
    let orders = Orders::new();
    let folder = orders.path("small");
    let small = match disk::SmallDisk::mount(&folder, 512) {
        Ok(small) => small,
        Err(reason) => return eprintln!("SKIPPED {test}: {reason}"),
    };
    let filler = Mutex::new(Some(small.fill().expect("filled")));
    let executor = start(&settings()).await;
    let told = Mutex::new(Vec::new());
    let mut each = |said: Say| {
        if let Say::DiskFull(error) = said {
            let mut told = told.lock().expect("no panic");
            told.push(error.to_string());
            if told.len() == 2 {
                let filler = filler.lock().expect("no panic").take().expect("told twice");
                std::fs::remove_file(filler).expect("removed");
            }
        }
    };
    let order = orders.train(8, 1, folder.join("out"));
    let (_, report) = run(&executor, &order, LONG, &mut each).await.expect("a report");
    assert!(matches!(report, Report::Trained { .. }), "{report:?}");
    let told = told.into_inner().expect("no panic");
    assert!(told.len() >= 2 && told[0].contains("No space left"), "{told:?}");
    let calm = orders.train(8, 1, orders.path("calm"));
    run(&executor, &calm, LONG, &mut |_| ()).await.expect("a report");
    let bytes = |path: PathBuf| std::fs::read(path).expect("a file");
    assert!(bytes(folder.join("out")) == bytes(orders.path("calm")), "the same network as without a full disk");
}

#[tokio::test]
async fn an_executor_whose_disk_fails_does_not_blame_the_job() {
    let orders = Orders::new();
    let executor = start(&settings()).await;
    let nowhere = orders.train(8, 1, orders.path("no folder/out"));
    let (_, report) = run(&executor, &nowhere, LONG, &mut |_| ()).await.expect("a report");
    assert!(matches!(report, Report::Disk(_)), "{report:?}");
    std::fs::remove_file(orders.path("rows")).expect("removed");
    let unread = orders.train(8, 1, orders.path("out"));
    let (_, report) = run(&executor, &unread, LONG, &mut |_| ()).await.expect("a report");
    assert!(matches!(report, Report::Disk(_)), "{report:?}");
}
