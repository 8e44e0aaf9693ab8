//! The cache as slots and processes use it. Two caches in one process keep out of each other's way by
//! the same file locks as two processes: each opens files of its own.

use std::fs;
use std::io::ErrorKind;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use bytes::Bytes;
use shared::contract::ErrorCode;
use shared::names::Key;
use shared::store::dir::DirStore;
use tempfile::TempDir;

use super::*;
use crate::counting::Counting;

/// A host with a cache's folder, and a store.
struct Host {
    folder: TempDir,
    store: Arc<Counting>,
}

impl Host {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let inner = DirStore::open(folder.path().join("store")).expect("opened");
        Self { store: Arc::new(Counting::new(inner)), folder }
    }

    /// As a process opens it.
    fn cache(&self, limit: u64) -> Cache {
        Cache::open(self.folder.path().join("cache"), limit).expect("opened")
    }

    async fn object(&self, name: &str, size: usize) -> ObjectRef {
        let body = Bytes::from(name.repeat(size / name.len() + 1)).slice(..size);
        let object = ObjectRef { key: Key::new(format!("objects/{name}")).expect("a key"), sha256: Digest::of(&body) };
        self.store.put(&object.key, body).await.expect("stored");
        object
    }

    fn downloads(&self) -> usize {
        self.store.downloads()
    }

    /// Files in a part of the cache.
    fn count(&self, part: &str) -> usize {
        fn count(folder: &Path) -> usize {
            let entries = fs::read_dir(folder).expect("read").map(|entry| entry.expect("read").path());
            entries.map(|path| if path.is_dir() { count(&path) } else { 1 }).sum()
        }
        count(&self.folder.path().join("cache").join(part))
    }
}

const LARGE: u64 = 1 << 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_slots_of_many_processes_fetch_once() {
    let host = Host::new();
    let object = host.object("data", 3_000_000).await;
    let caches = [host.cache(LARGE), host.cache(LARGE), host.cache(LARGE)];
    let tasks: Vec<_> = (0..48)
        .map(|slot| {
            let (cache, store, object) = (caches[slot % 3].clone(), Arc::clone(&host.store), object.clone());
            tokio::spawn(async move {
                let cached = cache.fetch(&*store, &object).await.expect("fetched");
                assert_eq!(Digest::of(&fs::read(&cached.path).expect("read")), object.sha256);
                cached.bytes_fetched
            })
        })
        .collect();
    let mut fetched = 0;
    for task in tasks {
        fetched += task.await.expect("no panic");
    }
    assert_eq!((host.downloads(), fetched), (1, 3_000_000));
    assert_eq!((host.count("objects"), host.count("incoming")), (1, 0));
}

#[tokio::test]
async fn a_file_that_was_cut_is_fetched_again() {
    let host = Host::new();
    let object = host.object("data", 1_000).await;
    let cache = host.cache(LARGE);
    let path = cache.fetch(&*host.store, &object).await.expect("fetched").path;
    fs::File::options().write(true).open(&path).and_then(|file| file.set_len(999)).expect("cut");
    let cached = cache.fetch(&*host.store, &object).await.expect("fetched again");
    assert_eq!((cached.bytes_fetched, host.downloads()), (1_000, 2));
    assert_eq!(Digest::of(&fs::read(&cached.path).expect("read")), object.sha256);
}

#[tokio::test]
async fn a_file_that_rotted_is_fetched_again_by_the_next_process() {
    let host = Host::new();
    let object = host.object("data", 1_000).await;
    let path = host.cache(LARGE).fetch(&*host.store, &object).await.expect("fetched").path;
    fs::write(&path, vec![b'x'; 1_000]).expect("damaged");
    let cached = host.cache(LARGE).fetch(&*host.store, &object).await.expect("fetched again");
    assert_eq!((cached.bytes_fetched, host.downloads()), (1_000, 2));
    assert_eq!(Digest::of(&fs::read(&cached.path).expect("read")), object.sha256);
    assert_eq!(host.cache(LARGE).fetch(&*host.store, &object).await.expect("there").bytes_fetched, 0);
}

