//! How answers and silences are told, against a service that says what a test wants.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

/// A service that gives `answers` in turn, one a connection, the last one for ever.
async fn service<const N: usize>(answers: [String; N]) -> S3Store {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        for turn in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else { return };
            // The requests of these tests come in one piece; a client that hangs up is its test's affair.
            let _ = stream.read(&mut [0; 16 * 1024]).await;
            let _ = stream.write_all(answers[turn.min(N - 1)].as_bytes()).await;
        }
    });
    S3Store::with_keys("bucket", "some/prefix", &endpoint, "key", "secret").await
}

fn answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn error(status: &str, code: &str) -> String {
    answer(status, &format!("<Error><Code>{code}</Code><Message>said</Message></Error>"))
}

fn key() -> Key {
    Key::new("runs/a/run.json").expect("a key")
}

#[tokio::test]
async fn a_conflict_is_tried_again() {
    let conflict = || error("409 Conflict", "ConditionalRequestConflict");
    let store = service([conflict(), conflict(), answer("200 OK", "")]).await;
    assert_eq!(store.create(&key(), "x".into()).await.expect("the third time"), Created::New);
    let store = service([conflict(), error("412 Precondition Failed", "PreconditionFailed")]).await;
    assert_eq!(store.create(&key(), "x".into()).await.expect("the second time"), Created::Exists);
}

#[tokio::test]
async fn a_busy_service_is_tried_again() {
    let store = service([
        error("503 Slow Down", "SlowDown"),
        answer("500 Internal Server Error", ""),
        answer("200 OK", "body"),
    ])
    .await;
    assert_eq!(store.get(&key()).await.expect("the third time"), "body");
}

#[tokio::test]
async fn a_service_without_conditional_writes_is_refused_by_name() {
    let store = service([error("501 Not Implemented", "NotImplemented")]).await;
    let error = store.create(&key(), "x".into()).await.expect_err("refused");
    let text = error.to_string();
    assert!(text.contains("refused conditional writes") && text.contains("If-None-Match"), "{text}");
    assert!(!error.is_passing());
}

#[tokio::test]
async fn answers_are_told_with_what_to_check() {
    for (status, code, expected) in [
        ("404 Not Found", "NoSuchBucket", ["refused to read `runs/a/run.json`", "create the bucket `bucket`"]),
        ("403 Forbidden", "InvalidAccessKeyId", ["refused to read", "check AWS_ACCESS_KEY_ID"]),
        ("403 Forbidden", "RequestTimeTooSkewed", ["refused to read", "clock"]),
        ("301 Moved Permanently", "PermanentRedirect", ["refused to read", "set AWS_REGION"]),
        ("404 Not Found", "NoSuchKey", ["no object `runs/a/run.json`", "s3://bucket/some/prefix at http://127.0.0.1"]),
    ] {
        let error = service([error(status, code)]).await.get(&key()).await.expect_err("no object").to_string();
        assert!(expected.iter().all(|part| error.contains(part)), "{error}");
    }
}

#[tokio::test]
async fn nobody_there_is_told_with_the_address() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let store = S3Store::with_keys("bucket", "", &endpoint, "key", "secret").await;
    let error = store.get(&key()).await.expect_err("nobody there");
    let text = error.to_string();
    assert!(text.starts_with(&format!("the store at s3://bucket at {endpoint} cannot be reached")), "{text}");
    assert!(text.contains("refused"), "{text}");
    assert!(error.is_passing());
}

#[tokio::test]
async fn a_body_that_breaks_off_is_tried_again() {
    let whole = answer("200 OK", "all of it");
    let store = service([whole[..whole.len() - 5].to_owned(), whole]).await;
    assert_eq!(store.get(&key()).await.expect("the second time"), "all of it");
}

/// A service that keeps its connections. Once `dead` is set, those it has then read and never answer; a request on one
/// of them is counted.
async fn service_on_a_dead_line(dead: &'static AtomicBool, unheard: &'static AtomicUsize) -> S3Store {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("http://{}", listener.local_addr().expect("bound"));
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let born_dead = dead.load(Ordering::Relaxed);
            tokio::spawn(async move {
                while stream.read(&mut [0; 16 * 1024]).await.is_ok_and(|read| read > 0) {
                    if dead.load(Ordering::Relaxed) && !born_dead {
                        unheard.fetch_add(1, Ordering::Relaxed);
                        continue;
                    }
                    // So that requests at the same time need a connection each.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nbody").await;
                }
            });
        }
    });
    S3Store::with_keys("bucket", "", &endpoint, "key", "secret").await
}

#[tokio::test]
async fn a_dead_line_is_waited_for_once_however_many_connections_it_took() {
    static DEAD: AtomicBool = AtomicBool::new(false);
    static UNHEARD: AtomicUsize = AtomicUsize::new(0);
    let store = service_on_a_dead_line(&DEAD, &UNHEARD).await;
    let key = key();
    let read = || store.get(&key);
    let all = futures::future::join_all((0..8).map(|_| read())).await;
    assert!(all.iter().all(Result::is_ok), "{all:?}");
    DEAD.store(true, Ordering::Relaxed);
    assert_eq!(read().await.expect("on a new connection"), "body");
    assert_eq!(UNHEARD.load(Ordering::Relaxed), 1, "requests into the void");
}
