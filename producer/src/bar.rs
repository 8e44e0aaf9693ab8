//! Progress on standard error: a bar with the best so far on a terminal, a line now and then elsewhere.

use std::collections::HashMap;
use std::io::IsTerminal as _;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt as _};
use indicatif::{ProgressBar, ProgressStyle};
use shared::contract::{JobResult, Objective, Status};
use shared::names::JobId;

use crate::drive::News;

/// A job's share of the bar: fine enough for a bar of any width.
const PARTS: u64 = 1_000;
/// Time between lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// People wonder what goes on when nothing is shown for longer.
const WONDER: Duration = Duration::from_secs(2);

/// Collects what comes, in its order; once that takes long it is shown how far it is, of `total`.
pub async fn gather<T>(what: &'static str, total: usize, coming: impl Stream<Item = T>) -> Vec<T> {
    let begun = Instant::now();
    let (mut coming, mut wonder) = (pin!(coming), pin!(tokio::time::sleep(WONDER)));
    let mut bar: Option<Bar> = None;
    let mut found = Vec::with_capacity(total);
    loop {
        tokio::select! {
            next = coming.next() => {
                let Some(next) = next else { break };
                found.push(next);
                if let Some(bar) = &mut bar {
                    bar.step();
                }
            }
            () = &mut wonder, if bar.is_none() => bar = Some(Bar::halfway(what, total, begun, found.len())),
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
    found
}

/// Shows how a run of jobs moves on.
#[derive(Debug)]
pub struct Bar {
    bar: ProgressBar,
    what: &'static str,
    objective: Option<Objective>,
    total: u64,
    done: u64,
    failed: u64,
    running: HashMap<JobId, f64>,
    best: Option<(f64, JobId)>,
    begun: Instant,
    said: Instant,
    missed_workers: bool,
    lines: bool,
}

impl Bar {
    /// A bar over `total` jobs, called `what`; with an objective it shows the best trial so far.
    pub fn new(what: &'static str, total: usize, objective: Option<Objective>) -> Self {
        let total = total as u64;
        let lines = !std::io::stderr().is_terminal();
        let bar = if lines { ProgressBar::hidden() } else { ProgressBar::new(total * PARTS) };
        let style = ProgressStyle::with_template("{bar:30.green/dim} {msg} · {elapsed} gone, {eta} left");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("━╸─"));
        bar.enable_steady_tick(Duration::from_millis(250));
        let now = Instant::now();
        let mut bar = Self {
            bar,
            what,
            objective,
            total,
            done: 0,
            failed: 0,
            running: HashMap::new(),
            best: None,
            begun: now,
            said: now,
            missed_workers: false,
            lines,
        };
        bar.show();
        bar
    }

    /// A bar over what has gone on for a while.
    fn halfway(what: &'static str, total: usize, begun: Instant, done: usize) -> Self {
        let mut bar = Self::new(what, total, None);
        (bar.begun, bar.done) = (begun, done as u64);
        bar.show();
        if bar.lines {
            eprintln!("{} …", bar.message());
        }
        bar
    }

    /// One more is done.
    pub fn step(&mut self) {
        self.done += 1;
        self.show();
    }

    /// Writes something beside the bar.
    pub fn suspend<T>(&self, write: impl FnOnce() -> T) -> T {
        self.bar.suspend(write)
    }

    /// Takes news.
    pub fn hear(&mut self, news: &News<'_>) {
        match news {
            News::Result(result) => self.result(result),
            News::Progress(progress) => {
                self.running.insert(progress.id.clone(), progress.fraction.clamp(0.0, 1.0));
            }
            News::NoWorkers if !self.missed_workers => {
                self.missed_workers = true;
                let since = if self.done == 0 { "yet" } else { "any more" };
                self.bar.suspend(|| eprintln!("no worker takes jobs {since}: start `gannet-worker` on any machine with the same GANNET_* and AWS_* variables"));
            }
            News::NoWorkers => {}
            News::EnqueuedBefore(jobs) => {
                self.bar.suspend(|| eprintln!("{jobs} {} were enqueued before: waits for them", self.what));
            }
            News::EnqueuedAgain(jobs) => {
                self.bar.suspend(|| eprintln!("{jobs} {} had got lost: enqueues them again", self.what));
            }
        }
        self.show();
    }

    /// Takes the bar away.
    pub fn finish(self) {
        self.bar.finish_and_clear();
        if self.lines && self.total > 0 {
            eprintln!("{} in {:.1} s", self.message(), self.begun.elapsed().as_secs_f64());
        }
    }

    fn result(&mut self, result: &JobResult) {
        self.done += 1;
        self.running.remove(&result.id);
        self.failed += u64::from(result.status == Status::Failed);
        let metrics = result.trial().and_then(|trial| trial.validation);
        let value = metrics.zip(self.objective).map(|(metrics, objective)| match objective {
            Objective::ValidationError => metrics.error,
            Objective::ValidationLoss => metrics.loss,
        });
        if let Some(value) = value
            // Of equals the first by name, whichever came first: as the study chooses.
            && self.best.as_ref().is_none_or(|(best, id)| value < *best || (value == *best && result.id < *id))
        {
            self.best = Some((value, result.id.clone()));
        }
    }

    fn show(&mut self) {
        let parts = self.running.values().sum::<f64>() * PARTS as f64;
        self.bar.set_position(self.done * PARTS + parts as u64);
        self.bar.set_message(self.message());
        if self.lines && self.said.elapsed() >= LINE_EVERY {
            self.said = Instant::now();
            let share = (self.done as f64 + self.running.values().sum::<f64>()) / self.total.max(1) as f64;
            let left = self.begun.elapsed().as_secs_f64() * (1.0 - share) / share.max(1e-3);
            eprintln!("{}, about {left:.0} s left", self.message());
        }
    }

    fn message(&self) -> String {
        let mut message = format!("{}/{} {}", self.done, self.total, self.what);
        if self.failed > 0 {
            message.push_str(&format!(", {} failed", self.failed));
        }
        if let Some(((best, id), objective)) = self.best.as_ref().zip(self.objective) {
            message.push_str(&format!(", best {} {best:.4} ({id})", objective.as_str()));
        }
        message
    }
}
