//! What exists on a RabbitMQ broker: one table of data ([`Topology::new`]) and one function that
//! declares it. Publishes and consumes nothing.
//!
//! Names carry the contract's major version, so an old and a new fleet share a broker. Everything is
//! durable; every queue is a quorum queue. Whoever starts first declares.

use std::sync::LazyLock;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{Channel, Connection, Error, ErrorKind, ExchangeKind};

use crate::contract::{Kind, VERSION};

/// [`VERSION`], unless a test lets this program play a fleet of another contract (`GANNET_TEST_CONTRACT=v2`).
static SPOKEN: LazyLock<String> =
    LazyLock::new(|| std::env::var("GANNET_TEST_CONTRACT").unwrap_or_else(|_| VERSION.into()));

/// The waiting times of the retry queues, shortest first, with the ends of their names.
pub const RETRIES: [(Duration, &str); 4] = [
    (Duration::from_secs(5), "retry.5s"),
    (Duration::from_secs(30), "retry.30s"),
    (Duration::from_secs(2 * 60), "retry.2m"),
    (Duration::from_secs(10 * 60), "retry.10m"),
];

/// A safety net only: budgets are kept in the store. Up to RabbitMQ 4.2 every return counts, also a lost connection.
const DELIVERY_LIMIT: i32 = 100;

/// Results in the durable queue: what a reader who comes late may still want. The store is the truth.
const RESULTS_KEPT: i32 = 100_000;

/// The same in bytes, so that an unread queue never fills a broker's disk.
const RESULT_BYTES_KEPT: i32 = 512 * 1024 * 1024;

/// From RabbitMQ 4.0 a quorum queue without a limit drops a message after 20 returns, and every listing of the dead
/// letters returns them. Versions before 4.0 know no "unlimited", hence a number that is never reached.
const UNREACHED: i32 = 1_000_000_000;

/// The full name of `object`, as in `gannet.v1.jobs`.
pub fn name(object: &str) -> String {
    format!("gannet.{}.{object}", *SPOKEN)
}

/// The queue of a kind of jobs; also its routing key.
pub fn queue_of(kind: Kind) -> String {
    match kind {
        Kind::Trial => name("trials"),
        Kind::Batch => name("batches"),
    }
}

/// The direct exchange that takes jobs.
pub fn jobs() -> String {
    name("jobs")
}

/// The fanout exchange, and the queue, of what could not be done.
pub fn dead() -> String {
    name("dead")
}

/// The topic exchange, and the durable queue, of results; the key is `<run>.<kind>`.
pub fn results() -> String {
    name("results")
}

/// The topic exchange of progress (`<run>.progress`) and of heartbeats ([`HEARTBEAT_KEY`]).
pub fn progress() -> String {
    name("progress")
}

/// The routing key of heartbeats. A run called `workers` is another key: `workers.progress`.
pub const HEARTBEAT_KEY: &str = "workers.heartbeat";

/// The fanout exchange of words to all workers.
pub fn control() -> String {
    name("control")
}

/// The retry queue that waits at least `delay`, or the longest there is.
pub fn retry_for(delay: Duration) -> String {
    let longest = RETRIES[RETRIES.len() - 1].1;
    name(RETRIES.iter().find(|(wait, _)| *wait >= delay).map_or(longest, |(_, end)| end))
}

/// Everything that exists on a broker.
#[derive(Debug, Clone, PartialEq)]
pub struct Topology {
    /// Exchanges, by name.
    pub exchanges: Vec<(String, ExchangeKind)>,
    /// Queues.
    pub queues: Vec<QueueRow>,
}

/// A durable quorum queue.
#[derive(Debug, Clone, PartialEq)]
pub struct QueueRow {
    /// Its name.
    pub name: String,
    /// Its arguments beside `x-queue-type`.
    pub arguments: Vec<(&'static str, Argument)>,
    /// Exchange and routing key that lead to it.
    pub binding: (String, String),
}

/// The value of a queue's argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A text.
    Text(String),
    /// A whole number.
    Number(i32),
}

impl Topology {
    /// The table.
    pub fn new() -> Self {
        use Argument::{Number, Text};
        let text = |value: &str| Text(value.into());
        // Both ends of a job's way lose nothing: at-least-once needs reject-publish.
        let safely_to = |exchange: String| {
            vec![
                ("x-dead-letter-exchange", Text(exchange)),
                ("x-dead-letter-strategy", text("at-least-once")),
                ("x-overflow", text("reject-publish")),
            ]
        };
        let mut exchanges = vec![
            (jobs(), ExchangeKind::Direct),
            (dead(), ExchangeKind::Fanout),
            (results(), ExchangeKind::Topic),
            (control(), ExchangeKind::Fanout),
            (progress(), ExchangeKind::Topic),
        ];
        let mut queues = vec![QueueRow {
            name: dead(),
            arguments: vec![("x-delivery-limit", Number(UNREACHED))],
            binding: (dead(), String::new()),
        }];
        for kind in Kind::ALL {
            let mut arguments = safely_to(dead());
            arguments.push(("x-delivery-limit", Number(DELIVERY_LIMIT)));
            queues.push(QueueRow { name: queue_of(kind), arguments, binding: (jobs(), queue_of(kind)) });
        }
        for (wait, end) in RETRIES {
            // No x-dead-letter-routing-key: a letter keeps the key that leads back to its own queue.
            let mut arguments = safely_to(jobs());
            arguments.push(("x-message-ttl", Number(i32::try_from(wait.as_millis()).unwrap_or(i32::MAX))));
            exchanges.push((name(end), ExchangeKind::Fanout));
            queues.push(QueueRow { name: name(end), arguments, binding: (name(end), String::new()) });
        }
        queues.push(QueueRow {
            name: results(),
            arguments: vec![
                ("x-max-length", Number(RESULTS_KEPT)),
                ("x-max-length-bytes", Number(RESULT_BYTES_KEPT)),
                ("x-overflow", text("drop-head")),
            ],
            binding: (results(), "#".into()),
        });
        Self { exchanges, queues }
    }

