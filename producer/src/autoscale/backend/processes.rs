//! Workers as processes of this machine. They outlive an autoscaler that is killed, and the next one of its name finds them
//! again: by a variable in their environment, where there is `/proc`. Elsewhere it hears them as others' workers.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use shared::contract::Kind;

use super::{Backend, Launch};
use crate::autoscale::policy::{Member, State};

/// Marks a worker as ours: `<mark>/<pool>`.
const MARK: &str = "GANNET_AUTOSCALER";

/// A port that one process alone can have: workers would get the autoscaler's. What a pool's own variables say counts, as
/// `127.0.0.1:0` does, a free port for each.
const NOT_INHERITED: &str = "GANNET_METRICS";

/// Starts `gannet-worker` as a child.
pub struct Processes {
    program: PathBuf,
    logs: Option<PathBuf>,
    mark: String,
    pools: BTreeMap<String, Launch>,
    running: Mutex<BTreeMap<String, Process>>,
}

struct Process {
    pool: String,
    how: How,
}

enum How {
    /// We started it.
    Child(Child),
    /// An earlier autoscaler did.
    Found(u32),
}

impl Processes {
    /// Workers of `program`, marked with `mark`; those that run with this mark already are found. What they log goes into a
    /// file each in `logs`, or where this process's own log goes.
    ///
    /// # Errors
    /// The folder of logs cannot be made.
    pub fn new(
        program: PathBuf,
        logs: Option<PathBuf>,
        mark: String,
        pools: BTreeMap<String, Launch>,
    ) -> anyhow::Result<Self> {
        if let Some(logs) = &logs {
            std::fs::create_dir_all(logs).with_context(|| format!("make the folder of logs `{}`", logs.display()))?;
        }
        let running = Mutex::new(find(&mark));
        Ok(Self { program, logs, mark, pools, running })
    }

    fn running(&self) -> MutexGuard<'_, BTreeMap<String, Process>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self, worker: &str, signal: i32) -> anyhow::Result<()> {
        let mut running = self.running();
        let Some(process) = running.get_mut(worker) else { return Ok(()) };
        let pid = match &mut process.how {
            // Not waited for yet, so the number is still its own.
            How::Child(child) => child.try_wait()?.is_none().then(|| child.id()),
            How::Found(pid) => marked(*pid, &self.mark).is_some_and(|(name, _)| name == worker).then_some(*pid),
        };
        let Some(pid) = pid else { return Ok(()) };
        let pid = i32::try_from(pid).context("a process id")?;
        // SAFETY: `kill` takes numbers alone.
        if unsafe { libc::kill(pid, signal) } != 0 {
            return Err(std::io::Error::last_os_error()).with_context(|| format!("send signal {signal} to {worker}"));
        }
        Ok(())
    }

    fn stderr(&self, worker: &str) -> anyhow::Result<Stdio> {
        let Some(logs) = &self.logs else { return Ok(Stdio::inherit()) };
        let path = logs.join(format!("{worker}.log"));
        let file = File::options().create(true).append(true).open(&path);
        Ok(file.with_context(|| format!("open the log `{}`", path.display()))?.into())
    }
}

#[async_trait]
impl Backend for Processes {
    fn place(&self) -> String {
        format!("processes of `{}`", self.program.display())
    }

    async fn members(&self) -> anyhow::Result<Vec<Member>> {
        let mut running = self.running();
        let state = |name: &String, process: &mut Process| match &mut process.how {
            How::Child(child) => anyhow::Ok(child.try_wait()?.map_or(State::Runs, ended)),
            How::Found(pid) if marked(*pid, &self.mark).is_some_and(|(is, _)| is == *name) => Ok(State::Runs),
            How::Found(_) => {
                Ok(State::Ended { well: true, how: "how is not known: another process started it".into() })
            }
        };
        running
            .iter_mut()
            .map(|(name, process)| {
                Ok(Member { name: name.clone(), pool: process.pool.clone(), state: state(name, process)? })
            })
            .collect()
    }

