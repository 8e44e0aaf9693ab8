//! The versions of a model: named, found, made the one that the name stands for, and removed.

use std::collections::BTreeSet;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::contract::Model;
use shared::digest::Digest;
use shared::names::{JobId, Key, Name, ObjectRef};
use shared::store::{Store, StoreError, fetch_checked, get_optional_json, layout};
use shared::strict;

use super::pointer::{self, Change, History, Moved};

/// Requests at once.
const AT_ONCE: usize = 16;
/// Digits of a digest that people are shown.
const SHOWN: usize = 12;
/// Digits of a digest that are enough.
const FEWEST: usize = 8;

/// The file beside a manifest that says where it comes from.
pub const ORIGIN: &str = "origin.json";

/// A model as a command line names it: `NAME` for what the name stands for, or `NAME@DIGEST`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The model.
    pub name: Name,
    /// The digest's first digits.
    pub version: Option<String>,
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, version) = match text.split_once('@') {
            Some((name, version)) => (name, Some(version.to_ascii_lowercase())),
            None => (text, None),
        };
        let name = Name::new(name).map_err(|error| error.to_string())?;
        let is_prefix = |version: &String| {
            (FEWEST..=64).contains(&version.len()) && version.bytes().all(|digit| digit.is_ascii_hexdigit())
        };
        match version {
            Some(version) if !is_prefix(&version) => Err(format!(
                "`{version}` is no digest: its first {FEWEST} to 64 hexadecimal digits are accepted, as `gannet model show \
                 {name}` lists them"
            )),
            version => Ok(Self { name, version }),
        }
    }
}

impl std::fmt::Display for Wanted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.name)?;
        self.version.as_ref().map_or(Ok(()), |version| write!(f, "@{version}"))
    }
}

impl From<Name> for Wanted {
    fn from(name: Name) -> Self {
        Self { name, version: None }
    }
}

/// `models/<name>/<digest>/origin.json`: where a version came from first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// What it was made of.
    pub of: Source,
    /// When.
    pub at: Timestamp,
    /// The version of the program that made it.
    pub made_by: String,
}

/// What a version was made of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A trial's network.
    Trial {
        /// Its run.
        run: Name,
        /// Its id.
        id: JobId,
    },
    /// Files of somebody's machine: the folder's or the ONNX file's own name.
    Folder(String),
}

impl Source {
    /// The folder or file at `path`.
    pub(super) fn of_files(path: &Path) -> Self {
        let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        Self::Folder(whole.file_name().unwrap_or(whole.as_os_str()).to_string_lossy().into_owned())
    }
}

impl Origin {
    pub(super) fn of(source: Source) -> Self {
        Self { of: source, at: Timestamp::now(), made_by: env!("CARGO_PKG_VERSION").into() }
    }
}

/// The first digits of a digest, for people.
pub fn short(digest: Digest) -> String {
    digest.to_string()[..SHOWN].to_owned()
}

/// The models that stand for something, sorted. Of one that was deleted files may be left.
///
/// # Errors
/// The store fails.
pub async fn names(store: &dyn Store) -> Result<Vec<Name>, StoreError> {
    let names = store.children(&layout::models()).await?;
    let names = names.into_iter().filter_map(|name| Name::new(name).ok());
    let stands = stream::iter(names).map(async |name| {
        let moves = store.children(&layout::model_pointer(&name)).await?;
        Ok((!moves.is_empty()).then_some(name))
    });
    stands.buffered(AT_ONCE).try_filter_map(async |name| Ok(name)).try_collect().await
}

/// The versions of a model, sorted.
///
/// # Errors
/// The store fails.
pub async fn versions(store: &dyn Store, name: &Name) -> Result<Vec<Digest>, StoreError> {
    let entries = store.list(&layout::model(name)).await?;
    let digest = |key: &Key| key.as_str().strip_suffix("/model.json")?.rsplit_once('/')?.1.parse().ok();
    Ok(entries.iter().filter_map(|entry| digest(&entry.key)).collect())
}

/// Where a version came from; `None` where nothing says so.
///
/// # Errors
/// The store fails, or it cannot be read.
pub async fn origin(store: &dyn Store, name: &Name, digest: Digest) -> Result<Option<Origin>, StoreError> {
    get_optional_json(store, &layout::model_file(name, digest, ORIGIN)).await
}

/// The model that `name` stands for now.
///
/// # Errors
/// There is none of this name; the error names the nearest.
pub async fn resolve(store: &dyn Store, name: &Name) -> anyhow::Result<(ObjectRef, Model)> {
    match pointer::current(store, name).await? {
        Some(digest) => read(store, name, digest).await,
        None => Err(unknown(store, name).await?),
    }
}

