//! The queue seam: jobs to workers, results and progress back, words to all workers.
//!
//! Two implementations, [`rabbit`] for fleets and [`sqlite`] for one machine, pass one contract
//! suite (`contract_suite`, compiled for tests). Every publish of a job, a result, a retry or a
//! dead letter is confirmed when its call returns; progress and heartbeats are not.
//!
//! Delivery is at least once. A delivery that is neither acknowledged nor released comes again, to
//! another consumer, marked `redelivered`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::contract::{Control, Heartbeat, Job, JobResult, Kind, MAX_MESSAGE, Progress};
use crate::digest::Digest;
use crate::names::{JobId, Name};
use crate::settings::{Places, QueuePlace};

#[cfg(test)]
mod contract_suite;
pub mod rabbit;
pub mod sqlite;
pub mod topology;

/// Opens the queue of `places`: connects and declares the topology, or creates the file.
///
/// # Errors
/// It cannot be reached or refuses; the error says what was tried.
pub async fn open(places: &Places) -> Result<Arc<dyn Queue>, QueueError> {
    open_at(&places.queue).await
}

/// Opens the queue at `place`, for programs that need no store.
///
/// # Errors
/// As [`open`].
pub async fn open_at(place: &QueuePlace) -> Result<Arc<dyn Queue>, QueueError> {
    Ok(match place {
        QueuePlace::Amqp(url) => Arc::new(rabbit::RabbitQueue::open(url).await?),
        QueuePlace::File(path) => Arc::new(sqlite::SqliteQueue::open(path).await?),
    })
}

/// A queue of jobs and its side channels. Cheap to share; reconnects by itself: a call that fails
/// with [`QueueError::Unreachable`] may be made again.
#[async_trait]
pub trait Queue: Send + Sync + fmt::Debug {
    /// Where it is, without credentials, for messages to people.
    fn place(&self) -> String;

    /// Whether the last connection lives, as far as is known without asking. Calls connect again by themselves.
    fn is_connected(&self) -> bool {
        true
    }

    /// Whether it takes no messages now, since its memory or its disk is short: what others say cannot be heard either. A
    /// broker tells that only who has published since it began.
    fn is_blocked(&self) -> bool {
        false
    }

    /// Publishes jobs, all confirmed when this returns. After an error some may have been published:
    /// publishing them again ([`Letter::again`]) is harmless, since a job's id makes its result one.
    /// A letter without a message id gets a fresh one.
    async fn publish(&self, letters: &[Letter]) -> Result<(), QueueError>;

    /// Starts to take jobs of `kind`, at most `prefetch` unsettled at once.
    async fn consume(&self, kind: Kind, prefetch: u16) -> Result<Box<dyn Deliveries>, QueueError>;

    /// This queue, taking jobs of one run only: for the workers inside a command, which are there for
    /// their own run and not for what others left. `None` where the queue cannot: a fleet's workers are
    /// everybody's.
    fn of_run(&self, run: &Name) -> Option<Arc<dyn Queue>> {
        let _ = run;
        None
    }

    /// Publishes a letter, under the message id that it has, to come to its kind's queue after about `delay`
    /// (RabbitMQ's retry queues have 5 s, 30 s, 2 min and 10 min; the nearest above is taken).
    async fn retry(&self, letter: &Letter, delay: Duration) -> Result<(), QueueError>;

    /// Puts away what cannot be done, with the reason.
    async fn bury(&self, dead: &DeadLetter) -> Result<(), QueueError>;

    /// Publishes a result to everyone who watches, and to `reply_to` where the job named one.
    ///
    /// A reply queue that is gone or refuses is logged and is no error: the result stands in the store.
    async fn publish_result(&self, result: &JobResult, reply: Option<&Reply>) -> Result<(), QueueError>;

    /// Tells watchers how a job moves on. Losing it is no error.
    async fn publish_progress(&self, progress: &Progress);

