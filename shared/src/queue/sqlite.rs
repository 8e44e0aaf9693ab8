//! One machine's queue: a SQLite file that several processes may share. Nothing to install.
//!
//! `desk` keeps the file on a thread of its own and says what is durable when; `lease` gives back what a process that
//! has gone had taken; `jobs` and `events` are the tables. Budgets, commits and retries are decided elsewhere.
//!
//! Nobody is told when another process writes, so consumers and watchers look every `LOOK`; within one process a bell
//! (`Inner::bell`) rings at every write.

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use self::desk::{Clerk, Desk};
use self::events::Topic;
use self::jobs::Taken;
use super::{
    Controls, DeadLetter, Deliveries, Delivery, Depth, Events, Heartbeats, Letter, Queue, QueueError, Receipt, Reply,
    check_size, result_body,
};
use crate::contract::{Control, Heartbeat, JobResult, Kind, Progress};
use crate::names::{JobId, Name};

mod desk;
mod events;
mod jobs;
mod lease;

/// How often the file is looked at: a look costs some ten microseconds, and jobs take seconds.
const LOOK: Duration = Duration::from_millis(25);

/// A queue in a SQLite file.
pub struct SqliteQueue {
    inner: Arc<Inner>,
    /// The run whose jobs it takes; all without.
    only: Option<Name>,
}

/// Shared by the queue, its consumers and their receipts; when the last of them goes, so does the file's thread, and
/// everything that was taken goes back.
struct Inner {
    clerk: Clerk,
    /// Rings when this process has written something. A missed ring costs one [`LOOK`].
    bell: Notify,
}

impl Inner {
    /// Until something may have changed.
    async fn pause(&self) {
        tokio::select! {
            () = self.bell.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }

    /// Writes, then rings.
    async fn write(
        &self,
        what: &'static str,
        work: impl FnOnce(&mut Desk) -> rusqlite::Result<()> + Send + 'static,
    ) -> Result<(), QueueError> {
        let written = self.clerk.call(what, work).await;
        self.bell.notify_waiters();
        written
    }

    async fn whisper(&self, topic: Topic, run: Option<String>, message: &impl serde::Serialize) {
        let body = serde_json::to_string(message).expect("progress is plain data");
        if let Err(error) = self.write("progress", move |desk| desk.tell_all(topic, run.as_deref(), &body)).await {
            tracing::debug!(%error, "progress is lost");
        }
    }
}

impl SqliteQueue {
    /// Opens the file at `path`; creates it, and its folder, where there is none.
    ///
    /// # Errors
    /// [`QueueError::Refused`] for a file that cannot be opened, is no queue, or was written by a newer Gannet.
    pub async fn open(path: &Path) -> Result<Self, QueueError> {
        let path = path.to_owned();
        let shown = path.display().to_string();
        let opened = tokio::task::spawn_blocking(move || Clerk::start(&path)).await;
        let clerk = opened.unwrap_or_else(|error| {
            Err(QueueError::Refused { place: shown, what: "opening the file".into(), reason: error.to_string() })
        })?;
        Ok(Self { inner: Arc::new(Inner { clerk, bell: Notify::new() }), only: None })
    }

    /// Takes the oldest answer from a client's queue: its correlation id and its body.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn take_reply(&self, queue: &str) -> Result<Option<(Option<String>, Vec<u8>)>, QueueError> {
        let queue = queue.to_owned();
        self.inner.clerk.call("taking an answer", move |desk| desk.take_reply(&queue)).await
    }
}

#[async_trait]
impl Queue for SqliteQueue {
    fn place(&self) -> String {
        self.inner.clerk.place()
    }

    fn of_run(&self, run: &Name) -> Option<Arc<dyn Queue>> {
        Some(Arc::new(Self { inner: self.inner.clone(), only: Some(run.clone()) }))
    }

    async fn publish(&self, letters: &[Letter]) -> Result<(), QueueError> {
        letters.iter().try_for_each(|letter| check_size(&letter.body))?;
        let letters = letters.to_vec();
        self.inner.write("publishing jobs", move |desk| desk.publish(&letters)).await
    }

    async fn consume(&self, kind: Kind, prefetch: u16) -> Result<Box<dyn Deliveries>, QueueError> {
        self.inner.clerk.call("consuming", move |desk| desk.lease.count(&desk.file, kind, 1)).await?;
        let free = Arc::new(Semaphore::new(prefetch.max(1).into()));
        let (inner, only) = (self.inner.clone(), self.only.clone());
        Ok(Box::new(SqliteDeliveries { inner, kind, only, free, permit: None, taking: None }))
    }

    async fn retry(&self, letter: &Letter, delay: Duration) -> Result<(), QueueError> {
        let letter = letter.clone();
        self.inner.write("publishing a retry", move |desk| desk.retry(&letter, delay)).await
    }

