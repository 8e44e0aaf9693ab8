//! The file and the one thread that touches it. Knows the tables, not what they mean.
//!
//! SQLite blocks, so all of it happens on a thread of its own, in the order of the calls; the async side waits for
//! answers. The thread also ticks once a second for the leases. It ends when the last handle is dropped, after it has
//! done what was still asked of it.
//!
//! Durability: the log is written ahead (WAL), so any number of processes read while one writes. With
//! `synchronous=NORMAL` a commit survives a killed process, but a power cut may undo the last few commits, always the
//! newest first. That is safe for everything that leads to a redelivery at worst (take, acknowledge, retry, bury: a
//! later commit never outlives an earlier one), and wrong for the one promise made to somebody outside: a published job
//! is there. So publishing, and only publishing, runs with `synchronous=FULL`.

use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, TransactionBehavior};
use tokio::sync::oneshot;

use super::lease::Lease;
use crate::queue::QueueError;

/// The version of the tables. A file with a higher one is refused, one with a lower one is brought up.
const SCHEMA: i64 = 2;

/// Marks the file as Gannet's (`GNQ1`), for `file` and against mix-ups.
const APPLICATION: i64 = 0x474e_5131;

const TABLES: &str = "
    CREATE TABLE holders (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        process TEXT NOT NULL,             -- who it is, so that others can see when it is gone
        beat INTEGER NOT NULL DEFAULT 0,   -- counts up while it lives
        trials INTEGER NOT NULL DEFAULT 0, -- its consumers
        batches INTEGER NOT NULL DEFAULT 0
    );
    CREATE TABLE jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        kind TEXT NOT NULL,
        due_ms INTEGER NOT NULL DEFAULT 0, -- not before then, Unix time
        holder INTEGER,                    -- whoever works on it
        redelivered INTEGER NOT NULL DEFAULT 0,
        message_id TEXT NOT NULL,
        reply_to TEXT,
        correlation_id TEXT,
        traceparent TEXT,
        previous TEXT,
        enqueued_ms INTEGER,               -- Unix time; when it is due, if that is later
        slice INTEGER NOT NULL,
        attempts TEXT NOT NULL,
        body BLOB NOT NULL
    );
    CREATE INDEX jobs_waiting ON jobs (kind, seq, due_ms) WHERE holder IS NULL;
    CREATE INDEX jobs_held ON jobs (holder) WHERE holder IS NOT NULL;
    CREATE TABLE dead (seq INTEGER PRIMARY KEY AUTOINCREMENT, letter TEXT NOT NULL);
    CREATE TABLE events (seq INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, run TEXT, body TEXT NOT NULL);
    CREATE TABLE replies (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        correlation_id TEXT,
        body BLOB NOT NULL
    );
    CREATE INDEX replies_by_queue ON replies (queue, seq);
";

/// From version 1.
const SECOND: &str = "ALTER TABLE jobs ADD COLUMN previous TEXT; ALTER TABLE jobs ADD COLUMN enqueued_ms INTEGER";

/// Another process holds the file for milliseconds at a time.
const BUSY_LIMIT: Duration = Duration::from_secs(10);

const TICK: Duration = Duration::from_secs(1);

type Work = Box<dyn FnOnce(&mut Desk) + Send>;

/// What the thread owns.
pub(super) struct Desk {
    /// The file.
    pub(super) file: Connection,
    /// This process's lease on what it has taken.
    pub(super) lease: Lease,
    /// Jobs, and their holders, that were dropped while the file was busy.
    pub(super) dropped: Vec<(i64, i64)>,
}

/// Hands work to the thread.
pub(super) struct Clerk {
    path: PathBuf,
    work: mpsc::Sender<Work>,
}

