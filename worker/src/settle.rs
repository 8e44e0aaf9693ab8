//! Carries a delivery through the [protocol](crate::protocol): the only place that acknowledges, and
//! only after the result is committed and its publication confirmed.

use std::io::ErrorKind;
use std::time::Instant;

use shared::contract::{ErrorCode, ErrorReport, Job, JobResult, MAX_MESSAGE, Status};
use shared::digest::Digest;
use shared::queue::{DeadLetter, Delivery, Letter, QueueError, Receipt};
use shared::store::StoreError;
use shared::traces::{self, Span};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

mod compute;
mod outcome;

use crate::cancel::Standing;
use crate::commit;
use crate::failpoint::{self, When};
use crate::metrics::Outcome;
use crate::protocol::{Answer, Ask, Computed, Found, Protocol};
use crate::scratch::Scratch;
use crate::step::{self, Ended, Stops, Warm};
use crate::supervisor::{Context, On};

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
    let Delivery { letter, redelivered, enqueued, lost, receipt } = delivery;
    let job = match read(&letter) {
        Ok(job) => job,
        Err(problem) => {
            tracing::warn!(kind = %letter.kind, bytes = letter.body.len(), problem, "a message that is no job goes to the dead letters");
            let dead = DeadLetter::of(&letter, "unreadable", vec![problem], &context.settings.name);
            context.queue.bury(&dead).await?;
            receipt.ack().await?;
            context.metrics.dropped(letter.kind, Outcome::Unreadable);
            return Ok(Settled::Dropped);
        }
    };
    context.metrics.received(letter.kind, enqueued);
    let mut span = traces::letters::receive(&letter, &job, &identity(&letter), redelivered);
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
        outcome: Outcome::default(),
        ended: None,
        failure: None,
        simd: String::new(),
        result: None,
        scratch: None,
    };
    // Of the level of an error, so that what is logged of a job says of which, whatever else is not logged.
    let about = tracing::error_span!("job", run = %job.run, job.id = %job.id, trace = span.trace());
    let settled = hands.carry(protocol, receipt, &span).instrument(about).await;
    tracing::trace!(job.id = %job.id, run = %job.run, settled = settled.is_ok());
    drop(running);
    let outcome = if settled.is_ok() || hands.outcome == Outcome::PassedOn { hands.outcome } else { Outcome::Lost };
    context.metrics.settled(letter.kind, outcome);
    span.set("gannet.outcome", outcome.as_str());
    if let Err(fault) = &settled {
        span.fail(fault);
    } else if let (Some(report), Outcome::Failed | Outcome::Retried) = (&hands.failure, outcome) {
        span.fail(report);
    }
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
    outcome: Outcome,
    ended: Option<(Ended, step::Spent)>,
    failure: Option<ErrorReport>,
    /// What computed it, all slices together: [`joined_paths`].
    ///
    /// [`joined_paths`]: crate::compute::joined_paths
    simd: String,
    result: Option<JobResult>,
    /// Removed when the delivery is settled.
    scratch: Option<Scratch>,
}