#[tokio::test]
async fn an_altered_object_is_refused_after_one_download() {
    let host = Host::new();
    let object = host.object("data", 1_000).await;
    host.store.put(&object.key, "something else".into()).await.expect("altered");
    let error = host.cache(LARGE).fetch(&*host.store, &object).await.expect_err("refused");
    assert_eq!((error.code(), error.is_passing(), host.downloads()), (ErrorCode::AlteredObject, false, 1));
    assert!(error.to_string().contains(&object.sha256.to_string()), "{error}");
    assert_eq!((host.count("objects"), host.count("incoming")), (0, 0));
}

#[tokio::test]
async fn a_missing_object_is_told() {
    let host = Host::new();
    let object = host.object("data", 10).await;
    host.store.delete(&object.key).await.expect("deleted");
    let error = host.cache(LARGE).fetch(&*host.store, &object).await.expect_err("refused");
    assert_eq!((error.code(), error.is_passing()), (ErrorCode::MissingObject, false));
}

/// Sets when a file was last used, in seconds.
fn used_at(cached: &Cached, seconds: u64) {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    fs::File::open(&cached.path).and_then(|file| file.set_modified(at)).expect("set");
}

#[tokio::test]
async fn the_least_recently_used_go_and_what_is_in_use_stays() {
    let host = Host::new();
    let cache = host.cache(1_000);
    let (a, b) = (host.object("a", 400).await, host.object("b", 400).await);
    let (c, d) = (host.object("c", 400).await, host.object("d", 400).await);
    let a = cache.fetch(&*host.store, &a).await.expect("fetched");
    used_at(&a, 1);
    let (b_path, c_path);
    {
        let b = cache.fetch(&*host.store, &b).await.expect("fetched");
        used_at(&b, 2);
        b_path = b.path.clone();
    }
    {
        let c = cache.fetch(&*host.store, &c).await.expect("fetched");
        c_path = c.path.clone();
        assert!(a.path.exists(), "a is the oldest, and in use");
        assert!(!b_path.exists(), "b was the oldest that nobody used");
    }
    drop(a);
    let d = cache.fetch(&*host.store, &d).await.expect("fetched");
    assert!(c_path.exists() && d.path.exists());
    assert_eq!(host.count("objects"), 2);
}

#[tokio::test]
async fn what_another_process_uses_stays() {
    let host = Host::new();
    let (a, b) = (host.object("a", 800).await, host.object("b", 800).await);
    let used = host.cache(1_000).fetch(&*host.store, &a).await.expect("fetched");
    let other = host.cache(1_000);
    drop(other.fetch(&*host.store, &b).await.expect("fetched"));
    assert!(used.path.exists());
}

#[tokio::test]
async fn an_object_over_the_limit_is_served_and_then_goes() {
    let host = Host::new();
    let cache = host.cache(1_000);
    let (large, small) = (host.object("large", 5_000).await, host.object("small", 10).await);
    drop(cache.fetch(&*host.store, &small).await.expect("fetched"));
    let served = cache.fetch(&*host.store, &large).await.expect("fetched");
    assert_eq!(fs::metadata(&served.path).expect("there").len(), 5_000);
    assert_eq!(host.count("objects"), 1, "everything else had to go");
    drop(served);
    let small = cache.fetch(&*host.store, &small).await.expect("fetched");
    assert!(small.path.exists());
    assert_eq!(host.count("objects"), 1, "only the small one is left");
}

#[tokio::test]
async fn a_cancelled_fetch_leaves_nothing_in_the_way() {
    let host = Host::new();
    let object = host.object("data", 1_000).await;
    let cache = host.cache(LARGE);
    let mut fetch = Box::pin(cache.fetch(&*host.store, &object));
    while host.downloads() == 0 {
        assert!(futures::poll!(&mut fetch).is_pending());
        tokio::task::yield_now().await;
    }
    drop(fetch);
    let cached = cache.fetch(&*host.store, &object).await.expect("fetched");
    assert_eq!(cached.bytes_fetched, 1_000);
}

