//! A store for tests of what asks it how often.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use shared::names::Key;
use shared::store::dir::DirStore;
use shared::store::{Created, Entry, Store, StoreError};

/// A folder that counts what is read, and lets others run meanwhile.
#[derive(Debug)]
pub(crate) struct Counting {
    inner: DirStore,
    downloads: AtomicUsize,
    gets: AtomicUsize,
}

impl Counting {
    /// A folder of which nothing was read.
    pub(crate) fn new(inner: DirStore) -> Self {
        Self { inner, downloads: AtomicUsize::new(0), gets: AtomicUsize::new(0) }
    }

    /// Objects that were downloaded into files.
    pub(crate) fn downloads(&self) -> usize {
        self.downloads.load(Ordering::SeqCst)
    }

    /// Objects that were read into memory, or looked for.
    pub(crate) fn gets(&self) -> usize {
        self.gets.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Store for Counting {
    fn place(&self) -> String {
        self.inner.place()
    }

    async fn download(&self, key: &Key, to: &Path) -> Result<u64, StoreError> {
        self.downloads.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
        self.inner.download(key, to).await
    }

    async fn get(&self, key: &Key) -> Result<Bytes, StoreError> {
        self.gets.fetch_add(1, Ordering::SeqCst);
        tokio::task::yield_now().await;
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
