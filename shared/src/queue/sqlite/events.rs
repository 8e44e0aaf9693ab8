//! Results, progress, heartbeats and words to workers: one growing table with sequence numbers, cut at its old end.
//! A watcher remembers where it was and reads on; sequence numbers are given inside write transactions, so a reader that
//! has seen one has seen all before it.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::OptionalExtension;
use serde::de::DeserializeOwned;

use super::Inner;
use super::desk::Desk;
use crate::contract::{Control, Heartbeat};
use crate::names::Name;
use crate::queue::{Controls, Event, Events, Heartbeats, QueueError, Reply};

/// Rows kept: what the slowest watcher may be behind. Who is further behind reconciles with the store.
const KEPT: i64 = 20_000;

/// Rows read at once.
const PAGE: i64 = 256;

/// What a row is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Topic {
    Result,
    Progress,
    Heartbeat,
    Control,
}

impl Topic {
    fn as_str(self) -> &'static str {
        match self {
            Self::Result => "result",
            Self::Progress => "progress",
            Self::Heartbeat => "heartbeat",
            Self::Control => "control",
        }
    }

    fn read(text: &str) -> Option<Self> {
        [Self::Result, Self::Progress, Self::Heartbeat, Self::Control].into_iter().find(|topic| topic.as_str() == text)
    }
}

impl Desk {
    pub(super) fn tell_all(&mut self, topic: Topic, run: Option<&str>, body: &str) -> rusqlite::Result<()> {
        let insert = "INSERT INTO events (topic, run, body) VALUES (?, ?, ?)";
        self.file.prepare_cached(insert)?.execute((topic.as_str(), run, body))?;
        let oldest = self.file.last_insert_rowid() - KEPT;
        self.file.prepare_cached("DELETE FROM events WHERE seq <= ?")?.execute([oldest]).map(|_| ())
    }

    /// Puts an answer into a client's queue. Queues here exist by being named; unread answers are cut as events are.
    pub(super) fn reply(&mut self, reply: &Reply, body: &[u8]) -> rusqlite::Result<()> {
        let insert = "INSERT INTO replies (queue, correlation_id, body) VALUES (?, ?, ?)";
        self.file.prepare_cached(insert)?.execute((&reply.queue, &reply.correlation_id, body))?;
        let oldest = self.file.last_insert_rowid() - KEPT;
        self.file.prepare_cached("DELETE FROM replies WHERE seq <= ?")?.execute([oldest]).map(|_| ())
    }

    /// Takes the oldest answer from a client's queue.
    pub(super) fn take_reply(&mut self, queue: &str) -> rusqlite::Result<Option<(Option<String>, Vec<u8>)>> {
        let take = "DELETE FROM replies WHERE seq = (SELECT min(seq) FROM replies WHERE queue = ?)
             RETURNING correlation_id, body";
        self.file.prepare_cached(take)?.query_row([queue], |row| Ok((row.get(0)?, row.get(1)?))).optional()
    }

    /// The sequence number of the newest row there ever was.
    pub(super) fn newest(&mut self) -> rusqlite::Result<i64> {
        let newest = "SELECT seq FROM sqlite_sequence WHERE name = 'events'";
        Ok(self.file.prepare_cached(newest)?.query_row([], |row| row.get(0)).optional()?.unwrap_or(0))
    }

    /// The rows after `seq` that `wanted` asks for, and how far that is.
    fn page(&mut self, seq: i64, wanted: &Wanted) -> rusqlite::Result<(Vec<(Topic, String)>, i64)> {
        let select = "SELECT seq, topic, run, body FROM events WHERE seq > ? ORDER BY seq LIMIT ?";
        let mut statement = self.file.prepare_cached(select)?;
        let mut rows = statement.query((seq, PAGE))?;
        let (mut found, mut seen) = (Vec::new(), seq);
        while let Some(row) = rows.next()? {
            seen = row.get(0)?;
            let run = row.get_ref(2)?.as_str_or_null()?;
            if let Some(topic) = Topic::read(row.get_ref(1)?.as_str()?)
                && wanted.takes(topic, run)
            {
                found.push((topic, row.get(3)?));
            }
        }
        Ok((found, seen))
    }
}

