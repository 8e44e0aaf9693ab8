//! `gannet status`: queues, workers and runs at a glance.

use std::time::Duration;

use tokio::time::Instant;

use super::run::overviews;
use super::{Listed, Unreadable};
use crate::listings;
use crate::session::Session;
use crate::workers::Workers;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gannet status\n  gannet status --listen 6s --format json")]
pub(super) struct Arguments {
    /// How long to listen to the workers' heartbeats; they come every five seconds
    #[arg(long, value_name = "TIME", default_value = "6s")]
    listen: humantime::Duration,
    #[command(flatten)]
    listed: Listed,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let session = Session::open().await?;
    let depths = session.queue.depths().await?;
    // Without a consumer there is nobody to listen to.
    let alone = depths.iter().all(|depth| depth.consumers == 0);
    let listen = if alone { Duration::ZERO } else { arguments.listen.into() };
    let mut workers = Workers::listen(session.queue.as_ref()).await?;
    if listen > Duration::from_secs(2) {
        eprintln!("listens to the workers for {} s", listen.as_secs());
    }
    let until = Instant::now() + listen;
    while workers.next(until).await?.is_some() {}
    let mut unreadable = Unreadable::default();
    let runs = overviews(session.store.as_ref(), &mut unreadable).await?;
    super::print(&listings::status(&depths, workers.heard.values(), &runs), arguments.listed.format)?;
    unreadable.check("runs")
}
