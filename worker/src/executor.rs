//! An executor, seen from its supervisor: a child process that carries out one order after the other.
//!
//! It has no credentials (an empty environment) and no network (a system-call filter), and it may
//! die: then [`Executor::run`] says of what. It ends by itself when its standard input closes, so it
//! never outlives its supervisor.

mod ahead;
mod child;
mod models;
mod sandbox;
mod wire;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};

pub use child::run_if_asked;
pub use wire::{Classify, Order, Report, Say};

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
#[derive(Debug, Clone, thiserror::Error)]
pub enum Death {
    /// It could not be started.
    #[error("cannot start the executor `{program}`")]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: Arc<std::io::Error>,
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
    /// It had another order, too, and it is not known whose fault it was.
    #[error("{0} (with another job in hand)")]
    InCompany(Box<Death>),
}

/// Time for a new executor to take orders: generous, since a loaded machine may swap.
const START: Duration = Duration::from_secs(60);
/// Lines of its standard error that are kept for the report of its death.
const KEPT_LINES: usize = 20;
/// Characters of each.
const LONGEST_LINE: usize = 500;

/// A running executor. It carries out orders in the order in which they are sent, one at a time, and reads the
/// pictures of the next one meanwhile.
#[derive(Debug)]
pub struct Executor {
    id: u32,
    /// Held while an order is sent, so that orders and `waiting` have the same order.
    orders: tokio::sync::Mutex<ChildStdin>,
    waiting: Arc<Mutex<Waiting>>,
    /// Cancelled to kill it, and when this is dropped.
    kill: CancellationToken,
    _killed_with_me: DropGuard,
}

/// Who waits for what an executor says.
#[derive(Debug)]
struct Waiting {
    /// The first one's order is being carried out.
    callers: VecDeque<mpsc::UnboundedSender<Say>>,
    /// When it last said something, or was sent an order while it had none.
    heard: Instant,
    /// What it died of, and how many orders it had then.
    fate: Option<(Death, usize)>,
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
        let failed = |source| Death::Start { program: settings.program.clone(), source: Arc::new(source) };
        let mut child = command.spawn().map_err(failed)?;
        let id = child.id().expect("not waited for yet");
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(orders), Some(stdout), Some(stderr)) = pipes else { unreachable!("all three were piped") };
        let (ready, mut hear) = mpsc::unbounded_channel();
        let waiting = Waiting { callers: [ready].into(), heard: Instant::now(), fate: None };
        let waiting = Arc::new(Mutex::new(waiting));
        let kill = CancellationToken::new();
        let errors = Arc::new(Mutex::new(VecDeque::new()));
        let listener = Listener {
            child,
            says: BufReader::new(stdout).lines(),
            reader: tokio::spawn(keep_lines(stderr, Arc::clone(&errors))),
            errors,
            waiting: Arc::clone(&waiting),
            stall: settings.stall,
        };
        tokio::spawn(listener.run(kill.clone()));
        let orders = tokio::sync::Mutex::new(orders);
        let executor = Self { id, orders, waiting, _killed_with_me: kill.clone().drop_guard(), kill };
        match timeout(START, hear.recv()).await {
            Ok(Some(Say::Ready)) => Ok(executor),
            Ok(_) => Err(executor.death()),
            Err(_) => Err(Death::Stalled(START)),
        }
    }

    /// Its process's id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether it still runs; one that died while it was idle is nobody's fault.
    pub fn is_alive(&self) -> bool {
        self.waiting.lock().expect("no panic holds it").fate.is_none()
    }

    /// Has one order carried out, after those sent before it, and returns its report and the processor time in
    /// milliseconds.
    ///
    /// `each` hears how it moves on. `pause` asks training for a checkpoint at the next step;
    /// `give_up` kills.
    ///
    /// # Errors
    /// The executor is dead: start another. [`Death::InCompany`] if it had another order, too.
    pub async fn run(
        &self,
        order: &Order,
        each: &mut (dyn FnMut(Say) + Send),
        pause: &CancellationToken,
        give_up: &CancellationToken,
    ) -> Result<(u64, Report), Death> {
        let (caller, mut hear) = mpsc::unbounded_channel();
        tokio::select! {
            sent = self.send(order, Some(caller)) => sent?,
            () = give_up.cancelled() => return Err(self.give_up(&mut hear).await),
        }
        let mut asked_to_pause = false;
        loop {
            tokio::select! {
                said = hear.recv() => match said {
                    Some(Say::Report { cpu_ms, report }) => return Ok((cpu_ms, report)),
                    Some(said) => each(said),
                    None => return Err(self.death()),
                },
                () = pause.cancelled(), if !asked_to_pause => {
                    asked_to_pause = true;
                    self.send(&Order::Pause, None).await?;
                }
                () = give_up.cancelled() => return Err(self.give_up(&mut hear).await),
            }
        }
    }

    /// Fails when the executor was dead before. When it dies now, its [`Listener`] tells.
    async fn send(&self, order: &Order, caller: Option<mpsc::UnboundedSender<Say>>) -> Result<(), Death> {
        let mut line = serde_json::to_vec(order).expect("an order is plain data");
        line.push(b'\n');
        let mut orders = self.orders.lock().await;
        if let Some(caller) = caller {
            let mut waiting = self.waiting.lock().expect("no panic holds it");
            if let Some((death, _)) = &waiting.fate {
                return Err(Death::InCompany(Box::new(death.clone())));
            }
            if waiting.callers.is_empty() {
                waiting.heard = Instant::now();
            }
            waiting.callers.push_back(caller);
        }
        let _ = orders.write_all(&line).await;
        let _ = orders.flush().await;
        Ok(())
    }

    /// Kills it, and waits until it is dead.
    async fn give_up(&self, hear: &mut mpsc::UnboundedReceiver<Say>) -> Death {
        self.kill.cancel();
        while hear.recv().await.is_some() {}
        Death::GivenUp
    }

    fn death(&self) -> Death {
        match &self.waiting.lock().expect("no panic holds it").fate {
            Some((death, ..=1)) => death.clone(),
            Some((death, _)) => Death::InCompany(Box::new(death.clone())),
            None => Death::Died { how: "it talks nonsense".into(), said: String::new() },
        }
    }
}