    async fn bury(&self, dead: &DeadLetter) -> Result<(), QueueError> {
        let letter = serde_json::to_string(dead).expect("a dead letter is plain data");
        self.inner.write("burying a letter", move |desk| desk.bury(&letter)).await
    }

    async fn publish_result(&self, result: &JobResult, reply: Option<&Reply>) -> Result<(), QueueError> {
        let body = result_body(result)?;
        let text = String::from_utf8(body.clone()).expect("JSON is UTF-8");
        let run = result.run.to_string();
        let write = move |desk: &mut Desk| desk.tell_all(Topic::Result, Some(&run), &text);
        self.inner.write("publishing a result", write).await?;
        let Some(reply) = reply.cloned() else { return Ok(()) };
        let (run, id) = (result.run.as_str(), result.id.as_str());
        if !reply.is_allowed() {
            tracing::warn!(
                run,
                job.id = id,
                reply_to = reply.queue,
                "a client's answer is lost: this name is not its own"
            );
        } else if let Err(error) = self.inner.write("answering", move |desk| desk.reply(&reply, &body)).await {
            tracing::warn!(run, job.id = id, %error, "a client's answer is lost");
        }
        Ok(())
    }

    async fn publish_progress(&self, progress: &Progress) {
        self.inner.whisper(Topic::Progress, Some(progress.run.to_string()), progress).await;
    }

    async fn publish_heartbeat(&self, heartbeat: &Heartbeat) {
        self.inner.whisper(Topic::Heartbeat, None, heartbeat.cut().as_ref()).await;
    }

    async fn publish_control(&self, control: &Control) -> Result<(), QueueError> {
        let body = serde_json::to_string(control).expect("a word to workers is plain data");
        self.inner.write("a word to workers", move |desk| desk.tell_all(Topic::Control, None, &body)).await
    }

    async fn watch(&self, run: &Name) -> Result<Box<dyn Events>, QueueError> {
        Ok(Box::new(events::watch(&self.inner, run).await?))
    }

    async fn heartbeats(&self) -> Result<Box<dyn Heartbeats>, QueueError> {
        Ok(Box::new(events::heartbeats(&self.inner).await?))
    }

    async fn listen(&self) -> Result<Box<dyn Controls>, QueueError> {
        Ok(Box::new(events::listen(&self.inner).await?))
    }

    async fn depths(&self) -> Result<Vec<Depth>, QueueError> {
        self.inner.clerk.call("counting", Desk::depths).await
    }

    async fn jobs_of(&self, run: &Name) -> Result<Option<BTreeSet<JobId>>, QueueError> {
        let run = run.clone();
        self.inner.clerk.call("looking for jobs", move |desk| desk.jobs_of(&run)).await.map(Some)
    }

    async fn forget(&self, run: &Name) -> Result<u64, QueueError> {
        let run = run.clone();
        self.inner.clerk.call("removing a run's jobs", move |desk| desk.forget(&run)).await
    }

    async fn dead(&self, most: usize) -> Result<Vec<DeadLetter>, QueueError> {
        self.inner.clerk.call("looking at dead letters", move |desk| desk.dead(most)).await
    }

    async fn remove_dead(&self, ids: &BTreeSet<String>) -> Result<u64, QueueError> {
        let ids = ids.clone();
        self.inner.clerk.call("removing dead letters", move |desk| desk.remove_dead(&ids)).await
    }
}

impl fmt::Debug for SqliteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SqliteQueue").field(&self.place()).finish()
    }
}

/// Takes a job only when it is asked for one: nothing waits in here, so `prefetch` only bounds what is unsettled.
struct SqliteDeliveries {
    inner: Arc<Inner>,
    kind: Kind,
    only: Option<Name>,
    /// A permit for each delivery that may be unsettled; receipts have them.
    free: Arc<Semaphore>,
    /// The next delivery's.
    permit: Option<OwnedSemaphorePermit>,
    /// A take under way, kept here so that a cancelled [`Deliveries::next`] loses nothing.
    taking: Option<oneshot::Receiver<Answer>>,
}

/// What the file's thread found.
type Answer = rusqlite::Result<Option<(Taken, SqliteReceipt)>>;

#[async_trait]
impl Deliveries for SqliteDeliveries {
    async fn stop(mut self: Box<Self>) -> Vec<Delivery> {
        let Some(taking) = self.taking.take() else { return Vec::new() };
        let answer = taking.await;
        let taken = self.inner.clerk.answered("taking a job", answer).ok().flatten();
        taken.map(|taken| self.delivery(taken)).into_iter().collect()
    }

