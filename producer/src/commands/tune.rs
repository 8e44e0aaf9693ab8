//! `gannet tune`: a study from its file to its report.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, bail};
use shared::contract::{Job, JobResult, Kind};
use shared::names::{JobId, Name};

use super::embedded::{Embedded, with_workers};
use super::{Listed, Reported, completions, fresh_run};
use crate::bar::Bar;
use crate::data;
use crate::drive::Drive;
use crate::report::StudySummary;
use crate::runs::{self, Asked, RunManifest, Trials};
use crate::session::Session;
use crate::study::{self, Study};
use crate::words::count;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet tune examples/digits.toml\n  gannet tune study.toml --run night-1 --format json > trials.jsonl\n\nThe same study and run name again take up where it was left."
)]
pub(super) struct Arguments {
    /// The study file
    study: PathBuf,
    /// The run's name; one that exists is taken up [default: the study's name and the time]
    #[arg(long, add = completions::runs())]
    run: Option<Name>,
    #[command(flatten)]
    reported: Reported,
    #[command(flatten)]
    embedded: Embedded,
    #[command(flatten)]
    listed: Listed,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    // Everything that can be wrong without a connection first.
    let text = std::fs::read_to_string(&arguments.study)
        .with_context(|| format!("read the study `{}`", arguments.study.display()))?;
    let study = Study::parse(&text, &arguments.study.display().to_string())?;
    study.check()?;
    let session = Session::open().await?;
    let name = arguments.run.clone().unwrap_or_else(|| fresh_run(&study.name));
    let report_file = arguments.reported.file(&name)?;
    let tuned = tune(&session, &study, text, name, &arguments.embedded).await?;
    let summary = tuned.summary();
    super::print(&summary.listing(), arguments.listed.format)?;
    eprintln!("{}", verdict(&summary));
    super::write_report(&summary, &report_file)?;
    if summary.winner.is_none() {
        bail!("no trial of the run `{}` ended well: `gannet results {}` says why", tuned.name, tuned.name);
    }
    Ok(())
}

/// The split that the chosen trial is tested on.
const TEST: &str = "test";

/// A study that has run to its end.
pub(super) struct Tuned {
    pub(super) name: Name,
    pub(super) trials: Trials,
    /// Workers and the seconds that the study took with them.
    pub(super) times: Vec<(u32, f64)>,
}

impl Tuned {
    pub(super) fn summary(&self) -> StudySummary {
        StudySummary { scaling: self.times.clone(), ..StudySummary::new(&self.name, &self.trials) }
    }
}

/// The study in one sentence.
pub(super) fn verdict(summary: &StudySummary) -> String {
    let Some(best) = summary.best() else { return format!("{}: no trial ended well", summary.run) };
    let percent = |error: f64| format!("{:.2} %", 100.0 * error);
    let validation = best.validation.map_or_else(|| "unknown".into(), |metrics| percent(metrics.error));
    let test = match summary.test {
        Some(metrics) => percent(metrics.error),
        None if summary.test_failed => "not measured: its test failed".into(),
        None => "not measured: there is no test split".into(),
    };
    let (run, trials, id) = (&summary.run, count(summary.trials.len(), "trial"), &best.id);
    format!("{run}: the best of {trials} is {id}: validation error {validation}, test error {test}")
}

/// Runs a study to its end: checks, enqueues, collects, tests the chosen trial once.
pub(super) async fn tune(
    session: &Session,
    study: &Study,
    text: String,
    name: Name,
    embedded: &Embedded,
) -> anyhow::Result<Tuned> {
    let store = session.store.as_ref();
    let (dataset_ref, dataset) =
        data::resolve(store, &study.dataset).await.context("find the study's `data.dataset`")?;
    let jobs = study.trials(&dataset, &dataset_ref, &name)?;
    let manifest = RunManifest::new(name.clone(), Asked::Study { text, dataset: dataset_ref });
    manifest.create(store).await?;
    eprintln!("run {name}: {} on {} ({})", count(jobs.len(), "trial"), dataset.name, session.queue.place());
    let has_test = dataset.splits.contains_key(TEST);
    if !has_test {
        eprintln!("note: the dataset `{}` has no test split: the chosen trial is not tested", dataset.name);
    }
    let begun = Instant::now();
    let resumed = !runs::results(store, &name, &BTreeMap::new()).await?.is_empty();
    let again = format!("the same study with --run {name} takes it up again");
    let (results, elapsed) =
        with_workers(session, embedded, Some(&name), &[Kind::Trial], &again, async |session: &Session| {
            let mut bar = Bar::new("trials", jobs.len(), Some(study.objective));
            let drive = Drive { queue: session.queue.as_ref(), store: session.store.as_ref(), run: &name };
            let results = drive.all(&jobs, &mut |news| bar.hear(&news)).await;
            bar.finish();
            let mut results = results?;
            let elapsed = begun.elapsed();
            if has_test {
                test_winner(&drive, &jobs, &mut results).await?;
            }
            Ok((results, elapsed))
        })
        .await
        .with_context(|| again.clone())?;
    // A run that was taken up took longer than anybody measured.
    let times = if resumed { Vec::new() } else { vec![(workers(session, embedded, &results), elapsed.as_secs_f64())] };
    Ok(Tuned { name, times, trials: runs::pair(jobs, results) })
}

/// The test split is touched here, once, by the chosen trial alone.
async fn test_winner(drive: &Drive<'_>, jobs: &[Job], results: &mut BTreeMap<JobId, JobResult>) -> anyhow::Result<()> {
    let trials: Trials = jobs.iter().map(|job| (job.clone(), results.get(&job.id).cloned())).collect();
    let Some((job, result)) = runs::winner(&trials) else { return Ok(()) };
    let outcome = result.trial().context("the chosen trial has an outcome")?;
    let test = study::test_job(job, outcome.checkpoint.clone()).context("make the test of the chosen trial")?;
    results.append(&mut drive.all(&[test], &mut |_| ()).await?);
    Ok(())
}

/// How many workers took part: the slots of this process, or on a fleet the workers that results name.
fn workers(session: &Session, embedded: &Embedded, results: &BTreeMap<JobId, JobResult>) -> u32 {
    if session.places.is_embedded() {
        return embedded.slots();
    }
    let names: BTreeSet<&str> = results.values().map(|result| result.worker.as_str()).collect();
    u32::try_from(names.len()).unwrap_or(u32::MAX)
}
