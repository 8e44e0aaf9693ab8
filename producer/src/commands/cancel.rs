//! `gannet cancel`: stops a run or one job of it, wherever it is.

use std::collections::BTreeSet;
use std::str::FromStr;

use anyhow::{Context as _, bail};
use shared::contract::{Control, JobResult, Kind};
use shared::names::{BadName, JobId, Name};
use shared::store::{create_json, get_optional_json, layout, put_json, settle_json};
use shared::strict;

use super::completions;
use crate::enqueue;
use crate::runs::{self, Asked, RunManifest};
use crate::session::Session;
use crate::workers::{RollCall, Workers};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet cancel night-1\n  gannet cancel night-1/t0007\n\nWhat is running stops within seconds, what is waiting is dropped when a worker meets it; results stay. Waits a few seconds for the workers' word, to say what became of the jobs."
)]
pub(super) struct Arguments {
    /// The run, or one job of it as RUN/JOB
    #[arg(value_name = "RUN[/JOB]", add = completions::runs())]
    target: Target,
    /// The job's kind, for a job that another client enqueued
    #[arg(long, value_parser = super::kind)]
    kind: Option<Kind>,
}

#[derive(Debug, Clone)]
struct Target {
    run: Name,
    job: Option<JobId>,
}

impl FromStr for Target {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        Ok(match text.split_once('/') {
            Some((run, job)) => Self { run: run.parse()?, job: Some(job.parse()?) },
            None => Self { run: text.parse()?, job: None },
        })
    }
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let session = Session::open().await?;
    let Target { run, job } = arguments.target;
    let manifest = RunManifest::find(session.store.as_ref(), &run).await?;
    let said = match job {
        None => cancel_run(&session, &run, manifest.as_ref()).await?,
        Some(job) => cancel_job(&session, &run, &job, manifest.as_ref(), arguments.kind).await?,
    };
    eprintln!("{said}");
    Ok(())
}

async fn cancel_run(session: &Session, run: &Name, manifest: Option<&RunManifest>) -> anyhow::Result<String> {
    let (store, queue) = (session.store.as_ref(), session.queue.as_ref());
    // Before anybody is told, so that no answer is missed.
    let mut workers = Workers::listen(queue).await?;
    let marker = serde_json::json!({"cancelled_at": jiff::Timestamp::now()});
    create_json(store, &layout::cancelled(run), &marker).await?;
    // The marker is the truth; this only makes workers look at once.
    queue.publish_control(&Control::Cancelled { run: run.clone(), job: None }).await.context("tell the workers")?;
    queue.forget(run).await.context("remove what waits")?;
    let call = workers.roll_call(queue, run, None).await?;
    let done: BTreeSet<JobId> = runs::jobs_done(store, run).await?.into_iter().collect();
    let asked = asked(session, run, manifest).await;
    Ok(summary(run, asked.as_ref(), &done, &call))
}

/// The jobs that a run has, where that is known: a study's follow from what was asked, others were noted when they were
/// enqueued. What was asked may no longer be readable; the run is cancelled anyway.
async fn asked(session: &Session, run: &Name, manifest: Option<&RunManifest>) -> Option<BTreeSet<JobId>> {
    let store = session.store.as_ref();
    if let Some(manifest) = manifest
        && matches!(manifest.asked, Asked::Study { .. })
        && let Ok(jobs) = runs::trials(store, manifest).await
    {
        return Some(jobs.into_iter().map(|job| job.id).collect());
    }
    let noted: BTreeSet<JobId> = enqueue::noted(store, run).await.ok()?.into_keys().collect();
    (!noted.is_empty()).then_some(noted)
}

fn summary(run: &Name, asked: Option<&BTreeSet<JobId>>, done: &BTreeSet<JobId>, call: &RollCall) -> String {
    let ran: BTreeSet<&JobId> = call.stopped.keys().chain(call.running.iter().map(|(job, _)| job)).collect();
    let stopped = ran.iter().filter(|job| !done.contains(**job)).count();
    let dropped = asked.map(|jobs| jobs.iter().filter(|job| !done.contains(*job) && !ran.contains(job)).count());
    let mut said = format!("run {run} is cancelled: ");
    if let Some(dropped) = dropped {
        said.push_str(&format!("{dropped} dropped, "));
    }
    said.push_str(&format!("{stopped} stopped, {} were done", done.len()));
    if dropped.is_none() {
        said.push_str("; what waits on the queue is dropped when a worker meets it (how much is not known here)");
    }
    said.push_str(&doubts(call));
    said
}

