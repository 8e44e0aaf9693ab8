//! A slot: takes one delivery after another and settles each.

use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{join_all, select_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use shared::contract::Kind;
use shared::queue::{Deliveries, Delivery, QueueError};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::settle::{Fault, Settled, settle};
use crate::step::Warm;
use crate::supervisor::{Context, On};

/// A slot changes over to another kind when its queue has been empty for so long.
const IDLE: Duration = Duration::from_secs(2);

/// A slot has as many batches in hand as it settles in this time: what it has no other slot can have.
const AHEAD: Duration = Duration::from_millis(500);
/// The least: while one batch is computed the next one's pictures are fetched and read.
const FEWEST: u16 = 2;
/// The most. Small batches wait for the store and the broker, not for the executor.
const MOST: u16 = 64;

/// How long a stop waits for the broker before it looks after what is in hand again.
const STOP_ALONE: Duration = Duration::from_secs(1);

/// How fast a slot computes batches, and so how many it should have in hand at once.
#[derive(Debug)]
struct Pace {
    /// Mean time between two, the last ones counting most.
    interval: Duration,
    last: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self { interval: AHEAD, last: Instant::now() }
    }
}

impl Pace {
    /// A batch was computed. Those that are dropped say nothing of the next ones.
    fn note(&mut self, now: Instant) {
        // A slot that had nothing to do is not slow.
        let took = (now - self.last).min(AHEAD);
        self.last = now;
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
    /// Whether it may try to grow: not again after it was refused.
    may_grow: bool,
}

impl Source {
    async fn open(context: &Context, kind: Kind, in_hand: u16, drain: &CancellationToken) -> Result<Self, Fault> {
        let consumers = vec![consume(context, kind, in_hand, drain).await?];
        Ok(Self { kind, in_hand, consumers, may_grow: true })
    }

    /// So many more jobs at once, through another consumer.
    fn grown(&mut self, more: u16, consumer: Result<Box<dyn Deliveries>, Fault>) {
        match consumer {
            Ok(consumer) => {
                self.consumers.push(consumer);
                self.in_hand += more;
            }
            Err(error) => {
                tracing::debug!(kind = %self.kind, %error, "a slot goes on with the jobs that it has at once");
                self.may_grow = false;
            }
        }
    }

    /// The next delivery. Cancel-safe.
    async fn next(&mut self) -> Result<Delivery, QueueError> {
        select_all(self.consumers.iter_mut().map(|consumer| consumer.next())).await.0
    }

    /// What has come and was not taken.
    async fn stop(self) -> Vec<Delivery> {
        join_all(self.consumers.into_iter().map(Deliveries::stop)).await.into_iter().flatten().collect()
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
                    () = context.patience.wait(On::Queue, &error) => {}
                    () = drain.cancelled() => return Ok(()),
                }
            }
            Err(Fault::Stopped) => return Ok(()),
            Err(Fault::Store(error)) if error.is_passing() && drain.is_cancelled() => return Ok(()),
            // One job's: it comes again and spends its attempts.
            Err(fault) if fault.is_passing() => {
                tracing::error!(kind = %now, error = format!("{:#}", anyhow::Error::from(fault)), "a job cannot be settled");
            }
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
    /// There were none for a while: looks for another kind, if it takes one.
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
    // Cancelled when there are too many in hand: those that were not begun go to others.
    let shed = CancellationToken::new();
    let mut settling = FuturesUnordered::new();
    let mut growing = FuturesUnordered::new();
    let mut ended = loop {
        let has_room = settling.len() < usize::from(source.in_hand);
        tokio::select! {
            biased;
            () = drain.cancelled() => break Ok(Next::SameKind),
            Some(settled) = settling.next() => match settled {
                Ok(Settled::Computed) => {
                    pace.note(Instant::now());
                    let wanted = pace.in_hand(kind);
                    if 4 * wanted <= source.in_hand {
                        shed.cancel();
                        break Ok(Next::SameKind);
                    }
                    if wanted >= 2 * source.in_hand && source.may_grow && growing.is_empty() {
                        let more = wanted - source.in_hand;
                        growing.push(consume(context, kind, more, drain).map(move |consumer| (more, consumer)));
                    }
                }
                Ok(Settled::Dropped) => {}
                Err(fault) => break Err(fault),
            },
            Some((more, consumer)) = growing.next() => source.grown(more, consumer),
            next = timeout(IDLE, source.next()), if has_room => match next {
                Ok(Ok(delivery)) => settling.push(settle(context, warm, delivery, drain, &shed).boxed()),
                Ok(Err(error)) => break Err(error.into()),
                // To another kind, or back to one consumer: the queue's count of them tells how many slots take jobs.
                Err(_)
                    if settling.is_empty() && (context.settings.kinds.len() > 1 || source.consumers.len() > 1) =>
                {
                    break Ok(Next::OtherKind);
                }
                Err(_) => {}
            },
        }
    };
    // What has come is settled before the slot does anything else. But first the broker is told to send no more: what it
    // sends for an acknowledgement of now would come too late, and go back as from a lost worker.
    drop(growing);
    let stopped = source.stop();
    tokio::pin!(stopped);
    let alone = timeout(STOP_ALONE, &mut stopped).await.ok();
    let left = match alone {
        Some(left) => left,
        // A broker that does not answer must not hold up a checkpoint.
        None => loop {
            tokio::select! {
                left = &mut stopped => break left,
                Some(settled) = settling.next() => ended = graver(ended, settled),
            }
        },
    };
    for delivery in left {
        settling.push(settle(context, warm, delivery, drain, &shed).boxed());
    }
    while let Some(settled) = settling.next().await {
        ended = graver(ended, settled);
    }
    ended
}

