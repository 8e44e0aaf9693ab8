//! Data on their way into the store.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use producer::data::{self, Rows, Source, Table, digits, idx};
use proptest::prelude::*;
use safetensors::{Dtype, SafeTensors};
use shared::contract::ElementType;
use shared::digest::Digest;
use shared::names::{Key, Name};
use shared::store::{Created, Entry, Store, StoreError};

/// A store in memory that counts what is written.
#[derive(Debug, Default)]
struct Memory {
    objects: Mutex<BTreeMap<Key, Bytes>>,
    writes: Mutex<Vec<String>>,
}

#[async_trait]
impl Store for Memory {
    fn place(&self) -> String {
        "memory".into()
    }
    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        let found = self.objects.lock().expect("unpoisoned").get(key).cloned();
        found.ok_or_else(|| StoreError::NotFound { key: key.clone(), place: self.place() })
    }
    async fn download(&self, _: &Key, _: &Path) -> Result<u64, StoreError> {
        unreachable!("not used here")
    }
    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.writes.lock().expect("unpoisoned").push(key.to_string());
        self.objects.lock().expect("unpoisoned").insert(key.clone(), body);
        Ok(())
    }
    async fn upload(&self, key: &Key, from: &Path) -> Result<(), StoreError> {
        self.put(key, std::fs::read(from).expect("a file").into()).await
    }
    async fn create(&self, _: &Key, _: Bytes) -> Result<Created, StoreError> {
        unreachable!("not used here")
    }
    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        let under = format!("{prefix}/");
        let objects = self.objects.lock().expect("unpoisoned");
        let there = objects.iter().filter(|(key, _)| key.as_str().starts_with(&under));
        Ok(there.map(|(key, body)| Entry { key: key.clone(), size: body.len() as u64, modified: None }).collect())
    }
    async fn children(&self, prefix: &Key) -> Result<Vec<String>, StoreError> {
        let under = format!("{prefix}/");
        let objects = self.objects.lock().expect("unpoisoned");
        let mut parts: Vec<String> = objects
            .keys()
            .filter_map(|key| key.as_str().strip_prefix(&under)?.split('/').next().map(str::to_owned))
            .collect();
        parts.dedup();
        Ok(parts)
    }
    async fn delete(&self, _: &Key) -> Result<(), StoreError> {
        unreachable!("not used here")
    }
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn small() -> Table {
    let train = Rows { inputs: vec![0, 0, 255, 255, 51, 51, 51, 51], labels: vec![0, 1] };
    let test = Rows { inputs: vec![1, 2, 3, 4], labels: vec![1] };
    Table {
        shape: vec![2, 1, 2],
        elements: ElementType::U8,
        classes: 2,
        labels: Vec::new(),
        splits: BTreeMap::from([("train".into(), train), ("test".into(), test)]),
    }
}

#[tokio::test]
async fn a_table_comes_back_as_it_was_pushed() {
    let store = Memory::default();
    let steps = Mutex::new(Vec::new());
    let step = |done, total| steps.lock().expect("unpoisoned").push((done, total));
    let pushed = data::push(&store, &name("small"), Arc::new(small()), &step).await.expect("a good table");
    let (found, dataset) = data::resolve(&store, &name("small")).await.expect("it is there");
    assert_eq!(found, pushed);
    // Channel 0 has 0, 0, 0.2, 0.2; channel 1 has 1, 1, 0.2, 0.2.
    let near = |found: &[f64], expected: [f64; 2]| {
        found.iter().zip(expected).all(|(found, expected)| (found - expected).abs() < 1e-12)
    };
    assert!(near(&dataset.mean, [0.1, 0.6]) && near(&dataset.std, [0.1, 0.4]), "{dataset:?}");
    assert_eq!((dataset.splits["train"].rows, dataset.splits["test"].rows), (2, 1));

    let file = store.get(&dataset.splits["train"].object.key).await.expect("the split");
    assert_eq!(Digest::of(&file), dataset.splits["train"].object.sha256);
    let tensors = SafeTensors::deserialize(&file).expect("safetensors");
    let inputs = tensors.tensor("inputs").expect("inputs");
    assert_eq!(
        (inputs.dtype(), inputs.shape(), inputs.data()),
        (Dtype::U8, &[2, 2, 1, 2][..], &small().splits["train"].inputs[..])
    );
    let labels = tensors.tensor("labels").expect("labels");
    assert_eq!((labels.dtype(), labels.shape(), labels.data()), (Dtype::U32, &[2][..], &[0, 0, 0, 0, 1, 0, 0, 0][..]));

    let steps = steps.into_inner().expect("unpoisoned");
    assert!(
        steps.windows(2).all(|pair| pair[0].0 < pair[1].0) && steps.last().is_some_and(|(done, total)| done == total)
    );
}

