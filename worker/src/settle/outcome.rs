//! What is kept of a delivery: its result or its checkpoint, and who hears of it.

use std::time::Duration;

use jiff::Timestamp;
use rand::RngExt as _;
use shared::contract::{JobResult, MAX_MESSAGE, Outcome, Status, TrialOutcome};
use shared::digest::Digest;
use shared::names::ObjectRef;
use shared::queue::{Attempts, DeadLetter};
use shared::store::{StoreError, get_optional, layout};
use shared::traces::{self, Span};

use super::{Fault, Hands, identity, passed_on};
use crate::commit::{self, CheckpointRecord};
use crate::executor::Report;
use crate::protocol::{Answer, Found, Protocol, Spent};
use crate::step::{self, Ended, Finished};

/// The first wait before a job is tried again; it doubles with each attempt.
const FIRST_RETRY: Duration = Duration::from_secs(5);
/// The longest.
const LAST_RETRY: Duration = Duration::from_secs(10 * 60);

impl Hands<'_> {
    pub(super) async fn commit_result(&mut self, protocol: &Protocol) -> Result<Answer, Fault> {
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
            simd: outcome.is_some().then(|| self.simd.clone()),
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

    pub(super) async fn commit_checkpoint(&mut self, slice: u32) -> Result<Answer, Fault> {
        let store = self.context.store.as_ref();
        let Some((Ended::Paused(file), spent)) = self.ended.take() else {
            unreachable!("only a paused step has a checkpoint")
        };
        let tensors: ObjectRef = self.patiently(|| commit::upload_tensors(store, self.job, &file)).await?;
        let record = CheckpointRecord {
            message_id: identity(self.letter),
            tensors,
            simd: self.simd.clone(),
            worker: self.context.settings.name.clone(),
            durations: spent.durations,
            costs: spent.costs,
        };
        let winner = self.patiently(|| commit::create_checkpoint(store, self.job, slice, &record)).await?;
        self.drop_checkpoint(slice).await;
        Ok(Answer::Checkpoint { mine: winner.message_id == record.message_id })
    }

    /// Where the job has ended. One among the dead letters may be put back, and then goes on from there.
    pub(super) async fn drop_checkpoint_after(&self, found: Found, slice: u32) {
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
            tracing::debug!(%error, "a superseded checkpoint stays");
        }
    }

    pub(super) async fn publish_result(&mut self) -> Result<Answer, Fault> {
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

    pub(super) async fn publish_retry(&mut self, spent: Spent, span: &Span) -> Result<Answer, Fault> {
        let mut next = passed_on(self.letter);
        traces::letters::hand_on(&mut next, span);
        let attempts = &mut next.headers.attempts;
        spend(attempts, spent);
        let before = attempts.errors.saturating_add(attempts.crashes).saturating_sub(1);
        let wait = FIRST_RETRY.saturating_mul(1 << before.min(8)).min(LAST_RETRY);
        // Full jitter, so that jobs that failed together do not all come back together. A broker's retry queues round it up.
        let delay = wait.mul_f64(rand::rng().random::<f64>());
        self.context.queue.retry(&next, delay).await?;
        Ok(Answer::Done)
    }

    pub(super) async fn bury(&mut self, last: Option<Spent>, span: &Span) -> Result<Answer, Fault> {
        let report = self.failure.clone().or_else(|| self.result.as_ref().and_then(|result| result.error.clone()));
        let reason = report.as_ref().map_or("failed", |report| report.code.as_str());
        let errors =
            report.iter().flat_map(|report| std::iter::once(&report.message).chain(&report.causes)).cloned().collect();
        let store = self.context.store.as_ref();
        let marker = layout::buried(&self.job.run, &self.job.id);
        if self.patiently(|| get_optional(store, &marker)).await?.is_some() {
            return Ok(Answer::Done);
        }
        let mut letter = self.letter.clone();
        traces::letters::hand_on(&mut letter, span);
        let mut dead = DeadLetter::of(&letter, reason, errors, &self.context.settings.name);
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
