//! One connection to the broker: opened within a time limit, topology declared, channels for publishing lent out.
//! Knows no jobs.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use lapin::options::ConfirmSelectOptions;
use lapin::protocol::AMQPErrorKind;
use lapin::uri::AMQPUri;
use lapin::{Channel, Connection, ConnectionProperties, Error, ErrorKind, Event};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use crate::queue::QueueError;
use crate::queue::topology::Topology;

/// For the address, TCP, TLS and the AMQP handshake together.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// Electing leaders for a cluster's quorum queues takes a while.
const DECLARE_LIMIT: Duration = Duration::from_secs(60);

/// A peer that is gone is noticed after two of these, in seconds; shorter ones fire falsely on a busy network
/// (RabbitMQ's guide recommends 5 to 20).
const HEARTBEAT_S: u16 = 15;

/// Answers to everything but confirms take milliseconds.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Channels for publishing at once. A confirm takes milliseconds, so as many carry tens of thousands of messages a second;
/// brokers allow 2,047 channels a connection unless they are set up otherwise, and each consumer has one.
const MOST_PUBLISHING: u16 = 128;

/// Where the broker is, with and without its password.
#[derive(Clone)]
pub(super) struct Address {
    uri: AMQPUri,
    /// For messages to people.
    pub(super) shown: String,
}

impl Address {
    /// See [`Link::in_time`].
    pub(super) async fn in_time<T>(&self, what: &str, call: impl Future<Output = T>) -> Result<T, QueueError> {
        let answered = tokio::time::timeout(ANSWER_LIMIT, call).await;
        answered.map_err(|_| self.unreachable(format!("{what}: no answer within {ANSWER_LIMIT:?}")))
    }

    /// Reads an AMQP address.
    pub(super) fn parse(url: &str) -> Result<Self, QueueError> {
        let shown = crate::settings::redact(url);
        let mut uri: AMQPUri = url.parse().map_err(|reason| QueueError::Refused {
            place: shown.clone(),
            what: "this address".into(),
            reason: format!("{reason}: one like amqp://user:password@host:5672/%2f is accepted"),
        })?;
        // lapin's parser knows names and IPv4 only, and would quietly connect to localhost.
        if let Some(host) = bracketed(url) {
            uri.authority.host = host.into();
        }
        uri.query.heartbeat = uri.query.heartbeat.or(Some(HEARTBEAT_S));
        Ok(Self { uri, shown })
    }

    /// The connection, a channel or a consumer is gone, or nobody answers.
    pub(super) fn unreachable(&self, reason: impl Into<String>) -> QueueError {
        QueueError::Unreachable { place: self.shown.clone(), reason: reason.into() }
    }

    pub(super) fn refused(&self, what: impl Into<String>, reason: impl Into<String>) -> QueueError {
        QueueError::Refused { place: self.shown.clone(), what: what.into(), reason: reason.into() }
    }

    /// What came back when `what` was asked.
    pub(super) fn failed(&self, what: &str, error: &Error) -> QueueError {
        let ErrorKind::ProtocolError(protocol) = error.kind() else {
            return self.unreachable(format!("{what}: {error}"));
        };
        let message = protocol.get_message();
        match (protocol.kind(), protocol.get_id()) {
            // 404: a queue that was deleted, or whose node is down; the next call declares again. 405: a queue that an
            // old connection of somebody's still holds.
            (AMQPErrorKind::Soft(_), 404 | 405) => self.unreachable(format!("{what}: {message}")),
            // 403 credentials or permissions, 530 no such virtual host.
            (AMQPErrorKind::Soft(_), _) | (_, 530) => self.refused(what, message.as_str()),
            // 320: an operator closed the connection, or the broker stops.
            (AMQPErrorKind::Hard(_), _) => self.unreachable(format!("{what}: {message}")),
        }
    }

    fn target(&self) -> String {
        format!("{}:{}", self.uri.authority.host, self.uri.authority.port)
    }
}

fn bracketed(url: &str) -> Option<&str> {
    let authority = url.split_once("://")?.1.split(['/', '?']).next()?;
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    host.strip_prefix('[')?.split_once(']').map(|(host, _)| host)
}

/// A live connection. Channels hold it open, so receipts keep working after the queue has opened another.
pub(super) struct Link {
    pub(super) address: Address,
    pub(super) connection: Connection,
    /// Channels in confirm mode that nobody uses now. One caller at a time has a channel, because lapin gives a returned
    /// message to whichever confirm comes next on it.
    idle: Mutex<Vec<Channel>>,
    /// Bounds them: a quarter of what the broker allows, the others are for consumers, and at most [`MOST_PUBLISHING`].
    turns: Semaphore,
    /// The unconfirmed channel.
    whisper: tokio::sync::Mutex<Option<Channel>>,
    /// The channel on which depths are asked for.
    looking: tokio::sync::Mutex<Option<Channel>>,
    /// Cleared when something turns out to be missing.
    declared: AtomicBool,
}