#[tokio::test]
async fn the_same_data_are_sent_once() {
    let store = Memory::default();
    let push = |table: Table| {
        let (store, name) = (&store, name("small"));
        async move { data::push(store, &name, Arc::new(table), &|_, _| {}).await.expect("a good table") }
    };
    let first = push(small()).await;
    let count = || std::mem::take(&mut *store.writes.lock().expect("unpoisoned")).len();
    assert_eq!(count(), 4);
    assert_eq!(push(small()).await, first);
    assert_eq!(count(), 0);
    let mut changed = small();
    changed.splits.get_mut("test").expect("test").inputs[0] = 9;
    assert_ne!(push(changed).await, first);
    assert_eq!(count(), 3, "the other split, the manifest and `current`; the training split is shared");
    assert_eq!(push(small()).await, first);
    assert_eq!(count(), 1, "`current` goes back");
}

#[tokio::test]
async fn floats_have_statistics_a_column_and_constant_columns_none_of_zero() {
    // Rounding must not make a distance of the equal ones.
    let inputs = [1.0f32, 7e9, 3.0, 7e9].iter().flat_map(|value| value.to_le_bytes()).collect();
    let train = Rows { inputs, labels: vec![0, 1] };
    let table =
        Table { shape: vec![2], elements: ElementType::F32, splits: [("train".into(), train)].into(), ..small() };
    let store = Memory::default();
    data::push(&store, &name("rows"), Arc::new(table), &|_, _| {}).await.expect("a good table");
    let (_, dataset) = data::resolve(&store, &name("rows")).await.expect("it is there");
    assert_eq!((dataset.mean, dataset.std), (vec![2.0, 7e9], vec![1.0, 1.0]));
}

#[tokio::test]
async fn tables_that_are_no_datasets_are_refused_and_nothing_is_written() {
    let break_it = |change: &dyn Fn(&mut Table)| {
        let mut table = small();
        change(&mut table);
        table
    };
    let cases = [
        (break_it(&|t| drop(t.splits.remove("train"))), "the dataset's splits is missing `train`"),
        (
            break_it(&|t| t.classes = 1),
            "the dataset's split `test` has the label 1 in row 0 (from 0): 0 to 0 is accepted",
        ),
        (
            break_it(&|t| t.shape = vec![3, 1, 1]),
            "the dataset's split `test` has 4 bytes for 1 rows of shape [3, 1, 1]",
        ),
        (
            break_it(&|t| t.splits.get_mut("test").expect("test").labels.clear()),
            "the dataset's split `test` has 0 rows: 1 to 4294967295 are accepted",
        ),
    ];
    for (table, expected) in cases {
        let store = Memory::default();
        let error = data::push(&store, &name("x"), Arc::new(table), &|_, _| {}).await.expect_err("no dataset");
        assert_eq!(error.to_string(), expected);
        assert!(store.objects.lock().expect("unpoisoned").is_empty());
    }
}

