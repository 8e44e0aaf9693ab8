//! Carries a delivery through the [protocol](crate::protocol): the only place that acknowledges, and
//! only after the result is committed and its publication confirmed.

use std::io::ErrorKind;
use std::time::Duration;

use jiff::Timestamp;
use rand::RngExt as _;
use shared::contract::{
    Cost, Durations, ErrorCode, ErrorReport, Job, JobResult, Kind, MAX_MESSAGE, Outcome, Status, TrialOutcome,
};
use shared::digest::Digest;
use shared::names::ObjectRef;
use shared::queue::{Attempts, DeadLetter, Delivery, Letter, QueueError, Receipt};
use shared::store::{StoreError, get_optional, layout};
use tokio_util::sync::CancellationToken;

use crate::cancel::Standing;
use crate::commit::{self, CheckpointRecord};
use crate::compute::is_full;
use crate::executor::Report;
use crate::failpoint::{self, When};
use crate::protocol::{Answer, Ask, Computed, Found, Protocol, Spent};
use crate::scratch::Scratch;
use crate::step::{self, Ended, Finished, Stops, Warm};
use crate::supervisor::Context;

/// Why a delivery was left where it is.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It can no longer be settled: it has gone to somebody else.
    #[error("the delivery was lost")]
    Lost,
    /// The queue did not take what was to be published. The delivery comes again.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The store refuses this worker (no job can be done here), or a drain ended the wait for it.
    #[error(transparent)]
    Store(StoreError),
    /// This machine cannot compute: no executor starts, or its disk fails.
    #[error("this machine cannot compute: {0:#}")]
    Machine(anyhow::Error),
    /// A drain has no time left for what the store does not answer.
    #[error("the drain was over before the store answered")]
    Stopped,
    /// What stands in the store of this job cannot be used. The protocol answers this one.
    #[error("what the store holds of this job cannot be used")]
    Job(#[source] StoreError),
}

impl Fault {
    /// Whether a slot goes on behind it: it is one delivery's or passes, and no reason to leave all others.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Lost | Self::Stopped | Self::Job(_) | Self::Queue(QueueError::TooLarge { .. }) => true,
            Self::Queue(error) => error.is_passing(),
            Self::Store(error) => error.is_passing(),
            Self::Machine(_) => false,
        }
    }
}

/// How often a step is tried on a disk that fails.
const DISK_TRIES: u32 = 3;

/// The first wait before a job is tried again; it doubles with each attempt.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// The longest.
const LAST_RETRY: Duration = Duration::from_secs(10 * 60);

/// How a delivery came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// Something was computed for it.
    Computed,
    /// Nothing was: it was cancelled, done already, no job, or passed on.
    Dropped,
}

/// Takes a delivery to its end. One that comes when `drain` or `shed` is cancelled is passed on, and so is a batch that has
/// not begun when `shed` is.
///
/// # Errors
/// It could not be settled here; it will be delivered again, and nothing is lost.
pub async fn settle(
    context: &Context,
    warm: &Warm,
    delivery: Delivery,
    drain: &CancellationToken,
    shed: &CancellationToken,
) -> Result<Settled, Fault> {
    let Delivery { letter, redelivered, lost, receipt } = delivery;
    let job = match read(&letter) {
        Ok(job) => job,
        Err(problem) => {
            tracing::warn!(kind = %letter.kind, bytes = letter.body.len(), problem, "a message that is no job goes to the dead letters");
            let dead = DeadLetter::of(&letter, "unreadable", vec![problem], &context.settings.name);
            context.queue.bury(&dead).await?;
            receipt.ack().await?;
            return Ok(Settled::Dropped);
        }
    };
    let running = context.running(&job);
    let protocol =
        Protocol::new(job.kind(), letter.headers.slice, redelivered, letter.headers.attempts, context.settings.budgets);
    let stops = Stops { drain: drain.clone(), shed: shed.clone(), lost };
    let mut hands = Hands {
        context,
        job: &job,
        letter: &letter,
        warm,
        stops,
        preemptions: 0,
        settled: Settled::Dropped,
        ended: None,
        failure: None,
        result: None,
        scratch: None,
    };
    let settled = hands.carry(protocol, receipt).await;
    tracing::trace!(job.id = %job.id, run = %job.run, settled = settled.is_ok());
    drop(running);
    settled.map(|()| hands.settled)
}

