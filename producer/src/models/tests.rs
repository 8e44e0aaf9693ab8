//! Folders of every kind, good and bad; a model that goes into a store and comes out of it.

mod processors;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use safetensors::Dtype;
use safetensors::tensor::TensorView;
use shared::contract::{Architecture, Filter, ModelNetwork, Resize};
use shared::names::Key;
use shared::settings::Places;
use shared::store::fetch_checked;

use super::*;

/// What a test writes into a folder; it begins as a whole model of two classes.
struct Made {
    folder: tempfile::TempDir,
}

type Tensors = Vec<(&'static str, Dtype, Vec<usize>)>;

fn tensors() -> Tensors {
    vec![("head.weight", Dtype::F16, vec![2, 3]), ("head.bias", Dtype::F32, vec![2])]
}

impl Made {
    fn new() -> Self {
        let made = Self { folder: tempfile::tempdir().expect("a folder") };
        made.write(
            "config.json",
            r#"{"input": [3, 4, 4], "layers": [{"type": "global_avg_pool"}, {"type": "linear", "name": "head", "units": 2}]}"#,
        );
        made.write("preprocessor_config.json", r#"{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.2, 0.2, 0.2]}"#);
        made.write("labels.txt", "cat\r\ndog\r\n");
        made.weights(&tensors());
        made
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).expect("a file");
    }

    fn weights(&self, tensors: &Tensors) {
        let bytes = |dtype: Dtype, shape: &[usize]| dtype.bitsize() / 8 * shape.iter().product::<usize>();
        let most = tensors.iter().map(|(_, dtype, shape)| bytes(*dtype, shape)).max().unwrap_or(0);
        let zeros = vec![0; most];
        let view = |(name, dtype, shape): &(&'static str, Dtype, Vec<usize>)| {
            let view = TensorView::new(*dtype, shape.clone(), &zeros[..bytes(*dtype, shape)]).expect("a view");
            (*name, view)
        };
        let views: Vec<_> = tensors.iter().map(view).collect();
        safetensors::serialize_to_file(views, None, &self.path("model.safetensors")).expect("a file");
    }

    fn read(&self) -> anyhow::Result<Folder> {
        Folder::read(self.folder.path())
    }

    /// The message, which begins with the file's name.
    fn refused(&self, file: &str) -> String {
        let message = format!("{:#}", self.read().expect_err("refused"));
        assert!(message.contains(&self.path(file).display().to_string()), "{message}");
        message
    }
}

async fn store() -> (tempfile::TempDir, Arc<dyn Store>) {
    let folder = tempfile::tempdir().expect("a folder");
    let home = folder.path().to_str().expect("text").to_owned();
    let places = Places::read(&|name| (name == "GANNET_HOME").then(|| home.clone())).expect("places");
    let store = shared::store::open(&places).await.expect("a store");
    (folder, store)
}

fn name() -> Name {
    Name::new("pets").expect("a name")
}

async fn keys(store: &dyn Store) -> BTreeMap<String, u64> {
    let entries = store.list(&Key::new("models").expect("a key")).await.expect("a list");
    entries.into_iter().map(|entry| (entry.key.as_str().to_owned(), entry.size)).collect()
}

#[tokio::test]
async fn a_folder_becomes_a_model_once() {
    let (made, (_home, store)) = (Made::new(), store().await);
    let (reference, model) =
        push(store.as_ref(), &name(), made.read().expect("a folder"), |_, _| {}).await.expect("sent");
    assert_eq!(model.labels, ["cat", "dog"]);
    assert_eq!(resolve(store.as_ref(), &name()).await.expect("found"), (reference.clone(), model.clone()));
    let sent = fetch_checked(store.as_ref(), &model.weights).await.expect("weights");
    assert_eq!(sent, std::fs::read(made.path("model.safetensors")).expect("a file"));
    let before = keys(store.as_ref()).await;
    // Weights, manifest, where it comes from, and that the name stands for it.
    assert_eq!(before.len(), 4);
    let again = push(store.as_ref(), &name(), made.read().expect("a folder"), |_, _| {}).await.expect("sent");
    assert_eq!((again.0, keys(store.as_ref()).await), (reference, before));
}

/// Pushes the model with these labels.
async fn pushed(store: &dyn Store, made: &Made, labels: &str) -> Digest {
    made.write("labels.txt", labels);
    push(store, &name(), made.read().expect("a folder"), |_, _| {}).await.expect("sent").0.sha256
}

fn wanted(text: &str) -> Wanted {
    text.parse().expect("a model")
}

#[tokio::test]
async fn a_version_is_found_promoted_taken_back_and_removed() {
    let (made, (_home, store)) = (Made::new(), store().await);
    let store = store.as_ref();
    let current = async || resolve(store, &name()).await.expect("found").0.sha256;
    let mut all = Vec::new();
    for labels in ["cat\ndog\n", "chat\nchien\n", "Katze\nHund\n"] {
        all.push(pushed(store, &made, labels).await);
    }
    let [first, second, third] = all[..] else { panic!("three") };
    let (found, model) = find(store, &wanted(&format!("pets@{}", &second.to_string()[..8]))).await.expect("found");
    assert_eq!((found.sha256, model.labels), (second, vec!["chat".to_owned(), "chien".to_owned()]));
    assert_eq!(current().await, third);
    let origin = origin(store, &name(), first).await.expect("read").expect("it came from somewhere");
    assert!(matches!(&origin.of, Source::Folder(folder) if made.folder.path().ends_with(folder)), "{origin:?}");

    let moved = promote_version(store, &wanted(&format!("pets@{first}"))).await.expect("moved");
    assert_eq!((moved.before, moved.now, current().await), (Some(third), first, first));
    assert_eq!(rollback(store, &name()).await.expect("moved").now, third);
    delete(store, &name(), &[second], false).await.expect("removed");
    let mut left = vec![first, third];
    left.sort_unstable();
    assert_eq!(versions(store, &name()).await.expect("listed"), left);
    assert_eq!(rollback(store, &name()).await.expect("moved").now, first, "one that is gone is passed over");
    let refused = rollback(store, &name()).await.expect_err("there is none before").to_string();
    assert!(refused.contains("nothing before") && refused.contains("promote pets@DIGEST"), "{refused}");

    let refused = find(store, &wanted(&format!("pets@{second}"))).await.expect_err("gone").to_string();
    assert!(refused.contains("no version") && refused.contains(&short(third)), "{refused}");
    delete(store, &name(), &left, true).await.expect("removed");
    let refused = resolve(store, &name()).await.expect_err("gone").to_string();
    assert!(refused.contains("no model `pets`") && refused.contains("there are no models yet"), "{refused}");
    assert!(names(store).await.expect("listed").is_empty());
    // The weights stay for `gannet gc`; who pushes the model again begins anew.
    assert_eq!(keys(store).await.len(), 1);
    assert_eq!(pushed(store, &made, "cat\ndog\n").await, first);
    assert_eq!(current().await, first);
}

#[tokio::test]
async fn digits_that_say_too_little_are_refused() {
    let (_home, store) = store().await;
    let store = store.as_ref();
    for last in ["0", "1"] {
        let digest: Digest = format!("{}{last}", "ab".repeat(31) + "a").parse().expect("a digest");
        store.put(&layout::model_file(&name(), digest, "model.json"), "{}".into()).await.expect("written");
    }
    let refused = find(store, &wanted("pets@ABABABAB")).await.expect_err("two").to_string();
    assert!(refused.contains("may be several versions") && refused.contains("say more digits"), "{refused}");
    for (wrong, said) in [
        ("pets@abc", "`abc` is no digest: its first 8 to 64"),
        ("pets@", "`` is no digest"),
        ("pets@zzzzzzzzz", "`zzzzzzzzz` is no digest"),
        ("a/b@12345678", "`a/b` is not a name"),
    ] {
        let refused = wrong.parse::<Wanted>().expect_err("refused");
        assert!(refused.contains(said), "{refused}");
    }
}

#[tokio::test]
async fn tensors_that_nothing_is_computed_with_stay_behind() {
    let (made, (_home, store)) = (Made::new(), store().await);
    let mut tensors = tensors();
    tensors.insert(0, ("bn.num_batches_tracked", Dtype::I64, vec![]));
    made.weights(&tensors);
    let (_, model) = push(store.as_ref(), &name(), made.read().expect("a folder"), |_, _| {}).await.expect("sent");
    let sent = fetch_checked(store.as_ref(), &model.weights).await.expect("weights");
    let sent = safetensors::SafeTensors::deserialize(&sent).expect("safetensors");
    let mut names = sent.names();
    names.sort_unstable();
    assert_eq!(names, ["head.bias", "head.weight"]);
    assert_eq!(sent.tensor("head.weight").expect("a tensor").dtype(), Dtype::F16);
}

#[test]
fn an_architecture_has_the_outputs_of_its_weights() {
    let made = Made::new();
    made.write("config.json", r#"{"architectures": ["ResNet-18"], "license": "MIT", "colour": "red"}"#);
    let network = Architecture::ResNet18.network(2);
    let parameters = network.parameters(&[3, 224, 224]).expect("a network");
    let tensor = |p: &shared::contract::Parameter| (&*p.name.clone().leak(), Dtype::BF16, p.shape.clone());
    made.weights(&parameters.iter().map(tensor).collect());
    let folder = made.read().expect("a folder");
    assert_eq!((folder.config.input, folder.config.network), (vec![3, 224, 224], network.into()));
    assert_eq!(folder.notes, ["config.json: nothing is done with `colour`"]);
    made.write("labels.txt", "cat\n");
    assert!(made.refused("labels.txt").contains("has 1 labels: the network has [2] outputs"));
    std::fs::remove_file(made.path("labels.txt")).expect("removed");
    let folder = made.read().expect("a folder");
    assert_eq!(folder.labels, ["0", "1"]);
    assert!(folder.notes[1].contains("they are the numbers 0 to 1"), "{:?}", folder.notes);
    made.write("config.json", r#"{"architecture": "resnet18", "id2label": {"1": "dog", "0": "cat"}, "num_labels": 2}"#);
    assert_eq!(made.read().expect("a folder").labels, ["cat", "dog"]);
}

#[test]
fn what_other_libraries_write_is_no_fault() {
    let made = Made::new();
    // As timm writes it.
    made.write(
        "config.json",
        r#"{"architecture": "resnet18", "num_classes": 2, "num_features": 512, "global_pool": "avg"}"#,
    );
    let parameters = Architecture::ResNet18.network(2).parameters(&[3, 224, 224]).expect("a network");
    let tensor = |p: &shared::contract::Parameter| (&*p.name.clone().leak(), Dtype::F16, p.shape.clone());
    made.weights(&parameters.iter().map(tensor).collect());
    made.write("preprocessor_config.json", "\u{feff}{\"do_normalize\": false}");
    made.write("labels.txt", "\u{feff}cat\ndog\n");
    let folder = made.read().expect("a folder");
    assert_eq!(folder.notes, ["config.json: nothing is done with `num_features`, `global_pool`"]);
    assert_eq!(folder.labels, ["cat", "dog"], "a byte order mark is no part of a label");
}

#[test]
fn numbers_that_are_none_are_refused_by_their_tensor() {
    let made = Made::new();
    let whole = std::fs::read(made.path("model.safetensors")).expect("a file");
    made.read().expect("good");
    let file = safetensors::SafeTensors::deserialize(&whole).expect("safetensors");
    for (name, number) in [("head.bias", &f32::NAN.to_le_bytes()[..]), ("head.weight", &0x7c00u16.to_le_bytes())] {
        let at = file.tensor(name).expect("a tensor").data().as_ptr() as usize - whole.as_ptr() as usize;
        let mut broken = whole.clone();
        broken[at..at + number.len()].copy_from_slice(number);
        made.write("model.safetensors", broken);
        let message = made.refused("model.safetensors");
        assert!(message.contains("not finite") && message.contains(&format!("in `{name}`")), "{message}");
    }
}

#[test]
fn names_behind_a_prefix_are_one_line_with_the_remedy() {
    let made = Made::new();
    for prefix in ["module.", "model.", "module.model."] {
        let named = |name: &str| &*format!("{prefix}{name}").leak();
        made.weights(&tensors().into_iter().map(|(name, dtype, shape)| (named(name), dtype, shape)).collect());
        let message = made.refused("model.safetensors");
        assert!(message.contains(&format!("has `{prefix}` before the name of each tensor")), "{message}");
        assert!(message.contains(&format!("removeprefix(\"{prefix}\")")) && !message.contains('\n'), "{message}");
    }
}

#[test]
fn inceptions_auxiliary_head_is_ignored_knowingly() {
    let made = Made::new();
    made.write("config.json", r#"{"architecture": "inception_v3"}"#);
    let parameters = Architecture::InceptionV3.network(2).parameters(&[3, 299, 299]).expect("a network");
    let tensor = |p: &shared::contract::Parameter| (&*p.name.clone().leak(), Dtype::F16, p.shape.clone());
    let mut tensors: Tensors = parameters.iter().map(tensor).collect();
    tensors.push(("AuxLogits.fc.weight", Dtype::F16, vec![2, 768]));
    made.weights(&tensors);
    let folder = made.read().expect("a folder");
    assert!(folder.notes[0].contains("`AuxLogits.`"), "{:?}", folder.notes);
}

#[test]
fn every_wrong_tensor_is_named() {
    let made = Made::new();
    made.weights(&vec![("head.wieght", Dtype::F32, vec![2, 3]), ("head.bias", Dtype::F32, vec![3])]);
    let message = made.refused("model.safetensors");
    assert!(message.contains("missing:\n    `head.weight` [2, 3]"), "{message}");
    assert!(message.contains("`head.wieght` (did you mean `head.weight`?)"), "{message}");
    assert!(message.contains("`head.bias` has the shape [3]: the network needs [2]"), "{message}");
    made.weights(&vec![("head.weight", Dtype::F64, vec![2, 3]), ("head.bias", Dtype::F32, vec![2])]);
    assert!(made.refused("model.safetensors").contains("`head.weight` holds F64: F32, F16 and BF16 are accepted"));
    made.write("config.json", r#"{"architecture": "squeezenet1_1"}"#);
    let message = made.refused("model.safetensors");
    assert!(message.contains("and 42 more"), "{message}");
}

#[test]
fn a_damaged_or_hostile_weights_file_is_refused() {
    let made = Made::new();
    let whole = std::fs::read(made.path("model.safetensors")).expect("a file");
    let header = |text: &str, data: usize| {
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend(text.as_bytes());
        file.resize(file.len() + data, 0);
        file
    };
    let tensor = |shape: &str, offsets: &str| {
        format!(r#"{{"head.weight": {{"dtype": "F32", "shape": {shape}, "data_offsets": {offsets}}}}}"#)
    };
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("empty", vec![], "less than 8 bytes"),
        ("cut", whole[..whole.len() - 1].to_vec(), "cut off"),
        ("longer", [&whole[..], b"x"].concat(), "damaged"),
        ("a pickle", b"PK\x03\x04\x00\x00\x08\x08 and so on".to_vec(), "is no safetensors file"),
        ("a huge header", u64::MAX.to_le_bytes().to_vec(), "is no safetensors file"),
        ("no JSON", header("{", 0), "cannot be read"),
        ("another size", header(&tensor("[2, 3]", "[0, 4]"), 4), "cannot be read"),
        ("a hole", header(&tensor("[1]", "[4, 8]"), 8), "cannot be read"),
        ("overflow", header(&tensor("[18446744073709551615, 9]", "[0, 4]"), 4), "cannot be read"),
    ];
    for (what, bytes, expected) in cases {
        made.write("model.safetensors", bytes);
        let message = made.refused("model.safetensors");
        assert!(message.contains(expected), "{what}: {message}");
    }
    std::fs::remove_file(made.path("model.safetensors")).expect("removed");
    assert!(made.refused("model.safetensors").contains("save_file(model.state_dict()"));
}

#[test]
fn a_wrong_config_is_told_by_file_key_and_what_is_accepted() {
    let made = Made::new();
    let cases = [
        ("{", "is not JSON"),
        ("{}", "names no network"),
        (r#"{"architecture": "resnet19"}"#, "`architecture` is \"resnet19\": squeezenet1_1, resnet18"),
        (r#"{"architecture": "resnet19"}"#, "did you mean `resnet18`?"),
        (r#"{"architectures": ["ResNetForImageClassification"]}"#, "torchvision's tensor names"),
        (r#"{"architectures": 3}"#, "`architectures` is 3"),
        (r#"{"architecure": "resnet18"}"#, "`architecure` is no known key: did you mean `architecture`?"),
        (r#"{"architecture": "resnet18", "layers": []}"#, "stands beside `layers`"),
        (r#"{"architecture": "resnet18", "input": [1, 64, 64]}"#, "takes 3"),
        (r#"{"architecture": "resnet18", "input": [64, 64]}"#, "`input` is [64, 64]: [1 or 3, height, width]"),
        (
            r#"{"architecture": "inception_v3", "transform_input": true}"#,
            "`transform_input` is true: false is accepted",
        ),
        (r#"{"layers": [{"type": "flatten"}]}"#, "`input` is missing"),
        (
            r#"{"input": [3, 4, 4], "layers": [{"type": "linear", "units": "two"}]}"#,
            "`layers[0].units` is the text \"two\":",
        ),
        (r#"{"input": [3, 4, 4], "layers": [{"type": "linear", "units": 2}]}"#, "layers[0]: linear needs a flat input"),
        (r#"{"input": [3, 4, 4], "layers": [], "id2label": {"1": "a"}}"#, "`id2label` has 1 labels but none for 0"),
        (r#"{"input": [3, 4, 4], "layers": [], "num_labels": "2"}"#, "`num_labels` is the text \"2\": a whole number"),
    ];
    for (text, expected) in cases {
        made.write("config.json", text);
        let message = made.refused("config.json");
        assert!(message.contains(expected), "{text}: {message}");
    }
    std::fs::remove_file(made.path("config.json")).expect("removed");
    assert!(made.refused("config.json").contains("architecture"));
}

#[test]
fn wrong_labels_are_told_by_line() {
    let made = Made::new();
    for (text, expected) in [
        (&b""[..], "is empty"),
        (b"cat\n\ndog\n", "line 2 is empty"),
        (b"caf\xe9\ndog", "is not UTF-8"),
        (b"a\nb\nc\n", "has 3 labels"),
    ] {
        made.write("labels.txt", text);
        let message = made.refused("labels.txt");
        assert!(message.contains(expected), "{message}");
    }
    let config = std::fs::read_to_string(made.path("config.json")).expect("a file");
    made.write("labels.txt", "cat\ndog");
    made.write("config.json", config.replacen('{', r#"{"num_classes": 3, "#, 1));
    assert!(made.refused("config.json").contains("says 3 classes: the network has 2"));
}

#[test]
fn preprocessing_is_hugging_faces() {
    let read = |text: &str| preprocessor::read(text.as_bytes(), 3).expect("accepted");
    let rest = r#""image_mean": [0, 0, 0], "image_std": [1, 1, 1]"#;
    let with = |text: &str| read(&format!("{{{text}, {rest}}}"));
    let cropped =
        with(r#""do_resize": true, "size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 200}"#);
    assert_eq!(cropped.preprocessing.resize, Some(Resize::ShortestEdge(256)));
    assert_eq!(cropped.output, Some(([224, 200], "crop_size")));
    assert_eq!((cropped.preprocessing.filter, cropped.preprocessing.rescale), (Filter::Bilinear, 1.0 / 255.0));
    assert_eq!(with(r#""size": 256, "crop_size": 224"#).preprocessing.resize, Some(Resize::ShortestEdge(256)));
    assert_eq!(with(r#""size": 224"#).preprocessing.resize, Some(Resize::Exact([224, 224])));
    assert_eq!(with(r#""size": {"height": 8, "width": 9}"#).output, Some(([8, 9], "size")));
    let filters = [Filter::Nearest, Filter::Lanczos, Filter::Bilinear, Filter::Bicubic, Filter::Box, Filter::Hamming];
    for (number, filter) in filters.into_iter().enumerate() {
        assert_eq!(with(&format!(r#""resample": {number}"#)).preprocessing.filter, filter);
    }
    assert_eq!(with(r#""do_rescale": false, "rescale_factor": 0.1"#).preprocessing.rescale, 1.0);
    assert_eq!(with(r#""rescale_factor": 0.1, "do_pad": false, "crop_pct": null"#).preprocessing.rescale, 0.1);
    let plain = read(r#"{"do_normalize": false, "image_processor_type": "ViTImageProcessor"}"#).preprocessing;
    assert_eq!((plain.mean, plain.std), (vec![0.0; 3], vec![1.0; 3]));
}

#[test]
fn preprocessing_that_is_not_understood_is_refused_by_name() {
    let made = Made::new();
    let cases = [
        (r#""size": 4, "crop_pct": 1.5"#, "`crop_pct` is 1.5: above 0 to 1 is accepted"),
        (r#""size": {"height": 4, "width": 4}, "crop_pct": 0.9"#, "{shortest_edge} is accepted beside `crop_pct`"),
        (r#""do_pad": true"#, "unknown field `do_pad`"),
        (r#""image_maen": [0, 0, 0]"#, "did you mean `image_mean`?"),
        (r#""do_resize": false"#, "`do_resize` is false"),
        (r#""resample": 6"#, "`resample` is 6: 0 (nearest)"),
        (r#""size": {"longest_edge": 4}"#, "`size` is wrong: a number, {shortest_edge} or {height, width}"),
        (r#""size": {"shortest_edge": 4}"#, "without `crop_size` every picture"),
        (r#""crop_size": 4"#, "give the `size` before the crop"),
        (r#""size": 4, "do_center_crop": true"#, "`crop_size` is missing"),
        (r#""size": {"shortest_edge": 3}, "crop_size": 4"#, "`crop_size` is [4, 4]: at most"),
        (r#""size": 0"#, "1 to 16384 is accepted"),
        (r#""size": 5"#, "`size` is [5, 5]: the network's input, [4, 4], is accepted"),
        (r#""rescale_factor": 0"#, "`rescale_factor` is 0: a number above 0"),
        (r#""image_mean": [0.5]"#, "`image_mean` is [0.5]: 3 numbers"),
        (r#""image_std": [1, 0, 1]"#, "numbers above 0"),
        (r#""image_std": null"#, "`image_std` is missing"),
    ];
    for (text, expected) in cases {
        let mut map: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(r#"{"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}"#).expect("JSON");
        map.extend(serde_json::from_str::<serde_json::Map<_, _>>(&format!("{{{text}}}")).expect("JSON"));
        made.write("preprocessor_config.json", serde_json::to_vec(&map).expect("JSON"));
        let message = made.refused("preprocessor_config.json");
        assert!(message.contains(expected), "{text}: {message}");
    }
    std::fs::remove_file(made.path("preprocessor_config.json")).expect("removed");
    assert!(made.refused("preprocessor_config.json").contains("0.485"));
}

#[test]
fn a_real_network_is_accepted_as_it_is() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/squeezenet1_1");
    if !folder.is_dir() {
        eprintln!("SKIPPED a_real_network_is_accepted_as_it_is: there is no `{}`", folder.display());
        return;
    }
    let read = Folder::read(&folder).expect("accepted");
    assert_eq!((read.config.input.as_slice(), read.labels.len()), (&[3, 224, 224][..], 1000));
    assert_eq!(read.preprocessing.resize, Some(Resize::ShortestEdge(256)));
    assert_eq!((read.preprocessing.rescale, &*read.preprocessing.mean), (1.0, &[123.0, 117.0, 104.0][..]));
    assert_eq!(read.notes, Vec::<String>::new());
}

/// A folder with an ONNX file whose tensors lie beside it, as PyTorch's exporter leaves them.
fn onnx() -> Made {
    let made = Made::new();
    for file in ["config.json", "model.safetensors"] {
        std::fs::remove_file(made.path(file)).expect("removed");
    }
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../onnx/tests/golden");
    for (from, to) in [("resnet-18.onnx", "model.onnx"), ("resnet-18.data", "resnet-18.data")] {
        made.write(to, std::fs::read(golden.join(from)).expect("a file"));
    }
    made.write(
        "preprocessor_config.json",
        r#"{"size": 64, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.3, 0.3, 0.3]}"#,
    );
    made.write("labels.txt", "a\nb\nc\nd\ne\nf\ng\nh\ni\nj\n");
    made
}

#[tokio::test]
async fn an_onnx_file_becomes_a_model_with_all_its_tensors() {
    let (made, (_home, store)) = (onnx(), store().await);
    let (_, model) = push(store.as_ref(), &name(), made.read().expect("a folder"), |_, _| {}).await.expect("sent");
    assert_eq!((model.config.input.as_slice(), model.labels.len()), (&[3, 64, 64][..], 10));
    assert!(matches!(&model.config.network, ModelNetwork::Onnx(network) if network.parameters > 10_000));
    assert!(model.weights.key.as_str().ends_with("/model.onnx"), "{:?}", model.weights);
    let sent = fetch_checked(store.as_ref(), &model.weights).await.expect("the file");
    let network = ::onnx::parse(sent, None, &::onnx::Options::default()).expect("it needs no other file");
    assert_eq!(network.output_shape, [10]);
    // The file itself may be named as well.
    let file = Folder::read(&made.path("model.onnx")).expect("a file");
    assert_eq!(file.config, model.config);
}

#[test]
fn what_is_wrong_with_an_onnx_file_is_said() {
    let made = onnx();
    made.write("labels.txt", "a\nb\n");
    assert!(made.refused("labels.txt").contains("has 2 labels: the network has [10] outputs"));
    made.write("config.json", r#"{"architectures": ["Whatever"], "id2label": {"0": "a"}, "layers": []}"#);
    assert!(made.refused("config.json").contains("stands beside an ONNX file"));
    let made = onnx();
    let whole = std::fs::read(made.path("model.onnx")).expect("a file");
    let at = whole.windows(6).position(|part| part == b"\x22\x04Relu").expect("an operator");
    let mut other = whole.clone();
    other[at + 2..at + 6].copy_from_slice(b"Rexu");
    made.write("model.onnx", &other);
    let message = made.refused("model.onnx");
    assert!(message.contains("(Rexu): this operator is not accepted"), "{message}");
    made.write("model.onnx", &whole[..whole.len() / 2]);
    assert!(made.refused("model.onnx").contains("is no ONNX file that can be read"));
    let made = onnx();
    std::fs::remove_file(made.path("resnet-18.data")).expect("removed");
    assert!(made.refused("model.onnx").contains("cannot read `resnet-18.data`"));
    let made = onnx();
    made.write(
        "preprocessor_config.json",
        r#"{"size": 32, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.3, 0.3, 0.3]}"#,
    );
    let message = made.refused("model.onnx");
    assert!(message.contains("it is 64 high or wide, not 32"), "{message}");
}
