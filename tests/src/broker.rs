//! A private RabbitMQ node: the one that `tests/run` started, or a test's own that it may stop and start again.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail, ensure};

use crate::{Folder, children_of, signal};

/// A RabbitMQ node. One that a test started is stopped when this is dropped.
#[derive(Debug)]
pub struct Broker {
    /// `amqp://user:password@host:port`, without a virtual host.
    address: String,
    /// Holds the node's `rabbitmqctl`.
    dir: PathBuf,
    /// Lines of its configuration, beside the usual ones.
    more: Vec<String>,
    /// `tests/lib/broker`, where the node is a test's own and runs. Held while it starts or stops.
    keeper: Mutex<Option<Child>>,
}

impl Broker {
    /// The node that all tests share, or why there is none.
    ///
    /// # Errors
    /// Why a test that needs it cannot run.
    pub fn shared() -> Result<Self, String> {
        let variable = |name: &str| {
            std::env::var(name)
                .map_err(|_| format!("{name} is not set: run it through tests/run, which starts RabbitMQ"))
        };
        let url = variable("GANNET_TEST_AMQP_URL")?;
        let dir = variable("GANNET_TEST_BROKER_DIR")?.into();
        let address = url.rsplit_once('/').map_or(url.as_str(), |(address, _)| address).to_owned();
        Ok(Self { address, dir, more: Vec::new(), keeper: Mutex::default() })
    }

    /// Starts a node of a test's own, with its files in `folder` and these lines in its configuration.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(folder: &Folder, more: &[&str]) -> Result<Self> {
        let dir = folder.path().join("broker");
        let more: Vec<String> = more.iter().map(|line| (*line).to_owned()).collect();
        let (keeper, address) = start(&dir, &more)?;
        Ok(Self { address, dir, more, keeper: Mutex::new(Some(keeper)) })
    }

    /// Starts the stopped node again: same address, same data. Blocks until it accepts connections.
    ///
    /// # Errors
    /// It does not come up.
    pub fn restart(&self) -> Result<()> {
        let mut held = self.keeper();
        ensure!(held.is_none(), "the node runs");
        let (keeper, address) = start(&self.dir, &self.more)?;
        *held = Some(keeper);
        ensure!(address == self.address, "the node has moved from {} to {address}", self.address);
        Ok(())
    }

    /// Stops a test's own node in order, and waits until it is gone.
    ///
    /// # Errors
    /// It is not a test's own.
    pub fn stop(&self) -> Result<()> {
        let mut keeper = self.keeper().take().context("only a node of the test's own can be stopped")?;
        // Its standard input ends, and with it the node.
        drop(keeper.stdin.take());
        keeper.wait().context("wait for the node to stop")?;
        Ok(())
    }

    /// Kills a test's own node, as a power cut would, and waits until it is gone.
    ///
    /// # Errors
    /// It is not a test's own.
    pub fn crash(&self) -> Result<()> {
        let mut keeper = self.keeper().take().context("only a node of the test's own can be killed")?;
        let script = std::fs::read_to_string(self.dir.join("pid")).context("read the node's process id")?;
        // The process is a script, which would leave the node behind.
        let node = children_of(script.trim().parse().context("read the node's process id")?);
        ensure!(!node.is_empty(), "the node of process {script} is not found");
        node.into_iter().try_for_each(|pid| signal("KILL", pid))?;
        // It sees that the node is gone, and tidies up.
        keeper.wait().context("wait for the node's keeper")?;
        Ok(())
    }

    /// Where it listens, as `host:port`.
    pub fn host(&self) -> &str {
        self.address.rsplit_once('@').map_or(&self.address, |(_, host)| host)
    }

    fn keeper(&self) -> MutexGuard<'_, Option<Child>> {
        self.keeper.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of the virtual host `vhost`.
    pub fn url(&self, vhost: &str) -> String {
        format!("{}/{vhost}", self.address)
    }

    /// Makes an empty virtual host.
    ///
    /// # Errors
    /// The node refuses.
    pub fn add_vhost(&self, vhost: &str) -> Result<()> {
        self.ctl(&["add_vhost", vhost])?;
        self.ctl(&["set_permissions", "-p", vhost, "gannet", ".*", ".*", ".*"])
    }

    /// Gives the node the users, rights, exchanges and queues of a definitions file.
    ///
    /// # Errors
    /// The node refuses.
    pub fn import(&self, definitions: &Path) -> Result<()> {
        self.ctl(&["import_definitions", &definitions.display().to_string()])
    }

    /// Drops a virtual host with everything in it.
    ///
    /// # Errors
    /// The node refuses.
    pub fn delete_vhost(&self, vhost: &str) -> Result<()> {
        self.ctl(&["delete_vhost", vhost])
    }

    /// Makes a user who may do everything in a virtual host.
    ///
    /// # Errors
    /// The node refuses.
    pub fn add_user(&self, user: &str, password: &str, vhost: &str) -> Result<()> {
        self.ctl(&["add_user", user, password])?;
        self.ctl(&["set_permissions", "-p", vhost, user, ".*", ".*", ".*"])
    }

    /// Gives a user another password, and closes all connections that were opened with the old one.
    ///
    /// # Errors
    /// The node refuses.
    pub fn change_password(&self, user: &str, password: &str) -> Result<()> {
        self.ctl(&["change_password", user, password])?;
        self.ctl(&["close_all_user_connections", user, "another password"])
    }

    /// Removes a user.
    ///
    /// # Errors
    /// The node refuses.
    pub fn delete_user(&self, user: &str) -> Result<()> {
        self.ctl(&["delete_user", user])
    }

    /// Has a test's own node take any memory for too much, or a usual amount: whoever publishes is blocked in between.
    ///
    /// # Errors
    /// It is not a test's own, or refuses.
    pub fn alarm(&self, on: bool) -> Result<()> {
        ensure!(self.keeper().is_some(), "all tests share this node");
        self.ctl(&["set_vm_memory_high_watermark", if on { "0" } else { "0.6" }])
    }

    fn ctl(&self, args: &[&str]) -> Result<()> {
        let output = Command::new(self.dir.join("rabbitmqctl"))
            .arg("--quiet")
            .args(args)
            .output()
            .context("start the node's rabbitmqctl")?;
        if !output.status.success() {
            bail!("rabbitmqctl {args:?} failed: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if self.keeper().is_some()
            && let Err(error) = self.stop()
        {
            eprintln!("cannot stop the test's RabbitMQ node: {error:#}");
        }
    }
}

/// Runs a node in `dir` until its keeper's standard input ends; returns the keeper and the node's address.
fn start(dir: &Path, more: &[String]) -> Result<(Child, String)> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/lib/broker");
    let mut keeper = Command::new(program)
        .arg(dir)
        .args(more)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("start {program}"))?;
    let output = keeper.stdout.take().context("standard output was asked for")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).context("read the address of the node")?;
    let address = line.trim().strip_prefix("ready ").context("the node did not come up: see above")?;
    Ok((keeper, address.to_owned()))
}
