//! `gannet-worker`: joins a fleet (or an embedded folder) and works until it is told to stop.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Parser;
use shared::contract::Kind;
use shared::logs::{self, LogFormat};
use shared::metrics::{self, MetricsArguments};
use shared::settings::{Places, QueuePlace};
use shared::{arguments, queue, store, traces};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use worker::compute::{Device, Simd, find_device, find_simd, set_simd};
use worker::executor::{self, ExecutorSettings};
use worker::metrics::{Metrics, Stage};
use worker::settings::{CACHE_LIMIT, LEAST_MEMORY, SLICE, TIME_LIMIT, WorkerSettings};
use worker::supervisor::On;
use worker::work;

/// Takes jobs from the queue, computes them in executor processes, commits their results to the store.
///
/// Where to work is read from the environment: `GANNET_AMQP_URL` (amqp://user:password@host:5672/%2f)
/// and `GANNET_STORE` (s3://bucket/prefix, with `AWS_*` and `GANNET_S3_ENDPOINT`). Without them the
/// worker joins the embedded folder `GANNET_HOME` (./.gannet).
///
/// SIGTERM or Ctrl-C: takes no more jobs, lets running trials make a checkpoint, ends within ten seconds.
/// A second one ends at once; nothing is lost either way.
///
/// Traces go to an OpenTelemetry collector where `OTEL_EXPORTER_OTLP_ENDPOINT` is set, like http://localhost:4318.
#[derive(Debug, Parser)]
#[command(
    name = "gannet-worker",
    version,
    after_help = "Examples:\n  gannet-worker\n  gannet-worker --slots 4 --kinds trial\n  GANNET_AMQP_URL=amqp://user:password@broker GANNET_STORE=s3://bucket gannet-worker"
)]
struct Arguments {
    /// What computes: `cpu`; `cuda:N`, NVIDIA's GPU of this number; or `auto`, a GPU if there is one that this program can use
    #[arg(long, env = "GANNET_DEVICE", default_value = "cpu", value_parser = find_device)]
    device: Device,
    /// Instructions that processors compute with, `avx512`, `avx2` or `portable` [default: the best that this machine has].
    /// Results on one of them are the same to the bit on all machines
    #[arg(long, env = "GANNET_SIMD", value_name = "PATH", value_parser = find_simd)]
    simd: Option<Simd>,
    /// Jobs computed at once, one executor process each [default: the number of cores; 1 on a GPU]
    #[arg(long, env = "GANNET_SLOTS", value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: Option<u32>,
    /// Threads of each executor. One is fastest as long as there are jobs for every core
    #[arg(long, env = "GANNET_THREADS", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// Kinds of jobs to take, the preferred first
    #[arg(long, env = "GANNET_KINDS", value_delimiter = ',', default_value = "trial,batch", value_parser = kind)]
    kinds: Vec<Kind>,
    /// Folder of the cache; workers of one host may share it [default: GANNET_HOME/cache]
    #[arg(long, env = "GANNET_CACHE")]
    cache: Option<PathBuf>,
    /// The cache's size limit, in MiB
    #[arg(long, env = "GANNET_CACHE_MIB", default_value_t = CACHE_LIMIT >> 20)]
    cache_mib: u64,
    /// How long a delivery may train before the trial goes on as another one, like 5m or 20s
    #[arg(long, env = "GANNET_SLICE", default_value_t = SLICE.into())]
    slice: humantime::Duration,
    /// How long a batch, or the test of a network, may be computed before it is ended, like 10m
    #[arg(long, env = "GANNET_TIME_LIMIT", default_value_t = TIME_LIMIT.into())]
    time_limit: humantime::Duration,
    /// Longest silence of a computing executor, and longest time for it to end when it is asked to (after --slice or
    /// --time-limit), before it is killed, like 5m
    #[arg(long, env = "GANNET_STALL", default_value_t = ExecutorSettings::STALL.into())]
    stall: humantime::Duration,
    /// Memory of each executor, in MiB: one that needs more dies alone [default: nine tenths of the machine's or
    /// container's, shared by the slots, and by all workers that `gannet autoscale` may start on the machine]
    #[arg(long, env = "GANNET_EXECUTOR_MIB", value_parser = clap::value_parser!(u64).range(LEAST_MEMORY >> 20..1 << 40))]
    executor_mib: Option<u64>,
    /// Workers like this one that share the machine's memory: `gannet autoscale` says so
    #[arg(long, env = "GANNET_WORKERS_HERE", hide = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    workers_here: u32,
    /// Jobs after which an executor is replaced
    #[arg(long, env = "GANNET_RECYCLE_JOBS", default_value_t = ExecutorSettings::RECYCLE_JOBS, value_parser = clap::value_parser!(u64).range(1..))]
    recycle_jobs: u64,
    /// Memory, in MiB, that an executor may hold between two jobs before it is replaced [default: half of its memory]
    #[arg(long, env = "GANNET_RECYCLE_MIB", value_parser = clap::value_parser!(u64).range(1..1 << 40))]
    recycle_mib: Option<u64>,
    /// This worker's name, unique in the fleet [default: HOST-PID]
    #[arg(long, env = "GANNET_WORKER_NAME")]
    name: Option<String>,
    /// End, with status 0, when no slot has had a job for so long, like 30s [default: never]
    #[arg(long, env = "GANNET_EXIT_WHEN_IDLE", value_name = "TIME")]
    exit_when_idle: Option<humantime::Duration>,
    #[command(flatten)]
    metrics: MetricsArguments,
    /// Work nothing, but ask the worker of this machine that answers at --metrics-address whether it lives: the status is 0, or 1
    /// with the reason
    #[arg(long)]
    health: bool,
    /// Run executors also where the system cannot shut them off from the network
    #[arg(long, env = "GANNET_UNSANDBOXED")]
    unsandboxed: bool,
    /// What to log, like `info` or `warn,worker=debug`
    #[arg(long, env = "GANNET_LOG", default_value = "info")]
    log: String,
    /// Form of log lines: `text` or `json`
    #[arg(long, env = "GANNET_LOG_FORMAT", default_value = "text")]
    log_format: LogFormat,
}