    async fn next(&mut self) -> Result<Delivery, QueueError> {
        loop {
            if self.permit.is_none() {
                // The semaphore is never closed.
                self.permit = self.free.clone().acquire_owned().await.ok();
            }
            let (inner, kind, only) = (self.inner.clone(), self.kind, self.only.clone());
            let taking = self.taking.get_or_insert_with(|| {
                let work = inner.clone();
                inner.clerk.ask(move |desk| {
                    // With a receipt at once: when nobody waits for the answer any more, dropping it releases the job.
                    let taken = desk.take(kind, only.as_ref())?;
                    Ok(taken.map(|taken| {
                        let receipt = SqliteReceipt::of(work, &taken);
                        (taken, receipt)
                    }))
                })
            });
            let answer = taking.await;
            self.taking = None;
            match self.inner.clerk.answered("taking a job", answer)? {
                None => self.inner.pause().await,
                Some(taken) => return Ok(self.delivery(taken)),
            }
        }
    }
}

impl SqliteDeliveries {
    fn delivery(&mut self, (taken, mut receipt): (Taken, SqliteReceipt)) -> Delivery {
        receipt.permit = self.permit.take();
        let Taken { letter, redelivered, enqueued, lost, .. } = taken;
        Delivery { letter, redelivered, enqueued, lost, receipt: Box::new(receipt) }
    }
}

impl Drop for SqliteDeliveries {
    fn drop(&mut self) {
        let kind = self.kind;
        self.inner.clerk.tell(move |desk| {
            if let Err(error) = desk.lease.count(&desk.file, kind, -1) {
                tracing::debug!(%error, "a consumer that has ended is still counted");
            }
        });
    }
}

struct SqliteReceipt {
    inner: Arc<Inner>,
    seq: i64,
    holder: i64,
    /// Whether dropping it has nothing left to do.
    settled: bool,
    permit: Option<OwnedSemaphorePermit>,
}

impl SqliteReceipt {
    fn of(inner: Arc<Inner>, taken: &Taken) -> Self {
        Self { inner, seq: taken.seq, holder: taken.holder, settled: false, permit: None }
    }
}

#[async_trait]
impl Receipt for SqliteReceipt {
    async fn ack(self: Box<Self>) -> Result<(), QueueError> {
        self.settle("an acknowledgement", Desk::ack).await
    }

    async fn release(self: Box<Self>) -> Result<(), QueueError> {
        let inner = self.inner.clone();
        let released = self.settle("a release", Desk::release).await;
        inner.bell.notify_waiters();
        released
    }
}

impl SqliteReceipt {
    async fn settle(
        mut self: Box<Self>,
        what: &'static str,
        how: fn(&mut Desk, i64, i64) -> rusqlite::Result<bool>,
    ) -> Result<(), QueueError> {
        let (seq, holder) = (self.seq, self.holder);
        // Done even when the caller stops waiting; what fails is released later.
        self.settled = true;
        let work = move |desk: &mut Desk| {
            let settled = how(desk, seq, holder);
            if settled.is_err() {
                desk.dropped.push((seq, holder));
            }
            settled
        };
        if self.inner.clerk.call(what, work).await? { Ok(()) } else { Err(self.inner.clerk.lost(what)) }
    }
}

