//! `gannet submit`: jobs written by hand or by another program.

use std::collections::{BTreeSet, HashMap};
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use serde_json::Value;
use shared::contract::{Dataset, Job, Kind, MAX_MESSAGE, Status, Work};
use shared::names::{JobId, ObjectRef};
use shared::store::{Store, fetch_checked, get_optional, layout};
use shared::strict::{self, Problem};

use super::embedded::{Embedded, with_workers};
use super::{Listed, NotKnown};
use crate::bar::Bar;
use crate::drive::Drive;
use crate::enqueue::{Enqueue, Lost, PART, Published, noted};
use crate::listings;
use crate::runs;
use crate::session::Session;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet submit job.json\n  jq -c '.jobs[]' plan.json | gannet submit - --wait\n\n`gannet schema job` says what a job looks like. Every job is checked before the first is enqueued. The same again enqueues only what has no result and is neither on the queue nor running. On a broker that takes some seconds and cannot always be told: then the status is 75, and the same again, later, tells."
)]
pub(super) struct Arguments {
    /// A file of JSON jobs, one after another or in an array; `-` for standard input
    file: PathBuf,
    /// Waits for the results and lists them; without a fleet, computes them here
    #[arg(long)]
    wait: bool,
    /// Enqueues also what was enqueued before and has no result, whether it still waits or not
    #[arg(long, conflicts_with = "wait")]
    again: bool,
    #[command(flatten)]
    embedded: Embedded,
    #[command(flatten)]
    listed: Listed,
}

/// The largest input that is read, in bytes.
const MOST_BYTES: u64 = 1 << 30;

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let name = if arguments.file.as_os_str() == "-" {
        "standard input".to_owned()
    } else {
        arguments.file.display().to_string()
    };
    let mut text = Vec::new();
    let read = if arguments.file.as_os_str() == "-" {
        std::io::stdin().lock().take(MOST_BYTES).read_to_end(&mut text)
    } else {
        std::fs::File::open(&arguments.file).and_then(|file| file.take(MOST_BYTES).read_to_end(&mut text))
    };
    read.with_context(|| format!("read jobs from {name}"))?;
    let jobs = parse(&text)
        .map_err(|problem| anyhow::anyhow!("{name}: {problem}: see `gannet schema job`; nothing was enqueued"))?;
    if jobs.is_empty() {
        bail!("{name} holds no jobs");
    }
    let session = Session::open().await?;
    check(session.store.as_ref(), &jobs).await.with_context(|| format!("check {name} (nothing was enqueued)"))?;
    if !arguments.wait {
        enqueue(&session, &jobs, arguments.again).await?;
        if session.places.is_embedded() {
            eprintln!("a `gannet-worker` started in this folder computes them; with --wait this command does");
        }
        return Ok(());
    }
    let kinds: Vec<Kind> = Kind::ALL.into_iter().filter(|kind| jobs.iter().any(|job| job.kind() == *kind)).collect();
    let results = with_workers(
        &session,
        &arguments.embedded,
        None,
        &kinds,
        "the same command takes it up again",
        async |session: &Session| {
            let mut bar = Bar::new("jobs", jobs.len(), None);
            let mut results = Vec::new();
            for run in runs_of(&jobs) {
                let drive = Drive { queue: session.queue.as_ref(), store: session.store.as_ref(), run: &run[0].run };
                results.extend(drive.all(&run, &mut |news| bar.hear(&news)).await?.into_values());
            }
            bar.finish();
            Ok(results)
        },
    )
    .await?;
    super::print(&listings::results(results.iter()), arguments.listed.format)?;
    let failed = results.iter().filter(|result| result.status != Status::Done).count();
    if failed > 0 {
        bail!("{failed} of {} jobs did not end well", results.len());
    }
    Ok(())
}

/// Enqueues what has no result and was not enqueued before, or got lost.
async fn enqueue(session: &Session, jobs: &[Job], again: bool) -> anyhow::Result<()> {
    let (queue, store) = (session.queue.as_ref(), session.store.as_ref());
    let (mut enqueued, mut done, mut before, mut unknown) = (0, 0, 0, Vec::new());
    for jobs in runs_of(jobs) {
        let run = &jobs[0].run;
        if get_optional(store, &layout::cancelled(run)).await?.is_some() {
            bail!("the run `{run}` is cancelled or deleted: give the jobs another `run`");
        }
        let enqueue = Enqueue { queue, store, run };
        let noted = noted(store, run).await?;
        let results: BTreeSet<JobId> = runs::jobs_done(store, run).await?.into_iter().collect();
        let open: Vec<&Job> = jobs.iter().filter(|job| !results.contains(&job.id)).collect();
        done += jobs.len() - open.len();
        let (doubtful, fresh): (Vec<&Job>, Vec<&Job>) = open.into_iter().partition(|job| noted.contains_key(&job.id));
        for part in fresh.chunks(PART) {
            match enqueue.part(part).await? {
                Published::Surely => enqueued += part.len(),
                Published::BySomebodyElse => before += part.len(),
                Published::Perhaps(error) => {
                    let hint = "submit the same again: what is on the queue is not enqueued twice";
                    return Err(anyhow::Error::from(error).context(hint));
                }
            }
        }
        let again = if again { Ok(doubtful.clone()) } else { lost(&enqueue, &doubtful).await? };
        let again = match again {
            Ok(again) => again,
            Err(why) => {
                unknown.push(format!("{} of the run `{run}`: {why}", doubtful.len()));
                continue;
            }
        };
        for part in again.chunks(PART) {
            enqueue.again(part).await?;
        }
        enqueued += again.len();
        before += doubtful.len() - again.len();
    }
    eprintln!("{enqueued} jobs enqueued at {}", queue.place());
    if done > 0 {
        eprintln!("{done} have results already");
    }
    if before > 0 {
        eprintln!("{before} were enqueued before and wait or run: not enqueued twice (--again does it anyway)");
    }
    if unknown.is_empty() {
        return Ok(());
    }
    let what = "enqueued before, and whether they still wait or run or got lost cannot be told now";
    let hint = "submit the same again later; with --again they are enqueued now, and perhaps computed twice";
    Err(NotKnown(format!("{what}: {}; {hint}", unknown.join("; "))).into())
}

