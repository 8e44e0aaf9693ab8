//! The cache of a host whose processes are killed at any moment, and whose disk is full.
//!
//! The processes are this test binary again: [`a_process_with_a_cache`] is what they run.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::RngExt as _;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use shared::digest::Digest;
use shared::names::{Key, ObjectRef};
use shared::store::dir::DirStore;
use shared::store::{Created, Entry, Store, StoreError};
use worker::cache::{Cache, CacheError};

#[path = "../../tests/src/disk.rs"]
pub mod disk;

/// A slow network: downloads come in pieces, and are told and counted.
#[derive(Debug)]
struct Slow {
    inner: DirStore,
    downloads: AtomicUsize,
    tell: bool,
}

impl Slow {
    fn open(folder: &Path, tell: bool) -> Self {
        let inner = DirStore::open(folder.join("store")).expect("a store");
        Self { inner, downloads: AtomicUsize::new(0), tell }
    }
}

#[async_trait]
impl Store for Slow {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn download(&self, key: &Key, to: &Path) -> Result<u64, StoreError> {
        self.downloads.fetch_add(1, Ordering::SeqCst);
        if self.tell {
            say("begins");
        }
        let body = self.inner.get(key).await?;
        let failed = |source| StoreError::Local { what: "write", path: to.to_owned(), source };
        let mut file = std::fs::File::create(to).map_err(failed)?;
        for piece in body.chunks(16 * 1024) {
            file.write_all(piece).map_err(failed)?;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if self.tell {
            say("ends");
        }
        Ok(body.len() as u64)
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.inner.get(key).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<(), StoreError> {
        self.inner.put(key, body).await
    }

    async fn upload(&self, key: &Key, from: &Path) -> Result<(), StoreError> {
        self.inner.upload(key, from).await
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<Created, StoreError> {
        self.inner.create(key, body).await
    }

    async fn list(&self, prefix: &Key) -> Result<Vec<Entry>, StoreError> {
        self.inner.list(prefix).await
    }

    async fn children(&self, prefix: &Key) -> Result<Vec<String>, StoreError> {
        self.inner.children(prefix).await
    }

    async fn delete(&self, key: &Key) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
}

/// A line for whoever started this process.
fn say(what: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "cache: {what}").and_then(|()| out.flush());
}

/// The objects of the host's store, and what its cache may hold: about a third of them.
const OBJECTS: u32 = 12;
const LIMIT: u64 = 500 * 1024;

/// Object `number` of 40 to 260 KiB.
fn object(number: u32) -> (ObjectRef, Bytes) {
    let body = Bytes::from(vec![number as u8; 40 * 1024 + number as usize * 20 * 1024]);
    (ObjectRef { key: Key::new(format!("objects/{number}")).expect("a key"), sha256: Digest::of(&body) }, body)
}

const FOLDER: &str = "GANNET_TEST_CACHE_FOLDER";
const SEED: &str = "GANNET_TEST_CACHE_SEED";

/// Fetches one object after the other, until it is killed. A test only in name: without a folder it does nothing.
#[tokio::test]
async fn a_process_with_a_cache() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).expect("a seed");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let store = Slow::open(&folder, true);
    let cache = Cache::open(folder.join("cache"), LIMIT).expect("a cache");
    loop {
        let (object, _) = object(random.random_range(0..OBJECTS));
        let cached = cache.fetch(&store, &object).await.expect("fetched");
        let found = Digest::of(&std::fs::read(&cached.path).expect("read"));
        assert_eq!(found, object.sha256, "what is used is what was asked for");
        say("used");
    }
}

/// A process of the host, and how far it is.
struct Process {
    child: Child,
    used: Arc<AtomicUsize>,
    /// Its last line.
    listener: JoinHandle<String>,
}

impl Process {
    fn start(folder: &Path, seed: u64, fail_at: Option<&str>) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args(["--exact", "a_process_with_a_cache", "--nocapture"]);
        command.env(FOLDER, folder).env(SEED, seed.to_string()).stdout(Stdio::piped());
        if let Some(point) = fail_at {
            command.env("GANNET_TEST_FAIL_AT", point);
        }
        let mut child = command.spawn().expect("started");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let used = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&used);
        let listener = std::thread::spawn(move || {
            let mut last = String::new();
            for line in lines.map_while(Result::ok) {
                // The test harness writes its own words before.
                let Some((_, said)) = line.split_once("cache: ") else { continue };
                count.fetch_add(usize::from(said == "used"), Ordering::SeqCst);
                last = said.to_owned();
            }
            last
        });
        Self { child, used, listener }
    }

    fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// How it ended, and its last words.
    fn end(mut self) -> (ExitStatus, String) {
        let status = self.child.wait().expect("waited for");
        (status, self.listener.join().expect("no panic"))
    }

    fn kill(mut self) -> String {
        self.child.kill().expect("killed");
        let (status, last) = self.end();
        assert_eq!(status.signal(), Some(libc::SIGKILL), "it ended by itself before: {status}");
        last
    }
}

struct Host(tempfile::TempDir);