impl Hands<'_> {
    async fn carry(&mut self, mut protocol: Protocol, receipt: Box<dyn Receipt>, delivery: &Span) -> Result<(), Fault> {
        let stops = [&self.stops.drain, &self.stops.shed].into_iter().any(CancellationToken::is_cancelled);
        let mut ask = if stops { protocol.give_up() } else { protocol.start() };
        let (mut given_up, mut passed_on) = (None, false);
        loop {
            tracing::trace!(job.id = %self.job.id, run = %self.job.run, ?ask);
            failpoint::reach(When::Before, ask);
            passed_on |= ask == Ask::PublishAgain;
            let (begun, mut span) = (Instant::now(), delivery.child(Ask::LABELS[ask.number()]));
            let answer = match ask {
                Ask::Ack => {
                    receipt.ack().await?;
                    self.context.metrics.stepped(ask, begun.elapsed());
                    failpoint::reach(When::After, ask);
                    if !passed_on {
                        self.context.settled();
                    }
                    return given_up.map_or(Ok(()), Err);
                }
                Ask::Release => {
                    receipt.release().await?;
                    self.context.metrics.stepped(ask, begun.elapsed());
                    self.outcome = Outcome::PassedOn;
                    failpoint::reach(When::After, ask);
                    return given_up.map_or(Ok(()), Err);
                }
                // The letter that goes out says whose it is: the delivery's, not a step's.
                ask => self.answer_in_time(ask, &protocol, if ask == Ask::Compute { &span } else { delivery }).await,
            };
            self.context.metrics.stepped(ask, begun.elapsed());
            match &answer {
                Ok(answer) => {
                    failpoint::reach(When::After, ask);
                    self.note(ask, answer);
                }
                Err(fault) => span.fail(fault),
            }
            drop(span);
            ask = match answer {
                Ok(answer) => protocol.next(answer),
                Err(Fault::Lost) => return Err(Fault::Lost),
                Err(Fault::Job(error)) => {
                    tracing::warn!(%error, "what the store holds of a job cannot be used");
                    self.failure = Some(ErrorReport::of(ErrorCode::AlteredObject, &error));
                    self.ended = None;
                    protocol.next(Answer::Unusable)
                }
                // This worker's fault, not the job's. Giving the delivery back would charge it an attempt.
                Err(fault @ (Fault::Stopped | Fault::Store(_) | Fault::Machine(_))) if given_up.is_none() => {
                    tracing::info!(%fault, "a job is passed on");
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

    /// What a step that was answered means for the delivery.
    fn note(&mut self, ask: Ask, answer: &Answer) {
        let (metrics, kind) = (&self.context.metrics, self.job.kind());
        let status = self.result.as_ref().map(|result| result.status);
        self.outcome = match (ask, answer) {
            (Ask::PublishAgain, _) => Outcome::PassedOn,
            (Ask::PublishNextSlice, _) => Outcome::Paused,
            (Ask::PublishRetry(_), _) => Outcome::Retried,
            (Ask::CommitResult, Answer::Committed) if status == Some(Status::Done) => Outcome::Done,
            (Ask::CommitResult, Answer::Committed) => Outcome::Failed,
            (_, Answer::Cancelled | Answer::Computed(Computed::Cancelled)) => Outcome::Cancelled,
            (_, Answer::Result(_)) if status == Some(Status::Cancelled) => Outcome::Cancelled,
            _ => self.outcome,
        };
        match (ask, answer) {
            (Ask::PublishRetry(spent), _) => metrics.retried(kind, Some(spent)),
            (Ask::RecordAttempt, _) => metrics.retried(kind, None),
            (Ask::CommitResult, Answer::Committed) => self.result.iter().for_each(|result| metrics.committed(result)),
            _ => {}
        }
    }

    /// A drain does not wait for a store that hangs. Only what the broker is to confirm is waited for until the last
    /// call: without the broker nothing can be passed on either.
    async fn answer_in_time(&mut self, ask: Ask, protocol: &Protocol, span: &Span) -> Result<Answer, Fault> {
        let late = &self.context.late;
        let is_publish =
            matches!(ask, Ask::PublishResult | Ask::PublishNextSlice | Ask::PublishRetry(_) | Ask::PublishAgain);
        tokio::select! {
            biased;
            answer = self.answer(ask, protocol, span) => answer,
            () = late.cancelled(), if !is_publish => Err(Fault::Stopped),
        }
    }

    async fn answer(&mut self, ask: Ask, protocol: &Protocol, span: &Span) -> Result<Answer, Fault> {
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
            Ask::Compute => self.compute(protocol, span).await,
            Ask::CommitResult => self.commit_result(protocol).await,
            Ask::CommitCheckpoint => self.commit_checkpoint(protocol.slice()).await,
            Ask::PublishResult => self.publish_result().await,
            Ask::PublishNextSlice => {
                let mut next = self.letter.again();
                next.headers.slice = protocol.slice() + 1;
                traces::letters::hand_on(&mut next, span);
                context.queue.publish(&[next]).await?;
                Ok(Answer::Done)
            }
            Ask::PublishRetry(spent) => self.publish_retry(spent, span).await,
            Ask::Bury(last) => self.bury(last, span).await,
            Ask::PublishAgain => {
                let mut same = passed_on(self.letter);
                traces::letters::hand_on(&mut same, span);
                context.queue.publish(&[same]).await?;
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
                () = self.context.patience.wait(On::Store, &error) => {}
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
}
