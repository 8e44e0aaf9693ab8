//! The tests' S3 server as a process of its own.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use tests::s3_server::{Options, S3Server};

/// An S3 server on 127.0.0.1 that keeps objects as files. For tests.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where buckets lie
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Port; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// A bucket to make
    #[arg(long, value_name = "NAME", default_value = "gannet-test")]
    bucket: String,
    /// The one access key
    #[arg(long, value_name = "KEY", default_value = "test")]
    access_key: String,
    /// Its secret
    #[arg(long, value_name = "KEY", default_value = "testtest")]
    secret_key: String,
    /// Append a line a request: operation, key, status
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Rules for requests that go wrong, as JSON; the file may come, change and go
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { root, port, bucket, access_key, secret_key, log, faults } = Arguments::parse();
    let options = Options { root, port, bucket, access_key, secret_key, log, faults };
    let server = S3Server::start(&options).await?;
    // Whoever started it waits for this line.
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening on {}", server.endpoint()).and_then(|()| out.flush()).context("cannot print")?;
    drop(out);
    let mut terminated = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        _ = terminated.recv() => {}
    }
    server.stop().await
}
