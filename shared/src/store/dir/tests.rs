//! What only a directory does; the rest is in the contract suite.

use super::*;

fn store() -> (tempfile::TempDir, DirStore) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let store = DirStore::open(folder.path().join("some/where")).expect("opened");
    (folder, store)
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn temporary_files(store: &DirStore) -> usize {
    fs::read_dir(store.root.join(TEMPORARY)).expect("read").count()
}

#[tokio::test]
async fn a_key_is_an_object_or_the_beginning_of_others() {
    let (_folder, store) = store();
    store.put(&key("a/b"), "x".into()).await.expect("written");
    for (name, reason) in [("a", "other keys go on from this one"), ("a/b/c", "a part of this key is an object")] {
        for error in [
            store.put(&key(name), "y".into()).await.expect_err("refused"),
            store.create(&key(name), "y".into()).await.map(drop).expect_err("refused"),
        ] {
            assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
            assert!(error.to_string().contains(reason), "{error}");
        }
        store.delete(&key(name)).await.expect("nothing there");
    }
    assert_eq!(store.get(&key("a/b")).await.expect("unharmed"), "x");
    assert_eq!(temporary_files(&store), 0);
}

#[tokio::test]
async fn temporary_files_are_no_objects_and_go() {
    let (_folder, store) = store();
    let error = store.put(&key(".tmp/a"), "x".into()).await.expect_err("refused");
    assert!(error.to_string().contains("the store's own"), "{error}");
    store.create(&key("a"), "x".into()).await.expect("written");
    store.create(&key("a"), "x".into()).await.expect("there already");
    store.put(&key("a"), "x".into()).await.expect("written");
    assert_eq!(temporary_files(&store), 0);
}

#[tokio::test]
async fn names_that_are_too_long_are_refused() {
    let (_folder, store) = store();
    let long = key(&"x".repeat(300));
    assert!(matches!(store.put(&long, "x".into()).await, Err(StoreError::Refused { .. })));
    assert!(matches!(store.get(&long).await, Err(StoreError::NotFound { .. })));
}

#[test]
fn stale_temporary_files_are_swept() {
    let (_folder, store) = store();
    let (stale, fresh) = (store.root.join(".tmp/stale"), store.root.join(".tmp/fresh"));
    let old = std::time::SystemTime::UNIX_EPOCH;
    File::create(&stale).and_then(|file| file.set_modified(old)).expect("made");
    File::create(&fresh).expect("made");
    DirStore::open(&store.root).expect("opened again");
    assert!(!stale.exists() && fresh.exists());
}

#[test]
fn deleting_leaves_no_empty_folders() {
    let (_folder, store) = store();
    store.create_with(&key("a/b/c/d"), b"x").expect("written");
    store.create_with(&key("a/e"), b"x").expect("written");
    store.remove(&key("a/b/c/d")).expect("removed");
    assert!(!store.root.join("a/b").exists() && store.root.join("a/e").exists());
}
