//! Publishing a run's jobs so that it may be interrupted anywhere and repeated, without doubling.
//!
//! What is about to be published is noted in the store first, a part at a time. Whoever repeats it takes what is noted for
//! published until the queue and the workers show that nobody has it: then it is published again. So a crash, a lost
//! connection or a lost confirm costs a wait, never a second letter; and a broker that lost its queues costs no job.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::contract::{Job, Kind};
use shared::digest::Digest;
use shared::names::{JobId, Name};
use shared::queue::{Letter, Queue, QueueError, topology};
use shared::store::{Created, Store, StoreError, get_json, layout, settle_json};
use shared::traces::letters::{Time, enqueue};
use tokio::time::Instant;

use crate::patience::{ask_store, patiently};
use crate::workers::{ALL_HEARD, Workers, consumers};

/// Jobs a note. So many at most are in doubt after an interruption.
pub const PART: usize = 500;

/// How often is looked whether letters wait, while the workers are heard.
const LOOK: Duration = Duration::from_secs(1);
/// A worker names what it was given within this time. Whoever was just heard may have handed a job over to one that had been
/// heard before.
const HANDED_OVER: Duration = Duration::from_secs(2);

/// `runs/<run>/enqueued/<sha256>.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    at: Timestamp,
    /// Only its writer's: a write whose answer was lost knows itself again.
    nonce: String,
    jobs: BTreeMap<JobId, Kind>,
}

/// What publishing a part came to.
#[derive(Debug)]
pub enum Published {
    /// All of it is on the queue.
    Surely,
    /// Somebody else is publishing the same part.
    BySomebodyElse,
    /// Some of it may be.
    Perhaps(QueueError),
}

/// What became of jobs that were perhaps enqueued.
#[derive(Debug, PartialEq, Eq)]
pub enum Lost {
    /// Nobody has these; all others wait or run.
    These(BTreeSet<JobId>),
    /// So many letters wait on the queues, and whose they are nobody can see.
    SomeWait(u64),
    /// Of so many slots that take jobs only so many said all that they have in hand.
    NotAllHeard {
        /// Slots that were heard.
        heard: u64,
        /// Slots that take jobs.
        slots: u64,
    },
}

/// One run's way onto the queue.
#[derive(Debug, Clone, Copy)]
pub struct Enqueue<'a> {
    /// Where jobs go.
    pub queue: &'a dyn Queue,
    /// Where notes lie.
    pub store: &'a dyn Store,
    /// The run.
    pub run: &'a Name,
}

/// The jobs of a run that somebody was about to publish; other clients write no notes.
///
/// # Errors
/// The store fails, or a note cannot be read.
pub async fn noted(store: &dyn Store, run: &Name) -> Result<BTreeMap<JobId, Kind>, StoreError> {
    let parts = store.list(&layout::enqueued(run)).await?;
    let notes = stream::iter(parts).map(|part| async move { get_json::<Note>(store, &part.key).await });
    let notes: Vec<Note> = notes.buffer_unordered(32).try_collect().await?;
    Ok(notes.into_iter().flat_map(|note| note.jobs).collect())
}

impl Enqueue<'_> {
    /// Notes and publishes at most [`PART`] jobs that are not noted yet.
    ///
    /// # Errors
    /// The store or the queue refuses; an outage of the store is waited for.
    pub async fn part(&self, jobs: &[&Job]) -> anyhow::Result<Published> {
        if self.note(jobs).await? == Created::Exists {
            return Ok(Published::BySomebodyElse);
        }
        match self.publish(jobs, Time::First).await {
            Ok(()) => Ok(Published::Surely),
            Err(error) if error.is_passing() => Ok(Published::Perhaps(error)),
            Err(error) => Err(error.into()),
        }
    }

    /// Publishes jobs once more. Whoever takes one now looks for its result first, batches too.
    ///
    /// # Errors
    /// The store or the queue fails.
    pub async fn again(&self, jobs: &[&Job]) -> anyhow::Result<()> {
        if jobs.is_empty() {
            return Ok(());
        }
        self.store.put(&layout::look(self.run), Bytes::from_static(b"{}")).await?;
        Ok(self.publish(jobs, Time::Again).await?)
    }

    /// Publishes the first letters of jobs, each with a span of a trace.
    async fn publish(&self, jobs: &[&Job], time: Time) -> Result<(), QueueError> {
        let mut letters: Vec<Letter> = jobs.iter().map(|job| Letter::new(job)).collect();
        let mut spans = enqueue(&mut letters, jobs.iter().copied(), time);
        let published = self.queue.publish(&letters).await;
        if let Err(error) = &published {
            spans.iter_mut().for_each(|span| span.fail(error));
        }
        published
    }

    /// Those of `doubtful` that nobody has, where that can be told now. One may have got its result meanwhile.
    ///
    /// A folder's queue tells by itself. On a broker a job is nobody's when no letter waits for as long as it takes to hear
    /// every worker, none names it, and as many slots were heard as take jobs: a worker that is silent, or names not all that it
    /// has, may have it. With `impatient` neither letters that wait nor workers that are not heard keep a job from being lost.
    ///
    /// # Errors
    /// The queue fails.
    pub async fn lost(&self, doubtful: &BTreeSet<JobId>, impatient: bool) -> Result<Lost, QueueError> {
        if let Some(there) = self.queue.jobs_of(self.run).await? {
            return Ok(Lost::These(doubtful - &there));
        }
        // Once before anybody is heard: who is gone after that is missed, not counted with those who were never there.
        let (mut waiting, mut slots) = look(self.queue).await?;
        let mut workers = Workers::listen(self.queue).await?;
        let (mut running, mut partly) = (BTreeSet::new(), BTreeSet::new());
        let mut until = Instant::now();
        let end = until + ALL_HEARD + HANDED_OVER;
        // Looks often: a letter that is tried again waits for five seconds, one that is passed on is named a moment later.
        while impatient || waiting == 0 {
            until = end.min(until + LOOK);
            while let Some(heartbeat) = workers.next(until).await? {
                if !heartbeat.names_all() {
                    partly.insert(heartbeat.worker);
                }
                let ours = heartbeat.running.into_iter().filter(|job| job.run == *self.run);
                running.extend(ours.map(|job| job.id));
            }
            let now = look(self.queue).await?;
            waiting = now.0;
            // The most there ever were: a slot that changes from one queue to the other is in neither for a moment.
            slots = slots.max(now.1);
            if until == end {
                break;
            }
        }
        workers.heard.retain(|worker, _| !partly.contains(worker));
        Ok(match workers.slots() {
            _ if impatient => Lost::These(doubtful - &running),
            _ if waiting > 0 => Lost::SomeWait(waiting),
            heard if heard < slots => Lost::NotAllHeard { heard, slots },
            _ => Lost::These(doubtful - &running),
        })
    }

    /// Returns once the queue answers.
    ///
    /// # Errors
    /// It refuses.
    pub async fn until_it_answers(&self) -> Result<(), QueueError> {
        patiently(async || self.queue.depths().await, QueueError::is_passing).await.map(drop)
    }

    async fn note(&self, jobs: &[&Job]) -> Result<Created, StoreError> {
        let jobs = jobs.iter().map(|job| (job.id.clone(), job.kind())).collect();
        let note = Note { at: Timestamp::now(), nonce: uuid::Uuid::new_v4().to_string(), jobs };
        let ids: Vec<&str> = note.jobs.keys().map(JobId::as_str).collect();
        let key = layout::enqueued_part(self.run, Digest::of(ids.join("\n").as_bytes()));
        let stands = ask_store(async || settle_json(self.store, &key, note.clone()).await).await?;
        Ok(if stands.nonce == note.nonce { Created::New } else { Created::Exists })
    }
}

