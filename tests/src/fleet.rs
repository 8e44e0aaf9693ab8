//! A fleet of one test's own: an empty virtual host on the broker, an empty store, workers and commands.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{Amqp, Broker, Folder, LIMIT, Pictures, Process, Proxy, S3, Trouble, skipped};

/// Prefix of the store's keys: not empty, since a fleet may share its bucket.
const PREFIX: &str = "fleets/one";

/// The lines of one program to its servers.
#[derive(Debug)]
pub struct Lines {
    /// To the broker.
    pub broker: Proxy,
    /// To the store.
    pub store: Proxy,
    amqp_url: String,
}

impl Lines {
    /// The variables of a program that uses them, in place of the fleet's own.
    pub fn env(&self) -> Vec<(String, String)> {
        let (before, after) = self.amqp_url.split_once('@').unwrap_or_default();
        let vhost = after.rsplit_once('/').map_or("", |(_, vhost)| vhost);
        vec![
            ("GANNET_AMQP_URL".into(), format!("{before}@{}/{vhost}", self.broker.address())),
            ("GANNET_S3_ENDPOINT".into(), format!("http://{}", self.store.address())),
        ]
    }

    /// From now on this is wrong with both.
    pub fn set(&self, trouble: Trouble) {
        self.broker.set(trouble);
        self.store.set(trouble);
    }
}

/// A broker, a store and a folder. The virtual host is dropped at the end.
#[derive(Debug)]
pub struct Fleet {
    /// The broker; a test's own may be stopped and started again.
    pub broker: Broker,
    /// The store's server.
    pub s3: S3,
    vhost: String,
    // After the servers, which have their files in it.
    folder: Folder,
}

impl Fleet {
    /// Runs a test on a fleet on the shared broker. Where there is none, the test is skipped.
    ///
    /// # Panics
    /// The test failed.
    pub async fn run(test: &str, body: impl AsyncFnOnce(&Self) -> Result<()>) {
        match Broker::shared() {
            Ok(broker) => Self::with(|_| Ok(broker), async |fleet: &mut Self| body(fleet).await).await,
            Err(reason) => skipped(test, &reason),
        }
    }

    /// Runs a test on a fleet whose broker is its own, to be stopped and started again. Likewise skipped where there
    /// is no RabbitMQ.
    ///
    /// # Panics
    /// The test failed.
    pub async fn run_with_own_broker(test: &str, body: impl AsyncFnOnce(&mut Self) -> Result<()>) {
        Self::run_with_broker(test, &[], body).await;
    }

    /// Likewise, with these lines in its broker's configuration.
    ///
    /// # Panics
    /// The test failed.
    pub async fn run_with_broker(test: &str, lines: &[&str], body: impl AsyncFnOnce(&mut Self) -> Result<()>) {
        match Broker::shared() {
            Ok(_) => Self::with(|folder| Broker::start(folder, lines), body).await,
            Err(reason) => skipped(test, &reason),
        }
    }

    // A failure becomes a panic while the fleet still stands, so that its folder is kept.
    async fn with(broker: impl FnOnce(&Folder) -> Result<Broker>, body: impl AsyncFnOnce(&mut Self) -> Result<()>) {
        let folder = Folder::new().expect("a temporary folder");
        let broker = broker(&folder).expect("a broker");
        let mut fleet = Self::on(broker, folder).await.expect("a fleet");
        body(&mut fleet).await.unwrap_or_else(|error| panic!("{error:?}"));
    }

    /// A fleet with a broker of its own, for programs that are no tests.
    ///
    /// # Errors
    /// A server does not come up.
    pub async fn with_own_broker() -> Result<Self> {
        let folder = Folder::new()?;
        Self::on(Broker::start(&folder, &[])?, folder).await
    }

