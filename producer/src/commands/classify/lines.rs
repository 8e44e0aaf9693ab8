//! The output of `gannet classify`: a line a picture, at once or in order, and what is said of them at the end.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};

use anyhow::{Context as _, bail};
use serde::Serialize;
use shared::contract::{ImageError, ImageOutcome, ImageVerdict, Job, JobResult, Output, Precision, Work};
use shared::digest::Digest;

use super::agreement::Agreements;
use crate::words::count;

/// What was written, and what waits for its turn.
pub(super) struct Lines {
    ordered: bool,
    total: usize,
    /// What pictures get, and what they then are.
    words: [&'static str; 2],
    /// Lines that are out. In order, the next one is that of the picture with this number.
    written: usize,
    waiting: BTreeMap<usize, String>,
    labelled: usize,
    /// Of them, how many have no label that is sure enough.
    unsure: usize,
    failed: BTreeMap<String, usize>,
    /// The version that the run asks for.
    model: Digest,
    agreements: Agreements,
}

/// One line of the output.
#[derive(Debug, Serialize)]
struct Line<'a> {
    image: &'a str,
    model: Digest,
    #[serde(skip_serializing_if = "Option::is_none")]
    precision: Option<Precision>,
    #[serde(flatten)]
    verdict: &'a ImageVerdict,
}

impl Lines {
    /// None of `total` pictures has one yet.
    pub(super) fn new(ordered: bool, total: usize, model: Digest, agreements: Agreements, output: Output) -> Self {
        let words = match output {
            Output::Labels => ["labels", "labelled"],
            Output::Embedding => ["embedding", "embedded"],
        };
        let (waiting, failed) = (BTreeMap::new(), BTreeMap::new());
        Self { ordered, total, words, written: 0, waiting, labelled: 0, unsure: 0, failed, model, agreements }
    }

    /// Takes what a batch came to; `indices` are the numbers of its pictures.
    ///
    /// # Errors
    /// Standard output refuses; or too few pictures have the same best label as in fp32.
    pub(super) fn batch(&mut self, indices: &[usize], job: &Job, result: &JobResult) -> anyhow::Result<()> {
        if let Some(outcome) = result.batch() {
            let (model, precision) = (outcome.model, Some(outcome.precision));
            let images = indices.iter().zip(&outcome.images);
            images.into_iter().try_for_each(|(index, image)| self.line(*index, image, model, precision))?;
            return self.agreements.add(outcome);
        }
        let Work::Batch(batch) = &job.work else { return Ok(()) };
        let why = result.error.as_ref().map_or_else(|| result.status.as_str().to_owned(), ToString::to_string);
        indices.iter().zip(&batch.images).try_for_each(|(index, image)| {
            let verdict = ImageVerdict::Error(ImageError { code: "batch_failed".into(), message: why.clone() });
            self.put(*index, &ImageOutcome { image: image.image.clone(), verdict })
        })
    }

    /// Takes what the picture with the number `index` came to.
    ///
    /// # Errors
    /// Standard output refuses.
    pub(super) fn put(&mut self, index: usize, outcome: &ImageOutcome) -> anyhow::Result<()> {
        self.line(index, outcome, self.model, None)
    }

    fn line(
        &mut self,
        index: usize,
        outcome: &ImageOutcome,
        model: Digest,
        precision: Option<Precision>,
    ) -> anyhow::Result<()> {
        match &outcome.verdict {
            ImageVerdict::Predictions(labels) => {
                self.labelled += 1;
                self.unsure += usize::from(labels.is_empty());
            }
            ImageVerdict::Embedding(_) => self.labelled += 1,
            ImageVerdict::Error(error) => *self.failed.entry(error.code.clone()).or_default() += 1,
        }
        let precision = precision.filter(|_| self.agreements.is_asked());
        let line = Line { image: &outcome.image, model, precision, verdict: &outcome.verdict };
        let line = serde_json::to_string(&line)?;
        if !self.ordered {
            return self.write(&line);
        }
        self.waiting.insert(index, line);
        while let Some(line) = self.waiting.remove(&self.written) {
            self.write(&line)?;
        }
        Ok(())
    }

    fn write(&mut self, line: &str) -> anyhow::Result<()> {
        writeln!(std::io::stdout().lock(), "{line}").context("write to standard output")?;
        self.written += 1;
        Ok(())
    }

    /// Says how it ended after `labelled`, which is what became of the run.
    ///
    /// # Errors
    /// Pictures have no labels, or the run was broken off: then some have no line either.
    pub(super) fn finish(self, labelled: anyhow::Result<()>) -> anyhow::Result<()> {
        let so_far = format!("{} of {} have a line", self.written, count(self.total, "picture"));
        match labelled {
            // A reader that has seen enough (`| head`) is no error.
            Err(error) if is_unread(&error) => {
                eprintln!("{so_far}: nobody reads more");
                return Ok(());
            }
            Err(error) => {
                self.agreements.tell();
                return Err(error.context(so_far));
            }
            Ok(()) => self.agreements.finish()?,
        }
        if self.unsure > 0 {
            let (unsure, labelled) = (self.unsure, count(self.labelled, "picture"));
            eprintln!(
                "note: {unsure} of {labelled} without an error got no label: none scores as high as the threshold"
            );
        }
        let failed: usize = self.failed.values().sum();
        if failed == 0 {
            eprintln!("{} {}", count(self.labelled - self.unsure, "picture"), self.words[1]);
            return Ok(());
        }
        let codes: Vec<String> = self.failed.iter().map(|(code, count)| format!("{count} {code}")).collect();
        let has = if failed == 1 { "has" } else { "have" };
        bail!("{failed} of {} {has} no {}: {}", count(self.total, "picture"), self.words[0], codes.join(", "))
    }
}

fn is_unread(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::BrokenPipe)
}
