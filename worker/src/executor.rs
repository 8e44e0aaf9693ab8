//! An executor, seen from its supervisor: a child process that carries out one order after the other.
//!
//! It has no credentials (an environment that is empty, but for a GPU's driver) and no network (a system-call filter), and it may
//! die: then [`Executor::run`] says of what. It ends by itself when its standard input closes, so it
//! never outlives its supervisor.

mod ahead;
mod child;
mod death;
mod limits;
mod lines;
mod listener;
mod models;
mod nursery;
mod sandbox;
mod tally;
mod wire;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use shared::store::MAX_SMALL;
use tokio::io::AsyncWriteExt;
use tokio::process::{ChildStderr, ChildStdin, Command};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::compute::{self, Device};
use crate::memory;

pub use child::run_if_asked;
pub use death::Death;
use lines::Lines;
use listener::{Heard, Listener, Waiting};
pub use tally::{Cause, Tally, Usage};
pub use wire::{Classify, Order, Report, Say};

/// The first argument that makes a binary an executor instead of itself.
pub const ARGUMENT: &str = "--gannet-executor";

/// How executors are started, and how long they are kept.
#[derive(Debug, Clone)]
pub struct ExecutorSettings {
    /// The program: one that calls [`run_if_asked`] first.
    pub program: PathBuf,
    /// Threads it computes with.
    pub threads: u32,
    /// The device that it computes on.
    pub device: Device,
    /// Whether it may run without the system-call filter.
    pub unsandboxed: bool,
    /// Memory that it may allocate, in bytes; without a limit where `None`.
    pub memory: Option<u64>,
    /// Longest silence of an executor that computes, and longest time for it to end an order when it is asked to; then
    /// it is killed.
    pub stall: Duration,
    /// Longest time that an order waits for its turn behind another; then it is given to somebody else.
    pub wait: Duration,
    /// Orders after which another takes its place.
    pub recycle_jobs: u64,
    /// Memory that it may hold between two orders, in bytes, before another takes its place.
    pub recycle_memory: Option<u64>,
    /// Counts what they do: one for all of a worker.
    pub tally: Arc<Tally>,
}

impl ExecutorSettings {
    /// Executors of `program` with one thread on the processors, no memory limit, and the defaults.
    pub fn new(program: PathBuf) -> Self {
        Self {
            program,
            threads: 1,
            device: Device::Cpu,
            unsandboxed: false,
            memory: None,
            stall: Self::STALL,
            wait: Self::WAIT,
            recycle_jobs: Self::RECYCLE_JOBS,
            recycle_memory: None,
            tally: Arc::default(),
        }
    }

    /// Gives each this much memory, in bytes, and half of it before another takes its place.
    pub fn limit_memory(&mut self, memory: Option<u64>) {
        self.memory = memory;
        self.recycle_memory = memory.map(|memory| memory / 2);
    }

    /// Default of `stall`: one step of the largest network that is sensible on a CPU, many times over. With `wait` and the
    /// limit of an order it stays below any broker's consumer timeout (30 min).
    pub const STALL: Duration = Duration::from_secs(10 * 60);
    /// Default of `wait`.
    pub const WAIT: Duration = Duration::from_secs(4 * 60);
    /// Default of `recycle_jobs`: whatever leaks has leaked little by then, and a start costs milliseconds.
    pub const RECYCLE_JOBS: u64 = 10_000;
}

/// Time for a new executor to take orders: generous, since a loaded machine may swap.
const START: Duration = Duration::from_secs(60);
/// For a process to be gone when it is killed.
const KILL: Duration = Duration::from_secs(60);
/// Lines of its standard error that are kept for the report of its death.
const KEPT_LINES: usize = 20;
/// Bytes of each.
const LONGEST_LINE: usize = 500;
/// Bytes of a line that it says to its supervisor: more than any report has, whose result must be read by others, too.
const LONGEST_WORD: usize = MAX_SMALL as usize;

