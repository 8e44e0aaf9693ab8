//! A client that knows AMQP only: it publishes any bytes and reads any queue, as a program in another language would.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt as _;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use serde_json::Value;

use crate::eventually;

/// A connection to one virtual host.
pub struct Amqp {
    connection: Connection,
}

impl Amqp {
    /// Connects.
    ///
    /// # Errors
    /// Nobody answers, or refuses.
    pub async fn connect(url: &str) -> Result<Self> {
        let connection =
            Connection::connect(url, ConnectionProperties::default()).await.context("connect to RabbitMQ")?;
        Ok(Self { connection })
    }

    /// Publishes `body`, and waits until the broker has put it into a queue.
    ///
    /// # Errors
    /// The broker refuses it or knows no queue for it.
    pub async fn publish(&self, exchange: &str, key: &str, body: &[u8], properties: BasicProperties) -> Result<()> {
        let channel = self.connection.create_channel().await?;
        channel.confirm_select(ConfirmSelectOptions::default()).await?;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let confirm = channel.basic_publish(exchange.into(), key.into(), options, body, properties).await?.await?;
        ensure!(confirm.is_ack(), "the broker refused a message for `{key}`");
        if let Some(returned) = confirm.take_message() {
            bail!("no queue takes `{key}`: {}", returned.reply_text);
        }
        Ok(())
    }

    /// A new queue of this connection's own, bound to `exchange` with `pattern` as soon as the exchange is there;
    /// what comes from now on can be read from it.
    ///
    /// # Errors
    /// The exchange is not there within `limit`.
    pub async fn listen(&self, exchange: &str, pattern: &str, limit: Duration) -> Result<Inbox> {
        eventually(limit, &format!("the exchange {exchange} is there"), async || {
            // A failed bind closes its channel: a new one each time.
            let channel = self.connection.create_channel().await?;
            let inbox = Inbox::open(channel.clone()).await?;
            let options = QueueBindOptions::default();
            let bound = channel.queue_bind(
                inbox.name().into(),
                exchange.into(),
                pattern.into(),
                options,
                FieldTable::default(),
            );
            Ok(bound.await.is_ok().then_some(inbox))
        })
        .await
    }

    /// A new queue of this connection's own, for replies.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn inbox(&self) -> Result<Inbox> {
        Inbox::open(self.connection.create_channel().await?).await
    }

    /// Waits until `queue` is there.
    ///
    /// # Errors
    /// It is not within `limit`.
    pub async fn wait_for_queue(&self, queue: &str, limit: Duration) -> Result<()> {
        eventually(limit, &format!("the queue {queue} is there"), async || {
            let channel = self.connection.create_channel().await?;
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            Ok(channel.queue_declare(queue.into(), options, FieldTable::default()).await.ok().map(|_| ()))
        })
        .await
    }

    /// Waits until somebody consumes from `queue`: then it is bound, too.
    ///
    /// # Errors
    /// Nobody does within `limit`.
    pub async fn wait_for_consumer(&self, queue: &str, limit: Duration) -> Result<()> {
        eventually(limit, &format!("somebody consumes from {queue}"), async || {
            let channel = self.connection.create_channel().await?;
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let found = channel.queue_declare(queue.into(), options, FieldTable::default()).await.ok();
            Ok(found.filter(|queue| queue.consumer_count() > 0).map(|_| ()))
        })
        .await
    }

    /// Takes the next message out of `queue`, as soon as there is one.
    ///
    /// # Errors
    /// There is none within `limit`.
    pub async fn take(&self, queue: &str, limit: Duration) -> Result<Delivery> {
        let channel = self.connection.create_channel().await?;
        eventually(limit, &format!("a message is in {queue}"), async || {
            let message = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await?;
            Ok(message.map(|message| message.delivery))
        })
        .await
    }

    /// Takes all messages out of `queue` that are ready.
    ///
    /// # Errors
    /// There is no such queue.
    pub async fn take_all(&self, queue: &str) -> Result<Vec<Vec<u8>>> {
        let channel = self.connection.create_channel().await?;
        let mut bodies = Vec::new();
        while let Some(message) = channel.basic_get(queue.into(), BasicGetOptions { no_ack: true }).await? {
            bodies.push(message.delivery.data);
        }
        Ok(bodies)
    }

    /// How many messages are ready in `queue`.
    ///
    /// # Errors
    /// There is no such queue.
    pub async fn ready(&self, queue: &str) -> Result<u32> {
        Ok(self.look(queue).await?.message_count())
    }

    /// Consumers of a queue.
    ///
    /// # Errors
    /// As [`Amqp::ready`].
    pub async fn consumers(&self, queue: &str) -> Result<u32> {
        Ok(self.look(queue).await?.consumer_count())
    }

    async fn look(&self, queue: &str) -> Result<lapin::Queue> {
        let channel = self.connection.create_channel().await?;
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        Ok(channel.queue_declare(queue.into(), options, FieldTable::default()).await?)
    }
}

/// A queue of a connection's own, and what comes into it.
pub struct Inbox {
    name: String,
    consumer: Consumer,
    // A channel closes when its last handle goes.
    _channel: Channel,
}

impl Inbox {
    async fn open(channel: Channel) -> Result<Self> {
        let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        let queue = channel.queue_declare("".into(), options, FieldTable::default()).await?;
        let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
        let consumer = channel.basic_consume(queue.name().clone(), "".into(), options, FieldTable::default()).await?;
        Ok(Self { name: queue.name().to_string(), consumer, _channel: channel })
    }

    /// The queue's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The next message.
    ///
    /// # Errors
    /// None comes within `limit`.
    pub async fn next(&mut self, limit: Duration) -> Result<Delivery> {
        let next = tokio::time::timeout(limit, self.consumer.next()).await;
        let next = next.with_context(|| format!("no message in {} within {} s", self.name, limit.as_secs()))?;
        Ok(next.context("the broker closed the channel")??)
    }

    /// The next message that is JSON and that `wanted` accepts; others are dropped.
    ///
    /// # Errors
    /// None comes within `limit`, or one is not JSON.
    pub async fn find(&mut self, limit: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let search = async {
            loop {
                let message = self.next(limit).await?;
                let value: Value = serde_json::from_slice(&message.data).context("read a message as JSON")?;
                if wanted(&value) {
                    return Ok(value);
                }
            }
        };
        tokio::time::timeout(limit, search).await.context("no message like the one that was waited for")?
    }
}