/// What a watcher is after.
#[derive(Debug, Clone)]
enum Wanted {
    Run(String),
    Heartbeats,
    Control,
}

impl Wanted {
    fn takes(&self, topic: Topic, run: Option<&str>) -> bool {
        match self {
            Self::Run(wanted) => matches!(topic, Topic::Result | Topic::Progress) && run == Some(wanted),
            Self::Heartbeats => topic == Topic::Heartbeat,
            Self::Control => topic == Topic::Control,
        }
    }
}

/// Reads on from a sequence number.
struct Reader {
    inner: Arc<Inner>,
    wanted: Wanted,
    seen: i64,
    ahead: VecDeque<(Topic, String)>,
}

impl Reader {
    async fn from_now_on(inner: &Arc<Inner>, wanted: Wanted) -> Result<Self, QueueError> {
        let seen = inner.clerk.call("starting to watch", Desk::newest).await?;
        Ok(Self { inner: inner.clone(), wanted, seen, ahead: VecDeque::new() })
    }

    /// Cancel-safe: position and rows change together, after the last await.
    async fn next(&mut self) -> Result<(Topic, String), QueueError> {
        loop {
            if let Some(row) = self.ahead.pop_front() {
                return Ok(row);
            }
            let (seen, wanted) = (self.seen, self.wanted.clone());
            let page = self.inner.clerk.call("watching", move |desk| desk.page(seen, &wanted)).await?;
            let moved = page.1 > self.seen;
            (self.ahead, self.seen) = (page.0.into(), page.1);
            if !moved {
                self.inner.pause().await;
            }
        }
    }
}

/// A run's results and progress.
pub(super) struct SqliteEvents(Reader);

/// The workers' heartbeats.
pub(super) struct SqliteHeartbeats(Reader);

/// Words to all workers.
pub(super) struct SqliteControls(Reader);

pub(super) async fn watch(inner: &Arc<Inner>, run: &Name) -> Result<SqliteEvents, QueueError> {
    Reader::from_now_on(inner, Wanted::Run(run.to_string())).await.map(SqliteEvents)
}

pub(super) async fn heartbeats(inner: &Arc<Inner>) -> Result<SqliteHeartbeats, QueueError> {
    Reader::from_now_on(inner, Wanted::Heartbeats).await.map(SqliteHeartbeats)
}

pub(super) async fn listen(inner: &Arc<Inner>) -> Result<SqliteControls, QueueError> {
    Reader::from_now_on(inner, Wanted::Control).await.map(SqliteControls)
}

#[async_trait]
impl Events for SqliteEvents {
    async fn next(&mut self) -> Result<Event, QueueError> {
        loop {
            let (topic, body) = self.0.next().await?;
            let event = match topic {
                Topic::Result => readable(topic, &body).map(|result| Event::Result(Box::new(result))),
                Topic::Progress => readable(topic, &body).map(|progress| Event::Progress(Box::new(progress))),
                Topic::Heartbeat | Topic::Control => None,
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }
}

#[async_trait]
impl Heartbeats for SqliteHeartbeats {
    async fn next(&mut self) -> Result<Heartbeat, QueueError> {
        loop {
            let (topic, body) = self.0.next().await?;
            if let Some(heartbeat) = readable(topic, &body) {
                return Ok(heartbeat);
            }
        }
    }
}

#[async_trait]
impl Controls for SqliteControls {
    async fn next(&mut self) -> Result<Control, QueueError> {
        loop {
            let (topic, body) = self.0.next().await?;
            if let Some(control) = readable(topic, &body) {
                return Ok(control);
            }
        }
    }
}

/// Another version of Gannet may write what this one does not know.
fn readable<T: DeserializeOwned>(topic: Topic, body: &str) -> Option<T> {
    match serde_json::from_str(body) {
        Ok(read) => Some(read),
        Err(error) => {
            tracing::warn!(topic = topic.as_str(), %error, "an event that cannot be read is skipped");
            None
        }
    }
}
