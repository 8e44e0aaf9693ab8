//! A program under test: started with exactly the environment it is given, watched, and never left behind.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::eventually;

/// A running program. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `program` of the workspace in the folder `dir`. Of this process's environment it sees `PATH` only;
    /// `HOME` is `dir`.
    ///
    /// # Errors
    /// It has not been built, or does not start.
    pub fn start(name: &str, program: &str, args: &[&str], env: &[(String, String)], dir: &Path) -> Result<Self> {
        let path = binary(program)?;
        Self::spawn(name, Command::new(path).args(args), env, dir)
    }

    /// Starts any program, likewise.
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn(name: &str, command: &mut Command, env: &[(String, String)], dir: &Path) -> Result<Self> {
        // Tests start several of one name; their outputs lie side by side.
        let free = |n: &usize| !dir.join(format!("{name}.{n}.out")).exists();
        let number = (0..).find(free).unwrap_or_default();
        let stdout = dir.join(format!("{name}.{number}.out"));
        let stderr = dir.join(format!("{name}.{number}.err"));
        let child = command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", dir)
            .env("RUST_BACKTRACE", "1")
            .envs(env.iter().cloned())
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).context("create the file for standard output")?)
            .stderr(File::create(&stderr).context("create the file for standard error")?)
            .spawn()
            .with_context(|| format!("start {name}: {command:?}"))?;
        Ok(Self { name: name.into(), child, stdout, stderr })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// The file of what it logs.
    pub fn log(&self) -> &Path {
        &self.stderr
    }

    /// What it has logged so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Fails if it has ended.
    ///
    /// # Errors
    /// It has: the error shows how, and what it logged.
    pub fn must_run(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} has ended ({status}): {}", self.name, self.stderr()),
        }
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The system does not tell.
    pub fn has_ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub async fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.name);
        let child = &mut self.child;
        eventually(limit, &what, async || Ok(child.try_wait()?)).await
    }

    /// Waits for its end, which must be a good one, and returns what it printed.
    ///
    /// # Errors
    /// It failed, or still runs after `limit`.
    pub async fn succeed(mut self, limit: Duration) -> Result<String> {
        let status = self.wait(limit).await?;
        ensure!(status.success(), "{} failed ({status}): {}", self.name, self.stderr());
        Ok(self.stdout())
    }

    /// Asks it to end (`SIGTERM`).
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub fn terminate(&self) -> Result<()> {
        signal("TERM", self.pid())
    }

    /// Ends it at once (`SIGKILL`), without a chance to say or save anything.
    ///
    /// # Errors
    /// It has ended already: then the test did not test what it wanted to.
    pub fn kill(&mut self) -> Result<()> {
        self.must_run()?;
        self.child.kill().context("send SIGKILL")?;
        self.child.wait().context("wait for the killed process")?;
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A program of the workspace, built by `tests/run` or `cargo build --release --workspace`.
///
/// # Errors
/// It is not there.
pub fn binary(program: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("GANNET_TEST_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        // A test lies in target/release/deps, the programs in target/release.
        None => {
            let test = std::env::current_exe().context("find this test's own path")?;
            test.ancestors().nth(2).context("a test lies two folders deep")?.to_owned()
        }
    };
    let path = folder.join(program);
    ensure!(path.is_file(), "no program {}: build it first (cargo build --release --workspace)", path.display());
    Ok(path)
}

/// What a command printed as JSON, a line each.
///
/// # Errors
/// A line is none; the error shows it.
pub fn json_lines(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("read {line}"))).collect()
}

/// The processes whose parent is `pid`, as Linux tells; elsewhere none are found.
pub fn children_of(pid: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|child| parent_of(*child) == Some(pid)).collect()
}

fn parent_of(pid: u32) -> Option<u32> {
    u32::try_from(stat(pid, 1)?).ok()
}

/// What a process has used of the processor so far, in milliseconds, as Linux tells.
///
/// # Errors
/// There is no such process, or the system does not tell.
pub fn processor_ms(pid: u32) -> Result<f64> {
    let (user, system) =
        stat(pid, 11).zip(stat(pid, 12)).with_context(|| format!("read the times of process {pid}"))?;
    // In hundredths of a second, whatever the kernel's own tick is.
    Ok((user + system) as f64 * 10.0)
}

/// A number of `pid (name) state parent …`, counted from the state, 0; the name may hold spaces and brackets.
fn stat(pid: u32, word: usize) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(word)?.parse().ok()
}

/// Sends a signal (`TERM`, `KILL`, …) to a process.
///
/// # Errors
/// There is no such process.
pub fn signal(name: &str, pid: u32) -> Result<()> {
    // The shell's own `kill`: there where no such program is installed.
    let status = Command::new("sh").args(["-c", "kill -s \"$0\" \"$1\"", name, &pid.to_string()]).status()?;
    ensure!(status.success(), "cannot send SIG{name} to process {pid}");
    Ok(())
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned()
}
