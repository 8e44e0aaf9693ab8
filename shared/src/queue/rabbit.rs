//! The fleet's queue: RabbitMQ 3.10 to 4.3 over AMQP 0-9-1.
//!
//! One connection, opened when it is needed and again when it was lost (`link`); a channel for every consumer, and
//! a bounded number of
//! channels in confirm mode, each of which one publishing call has at a time. Budgets, commits and retries are decided elsewhere.
//!
//! Message bodies and passwords are never logged here. lapin itself logs a returned message whole: whoever sets up the log
//! filter puts [`QUIET`] into it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use lapin::Channel;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions};
use lapin::types::FieldTable;
use serde::Serialize;

use self::link::{Address, Link};
use self::publish::Outgoing;
use super::topology::{self, Topology};
use super::{
    Controls, DeadLetter, Deliveries, Depth, Events, Heartbeats, Letter, Queue, QueueError, Reply, check_size,
    result_body,
};
use crate::contract::{Control, Heartbeat, JobResult, Kind, Progress};
use crate::names::Name;

mod consume;
mod letters;
mod link;
mod publish;
mod watch;

/// A directive for the log filter. lapin warns of a returned message with its whole body, and everything else it logs comes
/// to us as an error too, to be logged once, where it is handled.
pub const QUIET: &str = "lapin=off";

/// A queue on RabbitMQ.
pub struct RabbitQueue {
    address: Address,
    /// The last connection; it may be lost by now. Held only to look.
    current: Mutex<Option<Arc<Link>>>,
    /// Held while connecting, so that many callers make one connection.
    connecting: tokio::sync::Mutex<()>,
    /// Answers that no client's queue took.
    lost_replies: AtomicU64,
}

impl RabbitQueue {
    /// Connects to `url` (AMQP or AMQPS) and declares the topology.
    ///
    /// # Errors
    /// [`QueueError::Unreachable`] where nobody answers within ten seconds, [`QueueError::Refused`] for an address that
    /// is none, and for credentials, a virtual host or permissions that the broker does not accept.
    pub async fn open(url: &str) -> Result<Self, QueueError> {
        let address = Address::parse(url)?;
        let link = Link::open(&address).await?;
        Ok(Self {
            address,
            current: Mutex::new(Some(link)),
            connecting: tokio::sync::Mutex::default(),
            lost_replies: AtomicU64::new(0),
        })
    }

    /// Answers that no client's queue took, since this was opened.
    pub fn lost_replies(&self) -> u64 {
        self.lost_replies.load(Ordering::Relaxed)
    }

    /// A live connection with everything declared.
    async fn link(&self) -> Result<Arc<Link>, QueueError> {
        if let Some(link) = self.live() {
            link.declare().await?;
            return Ok(link);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(link) = self.live() {
            return Ok(link);
        }
        let link = Link::open(&self.address).await?;
        tracing::info!(place = self.address.shown, "connected again");
        *self.current() = Some(link.clone());
        Ok(link)
    }

    fn live(&self) -> Option<Arc<Link>> {
        self.current().as_ref().filter(|link| link.is_connected()).cloned()
    }

    fn current(&self) -> MutexGuard<'_, Option<Arc<Link>>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much lies in these queues: by declares that declare nothing, always on the same channel.
    async fn look(&self, queues: impl Iterator<Item = String>) -> Result<Vec<Depth>, QueueError> {
        let link = self.link().await?;
        let channel = link.looking().await?;
        let mut depths = Vec::new();
        for queue in queues {
            let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
            let what = format!("the depth of `{queue}`");
            let asked = channel.queue_declare(topology::short(&queue), options, FieldTable::default());
            let found = link.in_time(&what, asked).await?.map_err(|error| link.failed(&what, &error))?;
            depths.push(Depth {
                queue,
                ready: found.message_count().into(),
                unsettled: None,
                consumers: found.consumer_count().into(),
            });
        }
        Ok(depths)
    }

    /// Publishes what may be lost; without a connection it is lost, since connecting would hold up work.
    async fn whisper(&self, key: String, message: &impl Serialize) {
        let Some(link) = self.live() else { return };
        let body = serde_json::to_vec(message).expect("progress is plain data");
        if let Err(error) = publish::whispered(&link, topology::progress(), key, &body).await {
            tracing::debug!(%error, "progress is lost");
        }
    }
}

#[async_trait]
impl Queue for RabbitQueue {
    fn place(&self) -> String {
        self.address.shown.clone()
    }

    fn is_connected(&self) -> bool {
        self.live().is_some()
    }

    fn is_blocked(&self) -> bool {
        self.live().is_some_and(|link| link.connection.status().blocked())
    }

    async fn publish(&self, letters: &[Letter]) -> Result<(), QueueError> {
        letters.iter().try_for_each(|letter| check_size(&letter.body))?;
        let link = self.link().await?;
        let messages: Vec<_> = letters.iter().map(|letter| job(letter, topology::jobs(), Duration::ZERO)).collect();
        publish::confirmed(&link, messages).await
    }

    async fn consume(&self, kind: Kind, prefetch: u16) -> Result<Box<dyn Deliveries>, QueueError> {
        let link = self.link().await?;
        Ok(Box::new(link.in_time("consuming", consume::consume(&link, kind, prefetch)).await??))
    }

    async fn retry(&self, letter: &Letter, delay: Duration) -> Result<(), QueueError> {
        let link = self.link().await?;
        publish::confirmed(&link, [job(letter, topology::retry_for(delay), delay)]).await
    }

