//! Enqueues the jobs with the real `gannet submit`, wave after wave, on lines of its own; it is killed now and then, and
//! repeats what was interrupted.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{Fleet, LIMIT, Lines};

/// Jobs that are looked at for one to cancel: some of them wait, some run, some are done.
const RECENT: usize = 30;
/// Time for a command that cancels.
const CANCEL: Duration = Duration::from_secs(30);

/// Whether a run is cancelled, by the store.
///
/// # Errors
/// The store's folder cannot be read.
pub(super) fn is_cancelled(fleet: &Fleet, run: &str) -> Result<bool> {
    Ok(fleet.names(&format!("runs/{run}"))?.iter().any(|name| name == "cancelled"))
}

/// Jobs that are enqueued together: a run of its own.
#[derive(Debug)]
pub(super) struct Wave {
    /// When, from the begin.
    pub(super) at: Duration,
    /// The run.
    pub(super) run: String,
    /// Its jobs.
    pub(super) jobs: Vec<Value>,
}

/// Who enqueues.
pub(super) struct Producer {
    fleet: Arc<Fleet>,
    lines: Lines,
    /// The age at which a command is killed.
    doom: Mutex<Option<Duration>>,
    progress: Mutex<Progress>,
}

/// How far it is.
#[derive(Debug, Default, Clone)]
pub(super) struct Progress {
    /// Jobs whose wave was begun.
    pub(super) enqueued: usize,
    /// Commands that were killed.
    pub(super) killed: u32,
    /// Waves of which a command failed or was killed: what they enqueued is not known.
    pub(super) interrupted: Vec<usize>,
    /// Commands that repeated a wave.
    pub(super) repeated: u32,
    /// The jobs, as `run/id`, of the waves that are enqueued whole, in order, each with its kind.
    whole: Vec<(String, String)>,
    /// Jobs that somebody tried to cancel, as `run/id`.
    pub(super) cancelled_jobs: BTreeSet<String>,
    /// Runs, likewise.
    pub(super) cancelled_runs: BTreeSet<String>,
}

impl Progress {
    /// A command failed or was killed in the middle of a wave, which is repeated.
    fn interrupted(&mut self, wave: usize) {
        if self.interrupted.last() != Some(&wave) {
            self.interrupted.push(wave);
        }
        self.repeated += 1;
    }
}

impl Producer {
    /// Nothing is enqueued yet.
    ///
    /// # Errors
    /// There is no free port for its lines.
    pub(super) async fn new(fleet: &Arc<Fleet>) -> Result<Self> {
        let (lines, fleet) = (fleet.lines().await?, Arc::clone(fleet));
        Ok(Self { fleet, lines, doom: Mutex::default(), progress: Mutex::default() })
    }

    /// Its lines.
    pub(super) fn lines(&self) -> &Lines {
        &self.lines
    }

    /// How far it is.
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills the command that runs, or else the next one, so long after its start.
    pub(super) fn doom(&self, after: Duration) {
        *self.doom.lock().unwrap_or_else(PoisonError::into_inner) = Some(after);
    }

    /// Enqueues each wave at its time after `begin`, again until a command says that it is done.
    ///
    /// # Errors
    /// A command cannot be started.
    pub(super) async fn enqueue(&self, waves: &[Wave], begin: Instant) -> Result<()> {
        for (number, wave) in waves.iter().enumerate() {
            sleep_until(begin + wave.at).await;
            self.progress().enqueued += wave.jobs.len();
            while !self.submit(wave).await? {
                self.progress().interrupted(number);
                sleep(Duration::from_millis(500)).await;
            }
            let name = |job: &Value| {
                let text = |key: &str| job[key].as_str().unwrap_or_default().to_owned();
                (format!("{}/{}", wave.run, text("id")), text("kind"))
            };
            self.progress().whole.extend(wave.jobs.iter().map(name));
        }
        Ok(())
    }

    /// Cancels one of the jobs that were enqueued last, or its run, by `share`: 0 is the last, 1 the first of [`RECENT`]. Whether
    /// that comes through is not looked at: the lines may fail.
    ///
    /// # Errors
    /// The command cannot be started.
    pub(super) async fn cancel(&self, run: bool, share: f64) -> Result<()> {
        let (target, kind) = {
            let mut progress = self.progress();
            let back = (share * RECENT.min(progress.whole.len()) as f64) as usize;
            let Some((job, kind)) = progress.whole.iter().rev().nth(back).cloned() else { return Ok(()) };
            let name = job.split('/').next().unwrap_or_default().to_owned();
            let target = if run { name } else { job };
            let tried = if run { &mut progress.cancelled_runs } else { &mut progress.cancelled_jobs };
            tried.insert(target.clone());
            (target, kind)
        };
        let mut args = vec!["cancel", &target];
        if !run {
            args.extend(["--kind", &kind]);
        }
        // Dropped where it does not end, and so killed.
        let _ = self.fleet.start_on(&self.lines, &args)?.wait(CANCEL).await;
        Ok(())
    }

    /// Enqueues again those interrupted waves of which jobs have no result: what got lost is then enqueued.
    ///
    /// # Errors
    /// A command cannot be started.
    pub(super) async fn repeat(&self, waves: &[Wave]) -> Result<()> {
        let interrupted = self.progress().interrupted.clone();
        for wave in interrupted.into_iter().map(|number| &waves[number]) {
            let missing = self.fleet.names(&format!("runs/{}/results", wave.run))?.len() < wave.jobs.len();
            if missing && !is_cancelled(&self.fleet, &wave.run)? {
                self.progress().repeated += 1;
                self.submit(wave).await?;
            }
        }
        Ok(())
    }

    /// Whether the command says that the wave is enqueued.
    async fn submit(&self, wave: &Wave) -> Result<bool> {
        let file = self.file(wave)?;
        let file = file.to_str().context("the folder's name is text")?;
        let mut command = self.fleet.start_on(&self.lines, &["submit", file])?;
        let begun = Instant::now();
        loop {
            sleep(Duration::from_millis(20)).await;
            if let Some(status) = command.has_ended()? {
                // 75: somebody may still have them, of an attempt before. Such a wave is asked for again at the end.
                return Ok(status.success() || status.code() == Some(75));
            }
            if self.is_doomed(begun.elapsed()) {
                command.kill()?;
                self.progress().killed += 1;
                return Ok(false);
            }
            if begun.elapsed() > LIMIT {
                // Dropped, and so killed.
                return Ok(false);
            }
        }
    }

    /// Whether a command of this age is to be killed; one only.
    fn is_doomed(&self, age: Duration) -> bool {
        self.doom.lock().unwrap_or_else(PoisonError::into_inner).take_if(|after| *after <= age).is_some()
    }

    fn file(&self, wave: &Wave) -> Result<PathBuf> {
        self.fleet.write(&format!("{}.json", wave.run), &Value::from(wave.jobs.clone()).to_string())
    }
}
