//! What an executor may die of.

use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use shared::contract::ErrorCode;

use super::limits::OUT_OF_MEMORY;

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
    /// There was no more memory for it.
    #[error("the executor died out of memory: {how}{said}")]
    OutOfMemory {
        /// Whose memory was full, and what to do.
        how: String,
        /// The end of what it wrote to its standard error.
        said: String,
    },
    /// It was silent for too long and was killed.
    #[error("time limit: the executor said nothing for {} and was killed", humantime::format_duration(*.0))]
    Silent(Duration),
    /// It was asked to end its order, and killed since it did not.
    #[error(
        "time limit: the executor was asked to end after {}, did not within {}, and was killed",
        humantime::format_duration(*limit),
        humantime::format_duration(*grace)
    )]
    Overtime {
        /// What the order was given.
        limit: Duration,
        /// What it was given beyond.
        grace: Duration,
    },
    /// The caller no longer wanted its answer and it was killed.
    #[error("the executor was killed because its job was given up")]
    GivenUp,
    /// It had another order, too, and it is not known whose fault it was.
    #[error("{0} (with another job in hand)")]
    InCompany(Box<Death>),
}

impl Death {
    /// The stable code of an [`shared::contract::ErrorReport`].
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::OutOfMemory { .. } => ErrorCode::OutOfMemory,
            Self::Silent(_) | Self::Overtime { .. } => ErrorCode::TimeLimit,
            Self::Start { .. } | Self::Died { .. } | Self::GivenUp => ErrorCode::Crashed,
            Self::InCompany(death) => death.code(),
        }
    }

    /// Of one that ended by itself. `limit` is the memory that it was given, in bytes; `starved`, whether the kernel
    /// has killed for lack of memory meanwhile.
    pub(super) fn of(status: ExitStatus, said: String, limit: Option<u64>, starved: bool) -> Self {
        match (status.signal(), status.code()) {
            (_, Some(OUT_OF_MEMORY)) => {
                let limit = limit.map_or("its memory".into(), |limit| format!("its {} MiB", limit >> 20));
                let how = format!(
                    "{limit} were full; give executors more (--executor-mib, or fewer --slots), or the job smaller batches"
                );
                Self::OutOfMemory { how, said }
            }
            // Libraries in C tell in their own way; whoever calls them ends like this.
            (Some(libc::SIGABRT), _) if said.contains("memory allocation of") => {
                Self::OutOfMemory { how: "an allocation failed".into(), said }
            }
            (Some(libc::SIGKILL), _) if starved => {
                let how =
                    "the kernel killed it (SIGKILL), since the memory of this machine or container was full".into();
                Self::OutOfMemory { how, said }
            }
            (Some(libc::SIGKILL), _) => {
                let how = "signal 9 (SIGKILL): somebody killed it, or the kernel where memory is full".into();
                Self::Died { how, said }
            }
            (Some(signal), _) => {
                let name = name(signal).map_or_else(String::new, |name| format!(" ({name})"));
                Self::Died { how: format!("signal {signal}{name}"), said }
            }
            (None, code) => Self::Died { how: format!("exit code {}", code.unwrap_or(-1)), said },
        }
    }
}

fn name(signal: i32) -> Option<&'static str> {
    Some(match signal {
        libc::SIGABRT => "SIGABRT",
        libc::SIGALRM => "SIGALRM",
        libc::SIGBUS => "SIGBUS",
        libc::SIGFPE => "SIGFPE",
        libc::SIGHUP => "SIGHUP",
        libc::SIGILL => "SIGILL",
        libc::SIGINT => "SIGINT",
        libc::SIGPIPE => "SIGPIPE",
        libc::SIGQUIT => "SIGQUIT",
        libc::SIGSEGV => "SIGSEGV",
        libc::SIGSYS => "SIGSYS",
        libc::SIGTERM => "SIGTERM",
        libc::SIGTRAP => "SIGTRAP",
        libc::SIGXCPU => "SIGXCPU",
        libc::SIGXFSZ => "SIGXFSZ",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(status: i32, starved: bool) -> (ErrorCode, String) {
        let death = Death::of(ExitStatus::from_raw(status), "; it said: why".into(), Some(256 << 20), starved);
        (death.code(), death.to_string())
    }

    #[test]
    fn each_death_has_its_name_and_says_what_the_executor_said() {
        for (status, starved, code, expected) in [
            (libc::SIGSEGV, false, ErrorCode::Crashed, "signal 11 (SIGSEGV)"),
            (libc::SIGABRT, true, ErrorCode::Crashed, "signal 6 (SIGABRT)"),
            (42, false, ErrorCode::Crashed, "signal 42"),
            (libc::SIGKILL, false, ErrorCode::Crashed, "signal 9 (SIGKILL)"),
            (libc::SIGKILL, true, ErrorCode::OutOfMemory, "the kernel killed it (SIGKILL)"),
            (3 << 8, false, ErrorCode::Crashed, "exit code 3"),
            (OUT_OF_MEMORY << 8, false, ErrorCode::OutOfMemory, "its 256 MiB were full"),
        ] {
            let (found, text) = of(status, starved);
            assert_eq!(found, code, "{text}");
            assert!(text.contains(expected) && text.ends_with("; it said: why"), "{text}");
        }
    }
}
