//! Taking jobs. A task a consumer (the pump) moves deliveries from lapin to the worker, so that a lost channel is
//! noticed while nobody asks for the next one.
//!
//! Lifetimes: the pump owns the consumer. Dropping [`RabbitDeliveries`] tells it to cancel the consumer; it then waits
//! until the last receipt is gone, since receipts can only be used on their channel. Only then the channel closes.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Acker, Channel, Consumer};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::letters;
use super::link::{Address, Link};
use crate::contract::Kind;
use crate::queue::{Deliveries, Delivery, QueueError, Receipt, topology};

/// How often a channel without a consumer is looked at: nothing tells of its end then.
const LOOK: Duration = Duration::from_millis(500);

type Arrivals = mpsc::UnboundedReceiver<Result<Delivery, QueueError>>;

/// What a consumer has been given. Unbounded, and bounded by the prefetch.
pub(super) struct RabbitDeliveries {
    address: Address,
    /// `None` only while being dropped.
    arrivals: Option<Arrivals>,
    /// Hands what was not taken back to the pump, which returns it after it has cancelled the consumer.
    stop: Option<oneshot::Sender<Stop>>,
}

/// The end of a consumer.
struct Stop {
    /// What has come and was not taken.
    arrivals: Arrivals,
    /// Where it goes; to the broker if nobody wants it.
    wanted: Option<oneshot::Sender<Vec<Delivery>>>,
}

/// Longest wait for a broker to cancel a consumer.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// Starts to consume.
pub(super) async fn consume(link: &Link, kind: Kind, prefetch: u16) -> Result<RabbitDeliveries, QueueError> {
    let channel = link.channel().await?;
    let queue = topology::queue_of(kind);
    let what = format!("consuming `{queue}`");
    let failed = |error: lapin::Error| link.failed(&what, &error);
    // 0 would mean "no limit" to the broker.
    channel.basic_qos(prefetch.max(1), BasicQosOptions::default()).await.map_err(failed)?;
    let (options, arguments) = (BasicConsumeOptions::default(), FieldTable::default());
    let consumer = channel.basic_consume(topology::short(&queue), "".into(), options, arguments).await;
    let consumer = consumer.map_err(failed)?;

    let (sender, arrivals) = mpsc::unbounded_channel();
    let (stop, stopped) = oneshot::channel();
    let unused = CancellationToken::new();
    let pump = Pump {
        kind,
        address: link.address.clone(),
        held: Some(Arc::new(unused.clone().drop_guard())),
        unused,
        channel,
        consumer,
        lost: CancellationToken::new(),
    };
    tokio::spawn(pump.run(sender, stopped));
    Ok(RabbitDeliveries { address: link.address.clone(), arrivals: Some(arrivals), stop: Some(stop) })
}

#[async_trait]
impl Deliveries for RabbitDeliveries {
    async fn stop(mut self: Box<Self>) -> Vec<Delivery> {
        let (Some(stop), Some(arrivals)) = (self.stop.take(), self.arrivals.take()) else { return Vec::new() };
        let (sender, left) = oneshot::channel();
        drop(stop.send(Stop { arrivals, wanted: Some(sender) }));
        // Where the pump has ended, or the broker does not answer, they come again elsewhere.
        timeout(CANCEL_LIMIT, left).await.map_or_else(|_| Vec::new(), Result::unwrap_or_default)
    }

    async fn next(&mut self) -> Result<Delivery, QueueError> {
        let arrived = match &mut self.arrivals {
            Some(arrivals) => arrivals.recv().await,
            None => None,
        };
        arrived.unwrap_or_else(|| Err(self.address.unreachable("this consumer has ended")))
    }
}

impl Drop for RabbitDeliveries {
    fn drop(&mut self) {
        if let (Some(stop), Some(arrivals)) = (self.stop.take(), self.arrivals.take()) {
            // Fails when the pump has ended: then there is nothing to give back.
            drop(stop.send(Stop { arrivals, wanted: None }));
        }
    }
}

struct Pump {
    kind: Kind,
    address: Address,
    channel: Channel,
    consumer: Consumer,
    /// Cancelled when nothing of this channel can be settled any more.
    lost: CancellationToken,
    /// A share of it is in every receipt; the pump lets go of its own when it stops.
    held: Option<Arc<DropGuard>>,
    /// Cancelled when no receipt is left.
    unused: CancellationToken,
}