impl Clerk {
    /// Opens or creates the file, its folder too, and starts the thread. Blocks.
    pub(super) fn start(path: &Path) -> Result<Self, QueueError> {
        let failed = |what: &str, error: &rusqlite::Error| failed(path, what, error);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|error| refused(path, "creating its folder", &error))?;
        }
        let mut file = Connection::open(path).map_err(|error| failed("opening the file", &error))?;
        prepare(path, &mut file)?;
        let (work, tasks) = mpsc::channel::<Work>();
        let mut desk = Desk { file, lease: Lease::default(), dropped: Vec::new() };
        let thread = std::thread::Builder::new().name("gannet-queue".into());
        thread.spawn(move || desk.serve(&tasks)).map_err(|error| refused(path, "starting a thread", &error))?;
        Ok(Self { path: path.to_owned(), work })
    }

    pub(super) fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// Does `work` on the thread and waits for its answer. It is done even when nobody waits any more.
    pub(super) async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Desk) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let answer = self.ask(work).await;
        self.answered(what, answer)
    }

    /// As [`Clerk::call`], in two steps.
    pub(super) fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Desk) -> rusqlite::Result<T> + Send + 'static,
    ) -> oneshot::Receiver<rusqlite::Result<T>> {
        let (answer, answered) = oneshot::channel();
        self.tell(move |desk| {
            // Whoever asked may have gone; what is in the answer is dropped then.
            drop(answer.send(work(desk)));
        });
        answered
    }

    /// The second step.
    pub(super) fn answered<T>(
        &self,
        what: &'static str,
        answer: Result<rusqlite::Result<T>, oneshot::error::RecvError>,
    ) -> Result<T, QueueError> {
        match answer {
            Ok(answer) => answer.map_err(|error| failed(&self.path, what, &error)),
            Err(_) => Err(refused(&self.path, what, &"the thread that keeps the file has ended")),
        }
    }

    /// Does `work` on the thread some time; never blocks.
    pub(super) fn tell(&self, work: impl FnOnce(&mut Desk) + Send + 'static) {
        // Fails only when the thread has died; every call after that says so.
        drop(self.work.send(Box::new(work)));
    }

    pub(super) fn lost(&self, what: &str) -> QueueError {
        let reason = format!("{what} comes too late: the lease was lost and the delivery went back");
        QueueError::Unreachable { place: self.place(), reason }
    }
}

impl Desk {
    fn serve(&mut self, tasks: &mpsc::Receiver<Work>) {
        let mut next_tick = Instant::now() + TICK;
        loop {
            match tasks.recv_timeout(next_tick.saturating_duration_since(Instant::now())) {
                Ok(work) => work(self),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            }
            if Instant::now() >= next_tick {
                next_tick = Instant::now() + TICK;
                self.drop_again();
                if let Err(error) = self.lease.tick(&mut self.file) {
                    tracing::warn!(%error, "the leases of the embedded queue could not be looked after");
                }
            }
        }
        if let Err(error) = self.lease.give_up(&mut self.file) {
            tracing::debug!(%error, "what was taken from the embedded queue goes back when its lease ends");
        }
    }
}

fn prepare(path: &Path, file: &mut Connection) -> Result<(), QueueError> {
    let failed = |error: rusqlite::Error| failed(path, "preparing the file", &error);
    file.busy_timeout(BUSY_LIMIT).map_err(failed)?;
    file.set_prepared_statement_cache_capacity(64);
    file.pragma_update(None, "synchronous", "NORMAL").map_err(failed)?;
    let before = file.pragma_query_value(None, "user_version", |row| row.get::<_, i64>(0)).map_err(failed)?;
    if before > SCHEMA {
        let reason = format!(
            "it was written by a newer Gannet (tables of version {before}; this one knows {SCHEMA}): use that one, or \
             another folder (GANNET_HOME)"
        );
        return Err(refused(path, "its file", &reason));
    }
    switch_to_wal(file).map_err(failed)?;
    // Several processes may start at once: the second waits here, and finds everything done.
    let change = file.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let version: i64 = change.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    if version == 0 {
        let foreign: i64 =
            change.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(failed)?;
        if foreign > 0 {
            return Err(refused(
                path,
                "its file",
                &"it is another program's database: name another folder (GANNET_HOME)",
            ));
        }
        change.execute_batch(TABLES).map_err(failed)?;
        change.pragma_update(None, "application_id", APPLICATION).map_err(failed)?;
    }
    if version == 1 {
        change.execute_batch(SECOND).map_err(failed)?;
    }
    if version != SCHEMA {
        change.pragma_update(None, "user_version", SCHEMA).map_err(failed)?;
    }
    change.commit().map_err(failed)
}

/// SQLite does not wait here when another process is doing the same, so we do.
fn switch_to_wal(file: &Connection) -> rusqlite::Result<()> {
    let give_up = Instant::now() + BUSY_LIMIT;
    loop {
        match file.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(())) {
            Err(error) if is_busy(&error) && Instant::now() < give_up => std::thread::sleep(Duration::from_millis(20)),
            other => return other,
        }
    }
}

fn is_busy(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked))
}

fn failed(path: &Path, what: &str, error: &rusqlite::Error) -> QueueError {
    let passing = matches!(
        error.sqlite_error_code(),
        Some(
            ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::DiskFull
                | ErrorCode::SystemIoFailure
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
        )
    );
    if passing {
        QueueError::Unreachable { place: path.display().to_string(), reason: format!("{what}: {error}") }
    } else {
        refused(path, what, error)
    }
}

fn refused(path: &Path, what: &str, reason: &dyn std::fmt::Display) -> QueueError {
    QueueError::Refused { place: path.display().to_string(), what: what.into(), reason: reason.to_string() }
}