    async fn bury(&self, dead: &DeadLetter) -> Result<(), QueueError> {
        let body = serde_json::to_vec(dead).expect("a dead letter is plain data");
        let message = Outgoing {
            exchange: topology::dead(),
            key: topology::queue_of(dead.kind),
            mandatory: true,
            body: &body,
            properties: letters::json_properties(""),
        };
        let link = self.link().await?;
        publish::confirmed(&link, [message]).await
    }

    async fn publish_result(&self, result: &JobResult, reply: Option<&Reply>) -> Result<(), QueueError> {
        let body = result_body(result)?;
        let link = self.link().await?;
        let message = Outgoing {
            exchange: topology::results(),
            key: format!("{}.{}", result.run, result.kind),
            mandatory: false,
            body: &body,
            properties: letters::json_properties(""),
        };
        publish::confirmed(&link, [message]).await?;
        if let Some(reply) = reply
            && let Err(error) = publish::reply(&link, &body, reply).await
        {
            let lost_so_far = self.lost_replies.fetch_add(1, Ordering::Relaxed) + 1;
            let (run, id) = (result.run.as_str(), result.id.as_str());
            tracing::warn!(run, job.id = id, reply_to = reply.queue, lost_so_far, %error, "a client's answer is lost");
        }
        Ok(())
    }

    async fn publish_progress(&self, progress: &Progress) {
        self.whisper(format!("{}.progress", progress.run), progress).await;
    }

    async fn publish_heartbeat(&self, heartbeat: &Heartbeat) {
        self.whisper(topology::HEARTBEAT_KEY.into(), heartbeat.cut().as_ref()).await;
    }

    async fn publish_control(&self, control: &Control) -> Result<(), QueueError> {
        let link = self.link().await?;
        let body = serde_json::to_vec(control).expect("a word to workers is plain data");
        publish::whispered(&link, topology::control(), String::new(), &body).await
    }

    async fn watch(&self, run: &Name) -> Result<Box<dyn Events>, QueueError> {
        let link = self.link().await?;
        Ok(Box::new(link.in_time("watching", watch::watch(&link, run)).await??))
    }

    async fn heartbeats(&self) -> Result<Box<dyn Heartbeats>, QueueError> {
        let link = self.link().await?;
        Ok(Box::new(link.in_time("hearing the workers", watch::heartbeats(&link)).await??))
    }

    async fn listen(&self) -> Result<Box<dyn Controls>, QueueError> {
        let link = self.link().await?;
        Ok(Box::new(link.in_time("listening", watch::listen(&link)).await??))
    }

    async fn depths(&self) -> Result<Vec<Depth>, QueueError> {
        self.look(Topology::new().queues.into_iter().map(|queue| queue.name)).await
    }

    async fn depths_of(&self, kinds: &[Kind]) -> Result<Vec<Depth>, QueueError> {
        self.look(kinds.iter().map(|kind| topology::queue_of(*kind))).await
    }

    async fn dead(&self, most: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let link = self.link().await?;
        let channel = link.channel().await?;
        let what = "looking at dead letters";
        let mut letters = Vec::new();
        while letters.len() < most {
            let Some(message) = next_dead(&link, &channel, what).await? else { break };
            letters.push(letters::read_dead(&message));
        }
        if !letters.is_empty() {
            // All of this channel's, at once. Where this fails the channel's end gives them back.
            let given = link.in_time(what, channel.basic_nack(0, all_again())).await?;
            given.map_err(|error| link.failed(what, &error))?;
        }
        Ok(letters)
    }

    async fn remove_dead(&self, ids: &BTreeSet<String>) -> Result<u64, QueueError> {
        let link = self.link().await?;
        let channel = link.channel().await?;
        let what = "removing dead letters";
        let failed = |error: lapin::Error| link.failed(what, &error);
        let (mut removed, mut kept) = (0, 0);
        // Every one is taken before any is given back: the queue then has them in their order again.
        while let Some(message) = next_dead(&link, &channel, what).await? {
            if ids.contains(&letters::read_dead(&message).id()) {
                link.in_time(what, message.acker.ack(BasicAckOptions::default())).await?.map_err(failed)?;
                removed += 1;
            } else {
                kept += 1;
            }
        }
        if kept > 0 {
            link.in_time(what, channel.basic_nack(0, all_again())).await?.map_err(failed)?;
        }
        // Neither of the two is answered; this is, after them.
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::durable() };
        let asked = channel.queue_declare(topology::short(&topology::dead()), options, FieldTable::default());
        link.in_time(what, asked).await?.map_err(failed)?;
        Ok(removed)
    }
}

/// Takes the next dead letter.
async fn next_dead(link: &Link, channel: &Channel, what: &str) -> Result<Option<Delivery>, QueueError> {
    let asked = channel.basic_get(topology::short(&topology::dead()), BasicGetOptions::default());
    let got = link.in_time(what, asked).await?.map_err(|error| link.failed(what, &error))?;
    Ok(got.map(|message| message.delivery))
}

fn all_again() -> BasicNackOptions {
    BasicNackOptions { multiple: true, requeue: true }
}

/// A letter for `exchange`, due after `delay`. The fanout exchange of a retry queue ignores the key; dead-lettering takes it back by it.
fn job(letter: &Letter, exchange: String, delay: Duration) -> Outgoing<'_> {
    Outgoing {
        exchange,
        key: topology::queue_of(letter.kind),
        mandatory: true,
        body: &letter.body,
        properties: letters::properties(&letter.headers, SystemTime::now() + delay),
    }
}

impl fmt::Debug for RabbitQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RabbitQueue").field(&self.address.shown).finish()
    }
}

#[cfg(test)]
mod tests;
