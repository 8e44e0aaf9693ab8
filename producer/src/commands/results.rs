//! `gannet results`: what a run has come to so far.

use std::collections::BTreeMap;
use std::path::PathBuf;

use shared::names::Name;

use super::{Listed, Unreadable, completions};
use crate::bar::gather;
use crate::report::StudySummary;
use crate::runs::{self, Asked, RunManifest};
use crate::{listings, session};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet results night-1\n  gannet results night-1 --format csv > trials.csv\n  gannet results night-1 --report night-1.html"
)]
pub(super) struct Arguments {
    /// The run
    #[arg(add = completions::runs())]
    run: Name,
    /// Writes the study's HTML report, too
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    #[command(flatten)]
    listed: Listed,
}

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let store = session::open_store(&session::places()?).await?;
    let manifest = RunManifest::find(store.as_ref(), &arguments.run).await?;
    let jobs = runs::jobs_done(store.as_ref(), &arguments.run).await?;
    let mut unreadable = Unreadable::default();
    let mut results = BTreeMap::new();
    let total = jobs.len();
    for result in gather("results read", total, runs::read_results(store.as_ref(), &arguments.run, jobs)).await {
        let result = unreadable.take(result.map_err(anyhow::Error::from))?;
        results.extend(result.map(|result| (result.id.clone(), result)));
    }
    let Some(manifest @ RunManifest { asked: Asked::Study { .. }, .. }) = &manifest else {
        super::print(&listings::results(results.values()), arguments.listed.format)?;
        return unreadable.check("results");
    };
    let trials = runs::pair(runs::trials(store.as_ref(), manifest).await?, results);
    let summary = StudySummary::new(&arguments.run, &trials);
    super::print(&summary.listing(), arguments.listed.format)?;
    if let Some(file) = &arguments.report {
        super::write_report(&summary, file)?;
    }
    unreadable.check("results")
}
