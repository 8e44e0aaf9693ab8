//! The tests' S3 server as a process of its own.

use std::io::Write;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use tests::s3_server::{Options, S3Server};

/// An S3 server that keeps objects as files. For tests.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where buckets lie
    #[arg(long, value_name = "DIR")]
    root: PathBuf,
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    /// Port; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// A bucket to make
    #[arg(long, value_name = "NAME", default_value = "gannet-test")]
    bucket: String,
    /// The access key that is always there
    #[arg(long, value_name = "KEY", default_value = "test")]
    access_key: String,
    /// Its secret
    #[arg(long, value_name = "KEY", default_value = "testtest")]
    secret_key: String,
    /// A folder of more keys: a file each, called like the key, with its secret in it
    #[arg(long, value_name = "DIR")]
    users: Option<PathBuf>,
    /// A certificate with its chain, PEM: TLS is spoken
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_certificate: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE", requires = "tls_certificate")]
    tls_key: Option<PathBuf>,
    /// Append a line a request: operation, key, status
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Rules for requests that go wrong, as JSON; the file may come, change and go
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { root, host, port, bucket, access_key, secret_key, users, tls_certificate, tls_key, log, faults } =
        Arguments::parse();
    let tls = tls_certificate.zip(tls_key);
    let options = Options { root, host, port, bucket, access_key, secret_key, users, tls, log, faults };
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
