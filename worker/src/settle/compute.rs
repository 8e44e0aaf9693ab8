//! The middle of a delivery: has the step carried out, and says what it came to.

use shared::contract::{Cost, Durations, ErrorCode, ErrorReport, JobResult, Kind};
use shared::store::layout;
use shared::traces::Span;

use super::{Fault, Hands, Settled, identity};
use crate::commit::{self, CheckpointRecord};
use crate::compute::{is_full, joined_paths};
use crate::protocol::{Answer, Computed, Protocol};
use crate::scratch::Scratch;
use crate::step::{self, Ended};
use crate::supervisor::On;

/// How often a step is tried on a disk that fails.
const DISK_TRIES: u32 = 3;

impl Hands<'_> {
    /// Counted slice by slice: a slice that was committed shows that the job does not take its workers with it, and a
    /// trial of many hours on machines that come and go loses many.
    pub(super) async fn record_attempt(&mut self, slice: u32) -> Result<Answer, Fault> {
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

    pub(super) async fn compute(&mut self, protocol: &Protocol, span: &Span) -> Result<Answer, Fault> {
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
        let (ended, mut spent) = self.step(resume.as_ref(), span).await?;
        self.context.metrics.spent(self.job.kind(), &spent);
        let path = self.context.settings.executor.device.path();
        self.simd = joined_paths(resume.as_ref().map(|record| record.simd.as_str()), path);
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
                tracing::warn!(error = %report, "a job failed");
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
    async fn step(&mut self, resume: Option<&CheckpointRecord>, span: &Span) -> Result<(Ended, step::Spent), Fault> {
        let mut tries = 1..DISK_TRIES;
        loop {
            if self.job.kind() == Kind::Trial {
                self.scratch = Some(self.scratch().await?);
            }
            let scratch = self.scratch.as_ref().map(Scratch::path);
            let ran = step::run(self.context, self.job, resume, self.warm, scratch, &self.stops, span).await;
            match &ran {
                (Ended::Disk(report), _) if tries.next().is_some() => {
                    tracing::warn!(error = %report, "the disk fails: tries again");
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
                () = self.context.patience.wait(On::Disk, &error) => {}
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
