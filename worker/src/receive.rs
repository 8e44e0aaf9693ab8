//! A slot: takes one delivery after another and settles each.

use std::time::Duration;

use shared::contract::Kind;
use shared::queue::{Deliveries, QueueError};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::settle::{Fault, settle};
use crate::step::Warm;
use crate::supervisor::Context;

/// A slot changes over to another kind when its queue has been empty for so long.
const IDLE: Duration = Duration::from_secs(2);

/// Jobs a slot holds beyond the one it computes. A trial that waits in a slot's hands is a trial that
/// no other slot can have; a batch is short.
fn prefetch(kind: Kind) -> u16 {
    match kind {
        Kind::Trial => 1,
        Kind::Batch => 2,
    }
}

/// Works until `drain` is cancelled.
///
/// # Errors
/// The store or the queue refuses this worker: it can do nothing here.
pub async fn slot(context: &Context, drain: &CancellationToken) -> Result<(), Fault> {
    let mut warm = Warm::default();
    let kinds = &context.settings.kinds;
    for kind in kinds.iter().cycle() {
        match take(context, *kind, &mut warm, drain).await {
            Ok(()) if drain.is_cancelled() => return Ok(()),
            Ok(()) => {}
            Err(Fault::Lost) => {
                tracing::warn!(%kind, "a delivery was lost with the connection; it goes to another worker");
            }
            Err(Fault::Queue(error)) if error.is_passing() => {
                tokio::select! {
                    () = context.patience.wait(&error) => {}
                    () = drain.cancelled() => return Ok(()),
                }
            }
            Err(Fault::Store(error)) if error.is_passing() && drain.is_cancelled() => return Ok(()),
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Takes jobs of one kind until there are none for a while.
async fn take(context: &Context, kind: Kind, warm: &mut Warm, drain: &CancellationToken) -> Result<(), Fault> {
    let mut deliveries = consume(context, kind, drain).await?;
    loop {
        let next = tokio::select! {
            biased;
            () = drain.cancelled() => return Ok(()),
            next = timeout(IDLE, deliveries.next()) => next,
        };
        match next {
            Ok(delivery) => settle(context, warm, delivery?, drain).await?,
            Err(_) if context.settings.kinds.len() > 1 => return Ok(()),
            Err(_) => {}
        }
    }
}

async fn consume(context: &Context, kind: Kind, drain: &CancellationToken) -> Result<Box<dyn Deliveries>, Fault> {
    loop {
        match context.queue.consume(kind, prefetch(kind)).await {
            Err(error @ QueueError::Unreachable { .. }) if !drain.is_cancelled() => {
                tokio::select! {
                    () = context.patience.wait(&error) => {}
                    () = drain.cancelled() => {}
                }
            }
            other => return Ok(other?),
        }
    }
}