impl Host {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let store = Slow::open(folder.path(), false);
        for (object, body) in (0..=OBJECTS).map(object) {
            store.put(&object.key, body).await.expect("stored");
        }
        Self(folder)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// The files of a part of the cache, with their sizes.
    fn files(&self, part: &str) -> Vec<(PathBuf, u64)> {
        fn walk(folder: &Path, found: &mut Vec<(PathBuf, u64)>) {
            for entry in std::fs::read_dir(folder).expect("read") {
                let path = entry.expect("read").path();
                match path.is_dir() {
                    true => walk(&path, found),
                    false => found.push((path.clone(), path.metadata().expect("there").len())),
                }
            }
        }
        let mut found = Vec::new();
        walk(&self.path().join("cache").join(part), &mut found);
        found
    }

    /// What must hold once nobody runs any more.
    async fn audit(&self) {
        for (path, _) in self.files("objects") {
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let digest = Digest::of(&std::fs::read(&path).expect("read"));
            assert_eq!(digest.to_string(), name, "a file holds what its name says");
        }
        let cache = Cache::open(self.path().join("cache"), LIMIT).expect("a cache");
        assert_eq!(self.files("incoming"), [], "what was left is swept");
        let size: u64 = self.files("objects").iter().map(|(_, size)| size).sum();
        assert!(size <= LIMIT, "{size} bytes are over the limit of {LIMIT}");
        let store = Slow::open(self.path(), false);
        for (object, body) in (0..OBJECTS).map(object) {
            let cached = cache.fetch(&store, &object).await.expect("fetched");
            assert!(std::fs::read(&cached.path).expect("read") == body, "{} is whole", object.key);
        }
    }

    /// One that was never here: of many who want it at once, one fetches it.
    async fn many_at_once(&self) {
        let store = Arc::new(Slow::open(self.path(), false));
        let (object, _) = object(OBJECTS);
        let caches = [0; 3].map(|_| Cache::open(self.path().join("cache"), LIMIT).expect("a cache"));
        let tasks = (0..24).map(|slot| {
            let (cache, store, object) = (caches[slot % 3].clone(), Arc::clone(&store), object.clone());
            tokio::spawn(async move { cache.fetch(&*store, &object).await.expect("fetched").bytes_fetched })
        });
        for task in Vec::from_iter(tasks) {
            task.await.expect("no panic");
        }
        assert_eq!(store.downloads.load(Ordering::SeqCst), 1, "one download for many at once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_whose_processes_are_killed_at_random_stays_whole() {
    const KILLS: u64 = 60;
    let host = Host::new().await;
    let mut random = ChaCha8Rng::seed_from_u64(7);
    let mut alive: Vec<Process> = (0..4).map(|seed| Process::start(host.path(), seed, None)).collect();
    let (mut in_a_download, mut used) = (0, 0);
    for kill in 0..KILLS {
        let at = random.random_range(0..alive.len());
        let victim = alive.swap_remove(at);
        // It has done something, and then dies at any moment.
        while victim.used() == 0 && !victim.listener.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(Duration::from_millis(random.random_range(0..60))).await;
        used += victim.used();
        in_a_download += usize::from(victim.kill() == "begins");
        alive.push(Process::start(host.path(), 4 + kill, None));
    }
    for process in alive {
        while process.used() == 0 && !process.listener.is_finished() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        used += process.used();
        process.kill();
    }
    eprintln!("{KILLS} processes were killed, {in_a_download} in the middle of a download; {used} objects were used");
    assert!(in_a_download > 0, "no kill hit a download");
    host.audit().await;
    host.many_at_once().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cache_whose_process_dies_in_an_eviction_or_before_a_rename_stays_whole() {
    let host = Host::new().await;
    for point in ["cache-places", "cache-has-placed", "cache-evicts", "cache-has-evicted"] {
        let (status, _) = Process::start(host.path(), 1, Some(point)).end();
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{point}: it was to die there: {status}");
        host.audit().await;
    }
    host.many_at_once().await;
}

#[tokio::test]
async fn a_cache_on_a_full_disk_makes_room_and_else_says_that_it_is_full() {
    let test = "a_cache_on_a_full_disk_makes_room_and_else_says_that_it_is_full";
    let host = Host::new().await;
    let folder = host.path().join("cache");
    let small = match disk::SmallDisk::mount(&folder, 1024) {
        Ok(small) => small,
        Err(reason) => return eprintln!("SKIPPED {test}: {reason}"),
    };
    // A limit that the disk never reaches.
    let cache = Cache::open(&folder, 1 << 40).expect("a cache");
    let store = Slow::open(host.path(), false);
    // All together are larger than the disk: what is not in use goes.
    for (object, body) in (0..OBJECTS).map(object) {
        let cached = cache.fetch(&store, &object).await.expect("fetched");
        assert!(std::fs::read(&cached.path).expect("read") == body, "{} is whole", object.key);
    }
    // What is in use stays, and then the disk is full.
    let (held, _) = object(0);
    let held = cache.fetch(&store, &held).await.expect("fetched");
    for (path, _) in host.files("objects").into_iter().filter(|(path, _)| *path != held.path) {
        std::fs::remove_file(path).expect("removed");
    }
    let filler = small.fill().expect("filled");
    let (wanted, body) = object(11);
    let error = cache.fetch(&store, &wanted).await.expect_err("no room");
    assert!(matches!(error, CacheError::Full { .. }) && error.is_passing(), "{error}");
    assert!(error.to_string().contains("is full: free some space"), "{error}");
    assert!(held.path.exists() && host.files("incoming").is_empty());
    std::fs::remove_file(filler).expect("removed");
    let cached = cache.fetch(&store, &wanted).await.expect("fetched");
    assert!(std::fs::read(&cached.path).expect("read") == body);
}