#[tokio::test]
async fn a_folder_of_pictures_is_pushed_file_by_file() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, shade) in [("train/a/1.png", 0), ("train/a/2.bmp", 255), ("train/b/3.png", 51), ("test/b/4.png", 9)] {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        image::GrayImage::from_pixel(3, u32::from(shade) + 1, image::Luma([shade])).save(&path).expect("a picture");
    }
    let found = Arc::new(data::pictures::read(folder.path(), None, false, &|_, _| ()).expect("good pictures"));
    let store = Memory::default();
    let pushed = data::push_pictures(&store, &name("shades"), Arc::clone(&found), &|_, _| {}).await.expect("pushed");
    let (reference, dataset) = data::resolve(&store, &name("shades")).await.expect("it is there");
    assert_eq!((reference, dataset.elements, dataset.shape.len()), (pushed.clone(), ElementType::Encoded, 0));
    assert_eq!((dataset.labels.join(" ").as_str(), dataset.splits["test"].rows), ("a b", 1));
    assert!(dataset.mean.iter().all(|mean| (mean - 0.4).abs() < 1e-12), "{dataset:?}");
    let file = store.get(&dataset.splits["train"].object.key).await.expect("the split");
    assert_eq!(Digest::of(&file), dataset.splits["train"].object.sha256);
    let tensors = SafeTensors::deserialize(&file).expect("safetensors");
    let tensor = |name: &str| tensors.tensor(name).expect("a tensor");
    assert_eq!(tensor("labels").data(), [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    let offsets: Vec<usize> =
        tensor("offsets").data().as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes) as usize).collect();
    assert_eq!((offsets.len(), offsets[0], offsets[3]), (4, 0, tensor("inputs").data().len()));
    for (row, path) in ["train/a/1.png", "train/a/2.bmp", "train/b/3.png"].iter().enumerate() {
        let bytes = std::fs::read(folder.path().join(path)).expect("it");
        assert_eq!(tensor("inputs").data()[offsets[row]..offsets[row + 1]], bytes, "as it is");
    }
    store.writes.lock().expect("unpoisoned").clear();
    assert_eq!(
        data::push_pictures(&store, &name("shades"), Arc::clone(&found), &|_, _| {}).await.expect("again"),
        pushed
    );
    assert!(store.writes.lock().expect("unpoisoned").is_empty(), "the same pictures are sent once");
    std::fs::write(folder.path().join("train/a/1.png"), b"shorter").expect("a file");
    let error = data::push_pictures(&store, &name("shades"), found, &|_, _| {}).await.expect_err("changed");
    assert!(error.to_string().ends_with("train/a/1.png` has changed while it was pushed: push again"), "{error}");
}

#[test]
fn what_is_pushed_is_told_by_what_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let of = |name: &str| {
        Source::of(&path(name)).map_err(|error| error.to_string().replace(&format!("{}/", folder.path().display()), ""))
    };
    for name in ["pictures/a", "empty", "tables", "files", "idx/more"] {
        std::fs::create_dir_all(path(name)).expect("a folder");
    }
    for name in ["table.csv", "tables/t.tsv.gz", "files/1.png", "idx/train-images-idx3-ubyte.gz", "x.parquet"] {
        std::fs::write(path(name), b"").expect("a file");
    }
    assert_eq!((of("pictures"), of("table.csv"), of("idx")), (Ok(Source::Pictures), Ok(Source::Csv), Ok(Source::Idx)));
    for (name, expected) in [
        (
            "empty",
            "the folder `empty` cannot be pushed: it is empty: a folder with one sub-folder of pictures per class",
        ),
        ("tables", "the folder `tables` cannot be pushed: name the table itself, as in `tables/t.tsv.gz`"),
        ("files", "the folder `files` cannot be pushed: it has files, but no folder for each class: a folder"),
        (
            "x.parquet",
            "the file `x.parquet` cannot be pushed: a folder with one sub-folder of pictures per class, a CSV file",
        ),
        ("missing", "cannot read `missing`"),
    ] {
        let refused = of(name).expect_err(expected);
        assert!(refused.starts_with(expected), "{refused}");
    }
}

