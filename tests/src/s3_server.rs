//! An S3 server for tests: `s3s` speaks the protocol, `s3s-fs` keeps objects as files.
//!
//! What it adds: `s3s-fs` looks for an object and then renames, so its conditional PUT has two winners
//! now and then, and it writes two more small files about each. Here every PUT goes to a file beside the tree and then gets
//! its name by `link`, which the kernel decides, or by `rename`. It also answers for missing buckets and folders as S3 does,
//! and writes down every request, so that tests can count them. Listens on the loopback unless it is told otherwise, and
//! speaks TLS where it is given a certificate.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use futures::StreamExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use s3s::dto::{
    CreateBucketInput, CreateBucketOutput, DeleteObjectInput, DeleteObjectOutput, GetObjectInput, GetObjectOutput,
    HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput, ListObjectsV2Input, ListObjectsV2Output,
    PutObjectInput, PutObjectOutput, StreamingBlob,
};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

mod access;
mod faults;

pub use faults::{Fault, Rule, write_rules};

use access::{Keys, acceptor};
use faults::{Faults, damaged, under};

/// What a server is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where buckets lie, a folder each. Made where missing.
    pub root: PathBuf,
    /// The address to listen on.
    pub host: IpAddr,
    /// The port; 0 takes a free one.
    pub port: u16,
    /// A bucket that is made at start.
    pub bucket: String,
    /// The access key that is always there.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// A folder of more: each file is called like an access key and holds its secret. It may change at any time.
    pub users: Option<PathBuf>,
    /// A certificate's chain and its key, PEM files, where TLS is spoken.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Where a line a request is appended.
    pub log: Option<PathBuf>,
    /// A file of [`Rule`]s, as JSON, that may come, change and go at any time.
    pub faults: Option<PathBuf>,
}

impl Options {
    /// A free port, the bucket `gannet-test`, the keys `test` and `testtest`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: root.into(),
            host: Ipv4Addr::LOCALHOST.into(),
            port: 0,
            bucket: "gannet-test".into(),
            access_key: "test".into(),
            secret_key: "testtest".into(),
            users: None,
            tls: None,
            log: None,
            faults: None,
        }
    }
}

/// A request that was answered. Those that fail before they name an object, like one with a wrong
/// signature, are not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// As the S3 reference calls it: `GetObject`.
    pub operation: String,
    /// The key, or for a listing its prefix; may hold spaces.
    pub key: String,
    /// The answer's status.
    pub status: u16,
}

/// A running server. Dropping it stops it.
pub struct S3Server {
    endpoint: String,
    journal: Arc<Journal>,
    stop: CancellationToken,
    serving: JoinHandle<()>,
}

impl S3Server {
    /// Starts a server; it answers when this returns.
    ///
    /// # Errors
    /// The folder, the log or the port cannot be had.
    pub async fn start(options: &Options) -> anyhow::Result<Self> {
        let bucket = options.root.join(&options.bucket);
        fs::create_dir_all(&bucket).with_context(|| format!("cannot make `{}`", bucket.display()))?;
        let journal = Arc::new(Journal::open(options.log.as_deref())?);
        let mut service = S3ServiceBuilder::new(Files::open(options, Arc::clone(&journal))?);
        service.set_auth(Keys::new(options));
        let listener = TcpListener::bind((options.host, options.port))
            .await
            .with_context(|| format!("cannot listen on port {} of {}", options.port, options.host))?;
        let tls = options.tls.as_ref().map(acceptor).transpose()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let endpoint = format!("{scheme}://{}", listener.local_addr()?);
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, tls, service.build(), stop.clone()));
        Ok(Self { endpoint, journal, stop, serving })
    }

    /// Its address, like `http://127.0.0.1:34567`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Every request so far, in the order of their answers.
    pub fn requests(&self) -> Vec<Request> {
        self.journal.lines.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops listening and hangs up on everybody.
    ///
    /// # Errors
    /// The server had panicked.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        (&mut self.serving).await.context("the S3 server panicked")
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Reads a log that a server in another process writes.
///
/// # Errors
/// The file cannot be read, or a line is not `<operation> <key> <status>`.
pub fn read_log(log: &Path) -> anyhow::Result<Vec<Request>> {
    let text = fs::read_to_string(log).with_context(|| format!("cannot read `{}`", log.display()))?;
    let request = |line: &str| {
        let (operation, rest) = line.split_once(' ')?;
        let (key, status) = rest.rsplit_once(' ')?;
        Some(Request { operation: operation.into(), key: key.into(), status: status.parse().ok()? })
    };
    text.lines().map(|line| request(line).with_context(|| format!("no request: `{line}`"))).collect()
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, service: S3Service, stop: CancellationToken) {
    let server = Arc::new(Builder::new(TokioExecutor::new()));
    // Dropped with the loop, which hangs up on everybody.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection panicked");
                }
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let (server, service, tls) = (Arc::clone(&server), service.clone(), tls.clone());
                    connections.spawn(async move {
                        let served = match tls {
                            None => server.serve_connection(TokioIo::new(stream), service).await,
                            Some(tls) => match tls.accept(stream).await {
                                Ok(stream) => server.serve_connection(TokioIo::new(stream), service).await,
                                Err(error) => Err(error.into()),
                            },
                        };
                        if let Err(error) = served {
                            tracing::debug!(%error, "a client hung up");
                        }
                    });
                }
                Err(error) => tracing::warn!(%error, "cannot accept a connection"),
            },
        }
    }
}