    /// Tells everyone that a worker is alive. Losing it is no error.
    async fn publish_heartbeat(&self, heartbeat: &Heartbeat);

    /// Says something to every worker.
    async fn publish_control(&self, control: &Control) -> Result<(), QueueError>;

    /// Watches one run's results and progress. What was published before is not seen: watchers reconcile with the store.
    async fn watch(&self, run: &Name) -> Result<Box<dyn Events>, QueueError>;

    /// Hears the workers' heartbeats from now on, and nothing else: a busy fleet's results would flood who wants them.
    async fn heartbeats(&self) -> Result<Box<dyn Heartbeats>, QueueError>;

    /// What is said to every worker from now on.
    async fn listen(&self) -> Result<Box<dyn Controls>, QueueError>;

    /// How much lies where.
    async fn depths(&self) -> Result<Vec<Depth>, QueueError>;

    /// The same of the queues of these kinds of jobs alone, for who looks several times a second.
    async fn depths_of(&self, kinds: &[Kind]) -> Result<Vec<Depth>, QueueError> {
        let wanted: Vec<String> = kinds.iter().map(|kind| topology::queue_of(*kind)).collect();
        Ok(self.depths().await?.into_iter().filter(|depth| wanted.contains(&depth.queue)).collect())
    }

    /// The jobs of a run that lie here or are in somebody's hands; `None` where the queue cannot tell.
    async fn jobs_of(&self, run: &Name) -> Result<Option<BTreeSet<JobId>>, QueueError> {
        let _ = run;
        Ok(None)
    }

    /// Removes the jobs of a run that wait here, as far as the queue can; returns how many. Those in somebody's hands
    /// stay. For runs that are cancelled or deleted: elsewhere a worker drops such a job when it meets it, but a folder
    /// may have no worker that ever takes it.
    async fn forget(&self, run: &Name) -> Result<u64, QueueError> {
        let _ = run;
        Ok(0)
    }

    /// Up to `most` dead letters, oldest first, left where they are.
    async fn dead(&self, most: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// Removes the dead letters of these ids ([`DeadLetter::id`]), in one pass over all there are; the others stay, in
    /// their order. Returns how many it removed. Whoever looks at the same moment may see none.
    async fn remove_dead(&self, ids: &BTreeSet<String>) -> Result<u64, QueueError>;
}

/// A stream of deliveries. Dropping it stops consuming; unsettled deliveries come again elsewhere, marked as
/// redelivered.
#[async_trait]
pub trait Deliveries: Send {
    /// Stops consuming and returns what has come and was not taken, so that it can be settled without that mark: a
    /// worker that stops must not look like one that was lost.
    async fn stop(self: Box<Self>) -> Vec<Delivery>;

    /// The next delivery. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost: consume again.
    async fn next(&mut self) -> Result<Delivery, QueueError>;
}

/// A stream of heartbeats.
#[async_trait]
pub trait Heartbeats: Send {
    /// The next one. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost: listen again.
    async fn next(&mut self) -> Result<Heartbeat, QueueError>;
}

/// A stream of a run's results and progress.
#[async_trait]
pub trait Events: Send {
    /// The next event. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost: watch again and reconcile with the store.
    async fn next(&mut self) -> Result<Event, QueueError>;
}

/// A stream of words to all workers.
#[async_trait]
pub trait Controls: Send {
    /// The next word. Cancel-safe.
    ///
    /// # Errors
    /// The connection is lost: listen again.
    async fn next(&mut self) -> Result<Control, QueueError>;
}

/// Something a watcher sees.
#[derive(Debug, Clone)]
pub enum Event {
    /// A job ended.
    Result(Box<JobResult>),
    /// A job moved on.
    Progress(Box<Progress>),
}

/// A job as it travels: its body, untouched from the client's hand to the last retry, and what goes
/// with it in properties and headers.
#[derive(Debug, Clone, PartialEq)]
pub struct Letter {
    /// Whose queue it belongs to.
    pub kind: Kind,
    /// The job, as JSON.
    pub body: Vec<u8>,
    /// What goes with it.
    pub headers: Headers,
}

/// What goes with a job and is not part of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Headers {
    /// Fresh for every job and every slice that is published; a redelivery keeps it, and so does a letter that is
    /// passed on or tried again. Empty when a client sent none.
    pub message_id: String,
    /// Where a client wants its results too.
    pub reply: Option<Reply>,
    /// W3C trace context: whose children the spans of its deliveries are (header `traceparent`).
    pub traceparent: Option<String>,
    /// The span of the delivery that published this letter, where one did: a slice before, an attempt before (header
    /// `gannet-previous`, 16 hexadecimal digits).
    pub previous: Option<String>,
    /// Which slice of the job this delivery is to compute, from 0 (header `gannet-slice`).
    pub slice: u32,
    /// Attempts that were spent so far (header `gannet-attempts`, as JSON).
    pub attempts: Attempts,
}