/// What cannot be known.
fn doubts(call: &RollCall) -> String {
    let mut doubts = String::new();
    if !call.running.is_empty() {
        let who: BTreeSet<&str> = call.running.iter().map(|(_, worker)| worker.as_str()).collect();
        doubts.push_str(&format!("; no word yet that {} has stopped", Vec::from_iter(who).join(", ")));
    }
    if !call.partly.is_empty() {
        let who: BTreeSet<&str> = call.partly.iter().map(String::as_str).collect();
        doubts.push_str(&format!(
            "; {} had more jobs in hand than a heartbeat names: what was stopped there counts as dropped",
            Vec::from_iter(who).join(", ")
        ));
    }
    if call.heard < call.slots {
        doubts.push_str(&format!(
            "; {} of {} slots were not heard: what they run stops when they look at the store, within seconds of \
             reaching it",
            call.slots - call.heard,
            call.slots
        ));
    }
    doubts
}

async fn cancel_job(
    session: &Session,
    run: &Name,
    job: &JobId,
    manifest: Option<&RunManifest>,
    kind: Option<Kind>,
) -> anyhow::Result<String> {
    let (store, queue) = (session.store.as_ref(), session.queue.as_ref());
    let key = layout::result(run, job);
    if let Some(result) = get_optional_json::<JobResult>(store, &key).await? {
        return Ok(format!("job {run}/{job} was {} already: nothing to cancel", result.status.as_str()));
    }
    let kind = kind_of(session, run, job, manifest, kind).await?;
    let mut workers = Workers::listen(queue).await?;
    // First, so that workers look for the result before they start a batch; others do not.
    put_json(store, &layout::look(run), &serde_json::json!({})).await?;
    let by = format!("gannet-cancel-{}", std::process::id());
    let result = JobResult::cancelled(run.clone(), job.clone(), kind, by);
    let stands = settle_json(store, &key, result.clone()).await?;
    if stands.nonce != result.nonce {
        return Ok(format!("job {run}/{job} is {}: it ended just before", stands.status.as_str()));
    }
    queue.publish_result(&result, None).await.context("tell collectors")?;
    let word = Control::Cancelled { run: run.clone(), job: Some(job.clone()) };
    queue.publish_control(&word).await.context("tell the workers")?;
    let call = workers.roll_call(queue, run, Some(job)).await?;
    let became = match call.stopped.values().next() {
        Some(worker) => format!("it was running on {worker} and has stopped"),
        None if !call.running.is_empty() => "it is running".into(),
        None if call.heard < call.slots => "no worker that was heard runs it: if it waits, it is dropped".into(),
        None => "no worker runs it: if it waits on the queue, it is dropped when a worker meets it".into(),
    };
    Ok(format!("job {run}/{job} is cancelled: {became}{}", doubts(&call)))
}

/// The kind of a job, once it is sure that there is such a job: a result of one that nobody enqueued would be a lie.
async fn kind_of(
    session: &Session,
    run: &Name,
    job: &JobId,
    manifest: Option<&RunManifest>,
    said: Option<Kind>,
) -> anyhow::Result<Kind> {
    let noted = enqueue::noted(session.store.as_ref(), run).await?;
    if let Some(kind) = noted.get(job).copied().or(said) {
        return Ok(kind);
    }
    if let Some(jobs) = asked(session, run, manifest).await {
        if jobs.contains(job) {
            return Ok(Kind::Trial);
        }
        let hint = strict::nearest(job.as_str(), jobs.iter().map(JobId::as_str));
        let hint = hint.map_or_else(|| format!("it has {}", jobs.len()), |near| format!("did you mean `{near}`?"));
        bail!("no job `{job}` in the run `{run}`: {hint}");
    }
    bail!("what jobs the run `{run}` has is not known here: say the job's kind with --kind trial or --kind batch")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[&str]) -> BTreeSet<JobId> {
        ids.iter().map(|id| JobId::new(*id).expect("an id")).collect()
    }

    #[test]
    fn jobs_are_counted_by_what_became_of_them() {
        let run = Name::new("r").expect("a name");
        let mut call = RollCall { slots: 3, heard: 3, ..RollCall::default() };
        call.stopped.insert(JobId::new("t1").expect("an id"), "w".into());
        // It ended before it heard of the cancellation.
        call.stopped.insert(JobId::new("t2").expect("an id"), "w".into());
        let said = summary(&run, Some(&ids(&["t0", "t1", "t2", "t3", "t4"])), &ids(&["t0", "t2"]), &call);
        assert_eq!(said, "run r is cancelled: 2 dropped, 1 stopped, 2 were done");
        call.heard = 1;
        let said = summary(&run, None, &ids(&[]), &call);
        assert!(said.contains("not known here") && said.contains("2 of 3 slots were not heard"), "{said}");
    }

    #[test]
    fn a_target_is_a_run_or_a_job_of_one() {
        let target: Target = "night-1/t0007".parse().expect("a job");
        assert_eq!((target.run.as_str(), target.job.as_ref().map(JobId::as_str)), ("night-1", Some("t0007")));
        assert!("night-1".parse::<Target>().expect("a run").job.is_none());
        assert!("night-1/".parse::<Target>().is_err() && "a/b/c".parse::<Target>().is_err());
    }
}
