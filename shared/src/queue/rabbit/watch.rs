//! Watching: a run's results and progress, the workers' heartbeats, and words to all workers, each on an exclusive queue of
//! the watcher's own. They end with their connection; what a slow reader misses it finds in the store.

use async_trait::async_trait;
use futures::{FutureExt, StreamExt};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, Consumer};
use serde::de::DeserializeOwned;

use super::link::{Address, Link};
use crate::contract::{Control, Heartbeat};
use crate::names::Name;
use crate::queue::{Controls, Event, Events, Heartbeats, QueueError, topology};

/// Messages on their way to a reader at once.
const PREFETCH: u16 = 256;

/// Messages that wait on the broker for a slow reader; the oldest are dropped.
const MOST_WAITING: i32 = 20_000;

/// A queue that no consumer ever took goes away, in milliseconds: its owner died between two calls.
const EXPIRES_MS: i32 = 60_000;

/// A run's results and progress.
pub(super) struct RabbitEvents(PrivateQueue);

/// The workers' heartbeats.
pub(super) struct RabbitHeartbeats(PrivateQueue);

/// Words to all workers.
pub(super) struct RabbitControls(PrivateQueue);

/// Watches one run.
pub(super) async fn watch(link: &Link, run: &Name) -> Result<RabbitEvents, QueueError> {
    let bindings = [(topology::results(), format!("{run}.*")), (topology::progress(), format!("{run}.progress"))];
    PrivateQueue::open(link, "watch", &bindings).await.map(RabbitEvents)
}

/// Hears the workers.
pub(super) async fn heartbeats(link: &Link) -> Result<RabbitHeartbeats, QueueError> {
    let binding = (topology::progress(), topology::HEARTBEAT_KEY.into());
    PrivateQueue::open(link, "watch", &[binding]).await.map(RabbitHeartbeats)
}

/// Listens to what is said to all workers.
pub(super) async fn listen(link: &Link) -> Result<RabbitControls, QueueError> {
    PrivateQueue::open(link, "listen", &[(topology::control(), String::new())]).await.map(RabbitControls)
}

#[async_trait]
impl Events for RabbitEvents {
    async fn next(&mut self) -> Result<Event, QueueError> {
        loop {
            if let Some(event) = event(&self.0.next().await?) {
                return Ok(event);
            }
        }
    }
}

#[async_trait]
impl Heartbeats for RabbitHeartbeats {
    async fn next(&mut self) -> Result<Heartbeat, QueueError> {
        loop {
            if let Some(heartbeat) = readable(&self.0.next().await?) {
                return Ok(heartbeat);
            }
        }
    }
}

#[async_trait]
impl Controls for RabbitControls {
    async fn next(&mut self) -> Result<Control, QueueError> {
        loop {
            if let Some(control) = readable(&self.0.next().await?) {
                return Ok(control);
            }
        }
    }
}

fn event(delivery: &Delivery) -> Option<Event> {
    if delivery.exchange.as_str() == topology::results() {
        readable(delivery).map(|result| Event::Result(Box::new(result)))
    } else {
        readable(delivery).map(|progress| Event::Progress(Box::new(progress)))
    }
}

fn readable<T: DeserializeOwned>(delivery: &Delivery) -> Option<T> {
    match serde_json::from_slice(&delivery.data) {
        Ok(read) => Some(read),
        Err(error) => {
            let (exchange, key) = (&delivery.exchange, &delivery.routing_key);
            tracing::warn!(%exchange, %key, %error, "a message that cannot be read is skipped");
            None
        }
    }
}

struct PrivateQueue {
    address: Address,
    consumer: Consumer,
    /// Closes with this, and the queue goes with it.
    _channel: Channel,
}

impl PrivateQueue {
    async fn open(link: &Link, purpose: &str, bindings: &[(String, String)]) -> Result<Self, QueueError> {
        let channel = link.channel().await?;
        // A name of ours, so that a user who may only touch `gannet.*` can declare it.
        let name = topology::name(&format!("{purpose}.{}", uuid::Uuid::new_v4()));
        let what = format!("a queue `{name}` to {purpose}");
        let failed = |error: lapin::Error| link.failed(&what, &error);

        let mut arguments = FieldTable::default();
        arguments.insert("x-expires".into(), AMQPValue::LongInt(EXPIRES_MS));
        arguments.insert("x-max-length".into(), AMQPValue::LongInt(MOST_WAITING));
        arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        let options = QueueDeclareOptions::exclusive().auto_delete();
        channel.queue_declare(topology::short(&name), options, arguments).await.map_err(failed)?;
        for (exchange, key) in bindings {
            let (exchange, key) = (topology::short(exchange), topology::short(key));
            let options = QueueBindOptions::default();
            let bound = channel.queue_bind(topology::short(&name), exchange, key, options, FieldTable::default()).await;
            bound.map_err(failed)?;
        }
        channel.basic_qos(PREFETCH, BasicQosOptions::default()).await.map_err(failed)?;
        let options = BasicConsumeOptions { exclusive: true, ..BasicConsumeOptions::default() };
        let consumer = channel.basic_consume(topology::short(&name), "".into(), options, FieldTable::default()).await;
        Ok(Self { address: link.address.clone(), consumer: consumer.map_err(failed)?, _channel: channel })
    }

    /// The next message, already acknowledged. Cancel-safe: nothing is awaited after it was taken.
    async fn next(&mut self) -> Result<Delivery, QueueError> {
        match self.consumer.next().await {
            Some(Ok(delivery)) => {
                // The first poll sends it. Where it fails, the stream ends with the reason.
                let _ = delivery.acker.ack(BasicAckOptions::default()).now_or_never();
                Ok(delivery)
            }
            Some(Err(error)) => Err(self.address.unreachable(error.to_string())),
            None => Err(self.address.unreachable("the broker cancelled the consumer")),
        }
    }
}
