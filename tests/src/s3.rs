//! An S3 server of a test's own: its objects are files, and it keeps a log of the requests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::s3_server::{Request, Rule, read_log, write_rules};
use crate::{Folder, Process, eventually};

/// The bucket that every test server has.
const BUCKET: &str = "gannet-test";

/// A running S3 server.
#[derive(Debug)]
pub struct S3 {
    endpoint: String,
    log: PathBuf,
    faults: PathBuf,
    root: PathBuf,
    server: Process,
}

impl S3 {
    /// Starts one that keeps its files in `folder`.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start(folder: &Folder) -> Result<Self> {
        let root = folder.path().join("s3");
        let log = folder.path().join("s3.requests");
        let faults = folder.path().join("s3.faults");
        std::fs::create_dir_all(&root).context("make the S3 server's folder")?;
        let [root_text, log_text, faults_text] = [&root, &log, &faults].map(|path| path.display().to_string());
        let mut args = vec!["--root", &root_text, "--port", "0", "--bucket", BUCKET, "--log", &log_text];
        args.extend(["--access-key", "test", "--secret-key", "testtest", "--faults", &faults_text]);
        let mut server = Process::start("s3-server", "s3-server", &args, &[], folder.path())?;
        let endpoint = eventually(Duration::from_secs(60), "the S3 server listens", async || {
            let line = server.stdout().lines().find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
            if line.is_none() {
                server.must_run()?;
            }
            Ok(line)
        })
        .await?;
        Ok(Self { endpoint, log, faults, root, server })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    /// Where it listens, as `host:port`.
    pub fn address(&self) -> &str {
        self.endpoint.trim_start_matches("http://")
    }

    /// From now on requests go wrong by these rules; without any it is sound again.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn go_wrong(&self, rules: &[Rule]) -> Result<()> {
        write_rules(&self.faults, rules)
    }

    /// The environment of a program that uses it under `prefix`.
    pub fn env(&self, prefix: &str) -> Vec<(String, String)> {
        let pairs = [
            ("GANNET_STORE", format!("s3://{BUCKET}/{prefix}")),
            ("GANNET_S3_ENDPOINT", self.endpoint.clone()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "testtest".into()),
            ("AWS_REGION", "us-east-1".into()),
        ];
        pairs.map(|(name, value)| (name.to_owned(), value)).into()
    }

    /// How many requests of `operation` (`GetObject`) there were for keys that end with `suffix`.
    ///
    /// # Errors
    /// The server's log cannot be read.
    pub fn requests(&self, operation: &str, suffix: &str) -> Result<usize> {
        let requests = read_log(&self.log)?;
        let counts = |request: &&Request| request.operation == operation && request.key.ends_with(suffix);
        Ok(requests.iter().filter(counts).count())
    }

    /// An object's bytes, read behind the server's back.
    ///
    /// # Errors
    /// There is none.
    pub fn object(&self, key: &str) -> Result<Vec<u8>> {
        std::fs::read(self.root.join(BUCKET).join(key)).with_context(|| format!("read the object {key}"))
    }

    /// Puts an object there, likewise.
    ///
    /// # Errors
    /// The folder refuses.
    pub fn put(&self, key: &str, content: &[u8]) -> Result<()> {
        let path = self.root.join(BUCKET).join(key);
        let folder = path.parent().context("a key has a folder")?;
        std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, content)).context("put an object")
    }

    /// The names of the objects directly under `prefix`, sorted; none if there is nothing.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let folder = self.root.join(BUCKET).join(prefix);
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => bail!("cannot list {}: {error}", folder.display()),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry?;
            if holds_objects(&entry.path()) {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }
}

/// Whether it is an object, or a folder with one: S3 has no folders, the server leaves them behind. Its own files
/// (metadata, uploads that have not ended) begin with a dot.
fn holds_objects(path: &Path) -> bool {
    if path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.')) {
        return false;
    }
    match std::fs::read_dir(path) {
        Ok(entries) => entries.flatten().any(|entry| holds_objects(&entry.path())),
        Err(_) => true,
    }
}