impl Pump {
    async fn run(
        mut self,
        arrivals: mpsc::UnboundedSender<Result<Delivery, QueueError>>,
        mut stopped: oneshot::Receiver<Stop>,
    ) {
        loop {
            tokio::select! {
                biased;
                stop = &mut stopped => return self.stop(stop.ok()).await,
                arrived = self.consumer.next() => match arrived {
                    Some(Ok(delivery)) => {
                        // Fails while the other side is being dropped: the delivery is dropped too, and so released.
                        drop(arrivals.send(Ok(self.delivery(delivery))));
                    }
                    ended => {
                        let reason = match ended {
                            Some(Err(error)) => error.to_string(),
                            _ => "the broker cancelled the consumer: was its queue deleted, or an ack overdue?".into(),
                        };
                        self.lost.cancel();
                        drop(arrivals.send(Err(self.address.unreachable(reason))));
                        return;
                    }
                }
            }
        }
    }

    /// Cancels the consumer, gives back what nobody took, and waits for the receipts.
    async fn stop(mut self, stop: Option<Stop>) {
        let cancelled = self.channel.basic_cancel(self.consumer.tag(), BasicCancelOptions::default());
        match self.address.in_time("the end of a consumer", cancelled).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(place = self.address.shown, %error, "the consumer had ended already"),
            // Its deliveries go back with the channel.
            Err(error) => tracing::debug!(%error, "gives a consumer up"),
        }
        let mut left = Vec::new();
        let mut wanted = None;
        if let Some(mut stop) = stop {
            wanted = stop.wanted;
            left.extend(std::iter::from_fn(|| stop.arrivals.try_recv().ok()).flatten());
        }
        while let Some(Ok(delivery)) = self.consumer.next().now_or_never().flatten() {
            left.push(self.delivery(delivery));
        }
        match wanted {
            // Fails when nobody waits any more: they are dropped, and so released.
            Some(wanted) => drop(wanted.send(left)),
            None => drop(left),
        }
        drop(self.held.take());
        loop {
            tokio::select! {
                () = self.unused.cancelled() => return,
                () = tokio::time::sleep(LOOK) => {
                    if !self.channel.status().connected() {
                        return self.lost.cancel();
                    }
                }
            }
        }
    }

    fn delivery(&self, delivery: lapin::message::Delivery) -> Delivery {
        let receipt = RabbitReceipt { acker: delivery.acker, address: self.address.clone(), _held: self.held.clone() };
        Delivery {
            enqueued: letters::enqueued(&delivery.properties),
            letter: letters::read(self.kind, &delivery.properties, delivery.data),
            redelivered: delivery.redelivered,
            lost: self.lost.child_token(),
            receipt: Box::new(receipt),
        }
    }
}

struct RabbitReceipt {
    acker: Acker,
    address: Address,
    _held: Option<Arc<DropGuard>>,
}

#[async_trait]
impl Receipt for RabbitReceipt {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        let what = "an acknowledgement";
        self.settled(what, self.address.in_time(what, self.acker.ack(BasicAckOptions::default())).await?)
    }

    async fn release(self: Box<Self>) -> Result<(), QueueError> {
        let what = "a release";
        self.settled(what, self.address.in_time(what, self.acker.nack(requeue())).await?)
    }
}

impl RabbitReceipt {
    fn settled(&self, what: &str, answer: lapin::Result<bool>) -> Result<(), QueueError> {
        match answer {
            Ok(true) => Ok(()),
            Ok(false) => Err(self.address.unreachable(format!("{what} comes too late: the delivery went back"))),
            Err(error) => Err(self.address.failed(what, &error)),
        }
    }
}

impl Drop for RabbitReceipt {
    fn drop(&mut self) {
        if self.acker.usable() {
            // The first poll sends it; there is nobody to tell what came of it.
            let _ = self.acker.nack(requeue()).now_or_never();
        }
    }
}

fn requeue() -> BasicNackOptions {
    BasicNackOptions { multiple: false, requeue: true }
}
