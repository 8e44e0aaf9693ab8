//! An executor, seen from its supervisor: a child process that computes one order at a time.
//!
//! It has no credentials (an empty environment) and no network (a system-call filter), and it may
//! die: then [`Executor::run`] says of what. It ends by itself when its standard input closes, so it
//! never outlives its supervisor.

mod child;
mod sandbox;
mod wire;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub use child::run_if_asked;
pub use wire::{Order, Report, Say};

/// The first argument that makes a binary an executor instead of itself.
pub const ARGUMENT: &str = "--gannet-executor";

/// How executors are started.
#[derive(Debug, Clone)]
pub struct ExecutorSettings {
    /// The program: one that calls [`run_if_asked`] first.
    pub program: PathBuf,
    /// Threads it computes with.
    pub threads: u32,
    /// Whether it may run without the system-call filter.
    pub unsandboxed: bool,
    /// Longest silence of an executor that computes; then it is killed.
    pub stall: Duration,
}

/// Why an executor no longer answers.
#[derive(Debug, thiserror::Error)]
pub enum Death {
    /// It could not be started.
    #[error("cannot start the executor `{program}`")]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It ended by itself.
    #[error("the executor died: {how}{said}")]
    Died {
        /// Its signal or exit code.
        how: String,
        /// The end of what it wrote to its standard error.
        said: String,
    },
    /// It was silent for too long and was killed.
    #[error("the executor was silent for {} s and was killed", .0.as_secs())]
    Stalled(Duration),
    /// The caller no longer wanted its answer and it was killed.
    #[error("the executor was killed because its job was given up")]
    GivenUp,
}

/// Time for a new executor to take orders: generous, since a loaded machine may swap.
const START: Duration = Duration::from_secs(60);
/// Lines of its standard error that are kept for the report of its death.
const KEPT_LINES: usize = 20;
/// Characters of each.
const LONGEST_LINE: usize = 500;

/// A running executor.
#[derive(Debug)]
pub struct Executor {
    child: Child,
    orders: ChildStdin,
    says: Lines<BufReader<ChildStdout>>,
    errors: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
    stall: Duration,
}

impl Executor {
    /// Starts one and waits until it takes orders.
    ///
    /// # Errors
    /// It cannot be started, or dies at once.
    pub async fn start(settings: &ExecutorSettings) -> Result<Self, Death> {
        let mut command = Command::new(&settings.program);
        command.arg(ARGUMENT).env_clear().env("GANNET_THREADS", settings.threads.to_string());
        command.env("RAYON_NUM_THREADS", settings.threads.to_string()).env("RUST_BACKTRACE", "1");
        if settings.unsandboxed {
            command.env("GANNET_UNSANDBOXED", "1");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let failed = |source| Death::Start { program: settings.program.clone(), source };
        let mut child = command.spawn().map_err(failed)?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(orders), Some(stdout), Some(stderr)) = pipes else { unreachable!("all three were piped") };
        let errors = Arc::new(Mutex::new(VecDeque::new()));
        let reader = tokio::spawn(keep_lines(stderr, Arc::clone(&errors)));
        let says = BufReader::new(stdout).lines();
        let mut executor = Self { child, orders, says, errors, reader, stall: settings.stall };
        match timeout(START, executor.hear()).await {
            Ok(Some(Say::Ready)) => Ok(executor),
            Ok(_) => Err(executor.death().await),
            Err(_) => Err(executor.kill(Death::Stalled(START)).await),
        }
    }

    /// Whether it still runs; one that died while it was idle is nobody's fault.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Carries out one order and returns its report and the processor time in milliseconds.
    ///
    /// `each` hears how it moves on. `pause` asks training for a checkpoint at the next step;
    /// `give_up` kills.
    ///
    /// # Errors
    /// The executor is dead: start another.
    pub async fn run(
        &mut self,
        order: &Order,
        each: &mut (dyn FnMut(Say) + Send),
        pause: &CancellationToken,
        give_up: &CancellationToken,
    ) -> Result<(u64, Report), Death> {
        if self.send(order).await.is_err() {
            return Err(self.death().await);
        }
        let mut asked_to_pause = false;
        loop {
            tokio::select! {
                said = timeout(self.stall, self.hear()) => match said {
                    Ok(Some(Say::Report { cpu_ms, report })) => return Ok((cpu_ms, report)),
                    Ok(Some(said)) => each(said),
                    Ok(None) => return Err(self.death().await),
                    Err(_) => return Err(self.kill(Death::Stalled(self.stall)).await),
                },
                () = pause.cancelled(), if !asked_to_pause => {
                    asked_to_pause = true;
                    if self.send(&Order::Pause).await.is_err() {
                        return Err(self.death().await);
                    }
                }
                () = give_up.cancelled() => return Err(self.kill(Death::GivenUp).await),
            }
        }
    }

    async fn send(&mut self, order: &Order) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(order).expect("an order is plain data");
        line.push(b'\n');
        self.orders.write_all(&line).await?;
        self.orders.flush().await
    }

    /// The next thing it says; `None` when it is dead or talks nonsense, which only a broken one does.
    async fn hear(&mut self) -> Option<Say> {
        let line = self.says.next_line().await.ok()??;
        serde_json::from_str(&line).ok()
    }

    async fn kill(&mut self, why: Death) -> Death {
        if let Err(error) = self.child.kill().await {
            tracing::warn!(%error, "cannot kill an executor");
        }
        why
    }

    async fn death(&mut self) -> Death {
        // Its pipe is closed, so it is dying; one that is not is helped.
        let how = match timeout(Duration::from_secs(2), self.child.wait()).await {
            Ok(Ok(status)) => describe(status),
            Ok(Err(error)) => error.to_string(),
            Err(_) => return self.kill(Death::Died { how: "it closed its pipe".into(), said: String::new() }).await,
        };
        let _ = timeout(Duration::from_secs(1), &mut self.reader).await;
        let lines = self.errors.lock().expect("no panic holds it");
        let said = if lines.is_empty() {
            String::new()
        } else {
            format!("; it said: {}", Vec::from_iter(lines.iter().cloned()).join(" | "))
        };
        Death::Died { how, said }
    }
}

async fn keep_lines(stderr: tokio::process::ChildStderr, kept: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = BufReader::new(stderr).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        tracing::debug!(executor.said = %line);
        let line: String = line.chars().take(LONGEST_LINE).collect();
        let mut kept = kept.lock().expect("no panic holds it");
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(line);
    }
}

fn describe(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.signal(), status.code()) {
        (Some(libc::SIGKILL), _) => "killed by signal 9 (SIGKILL), often the system's answer to full memory".into(),
        (Some(libc::SIGSEGV), _) => "signal 11 (SIGSEGV)".into(),
        (Some(libc::SIGABRT), _) => "signal 6 (SIGABRT)".into(),
        (Some(signal), _) => format!("signal {signal}"),
        (None, code) => format!("exit code {}", code.unwrap_or(-1)),
    }
}