/// The same letter for somebody else. It keeps its identity: a worker that lost its connection may commit a checkpoint
/// under it at any time, and then it is this letter that has to go on.
fn passed_on(letter: &Letter) -> Letter {
    let mut same = letter.clone();
    same.headers.message_id = identity(letter);
    same
}

/// A delivery's identity: its message id, which redeliveries keep. A client that sends none gets one of its job's
/// content; then a duplicate of the job costs work, but no result.
fn identity(letter: &Letter) -> String {
    let id = &letter.headers.message_id;
    if id.is_empty() { Digest::of(&letter.body).to_string() } else { id.clone() }
}

fn read(letter: &Letter) -> Result<Job, String> {
    if letter.body.len() > MAX_MESSAGE {
        return Err(format!("the message has {} bytes: at most {MAX_MESSAGE} are accepted", letter.body.len()));
    }
    if let Some(reply) = &letter.headers.reply
        && !reply.is_allowed()
    {
        return Err(format!(
            "`reply_to` is `{}`: names that begin with `gannet.` or `amq.` are refused (direct reply-to and `amq.gen-…` are accepted)",
            reply.queue
        ));
    }
    let job = Job::parse(&letter.body).map_err(|problem| problem.to_string())?;
    if job.kind() != letter.kind {
        return Err(format!("a {} stands in the queue of {} jobs", job.kind(), letter.kind));
    }
    Ok(job)
}

/// What the protocol's questions are answered with.
struct Hands<'a> {
    context: &'a Context,
    job: &'a Job,
    letter: &'a Letter,
    warm: &'a Warm,
    stops: Stops,
    preemptions: u32,
    settled: Settled,
    ended: Option<(Ended, step::Spent)>,
    failure: Option<ErrorReport>,
    result: Option<JobResult>,
    /// Removed when the delivery is settled.
    scratch: Option<Scratch>,
}

