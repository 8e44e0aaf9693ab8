//! Jobs and dead letters in their tables: publish, take, settle, retry, bury. All of it runs on the thread of the file.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{OptionalExtension, Row, ToSql, TransactionBehavior, params};
use tokio_util::sync::CancellationToken;

use super::desk::Desk;
use crate::contract::Kind;
use crate::names::{JobId, Name};
use crate::queue::{Attempts, DeadLetter, Depth, Headers, Letter, Reply, fresh_message_id, topology};

/// The longest delay, as RabbitMQ's; what is due later than that was written before the clock was set back.
const LONGEST: Duration = topology::RETRIES[topology::RETRIES.len() - 1].0;

/// A job that was taken.
pub(super) struct Taken {
    pub(super) seq: i64,
    pub(super) holder: i64,
    pub(super) letter: Letter,
    pub(super) redelivered: bool,
    pub(super) enqueued: Option<SystemTime>,
    pub(super) lost: CancellationToken,
}

impl Desk {
    /// Writes letters, all or none, and waits until they are on the disk.
    pub(super) fn publish(&mut self, letters: &[Letter]) -> rusqlite::Result<()> {
        self.file.pragma_update(None, "synchronous", "FULL")?;
        let written = self.write(letters, None);
        self.file.pragma_update(None, "synchronous", "NORMAL")?;
        written
    }

    /// Writes a letter that is due after `delay`.
    pub(super) fn retry(&mut self, letter: &Letter, delay: Duration) -> rusqlite::Result<()> {
        self.write(std::slice::from_ref(letter), Some(delay.min(LONGEST)))
    }

