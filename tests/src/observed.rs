//! A program's metrics and health, as a scraper asks for them.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::{LIMIT, Process, eventually};

/// Where a program answers.
#[derive(Debug, Clone)]
pub struct Observed(String);

impl Observed {
    /// The variable that makes a worker answer at a free port.
    pub const VARIABLE: (&str, &str) = ("GANNET_METRICS", "127.0.0.1:0");

    /// Finds out where `program` answers, by its log.
    ///
    /// # Errors
    /// It does not say so, or has ended.
    pub async fn of(program: &mut Process) -> Result<Self> {
        let says = |log: String| {
            let line = log.lines().find(|line| line.contains("answers /metrics"))?.to_owned();
            Some(line.rsplit_once("address=")?.1.trim().to_owned())
        };
        eventually(LIMIT, "the program answers", async || {
            program.must_run()?;
            Ok(says(program.stderr()))
        })
        .await
        .map(Self)
    }

    /// Its address.
    pub fn address(&self) -> &str {
        &self.0
    }

    /// The status and the text of a page.
    ///
    /// # Errors
    /// Nobody answers.
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        let mut stream = TcpStream::connect(&self.0).await.with_context(|| format!("connect to {}", self.0))?;
        stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.0).as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.context("read the answer")?;
        let (head, body) = answer.split_once("\r\n\r\n").context("an HTTP answer")?;
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("a status")?;
        Ok((status, body.to_owned()))
    }

    /// The sum of all series of a metric whose line holds every one of `labels`.
    ///
    /// # Errors
    /// Nobody answers, or there is no such series.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> Result<f64> {
        let (status, page) = self.get("/metrics").await?;
        ensure!(status == 200, "the status is {status}: {page}");
        let mut values = page.lines().filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            let (found, rest) = series.split_at(series.find('{').unwrap_or(series.len()));
            (found == name && labels.iter().all(|label| rest.contains(label))).then(|| value.parse::<f64>().ok())?
        });
        let first = values.next().with_context(|| format!("no series of {name} with {labels:?}:\n{page}"))?;
        Ok(first + values.sum::<f64>())
    }
}