/// A running executor. It carries out orders in the order in which they are sent, one at a time, and reads the
/// pictures of the next one meanwhile.
#[derive(Debug)]
pub struct Executor {
    id: u32,
    /// Held while an order is sent, so that orders and `waiting` have the same order.
    orders: tokio::sync::Mutex<ChildStdin>,
    waiting: Arc<Mutex<Waiting>>,
    stall: Duration,
    wait: Duration,
    tally: Arc<Tally>,
    /// Given a death to kill it for, and closed, which also kills it, when this is dropped.
    kill: watch::Sender<Option<Death>>,
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
        command.env(limits::SUPERVISOR, std::process::id().to_string());
        if let Some(memory) = settings.memory {
            command.env(limits::MEMORY, memory.to_string());
        }
        command.env("GANNET_SIMD", compute::simd_path());
        command.env("GANNET_DEVICE", settings.device.to_string());
        command.envs(std::env::vars_os().filter(|(name, _)| settings.device.reads(name)));
        if settings.unsandboxed {
            command.env("GANNET_UNSANDBOXED", "1");
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let starved_before = memory::kills();
        let failed = |source| {
            let death = Death::Start { program: settings.program.clone(), source: Arc::new(source) };
            settings.tally.failed(&death);
            death
        };
        let mut child = nursery::spawn(command).await.map_err(failed)?;
        let id = child.id().expect("not waited for yet");
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(orders), Some(stdout), Some(stderr)) = pipes else { unreachable!("all three were piped") };
        settings.tally.started(id);
        let (ready, mut hear) = mpsc::unbounded_channel();
        let waiting = Arc::new(Mutex::new(Waiting::for_the_first_word(ready)));
        let (kill, killed) = watch::channel(None);
        let errors = Arc::new(Mutex::new(VecDeque::new()));
        let listener = Listener {
            child,
            says: Lines::new(stdout, LONGEST_WORD),
            reader: tokio::spawn(keep_lines(stderr, Arc::clone(&errors))),
            errors,
            waiting: Arc::clone(&waiting),
            stall: settings.stall,
            memory: settings.memory,
            starved_before,
            id,
            tally: Arc::clone(&settings.tally),
        };
        tokio::spawn(listener.run(killed));
        let orders = tokio::sync::Mutex::new(orders);
        let (stall, wait, tally) = (settings.stall, settings.wait, Arc::clone(&settings.tally));
        let executor = Self { id, orders, waiting, stall, wait, tally, kill };
        match timeout(START, hear.recv()).await {
            Ok(Some(Heard::Said(Say::Ready))) => Ok(executor),
            Ok(_) => Err(executor.death()),
            Err(_) => Err(Death::Silent(START)),
        }
    }

    /// Its process's id.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Whether it still runs; one that died while it was idle is nobody's fault.
    pub fn is_alive(&self) -> bool {
        self.waiting().fate.is_none()
    }

    /// Whether it has done so much, or holds so much memory, that another should take its place.
    pub fn is_worn(&self, settings: &ExecutorSettings) -> bool {
        let waiting = self.waiting();
        waiting.done >= settings.recycle_jobs || settings.recycle_memory.is_some_and(|most| waiting.memory > most)
    }

    /// Has one order carried out, after those sent before it, and returns its report and the processor time in
    /// milliseconds.
    ///
    /// After `limit`, counted from when its turn comes, it is asked to end: training leaves a checkpoint, anything else
    /// [`Report::Ended`]. One that does not within [`ExecutorSettings::stall`] is killed. An order whose turn has not come
    /// after [`ExecutorSettings::wait`] is taken back: [`Report::NotBegun`]. `each` hears when its turn comes and how it moves on.
    /// `pause` asks training alone to end; `give_up` kills.
    ///
    /// # Errors
    /// The executor is dead: start another. [`Death::InCompany`] if it had another order, too, and it is not known which
    /// of them it died of.
    pub async fn run(
        &self,
        order: &Order,
        limit: Duration,
        each: &mut (dyn FnMut(Say) + Send),
        pause: &CancellationToken,
        give_up: &CancellationToken,
    ) -> Result<(u64, Report), Death> {
        let (tell, mut hear) = mpsc::unbounded_channel();
        // Whoever is not done by then cannot be ended.
        let most = self.wait + limit + 2 * self.stall + KILL;
        let mut watched = self.tally.watch(most);
        let number = tokio::select! {
            sent = self.send(order, tell) => sent?,
            () = give_up.cancelled() => return Err(self.kill(Death::GivenUp, &mut hear).await),
        };
        let can_pause = matches!(order, Order::Train { .. });
        let (mut begun, mut asked) = (false, false);
        let time = sleep(self.wait);
        tokio::pin!(time);
        loop {
            tokio::select! {
                heard = hear.recv() => match heard {
                    Some(Heard::Begun) => {
                        begun = true;
                        watched.begins();
                        each(Say::Begun);
                        if !asked {
                            time.as_mut().reset(Instant::now() + limit);
                        }
                    }
                    Some(Heard::Said(Say::Report { cpu_ms, report, load_us, .. })) => {
                        each(Say::Loaded(Duration::from_micros(load_us)));
                        return Ok((cpu_ms, report));
                    }
                    Some(Heard::Said(said)) => {
                        // What waits for room on the disk is not slow.
                        if asked && matches!(said, Say::DiskFull(_)) {
                            time.as_mut().reset(Instant::now() + self.stall);
                            watched.extend(most);
                        }
                        each(said);
                    }
                    None => return Err(self.death()),
                },
                () = pause.cancelled(), if can_pause && !asked => {
                    (begun, asked) = (true, true);
                    time.as_mut().reset(Instant::now() + self.stall);
                    self.write(&Order::End(number)).await;
                }
                () = &mut time => {
                    if !begun {
                        self.write(&Order::End(number)).await;
                        return Ok((0, Report::NotBegun));
                    }
                    if asked {
                        return Err(self.kill(Death::Overtime { limit, grace: self.stall }, &mut hear).await);
                    }
                    asked = true;
                    time.as_mut().reset(Instant::now() + self.stall);
                    self.write(&Order::End(number)).await;
                }
                () = give_up.cancelled() => return Err(self.kill(Death::GivenUp, &mut hear).await),
            }
        }
    }

    /// Sends an order and returns its number. Fails when the executor was dead before. When it dies now, its
    /// [`Listener`] tells.
    async fn send(&self, order: &Order, tell: mpsc::UnboundedSender<Heard>) -> Result<u64, Death> {
        let mut orders = self.orders.lock().await;
        let number = {
            let mut waiting = self.waiting();
            if let Some((death, _)) = &waiting.fate {
                return Err(Death::InCompany(Box::new(death.clone())));
            }
            waiting.push(tell)
        };
        write(&mut orders, order).await;
        Ok(number)
    }

    async fn write(&self, order: &Order) {
        write(&mut *self.orders.lock().await, order).await;
    }

    /// Kills it for `why`, and waits until it is dead.
    async fn kill(&self, why: Death, hear: &mut mpsc::UnboundedReceiver<Heard>) -> Death {
        self.kill.send_replace(Some(why.clone()));
        while hear.recv().await.is_some() {}
        why
    }

    fn death(&self) -> Death {
        match &self.waiting().fate {
            Some((death, ..=1)) => death.clone(),
            Some((death, _)) => Death::InCompany(Box::new(death.clone())),
            None => Death::Died { how: "it talks nonsense".into(), said: String::new() },
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("no panic holds it")
    }
}

/// Fails only when the executor dies, which is told elsewhere.
async fn write(orders: &mut ChildStdin, order: &Order) {
    let mut line = serde_json::to_vec(order).expect("an order is plain data");
    line.push(b'\n');
    let _ = orders.write_all(&line).await;
    let _ = orders.flush().await;
}

async fn keep_lines(stderr: ChildStderr, kept: Arc<Mutex<VecDeque<String>>>) {
    let mut lines = Lines::new(stderr, LONGEST_LINE);
    while let Ok(Some(line)) = lines.next().await {
        let mut text = String::from_utf8_lossy(&line.bytes).into_owned();
        if line.cut > 0 {
            text.push_str(&format!("… ({} more bytes)", line.cut));
        }
        tracing::debug!(executor.said = %text);
        let mut kept = kept.lock().expect("no panic holds it");
        if kept.len() == KEPT_LINES {
            kept.pop_front();
        }
        kept.push_back(text);
    }
}
