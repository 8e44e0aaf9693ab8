//! Logs of both programs: to standard error, as lines for people or as JSON for collectors.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;

/// What lines look like, once it is known.
static FORMAT: OnceLock<LogFormat> = OnceLock::new();

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for LogFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("`text` or `json` is accepted".into()),
        }
    }
}

/// Starts logging. `filter` is like `info` or `warn,worker=debug` (variable `GANNET_LOG`).
///
/// # Errors
/// The filter cannot be read.
pub fn start(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::try_new(format!("{filter},{}", crate::queue::rabbit::QUIET)).map_err(|error| {
        format!("the log filter `{filter}` cannot be read ({error}): `info` or `warn,worker=debug` is accepted")
    })?;
    FORMAT.get_or_init(|| format);
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Says on standard error what a program ends with: as a line for people, or as one of its log where that is JSON.
pub fn last_word(program: &str, error: &anyhow::Error) {
    match FORMAT.get() {
        Some(LogFormat::Json) => tracing::error!(program, error = format!("{error:#}"), "cannot go on"),
        _ => eprintln!("{program}: {error:#}"),
    }
}
