//! Workers inside a command, where there is no fleet.

#[cfg(feature = "embedded")]
use std::sync::Arc;

#[cfg(feature = "embedded")]
use anyhow::Context as _;
use clap::Args;
use shared::names::Name;
use shared::settings::cores;

use crate::session::Session;

/// How the workers inside this command work, where there is no fleet.
#[derive(Debug, Clone, Args)]
pub(super) struct Embedded {
    /// Trials computed at once on this machine, when it works without a fleet [default: the number of cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) workers: Option<u32>,
    /// Compute also where the system cannot shut executors off from the network
    #[arg(long, env = "GANNET_UNSANDBOXED")]
    pub(super) unsandboxed: bool,
}

impl Embedded {
    pub(super) fn slots(&self) -> u32 {
        self.workers.unwrap_or_else(cores)
    }
}

/// Does `work`, with workers inside this process where there is no fleet; they take jobs of `run` alone,
/// not what others left in the folder. Ctrl-C lets them make checkpoints first; `again` says how to go on.
pub(super) async fn with_workers<T>(
    session: &Session,
    embedded: &Embedded,
    run: Option<&Name>,
    again: &str,
    work: impl AsyncFnOnce(&Session) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let interrupted = async {
        match tokio::signal::ctrl_c().await {
            Ok(()) => anyhow::anyhow!("interrupted: {again}"),
            Err(error) => anyhow::Error::from(error).context("listen to Ctrl-C"),
        }
    };
    // Without workers of its own the command waits for a `gannet-worker` that joins the folder.
    #[cfg(not(feature = "embedded"))]
    let _ = (embedded, run);
    #[cfg(feature = "embedded")]
    if session.places.is_embedded() {
        let mut workers = Workers::start(session, embedded, run)?;
        let done = tokio::select! {
            done = work(session) => done,
            error = workers.ended() => return Err(error),
            interrupted = interrupted => Err(interrupted),
        };
        tokio::select! {
            stopped = workers.stop() => stopped?,
            // A second Ctrl-C: at once. Nothing is lost by it.
            _ = tokio::signal::ctrl_c(), if done.is_err() => std::process::exit(130),
        }
        return done;
    }
    tokio::select! {
        done = work(session) => done,
        interrupted = interrupted => Err(interrupted),
    }
}

/// Workers inside this process: the same loop and the same executors as `gannet-worker`.
#[cfg(feature = "embedded")]
#[derive(Debug)]
struct Workers {
    drain: tokio_util::sync::CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

#[cfg(feature = "embedded")]
impl Workers {
    /// Starts a worker on the session's queue and store.
    ///
    /// # Errors
    /// This program's own file cannot be found.
    fn start(session: &Session, embedded: &Embedded, run: Option<&Name>) -> anyhow::Result<Self> {
        let cache = session.places.home.join("cache");
        let slots = Some(embedded.slots());
        let mut settings = worker::WorkerSettings::new(cache, slots).context("find this program's own file")?;
        settings.local_files = true;
        settings.executor.unsandboxed = embedded.unsandboxed;
        let queue = run.and_then(|run| session.queue.of_run(run)).unwrap_or_else(|| Arc::clone(&session.queue));
        let drain = tokio_util::sync::CancellationToken::new();
        let work = worker::work(settings, queue, Arc::clone(&session.store), drain.clone());
        Ok(Self { drain, task: tokio::spawn(work) })
    }

    /// Lets what they run make a checkpoint, and ends them.
    ///
    /// # Errors
    /// What ended them before.
    async fn stop(self) -> anyhow::Result<()> {
        self.drain.cancel();
        self.task.await.context("wait for the workers")?
    }

    /// Returns when they have ended by themselves: they never should while work is to be done.
    async fn ended(&mut self) -> anyhow::Error {
        match (&mut self.task).await {
            Ok(Ok(())) => anyhow::anyhow!("the workers have ended"),
            Ok(Err(error)) => error,
            Err(error) => anyhow::Error::from(error).context("wait for the workers"),
        }
    }
}