fn kind(text: &str) -> Result<Kind, String> {
    Kind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| "`trial` or `batch` is accepted".into())
}

fn main() -> ExitCode {
    executor::run_if_asked();
    let arguments: Arguments = arguments::parse();
    if arguments.health {
        return match metrics::ask(arguments.metrics.metrics_address) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("gannet-worker: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if let Err(error) = logs::start(&arguments.log, arguments.log_format) {
        eprintln!("gannet-worker: {error}");
        return ExitCode::from(2);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("gannet-worker: cannot start its threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(run(arguments));
    // What still runs (a file that is hashed, a connection that hangs) is not waited for.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logs::last_word("gannet-worker", &error);
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if let Some(path) = arguments.simd {
        set_simd(path);
    }
    let places = Places::read(&|name| std::env::var(name).ok())?;
    let settings = settings(&arguments, &places)?;
    traces::start("gannet-worker", &settings.name).map_err(anyhow::Error::msg)?;
    let drain = CancellationToken::new();
    stop_on_signals(drain.clone())?;
    let metrics = Metrics::new(&settings);
    if let Some(address) = arguments.metrics.metrics_address {
        metrics::serve(address, metrics.clone()).await?;
    }
    let began = OnceLock::new();
    let ended = tokio::select! {
        ended = connect_and_work(&places, settings, drain.clone(), metrics) => ended,
        () = overdue(&drain, &began) => {
            Err(anyhow::anyhow!("did not end within {END:?}: the broker gives what it held to others"))
        }
    };
    // A drain has ten seconds, the last spans included.
    let left = began.get().map_or(LAST_SPANS, |began: &Instant| END.saturating_sub(began.elapsed()).min(LAST_SPANS));
    traces::finish(left.max(END / 100));
    ended
}

/// How long a drain may last, whatever hangs.
const END: Duration = Duration::from_millis(9_800);
/// For the last spans to reach a collector.
const LAST_SPANS: Duration = Duration::from_secs(1);

/// `began` tells when the drain did.
async fn overdue(drain: &CancellationToken, began: &OnceLock<Instant>) {
    drain.cancelled().await;
    began.get_or_init(Instant::now);
    tokio::time::sleep(END).await;
}

async fn connect_and_work(
    places: &Places,
    settings: WorkerSettings,
    drain: CancellationToken,
    metrics: Arc<Metrics>,
) -> anyhow::Result<()> {
    let patience = &metrics.patience;
    let queue = loop {
        let opened = tokio::select! {
            opened = queue::open(places) => opened,
            () = drain.cancelled() => return Ok(()),
        };
        match opened {
            Err(error) if error.is_passing() && matches!(places.queue, QueuePlace::Amqp(_)) => {
                tokio::select! {
                    () = patience.wait(On::Queue, &error) => {}
                    () = drain.cancelled() => return Ok(()),
                }
            }
            opened => break opened?,
        }
    };
    metrics.reaches(Stage::Store);
    let store = loop {
        let opened = async {
            let store = store::open(places).await?;
            store::probe::probe(&store).await?;
            Ok::<_, store::StoreError>(store)
        };
        let opened = tokio::select! {
            opened = opened => opened,
            () = drain.cancelled() => return Ok(()),
        };
        match opened {
            Err(error) if error.is_passing() => {
                tokio::select! {
                    () = patience.wait(On::Store, &error) => {}
                    () = drain.cancelled() => return Ok(()),
                }
            }
            opened => break opened?,
        }
    };
    let device = settings.executor.device;
    tracing::info!(queue = %queue.place(), store = %store.place(), %device, "connected");
    work(settings, queue, store, drain, metrics).await
}

fn settings(arguments: &Arguments, places: &Places) -> anyhow::Result<WorkerSettings> {
    let cache = arguments.cache.clone().unwrap_or_else(|| places.home.join("cache"));
    let mut settings =
        WorkerSettings::new(cache, arguments.slots, arguments.device).context("find this program's own file")?;
    settings.kinds = arguments.kinds.clone();
    settings.kinds.dedup();
    settings.cache_limit = arguments.cache_mib << 20;
    settings.slice = at_least(arguments.slice, Duration::from_millis(10), "--slice")?;
    settings.time_limit = at_least(arguments.time_limit, Duration::from_secs(1), "--time-limit")?;
    settings.executor.stall = at_least(arguments.stall, Duration::from_secs(1), "--stall")?;
    settings.executor.threads = arguments.threads;
    settings.executor.unsandboxed = arguments.unsandboxed;
    match arguments.executor_mib {
        Some(mib) => settings.executor.limit_memory(Some(mib << 20)),
        None => settings.share_memory(arguments.workers_here),
    }
    if let Some(mib) = arguments.recycle_mib {
        settings.executor.recycle_memory = Some(mib << 20);
    }
    settings.executor.recycle_jobs = arguments.recycle_jobs;
    settings.exit_when_idle = match arguments.exit_when_idle {
        Some(time) => Some(at_least(time, Duration::from_secs(1), "--exit-when-idle")?),
        None => None,
    };
    settings.local_files = places.is_embedded();
    if let Some(name) = &arguments.name {
        settings.name = shared::names::Name::new(name.as_str()).context("read --name")?.to_string();
    }
    Ok(settings)
}

/// As good as for ever, and still a time that can be added to any other.
const LONGEST: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

fn at_least(duration: humantime::Duration, least: Duration, flag: &str) -> anyhow::Result<Duration> {
    anyhow::ensure!(
        *duration >= least,
        "{flag} is {duration}: at least {} is accepted",
        humantime::format_duration(least)
    );
    Ok((*duration).min(LONGEST))
}

/// The first signal drains, the second ends the process at once.
fn stop_on_signals(drain: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                tracing::info!("drains: takes no more jobs, lets running trials make a checkpoint");
                drain.cancel();
            }
        }
        tracing::warn!("ends at once");
        std::process::exit(130);
    });
    Ok(())
}
