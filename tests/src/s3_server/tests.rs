//! The server's own promises, and what a store says when they are not kept.

use std::sync::Arc;

use shared::names::Key;
use shared::store::probe::probe;
use shared::store::s3::S3Store;
use shared::store::{Created, Store, StoreError};

use super::*;

async fn server() -> (tempfile::TempDir, S3Server) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let options = Options { log: Some(folder.path().join("log")), ..Options::new(folder.path().join("root")) };
    let server = S3Server::start(&options).await.expect("started");
    (folder, server)
}

fn key(text: &str) -> Key {
    Key::new(text).expect("a key")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_conditional_put_is_one() {
    let (_folder, server) = server().await;
    let store = S3Store::with_keys("gannet-test", "p", server.endpoint(), "test", "testtest").await;
    let store: Arc<dyn Store> = Arc::new(store);
    probe(&store).await.expect("one winner a round");
    let won =
        server.requests().iter().filter(|request| request.operation == "PutObject" && request.status == 200).count();
    assert_eq!(won, shared::store::probe::ROUNDS);
    server.stop().await.expect("stopped");
}

/// Half of all requests are turned away; then half of the writes are done without an answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_busy_server_passes_the_probe() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let faults = folder.path().join("faults");
    let options = Options { faults: Some(faults.clone()), ..Options::new(folder.path().join("root")) };
    let server = S3Server::start(&options).await.expect("started");
    let lost = Rule { operation: Some("PutObject".into()), ..Rule::every(2, Fault::LostAnswer) };
    for rule in [Rule::every(2, Fault::Answer("SlowDown".into())), lost] {
        write_rules(&faults, std::slice::from_ref(&rule)).expect("written");
        let store = S3Store::with_keys("gannet-test", "p", server.endpoint(), "test", "testtest").await;
        let store: Arc<dyn Store> = Arc::new(store);
        probe(&store).await.unwrap_or_else(|error| panic!("{rule:?}: {error}"));
    }
    let turned_away = server.requests().iter().filter(|request| request.status == 503).count();
    assert!(turned_away > shared::store::probe::WRITERS, "{turned_away}");
    server.stop().await.expect("stopped");
}

#[tokio::test]
async fn its_log_counts_requests() {
    let (folder, server) = server().await;
    let store = S3Store::with_keys("gannet-test", "", server.endpoint(), "test", "testtest").await;
    let name = key("a b/c");
    assert_eq!(store.create(&name, "x".into()).await.expect("answered"), Created::New);
    assert_eq!(store.create(&name, "y".into()).await.expect("answered"), Created::Exists);
    store.get(&name).await.expect("read");
    store.list(&key("a b")).await.expect("listed");
    store.delete(&name).await.expect("deleted");
    store.get(&name).await.expect_err("gone");
    let expected: Vec<Request> = [
        ("PutObject", "a b/c", 200),
        ("PutObject", "a b/c", 412),
        ("GetObject", "a b/c", 200),
        ("ListObjectsV2", "a b/", 200),
        ("DeleteObject", "a b/c", 204),
        ("GetObject", "a b/c", 404),
    ]
    .map(|(operation, key, status)| Request { operation: operation.into(), key: key.into(), status })
    .into();
    assert_eq!(server.requests(), expected);
    assert_eq!(read_log(&folder.path().join("log")).expect("read"), expected);
}

/// `s3s-fs` alone names a file after the whole key in base64, and fails here.
#[tokio::test]
async fn the_longest_keys_fit() {
    let (_folder, server) = server().await;
    let store = S3Store::with_keys("gannet-test", "", server.endpoint(), "test", "testtest").await;
    let name = key(&["x".repeat(200), "y".repeat(200), "z".repeat(200)].join("/"));
    assert_eq!(store.create(&name, "x".into()).await.expect("answered"), Created::New);
    assert_eq!(store.get(&name).await.expect("read"), "x");
}

#[tokio::test]
async fn wrong_keys_and_missing_buckets_are_refused_with_what_to_check() {
    let (_folder, server) = server().await;
    for (bucket, secret, expected) in [
        ("gannet-test", "wrong", "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        ("no-such-bucket", "testtest", "create the bucket `no-such-bucket`"),
    ] {
        let store = S3Store::with_keys(bucket, "", server.endpoint(), "test", secret).await;
        for error in [
            store.get(&key("a")).await.map(drop).expect_err("refused"),
            store.put(&key("a"), "x".into()).await.expect_err("refused"),
            store.list(&key("a")).await.map(drop).expect_err("refused"),
        ] {
            assert!(matches!(error, StoreError::Refused { .. }), "{error:?}");
            assert!(error.to_string().contains(expected), "{error}");
        }
    }
}