/// What was asked, in memory and in a file.
struct Journal {
    lines: Mutex<Vec<Request>>,
    file: Option<fs::File>,
}

impl Journal {
    fn open(log: Option<&Path>) -> anyhow::Result<Self> {
        let open = |log: &Path| {
            let file = fs::File::options().create(true).append(true).open(log);
            file.with_context(|| format!("cannot write `{}`", log.display()))
        };
        Ok(Self { lines: Mutex::default(), file: log.map(open).transpose()? })
    }

    /// Writes down a request before its answer goes out: whoever has the answer finds the line.
    fn note<T>(&self, operation: &str, key: &str, answer: S3Result<S3Response<T>>) -> S3Result<S3Response<T>> {
        let usual = if operation == "DeleteObject" { 204 } else { 200 };
        let status = match &answer {
            Ok(answer) => answer.status.map_or(usual, |status| status.as_u16()),
            Err(error) => error.status_code().map_or(500, |status| status.as_u16()),
        };
        let request = Request { operation: operation.into(), key: key.into(), status };
        if let Some(mut file) = self.file.as_ref()
            && let Err(error) = file.write_all(format!("{operation} {key} {status}\n").as_bytes())
        {
            tracing::error!(%error, "cannot write the log");
        }
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        answer
    }
}

/// Where PUTs arrive, in `root`: no bucket's name begins with a dot.
const INCOMING: &str = ".incoming";

/// `s3s-fs` and what it lacks.
struct Files {
    root: PathBuf,
    objects: FileSystem,
    /// Names in `INCOMING` that were used.
    puts: AtomicU64,
    faults: Faults,
    journal: Arc<Journal>,
}

impl Files {
    fn open(options: &Options, journal: Arc<Journal>) -> anyhow::Result<Self> {
        let root = &options.root;
        let incoming = root.join(INCOMING);
        fs::create_dir_all(&incoming).with_context(|| format!("cannot make `{}`", incoming.display()))?;
        let objects = FileSystem::new(root).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let faults = Faults::new(options.faults.clone());
        Ok(Self { root: root.clone(), objects, puts: AtomicU64::new(0), faults, journal })
    }

    /// Does `work` unless a fault is to be, and writes down what came of it.
    async fn answer<T>(
        &self,
        operation: &str,
        key: &str,
        work: impl Future<Output = S3Result<S3Response<T>>>,
    ) -> S3Result<S3Response<T>> {
        let fault = self.faults.next(operation, key);
        self.journal.note(operation, key, under(fault.as_ref(), work).await)
    }

    /// Where an object lies; its bucket must be there.
    fn path(&self, bucket: &str, key: &str) -> S3Result<PathBuf> {
        let bucket = self.root.join(bucket);
        let fits = Path::new(key).components().all(|part| matches!(part, Component::Normal(_)));
        match (bucket.is_dir(), fits && !key.ends_with('/')) {
            (false, _) => Err(s3_error!(NoSuchBucket)),
            (true, false) => Err(s3_error!(InvalidArgument, "keys are relative paths here")),
            (true, true) => Ok(bucket.join(key)),
        }
    }

    async fn get(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        if !self.path(&request.input.bucket, &request.input.key)?.is_file() {
            return Err(s3_error!(NoSuchKey));
        }
        self.objects.get_object(request).await
    }

