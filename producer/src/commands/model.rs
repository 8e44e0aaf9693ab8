//! `gannet model`: from a finished trial to a name that classifies.

use std::collections::BTreeMap;

use anyhow::{Context as _, bail};
use serde_json::json;
use shared::contract::Model;
use shared::names::{Name, ObjectRef};
use shared::store::{Store, layout};

use super::Listed;
use crate::report::Listing;
use crate::runs::{self, RunManifest};
use crate::{models, session};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a model of a finished trial
    #[command(
        after_help = "Examples:\n  gannet model promote night-1 digits\n  gannet model promote night-1/t0003 digits"
    )]
    Promote {
        /// RUN for its best trial, or RUN/TRIAL
        trial: String,
        /// The model's name; one that exists gets a new version
        name: Name,
    },
    /// List the models in the store
    List {
        #[command(flatten)]
        listed: Listed,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    let store = session::open_store(&session::places()?).await?;
    match command {
        Command::Promote { trial, name } => promote(store.as_ref(), &trial, &name).await,
        Command::List { listed } => list(store.as_ref(), listed).await,
    }
}

async fn promote(store: &dyn Store, trial: &str, name: &Name) -> anyhow::Result<()> {
    let (run, id) = trial.split_once('/').map_or((trial, None), |(run, id)| (run, Some(id)));
    let run = Name::new(run)?;
    let Some(manifest) = RunManifest::find(store, &run).await? else {
        bail!("the run `{run}` is no study of `gannet tune`: it has no trials to promote");
    };
    let results = runs::results(store, &run, &BTreeMap::new()).await?;
    let results = results.into_iter().map(|result| (result.id.clone(), result)).collect();
    let trials = runs::pair(runs::trials(store, &manifest).await?, results);
    let (job, result) = match id {
        None => runs::winner(&trials).with_context(|| format!("no trial of the run `{run}` has ended well"))?,
        Some(id) => {
            let found = trials.iter().find(|(job, _)| job.id.as_str() == id);
            let (job, result) = found
                .with_context(|| format!("no trial `{id}` in the run `{run}`: `gannet results {run}` lists them"))?;
            (job, result.as_ref().with_context(|| format!("the trial `{id}` of the run `{run}` has not ended yet"))?)
        }
    };
    let (reference, _) = models::promote(store, job, result, name).await?;
    eprintln!("model {name}: trial {} of {run}, version {}", job.id, &reference.sha256.to_string()[..12]);
    Ok(())
}

async fn list(store: &dyn Store, listed: Listed) -> anyhow::Result<()> {
    let mut listing = Listing::new(["model", "version", "input", "outputs", "parameters"]);
    for name in store.children(&layout::models()).await? {
        let Ok(name) = Name::new(name) else { continue };
        let (reference, model) = models::resolve(store, &name).await?;
        listing.push(describe(&name, &reference, &model));
    }
    super::print(&listing, listed.format)
}

fn describe(name: &Name, reference: &ObjectRef, model: &Model) -> Vec<serde_json::Value> {
    let parameters = model.config.network.parameters(&model.config.input).map_or(0, |parameters| {
        parameters
            .iter()
            .filter(|parameter| parameter.init.is_trained())
            .map(|parameter| parameter.shape.iter().product::<usize>())
            .sum()
    });
    let input: Vec<String> = model.config.input.iter().map(ToString::to_string).collect();
    vec![
        json!(name.as_str()),
        json!(&reference.sha256.to_string()[..12]),
        json!(input.join("x")),
        json!(model.labels.len()),
        json!(parameters),
    ]
}
