//! Pictures as files: that training and classifying see the same, that they are decoded once, and that hostile ones
//! harm nobody.

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use serde_json::json;
use shared::contract::{Dataset, ImageVerdict, Model, ModelConfig, Output, Scores, Trial};

use super::*;
use crate::compute::Wanted;
use crate::compute::rows::Rows;
use crate::compute::tests::noise;
use crate::compute::{Backend, Classifier, Ended, Flow, PictureReader, Step, TrainingJob, evaluate, train};

/// A folder with a dataset of pictures of two classes, red above and red on the left, of many sizes and formats.
struct Folder {
    folder: tempfile::TempDir,
    dataset: Dataset,
    files: Vec<Vec<u8>>,
}

fn file(row: u32) -> Vec<u8> {
    let (width, height) = (8 + row % 7, 8 + row % 5);
    let dirt = noise(&format!("picture {row}"), (width * height) as usize);
    let picture = RgbImage::from_fn(width, height, |x, y| {
        let ink = if row.is_multiple_of(2) { y < height / 2 } else { x < width / 2 };
        let dirt = (dirt[(y * width + x) as usize] * 40.0 + 60.0) as u8;
        Rgb([if ink { 220 } else { dirt }, dirt, 90])
    });
    let format = [ImageFormat::Png, ImageFormat::Tiff, ImageFormat::Bmp][row as usize / 2 % 3];
    let mut bytes = std::io::Cursor::new(Vec::new());
    DynamicImage::from(picture).write_to(&mut bytes, format).expect("a picture");
    bytes.into_inner()
}

impl Folder {
    fn new(rows: u32) -> Self {
        let object = json!({"key": "k", "sha256": "0".repeat(64)});
        let dataset = json!({
            "name": "red", "elements": "encoded", "classes": 2, "mean": [0.5, 0.3, 0.35], "std": [0.3, 0.1, 0.1],
            "luma": {"mean": 0.35, "std": 0.12}, "splits": {"train": {"object": object, "rows": rows}}
        });
        let folder = tempfile::tempdir().expect("a folder");
        let dataset = serde_json::from_value(dataset).expect("a dataset");
        let made = Self { folder, dataset, files: (0..rows).map(file).collect() };
        let ends: Vec<u64> = made.files.iter().map(|file| file.len() as u64).collect();
        let offsets = (0..=ends.len()).map(|row| ends[..row].iter().sum());
        made.write(&offsets.collect::<Vec<_>>());
        made
    }

    fn write(&self, offsets: &[u64]) {
        let inputs = self.files.concat();
        let offsets: Vec<u8> = offsets.iter().flat_map(|offset| offset.to_le_bytes()).collect();
        let labels: Vec<u8> = (0..self.files.len() as u32).flat_map(|row| (row % 2).to_le_bytes()).collect();
        let view = safetensors::tensor::TensorView::new;
        let tensors = [
            ("inputs", view(safetensors::Dtype::U8, vec![inputs.len()], &inputs).expect("inputs")),
            ("offsets", view(safetensors::Dtype::U64, vec![offsets.len() / 8], &offsets).expect("offsets")),
            ("labels", view(safetensors::Dtype::U32, vec![self.files.len()], &labels).expect("labels")),
        ];
        safetensors::serialize_to_file(tensors, None, &self.split()).expect("a file");
    }

    fn split(&self) -> PathBuf {
        self.folder.path().join("train.safetensors")
    }

    fn open<'a>(&self, image: &ImageInput, decoded: &'a mut Decoded) -> Result<Rows<'a>, ComputeError> {
        Rows::open(&self.dataset, Some(image), &[self.files.len() as u32], &self.split(), decoded)
    }
}

fn image(text: serde_json::Value) -> ImageInput {
    serde_json::from_value(text).expect("an input")
}

fn numbers(rows: &mut Rows<'_>, chosen: &[u32]) -> Vec<u32> {
    let inputs = rows.batch(chosen).expect("a batch").inputs;
    inputs.into_iter().map(f32::to_bits).collect()
}