/// How many letters wait, now or for their next try, and how many slots take jobs.
async fn look(queue: &dyn Queue) -> Result<(u64, u64), QueueError> {
    let depths = queue.depths().await?;
    let holds_jobs = |queue: &str| {
        Kind::ALL.iter().any(|kind| topology::queue_of(*kind) == queue) || queue.starts_with(&topology::name("retry"))
    };
    let waiting = depths.iter().filter(|depth| holds_jobs(&depth.queue)).map(|depth| depth.ready).sum();
    Ok((waiting, consumers(&depths)))
}

#[cfg(test)]
mod tests {
    use shared::contract::{Batch, Output, Precision, Work};
    use shared::names::{Key, ObjectRef};
    use shared::queue::sqlite::SqliteQueue;
    use shared::store::dir::DirStore;

    use super::*;

    fn job(id: &str) -> Job {
        let model = ObjectRef { key: Key::new("models/m").expect("a key"), sha256: Digest::of(b"m") };
        let (scores, output, precision, calibration) = (None, Output::Labels, Precision::Fp32, Vec::new());
        let batch =
            Batch { model, images: Vec::new(), top_k: 1, threshold: None, scores, output, precision, calibration };
        let (id, run) = (JobId::new(id).expect("an id"), Name::new("r").expect("a name"));
        Job { id, run, work: Work::Batch(Box::new(batch)) }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_noted_is_published_once_and_again_only_when_it_is_lost() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = DirStore::open(folder.path().join("store")).expect("a store");
        let queue = SqliteQueue::open(&folder.path().join("queue.sqlite")).await.expect("a queue");
        let run = Name::new("r").expect("a name");
        let enqueue = Enqueue { queue: &queue, store: &store, run: &run };
        let ready = async || queue.depths().await.expect("depths").iter().map(|depth| depth.ready).sum::<u64>();
        let (a, b) = (job("a"), job("b"));

        assert!(noted(&store, &run).await.expect("read").is_empty());
        assert!(matches!(enqueue.part(&[&a, &b]).await.expect("published"), Published::Surely));
        assert!(matches!(enqueue.part(&[&a, &b]).await.expect("looked"), Published::BySomebodyElse));
        assert_eq!(ready().await, 2, "once");
        let known = noted(&store, &run).await.expect("read");
        assert_eq!(known.keys().map(JobId::as_str).collect::<Vec<_>>(), ["a", "b"]);

        let doubtful: BTreeSet<JobId> = known.into_keys().collect();
        assert_eq!(enqueue.lost(&doubtful, false).await.expect("asked"), Lost::These(BTreeSet::new()));
        // One is taken and dropped, as a crash before its letter was written would leave it.
        let mut deliveries = queue.consume(Kind::Batch, 1).await.expect("consume");
        let taken = deliveries.next().await.expect("a job");
        assert_eq!(
            enqueue.lost(&doubtful, false).await.expect("asked"),
            Lost::These(BTreeSet::new()),
            "somebody has it"
        );
        taken.receipt.ack().await.expect("ack");
        let lost = enqueue.lost(&doubtful, false).await.expect("asked");
        assert_eq!(lost, Lost::These([a.id.clone()].into()));
        enqueue.again(&[&a]).await.expect("published");
        assert_eq!(ready().await, 2);
        store.get(&layout::look(&run)).await.expect("workers look first");
    }
}
