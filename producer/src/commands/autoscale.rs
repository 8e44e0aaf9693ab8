//! `gannet autoscale`: starts and ends a fleet's workers by what there is to do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{ArgGroup, ValueEnum};
use shared::contract::Kind;
use shared::digest::Digest;
use shared::metrics::{self, MetricsArguments};
use shared::names::Name;
use shared::queue::fresh_message_id;
use shared::settings::{BadSetting, QueuePlace, cores};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::docker::DockerArguments;
use crate::autoscale::backend::docker::Containered;
use crate::autoscale::backend::processes::Processes;
use crate::autoscale::backend::{Backend, Launch};
use crate::autoscale::config::{self, Pools};
use crate::autoscale::metrics::Metrics;
use crate::autoscale::policy::Policy;
use crate::autoscale::pool::{Pool, START_LIMIT};
use crate::autoscale::report::Report;
use crate::autoscale::scaler::{Options, Scaler};

mod docker;

#[derive(Debug, clap::Args)]
#[command(
    group = ArgGroup::new("where").required(true).args(["processes", "docker", "health"]),
    after_help = "Examples:\n  gannet autoscale --processes --max 4\n  gannet autoscale --processes --config pools.toml --dry-run\n  gannet autoscale --docker --image gannet-worker --network gannet_default --env-file worker.env --volume cache:/cache --max 8\n\nOut at once: as many slots as clear what waits within --clear-within, never more than there are jobs. In after --idle: only workers that have nothing in hand, and they themselves decide. Nothing is done while the broker or the workers are not seen, while it takes no messages, or refuses. At zero nothing runs but this command, which needs the broker alone: GANNET_AMQP_URL, and no store.\n\nSIGTERM or Ctrl-C: its workers end in order, as by `gannet drain` (--leave: they stay, and the next autoscaler of this --name takes them over). Nothing else ends workers that work.\n\nMemory: nine tenths of the machine's, shared by as many workers as there may be of all pools, unless GANNET_EXECUTOR_MIB says what each executor has, or --memory-mib what each container has.\n\nMetrics: GANNET_METRICS is this command's alone. Workers of --processes answer nowhere, since one address cannot be all of theirs: --env GANNET_METRICS=127.0.0.1:0 gives each a free port, which its log names."
)]
pub(super) struct Arguments {
    /// Workers are processes of this machine, with this command's variables
    #[arg(long)]
    processes: bool,
    /// Workers are containers of a Docker engine
    #[arg(long)]
    docker: bool,
    /// Do nothing, but ask the autoscaler of this machine that answers at --metrics-address whether it lives: the status is 0,
    /// or 1 with the reason
    #[arg(long)]
    health: bool,
    /// Says what it would do, and does nothing
    #[arg(long)]
    dry_run: bool,
    /// Workers at least
    #[arg(long, value_name = "N", default_value_t = 0)]
    min: u32,
    /// Workers at most: so many share the machine's memory [default: the number of cores, shared by --slots]
    #[arg(long, value_name = "N")]
    max: Option<u32>,
    /// Jobs that a worker computes at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    slots: u32,
    /// Kinds of jobs that workers take, the preferred first
    #[arg(long, value_delimiter = ',', default_value = "trial,batch", value_parser = super::kind)]
    kinds: Vec<Kind>,
    /// What workers compute on, as `gannet-worker --device` accepts
    #[arg(long)]
    device: Option<String>,
    /// Pools of workers of several sorts, each with bounds of its own: a TOML file (infra/autoscale.toml.sample)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// How long there must be too many workers before one is asked to leave
    #[arg(long, value_name = "TIME", default_value = "30s")]
    idle: humantime::Duration,
    /// The time in which what waits should be done: fewer workers suffice for many short jobs
    #[arg(long, value_name = "TIME", default_value = "10s")]
    clear_within: humantime::Duration,
    /// How long the start of a worker may take, until its first word: then it is ended, and another takes its place
    #[arg(long, value_name = "TIME", default_value_t = START_LIMIT.into())]
    start_limit: humantime::Duration,
    /// Time between two looks at the queues
    #[arg(long, value_name = "TIME", default_value = "200ms")]
    every: humantime::Duration,
    /// This autoscaler's name: its workers' names begin with it, and it finds those again that it left
    #[arg(long, default_value = "auto", value_parser = name)]
    name: Name,
    /// Leaves its workers running when it ends
    #[arg(long)]
    leave: bool,
    /// A variable of the workers, NAME=VALUE, or NAME to pass it on; again for more
    #[arg(long, value_name = "VARIABLE")]
    env: Vec<String>,
    /// With --processes: the program [default: gannet-worker beside this one]
    #[arg(long, value_name = "PATH", requires = "processes")]
    worker: Option<PathBuf>,
    /// With --processes: a folder for the workers' logs, a file each [default: they go where this one's goes]
    #[arg(long, value_name = "FOLDER", requires = "processes")]
    logs: Option<PathBuf>,
    #[command(flatten)]
    containers: DockerArguments,
    /// `json`: each decision as a line on standard output; all are logged on standard error in any case
    #[arg(long, value_enum, default_value_t = Form::Text)]
    format: Form,
    #[command(flatten)]
    metrics: MetricsArguments,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Form {
    /// Log lines alone
    Text,
    /// Log lines, and JSON on standard output
    Json,
}

/// The shortest time between two looks: more would only burden the broker.
const LEAST_EVERY: Duration = Duration::from_millis(20);
/// The longest: the policy counts on it.
const MOST_EVERY: Duration = Duration::from_secs(1);

fn name(text: &str) -> Result<Name, String> {
    let name = Name::new(text).map_err(|error| error.to_string())?;
    if name.as_str().len() <= 20 { Ok(name) } else { Err("20 characters at most are accepted".into()) }
}

/// Where the queue is, by the environment and the file that it may name.
fn place() -> Result<QueuePlace, BadSetting> {
    QueuePlace::read(&|name| std::env::var(name).ok())
}

/// What tells a fleet from others, whoever the user is: credentials may change.
fn fleet_of(place: &QueuePlace) -> String {
    let text = place.to_string();
    match (place, text.rsplit_once('@')) {
        (QueuePlace::Amqp(_), Some((_, host))) => host.to_owned(),
        _ => text,
    }
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    if arguments.health {
        return Ok(metrics::ask(arguments.metrics.metrics_address)?);
    }
    let place = place()?;
    let pools = pools(&arguments)?;
    if !arguments.docker && pools.launches.values().any(|launch| launch.memory.is_some()) {
        bail!(
            "--memory-mib (memory_mib) is a limit of containers, with --docker: processes get --env GANNET_EXECUTOR_MIB=…"
        );
    }
    let every = Duration::from(arguments.every);
    if !(LEAST_EVERY..=MOST_EVERY).contains(&every) {
        bail!("--every is {}: 20ms to 1s is accepted", arguments.every);
    }
    // Other fleets of this machine have autoscalers of the same name, maybe.
    let fleet = Digest::of(fleet_of(&place).as_bytes()).to_string();
    let mark = format!("{}@{}", arguments.name, &fleet[..8]);
    let backend: Box<dyn Backend> = if arguments.docker {
        if matches!(place, QueuePlace::File(_)) {
            bail!("containers cannot work on the embedded queue of a folder: name a broker with GANNET_AMQP_URL");
        }
        let (socket, containers) = arguments.containers.read()?;
        Box::new(Containered::new(&socket, mark, containers, pools.launches.clone()).await?)
    } else {
        let program = program(arguments.worker.as_deref())?;
        Box::new(Processes::new(program, arguments.logs.clone(), mark, pools.launches.clone())?)
    };
    let observed = Arc::new(Metrics::default());
    if let Some(address) = arguments.metrics.metrics_address {
        metrics::serve(address, Arc::<Metrics>::clone(&observed)).await?;
    }
    let options = Options { every, kinds: pools.kinds(), dry_run: arguments.dry_run, leave: arguments.leave };
    // Names of workers never come again, whichever autoscaler of this name starts them.
    let prefix = format!("{}-{}", arguments.name, &fresh_message_id()[..4]);
    let policy = Policy::new(pools.pools, pools.total, prefix);
    let report = Report::new(arguments.format == Form::Json, observed);
    let stop = CancellationToken::new();
    stop_on_signals(stop.clone())?;
    Scaler::new(policy, backend, place, || self::place().ok(), options, report).run(stop).await
}

fn pools(arguments: &Arguments) -> anyhow::Result<Pools> {
    let max = arguments.max.unwrap_or_else(|| (cores() / arguments.slots).max(arguments.min).max(1));
    let mut kinds = arguments.kinds.clone();
    kinds.dedup();
    let pool = Pool {
        kinds,
        min: arguments.min,
        slots: arguments.slots,
        clear_within: arguments.clear_within.into(),
        idle: arguments.idle.into(),
        start_limit: arguments.start_limit.into(),
        ..Pool::new("workers", max)
    };
    let mut launch = Launch {
        slots: arguments.slots,
        device: arguments.device.clone(),
        env: variables(&arguments.env)?,
        ..Launch::default()
    };
    arguments.containers.fill(&mut launch)?;
    config::check(&pool, &launch).context("read the command line")?;
    let Some(file) = &arguments.config else { return Ok(Pools::one(pool, launch)) };
    let text = std::fs::read_to_string(file).with_context(|| format!("read the pools of `{}`", file.display()))?;
    Pools::read(&text, &pool, &launch).with_context(|| format!("read the pools of `{}`", file.display()))
}

/// `NAME=VALUE`, or the value that NAME has here.
fn variables(given: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let variable = |text: &String| match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        Some(_) => bail!("--env needs a name before the `=`: NAME=VALUE, or NAME alone to pass it on"),
        None => match std::env::var(text) {
            Ok(value) => Ok((text.clone(), value)),
            Err(_) => bail!("--env {text}: there is no such variable here to pass on (NAME=VALUE gives it a value)"),
        },
    };
    given.iter().map(variable).collect()
}

/// The program of the workers.
fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let program = match given {
        Some(given) => given.to_owned(),
        None => std::env::current_exe().context("find this program's own file")?.with_file_name("gannet-worker"),
    };
    if !program.is_file() {
        bail!("there is no program of workers `{}`: name it with --worker", program.display());
    }
    // As it may be named relative to another folder than it is started in.
    program.canonicalize().with_context(|| format!("find `{}`", program.display()))
}

/// The first signal ends its workers in order, the second ends this process at once.
fn stop_on_signals(stop: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen to SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen to SIGINT")?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if stop.is_cancelled() {
                tracing::warn!("ends at once: its workers stay");
                std::process::exit(130);
            }
            stop.cancel();
        }
    });
    Ok(())
}
