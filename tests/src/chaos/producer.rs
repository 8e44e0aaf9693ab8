//! Enqueues the jobs with the real `gannet submit`, wave after wave, on lines of its own; it is killed now and then, and
//! repeats what was interrupted.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::time::{Instant, sleep, sleep_until};

use crate::{Fleet, LIMIT, Lines};

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
        }
        Ok(())
    }

    /// Enqueues again those interrupted waves of which jobs have no result: what got lost is then enqueued.
    ///
    /// # Errors
    /// A command cannot be started.
    pub(super) async fn repeat(&self, waves: &[Wave]) -> Result<()> {
        let interrupted = self.progress().interrupted.clone();
        for wave in interrupted.into_iter().map(|number| &waves[number]) {
            if self.fleet.names(&format!("runs/{}/results", wave.run))?.len() < wave.jobs.len() {
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
                return Ok(status.success());
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
