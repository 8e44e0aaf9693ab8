//! Workers inside a command, where there is no fleet.

#[cfg(feature = "embedded")]
use std::sync::Arc;

use anyhow::Context as _;
use clap::Args;
use shared::contract::Kind;
use shared::names::Name;
#[cfg(not(feature = "embedded"))]
use shared::settings::cores;

use self::signals::Signals;
use crate::session::Session;

mod signals;

/// How the workers inside this command work, where there is no fleet.
#[derive(Debug, Clone, Args)]
pub(super) struct Embedded {
    /// Jobs computed at once on this machine, when it works without a fleet [default: the number of cores; 1 on a GPU]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) workers: Option<u32>,
    /// Compute also where the system cannot shut executors off from the network
    #[arg(long, env = "GANNET_UNSANDBOXED")]
    pub(super) unsandboxed: bool,
    /// What computes without a fleet: `cpu`; `cuda:N`, NVIDIA's GPU of this number; or `auto`, a GPU if there is one that
    /// this program can use
    #[cfg(feature = "embedded")]
    #[arg(long, env = "GANNET_DEVICE", default_value = "cpu", value_parser = worker::compute::find_device)]
    pub(super) device: worker::compute::Device,
    /// Instructions that processors compute with without a fleet, `avx512`, `avx2` or `portable` [default: the best that
    /// this machine has]
    #[cfg(feature = "embedded")]
    #[arg(long, env = "GANNET_SIMD", value_name = "PATH", value_parser = worker::compute::find_simd)]
    pub(super) simd: Option<worker::compute::Simd>,
}

impl Embedded {
    pub(super) fn slots(&self) -> u32 {
        #[cfg(feature = "embedded")]
        let default = || self.device.slots();
        #[cfg(not(feature = "embedded"))]
        let default = cores;
        self.workers.unwrap_or_else(default)
    }
}

/// Does `work`, with workers inside this process where there is no fleet; they take jobs of `run` and of these kinds
/// alone, not what others left in the folder. Ctrl-C, SIGTERM and SIGHUP let them make checkpoints first; `again` says
/// how to go on.
pub(super) async fn with_workers<T>(
    session: &Session,
    embedded: &Embedded,
    run: Option<&Name>,
    kinds: &[Kind],
    again: &str,
    work: impl AsyncFnOnce(&Session) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let mut signals = Signals::listen().context("listen to signals")?;
    let interrupted = || anyhow::anyhow!("interrupted: {again}");
    // Without workers of its own the command waits for a `gannet-worker` that joins the folder.
    #[cfg(not(feature = "embedded"))]
    let _ = (embedded, run, kinds);
    #[cfg(feature = "embedded")]
    if session.places.is_embedded() {
        let mut workers = Workers::start(session, embedded, run, kinds)?;
        let done = tokio::select! {
            done = work(session) => done,
            error = workers.ended() => return Err(error),
            () = signals.next() => Err(interrupted()),
        };
        tokio::select! {
            stopped = workers.stop() => stopped?,
            // A second one: at once. Nothing is lost by it.
            () = signals.next(), if done.is_err() => std::process::exit(130),
        }
        return done;
    }
    tokio::select! {
        done = work(session) => done,
        () = signals.next() => Err(interrupted()),
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
    fn start(session: &Session, embedded: &Embedded, run: Option<&Name>, kinds: &[Kind]) -> anyhow::Result<Self> {
        if let Some(path) = embedded.simd {
            worker::compute::set_simd(path);
        }
        let cache = session.places.home.join("cache");
        let slots = Some(embedded.slots());
        let mut settings =
            worker::WorkerSettings::new(cache, slots, embedded.device).context("find this program's own file")?;
        // The other kind's queue is not even looked at.
        settings.kinds = kinds.to_vec();
        settings.local_files = true;
        settings.executor.unsandboxed = embedded.unsandboxed;
        let queue = run.and_then(|run| session.queue.of_run(run)).unwrap_or_else(|| Arc::clone(&session.queue));
        let drain = tokio_util::sync::CancellationToken::new();
        let metrics = worker::metrics::Metrics::new(&settings);
        let work = worker::work(settings, queue, Arc::clone(&session.store), drain.clone(), metrics);
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
