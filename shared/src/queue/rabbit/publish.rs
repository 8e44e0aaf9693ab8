//! Publishing: confirmed where it counts, and whispered where it may be lost.

use std::collections::VecDeque;
use std::time::Duration;

use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::time::timeout;

use super::letters;
use super::link::Link;
use crate::queue::{QueueError, Reply, topology};

/// Messages that wait for their confirms at once. With the largest messages that is 32 MiB.
const WINDOW: usize = 128;

/// A confirm takes milliseconds; this long it takes only when a quorum is lost or the broker is full.
const CONFIRM_LIMIT: Duration = Duration::from_secs(60);

/// A whisper is given up rather than hold up work.
const WHISPER_LIMIT: Duration = Duration::from_secs(1);

/// A message on its way to an exchange.
pub(super) struct Outgoing<'a> {
    pub(super) exchange: String,
    pub(super) key: String,
    /// Whether it comes back when no queue takes it.
    pub(super) mandatory: bool,
    pub(super) body: &'a [u8],
    pub(super) properties: BasicProperties,
}

/// Publishes all of `messages`, pipelined, and waits for every confirm.
///
/// # Errors
/// The first message that was not taken: refused by a queue, returned for want of one, or unconfirmed.
pub(super) async fn confirmed(link: &Link, messages: impl IntoIterator<Item = Outgoing<'_>>) -> Result<(), QueueError> {
    // Whoever has one waits as long for each confirm, so a broker that is stuck shows here, too.
    let _turn = timeout(CONFIRM_LIMIT, link.turn()).await.map_err(|_| stuck(link, "its queues"))?;
    let channel = link.confirming_channel().await?;
    let mut waiting: VecDeque<(PublisherConfirm, String)> = VecDeque::new();
    for message in messages {
        if waiting.len() == WINDOW
            && let Some((confirm, to)) = waiting.pop_front()
        {
            settle(link, confirm, &to).await?;
        }
        let to = if message.exchange.is_empty() { message.key.clone() } else { message.exchange.clone() };
        let confirm = timeout(CONFIRM_LIMIT, send(&channel, message)).await;
        let confirm = confirm.map_err(|_| stuck(link, &to))?;
        waiting.push_back((confirm.map_err(|error| link.failed(&publishing(&to), &error))?, to));
    }
    for (confirm, to) in waiting {
        settle(link, confirm, &to).await?;
    }
    // Only a channel without open confirms and without an error gets here.
    link.put_back(channel);
    Ok(())
}

/// Answers on a client's own queue.
pub(super) async fn reply(link: &Link, body: &[u8], reply: &Reply) -> Result<(), QueueError> {
    if !reply.is_allowed() {
        let reason = "names that begin with `gannet.` or `amq.` are ours and the broker's";
        return Err(link.address.refused(format!("an answer on `{}`", reply.queue), reason));
    }
    // RabbitMQ returns every mandatory message to direct reply-to, delivered or not: it routes those past the queues.
    let mandatory = !reply.queue.starts_with("amq.rabbitmq.reply-to");
    let properties = letters::with_correlation(letters::json_properties(""), reply);
    let message = Outgoing { exchange: String::new(), key: reply.queue.clone(), mandatory, body, properties };
    confirmed(link, [message]).await
}

/// Publishes something that may be lost.
pub(super) async fn whispered(link: &Link, exchange: String, key: String, body: &[u8]) -> Result<(), QueueError> {
    let properties = letters::json_properties("").with_delivery_mode(1);
    let message = Outgoing { exchange, key, mandatory: false, body, properties };
    let channel = link.whisper().await?;
    let what = publishing(&message.exchange);
    match timeout(WHISPER_LIMIT, send(&channel, message)).await {
        Ok(sent) => sent.map(|_| ()).map_err(|error| link.failed(&what, &error)),
        Err(_) => Err(link.address.unreachable(format!("{what}: the broker takes no messages now"))),
    }
}

async fn send(channel: &Channel, message: Outgoing<'_>) -> Result<PublisherConfirm, lapin::Error> {
    let options = BasicPublishOptions { mandatory: message.mandatory, immediate: false };
    let (exchange, key) = (topology::short(&message.exchange), topology::short(&message.key));
    channel.basic_publish(exchange, key, options, message.body, message.properties).await
}

async fn settle(link: &Link, confirm: PublisherConfirm, to: &str) -> Result<(), QueueError> {
    let confirmation = timeout(CONFIRM_LIMIT, confirm).await.map_err(|_| stuck(link, to))?;
    match confirmation.map_err(|error| link.failed(&publishing(to), &error))? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            let reason = format!("no queue takes it ({} {})", returned.reply_code, returned.reply_text);
            if returned.exchange.as_str().is_empty() {
                return Err(link.address.refused(format!("a message to `{to}`"), reason));
            }
            // Ours: the next call declares it again.
            link.is_incomplete();
            Err(link.address.unreachable(format!("{}: {reason}", publishing(to))))
        }
        Confirmation::Nack(None) => {
            let why = "its queue is full or has lost its quorum";
            Err(link.address.unreachable(format!("{}: {why}", publishing(to))))
        }
        Confirmation::NotRequested => {
            Err(link.address.refused(publishing(to), "the broker knows no publisher confirms"))
        }
    }
}

fn publishing(to: &str) -> String {
    format!("publishing to `{to}`")
}

fn stuck(link: &Link, to: &str) -> QueueError {
    let why =
        if link.connection.status().blocked() { ": the broker takes no messages now (memory or disk)" } else { "" };
    link.address.unreachable(format!("{}: not confirmed within {CONFIRM_LIMIT:?}{why}", publishing(to)))
}