#[tokio::test]
async fn an_unknown_dataset_is_answered_with_those_that_are_there() {
    let store = Memory::default();
    let error = data::resolve(&store, &name("mnst")).await.expect_err("none");
    assert_eq!(
        error.to_string(),
        "no dataset `mnst` in the store at memory: there is none yet (`gannet data push PATH --name mnst` brings one)"
    );
    for there in ["mnist", "letters"] {
        data::push(&store, &name(there), Arc::new(small()), &|_, _| {}).await.expect("a good table");
    }
    let error = data::resolve(&store, &name("mnst")).await.expect_err("another");
    assert_eq!(
        error.to_string(),
        "no dataset `mnst` in the store at memory: there are `letters`, `mnist`; did you mean `mnist`? (`gannet data push PATH --name mnst` brings one)"
    );
}

#[tokio::test]
async fn an_altered_manifest_is_refused() {
    let store = Memory::default();
    let pushed = data::push(&store, &name("small"), Arc::new(small()), &|_, _| {}).await.expect("a good table");
    store.put(&pushed.key, Bytes::from_static(b"{}")).await.expect("memory");
    let error = data::resolve(&store, &name("small")).await.expect_err("altered");
    assert!(error.to_string().ends_with("has another content than its digest says: push the dataset again"), "{error}");
}

fn idx_file(kind: u8, sizes: &[u32], data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, kind, sizes.len() as u8];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend(data);
    bytes
}

fn read_pair(images: &[u8], labels: &[u8]) -> Result<Table, String> {
    let folder = tempfile::tempdir().expect("a folder");
    let paths = ["images", "labels"].map(|file| folder.path().join(file));
    std::fs::write(&paths[0], images).expect("a file");
    std::fs::write(&paths[1], labels).expect("a file");
    let place = folder.path().display().to_string();
    idx::read_files(&idx::Files { train: paths, test: None }).map_err(|error| error.to_string().replace(&place, ""))
}

#[test]
fn idx_files_of_bytes_and_floats_are_read() {
    let labels = idx_file(8, &[2], &[0, 4]);
    let bytes = read_pair(&idx_file(8, &[2, 1, 3], &[1, 2, 3, 4, 5, 6]), &labels).expect("bytes");
    assert_eq!((bytes.shape, bytes.elements, bytes.classes), (vec![1, 1, 3], ElementType::U8, 5));
    assert_eq!(bytes.splits["train"].labels, [0, 4]);
    let numbers: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|value| value.to_be_bytes()).collect();
    let floats = read_pair(&idx_file(0x0d, &[2, 1], &numbers), &idx_file(0x0c, &[2], &[0, 0, 0, 1, 0, 0, 0, 0]))
        .expect("floats");
    let expected: Vec<u8> = [1.5f32, -2.0].iter().flat_map(|value| value.to_le_bytes()).collect();
    assert_eq!((floats.shape, floats.elements, floats.classes), (vec![1], ElementType::F32, 2));
    assert_eq!((&floats.splits["train"].inputs, &floats.splits["train"].labels[..]), (&expected, &[1, 0][..]));
}

#[test]
fn idx_files_are_found_by_their_dimensions_and_unused_labels_are_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let images = idx_file(8, &[2, 1, 1, 1], &[1, 2]);
    for (name, bytes) in [
        ("train-images-idx4-ubyte", images.clone()),
        ("train-labels-idx1-ubyte", idx_file(8, &[2], &[4, 1])),
        ("t10k-images.idx4-ubyte", images),
        ("t10k-labels-idx1-ubyte", idx_file(8, &[2], &[0, 1])),
    ] {
        std::fs::write(folder.path().join(name), bytes).expect("a file");
    }
    let table = idx::read(folder.path()).expect("a table");
    assert_eq!((table.shape.as_slice(), table.empty_classes()), (&[1, 1, 1][..], vec![0, 2, 3]));
}

