//! Brings pictures to where workers find them: into the store, or nowhere where workers can read them in place.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use shared::contract::{ImageError, ImageOutcome, ImageRef, ImageVerdict};
use shared::digest::Digest;
use shared::names::{Key, Name, ObjectRef};
use shared::store::{Store, StoreError, layout};
use tokio::sync::Semaphore;

use crate::bar::Bar;
use crate::images::{Image, Place};
use crate::patience::ask_store;
use crate::session::Session;

/// Uploads at once: enough to hide a store's latency.
const UPLOADS: usize = 16;
/// What they may hold in memory together, in MiB; one larger file goes alone.
const ROOM: u32 = 512;

/// A picture that workers find.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    /// Its number, from 0, in the order of the input.
    pub(super) index: usize,
    pub(super) image: ImageRef,
    /// Size and time of the last change of a file that is read in place, which tell a changed one without reading it:
    /// bytes, seconds, nanoseconds. An object goes by its digest.
    pub(super) stamp: Option<[i64; 3]>,
}

/// A reference to a picture, and its stamp.
type Had = (ImageRef, Option<[i64; 3]>);

/// What cannot be had comes with its number and is an outcome already.
pub(super) type Taken = Result<Picture, (usize, ImageOutcome)>;

/// Takes all pictures, in order.
///
/// # Errors
/// The store refuses; an outage is waited for.
pub(super) async fn all(session: &Session, run: &Name, images: Vec<Image>) -> Result<Vec<Taken>, StoreError> {
    let in_place = session.places.is_embedded();
    let is_file = |image: &Image| matches!(image.place, Place::File(_));
    let what = if images.iter().any(is_file) { "pictures uploaded" } else { "pictures looked at" };
    let mut bar = (!in_place).then(|| Bar::new(what, images.len(), None));
    let store = session.store.as_ref();
    // A key says what its object holds: what a run that is taken up has sent is not sent again.
    let sent = if in_place { Vec::new() } else { store.list(&layout::run(run)).await? };
    let sent = sent.into_iter().map(|entry| entry.key).collect();
    let way = &Way { store, run, sent: Mutex::new(sent), room: Semaphore::new(ROOM as usize) };
    let take = |(index, Image { name, place }): (usize, Image)| async move {
        let an_object = |object| (ImageRef::object(&name, object), None);
        let taken: Result<Had, ImageError> = match &place {
            Place::File(path) => match if in_place { stay(&name, path) } else { Ok(None) } {
                Ok(Some(stays)) => Ok(stays),
                Ok(None) => way.upload(path).await?.map(an_object),
                Err(error) => Err(error),
            },
            Place::Object(key) => describe(store, key).await.map(an_object),
            Place::Shut(error) => Err(error.clone()),
        };
        Ok::<Taken, StoreError>(match taken {
            Ok((image, stamp)) => Ok(Picture { index, image, stamp }),
            Err(error) => Err((index, ImageOutcome { image: name, verdict: ImageVerdict::Error(error) })),
        })
    };
    let mut taken = Vec::with_capacity(images.len());
    let mut coming = stream::iter(images.into_iter().enumerate()).map(take).buffered(UPLOADS);
    while let Some(one) = coming.next().await {
        taken.push(one?);
        if let Some(bar) = &mut bar {
            bar.step();
        }
    }
    if let Some(bar) = bar {
        bar.finish();
    }
    Ok(taken)
}

fn refused(code: &str, message: String) -> ImageError {
    ImageError { code: code.into(), message }
}

/// A picture that is read in place. `None` for a file whose name no job can hold, because it is not UTF-8.
fn stay(name: &str, path: &Path) -> Result<Option<Had>, ImageError> {
    let stamp = stamp(path)?;
    let path = std::path::absolute(path).map_err(|error| refused("unreadable", error.to_string()))?;
    Ok(path.to_str().map(|path| (ImageRef::file(name, path), Some(stamp))))
}

/// A file's [`Picture::stamp`].
pub(super) fn stamp(path: &Path) -> Result<[i64; 3], ImageError> {
    let found = picture::look(path)?;
    Ok([found.size().cast_signed(), found.mtime(), found.mtime_nsec()])
}

/// The way into the store.
struct Way<'a> {
    store: &'a dyn Store,
    run: &'a Name,
    /// The run's objects in the store. Held for look-ups only, never across an await.
    sent: Mutex<BTreeSet<Key>>,
    /// A permit a MiB.
    room: Semaphore,
}

impl Way<'_> {
    /// Sends a file, unless it was sent before. The inner error is the picture's.
    async fn upload(&self, path: &Path) -> Result<Result<ObjectRef, ImageError>, StoreError> {
        let size = match picture::look(path) {
            Ok(found) => found.len().div_ceil(1 << 20),
            Err(error) => return Ok(Err(error)),
        };
        let size = u32::try_from(size).unwrap_or(ROOM).clamp(1, ROOM);
        let _room = self.room.acquire_many(size).await.expect("never closed");
        let path = PathBuf::from(path);
        let read = tokio::task::spawn_blocking(move || picture::bytes(&path)).await;
        let body = match read.unwrap_or_else(|error| Err(refused("unreadable", error.to_string()))) {
            Ok(body) => Bytes::from(body),
            Err(error) => return Ok(Err(error)),
        };
        let sha256 = Digest::of(&body);
        let key = layout::image(self.run, sha256);
        let is_there = self.sent.lock().expect("no panic holds it").contains(&key);
        if !is_there {
            ask_store(async || self.store.put(&key, body.clone()).await).await?;
            self.sent.lock().expect("no panic holds it").insert(key.clone());
        }
        Ok(Ok(ObjectRef { key, sha256 }))
    }
}

/// A picture that is in the store already is read once for its digest: workers check what they fetch.
async fn describe(store: &dyn Store, key: &Key) -> Result<ObjectRef, ImageError> {
    match ask_store(async || store.get(key).await).await {
        Ok(body) => Ok(ObjectRef { key: key.clone(), sha256: Digest::of(&body) }),
        Err(StoreError::NotFound { .. }) => Err(refused("not_found", format!("no object `{key}` in the store"))),
        Err(error @ StoreError::TooLarge { .. }) => Err(refused("too_large", error.to_string())),
        Err(error) => Err(refused("unreadable", error.to_string())),
    }
}
