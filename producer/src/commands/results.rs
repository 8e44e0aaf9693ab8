//! `gannet results`: what a run has come to so far.

use std::collections::BTreeMap;
use std::path::PathBuf;

use shared::names::Name;

use super::{Listed, completions};
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
    let results = runs::results(store.as_ref(), &arguments.run, &BTreeMap::new()).await?;
    let results: BTreeMap<_, _> = results.into_iter().map(|result| (result.id.clone(), result)).collect();
    let Some(manifest @ RunManifest { asked: Asked::Study { .. }, .. }) = &manifest else {
        return super::print(&listings::results(results.values()), arguments.listed.format);
    };
    let trials = runs::pair(runs::trials(store.as_ref(), manifest).await?, results);
    let summary = StudySummary::new(&arguments.run, &trials);
    super::print(&summary.listing(), arguments.listed.format)?;
    if let Some(file) = &arguments.report {
        super::write_report(&summary, file)?;
    }
    Ok(())
}