impl Drop for SqliteReceipt {
    fn drop(&mut self) {
        if !self.settled {
            let (seq, holder) = (self.seq, self.holder);
            self.inner.clerk.tell(move |desk| desk.drop_taken(seq, holder));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::contract_suite::{Place, suite};
    use crate::queue::{by_name, topology};

    struct Folder(tempfile::TempDir);

    impl Folder {
        fn file(&self) -> std::path::PathBuf {
            self.0.path().join("made/queue.sqlite")
        }
    }

    #[async_trait]
    impl Place for Folder {
        async fn open(&self) -> Arc<dyn Queue> {
            Arc::new(SqliteQueue::open(&self.file()).await.expect("open"))
        }

        async fn reply_queue(&self, _: &str) {}

        async fn take_reply(&self, name: &str) -> Option<(Option<String>, Vec<u8>)> {
            SqliteQueue::open(&self.file()).await.expect("open").take_reply(name).await.expect("readable")
        }
    }

    async fn folder(_: &str) -> Option<Folder> {
        Some(Folder(tempfile::tempdir().expect("a temporary folder")))
    }

    suite!(folder);

    fn letter() -> Letter {
        Letter { kind: Kind::Trial, body: b"{}".to_vec(), headers: crate::queue::Headers::default() }
    }

    #[tokio::test]
    async fn a_file_of_a_newer_gannet_or_of_another_program_is_refused() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, content, expected) in [
            ("newer", "PRAGMA user_version = 3", "written by a newer Gannet (tables of version 3; this one knows 2)"),
            ("foreign", "CREATE TABLE t (a)", "another program's database"),
        ] {
            let path = folder.path().join(name);
            rusqlite::Connection::open(&path).expect("open").execute_batch(content).expect("write");
            let error = SqliteQueue::open(&path).await.expect_err("refused");
            assert!(!error.is_passing() && error.to_string().contains(expected), "{error}");
        }
        let path = folder.path().join("text");
        std::fs::write(&path, "this is a text and no database, long enough to have a header ".repeat(9))
            .expect("write");
        let error = SqliteQueue::open(&path).await.expect_err("refused");
        assert!(!error.is_passing(), "{error}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn jobs_of_a_process_that_has_gone_come_back() {
        let folder = folder("").await.expect("a folder");
        let queue = folder.open().await;
        queue.publish(&[letter()]).await.expect("publish");
        // As a killed process would leave it: no such process on this host.
        let dead = format!("{} {} 1", lease::scope_of_this_host().unwrap_or_default(), u32::MAX);
        let file = rusqlite::Connection::open(folder.file()).expect("open");
        file.execute("INSERT INTO holders (id, process) VALUES (77, ?)", [dead]).expect("write");
        file.execute("UPDATE jobs SET holder = 77", []).expect("write");
        // Where there is no /proc, its silence tells, after a quarter of a minute.
        let mut deliveries = queue.consume(Kind::Trial, 1).await.expect("consume");
        let delivery = tokio::time::timeout(Duration::from_secs(60), deliveries.next()).await;
        assert!(delivery.expect("comes back").expect("readable").redelivered);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_run_takes_only_its_own_jobs() {
        let folder = folder("").await.expect("a folder");
        let queue = folder.open().await;
        let of = |run: &str| Letter { body: format!("{{\"run\": \"{run}\"}}").into_bytes(), ..letter() };
        let garbage = Letter { body: b"\xff{".to_vec(), ..letter() };
        queue.publish(&[garbage, of("left-behind"), of("mine")]).await.expect("publish");
        let mine = queue.of_run(&Name::new("mine").expect("a name")).expect("can");
        let mut deliveries = mine.consume(Kind::Trial, 1).await.expect("consume");
        let delivery = deliveries.next().await.expect("a job");
        assert_eq!(delivery.letter.body, of("mine").body);
        delivery.receipt.ack().await.expect("ack");
        let next = tokio::time::timeout(Duration::from_millis(200), deliveries.next()).await;
        assert!(next.is_err(), "the others are somebody else's");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_jobs_of_a_run_are_known_whoever_has_them() {
        let folder = folder("").await.expect("a folder");
        let queue = folder.open().await;
        let of = |run: &str, id: &str| Letter {
            body: format!("{{\"run\": \"{run}\", \"id\": \"{id}\"}}").into_bytes(),
            ..letter()
        };
        let garbage = Letter { body: b"\xff{".to_vec(), ..letter() };
        queue.publish(&[of("mine", "held"), garbage, of("mine", "waits"), of("theirs", "x")]).await.expect("publish");
        queue.retry(&of("mine", "later"), Duration::from_secs(5)).await.expect("retry");
        let mut deliveries = queue.consume(Kind::Trial, 1).await.expect("consume");
        let held = deliveries.next().await.expect("a job");
        let mine = Name::new("mine").expect("a name");
        let known = async || {
            let jobs = queue.jobs_of(&mine).await.expect("readable").expect("this queue can tell");
            jobs.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(known().await, ["held", "later", "waits"]);
        assert_eq!(queue.forget(&mine).await.expect("removed"), 2, "what waits, now or for its next try");
        assert_eq!(known().await, ["held"], "what somebody has stays");
        held.receipt.ack().await.expect("ack");
        assert!(known().await.is_empty());
        let left = by_name(queue.depths().await.expect("depths"));
        assert_eq!(left[&topology::queue_of(Kind::Trial)].ready, 2, "other runs' and what is no job");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_lost_lease_cancels_what_was_taken() {
        let folder = folder("").await.expect("a folder");
        let queue = folder.open().await;
        queue.publish(&[letter()]).await.expect("publish");
        let mut deliveries = queue.consume(Kind::Trial, 1).await.expect("consume");
        let delivery = deliveries.next().await.expect("a job");
        // As another process does that takes this one for dead.
        let file = rusqlite::Connection::open(folder.file()).expect("open");
        file.execute_batch("DELETE FROM holders; UPDATE jobs SET holder = NULL, redelivered = 1").expect("write");
        let lost = tokio::time::timeout(Duration::from_secs(60), delivery.lost.cancelled()).await;
        lost.expect("the next beat notices");
        let error = delivery.receipt.ack().await.expect_err("too late");
        assert!(error.is_passing() && error.to_string().contains("too late"), "{error}");
        let again = deliveries.next().await.expect("under a new lease");
        assert!(again.redelivered && !again.lost.is_cancelled());
        again.receipt.ack().await.expect("ack");
    }
}
