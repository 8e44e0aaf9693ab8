//! `gannet run`: the runs in the store.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::{Value, json};
use shared::contract::Control;
use shared::names::Name;
use shared::store::{Store, layout, put_json};

use super::{Listed, Unreadable, completions};
use crate::bar::gather;
use crate::report::Listing;
use crate::runs::{self, Asked, Overview, RunManifest};
use crate::session::{self, Session};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List the runs
    List {
        #[command(flatten)]
        listed: Listed,
    },
    /// Remove a run: results, checkpoints and uploaded pictures; models and datasets stay
    #[command(
        after_help = "Examples:\n  gannet run delete night-1\n\nA small mark stays, so that jobs still on the queue are dropped."
    )]
    Delete {
        /// The run
        #[arg(add = completions::runs())]
        run: Name,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { listed } => list(session::open_store(&session::places()?).await?.as_ref(), listed).await,
        Command::Delete { run } => delete(&Session::open().await?, &run).await,
    }
}

async fn list(store: &dyn Store, listed: Listed) -> anyhow::Result<()> {
    let mut listing = Listing::new(["run", "kind", "created", "results", "state"]);
    let mut unreadable = Unreadable::default();
    for Overview { run, manifest, done, cancelled } in overviews(store, &mut unreadable).await? {
        let kind = match manifest.as_ref().map(|manifest| &manifest.asked) {
            Some(Asked::Study { .. }) => json!("study"),
            Some(Asked::Classification { .. }) => json!("classification"),
            None => Value::Null,
        };
        let created = manifest.map(|manifest| manifest.created_at.to_string());
        let state = if cancelled { json!("cancelled") } else { Value::Null };
        listing.push(vec![json!(run.as_str()), kind, json!(created), json!(done), state]);
    }
    super::print(&listing, listed.format)?;
    unreadable.check("runs")
}

/// What is known of the runs that were not deleted.
pub(super) async fn overviews(store: &dyn Store, unreadable: &mut Unreadable) -> anyhow::Result<Vec<Overview>> {
    let names = runs::names(store).await?;
    let mut overviews = Vec::new();
    for read in gather("runs looked at", names.len(), runs::overviews(store, names)).await {
        overviews.extend(unreadable.take(read.map_err(anyhow::Error::from))?.flatten());
    }
    Ok(overviews)
}

/// The mark first, so that no worker commits into the run any more; then everything else.
async fn delete(session: &Session, run: &Name) -> anyhow::Result<()> {
    let store = session.store.as_ref();
    RunManifest::find(store, run).await?;
    let marker = layout::cancelled(run);
    put_json(store, &marker, &json!({"deleted_at": jiff::Timestamp::now()})).await?;
    session.queue.publish_control(&Control::Cancelled { run: run.clone(), job: None }).await?;
    session.queue.forget(run).await?;
    let mut removed = 0;
    // Twice: a worker that read the marker just before it stood there may still have written.
    for pass in 0..2 {
        if pass > 0 {
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        let entries = store.list(&layout::run(run)).await?;
        let keys: Vec<_> = entries.into_iter().map(|entry| entry.key).filter(|key| *key != marker).collect();
        removed += keys.len();
        stream::iter(keys)
            .map(|key| async move { store.delete(&key).await })
            .buffer_unordered(16)
            .try_collect::<()>()
            .await?;
    }
    eprintln!("run {run} is deleted: {removed} objects");
    Ok(())
}
