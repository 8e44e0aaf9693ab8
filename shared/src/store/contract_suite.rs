//! What every store must do, as one suite for all implementations.
//!
//! The directory store is always tested. S3 is when `GANNET_TEST_S3` holds an endpoint: it must have a
//! bucket `gannet-test`, and take the keys that the `AWS_*` variables hold.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use tempfile::TempDir;

use super::dir::DirStore;
use super::probe::probe;
use super::s3::S3Store;
use super::{Created, MAX_SMALL, Store, StoreError};
use crate::names::Key;

type Outcome = Result<(), StoreError>;

/// Every case, for every implementation.
macro_rules! suite {
    ($($case:ident),* $(,)?) => {
        mod dir {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() -> super::Outcome {
                let folder = tempfile::tempdir().expect("a temporary folder");
                let store = super::DirStore::open(folder.path().join("store"))?;
                super::$case(std::sync::Arc::new(store)).await
            })*
        }

        mod s3 {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() -> super::Outcome {
                match super::s3(stringify!($case)).await? {
                    Some(store) => super::$case(store).await,
                    None => Ok(()),
                }
            })*
        }
    };
}

suite! {
    bodies_of_any_size_come_back,
    put_overwrites,
    create_is_once,
    one_of_many_creators_wins,
    lists_are_sorted_and_keep_to_whole_parts,
    lists_are_complete,
    children_are_names,
    delete_is_idempotent,
    deletes_and_creates_do_not_disturb_each_other,
    what_is_not_there_is_not_found,
    odd_keys_are_keys,
    large_files_go_up_and_down,
    too_large_is_told,
    the_probe_is_content_and_cleans_up,
}

