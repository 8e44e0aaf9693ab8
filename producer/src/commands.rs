//! The command line: what can be asked, and what each answer prints.
//!
//! Data go to standard output, talk goes to standard error.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use shared::contract::Kind;
use shared::logs::{self, LogFormat};
use shared::names::Name;
use shared::store::StoreError;
use shared::traces;

use crate::report::{self, Format, Listing, StudySummary};

mod autoscale;
mod cancel;
mod classify;
mod completions;
mod data;
mod dead;
mod demo;
mod drain;
mod embedded;
mod gc;
mod model;
mod results;
mod run;
mod schema;
mod status;
mod submit;
mod tune;

pub use completions::complete_if_asked;

/// Tunes networks and labels pictures on a fleet of stateless workers, or right here.
///
/// Without any setting everything happens in the folder ./.gannet of this machine. With
/// GANNET_AMQP_URL (RabbitMQ) and GANNET_STORE (s3://bucket/prefix, with AWS_* and
/// GANNET_S3_ENDPOINT) the same commands enqueue, and `gannet-worker` processes do the work.
#[derive(Debug, Parser)]
#[command(
    name = "gannet",
    version,
    after_help = "Examples:\n  gannet demo\n  gannet data push mnist/ --name mnist\n  gannet tune examples/digits.toml\n  gannet results digits-1 --format csv > trials.csv"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
    /// What to log, like `info` or `warn,shared=debug` [default: warn; info of autoscale]
    #[arg(long, env = "GANNET_LOG", global = true)]
    log: Option<String>,
    /// Form of log lines: `text` or `json`
    #[arg(long, env = "GANNET_LOG_FORMAT", default_value = "text", global = true, hide_default_value = true)]
    log_format: LogFormat,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tune a digit recogniser on this machine, from nothing to a report
    Demo(demo::Arguments),
    /// Run a study: train many variants of a network, find the best, test it once
    Tune(tune::Arguments),
    /// Label pictures with a model
    Classify(classify::Arguments),
    /// List a run's results
    Results(results::Arguments),
    /// Stop a run, or one job of it
    Cancel(cancel::Arguments),
    /// Stop workers in order: what they run goes on elsewhere
    Drain(drain::Arguments),
    /// Start and end workers by what there is to do
    Autoscale(Box<autoscale::Arguments>),
    /// Look after jobs that could not be done
    #[command(subcommand)]
    Dead(dead::Command),
    /// List and remove runs
    #[command(subcommand)]
    Run(run::Command),
    /// Remove what is left over in the store
    Gc(gc::Arguments),
    /// Show queues, workers and runs
    Status(status::Arguments),
    /// Enqueue jobs written by hand or by another program
    Submit(submit::Arguments),
    /// Print the message contract as JSON Schema
    Schema(schema::Arguments),
    /// Print what makes a shell complete commands, and names of runs and models
    Completions(completions::Arguments),
    /// Bring data into the store
    #[command(subcommand)]
    Data(data::Command),
    /// Look after models: make them of trained networks, choose versions, remove them
    #[command(subcommand)]
    Model(model::Command),
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, Args)]
struct Listed {
    /// `table` for people, `json` (one object a line) or `csv` for programs
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Format::Table)]
    format: Format,
}

/// What a command cannot find out now, though nothing is wrong: the same later may. Ends it with [`EX_TEMPFAIL`].
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct NotKnown(String);

/// For the last spans to reach a collector. One that is down is not waited for.
const LAST_SPANS: Duration = Duration::from_secs(2);

/// "Temporary failure, indicating something that is not really an error" (`sysexits.h`).
const EX_TEMPFAIL: u8 = 75;

/// The status that an error ends this program with.
pub fn status_of(error: &anyhow::Error) -> u8 {
    if error.is::<NotKnown>() { EX_TEMPFAIL } else { 1 }
}

/// A run's name made of what it is and when it began.
fn fresh_run(of: &Name) -> Name {
    let now = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let stem: String = of.as_str().chars().take(40).collect();
    // Two commands may begin in one second.
    let tail = &shared::queue::fresh_message_id()[..4];
    Name::new(format!("{stem}-{now}-{tail}")).expect("a name, digits and dashes")
}

/// A kind of jobs on a command line.
fn kind(text: &str) -> Result<Kind, String> {
    Kind::ALL.into_iter().find(|kind| kind.as_str() == text).ok_or_else(|| "`trial` or `batch` is accepted".into())
}

