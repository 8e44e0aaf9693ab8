//! A slot: takes one delivery after another and settles each.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{join_all, select_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use shared::contract::Kind;
use shared::queue::{Deliveries, Delivery, QueueError};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::settle::{Fault, pass_on, settle};
use crate::step::Warm;
use crate::supervisor::Context;

/// A slot changes over to another kind when its queue has been empty for so long.
const IDLE: Duration = Duration::from_secs(2);

/// A slot has as many batches in hand as it settles in this time: what it has no other slot can have.
const AHEAD: Duration = Duration::from_millis(500);
/// The least: while one batch is computed the next one's pictures are fetched and read.
const FEWEST: u16 = 2;
/// The most. Small batches wait for the store and the broker, not for the executor.
const MOST: u16 = 64;

/// How fast a slot settles batches, and so how many it should have in hand at once.
#[derive(Debug)]
struct Pace {
    /// Mean time between two, the last ones counting most.
    interval: Duration,
    settled: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: AHEAD, settled: Instant::now() }
    }
}

impl Pace {
    /// A batch is settled.
    fn note(&mut self) {
        let now = Instant::now();
        // A slot that had nothing to do is not slow.
        let took = (now - self.settled).min(AHEAD);
        self.settled = now;
        self.interval = (self.interval * 15 + took) / 16;
    }

    /// A trial that waits in a slot's hands is a trial that no other slot can have.
    fn in_hand(&self, kind: Kind) -> u16 {
        match kind {
            Kind::Trial => 1,
            Kind::Batch => {
                let fit = AHEAD.as_micros() / self.interval.as_micros().max(1);
                u16::try_from(fit).unwrap_or(MOST).clamp(FEWEST, MOST)
            }
        }
    }
}

/// Jobs of one kind, so many at once that the slot may have `in_hand`.
struct Source {
    kind: Kind,
    in_hand: u16,
    /// More than one after it has grown: a consumer's prefetch stays what it was. One that ends while jobs come would make
    /// RabbitMQ mark some as redelivered.
    consumers: Vec<Box<dyn Deliveries>>,
}

impl Source {
    async fn open(context: &Context, kind: Kind, in_hand: u16, drain: &CancellationToken) -> Result<Self, Fault> {
        let consumers = vec![consume(context, kind, in_hand, drain).await?];
        Ok(Self { kind, in_hand, consumers })
    }

    async fn grow(&mut self, context: &Context, in_hand: u16, drain: &CancellationToken) -> Result<(), Fault> {
        self.consumers.push(consume(context, self.kind, in_hand - self.in_hand, drain).await?);
        self.in_hand = in_hand;
        Ok(())
    }

    /// The next delivery. Cancel-safe.
    async fn next(&mut self) -> Result<Delivery, QueueError> {
        select_all(self.consumers.iter_mut().map(|consumer| consumer.next())).await.0
    }

    /// What has come and was not taken.
    async fn stop(self) -> Vec<Delivery> {
        join_all(self.consumers.into_iter().map(|consumer| consumer.stop())).await.into_iter().flatten().collect()
    }
}

/// Works until `drain` is cancelled.
///
/// # Errors
/// The store or the queue refuses this worker: it can do nothing here.
pub async fn slot(context: &Context, drain: &CancellationToken) -> Result<(), Fault> {
    let (warm, mut pace) = (Warm::default(), Pace::default());
    let mut kinds = context.settings.kinds.iter().copied().cycle();
    let mut kind = kinds.next();
    while let Some(now) = kind {
        match take(context, now, &warm, &mut pace, drain).await {
            Ok(_) if drain.is_cancelled() => return Ok(()),
            Ok(Next::SameKind) => {}
            Ok(Next::OtherKind) => kind = kinds.next(),
            Err(Fault::Lost) => {
                tracing::warn!(kind = %now, "a delivery was lost with the connection; it goes to another worker");
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

/// What a slot does when it has stopped taking jobs.
#[derive(Debug)]
enum Next {
    /// Takes more of the same, another number at once.
    SameKind,
    /// There were none for a while.
    OtherKind,
}

/// Takes jobs of one kind until there are none for a while.
async fn take(
    context: &Context,
    kind: Kind,
    warm: &Warm,
    pace: &mut Pace,
    drain: &CancellationToken,
) -> Result<Next, Fault> {
    let mut source = Source::open(context, kind, pace.in_hand(kind), drain).await?;
    tracing::debug!(consumes = %kind);
    let mut settling = FuturesUnordered::new();
    let mut ended = loop {
        let has_room = settling.len() < usize::from(source.in_hand);
        tokio::select! {
            biased;
            () = drain.cancelled() => break Ok(Next::SameKind),
            Some(settled) = settling.next() => {
                pace.note();
                let wanted = pace.in_hand(kind);
                let grown = match settled {
                    Ok(()) if wanted >= 2 * source.in_hand => source.grow(context, wanted, drain).await,
                    Ok(()) if 4 * wanted <= source.in_hand => break Ok(Next::SameKind),
                    settled => settled,
                };
                if let Err(fault) = grown {
                    break Err(fault);
                }
            }
            next = timeout(IDLE, source.next()), if has_room => match next {
                Ok(Ok(delivery)) => settling.push(settle(context, warm, delivery, drain).boxed()),
                Ok(Err(error)) => break Err(error.into()),
                Err(_) if settling.is_empty() && context.settings.kinds.len() > 1 => break Ok(Next::OtherKind),
                Err(_) => {}
            },
        }
    };
    // What has come is settled before the slot does anything else. But first the broker is told to send no more: what it
    // sends for an acknowledgement of now would come too late, and go back as from a lost worker.
    let left = source.stop().await;
    for delivery in left {
        settling.push(match drain.is_cancelled() {
            true => pass_on(context, delivery).boxed(),
            false => settle(context, warm, delivery, drain).boxed(),
        });
    }
    while let Some(settled) = settling.next().await {
        ended = ended.and_then(|next| settled.map(|()| next));
    }
    ended
}

async fn consume(
    context: &Context,
    kind: Kind,
    in_hand: u16,
    drain: &CancellationToken,
) -> Result<Box<dyn Deliveries>, Fault> {
    loop {
        match context.queue.consume(kind, in_hand).await {
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