#[test]
fn a_model_of_the_trial_labels_pictures_as_training_saw_them() {
    let made = Folder::new(60);
    for image in [
        image(json!({"size": [8, 6], "resize": {"shortest_edge": 9}, "filter": "lanczos"})),
        image(json!({"size": 7, "channels": 1})),
    ] {
        let trial: Trial = serde_json::from_value(json!({
            "network": {"layers": [{"type": "flatten"}, {"type": "linear", "units": 2}]},
            "data": {"dataset": {"key": "k", "sha256": "0".repeat(64)}, "validation_rows": 10, "image": image},
            // Few enough steps that some rows are still wrong: a model that saw other pixels would differ.
            "training": {"epochs": 1, "batch_size": 16, "optimizer": {"type": "sgd", "learning_rate": 0.005}},
            "seed": 3
        }))
        .expect("a trial");
        let out = made.folder.path().join(format!("out-{}", image.channels));
        let split = made.split();
        let (trial, dataset, backend) = (&trial, &made.dataset, &Backend::Engine);
        let job = TrainingJob { trial, dataset, train: &split, resume: None, out: &out, backend };
        let ended = train(&job, &mut Decoded::default(), &mut |_: &Step| Flow::Go).expect("it trains");
        assert!(matches!(ended, Ended::Finished(_)));

        let model = Model {
            name: made.dataset.name.clone(),
            config: ModelConfig { input: image.shape(), network: trial.network.clone().into() },
            preprocessing: made.dataset.preprocessing(Some(&image)),
            labels: vec!["above".into(), "left".into()],
            scores: Scores::default(),
            threshold: None,
            weights: trial.data.dataset.clone(),
        };
        let reader = PictureReader::of(&model).expect("a reader");
        let read = |(row, bytes): (usize, &Vec<u8>)| {
            let path = made.folder.path().join(format!("{row}"));
            std::fs::write(&path, bytes).expect("a file");
            (row.to_string(), reader.read(&path))
        };
        let pictures = made.files.iter().enumerate().map(read).collect();
        let wanted = Wanted { output: Output::Labels, scores: Scores::Softmax, top_k: 2, threshold: None };
        let classified = Classifier::load(&model, &out, Output::Labels, &Backend::Engine)
            .and_then(|mut classifier| classifier.classify(pictures, &wanted))
            .expect("a model");
        // Both losses from what each of the two saw: equal only if every pixel is.
        let (mut loss, mut wrong) = (0.0, 0u32);
        for (row, outcome) in classified.iter().enumerate() {
            let ImageVerdict::Predictions(best) = &outcome.verdict else { panic!("{outcome:?}") };
            let label = row as u32 % 2;
            wrong += u32::from(best[0].index != label);
            loss -= best.iter().find(|one| one.index == label).expect("both labels").score.ln() / 60.0;
        }
        let measured = evaluate(trial, &made.dataset, &split, &out, &Backend::Engine, &mut |_: &Step| Flow::Go);
        let measured = measured.expect("it can be measured").expect("to its end");
        assert!((measured.loss - loss).abs() < 1e-6, "{measured:?}, {loss}");
        assert!((measured.error - f64::from(wrong) / 60.0).abs() < 1e-12, "{measured:?}, {wrong}");
    }
}

#[test]
fn a_picture_is_decoded_once_for_all_trials_of_one_size_with_any_number_of_threads() {
    let made = Folder::new(12);
    let (small, other) = (image(json!({"size": 8})), image(json!({"size": 9})));
    let mut decoded = Decoded::default();
    let first = numbers(&mut made.open(&small, &mut decoded).expect("rows"), &[3, 0, 3]);
    assert_eq!(first[..192], first[384..]);
    let kept = |decoded: &Decoded| decoded.rows.iter().filter(|row| row.is_some()).count();
    assert_eq!((kept(&decoded), decoded.bytes), (2, 2 * 192), "only what was used");
    let before = decoded.rows[3].as_ref().map(|row| row.as_ptr());
    let all: Vec<u32> = (0..12).collect();
    let eager = numbers(&mut made.open(&small, &mut decoded).expect("rows"), &all);
    assert_eq!((kept(&decoded), decoded.rows[3].as_ref().map(|row| row.as_ptr())), (12, before));
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
        let mut none = Decoded::with_room(500);
        let lazy = pool.install(|| numbers(&mut made.open(&small, &mut none).expect("rows"), &all));
        assert!(lazy == eager, "same bits with {threads} threads");
        assert_eq!(kept(&none), 2, "no more than there is room for");
    }
    drop(made.open(&other, &mut decoded));
    assert_eq!((kept(&decoded), decoded.bytes), (0, 0), "another size");
}

#[test]
fn hostile_files_are_errors_of_their_row() {
    let mut made = Folder::new(4);
    let small = image(json!({"size": 8}));
    made.files[2].truncate(40);
    let mut end = 0;
    let offsets: Vec<u64> = std::iter::once(0)
        .chain(made.files.iter().map(|file| {
            end += file.len() as u64;
            end
        }))
        .collect();
    made.write(&offsets);
    let mut decoded = Decoded::default();
    let mut rows = made.open(&small, &mut decoded).expect("rows");
    assert!(rows.batch(&[0, 1, 3]).is_ok());
    let error = rows.batch(&[1, 2]).err().expect("it is cut short");
    assert_eq!(error.code(), shared::contract::ErrorCode::AlteredObject);
    assert!(error.to_string().contains("the picture of row 2: the file is"), "{error}");
    drop(rows);

    let mut refused = |offsets: &[u64]| {
        made.write(offsets);
        made.open(&small, &mut decoded).err().expect("refused").to_string()
    };
    let last = *offsets.last().expect("the end");
    assert!(refused(&[1, 2, 3, 4, last]).contains("`offsets` begin and end with"));
    assert!(refused(&[0, 2, 3, 4, u64::MAX]).contains("`offsets` begin and end with"));
    assert!(refused(&[0, u64::MAX, 3, 4, last]).contains("`offsets` fall after row 1"));
    assert!(refused(&[0, last]).contains("the manifest says U64 [5]"));
    made.write(&offsets);
    let accepted = [4];
    let error = Rows::open(&made.dataset, None, &accepted, &made.split(), &mut decoded).err().expect("no size");
    assert!(error.to_string().contains("`image` is missing"), "{error}");
}