/// Owns the process, and hands what it says to whoever waits.
struct Listener {
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
    errors: Arc<Mutex<VecDeque<String>>>,
    reader: JoinHandle<()>,
    waiting: Arc<Mutex<Waiting>>,
    stall: Duration,
}

impl Listener {
    async fn run(mut self, kill: CancellationToken) {
        let death = loop {
            let overdue = self.overdue();
            tokio::select! {
                said = timeout_at(overdue, self.hear()) => match said {
                    Ok(Some(said)) => self.hand_on(said),
                    Ok(None) => break self.death().await,
                    // An order may have come since.
                    Err(_) if self.overdue() > overdue => {}
                    Err(_) => break self.kill(Death::Stalled(self.stall)).await,
                },
                () = kill.cancelled() => break self.kill(Death::GivenUp).await,
            }
        };
        let mut waiting = self.waiting.lock().expect("no panic holds it");
        waiting.fate = Some((death, waiting.callers.len()));
        // Whoever waits hears that nothing more comes.
        waiting.callers.clear();
    }

    /// When it will have been silent for too long. One that has nothing to do may be silent.
    fn overdue(&self) -> Instant {
        let mut waiting = self.waiting.lock().expect("no panic holds it");
        if waiting.callers.is_empty() {
            waiting.heard = Instant::now();
        }
        waiting.heard + self.stall
    }

    fn hand_on(&self, said: Say) {
        let mut waiting = self.waiting.lock().expect("no panic holds it");
        waiting.heard = Instant::now();
        let is_last = matches!(said, Say::Ready | Say::Report { .. });
        if let Some(caller) = waiting.callers.front() {
            // Fails when the caller has gone: then nobody wants to know.
            let _ = caller.send(said);
        }
        if is_last {
            waiting.callers.pop_front();
        }
    }

    /// The next thing it says; `None` when it is dead or talks nonsense, which only a broken one does.
    /// May be dropped while it waits.
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
