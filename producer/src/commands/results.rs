//! `gannet results`: what a run has come to so far.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use shared::names::Name;

use super::Listed;
use crate::report::{self, StudySummary};
use crate::runs::{self, Asked, RunManifest, Trials};
use crate::study::Study;
use crate::{listings, session};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  gannet results night-1\n  gannet results night-1 --format csv > trials.csv\n  gannet results night-1 --report night-1.html")]
pub(super) struct Arguments {
    /// The run
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
    let Some(manifest @ RunManifest { asked: Asked::Study { text, .. }, .. }) = &manifest else {
        return listings::results(results.values()).print(arguments.listed.format);
    };
    let trials = Trials::new(runs::trials(store.as_ref(), manifest).await?, results);
    listings::trials(&trials).print(arguments.listed.format)?;
    if let Some(file) = &arguments.report {
        let study = Study::parse(text, "run.json")?;
        let html = report::study_html(&StudySummary::new(&arguments.run, &study, &trials, &[]));
        std::fs::write(file, html).with_context(|| format!("write the report `{}`", file.display()))?;
        eprintln!("report: {}", file.display());
    }
    Ok(())
}