/// How a slot ends that meets one more fault: one that ends it is not hidden by one that passes.
fn graver<T>(ended: Result<T, Fault>, settled: Result<Settled, Fault>) -> Result<T, Fault> {
    match (ended, settled) {
        (Ok(_), Err(fault)) => Err(fault),
        (Err(first), Err(fault)) if first.is_passing() && !fault.is_passing() => Err(fault),
        (ended, _) => ended,
    }
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
                    () = context.patience.wait(On::Queue, &error) => {}
                    () = drain.cancelled() => {}
                }
            }
            other => return Ok(other?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace_after(batches: u32, interval: Duration) -> Pace {
        let mut pace = Pace::default();
        (0..batches).for_each(|_| pace.note(pace.last + interval));
        pace
    }

    #[test]
    fn short_batches_are_taken_many_at_once_and_long_ones_two() {
        let of = |pace: &Pace| pace.in_hand(Kind::Batch);
        assert_eq!(of(&Pace::default()), FEWEST, "slow until it is known better");
        assert_eq!(of(&pace_after(200, Duration::from_millis(1))), MOST);
        let about = of(&pace_after(200, Duration::from_millis(50)));
        assert!((8..=11).contains(&about), "what half a second holds, not {about}");
        assert_eq!(of(&pace_after(200, Duration::from_secs(30))), FEWEST);
        assert_eq!(pace_after(200, Duration::from_millis(1)).in_hand(Kind::Trial), 1);
    }

    #[test]
    fn a_fault_that_ends_the_slot_is_not_hidden_by_one_that_passes() {
        let machine = || Err(Fault::Machine(anyhow::anyhow!("no executor")));
        let is_machine = |ended| matches!(ended, Err(Fault::Machine(_)));
        assert!(is_machine(graver::<()>(Err(Fault::Lost), machine())));
        assert!(is_machine(graver::<()>(Ok(()), machine())));
        assert!(is_machine(graver::<()>(machine().map(|_: Settled| ()), Err(Fault::Lost))));
        assert!(is_machine(graver::<()>(machine().map(|_: Settled| ()), Ok(Settled::Dropped))));
        assert!(graver(Ok(()), Ok(Settled::Computed)).is_ok());
    }

    #[test]
    fn one_long_batch_among_short_ones_is_enough_to_shed() {
        let mut pace = pace_after(200, Duration::from_millis(5));
        let before = pace.in_hand(Kind::Batch);
        pace.note(pace.last + Duration::from_secs(60));
        assert!(4 * pace.in_hand(Kind::Batch) <= before, "{} of {before}", pace.in_hand(Kind::Batch));
    }
}