#[test]
fn what_is_not_idx_is_refused() {
    let images = || idx_file(8, &[2, 1, 3], &[1, 2, 3, 4, 5, 6]);
    let labels = || idx_file(8, &[2], &[0, 1]);
    let bomb = {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&idx_file(8, &[2, 1, 3], &vec![0; 50_000_000])).expect("memory");
        encoder.finish().expect("memory")
    };
    assert!(bomb.len() < 100_000);
    let cases = [
        (b"PK".to_vec(), labels(), "the file `/images` is not IDX: it ends within its header"),
        (b"PK\x03\x04 and so on".to_vec(), labels(), "the file `/images` is not IDX: it begins with 50 4b 03 04"),
        (
            idx_file(0x0e, &[1, 1], &[0; 8]),
            labels(),
            "the file `/images` holds elements of type 0x0e: bytes (08), integers (0c), floats (0d) are accepted",
        ),
        (
            idx_file(8, &[u32::MAX, u32::MAX, u32::MAX, u32::MAX], &[]),
            labels(),
            "the file `/images` has the dimensions [4294967295, 4294967295, 4294967295, 4294967295]: at least one element and at most 1073741824 bytes are accepted",
        ),
        (
            idx_file(8, &[2, 0, 3], &[]),
            labels(),
            "the file `/images` has the dimensions [2, 0, 3]: at least one element and at most 1073741824 bytes are accepted",
        ),
        (idx_file(8, &[1, 1, 1, 1, 1], &[1]), labels(), "the file `/images` has 5 dimensions: 1 to 4 are accepted"),
        (
            images()[..20].to_vec(),
            labels(),
            "the file `/images` is cut off: its dimensions [2, 1, 3] need 6 bytes, 4 are there",
        ),
        (
            [images(), vec![0]].concat(),
            labels(),
            "the file `/images` goes on after the 6 bytes of its dimensions [2, 1, 3]",
        ),
        (bomb, labels(), "the file `/images` goes on after the 6 bytes of its dimensions [2, 1, 3]"),
        (
            images(),
            idx_file(8, &[3], &[0, 1, 1]),
            "the file `/images` has 2 images, but the labels have the dimensions [3]",
        ),
        (labels(), labels(), "the file `/images` has 1 dimensions: 2 to 4 are accepted for images"),
        (images(), idx_file(0x0c, &[2], &[0xff; 8]), "the file `/images` has the label -1: 0 to 99999 is accepted"),
    ];
    for (images, labels, expected) in cases {
        assert_eq!(read_pair(&images, &labels).expect_err(expected), expected);
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_parser_panic(images in proptest::collection::vec(any::<u8>(), 0..64), dimensions in 0u8..6, small in any::<bool>()) {
        let mut images = images;
        if small && images.len() > 16 {
            images[..4].copy_from_slice(&[0, 0, 8, dimensions]);
            images[4..16].iter_mut().enumerate().for_each(|(index, byte)| *byte = if index % 4 == 3 { *byte % 4 } else { 0 });
        }
        let _ = read_pair(&images, &idx_file(8, &[2], &[0, 1]));
    }
}

#[test]
fn drawn_digits_depend_on_their_row_alone() {
    let few = digits::draw(30, 10, 5);
    let many = digits::draw(60, 20, 5);
    for split in ["train", "test"] {
        let length = few.splits[split].inputs.len();
        assert_eq!(few.splits[split].inputs[..], many.splits[split].inputs[..length]);
    }
    assert_ne!(few.splits["train"].inputs[..7840], few.splits["test"].inputs[..7840], "splits differ");
    assert_ne!(few.splits["train"].inputs, digits::draw(30, 10, 6).splits["train"].inputs, "seeds differ");
    let inked = |row: &[u8]| row.iter().filter(|byte| **byte > 128).count();
    for row in many.splits["train"].inputs.chunks(784) {
        assert!((20..500).contains(&inked(row)), "a digit has ink and paper: {}", inked(row));
    }
}