    fn write(&mut self, letters: &[Letter], delay: Option<Duration>) -> rusqlite::Result<()> {
        let due = delay.map_or(0, |delay| now_ms().saturating_add(millis(delay)));
        let change = self.file.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut insert = change.prepare_cached(
                "INSERT INTO jobs (kind, due_ms, message_id, reply_to, correlation_id, traceparent, previous,
                     enqueued_ms, slice, attempts, body)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            )?;
            for letter in letters {
                let headers = &letter.headers;
                let id = if headers.message_id.is_empty() { fresh_message_id() } else { headers.message_id.clone() };
                let (reply_to, correlation) = match &headers.reply {
                    Some(reply) => (Some(&reply.queue), reply.correlation_id.as_ref()),
                    None => (None, None),
                };
                let attempts = serde_json::to_string(&headers.attempts).expect("three numbers");
                let (kind, slice) = (letter.kind.as_str(), headers.slice);
                let enqueued = now_ms().max(due);
                insert.execute(params![
                    kind,
                    due,
                    id,
                    reply_to,
                    correlation,
                    headers.traceparent,
                    headers.previous,
                    enqueued,
                    slice,
                    attempts,
                    letter.body
                ])?;
            }
        }
        change.commit()
    }

    /// Takes the oldest job of `kind` that is due; with `only`, the oldest of that run.
    pub(super) fn take(&mut self, kind: Kind, only: Option<&Name>) -> rusqlite::Result<Option<Taken>> {
        const DUE: &str = "SELECT seq FROM jobs WHERE kind = ?1 AND holder IS NULL
             AND (due_ms <= ?2 OR due_ms > ?2 + ?3)
             AND (?4 IS NULL OR CASE WHEN json_valid(CAST(body AS TEXT)) THEN CAST(body AS TEXT) ->> 'run' = ?4 END)
             ORDER BY seq LIMIT 1";
        let due = (kind.as_str(), now_ms(), millis(LONGEST), only.map(Name::as_str));
        // Looks without a lock first: most looks find nothing.
        let found: Option<i64> = self.file.prepare_cached(DUE)?.query_row(due, |row| row.get(0)).optional()?;
        if found.is_none() {
            return Ok(None);
        }
        let (holder, lost) = self.lease.hold(&self.file)?;
        let change = self.file.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let held = change.prepare_cached("SELECT 1 FROM holders WHERE id = ?")?.exists([holder])?;
        if !held {
            // Nobody would give back what a holder that is gone takes.
            drop(change);
            self.lease.is_lost();
            return Ok(None);
        }
        let found: Option<i64> = change.prepare_cached(DUE)?.query_row(due, |row| row.get(0)).optional()?;
        let Some(seq) = found else { return Ok(None) };
        let (letter, redelivered, enqueued) = change
            .prepare_cached(
                "UPDATE jobs SET holder = ? WHERE seq = ? RETURNING
                 body, message_id, reply_to, correlation_id, traceparent, previous, enqueued_ms, slice, attempts,
                 redelivered",
            )?
            .query_row((holder, seq), |row| read(kind, row))?;
        change.commit()?;
        Ok(Some(Taken { seq, holder, letter, redelivered, enqueued, lost }))
    }

    /// The jobs of a run, waiting, delayed or taken.
    pub(super) fn jobs_of(&mut self, run: &Name) -> rusqlite::Result<BTreeSet<JobId>> {
        let mut select = self.file.prepare_cached(
            "SELECT CASE WHEN json_valid(CAST(body AS TEXT)) AND CAST(body AS TEXT) ->> 'run' = ?1
                    THEN CAST(body AS TEXT) ->> 'id' END FROM jobs",
        )?;
        let ids = select.query_map([run.as_str()], |row| row.get::<_, Option<String>>(0))?;
        let ids = ids.collect::<rusqlite::Result<Vec<_>>>()?;
        Ok(ids.into_iter().flatten().filter_map(|id| JobId::new(id).ok()).collect())
    }

    /// Removes the jobs of a run that nobody has; returns how many.
    pub(super) fn forget(&mut self, run: &Name) -> rusqlite::Result<u64> {
        let removed = self
            .file
            .prepare_cached(
                "DELETE FROM jobs WHERE holder IS NULL
                 AND CASE WHEN json_valid(CAST(body AS TEXT)) THEN CAST(body AS TEXT) ->> 'run' = ?1 END",
            )?
            .execute([run.as_str()])?;
        Ok(removed as u64)
    }

    /// Removes a taken job; `false` when it is no longer this holder's.
    pub(super) fn ack(&mut self, seq: i64, holder: i64) -> rusqlite::Result<bool> {
        let removed =
            self.file.prepare_cached("DELETE FROM jobs WHERE seq = ? AND holder = ?")?.execute((seq, holder))?;
        Ok(removed == 1)
    }

    /// Makes a taken job ready again; `false` when it is no longer this holder's.
    pub(super) fn release(&mut self, seq: i64, holder: i64) -> rusqlite::Result<bool> {
        let released = self
            .file
            .prepare_cached("UPDATE jobs SET holder = NULL, redelivered = 1 WHERE seq = ? AND holder = ?")?
            .execute((seq, holder))?;
        Ok(released == 1)
    }

    /// Releases a job that nobody waits for. Where the file is busy for too long, the next ticks try again: a living
    /// holder's jobs are never given back by others.
    pub(super) fn drop_taken(&mut self, seq: i64, holder: i64) {
        if let Err(error) = self.release(seq, holder) {
            tracing::debug!(%error, "a dropped job is released later");
            self.dropped.push((seq, holder));
        }
    }

    /// Releases what could not be released before.
    pub(super) fn drop_again(&mut self) {
        for (seq, holder) in std::mem::take(&mut self.dropped) {
            self.drop_taken(seq, holder);
        }
    }

    /// Writes a dead letter.
    pub(super) fn bury(&mut self, letter: &str) -> rusqlite::Result<()> {
        self.file.prepare_cached("INSERT INTO dead (letter) VALUES (?)")?.execute([letter]).map(|_| ())
    }

    /// The oldest dead letters.
    pub(super) fn dead(&mut self, most: usize) -> rusqlite::Result<Vec<DeadLetter>> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let mut statement = self.file.prepare_cached("SELECT letter FROM dead ORDER BY seq LIMIT ?")?;
        let letters = statement.query_map([most], |row| read_dead(row, 0))?;
        letters.collect()
    }

    /// Removes the dead letters of these ids.
    pub(super) fn remove_dead(&mut self, ids: &BTreeSet<String>) -> rusqlite::Result<u64> {
        let change = self.file.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut removed = 0;
        {
            let mut select = change.prepare_cached("SELECT seq, letter FROM dead ORDER BY seq")?;
            let mut delete = change.prepare_cached("DELETE FROM dead WHERE seq = ?")?;
            let letters = select.query_map([], |row| Ok((row.get::<_, i64>(0)?, read_dead(row, 1)?.id())))?;
            for letter in letters.collect::<rusqlite::Result<Vec<_>>>()? {
                if ids.contains(&letter.1) {
                    removed += delete.execute([letter.0])? as u64;
                }
            }
        }
        change.commit()?;
        Ok(removed)
    }

    /// How much lies where, under the names that a broker has for it; all delays are one queue here.
    pub(super) fn depths(&mut self) -> rusqlite::Result<Vec<Depth>> {
        let file = &self.file;
        let count = |sql: &str, of: &[&dyn ToSql]| file.query_row(sql, of, |row| row.get(0)).map(i64::unsigned_abs);
        let now = now_ms();
        let mut depths = Vec::new();
        for (kind, consumers) in [
            (Kind::Trial, "SELECT coalesce(sum(trials), 0) FROM holders"),
            (Kind::Batch, "SELECT coalesce(sum(batches), 0) FROM holders"),
        ] {
            let of = kind.as_str();
            depths.push(Depth {
                queue: topology::queue_of(kind),
                ready: count(
                    "SELECT count(*) FROM jobs WHERE holder IS NULL AND kind = ? AND due_ms <= ?",
                    &[&of, &now],
                )?,
                unsettled: Some(count("SELECT count(*) FROM jobs WHERE holder IS NOT NULL AND kind = ?", &[&of])?),
                consumers: count(consumers, &[])?,
            });
        }
        let delayed = count("SELECT count(*) FROM jobs WHERE holder IS NULL AND due_ms > ?", &[&now])?;
        let dead = count("SELECT count(*) FROM dead", &[])?;
        for (queue, ready) in [(topology::name("retry"), delayed), (topology::dead(), dead)] {
            depths.push(Depth { queue, ready, unsettled: Some(0), consumers: 0 });
        }
        Ok(depths)
    }
}

