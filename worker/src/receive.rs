//! A slot: takes one delivery after another and settles each.

use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{FuturesUnordered, StreamExt as _};
use shared::contract::Kind;
use shared::queue::{Deliveries, QueueError};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::settle::{Fault, pass_on, settle};
use crate::step::Warm;
use crate::supervisor::Context;

/// A slot changes over to another kind when its queue has been empty for so long.
const IDLE: Duration = Duration::from_secs(2);

/// Jobs a slot has in hand at once. A trial that waits in a slot's hands is a trial that no other slot can have; a
/// batch is short, and while one is computed the next one's pictures are fetched and read.
fn in_hand(kind: Kind) -> u16 {
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
    let warm = Warm::default();
    let kinds = &context.settings.kinds;
    for kind in kinds.iter().cycle() {
        match take(context, *kind, &warm, drain).await {
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
            Err(Fault::Stopped) => return Ok(()),
            Err(Fault::Store(error)) if error.is_passing() && drain.is_cancelled() => return Ok(()),
            Err(fault) => return Err(fault),
        }
    }
    Ok(())
}

/// Takes jobs of one kind until there are none for a while.
async fn take(context: &Context, kind: Kind, warm: &Warm, drain: &CancellationToken) -> Result<(), Fault> {
    let mut deliveries = consume(context, kind, drain).await?;
    let mut settling = FuturesUnordered::new();
    let mut ended = loop {
        let has_room = settling.len() < usize::from(in_hand(kind));
        tokio::select! {
            biased;
            () = drain.cancelled() => break Ok(()),
            Some(settled) = settling.next() => if let Err(fault) = settled { break Err(fault) },
            next = timeout(IDLE, deliveries.next()), if has_room => match next {
                Ok(Ok(delivery)) => settling.push(settle(context, warm, delivery, drain).boxed()),
                Ok(Err(error)) => break Err(error.into()),
                Err(_) if settling.is_empty() && context.settings.kinds.len() > 1 => break Ok(()),
                Err(_) => {}
            },
        }
    };
    // What has come is settled before the slot does anything else.
    let mut stopped = deliveries.stop();
    let left = loop {
        tokio::select! {
            left = &mut stopped => break left,
            Some(settled) = settling.next() => ended = ended.and(settled),
        }
    };
    for delivery in left {
        settling.push(match drain.is_cancelled() {
            true => pass_on(context, delivery).boxed(),
            false => settle(context, warm, delivery, drain).boxed(),
        });
    }
    while let Some(settled) = settling.next().await {
        ended = ended.and(settled);
    }
    ended
}

async fn consume(context: &Context, kind: Kind, drain: &CancellationToken) -> Result<Box<dyn Deliveries>, Fault> {
    loop {
        match context.queue.consume(kind, in_hand(kind)).await {
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
