//! Names that an argument may have: asked of the store that the environment names, for at most a second.
//!
//! Reads only, and makes no folder.

use std::ffi::OsStr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use clap_complete::engine::{ArgValueCompleter, CompletionCandidate, PathCompleter, ValueCompleter as _};
use futures::{StreamExt as _, stream};
use shared::names::{Key, Name};
use shared::settings::StorePlace;
use shared::store::{self, Store, StoreError, layout};
use tokio::time::timeout;

use crate::{models, runs, session, study};

/// How long a shell waits for the store: longer feels like a shell that hangs.
const PATIENCE: Duration = Duration::from_secs(1);
/// Runs that are looked at at once.
const AT_ONCE: usize = 32;

/// Names of runs.
pub(crate) fn runs() -> ArgValueCompleter {
    completer(async |store, typed| run_names(store, typed).await)
}

/// Names of models.
pub(crate) fn models() -> ArgValueCompleter {
    completer(async |store, typed| model_names(store, typed).await)
}

/// Names of models, and behind `NAME@` their versions.
pub(crate) fn versions() -> ArgValueCompleter {
    completer(async |store, typed| version_names(store, typed).await)
}

/// Runs, and behind `RUN/` its trials; behind `NAME@` a model's versions.
pub(crate) fn promoted() -> ArgValueCompleter {
    completer(async |store, typed| {
        if typed.contains('@') {
            return version_names(store, typed).await;
        }
        let Some((run, _)) = typed.split_once('/') else { return run_names(store, typed).await };
        let Ok(run) = Name::new(run) else { return Ok(Vec::new()) };
        let jobs = runs::jobs_done(store, &run).await?;
        let trials = jobs.iter().filter(|id| !study::is_test(id)).map(|id| format!("{run}/{id}"));
        Ok(trials.filter(|trial| trial.starts_with(typed)).collect())
    })
}

/// Files and folders, `-`, and files after `@`.
pub(crate) fn inputs() -> ArgValueCompleter {
    ArgValueCompleter::new(|typed: &OsStr| match typed.to_str().and_then(|typed| typed.strip_prefix('@')) {
        Some(list) => {
            let files = PathCompleter::file().complete(list.as_ref());
            files.into_iter().map(|file| file.add_prefix("@")).collect()
        }
        None => PathCompleter::any().complete(typed),
    })
}

/// Names under `prefix` that begin with what was typed.
async fn beginning(store: &dyn Store, prefix: &Key, typed: &str) -> Result<Vec<String>, StoreError> {
    let names = store.children(prefix).await?;
    Ok(names.into_iter().filter(|name| name.starts_with(typed) && Name::new(name.as_str()).is_ok()).collect())
}

async fn version_names(store: &dyn Store, typed: &str) -> Result<Vec<String>, StoreError> {
    let Some((name, _)) = typed.split_once('@') else { return model_names(store, typed).await };
    let Ok(name) = Name::new(name) else { return Ok(Vec::new()) };
    let versions = models::versions(store, &name).await?;
    let versions = versions.into_iter().map(|digest| format!("{name}@{}", models::short(digest)));
    Ok(versions.filter(|version| version.starts_with(typed)).collect())
}

/// Of a deleted model files may be left: nobody means it. Where that takes long to tell it is offered, too.
async fn model_names(store: &dyn Store, typed: &str) -> Result<Vec<String>, StoreError> {
    let names = beginning(store, &layout::models(), typed).await?;
    let standing = async {
        let standing = models::names(store).await?;
        Ok(standing.into_iter().map(String::from).filter(|name| name.starts_with(typed)).collect())
    };
    timeout(PATIENCE / 3, standing).await.unwrap_or(Ok(names))
}

/// Of a deleted run only a mark is left: nobody means it. Where that takes long to tell it is offered, too.
async fn run_names(store: &dyn Store, typed: &str) -> Result<Vec<String>, StoreError> {
    let names = beginning(store, &layout::runs(), typed).await?;
    timeout(PATIENCE / 3, not_deleted(store, names.clone())).await.unwrap_or(Ok(names))
}

async fn not_deleted(store: &dyn Store, names: Vec<String>) -> Result<Vec<String>, StoreError> {
    let there = stream::iter(names).map(async |name| {
        let deleted = match Name::new(name.as_str()) {
            Ok(run) => runs::is_deleted(store, &run).await?,
            Err(_) => true,
        };
        Ok((!deleted).then_some(name))
    });
    let there: Vec<Result<Option<String>, StoreError>> = there.buffered(AT_ONCE).collect().await;
    there.into_iter().filter_map(Result::transpose).collect()
}

fn completer<F>(find: F) -> ArgValueCompleter
where
    F: AsyncFn(&dyn Store, &str) -> Result<Vec<String>, StoreError> + Copy + Send + Sync + 'static,
{
    ArgValueCompleter::new(move |typed: &OsStr| {
        let names = typed.to_str().and_then(|typed| ask(typed.to_owned(), find)).unwrap_or_default();
        names.into_iter().map(CompletionCandidate::new).collect()
    })
}

/// What `find` finds within [`PATIENCE`].
fn ask<F>(typed: String, find: F) -> Option<Vec<String>>
where
    F: AsyncFn(&dyn Store, &str) -> Result<Vec<String>, StoreError> + Send + 'static,
{
    let (tell, told) = mpsc::channel();
    // Not awaited: whatever hangs (a name server, a lost file system), this process ends, and the thread with it.
    let asking = thread::Builder::new().spawn(move || tell.send(look(&typed, &find)));
    asking.ok().and_then(|_| told.recv_timeout(PATIENCE).ok()?.ok())
}

fn look(
    typed: &str,
    find: &impl AsyncFn(&dyn Store, &str) -> Result<Vec<String>, StoreError>,
) -> anyhow::Result<Vec<String>> {
    let places = session::places()?;
    // Opening would make the folder.
    if matches!(&places.store, StorePlace::Dir(folder) if !folder.is_dir()) {
        return Ok(Vec::new());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async { Ok(find(store::open(&places).await?.as_ref(), typed).await?) })
}