fn read_dead(row: &Row<'_>, at: usize) -> rusqlite::Result<DeadLetter> {
    let letter: String = row.get(at)?;
    serde_json::from_str(&letter)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, error.into()))
}

/// A letter, whether it was delivered before, and when it was enqueued.
fn read(kind: Kind, row: &Row<'_>) -> rusqlite::Result<(Letter, bool, Option<SystemTime>)> {
    let correlation_id = row.get("correlation_id")?;
    let reply = row.get::<_, Option<String>>("reply_to")?.map(|queue| Reply { queue, correlation_id });
    let attempts: String = row.get("attempts")?;
    let headers = Headers {
        message_id: row.get("message_id")?,
        reply,
        traceparent: row.get("traceparent")?,
        previous: row.get("previous")?,
        slice: row.get("slice")?,
        // Written by us; what cannot be read counts as no attempts, as on the broker.
        attempts: serde_json::from_str(&attempts).unwrap_or_else(|_| Attempts::default()),
    };
    let since_1970 = row.get::<_, Option<i64>>("enqueued_ms")?.and_then(|millis| u64::try_from(millis).ok());
    let enqueued = since_1970.and_then(|millis| UNIX_EPOCH.checked_add(Duration::from_millis(millis)));
    Ok((Letter { kind, body: row.get("body")?, headers }, row.get("redelivered")?, enqueued))
}

fn now_ms() -> i64 {
    millis(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
