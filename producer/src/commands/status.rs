//! `gannet status`: queues, workers and runs at a glance.

use std::collections::BTreeMap;
use std::time::Duration;

use shared::contract::Heartbeat;
use shared::queue::{Event, Queue};
use tokio::time::{Instant, timeout_at};

use super::run::overviews;
use super::{Listed, Unreadable};
use crate::listings;
use crate::session::Session;

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
    let workers = hear_workers(session.queue.as_ref(), listen).await?;
    let mut unreadable = Unreadable::default();
    let runs = overviews(session.store.as_ref(), &mut unreadable).await?;
    super::print(&listings::status(&depths, workers.values(), &runs), arguments.listed.format)?;
    unreadable.check("runs")
}

async fn hear_workers(queue: &dyn Queue, listen: Duration) -> anyhow::Result<BTreeMap<String, Heartbeat>> {
    let mut events = queue.watch(None).await?;
    let mut workers = BTreeMap::new();
    if listen > Duration::from_secs(2) {
        eprintln!("listens to the workers for {} s", listen.as_secs());
    }
    let until = Instant::now() + listen;
    while let Ok(event) = timeout_at(until, events.next()).await {
        if let Event::Heartbeat(heartbeat) = event? {
            // The last word of a worker that ends has no slots.
            if heartbeat.slots == 0 {
                workers.remove(&heartbeat.worker);
            } else {
                workers.insert(heartbeat.worker.clone(), *heartbeat);
            }
        }
    }
    Ok(workers)
}