impl Link {
    /// Connects and declares the topology.
    pub(super) async fn open(address: &Address) -> Result<Arc<Self>, QueueError> {
        let name = format!("gannet {} pid {}", env!("CARGO_PKG_VERSION"), std::process::id());
        let properties = ConnectionProperties::default().with_connection_name(name.into());
        let what = format!("connecting to {}", address.target());
        let connecting = Connection::connect_uri(address.uri.clone(), properties);
        let connection = match timeout(CONNECT_LIMIT, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(error)) if error.is_io_error() => {
                let hint = crate::settings::certificate_hint(&error.to_string())
                    .unwrap_or("is RabbitMQ running there? Without GANNET_AMQP_URL the embedded queue is used");
                return Err(address.unreachable(format!("{what}: {error}; {hint}")));
            }
            Ok(Err(error)) => return Err(address.failed(&what, &error)),
            Err(_) => return Err(address.unreachable(format!("{what}: no answer within {CONNECT_LIMIT:?}"))),
        };
        tokio::spawn(tell_of_blocking(address.shown.clone(), connection.events_listener()));
        let most = (connection.configuration().channel_max() / 4).clamp(1, MOST_PUBLISHING);
        let link = Self {
            address: address.clone(),
            connection,
            idle: Mutex::default(),
            turns: Semaphore::new(most.into()),
            whisper: tokio::sync::Mutex::default(),
            looking: tokio::sync::Mutex::default(),
            declared: AtomicBool::new(false),
        };
        link.declare().await?;
        Ok(Arc::new(link))
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connection.status().connected()
    }

    /// Declares the topology unless that is done.
    pub(super) async fn declare(&self) -> Result<(), QueueError> {
        if self.declared.load(Ordering::Acquire) {
            return Ok(());
        }
        match timeout(DECLARE_LIMIT, Topology::new().declare(&self.connection)).await {
            Ok(declared) => declared.map_err(|error| self.failed("declaring the topology", &error))?,
            Err(_) => {
                let reason = format!("declaring the topology: no answer within {DECLARE_LIMIT:?}");
                return Err(self.address.unreachable(reason));
            }
        }
        self.declared.store(true, Ordering::Release);
        Ok(())
    }

    /// Something is missing on the broker: the next call declares again.
    pub(super) fn is_incomplete(&self) {
        self.declared.store(false, Ordering::Release);
    }

    /// What came back when `what` was asked.
    pub(super) fn failed(&self, what: &str, error: &Error) -> QueueError {
        if matches!(error.kind(), ErrorKind::ProtocolError(protocol) if protocol.get_id() == 404) {
            self.is_incomplete();
        }
        self.address.failed(what, error)
    }

    /// What `call` comes to, unless the broker does not answer: a connection that dies at a bad moment can
    /// leave a call of lapin's without an answer for good.
    pub(super) async fn in_time<T>(&self, what: &str, call: impl Future<Output = T>) -> Result<T, QueueError> {
        self.address.in_time(what, call).await
    }

    /// A fresh channel.
    pub(super) async fn channel(&self) -> Result<Channel, QueueError> {
        let opened = self.in_time("opening a channel", self.connection.create_channel()).await?;
        opened.map_err(|error| self.failed("opening a channel", &error))
    }

    /// A turn at publishing, as soon as there is one. Held for as long as a [`Link::confirming_channel`] is.
    pub(super) async fn turn(&self) -> SemaphorePermit<'_> {
        self.turns.acquire().await.expect("it is never closed")
    }

    /// A channel in confirm mode that nobody else has, for whoever has a [`Link::turn`]. Give it back with
    /// [`Link::put_back`] when all is confirmed; after an error drop it, which closes it.
    pub(super) async fn confirming_channel(&self) -> Result<Channel, QueueError> {
        while let Some(channel) = self.idle().pop() {
            if channel.status().connected() {
                return Ok(channel);
            }
        }
        let channel = self.channel().await?;
        let selected = channel.confirm_select(ConfirmSelectOptions::default());
        let selected = self.in_time("publisher confirms", selected).await?;
        selected.map_err(|error| self.failed("publisher confirms", &error))?;
        Ok(channel)
    }

    pub(super) fn put_back(&self, channel: Channel) {
        self.idle().push(channel);
    }

    /// The channel for what may be lost.
    pub(super) async fn whisper(&self) -> Result<Channel, QueueError> {
        self.kept(&self.whisper).await
    }

    /// The channel on which depths are asked for.
    pub(super) async fn looking(&self) -> Result<Channel, QueueError> {
        self.kept(&self.looking).await
    }

    /// The channel of this slot; a fresh one where there is none, or it was closed.
    async fn kept(&self, slot: &tokio::sync::Mutex<Option<Channel>>) -> Result<Channel, QueueError> {
        let mut slot = slot.lock().await;
        if let Some(channel) = slot.as_ref().filter(|channel| channel.status().connected()) {
            return Ok(channel.clone());
        }
        let channel = self.channel().await?;
        *slot = Some(channel.clone());
        Ok(channel)
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Channel>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A broker that runs out of memory or disk stops reading from publishers; without a word they would seem to hang. Ends
/// with the connection.
async fn tell_of_blocking(place: String, events: impl futures::Stream<Item = Event>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        match event {
            Event::ConnectionBlocked(reason) => tracing::warn!(place, reason, "the broker takes no messages now"),
            Event::ConnectionUnblocked => tracing::info!(place, "the broker takes messages again"),
            Event::Error(error) => tracing::debug!(place, %error, "the connection or a channel has ended"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses_and_never_shows_a_password() {
        for (url, host, port) in [
            ("amqp://u:secret@broker:1234/%2f", "broker", 1234),
            ("amqp://u:secret@127.0.0.1", "127.0.0.1", 5672),
            ("amqps://u:secret@[::1]:99/x", "::1", 99),
            ("amqps://broker/x?heartbeat=7", "broker", 5671),
        ] {
            let address = Address::parse(url).expect("valid");
            assert_eq!((address.uri.authority.host.as_str(), address.uri.authority.port), (host, port), "{url}");
            assert!(!address.shown.contains("secret"));
        }
        let error = Address::parse("amqp://u:secret@host:port/").err().expect("no port").to_string();
        assert!(error.contains("is accepted") && !error.contains("secret"), "{error}");
    }
}