    /// Declares everything that is not there yet. What somebody else declared in another way, or what this user may
    /// not declare, is used as it stands, and said in the log.
    ///
    /// Each refusal costs a channel, and a line in the broker's log. So a user who is refused once, as those of least
    /// privilege are, only looks from then on.
    ///
    /// # Errors
    /// The connection is lost, or something neither exists nor may be declared.
    pub async fn declare(&self, connection: &Connection) -> Result<(), Error> {
        let mut channel = connection.create_channel().await?;
        let mut looks = false;
        for (name, kind) in &self.exchanges {
            if !looks {
                match tolerated(name, declare_exchange(&channel, name, kind, false).await)? {
                    Declared::Done => continue,
                    Declared::Forbidden => looks = true,
                    Declared::Differs => {}
                }
                channel = connection.create_channel().await?;
            }
            declare_exchange(&channel, name, kind, true).await?;
        }
        for queue in &self.queues {
            if !looks {
                match tolerated(&queue.name, queue.declare(&channel, false).await)? {
                    Declared::Done => {}
                    declared => {
                        looks = matches!(declared, Declared::Forbidden);
                        channel = connection.create_channel().await?;
                        queue.declare(&channel, true).await?;
                    }
                }
            } else {
                queue.declare(&channel, true).await?;
            }
            // Nothing can look at a binding; without it, a mandatory publish tells.
            if !looks && !matches!(tolerated(&queue.name, queue.bind(&channel).await)?, Declared::Done) {
                channel = connection.create_channel().await?;
            }
        }
        Ok(())
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self::new()
    }
}

impl QueueRow {
    async fn declare(&self, channel: &Channel, passive: bool) -> Result<(), Error> {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), long("quorum"));
        for (key, value) in &self.arguments {
            let value = match value {
                Argument::Text(text) => long(text),
                Argument::Number(number) => AMQPValue::LongInt(*number),
            };
            arguments.insert((*key).into(), value);
        }
        let options = QueueDeclareOptions { passive, ..QueueDeclareOptions::durable() };
        channel.queue_declare(short(&self.name), options, arguments).await.map(|_| ())
    }

    async fn bind(&self, channel: &Channel) -> Result<(), Error> {
        let (exchange, key) = &self.binding;
        let options = QueueBindOptions::default();
        channel.queue_bind(short(&self.name), short(exchange), short(key), options, FieldTable::default()).await
    }
}

async fn declare_exchange(channel: &Channel, name: &str, kind: &ExchangeKind, passive: bool) -> Result<(), Error> {
    let options = ExchangeDeclareOptions { passive, durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(short(name), kind.clone(), options, FieldTable::default()).await
}

/// What came of a declaration. The channel is closed unless it is done.
enum Declared {
    Done,
    /// 403: this user may not.
    Forbidden,
    /// 406: it is there, in another way.
    Differs,
}

/// Tells refusals that we live with from errors.
fn tolerated(name: &str, declared: Result<(), Error>) -> Result<Declared, Error> {
    let Err(error) = declared else { return Ok(Declared::Done) };
    match error.kind() {
        ErrorKind::ProtocolError(protocol) if protocol.get_id() == 403 => {
            tracing::debug!(object = name, reason = %protocol.get_message(), "not allowed to declare: used as it stands");
            Ok(Declared::Forbidden)
        }
        ErrorKind::ProtocolError(protocol) if protocol.get_id() == 406 => {
            tracing::warn!(object = name, reason = %protocol.get_message(), "differs on this broker: used as it stands");
            Ok(Declared::Differs)
        }
        _ => Err(error),
    }
}

fn long(text: &str) -> AMQPValue {
    AMQPValue::LongString(LongString::from(text))
}

/// A text that is known to be short: our own names, a run's name (at most 64 bytes), a checked reply queue.
pub(super) fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_retry_above_is_taken() {
        for (seconds, expected) in
            [(0, "5s"), (5, "5s"), (6, "30s"), (30, "30s"), (31, "2m"), (121, "10m"), (600, "10m"), (86_400, "10m")]
        {
            assert_eq!(retry_for(Duration::from_secs(seconds)), format!("gannet.v1.retry.{expected}"), "{seconds} s");
        }
    }

    #[test]
    fn at_least_once_always_stands_with_reject_publish_and_an_exchange_that_exists() {
        let topology = Topology::new();
        let value = |queue: &QueueRow, key: &str| {
            queue.arguments.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone())
        };
        let exists = |exchange: &str| topology.exchanges.iter().any(|(name, _)| name == exchange);
        for queue in &topology.queues {
            assert!(exists(&queue.binding.0), "{}", queue.name);
            assert_eq!(value(queue, "x-dead-letter-routing-key"), None, "{}", queue.name);
            if value(queue, "x-dead-letter-strategy").is_some() {
                assert_eq!(value(queue, "x-overflow"), Some(Argument::Text("reject-publish".into())));
                let target = value(queue, "x-dead-letter-exchange");
                assert!(matches!(target, Some(Argument::Text(target)) if exists(&target)), "{}", queue.name);
            }
        }
        assert_eq!(topology.queues.len(), 8);
    }
}