impl Hands<'_> {
    async fn carry(&mut self, mut protocol: Protocol, receipt: Box<dyn Receipt>) -> Result<(), Fault> {
        let stops = [&self.stops.drain, &self.stops.shed].into_iter().any(CancellationToken::is_cancelled);
        let mut ask = if stops { protocol.give_up() } else { protocol.start() };
        let (mut given_up, mut passed_on) = (None, false);
        loop {
            tracing::trace!(job.id = %self.job.id, run = %self.job.run, ?ask);
            failpoint::reach(When::Before, ask);
            passed_on |= ask == Ask::PublishAgain;
            let answer = match ask {
                Ask::Ack => {
                    receipt.ack().await?;
                    failpoint::reach(When::After, ask);
                    if !passed_on {
                        self.context.settled();
                    }
                    return given_up.map_or(Ok(()), Err);
                }
                Ask::Release => {
                    receipt.release().await?;
                    failpoint::reach(When::After, ask);
                    return given_up.map_or(Ok(()), Err);
                }
                ask => self.answer_in_time(ask, &protocol).await,
            };
            if answer.is_ok() {
                failpoint::reach(When::After, ask);
            }
            ask = match answer {
                Ok(answer) => protocol.next(answer),
                Err(Fault::Lost) => return Err(Fault::Lost),
                Err(Fault::Job(error)) => {
                    tracing::warn!(job.id = %self.job.id, run = %self.job.run, %error, "what the store holds of a job cannot be used");
                    self.failure = Some(ErrorReport::of(ErrorCode::AlteredObject, &error));
                    self.ended = None;
                    protocol.next(Answer::Unusable)
                }
                // This worker's fault, not the job's. Giving the delivery back would charge it an attempt.
                Err(fault @ (Fault::Stopped | Fault::Store(_) | Fault::Machine(_))) if given_up.is_none() => {
                    tracing::info!(job.id = %self.job.id, run = %self.job.run, %fault, "a job is passed on");
                    // Before this delivery is acknowledged, or the broker would send another.
                    self.stops.drain.cancel();
                    given_up = Some(fault);
                    protocol.give_up()
                }
                Err(fault) => {
                    // Where the broker still hears, it goes back at once instead of waiting for its lease to lapse.
                    if let Err(error) = receipt.release().await {
                        tracing::debug!(%error, "cannot give a delivery back");
                    }
                    return Err(given_up.unwrap_or(fault));
                }
            };
        }
    }

    /// A drain does not wait for a store that hangs. Only what the broker is to confirm is waited for until the last
    /// call: without the broker nothing can be passed on either.
    async fn answer_in_time(&mut self, ask: Ask, protocol: &Protocol) -> Result<Answer, Fault> {
        let late = &self.context.late;
        let is_publish =
            matches!(ask, Ask::PublishResult | Ask::PublishNextSlice | Ask::PublishRetry(_) | Ask::PublishAgain);
        tokio::select! {
            biased;
            answer = self.answer(ask, protocol) => answer,
            () = late.cancelled(), if !is_publish => Err(Fault::Stopped),
        }
    }

    async fn answer(&mut self, ask: Ask, protocol: &Protocol) -> Result<Answer, Fault> {
        let (context, job) = (self.context, self.job);
        let store = context.store.as_ref();
        match ask {
            Ask::LookCancelled => Ok(match self.patiently(|| context.cancels.standing(&job.run)).await? {
                Standing::Open => Answer::Absent,
                Standing::LookFirst => Answer::LookFirst,
                Standing::Cancelled => Answer::Cancelled,
            }),
            Ask::LookResult => {
                let found = self.patiently(|| commit::find_result(store, &job.run, &job.id)).await?;
                let Some(found) = self.found(found) else { return Ok(Answer::Absent) };
                self.drop_checkpoint_after(found, protocol.slice()).await;
                Ok(Answer::Result(found))
            }
            Ask::LookCheckpoint => {
                let slice = protocol.slice();
                let found = self.patiently(|| commit::find_checkpoint(store, job, slice)).await?;
                Ok(found.map_or(Answer::Absent, |record| Answer::Checkpoint {
                    mine: record.message_id == identity(self.letter),
                }))
            }
            Ask::RecordAttempt => self.record_attempt(protocol.slice()).await,
            Ask::Compute => self.compute(protocol).await,
            Ask::CommitResult => self.commit_result(protocol).await,
            Ask::CommitCheckpoint => self.commit_checkpoint(protocol.slice()).await,
            Ask::PublishResult => self.publish_result().await,
            Ask::PublishNextSlice => {
                let mut next = self.letter.again();
                next.headers.slice = protocol.slice() + 1;
                context.queue.publish(&[next]).await?;
                Ok(Answer::Done)
            }
            Ask::PublishRetry(spent) => self.publish_retry(spent).await,
            Ask::Bury(last) => self.bury(last).await,
            Ask::PublishAgain => {
                context.queue.publish(&[passed_on(self.letter)]).await?;
                Ok(Answer::Done)
            }
            Ask::Ack | Ask::Release => unreachable!("settled by the caller"),
        }
    }

    /// Asks the store until it answers: an outage is no fault of the job.
    async fn patiently<T, F>(&self, mut call: impl FnMut() -> F) -> Result<T, Fault>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        loop {
            let error = match call().await {
                Ok(value) => return Ok(value),
                // Somebody swept our scratch folder: what was computed is gone, the delivery is not. Or a disk has given up.
                Err(StoreError::Local { what, path, source })
                    if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ReadOnlyFilesystem) =>
                {
                    let error = anyhow::Error::from(source).context(format!("{what} `{}`", path.display()));
                    return Err(Fault::Machine(error));
                }
                Err(error) if error.is_passing() => error,
                Err(error @ StoreError::Refused { .. }) => return Err(Fault::Store(error)),
                Err(error) => return Err(Fault::Job(error)),
            };
            tokio::select! {
                () = self.context.patience.wait(&error) => {}
                () = self.stops.lost.cancelled() => return Err(Fault::Lost),
                // Passed on: whoever comes next may reach the store.
                () = self.stops.drain.cancelled() => return Err(Fault::Store(error)),
            }
        }
    }

    fn found(&mut self, found: Option<JobResult>) -> Option<Found> {
        self.result = found;
        self.result.as_ref().map(commit::judge)
    }

    /// Counted slice by slice: a slice that was committed shows that the job does not take its workers with it, and a
    /// trial of many hours on machines that come and go loses many.
    async fn record_attempt(&mut self, slice: u32) -> Result<Answer, Fault> {
        let (store, run, id) = (self.context.store.as_ref(), &self.job.run, &self.job.id);
        let key = layout::attempt(run, id, slice, &uuid::Uuid::new_v4().to_string());
        self.patiently(|| store.put(&key, bytes::Bytes::from_static(b"{}"))).await?;
        let all = layout::attempts_at(run, id, slice);
        let recorded = self.patiently(|| store.children(&all)).await?;
        self.preemptions = u32::try_from(recorded.len()).unwrap_or(u32::MAX);
        let lost = self.preemptions;
        let message = format!("{lost} workers were lost with slice {slice} of this job in hand");
        self.failure = Some(ErrorReport::new(ErrorCode::Preempted, &message));
        Ok(Answer::Preemptions(lost))
    }

    async fn compute(&mut self, protocol: &Protocol) -> Result<Answer, Fault> {
        let (store, slice) = (self.context.store.as_ref(), protocol.slice());
        let resume = match slice.checked_sub(1) {
            None => None,
            Some(last) => self.patiently(|| commit::find_checkpoint(store, self.job, last)).await?,
        };
        if slice > 0 && resume.is_none() {
            let message = format!("the checkpoint of slice {} is gone: was the run deleted?", slice - 1);
            self.failure = Some(ErrorReport::new(ErrorCode::MissingObject, &message));
            return Ok(Answer::Computed(Computed::Mistaken));
        }
        let (ended, mut spent) = self.step(resume.as_ref()).await?;
        if let Some(record) = &resume {
            spent.durations = sum_durations(spent.durations, record.durations);
            spent.costs = sum_costs(spent.costs, record.costs);
        }
        let computed = match &ended {
            Ended::Finished(_) => {
                self.settled = Settled::Computed;
                Computed::Finished
            }
            Ended::Paused(_) => Computed::Paused,
            Ended::Stopped => Computed::Stopped,
            Ended::Cancelled => Computed::Cancelled,
            Ended::Settled(result) => {
                let found = commit::judge(result);
                self.result = Some(JobResult::clone(result));
                self.drop_checkpoint_after(found, slice).await;
                return Ok(Answer::Result(found));
            }
            Ended::Lost => return Err(Fault::Lost),
            Ended::Failed(report) if report.code == ErrorCode::MissingObject && resume.is_some() => {
                // A duplicate of this delivery may have ended the slice meanwhile, and removed what it began with.
                if let Some(quicker) = self.quicker(slice).await? {
                    return Ok(quicker);
                }
                self.failure = Some(report.clone());
                verdict(report.code)
            }
            Ended::Failed(report) => {
                tracing::warn!(job.id = %self.job.id, run = %self.job.run, error = %report, "a job failed");
                self.failure = Some(report.clone());
                verdict(report.code)
            }
            Ended::Refused(_) | Ended::NoExecutor(_) | Ended::Disk(_) => {
                return Err(match ended {
                    Ended::Refused(error) => Fault::Store(error),
                    Ended::NoExecutor(death) => Fault::Machine(death.into()),
                    Ended::Disk(report) => Fault::Machine(anyhow::anyhow!("its disk fails: {report}")),
                    _ => unreachable!("just matched"),
                });
            }
        };
        self.ended = Some((ended, spent));
        Ok(Answer::Computed(computed))
    }

    /// Runs the job's step. A disk that fails may have done so once, or somebody has swept our folders; one that goes on
    /// is this machine's fault.
    async fn step(&mut self, resume: Option<&CheckpointRecord>) -> Result<(Ended, step::Spent), Fault> {
        let mut tries = 1..DISK_TRIES;
        loop {
            if self.job.kind() == Kind::Trial {
                self.scratch = Some(self.scratch().await?);
            }
            let scratch = self.scratch.as_ref().map(Scratch::path);
            let ran = step::run(self.context, self.job, resume, self.warm, scratch, &self.stops).await;
            match &ran {
                (Ended::Disk(report), _) if tries.next().is_some() => {
                    tracing::warn!(job.id = %self.job.id, error = %report, "the disk fails: tries again");
                }
                _ => return Ok(ran),
            }
        }
    }

    /// A new folder for what is computed. A full disk is waited for.
    async fn scratch(&self) -> Result<Scratch, Fault> {
        loop {
            let error = match self.context.scratch.folder() {
                Ok(scratch) => return Ok(scratch),
                Err(error) if is_full(&error) => error,
                Err(error) => return Err(Fault::Machine(error.into())),
            };
            tokio::select! {
                () = self.context.patience.wait(&error) => {}
                () = self.stops.lost.cancelled() => return Err(Fault::Lost),
                () = self.stops.drain.cancelled() => return Err(Fault::Stopped),
            }
        }
    }

    /// What somebody else made of this slice, or of the whole job.
    async fn quicker(&mut self, slice: u32) -> Result<Option<Answer>, Fault> {
        let (store, job) = (self.context.store.as_ref(), self.job);
        let found = self.patiently(|| commit::find_result(store, &job.run, &job.id)).await?;
        if let Some(found) = self.found(found) {
            return Ok(Some(Answer::Result(found)));
        }
        let found = self.patiently(|| commit::find_checkpoint(store, job, slice)).await?;
        Ok(found.map(|record| Answer::Checkpoint { mine: record.message_id == identity(self.letter) }))
    }

    async fn commit_result(&mut self, protocol: &Protocol) -> Result<Answer, Fault> {
        let store = self.context.store.as_ref();
        let (ended, spent) = self.ended.take().unwrap_or((Ended::Stopped, step::Spent::default()));
        let outcome = match ended {
            Ended::Finished(finished) => Some(self.outcome(finished, protocol.slice()).await?),
            _ => None,
        };
        let attempts = self.letter.headers.attempts;
        let result = JobResult {
            id: self.job.id.clone(),
            run: self.job.run.clone(),
            kind: self.job.kind(),
            status: if outcome.is_some() { Status::Done } else { Status::Failed },
            worker: self.context.settings.name.clone(),
            attempt: [attempts.crashes, self.preemptions, 1].into_iter().fold(attempts.errors, u32::saturating_add),
            simd: outcome.is_some().then(|| crate::compute::simd_path().to_owned()),
            finished_at: Timestamp::now(),
            durations: spent.durations,
            costs: spent.costs,
            error: if outcome.is_some() { None } else { self.failure.clone() },
            outcome,
            outcome_ref: None,
            nonce: uuid::Uuid::new_v4().to_string(),
        };
        let theirs = self.patiently(|| commit::create_result(store, &result)).await?;
        self.drop_checkpoint_after(commit::judge(theirs.as_ref().unwrap_or(&result)), protocol.slice()).await;
        if theirs.is_some() {
            return Ok(Answer::Result(self.found(theirs).expect("just found")));
        }
        self.result = Some(result);
        Ok(Answer::Committed)
    }

    async fn outcome(&self, finished: Finished, slice: u32) -> Result<Outcome, Fault> {
        let store = self.context.store.as_ref();
        Ok(match finished {
            Finished::Evaluated(outcome) => Outcome::Trial(outcome),
            Finished::Classified(outcome) => Outcome::Batch(Box::new(outcome)),
            Finished::Trained { report, file } => {
                let Report::Trained { epochs, best_epoch, validation, parameter_count, stopped_early } = report else {
                    unreachable!("only a trained report is kept so")
                };
                let checkpoint = self.patiently(|| commit::upload_tensors(store, self.job, &file)).await?;
                let validation = Some(validation);
                Outcome::Trial(Box::new(TrialOutcome {
                    epochs,
                    best_epoch,
                    validation,
                    test: None,
                    checkpoint,
                    parameter_count,
                    slices: slice + 1,
                    stopped_early,
                }))
            }
        })
    }

    async fn commit_checkpoint(&mut self, slice: u32) -> Result<Answer, Fault> {
        let store = self.context.store.as_ref();
        let Some((Ended::Paused(file), spent)) = self.ended.take() else {
            unreachable!("only a paused step has a checkpoint")
        };
        let tensors: ObjectRef = self.patiently(|| commit::upload_tensors(store, self.job, &file)).await?;
        let record = CheckpointRecord {
            message_id: identity(self.letter),
            tensors,
            simd: crate::compute::simd_path().into(),
            worker: self.context.settings.name.clone(),
            durations: spent.durations,
            costs: spent.costs,
        };
        let winner = self.patiently(|| commit::create_checkpoint(store, self.job, slice, &record)).await?;
        self.drop_checkpoint(slice).await;
        Ok(Answer::Checkpoint { mine: winner.message_id == record.message_id })
    }

    /// Where the job has ended. One among the dead letters may be put back, and then goes on from there.
    async fn drop_checkpoint_after(&self, found: Found, slice: u32) {
        match found {
            Found::Settled => self.drop_checkpoint(slice).await,
            Found::Buried(_) => {}
        }
    }

    /// Removes the tensors that slice `slice` began with: the next commit stands, nobody needs them.
    /// The record stays, so that a late duplicate finds it.
    async fn drop_checkpoint(&self, slice: u32) {
        let store = self.context.store.as_ref();
        let Some(last) = slice.checked_sub(1) else { return };
        let removed = async {
            if let Some(record) = commit::find_checkpoint(store, self.job, last).await? {
                store.delete(&record.tensors.key).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = removed.await {
            tracing::debug!(%error, job.id = %self.job.id, "a superseded checkpoint stays");
        }
    }

    async fn publish_result(&mut self) -> Result<Answer, Fault> {
        let result = self.result.as_ref().expect("committed or found before it is published");
        let body = serde_json::to_vec(result).expect("a result is plain data");
        let by_reference = (body.len() > MAX_MESSAGE).then(|| JobResult {
            outcome: None,
            outcome_ref: Some(ObjectRef { key: layout::result(&result.run, &result.id), sha256: Digest::of(&body) }),
            ..result.clone()
        });
        let published = by_reference.as_ref().unwrap_or(result);
        self.context.queue.publish_result(published, self.letter.headers.reply.as_ref()).await?;
        Ok(Answer::Done)
    }

    async fn publish_retry(&mut self, spent: Spent) -> Result<Answer, Fault> {
        let mut next = passed_on(self.letter);
        let attempts = &mut next.headers.attempts;
        spend(attempts, spent);
        let before = attempts.errors.saturating_add(attempts.crashes).saturating_sub(1);
        let wait = FIRST_RETRY.saturating_mul(1 << before.min(8)).min(LAST_RETRY);
        // Full jitter, so that jobs that failed together do not all come back together. A broker's retry queues round it up.
        let delay = wait.mul_f64(rand::rng().random::<f64>());
        self.context.queue.retry(&next, delay).await?;
        Ok(Answer::Done)
    }

    async fn bury(&mut self, last: Option<Spent>) -> Result<Answer, Fault> {
        let report = self.failure.clone().or_else(|| self.result.as_ref().and_then(|result| result.error.clone()));
        let reason = report.as_ref().map_or("failed", |report| report.code.as_str());
        let errors =
            report.iter().flat_map(|report| std::iter::once(&report.message).chain(&report.causes)).cloned().collect();
        let store = self.context.store.as_ref();
        let marker = layout::buried(&self.job.run, &self.job.id);
        if self.patiently(|| get_optional(store, &marker)).await?.is_some() {
            return Ok(Answer::Done);
        }
        let mut dead = DeadLetter::of(self.letter, reason, errors, &self.context.settings.name);
        dead.attempts.preemptions = self.preemptions;
        if let Some(last) = last {
            spend(&mut dead.attempts, last);
        }
        self.context.queue.bury(&dead).await?;
        self.patiently(|| store.create(&marker, bytes::Bytes::from_static(b"{}"))).await?;
        Ok(Answer::Done)
    }
}

fn spend(attempts: &mut Attempts, spent: Spent) {
    let count = match spent {
        Spent::Error => &mut attempts.errors,
        Spent::Crash => &mut attempts.crashes,
    };
    *count = count.saturating_add(1);
}

/// What a failure means for the job. Exhaustive, so that a new sort forces a decision.
fn verdict(code: ErrorCode) -> Computed {
    match code {
        ErrorCode::Diverged => Computed::Hopeless,
        ErrorCode::InvalidJob | ErrorCode::MissingObject | ErrorCode::AlteredObject => Computed::Mistaken,
        ErrorCode::Crashed | ErrorCode::OutOfMemory | ErrorCode::TimeLimit => Computed::Crash,
        ErrorCode::Preempted | ErrorCode::Failed => Computed::Error,
    }
}

fn sum_durations(a: Durations, b: Durations) -> Durations {
    Durations { fetch_ms: a.fetch_ms + b.fetch_ms, compute_ms: a.compute_ms + b.compute_ms }
}

fn sum_costs(a: Cost, b: Cost) -> Cost {
    Cost { cpu_ms: a.cpu_ms + b.cpu_ms, bytes_fetched: a.bytes_fetched + b.bytes_fetched }
}