/// A client's own results queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reply {
    /// The queue (`reply_to`).
    pub queue: String,
    /// Repeated in the answer (`correlation_id`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
}

impl Reply {
    /// Whether a client may name this queue: not ours and not the broker's, apart from direct reply-to
    /// and from the names that the broker gives to a client's own queues (`amq.gen-…`).
    pub fn is_allowed(&self) -> bool {
        let given = ["amq.rabbitmq.reply-to", "amq.gen-"].iter().any(|start| self.queue.starts_with(start));
        let taken = ["gannet.", "amq."].iter().any(|start| self.queue.starts_with(start));
        !self.queue.is_empty() && self.queue.len() <= 255 && (given || !taken)
    }
}

/// Attempts that a job has spent, by what ended them. Each has a budget of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Attempts {
    /// The executor reported an error.
    pub errors: u32,
    /// The executor died.
    pub crashes: u32,
    /// The worker was lost; one that is told to stop costs none.
    pub preemptions: u32,
}

/// A letter in a worker's hands.
pub struct Delivery {
    /// What was delivered.
    pub letter: Letter,
    /// Whether an earlier delivery of it was not settled.
    pub redelivered: bool,
    /// When it was put where it was taken from, or was due to be: by the clock of whoever did. Unknown where a client does
    /// not say.
    pub enqueued: Option<SystemTime>,
    /// Cancelled when it can no longer be settled (the connection or the lease is lost): drop the
    /// work, it has gone to somebody else.
    pub lost: CancellationToken,
    /// Settles it.
    pub receipt: Box<dyn Receipt>,
}

/// Settles one delivery, once. Dropping it releases the delivery.
#[async_trait]
pub trait Receipt: Send + Sync {
    /// It is done with.
    async fn ack(self: Box<Self>) -> Result<(), QueueError>;

    /// Somebody else may have it, now.
    async fn release(self: Box<Self>) -> Result<(), QueueError>;
}

/// A job that could not be done, or a message that is none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadLetter {
    /// Which queue it came from.
    pub kind: Kind,
    /// `unreadable`, the code of the last error (`failed`, `crashed`, `preempted`, …), or `broker` where the broker itself
    /// put it away.
    pub reason: String,
    /// The last error, outermost first.
    pub errors: Vec<String>,
    /// What was tried.
    pub attempts: Attempts,
    /// The worker that gave up.
    pub worker: String,
    /// The body: text where it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// The body where it is not UTF-8, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_hex: Option<String>,
    /// Where a client wants the result, too: for when the job is put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reply: Option<Reply>,
    /// W3C trace context of its letter: for when the job is put back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// The span of the delivery that gave up, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<String>,
    /// When, RFC 3339.
    pub at: jiff::Timestamp,
}

