//! `gannet cancel`: stops a run, wherever its jobs are.

use anyhow::Context as _;
use shared::contract::Control;
use shared::names::Name;
use shared::store::{Created, create_json, layout};

use super::completions;
use crate::runs::RunManifest;
use crate::session::Session;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet cancel night-1\n\nWhat is running stops within seconds, what is waiting is dropped when a worker meets it; results stay."
)]
pub(super) struct Arguments {
    /// The run
    #[arg(add = completions::runs())]
    run: Name,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let session = Session::open().await?;
    let store = session.store.as_ref();
    let run = arguments.run;
    RunManifest::find(store, &run).await?;
    let marker = serde_json::json!({"cancelled_at": jiff::Timestamp::now()});
    let created = create_json(store, &layout::cancelled(&run), &marker).await?;
    // The marker is the truth; this only makes workers look at once.
    session.queue.publish_control(&Control::Cancelled { run: run.clone() }).await.context("tell the workers")?;
    let done = store.list(&layout::results(&run)).await?.len();
    match created {
        Created::New => eprintln!("run {run} is cancelled: {done} jobs were done, the others stop or are dropped"),
        Created::Exists => eprintln!("run {run} was cancelled before: {done} jobs were done"),
    }
    Ok(())
}
