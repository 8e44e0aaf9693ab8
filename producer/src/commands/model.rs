//! `gannet model`: from a finished trial, or a folder, to a name that classifies.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueHint;
use futures::{StreamExt as _, stream};
use serde_json::json;
use shared::contract::{Model, ModelNetwork, Network};
use shared::names::{Name, ObjectRef};
use shared::store::{Store, layout};

use super::{Listed, Unreadable, completions};
use crate::bar::gather;
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
        #[arg(add = completions::trials())]
        trial: String,
        /// The model's name; one that exists gets a new version
        #[arg(add = completions::models())]
        name: Name,
    },
    /// Push a pretrained network: a folder of model.onnx, or model.safetensors and config.json, with
    /// preprocessor_config.json and labels.txt
    #[command(after_help = PUSH_HELP)]
    Push {
        /// The folder, or the ONNX file in it
        #[arg(value_hint = ValueHint::AnyPath)]
        folder: PathBuf,
        /// The model's name; one that exists gets a new version
        #[arg(add = completions::models())]
        name: Name,
    },
    /// Print a model's manifest: layers, preprocessing, labels
    Show {
        /// The model
        #[arg(add = completions::models())]
        name: Name,
    },
    /// List the models in the store
    List {
        #[command(flatten)]
        listed: Listed,
    },
}

const PUSH_HELP: &str = "Examples:
  gannet model push squeezenet1_1/ squeezenet
  gannet model push vit/model.onnx vit

config.json names an architecture, with torchvision's tensor names, or lists the layers:
  {\"architecture\": \"resnet50\"}
  {\"input\": [1, 28, 28], \"layers\": [{\"type\": \"flatten\"}, {\"type\": \"linear\", \"units\": 10}]}
Architectures: squeezenet1_1, resnet18, resnet34, resnet50, inception_v3.
An ONNX file holds its network; beside it config.json may name labels and the input's size, and need not be there.
preprocessor_config.json is Hugging Face's:
  {\"size\": {\"shortest_edge\": 256}, \"crop_size\": 224, \"image_mean\": [0.485, 0.456, 0.406], \"image_std\": [0.229, 0.224, 0.225]}
labels.txt has one label a line, in the order of the outputs.
Everything is checked before anything is sent.";

/// Models that are looked at at once.
const AT_ONCE: usize = 16;

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    let store = session::open_store(&session::places()?).await?;
    match command {
        Command::Promote { trial, name } => promote(store.as_ref(), &trial, &name).await,
        Command::Push { folder, name } => push(store.as_ref(), &folder, &name).await,
        Command::Show { name } => show(store.as_ref(), &name).await,
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
    let (reference, model) = models::promote(store, job, result, name).await?;
    eprintln!("model {name}: trial {} of {run}, version {}", job.id, &reference.sha256.to_string()[..12]);
    if model.picture().is_none() {
        eprintln!("note: its input is {}, no picture: `gannet classify` has no use for it", sides(&model));
    }
    Ok(())
}

async fn push(store: &dyn Store, folder: &Path, name: &Name) -> anyhow::Result<()> {
    let path = folder.to_owned();
    let folder = tokio::task::spawn_blocking(move || models::Folder::read(&path)).await??;
    for note in &folder.notes {
        eprintln!("note: {note}");
    }
    let bar = super::bytes_bar();
    let progress = {
        let bar = bar.clone();
        move |done, total| super::show_bytes(&bar, done, total)
    };
    let (reference, model) = models::push(store, name, folder, progress).await?;
    bar.finish_and_clear();
    eprintln!(
        "model {name}: input {}, {} labels, version {}",
        sides(&model),
        model.labels.len(),
        &reference.sha256.to_string()[..12]
    );
    Ok(())
}

async fn show(store: &dyn Store, name: &Name) -> anyhow::Result<()> {
    let (_, model) = models::resolve(store, name).await?;
    match writeln!(std::io::stdout().lock(), "{}", serde_json::to_string_pretty(&model)?) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("write to standard output"),
    }
}

/// `3x224x224`
fn sides(model: &Model) -> String {
    let input: Vec<String> = model.config.input.iter().map(ToString::to_string).collect();
    input.join("x")
}

async fn list(store: &dyn Store, listed: Listed) -> anyhow::Result<()> {
    let mut listing = Listing::new(["model", "version", "input", "outputs", "parameters"]);
    let names = store.children(&layout::models()).await?;
    let names: Vec<Name> = names.into_iter().filter_map(|name| Name::new(name).ok()).collect();
    let total = names.len();
    let resolved = stream::iter(names).map(async |name| {
        let (reference, model) = models::resolve(store, &name).await?;
        Ok(describe(&name, &reference, &model))
    });
    let mut unreadable = Unreadable::default();
    for row in gather("models looked at", total, resolved.buffered(AT_ONCE)).await {
        if let Some(row) = unreadable.take(row)? {
            listing.push(row);
        }
    }
    super::print(&listing, listed.format)?;
    unreadable.check("models")
}

fn describe(name: &Name, reference: &ObjectRef, model: &Model) -> Vec<serde_json::Value> {
    let parameters = match &model.config.network {
        ModelNetwork::Onnx(network) => network.parameters,
        ModelNetwork::Layers(layers) => {
            let network = Network { layers: layers.clone() };
            network.parameters(&model.config.input).map_or(0, |parameters| {
                let trained = parameters.iter().filter(|parameter| parameter.init.is_trained());
                trained.map(|parameter| parameter.shape.iter().product::<usize>() as u64).sum()
            })
        }
    };
    vec![
        json!(name.as_str()),
        json!(&reference.sha256.to_string()[..12]),
        json!(sides(model)),
        json!(model.labels.len()),
        json!(parameters),
    ]
}
