//! Splits, orders, and what is refused.

use serde_json::json;

use super::*;
use crate::compute::tests::Fixture;

fn data(validation_rows: u32, train_rows: Option<u32>, split_seed: u32) -> TrialData {
    serde_json::from_value(json!({
        "dataset": {"key": "k", "sha256": "0".repeat(64)},
        "validation_rows": validation_rows, "train_rows": train_rows, "split_seed": split_seed
    }))
    .expect("data")
}

#[test]
fn a_division_is_the_same_for_one_split_seed() {
    let one = Division::draw(&data(20, Some(50), 7), 100).expect("enough rows");
    assert_eq!((one.validation.len(), one.train.len()), (20, 50));
    assert!(one.validation.iter().all(|row| !one.train.contains(row) && *row < 100));
    let more = Division::draw(&data(20, None, 7), 100).expect("enough rows");
    assert_eq!((one.validation.as_slice(), more.train.len()), (more.validation.as_slice(), 80));
    assert_ne!(one.validation, Division::draw(&data(20, None, 8), 100).expect("enough rows").validation);
}

#[test]
fn an_epoch_has_every_row_once_in_an_order_of_its_own() {
    let division = Division::draw(&data(20, None, 7), 100).expect("enough rows");
    let (first, second) = (division.order(1, 0), division.order(1, 1));
    assert_ne!(first, second);
    assert_eq!(first, division.order(1, 0));
    for mut order in [first, second] {
        order.sort_unstable();
        assert_eq!(order, division.train);
    }
}

#[test]
fn too_few_rows_are_refused_by_number() {
    for (data, expected) in [
        (data(100, None, 0), "`data.validation_rows` is 100: 1 to 99 is accepted"),
        (data(1000, None, 0), "`data.validation_rows` is 1000"),
        (data(20, Some(81), 0), "`data.train_rows` is 81: 1 to 80 is accepted"),
    ] {
        let error = Division::draw(&data, 100).err().expect("refused").to_string();
        assert!(error.contains(expected), "{error}");
    }
    assert!(Division::draw(&data(1, None, 0), 0).is_err());
}

#[test]
fn a_batch_is_standardised() {
    let fixture = Fixture::new(8);
    let mut decoded = Decoded::default();
    let mut rows =
        Rows::open(&fixture.dataset, None, &[8], &fixture.path("train.safetensors"), &mut decoded).expect("rows");
    let batch = rows.batch(&[3, 0]).expect("a batch");
    assert_eq!(batch.inputs.len(), 2 * 64);
    let first = &batch.inputs[64..];
    let byte = f64::from(rows.file.get("inputs").expect("inputs").data()[0]);
    assert!((f64::from(first[0]) - (byte / 255.0 - 0.5) / 0.29).abs() < 1e-5);
    assert_eq!(batch.labels[1], rows.labels[0]);
}

#[test]
fn a_file_that_is_not_the_manifests_is_refused() {
    let fixture = Fixture::new(8);
    let file = fixture.path("train.safetensors");
    let open = |change: &dyn Fn(&mut Dataset)| {
        let mut dataset = fixture.dataset.clone();
        change(&mut dataset);
        let rows = dataset.splits["train"].rows;
        let mut decoded = Decoded::default();
        let opened = Rows::open(&dataset, None, &[rows], &file, &mut decoded);
        opened.err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert_eq!(open(&|_| {}), "");
    assert!(open(&|d| d.splits.get_mut("train").expect("it").rows = 9).contains("8 labels: the manifest says [9]"));
    assert!(open(&|d| d.shape = vec![1, 4, 16]).contains("`inputs` is U8 [8, 1, 8, 8]"));
    assert!(open(&|d| d.elements = ElementType::F32).contains("the manifest says F32"));
    assert!(open(&|d| d.classes = 2).contains("has label 2: the dataset has 2 classes"));
    assert!(open(&|d| d.mean = vec![]).contains("mean"));
    std::fs::write(&file, b"no tensors").expect("a file");
    assert!(open(&|_| {}).contains("no safetensors file"));
    std::fs::write(&file, b"").expect("a file");
    assert!(open(&|_| {}).contains("no safetensors file"));
    std::fs::remove_file(&file).expect("it is there");
    assert!(open(&|_| {}).contains("cannot read"));
}
