//! Every document of the contract has golden files under `golden/v1`: they are read and written again
//! unchanged, and fit the schema that clients are given.

use std::path::PathBuf;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use shared::contract::{Control, Dataset, Heartbeat, Job, JobResult, Model, Progress};
use shared::strict;

fn golden(document: &str) -> Vec<(String, Value)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden/v1");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the folder is in the tree") {
        let path = entry.expect("readable").path();
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        if name == document || name.starts_with(&format!("{document}-")) {
            let text = std::fs::read(&path).expect("readable");
            found.push((name, serde_json::from_slice(&text).expect("JSON")));
        }
    }
    assert!(!found.is_empty(), "no golden file of {document}");
    found
}

fn round_trip<T: DeserializeOwned + Serialize>(document: &str) {
    for (name, value) in golden(document) {
        let read: T = strict::from_value(&value).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let written = serde_json::to_value(&read).expect("plain data");
        assert_eq!(written, value, "{name}");
    }
}

#[test]
fn golden_files_are_read_and_written_again_unchanged() {
    round_trip::<Job>("job");
    round_trip::<JobResult>("result");
    round_trip::<Progress>("progress");
    round_trip::<Heartbeat>("heartbeat");
    round_trip::<Control>("control");
    round_trip::<Dataset>("dataset");
    round_trip::<Model>("model");
    round_trip::<Model>("model-onnx");
}

#[test]
fn an_unknown_field_is_refused_by_name_everywhere() {
    for (name, mut value) in golden("job") {
        value["colour"] = "red".into();
        let problem = strict::from_value::<Job>(&value).expect_err(&name).to_string();
        assert!(problem.contains("unknown field `colour`"), "{problem}");
    }
}

#[test]
fn golden_files_fit_the_schemas() {
    for document in shared::contract::schema::documents() {
        let schema = serde_json::to_value(&document.schema).expect("plain data");
        let validator = jsonschema::validator_for(&schema).expect("a valid schema");
        for (name, value) in golden(document.name) {
            let errors: Vec<String> =
                validator.iter_errors(&value).map(|error| format!("{}: {error}", error.instance_path())).collect();
            assert!(errors.is_empty(), "{name}: {errors:?}");
        }
    }
}