/// Those of `doubtful` that nobody has, or why that cannot be told.
async fn lost<'a>(enqueue: &Enqueue<'_>, doubtful: &[&'a Job]) -> anyhow::Result<Result<Vec<&'a Job>, String>> {
    if doubtful.is_empty() {
        return Ok(Ok(Vec::new()));
    }
    let ids = doubtful.iter().map(|job| job.id.clone()).collect();
    let lost = match enqueue.lost(&ids, false).await? {
        Lost::These(lost) => lost,
        Lost::SomeWait(letters) => {
            return Ok(Err(format!("{letters} letters wait on the queues, and whose they are a broker does not say")));
        }
        Lost::NotAllHeard { heard, slots } => {
            let silent = slots.saturating_sub(heard);
            return Ok(Err(format!("{silent} of {slots} slots were not heard, and may have them in hand")));
        }
    };
    let results: BTreeSet<JobId> = runs::jobs_done(enqueue.store, enqueue.run).await?.into_iter().collect();
    Ok(Ok(doubtful.iter().filter(|job| lost.contains(&job.id) && !results.contains(&job.id)).copied().collect()))
}

/// Checks jobs against what they name in the store, as a study's are: a worker should not have to.
async fn check(store: &dyn Store, jobs: &[Job]) -> anyhow::Result<()> {
    let mut datasets: HashMap<ObjectRef, Dataset> = HashMap::new();
    for job in jobs {
        match &job.work {
            Work::Trial(trial) => {
                let reference = &trial.data.dataset;
                if !datasets.contains_key(reference) {
                    let at = || format!("job `{}`: trial.data.dataset", job.id);
                    let dataset: Dataset =
                        strict::json(&fetch_checked(store, reference).await.with_context(at)?).with_context(at)?;
                    datasets.insert(reference.clone(), dataset);
                }
                let dataset = &datasets[reference];
                trial.fits(dataset).map_err(|problem| anyhow::anyhow!("job `{}`: trial.{problem}", job.id))?;
            }
            Work::Batch(batch) => {
                fetch_checked(store, &batch.model).await.with_context(|| format!("job `{}`: batch.model", job.id))?;
            }
        }
    }
    Ok(())
}

/// Jobs by run, in the order of their first.
fn runs_of(jobs: &[Job]) -> Vec<Vec<Job>> {
    let mut runs: Vec<Vec<Job>> = Vec::new();
    for job in jobs {
        match runs.iter_mut().find(|run| run[0].run == job.run) {
            Some(run) => run.push(job.clone()),
            None => runs.push(vec![job.clone()]),
        }
    }
    runs
}

/// Reads documents one after another; an array stands for its elements.
fn parse(text: &[u8]) -> Result<Vec<Job>, Problem> {
    let mut jobs = Vec::new();
    for document in serde_json::Deserializer::from_slice(strict::without_mark(text)).into_iter::<Value>() {
        let document = document.map_err(|error| Problem {
            at: format!("document {}", jobs.len() + 1),
            what: format!("is not JSON: {error}"),
        })?;
        let documents = match document {
            Value::Array(documents) => documents,
            document => vec![document],
        };
        for document in documents {
            let at = format!("job {}", jobs.len() + 1);
            let size = document.to_string().len();
            if size > MAX_MESSAGE {
                return Err(Problem::new(at, format!("{size} bytes"), format!("at most {MAX_MESSAGE} are accepted")));
            }
            let job: Job = strict::from_value(&document).map_err(|problem| problem.inside(&at))?;
            job.check().map_err(|problem| problem.inside(&at))?;
            if jobs.iter().any(|other: &Job| (&other.run, &other.id) == (&job.run, &job.id)) {
                return Err(Problem::new(
                    format!("{at}.id"),
                    format!("`{}`", job.id),
                    "each id is accepted once a run",
                ));
            }
            jobs.push(job);
        }
    }
    Ok(jobs)
}