/// The model that is wanted.
///
/// # Errors
/// There is none, or several begin with these digits; the error names what there is.
pub async fn find(store: &dyn Store, wanted: &Wanted) -> anyhow::Result<(ObjectRef, Model)> {
    let Some(version) = &wanted.version else { return resolve(store, &wanted.name).await };
    let versions = versions(store, &wanted.name).await?;
    let found: Vec<Digest> =
        versions.iter().copied().filter(|digest| digest.to_string().starts_with(version.as_str())).collect();
    match found.as_slice() {
        [one] => read(store, &wanted.name, *one).await,
        [] if versions.is_empty() => Err(unknown(store, &wanted.name).await?),
        [] => bail!("no version `{version}` of the model `{}`: there are {}", wanted.name, list(&versions)),
        several => {
            let several: Vec<String> = several.iter().map(ToString::to_string).collect();
            bail!("`{wanted}` may be several versions: {}; say more digits", several.join(", "))
        }
    }
}

fn list(digests: &[Digest]) -> String {
    if digests.is_empty() { "none".into() } else { digests.iter().copied().map(short).collect::<Vec<_>>().join(", ") }
}

async fn read(store: &dyn Store, name: &Name, sha256: Digest) -> anyhow::Result<(ObjectRef, Model)> {
    let reference = ObjectRef { key: layout::model_file(name, sha256, "model.json"), sha256 };
    let body = match fetch_checked(store, &reference).await {
        Err(StoreError::NotFound { .. }) => bail!(
            "the version {} of the model `{name}` is not in the store at {}: there are {}; `gannet model rollback {name}` goes \
             back, `gannet model promote {name}@DIGEST` takes one of them",
            short(sha256),
            store.place(),
            list(&versions(store, name).await?)
        ),
        read => read?,
    };
    let model = strict::json(&body).with_context(|| format!("read `{}`", reference.key))?;
    Ok((reference, model))
}

/// An error about a name that stands for nothing, with what may be meant.
///
/// # Errors
/// The store fails.
pub async fn unknown(store: &dyn Store, name: &Name) -> Result<anyhow::Error, StoreError> {
    let models = names(store).await?;
    let hint = match strict::nearest(name.as_str(), models.iter().map(Name::as_str)) {
        Some(near) => format!("did you mean `{near}`?"),
        None if models.is_empty() => {
            "there are no models yet: `gannet model promote` makes one of a trial, `gannet model push` of a folder"
                .into()
        }
        None => format!("there are {}", models.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")),
    };
    Ok(anyhow::anyhow!("no model `{name}` in the store at {}: {hint}", store.place()))
}

/// Lets a name stand for a version of it that is there.
///
/// # Errors
/// There is no such version, or the store fails.
pub async fn promote_version(store: &dyn Store, wanted: &Wanted) -> anyhow::Result<Moved> {
    let (reference, _) = find(store, wanted).await?;
    Ok(pointer::advance(store, &wanted.name, reference.sha256, Change::Promote).await?)
}

/// Takes the last push or promotion of a name back. Versions that were deleted are passed over.
///
/// # Errors
/// There is nothing before, somebody moves the pointer at the same time, or the store fails.
pub async fn rollback(store: &dyn Store, name: &Name) -> anyhow::Result<Moved> {
    let history = History::read(store, name).await?;
    let Some(current) = history.current() else { return Err(unknown(store, name).await?) };
    let there: BTreeSet<Digest> = versions(store, name).await?.into_iter().collect();
    let earlier = history.earlier().into_iter().find(|earlier| there.contains(earlier) && *earlier != current);
    let Some(to) = earlier else {
        bail!(
            "there is no version of the model `{name}` to go back to: nothing before {} is known and still there; \
             `gannet model promote {name}@DIGEST` takes any of those that `gannet model show {name}` lists",
            short(current)
        );
    };
    history.then(store, name, to, Change::Rollback).await
}

/// Removes versions of a model, and with `whole` what its name stands for. Their other files stay for `gannet gc`: other versions
/// may have the same weights.
///
/// # Errors
/// The store fails; or somebody let the name stand for one of them meanwhile.
pub async fn delete(store: &dyn Store, name: &Name, versions: &[Digest], whole: bool) -> anyhow::Result<()> {
    if whole {
        // First to last: broken off in the middle, the name still stands for what it stood for.
        let moves = store.list(&layout::model_pointer(name)).await?;
        for entry in moves {
            store.delete(&entry.key).await?;
        }
    }
    for digest in versions {
        for file in ["model.json", ORIGIN] {
            store.delete(&layout::model_file(name, *digest, file)).await?;
        }
    }
    match pointer::current(store, name).await? {
        Some(current) if versions.contains(&current) => bail!(
            "somebody let the model `{name}` stand for {} while it was deleted: push or promote it again, or `gannet model \
             rollback {name}`",
            short(current)
        ),
        _ => Ok(()),
    }
}
