//! `gannet gc`: removes what is left over in the store.

use indicatif::HumanBytes;
use serde_json::json;

use super::Listed;
use crate::gc::{self, Garbage, Limits};
use crate::report::Listing;
use crate::session::{self, Session};
use crate::words::count;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet gc --dry-run\n  gannet gc\n  gannet gc --versions --older 30d --dry-run\n\nRemoves checkpoints that no result and no job that may go on needs, and what is left of deleted runs; their tombstones stay. Without a broker also the jobs of cancelled and deleted runs from the folder's queue, whatever their age: elsewhere workers drop them. A worker uploads a checkpoint before it commits the record that names it, so nothing younger than --older is touched: keep it far above the longest upload."
)]
pub(super) struct Arguments {
    /// Lists what would be removed, and removes nothing
    #[arg(long)]
    dry_run: bool,
    /// Only what was written longer ago, by the store's clock
    #[arg(long, value_name = "TIME", default_value = "1d")]
    older: humantime::Duration,
    /// Also versions of models and datasets that nothing names: no run, and no name that stands for them or stood for them a
    /// while ago; and what deleted models left. Jobs of other clients are not known here. Not while somebody pushes: files that are there are not sent again
    #[arg(long)]
    versions: bool,
    #[command(flatten)]
    listed: Listed,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let places = session::places()?;
    let (store, queue) = if places.is_embedded() {
        let session = Session::open().await?;
        (session.store, Some(session.queue))
    } else {
        (session::open_store(&places).await?, None)
    };
    let limits = Limits { older: arguments.older.into(), versions: arguments.versions };
    let garbage = gc::find(store.as_ref(), limits).await?;
    if !arguments.dry_run {
        gc::remove(store.as_ref(), &garbage).await?;
    }
    super::print(&list(&garbage), arguments.listed.format)?;
    let bytes: u64 = garbage.iter().map(|garbage| garbage.entry.size).sum();
    let done = if arguments.dry_run { "would be removed" } else { "are removed" };
    eprintln!("{} of {} {done}", count(garbage.len(), "object"), HumanBytes(bytes));
    if let Some(queue) = queue {
        let mut jobs = 0;
        for run in gc::closed(store.as_ref()).await? {
            jobs += if arguments.dry_run {
                queue.jobs_of(&run).await?.map_or(0, |jobs| jobs.len())
            } else {
                usize::try_from(queue.forget(&run).await?).unwrap_or(usize::MAX)
            };
        }
        if jobs > 0 {
            eprintln!("{} of cancelled and deleted runs {done} from the queue", count(jobs, "job"));
        }
    }
    Ok(())
}

fn list(garbage: &[Garbage]) -> Listing {
    let mut listing = Listing::new(["key", "bytes", "written", "why"]);
    for Garbage { entry, why } in garbage {
        listing.push(vec![json!(entry.key), json!(entry.size), json!(entry.modified), json!(why)]);
    }
    listing
}
