//! Lets everything go wrong for a while, and looks whether any job was lost or counted twice.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Parser, ValueEnum};
use tests::chaos::{Floors, Options, Report, run};

/// Runs a fleet on a RabbitMQ and an S3 server of its own while workers, executors, broker, lines, store and producer fail;
/// heals it, waits until every job has ended, and audits the store and the broker.
///
/// Ends with status 1 where a job was lost, doubled, or came to something else than without faults, where a letter was
/// left over, where a worker got stuck, or where less was hit than --at-least-kills or --at-least-restarts ask for; and with 2 where the run itself could not be made.
#[derive(Debug, Parser)]
#[command(
    name = "tests/chaos",
    after_help = "Examples:\n  tests/chaos --minutes 2\n  tests/chaos --minutes 15 --seed 3 --format json > chaos.json"
)]
struct Arguments {
    /// How long things go wrong
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    minutes: f64,
    /// Of what goes wrong when: the same seed, the same faults
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u32,
    /// Workers at once, one slot each
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Jobs, enqueued evenly over the time [default: 134 a minute]
    #[arg(long, value_name = "M")]
    jobs: Option<usize>,
    /// Fail where fewer SIGKILLs hit a job in flight. A run of 15 minutes says so for fewer than 100
    #[arg(long, value_name = "N")]
    at_least_kills: Option<usize>,
    /// Fail where the broker was restarted less often. A run of 15 minutes says so for fewer than 20
    #[arg(long, value_name = "N")]
    at_least_restarts: Option<usize>,
    /// How long a delivery trains
    #[arg(long, value_name = "TIME", default_value = "400ms")]
    slice: String,
    /// The form of the report
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Lines.
    Text,
    /// One object.
    Json,
}

/// Jobs a minute: 2,000 in a quarter of an hour.
const JOBS_A_MINUTE: f64 = 134.0;

#[tokio::main]
async fn main() -> ExitCode {
    match chaos(Arguments::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("tests/chaos: {error:#}");
            ExitCode::from(2)
        }
    }
}

async fn chaos(arguments: Arguments) -> Result<bool> {
    let Arguments { minutes, seed, workers, jobs, at_least_kills, at_least_restarts, slice, format } = arguments;
    ensure!((0.2..=24.0 * 60.0).contains(&minutes), "--minutes is {minutes}: 0.2 to 1440 is accepted");
    let jobs = jobs.unwrap_or((JOBS_A_MINUTE * minutes) as usize).max(1);
    let length = Duration::from_secs_f64(60.0 * minutes);
    let report = run(&Options { length, seed, workers: workers.into(), jobs, slice }).await?;
    print(&report, format)?;
    let usual = Floors::of(length);
    let said =
        Floors { kills: at_least_kills.unwrap_or(usual.kills), restarts: at_least_restarts.unwrap_or(usual.restarts) };
    for short in report.short_of(&said) {
        eprintln!("tests/chaos: THIS RUN SAYS LITTLE: {short}");
    }
    let asked = Floors { kills: at_least_kills.unwrap_or(0), restarts: at_least_restarts.unwrap_or(0) };
    Ok(report.good && report.short_of(&asked).is_empty())
}

fn print(report: &Report, format: Format) -> Result<()> {
    let text = match format {
        Format::Text => report.to_string(),
        Format::Json => serde_json::to_string(report).context("write the report as JSON")?,
    };
    writeln!(std::io::stdout(), "{text}").context("print the report")
}