    async fn start(&self, pool: &str, worker: &str, kinds: &[Kind]) -> anyhow::Result<()> {
        let launch = self.pools.get(pool).with_context(|| format!("find the pool {pool}"))?;
        let child = Command::new(&self.program)
            .env_remove(NOT_INHERITED)
            .envs(launch.variables(worker, kinds))
            .env(MARK, format!("{}/{pool}", self.mark))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(self.stderr(worker)?)
            // A terminal's Ctrl-C is the autoscaler's, which tells its workers or leaves them.
            .process_group(0)
            .spawn();
        let child = child.with_context(|| {
            format!("start `{}` (name the program of the workers with --worker)", self.program.display())
        })?;
        self.running().insert(worker.into(), Process { pool: pool.into(), how: How::Child(child) });
        Ok(())
    }

    async fn stop(&self, worker: &str) -> anyhow::Result<()> {
        self.signal(worker, libc::SIGTERM)
    }

    async fn kill(&self, worker: &str) -> anyhow::Result<()> {
        self.signal(worker, libc::SIGKILL)
    }

    async fn remove(&self, worker: &str) -> anyhow::Result<()> {
        let mut running = self.running();
        if let Some(process) = running.get_mut(worker) {
            if let How::Child(child) = &mut process.how
                && child.try_wait()?.is_none()
            {
                return Err(anyhow!("{worker} still runs"));
            }
            running.remove(worker);
        }
        Ok(())
    }
}

fn ended(status: ExitStatus) -> State {
    let how = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    };
    State::Ended { well: status.success(), how }
}

/// The processes that bear this mark.
fn find(mark: &str) -> BTreeMap<String, Process> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // Each leads a group. A child that it has just forked has its environment, too, for a moment, but its group.
    let leaders = pids.filter(|pid| group_of(*pid) == Some(*pid));
    let found =
        leaders.filter_map(|pid| marked(pid, mark).map(|(name, pool)| (name, Process { pool, how: How::Found(pid) })));
    found.collect()
}

/// Name and pool of a worker that bears this mark. A process that has ended and was not waited for has no environment.
fn marked(pid: u32, mark: &str) -> Option<(String, String)> {
    let environment = std::fs::read(Path::new("/proc").join(pid.to_string()).join("environ")).ok()?;
    let value = |name: &str| {
        let texts = environment.split(|byte| *byte == 0).filter_map(|variable| std::str::from_utf8(variable).ok());
        texts
            .filter_map(|variable| variable.split_once('='))
            .find(|(is, _)| *is == name)
            .map(|(_, value)| value.to_owned())
    };
    let (is, pool) = value(MARK)?.rsplit_once('/').map(|(is, pool)| (is.to_owned(), pool.to_owned()))?;
    if is == mark { Some((value("GANNET_WORKER_NAME")?, pool)) } else { None }
}

/// The third number behind the name, which may hold spaces and brackets: state, parent, group.
fn group_of(pid: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(2)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::super::suite::{self, Place};
    use super::*;

    struct Here(tempfile::TempDir);

    impl Here {
        fn open(&self, mark: &str) -> Box<dyn Backend> {
            let launch = Launch { slots: 1, ..Launch::default() };
            let mark = format!("{mark}-{}", self.0.path().display());
            let pools = BTreeMap::from([("pool".into(), launch)]);
            let logs = Some(self.0.path().join("logs"));
            Box::new(Processes::new(self.0.path().join("worker"), logs, mark, pools).expect("a backend"))
        }
    }

    impl Place for Here {
        async fn open(&self) -> Box<dyn Backend> {
            Self::open(self, "ours")
        }

        async fn listens(&self, worker: &str) {
            let log = self.0.path().join("logs").join(format!("{worker}.log"));
            while !std::fs::read_to_string(&log).unwrap_or_default().contains("takes batch,trial") {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }

        async fn open_stranger(&self) -> Box<dyn Backend> {
            Self::open(self, "theirs")
        }
    }

    #[tokio::test]
    async fn processes_are_a_backend() {
        let folder = tempfile::tempdir().expect("a folder");
        let program = folder.path().join("worker");
        let script = "#!/bin/sh\ntrap 'exit 0' TERM\necho \"$GANNET_WORKER_NAME takes $GANNET_KINDS\" >&2\nwhile :; do sleep 0.05; done\n";
        std::fs::write(&program, script).expect("a script");
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("may be run");
        suite::check(&Here(folder)).await;
    }

    #[tokio::test]
    async fn a_program_that_is_none_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = Here(folder);
        let error = here.open("ours").start("pool", "one", &[Kind::Trial]).await.expect_err("no program");
        let error = format!("{error:#}");
        assert!(error.contains("--worker"), "{error}");
    }
}