    async fn head(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        if !self.path(&request.input.bucket, &request.input.key)?.is_file() {
            return Err(s3_error!(NoSuchKey));
        }
        self.objects.head_object(request).await
    }

    async fn delete(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        match fs::remove_file(self.path(&request.input.bucket, &request.input.key)?) {
            Err(error)
                if !matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory
                ) =>
            {
                Err(s3s::S3Error::internal_error(error))
            }
            _ => Ok(S3Response::new(DeleteObjectOutput::default())),
        }
    }

    async fn put(&self, mut request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let path = self.path(&request.input.bucket, &request.input.key)?;
        let only_new = request.input.if_none_match.take().is_some();
        if only_new && path.exists() {
            return Err(s3_error!(PreconditionFailed));
        }
        let body = request.input.body.take().ok_or_else(|| s3_error!(IncompleteBody))?;
        let arrived = self.root.join(INCOMING).join(self.puts.fetch_add(1, Ordering::Relaxed).to_string());
        let placed = match receive(body, &arrived).await {
            Ok(()) => place(&arrived, &path, only_new),
            Err(error) => Err(s3s::S3Error::internal_error(error)),
        };
        if placed.is_err() {
            // Gone already where it was placed or never made.
            let _ = fs::remove_file(&arrived);
        }
        placed.map(|()| S3Response::new(PutObjectOutput::default()))
    }

    async fn list(&self, request: S3Request<ListObjectsV2Input>) -> S3Result<S3Response<ListObjectsV2Output>> {
        // Fails where an object goes while it looks.
        for _ in 0..20 {
            match self.objects.list_objects_v2(request.clone()).await {
                Err(error) if *error.code() == s3s::S3ErrorCode::InternalError => {}
                answer => return answer,
            }
        }
        self.objects.list_objects_v2(request).await
    }
}

/// Writes a body to a file, which stays in pieces where the client hangs up. To the page cache, hence without a thread
/// for each write.
async fn receive(mut body: StreamingBlob, arrived: &Path) -> std::io::Result<()> {
    let mut file = fs::File::create(arrived)?;
    while let Some(piece) = body.next().await {
        file.write_all(&piece.map_err(std::io::Error::other)?)?;
    }
    Ok(())
}

/// Gives a file that has arrived whole its name, all at once.
fn place(arrived: &Path, path: &Path, only_new: bool) -> S3Result<()> {
    let folder = path.parent().ok_or_else(|| s3_error!(InvalidArgument))?;
    // Unlike S3, a file system has no object whose key is the beginning of another's.
    fs::create_dir_all(folder).map_err(|_| s3_error!(InvalidArgument, "a part of this key is an object already"))?;
    let placed = if only_new {
        let linked = fs::hard_link(arrived, path);
        fs::remove_file(arrived).map_err(s3s::S3Error::internal_error)?;
        linked
    } else {
        fs::rename(arrived, path)
    };
    placed.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => s3_error!(PreconditionFailed),
        ErrorKind::IsADirectory => s3_error!(InvalidArgument, "other keys go on from this one"),
        _ => s3s::S3Error::internal_error(error),
    })
}

#[async_trait::async_trait]
impl S3 for Files {
    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let key = request.input.key.clone();
        let fault = self.faults.next("GetObject", &key);
        let work = async { damaged(fault.as_ref(), self.get(request).await?).await };
        self.journal.note("GetObject", &key, under(fault.as_ref(), work).await)
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> S3Result<S3Response<HeadObjectOutput>> {
        let key = request.input.key.clone();
        self.answer("HeadObject", &key, self.head(request)).await
    }

    async fn put_object(&self, request: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let key = request.input.key.clone();
        self.answer("PutObject", &key, self.put(request)).await
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> S3Result<S3Response<DeleteObjectOutput>> {
        let key = request.input.key.clone();
        self.answer("DeleteObject", &key, self.delete(request)).await
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let prefix = request.input.prefix.clone().unwrap_or_default();
        self.answer("ListObjectsV2", &prefix, self.list(request)).await
    }

    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
        self.answer("HeadBucket", "", self.objects.head_bucket(request)).await
    }

    async fn create_bucket(&self, request: S3Request<CreateBucketInput>) -> S3Result<S3Response<CreateBucketOutput>> {
        self.answer("CreateBucket", "", self.objects.create_bucket(request)).await
    }
}

#[cfg(test)]
mod tests;