    async fn on(broker: Broker, folder: Folder) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let vhost = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        broker.add_vhost(&vhost)?;
        let s3 = S3::start(&folder).await?;
        std::fs::create_dir_all(folder.path().join("cache")).context("make the cache folder")?;
        Ok(Self { broker, s3, vhost, folder })
    }

    /// The test's folder: commands run in it.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The broker's address.
    pub fn amqp_url(&self) -> String {
        self.broker.url(&self.vhost)
    }

    /// The environment of the fleet's commands.
    pub fn env(&self) -> Vec<(String, String)> {
        let mut env = self.s3.env(PREFIX);
        env.push(("GANNET_AMQP_URL".into(), self.amqp_url()));
        env
    }

    /// Lines to the broker and to the store, without faults so far.
    ///
    /// # Errors
    /// There is no free port.
    pub async fn lines(&self) -> Result<Lines> {
        Ok(Lines {
            broker: Proxy::start(self.broker.host()).await?,
            store: Proxy::start(self.s3.address()).await?,
            amqp_url: self.amqp_url(),
        })
    }

    /// A client that knows nothing but AMQP.
    ///
    /// # Errors
    /// It cannot connect.
    pub async fn amqp(&self) -> Result<Amqp> {
        Amqp::connect(&self.amqp_url()).await
    }

    /// Starts a worker with one slot and the host's cache folder.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn worker(&self, name: &str) -> Result<Process> {
        self.worker_with(name, &[])
    }

    /// Likewise, with more variables.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn worker_with(&self, name: &str, more: &[(&str, &str)]) -> Result<Process> {
        let mut env = self.env();
        let cache = self.folder.path().join("cache").display().to_string();
        for (variable, value) in [
            ("GANNET_CACHE", cache.as_str()),
            ("GANNET_SLOTS", "1"),
            ("GANNET_WORKER_NAME", name),
            ("GANNET_LOG", "info"),
        ]
        .iter()
        .chain(more)
        {
            env.push(((*variable).into(), (*value).into()));
        }
        Process::start(name, "gannet-worker", &[], &env, self.path())
    }

    /// Starts a worker whose lines have faults.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn worker_on(&self, name: &str, lines: &Lines, more: &[(&str, &str)]) -> Result<Process> {
        let env = lines.env();
        let env = env.iter().map(|(variable, value)| (variable.as_str(), value.as_str()));
        self.worker_with(name, &env.chain(more.iter().copied()).collect::<Vec<_>>())
    }

    /// Starts a `gannet` command.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&self, args: &[&str]) -> Result<Process> {
        Process::start("gannet", "gannet", args, &self.env(), self.path())
    }

    /// Starts a `gannet` command whose lines have faults.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_on(&self, lines: &Lines, args: &[&str]) -> Result<Process> {
        let mut env = self.env();
        env.extend(lines.env());
        Process::start("gannet", "gannet", args, &env, self.path())
    }

    /// Runs a `gannet` command to its good end and returns what it printed.
    ///
    /// # Errors
    /// It failed.
    pub async fn gannet(&self, args: &[&str]) -> Result<String> {
        self.start(args)?.succeed(LIMIT).await
    }

    /// Pushes a few hundred [`Pictures`] as the dataset `bars`; returns the reference to its manifest, as jobs carry it.
    ///
    /// # Errors
    /// The command failed, or left no such dataset in the store.
    pub async fn push_pictures(&self) -> Result<Value> {
        Pictures { train: 360, test: 90 }.write(&self.path().join("pictures"))?;
        self.gannet(&["data", "push", "pictures", "--name", "bars"]).await?;
        let digest = String::from_utf8(self.object("datasets/bars/current")?).context("read the dataset's digest")?;
        let digest = digest.trim();
        Ok(json!({"key": format!("datasets/bars/{digest}/dataset.json"), "sha256": digest}))
    }

    /// The reference to the manifest of the version that a model's name stands for, as jobs carry it.
    ///
    /// # Errors
    /// There is no such model.
    pub async fn model(&self, name: &str) -> Result<Value> {
        let shown: Value = serde_json::from_str(&self.gannet(&["model", "show", name]).await?)?;
        let digest = shown["digest"].as_str().context("it says which version")?;
        Ok(json!({"key": format!("models/{name}/{digest}/model.json"), "sha256": digest}))
    }

    /// Writes a file into the test's folder.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn write(&self, name: &str, content: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        std::fs::write(&path, content).with_context(|| format!("write {name}"))?;
        Ok(path)
    }

    /// An object of the store, by its key without the prefix.
    ///
    /// # Errors
    /// There is none.
    pub fn object(&self, key: &str) -> Result<Vec<u8>> {
        self.s3.object(&format!("{PREFIX}/{key}"))
    }

    /// Puts an object into the store.
    ///
    /// # Errors
    /// The store's folder refuses.
    pub fn put(&self, key: &str, content: &[u8]) -> Result<()> {
        self.s3.put(&format!("{PREFIX}/{key}"), content)
    }

    /// Keeps the fleet's folder when the fleet is gone, and says where it is.
    pub fn keep(&self) -> &Path {
        self.folder.keep();
        self.folder.path()
    }

    /// The names directly under `prefix` in the store, sorted.
    ///
    /// # Errors
    /// The store's folder cannot be read.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        self.s3.names(&format!("{PREFIX}/{prefix}"))
    }

    /// The committed results of `run`, by the store.
    ///
    /// # Errors
    /// One of them is not JSON.
    pub fn results(&self, run: &str) -> Result<Vec<Value>> {
        let names = self.names(&format!("runs/{run}/results"))?;
        let read = |name: &String| {
            let text = self.object(&format!("runs/{run}/results/{name}"))?;
            serde_json::from_slice(&text).with_context(|| format!("read the result {name}"))
        };
        names.iter().map(read).collect()
    }
}

impl Fleet {
    /// The results of `run`, every one `done`, no job with two, and exactly `trials` of them of trials that trained
    /// (the test of the chosen one is a job too).
    ///
    /// # Errors
    /// It is not so.
    pub fn each_trial_once(&self, run: &str, trials: usize) -> Result<Vec<Value>> {
        let results = self.results(run)?;
        let ids: BTreeSet<&str> = results.iter().filter_map(|result| result["id"].as_str()).collect();
        ensure!(ids.len() == results.len(), "a job has two results");
        ensure!(results.iter().all(|result| result["status"] == "done"), "a job is not done: {results:?}");
        let trained = results.iter().filter(|result| !result["outcome"]["trial"]["validation"].is_null()).count();
        ensure!(trained == trials, "{trained} trials trained, not {trials}");
        Ok(results)
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if let Err(error) = self.broker.delete_vhost(&self.vhost) {
            eprintln!("cannot drop the test's virtual host: {error:#}");
        }
    }
}