/// An S3 store with a prefix of its own, or `None`, with a word why.
async fn s3(case: &str) -> Result<Option<Arc<dyn Store>>, StoreError> {
    let Some(endpoint) = std::env::var("GANNET_TEST_S3").ok().filter(|endpoint| !endpoint.is_empty()) else {
        eprintln!("SKIPPED s3::{case}: GANNET_TEST_S3 is not set");
        return Ok(None);
    };
    let prefix = format!("suite/{}", uuid::Uuid::new_v4());
    Ok(Some(Arc::new(S3Store::open("gannet-test", &prefix, Some(&endpoint)).await?)))
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

fn keys(entries: &[super::Entry]) -> Vec<&str> {
    entries.iter().map(|entry| entry.key.as_str()).collect()
}

/// Bytes that no shorter sequence repeats, so that a piece in the wrong place shows.
fn noise(size: usize) -> Bytes {
    let mut state = 1_u64;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}

async fn bodies_of_any_size_come_back(store: Arc<dyn Store>) -> Outcome {
    for size in [0, 1, 8 * 1024 * 1024] {
        let body = noise(size);
        store.put(&key("a/body"), body.clone()).await?;
        assert_eq!(store.get(&key("a/body")).await?, body, "{size} bytes");
        let created = key(&format!("a/created-{size}"));
        assert_eq!(store.create(&created, body.clone()).await?, Created::New);
        assert_eq!(store.get(&created).await?, body, "{size} bytes");
    }
    Ok(())
}

async fn put_overwrites(store: Arc<dyn Store>) -> Outcome {
    store.put(&key("a/b"), "a longer first".into()).await?;
    store.put(&key("a/b"), "second".into()).await?;
    assert_eq!(store.get(&key("a/b")).await?, "second");
    Ok(())
}

async fn create_is_once(store: Arc<dyn Store>) -> Outcome {
    assert_eq!(store.create(&key("runs/a/results/1.json"), "first".into()).await?, Created::New);
    assert_eq!(store.create(&key("runs/a/results/1.json"), "second".into()).await?, Created::Exists);
    assert_eq!(store.get(&key("runs/a/results/1.json")).await?, "first");
    store.put(&key("put"), "first".into()).await?;
    assert_eq!(store.create(&key("put"), "second".into()).await?, Created::Exists);
    store.delete(&key("put")).await?;
    assert_eq!(store.create(&key("put"), "third".into()).await?, Created::New);
    Ok(())
}

async fn one_of_many_creators_wins(store: Arc<dyn Store>) -> Outcome {
    let tasks: Vec<_> = (0..32)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.create(&key("deep/er/one"), format!("writer {writer}").into()).await })
        })
        .collect();
    let mut winners = Vec::new();
    for (writer, task) in tasks.into_iter().enumerate() {
        if task.await.expect("no panic")? == Created::New {
            winners.push(format!("writer {writer}"));
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    assert_eq!(store.get(&key("deep/er/one")).await?, winners[0]);
    Ok(())
}

async fn lists_are_sorted_and_keep_to_whole_parts(store: Arc<dyn Store>) -> Outcome {
    for name in ["runs/a/z", "runs/a/b/c", "runs/a/b.c", "runs/ab/x", "runs/a-b", "other"] {
        store.put(&key(name), "12345".into()).await?;
    }
    let listed = store.list(&key("runs/a")).await?;
    let day = jiff::SignedDuration::from_hours(24);
    let recent =
        |entry: &super::Entry| entry.modified.is_some_and(|at| jiff::Timestamp::now().duration_since(at).abs() < day);
    assert!(listed.iter().all(recent), "{listed:?}");
    assert_eq!(keys(&listed), ["runs/a/b.c", "runs/a/b/c", "runs/a/z"]);
    assert!(listed.iter().all(|entry| entry.size == 5));
    assert_eq!(keys(&store.list(&key("runs/a-b")).await?), Vec::<&str>::new(), "an object is not beneath itself");
    assert_eq!(keys(&store.list(&key("nothing")).await?), Vec::<&str>::new());
    Ok(())
}

/// More than S3 tells in one page.
async fn lists_are_complete(store: Arc<dyn Store>) -> Outcome {
    let names: Vec<Key> = (0..1_050).map(|n| key(&format!("many/{:02}/{n:04}", n % 7))).collect();
    stream::iter(&names).map(|name| store.put(name, Bytes::new())).buffer_unordered(32).try_collect::<()>().await?;
    let mut expected: Vec<&str> = names.iter().map(Key::as_str).collect();
    expected.sort_unstable();
    assert_eq!(keys(&store.list(&key("many")).await?), expected);
    assert_eq!(store.children(&key("many")).await?.len(), 7);
    assert_eq!(store.children(&key("many/00")).await?.len(), 150);
    Ok(())
}

async fn children_are_names(store: Arc<dyn Store>) -> Outcome {
    for name in ["runs/b/run.json", "runs/a/results/1.json", "runs/a/run.json", "runs/note", "runs2/x"] {
        store.put(&key(name), "x".into()).await?;
    }
    assert_eq!(store.children(&key("runs")).await?, ["a", "b", "note"]);
    assert_eq!(store.children(&key("runs/a")).await?, ["results", "run.json"]);
    assert_eq!(store.children(&key("nothing")).await?, Vec::<String>::new());
    store.delete(&key("runs/b/run.json")).await?;
    assert_eq!(store.children(&key("runs")).await?, ["a", "note"], "an empty folder is no child");
    Ok(())
}

async fn delete_is_idempotent(store: Arc<dyn Store>) -> Outcome {
    store.put(&key("a/b/c"), "x".into()).await?;
    store.delete(&key("a/b/c")).await?;
    store.delete(&key("a/b/c")).await?;
    store.delete(&key("never/was")).await?;
    assert!(matches!(store.get(&key("a/b/c")).await, Err(StoreError::NotFound { .. })));
    Ok(())
}

/// The last delete in a folder and the first write in it, again and again.
async fn deletes_and_creates_do_not_disturb_each_other(store: Arc<dyn Store>) -> Outcome {
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let (store, name) = (Arc::clone(&store), key(&format!("busy/folder/{task}")));
            tokio::spawn(async move {
                for _ in 0..20 {
                    assert_eq!(store.create(&name, "x".into()).await?, Created::New);
                    store.list(&key("busy")).await?;
                    store.delete(&name).await?;
                }
                Ok::<(), StoreError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic")?;
    }
    Ok(())
}

async fn what_is_not_there_is_not_found(store: Arc<dyn Store>) -> Outcome {
    store.put(&key("a/b"), "x".into()).await?;
    let folder = TempDir::new().expect("a temporary folder");
    for name in ["nothing", "a", "a/c"] {
        let error = store.get(&key(name)).await.expect_err("nothing there");
        assert!(matches!(&error, StoreError::NotFound { key, .. } if key.as_str() == name), "{error}");
        let error = store.download(&key(name), &folder.path().join("to")).await.expect_err("nothing there");
        assert!(matches!(&error, StoreError::NotFound { key, .. } if key.as_str() == name), "{error}");
        assert!(!error.is_passing());
    }
    Ok(())
}

async fn odd_keys_are_keys(store: Arc<dyn Store>) -> Outcome {
    let names = [
        "a b",
        "a+b",
        "a%20b",
        "a=b&c",
        "a#b",
        "a?b",
        "Grüße/日本.jpg",
        "~tilde",
        "'quote\"",
        "dots..",
        ".hidden",
        "a:b@c",
    ];
    for name in names {
        let name = key(&format!("odd/{name}"));
        assert_eq!(store.create(&name, name.to_string().into()).await?, Created::New, "{name}");
        assert_eq!(store.create(&name, "again".into()).await?, Created::Exists, "{name}");
    }
    for name in names {
        let name = key(&format!("odd/{name}"));
        assert_eq!(store.get(&name).await?, name.to_string());
    }
    let mut expected: Vec<String> = names.iter().map(|name| format!("odd/{name}")).collect();
    expected.sort();
    assert_eq!(keys(&store.list(&key("odd")).await?), expected);
    for name in names {
        store.delete(&key(&format!("odd/{name}"))).await?;
    }
    assert!(store.list(&key("odd")).await?.is_empty());
    Ok(())
}

async fn large_files_go_up_and_down(store: Arc<dyn Store>) -> Outcome {
    let folder = TempDir::new().expect("a temporary folder");
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let body = noise(20_000_003);
    std::fs::write(&from, &body).expect("written");
    std::fs::write(&to, "what stood there").expect("written");
    store.upload(&key("datasets/d/file"), &from).await?;
    assert_eq!(store.download(&key("datasets/d/file"), &to).await?, 20_000_003);
    assert!(std::fs::read(&to).expect("read") == body, "the file came back altered");
    let error = store.upload(&key("x"), &folder.path().join("none")).await.expect_err("no such file");
    assert!(matches!(error, StoreError::Local { .. }), "{error}");
    Ok(())
}

async fn too_large_is_told(store: Arc<dyn Store>) -> Outcome {
    let folder = TempDir::new().expect("a temporary folder");
    let from = folder.path().join("from");
    // Sparse: no disk is used here.
    std::fs::File::create(&from).and_then(|file| file.set_len(MAX_SMALL + 1)).expect("made");
    store.upload(&key("large"), &from).await?;
    let error = store.get(&key("large")).await.expect_err("over the limit");
    assert!(matches!(error, StoreError::TooLarge { size, .. } if size == MAX_SMALL + 1), "{error}");
    assert_eq!(store.download(&key("large"), &folder.path().join("to")).await?, MAX_SMALL + 1);
    Ok(())
}

async fn the_probe_is_content_and_cleans_up(store: Arc<dyn Store>) -> Outcome {
    probe(&store).await?;
    assert!(store.list(&key("probe")).await?.is_empty());
    Ok(())
}