/// Messages in one queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Depth {
    /// Its name.
    pub queue: String,
    /// Messages nobody has taken.
    pub ready: u64,
    /// Messages in workers' hands, where the broker tells.
    pub unsettled: Option<u64>,
    /// Consumers.
    pub consumers: u64,
}

/// What can go wrong with a queue.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Nobody answers there, or the connection was lost. Try again.
    #[error("the queue at {place} cannot be reached: {reason}")]
    Unreachable {
        /// Where, without credentials.
        place: String,
        /// What was tried and what came back.
        reason: String,
    },
    /// It answers, and refuses: credentials, permissions, a queue of another shape.
    #[error("the queue at {place} refused {what}: {reason}")]
    Refused {
        /// Where, without credentials.
        place: String,
        /// What was asked.
        what: String,
        /// What it said.
        reason: String,
    },
    /// A message that is too large to publish.
    #[error("a message of {size} bytes is over the limit of {limit}: put what it holds into the store and refer to it")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
}

impl QueueError {
    /// Whether the same call may succeed later.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { .. } | Self::TooLarge { .. } => false,
        }
    }
}

impl Letter {
    /// The first letter of a job: slice 0, a fresh message id.
    pub fn new(job: &Job) -> Self {
        let body = serde_json::to_vec(job).expect("a job is plain data");
        Self { kind: job.kind(), body, headers: Headers { message_id: fresh_message_id(), ..Headers::default() } }
    }

    /// The same job as another publish, with a fresh message id.
    #[must_use]
    pub fn again(&self) -> Self {
        let mut letter = self.clone();
        letter.headers.message_id = fresh_message_id();
        letter
    }
}

/// What a dead letter keeps of a body, in bytes: four times what a job may have, far below any broker's limit.
const MOST_BURIED: usize = 4 * MAX_MESSAGE;

impl DeadLetter {
    /// A dead letter of `letter`. Its body is kept whole up to 1 MiB, so that no message is too large to be put away.
    pub fn of(letter: &Letter, reason: &str, mut errors: Vec<String>, worker: &str) -> Self {
        let size = letter.body.len();
        if size > MOST_BURIED {
            errors.push(format!("only the first {MOST_BURIED} of the body's {size} bytes are kept here"));
        }
        let text = String::from_utf8(letter.body[..size.min(MOST_BURIED)].to_vec());
        let (job, job_hex) = match text {
            Ok(text) => (Some(text), None),
            Err(error) => (None, Some(hex::encode(error.as_bytes()))),
        };
        Self {
            kind: letter.kind,
            reason: reason.into(),
            errors,
            attempts: letter.headers.attempts,
            worker: worker.into(),
            job,
            job_hex,
            reply: letter.headers.reply.clone(),
            traceparent: letter.headers.traceparent.clone(),
            previous: letter.headers.previous.clone(),
            at: jiff::Timestamp::now(),
        }
    }
}

impl DeadLetter {
    /// What it goes by: the beginning of its content's digest, so that it is the same wherever it is read.
    pub fn id(&self) -> String {
        let text = serde_json::to_vec(self).expect("a dead letter is plain data");
        Digest::of(&text).to_string()[..12].into()
    }
}

/// A message id that no other publish has.
pub fn fresh_message_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// A result as a message.
///
/// # Errors
/// [`QueueError::TooLarge`]: the caller stores the outcome and publishes a reference.
fn result_body(result: &JobResult) -> Result<Vec<u8>, QueueError> {
    let body = serde_json::to_vec(result).expect("a result is plain data");
    check_size(&body)?;
    Ok(body)
}

fn check_size(body: &[u8]) -> Result<(), QueueError> {
    let (size, limit) = (body.len(), MAX_MESSAGE);
    if size > limit { Err(QueueError::TooLarge { size, limit }) } else { Ok(()) }
}

/// Depths by queue name.
pub fn by_name(depths: Vec<Depth>) -> BTreeMap<String, Depth> {
    depths.into_iter().map(|depth| (depth.queue.clone(), depth)).collect()
}