/// Where a study's report goes.
#[derive(Debug, Clone, Args)]
struct Reported {
    /// Where the HTML report goes [default: gannet-RUN.html]
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

impl Reported {
    /// The file for `run`.
    ///
    /// # Errors
    /// It cannot be written: to be told before hours of computing, not after.
    fn file(self, run: &Name) -> anyhow::Result<PathBuf> {
        let file = self.report.unwrap_or_else(|| format!("gannet-{run}.html").into());
        std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .with_context(|| format!("write the report `{}` (choose another place with --report)", file.display()))?;
        Ok(file)
    }
}

/// Data go to standard output. A reader that has seen enough (`| head`) is no error.
fn print(listing: &Listing, format: Format) -> anyhow::Result<()> {
    match listing.write(format, &mut std::io::stdout().lock()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}

/// As [`print`], for text.
fn write_out(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}

/// Objects that a listing left out: each is told on standard error, and the command fails when all others are listed.
#[derive(Debug, Default)]
struct Unreadable(usize);

impl Unreadable {
    /// More are only counted.
    const TOLD: usize = 10;

    /// Takes what was read, or tells why it was not.
    ///
    /// # Errors
    /// The store cannot be reached: then it is not about this object.
    fn take<T>(&mut self, read: anyhow::Result<T>) -> anyhow::Result<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Unreachable { .. })) => Err(error),
            Err(error) => {
                self.0 += 1;
                if self.0 <= Self::TOLD {
                    eprintln!("gannet: {error:#}");
                }
                Ok(None)
            }
        }
    }

    /// Says at the end that the listing is not whole: `what` says of what, in the plural.
    fn check(&self, what: &str) -> anyhow::Result<()> {
        match self.0 {
            0 => Ok(()),
            1 => bail!("1 of the {what} cannot be read: it was left out"),
            count => bail!("{count} of the {what} cannot be read: they were left out"),
        }
    }
}

fn write_report(summary: &StudySummary, file: &Path) -> anyhow::Result<()> {
    std::fs::write(file, report::study_html(summary))
        .with_context(|| format!("write the report `{}`", file.display()))?;
    eprintln!("report: {}", file.display());
    Ok(())
}

impl Cli {
    /// Does what was asked.
    ///
    /// # Errors
    /// It could not be done; the error says what to do.
    pub fn run(self) -> anyhow::Result<()> {
        // What it decides is the whole of its talk, and it runs for weeks, in little memory.
        let is_service = matches!(self.command, Command::Autoscale(_));
        let log = self.log.as_deref().unwrap_or(if is_service { "info" } else { "warn" });
        logs::start(log, self.log_format).map_err(anyhow::Error::msg)?;
        traces::start("gannet", &std::process::id().to_string()).map_err(anyhow::Error::msg)?;
        let mut runtime = match is_service {
            true => tokio::runtime::Builder::new_current_thread(),
            false => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = runtime.worker_threads(2).enable_all().build()?;
        let done = runtime.block_on(async {
            match self.command {
                Command::Demo(arguments) => demo::run(arguments).await,
                Command::Tune(arguments) => tune::run(arguments).await,
                Command::Classify(arguments) => classify::run(arguments).await,
                Command::Cancel(arguments) => cancel::run(arguments).await,
                Command::Drain(arguments) => drain::run(arguments).await,
                Command::Autoscale(arguments) => autoscale::run(*arguments).await,
                Command::Dead(command) => dead::run(command).await,
                Command::Run(command) => run::run(command).await,
                Command::Results(arguments) => results::run(arguments).await,
                Command::Gc(arguments) => gc::run(arguments).await,
                Command::Status(arguments) => status::run(arguments).await,
                Command::Submit(arguments) => submit::run(arguments).await,
                Command::Schema(arguments) => schema::run(&arguments),
                Command::Completions(arguments) => completions::run(&arguments),
                Command::Data(command) => data::run(command).await,
                Command::Model(command) => model::run(command).await,
            }
        });
        traces::finish(LAST_SPANS);
        done
    }
}

/// Asks whether to go on; where nobody can answer, refuses with `otherwise`.
fn ask(question: &str, otherwise: &str) -> anyhow::Result<()> {
    use std::io::{BufRead as _, IsTerminal as _};
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        bail!("{otherwise}");
    }
    eprint!("{question} Go on? [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    if !matches!(answer.trim(), "y" | "Y" | "yes") {
        bail!("nothing was done");
    }
    Ok(())
}

/// A bar over bytes; nothing where there is no terminal.
fn bytes_bar() -> indicatif::ProgressBar {
    let style = indicatif::ProgressStyle::with_template("{bar:30.green/dim} {bytes}/{total_bytes} · {eta} left");
    let style = style.unwrap_or_else(|_| indicatif::ProgressStyle::default_bar()).progress_chars("━╸─");
    indicatif::ProgressBar::new(0).with_style(style)
}

fn show_bytes(bar: &indicatif::ProgressBar, done: u64, total: u64) {
    bar.set_length(total);
    bar.set_position(done);
}
