//! What is found, and above all what is not.

use serde_json::json;
use shared::contract::Kind;
use shared::digest::Digest;
use shared::store::dir::DirStore;
use shared::store::put_json;

use super::*;

struct Place {
    _folder: tempfile::TempDir,
    store: DirStore,
    run: Name,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = DirStore::open(folder.path()).expect("a store");
        Self { _folder: folder, store, run: Name::new("r").expect("a name") }
    }

    async fn put(&self, key: &Key, value: &Value) {
        put_json(&self.store, key, value).await.expect("written");
    }

    /// Tensors of a job, and the record of a slice that names them, where there is one.
    async fn tensors(&self, job: &str, content: &str, slice: Option<u32>) -> Key {
        let job = id(job);
        let key = layout::checkpoint_tensors(&self.run, &job, Digest::of(content.as_bytes()));
        self.put(&key, &json!(content)).await;
        if let Some(slice) = slice {
            let record = json!({"tensors": {"key": key, "sha256": Digest::of(content.as_bytes())}});
            self.put(&layout::checkpoint_record(&self.run, &job, slice), &record).await;
        }
        key
    }

    async fn result(&self, job: &str, change: impl FnOnce(&mut Value)) {
        let result = JobResult::cancelled(self.run.clone(), id(job), Kind::Trial, "w".into());
        let mut result = serde_json::to_value(result).expect("plain data");
        change(&mut result);
        self.put(&layout::result(&self.run, &id(job)), &result).await;
    }

    async fn found(&self, older: Duration, versions: bool) -> Vec<String> {
        // Ages are compared by the clock of the file system, which is coarse.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let found = find(&self.store, Limits { older, versions }).await.expect("found");
        found.into_iter().map(|garbage| garbage.entry.key.to_string()).collect()
    }
}

fn id(text: &str) -> JobId {
    JobId::new(text).expect("an id")
}

fn sorted(keys: &[&Key]) -> Vec<String> {
    let mut keys: Vec<String> = keys.iter().map(ToString::to_string).collect();
    keys.sort();
    keys
}

#[tokio::test]
async fn what_an_open_job_goes_on_with_stays() {
    let place = Place::new();
    place.put(&layout::run_manifest(&place.run), &json!({})).await;
    let old = place.tensors("open", "slice 0", Some(0)).await;
    place.tensors("open", "slice 1", Some(1)).await;
    let orphan = place.tensors("open", "uploaded by a duplicate", None).await;
    assert_eq!(place.found(Duration::ZERO, false).await, sorted(&[&old, &orphan]));
    assert!(place.found(Duration::from_secs(86_400), false).await.is_empty(), "nothing so young");
    // A cancelled run's jobs do not go on.
    place.put(&layout::cancelled(&place.run), &json!({"cancelled_at": "now"})).await;
    assert_eq!(place.found(Duration::ZERO, false).await.len(), 3);
}

#[tokio::test]
async fn what_a_result_names_stays_and_a_failed_job_may_be_put_back() {
    let place = Place::new();
    place.put(&layout::run_manifest(&place.run), &json!({})).await;
    let begun = place.tensors("done", "slice 0", Some(0)).await;
    let kept = place.tensors("done", "the network", None).await;
    place
        .result("done", |result| {
            result["status"] = "done".into();
            let checkpoint = json!({"key": kept, "sha256": Digest::of(b"the network")});
            result["outcome"] = json!({"trial": {"epochs": [], "best_epoch": 1, "checkpoint": checkpoint,
                "parameter_count": 1, "slices": 2, "stopped_early": false}});
        })
        .await;
    let superseded = place.tensors("failed", "slice 0", Some(0)).await;
    place.tensors("failed", "slice 1", Some(1)).await;
    place
        .result("failed", |result| {
            result["status"] = "failed".into();
            result["error"] = json!({"code": "crashed", "message": "it died"});
        })
        .await;
    let of_cancelled = place.tensors("cancelled", "slice 0", Some(0)).await;
    place.result("cancelled", |_| {}).await;
    let found = place.found(Duration::ZERO, false).await;
    assert_eq!(found, sorted(&[&begun, &superseded, &of_cancelled]));
    let garbage = find(&place.store, Limits { older: Duration::ZERO, versions: false }).await.expect("found");
    remove(&place.store, &garbage).await.expect("removed");
    assert!(place.found(Duration::ZERO, false).await.is_empty());
    place.store.get(&kept).await.expect("it stays");
}

#[tokio::test]
async fn of_a_deleted_run_only_the_tombstone_stays() {
    let place = Place::new();
    place.put(&layout::cancelled(&place.run), &json!({"deleted_at": "now"})).await;
    place.result("late", |_| {}).await;
    let late = layout::result(&place.run, &id("late"));
    assert_eq!(place.found(Duration::ZERO, false).await, sorted(&[&late]));
    // A cancelled run of another client keeps its results.
    place.put(&layout::cancelled(&place.run), &json!({"cancelled_at": "now"})).await;
    assert!(place.found(Duration::ZERO, false).await.is_empty());
}

#[tokio::test]
async fn versions_go_only_when_asked_and_when_nothing_names_them() {
    let place = Place::new();
    let name = Name::new("m").expect("a name");
    let mut manifests = Vec::new();
    for version in ["pinned", "current", "forgotten"] {
        let weights = layout::model_file(&name, Digest::of(version.as_bytes()), "model.safetensors");
        place.put(&weights, &json!(version)).await;
        let text = include_str!("../../../shared/golden/v1/model.json");
        let mut model: Value = serde_json::from_str(text).expect("JSON");
        model["weights"]["key"] = json!(weights);
        let sha256 = Digest::of(format!("manifest {version}").as_bytes());
        let key = layout::model_file(&name, sha256, "model.json");
        place.put(&key, &model).await;
        manifests.push((key, sha256, weights));
    }
    let pointer = json!({"digest": manifests[1].1, "change": "push", "at": "2026-11-24T21:30:00Z", "nonce": "n"});
    place.put(&layout::model_move(&name, 7), &pointer).await;
    let model = shared::names::ObjectRef { key: manifests[0].0.clone(), sha256: manifests[0].1 };
    let manifest = RunManifest::new(place.run.clone(), Asked::Classification { model, images: 1 });
    manifest.create(&place.store).await.expect("written");
    assert!(place.found(Duration::ZERO, false).await.is_empty());
    assert_eq!(place.found(Duration::ZERO, true).await, sorted(&[&manifests[2].0, &manifests[2].2]));
}