#[tokio::test]
async fn what_dead_processes_left_is_swept() {
    let host = Host::new();
    let cache = host.cache(LARGE);
    let (dead, alive) = (Digest::of(b"dead"), Digest::of(b"alive"));
    let left = |digest: Digest| host.folder.path().join("cache/incoming").join(format!("{digest}.left"));
    fs::write(left(dead), "half").expect("written");
    fs::write(left(alive), "half").expect("written");
    let stripe = cache.0.files.try_stripe(alive).expect("locked").expect("free");
    let _next = host.cache(LARGE);
    assert!(!left(dead).exists() && left(alive).exists());
    drop(stripe);
}

#[test]
fn a_full_disk_is_told_as_one() {
    let host = Host::new();
    let cache = host.cache(LARGE);
    let source = io::Error::from(ErrorKind::StorageFull);
    let error = cache.0.not_stored(StoreError::Local { what: "write", path: "x".into(), source });
    assert!(error.to_string().contains("is full"), "{error}");
    assert!(error.is_passing());
}

#[tokio::test]
async fn whatever_lies_in_the_place_of_an_object_in_the_cache_is_replaced() {
    use std::os::unix::fs::symlink;
    let host = Host::new();
    let object = host.object("data", 1_000).await;
    let path = host.cache(LARGE).0.files.object(object.sha256);
    let folder = path.parent().expect("a folder above").to_owned();
    let put: [(&str, &dyn Fn()); 6] = [
        ("a folder", &|| fs::create_dir_all(path.join("full/of")).expect("made")),
        ("a link to nowhere", &|| symlink("nowhere", &path).expect("made")),
        ("a link to itself", &|| symlink(&path, &path).expect("made")),
        ("a link to a device", &|| symlink("/dev/zero", &path).expect("made")),
        ("a pipe", &|| {
            let made = std::process::Command::new("mkfifo").arg(&path).status();
            assert!(made.expect("mkfifo is there").success());
        }),
        ("a file in place of its folder", &|| {
            fs::remove_dir_all(&folder).expect("removed");
            fs::write(&folder, "no folder").expect("written");
        }),
    ];
    for (nth, (what, put)) in put.iter().enumerate() {
        fs::create_dir_all(&folder).expect("made");
        let _ = fs::remove_file(&path);
        put();
        let cached = host.cache(LARGE).fetch(&*host.store, &object).await.expect(what);
        assert_eq!((cached.bytes_fetched, host.downloads()), (1_000, nth + 1), "{what}");
        assert_eq!(Digest::of(&fs::read(&cached.path).expect("read")), object.sha256, "{what}");
    }
    assert_eq!((host.count("objects"), host.count("incoming")), (1, 0));
}

#[tokio::test]
async fn what_is_no_file_is_evicted_from_the_cache_too() {
    let host = Host::new();
    let cache = host.cache(1_000);
    let strange = cache.0.files.object(Digest::of(b"strange"));
    fs::create_dir_all(strange.join("full")).expect("made");
    let object = host.object("data", 900).await;
    drop(cache.fetch(&*host.store, &object).await.expect("fetched"));
    assert!(!strange.exists());
}

#[tokio::test]
async fn a_model_larger_than_the_cache_works_and_is_told_once() {
    let host = Host::new();
    let cache = host.cache(1_000);
    let (large, small) = (host.object("large", 5_000).await, host.object("small", 10).await);
    drop(cache.fetch(&*host.store, &small).await.expect("fetched"));
    assert!(!cache.0.told.load(Ordering::Relaxed));
    drop(cache.fetch(&*host.store, &large).await.expect("fetched"));
    assert!(cache.0.told.load(Ordering::Relaxed));
    // Nobody used it when the small one came: gone, and fetched again.
    drop(cache.fetch(&*host.store, &small).await.expect("fetched"));
    let again = cache.fetch(&*host.store, &large).await.expect("fetched");
    assert_eq!(Digest::of(&fs::read(&again.path).expect("read")), large.sha256);
}

#[tokio::test]
async fn leftovers_in_the_cache_go_also_while_its_worker_lives_on() {
    let host = Host::new();
    let cache = host.cache(1_000);
    let left = host.folder.path().join("cache/incoming").join(format!("{}.left", Digest::of(b"dead")));
    fs::write(&left, "half").expect("written");
    let object = host.object("data", 900).await;
    drop(cache.fetch(&*host.store, &object).await.expect("fetched"));
    assert!(!left.exists());
}
