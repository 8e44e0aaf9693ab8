//! `gannet model`: from a finished trial, or a folder, to a name that classifies; and which version of it does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::ValueHint;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use shared::contract::{Model, ModelNetwork, Network};
use shared::digest::Digest;
use shared::names::{JobId, Key, Name, ObjectRef};
use shared::store::{Store, layout};

use super::{Listed, Unreadable, completions};
use crate::bar::gather;
use crate::models::{Change, History, Moved, Origin, Wanted};
use crate::report::Listing;
use crate::runs::{self, Asked, Overview, RunManifest};
use crate::words::count;
use crate::{enqueue, models, session};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Make a model of a finished trial, or let a model's name stand for another version of it
    #[command(
        after_help = "Examples:\n  gannet model promote night-1 digits\n  gannet model promote night-1/t0003 digits\n  gannet model promote digits@3f2a91c0\n\nClassifications that run go on with the version that they began with."
    )]
    Promote {
        /// RUN for its best trial, or RUN/TRIAL; or NAME@DIGEST for a version that is there
        #[arg(add = completions::promoted())]
        what: String,
        /// The model's name; one that exists gets a new version
        #[arg(add = completions::models())]
        name: Option<Name>,
    },
    /// Let a model's name stand for the version before: takes back the last push or promotion
    #[command(
        after_help = "Examples:\n  gannet model rollback digits\n\nOnce more goes back further. Classifications that run go on with the version that they began with."
    )]
    Rollback {
        /// The model
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
    /// Print what a model's name stands for and stood for, where a version came from, and its manifest: layers,
    /// preprocessing, labels
    #[command(
        after_help = "Examples:\n  gannet model show digits\n  gannet model show digits@3f2a91c0\n  gannet model show digits | jq -r '.history[] | .at + \" \" + .digest'"
    )]
    Show {
        /// NAME, or NAME@DIGEST for one version: the first eight digits or more
        #[arg(add = completions::versions())]
        model: Wanted,
    },
    /// Remove a version of a model, or the whole model
    #[command(
        after_help = "Examples:\n  gannet model delete digits@3f2a91c0\n  gannet model delete digits --yes\n\nIt says which classifications have not ended and would lose their model. The version that the name stands for goes only with the whole model. Weights stay until `gannet gc --versions`: other versions may have the same."
    )]
    Delete {
        /// NAME@DIGEST for one version: the first eight digits or more; NAME for all of them
        #[arg(add = completions::versions())]
        model: Wanted,
        /// Does not ask
        #[arg(long)]
        yes: bool,
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
Without it config.json may hold timm's pretrained_cfg, which says the same.
labels.txt has one label a line, in the order of the outputs; config.json may hold id2label or label_names instead.
\"problem_type\": \"multi_label_classification\" in config.json: scores are sigmoids, and any number of labels is told.
Everything is checked before anything is sent.";

/// Models that are looked at at once.
const AT_ONCE: usize = 16;

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    let store = session::open_store(&session::places()?).await?;
    match command {
        Command::Promote { what, name } => promote(store.as_ref(), &what, name.as_ref()).await,
        Command::Rollback { name } => {
            let moved = models::rollback(store.as_ref(), &name).await?;
            tell(&name, moved);
            Ok(())
        }
        Command::Push { folder, name } => push(store.as_ref(), &folder, &name).await,
        Command::Show { model } => show(store.as_ref(), &model).await,
        Command::Delete { model, yes } => delete(store.as_ref(), &model, yes).await,
        Command::List { listed } => list(store.as_ref(), listed).await,
    }
}

async fn promote(store: &dyn Store, what: &str, name: Option<&Name>) -> anyhow::Result<()> {
    match (what.contains('@'), name) {
        (false, Some(name)) => promote_trial(store, what, name).await,
        (false, None) => bail!(
            "`gannet model promote {what} NAME` makes a model of the trial, `gannet model promote NAME@DIGEST` moves a model's \
             name: `{what}` alone is neither"
        ),
        (true, Some(name)) => {
            bail!("`{what}` names a version of a model: it is promoted under its own name, without `{name}` behind it")
        }
        (true, None) => {
            let wanted: Wanted = what.parse().map_err(anyhow::Error::msg)?;
            let moved = models::promote_version(store, &wanted).await?;
            tell(&wanted.name, moved);
            Ok(())
        }
    }
}

/// What a name stands for from now on, and stood for.
fn tell(name: &Name, Moved { before, now }: Moved) {
    match before {
        Some(before) if before == now => eprintln!("model {name}: version {} already", models::short(now)),
        Some(before) => eprintln!("model {name}: version {}, before it {}", models::short(now), models::short(before)),
        None => eprintln!("model {name}: version {}", models::short(now)),
    }
}

async fn promote_trial(store: &dyn Store, trial: &str, name: &Name) -> anyhow::Result<()> {
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
    eprintln!("model {name}: trial {} of {run}, version {}", job.id, models::short(reference.sha256));
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
        models::short(reference.sha256)
    );
    Ok(())
}

/// What `gannet model show` prints.
#[derive(Debug, Serialize)]
struct Shown<'a> {
    name: &'a Name,
    /// The version that is shown: the key and the sha256 that a job names.
    key: &'a Key,
    digest: Digest,
    /// Whether the name stands for it.
    current: bool,
    origin: Option<Origin>,
    /// The last moves of the name, the latest first.
    history: Vec<Step<'a>>,
    /// All versions that are there.
    versions: Vec<Digest>,
    manifest: Model,
}

#[derive(Debug, Serialize)]
struct Step<'a> {
    at: Timestamp,
    change: Change,
    digest: &'a Digest,
}

async fn show(store: &dyn Store, wanted: &Wanted) -> anyhow::Result<()> {
    let name = &wanted.name;
    let (reference, manifest) = models::find(store, wanted).await?;
    let history = History::read(store, name).await?;
    let digest = reference.sha256;
    let shown = Shown {
        name,
        key: &reference.key,
        digest,
        current: history.current() == Some(digest),
        origin: models::origin(store, name, digest).await?,
        history: history
            .moves()
            .rev()
            .map(|one| Step { at: one.at, change: one.change, digest: &one.digest })
            .collect(),
        versions: models::versions(store, name).await?,
        manifest,
    };
    super::write_out(&(serde_json::to_string_pretty(&shown)? + "\n"))
}

async fn delete(store: &dyn Store, wanted: &Wanted, yes: bool) -> anyhow::Result<()> {
    let name = &wanted.name;
    let current = History::read(store, name).await?.current();
    let whole = wanted.version.is_none();
    let versions = if whole {
        models::versions(store, name).await?
    } else {
        let (reference, _) = models::find(store, wanted).await?;
        if current == Some(reference.sha256) {
            bail!(
                "`{name}` stands for {}: `gannet model rollback {name}` or `gannet model promote {name}@DIGEST` lets it stand for \
                 another version first, `gannet model delete {name}` deletes all of them",
                models::short(reference.sha256)
            );
        }
        vec![reference.sha256]
    };
    if versions.is_empty() && current.is_none() {
        return Err(models::unknown(store, name).await?);
    }
    let what = if whole {
        format!("the model {name} with {}", count(versions.len(), "version"))
    } else {
        format!("the version {} of the model {name}", models::short(versions[0]))
    };
    let keys: BTreeSet<Key> = versions.iter().map(|digest| layout::model_file(name, *digest, "model.json")).collect();
    for Open { run, open, all } in open_runs(store, &keys).await? {
        eprintln!("note: {open} of {} of the run {run} have no result yet, and would fail", count(all, "batch job"));
    }
    if !yes {
        let otherwise = format!("{what} would be deleted: say --yes if you mean it");
        super::ask(&format!("Deletes {what}."), &otherwise)?;
    }
    models::delete(store, name, &versions, whole).await?;
    eprintln!("{what} is deleted; `gannet gc --versions` removes weights that no version needs");
    Ok(())
}

/// A classification that has not ended.
struct Open {
    run: Name,
    /// Jobs without a result.
    open: usize,
    all: usize,
}

/// The classifications with one of these models that have not ended, as far as the store knows.
async fn open_runs(store: &dyn Store, models: &BTreeSet<Key>) -> anyhow::Result<Vec<Open>> {
    let overviews = runs::overviews(store, runs::names(store).await?);
    let with_it = overviews.try_filter_map(async |overview| {
        let overview = overview.filter(|overview| !overview.cancelled);
        let is_with = |manifest: &RunManifest| {
            matches!(&manifest.asked, Asked::Classification { model, .. } if models.contains(&model.key))
        };
        Ok(overview.filter(|overview| overview.manifest.as_ref().is_some_and(is_with)))
    });
    let mut found = Vec::new();
    for Overview { run, .. } in with_it.try_collect::<Vec<_>>().await? {
        let done: BTreeSet<JobId> = runs::jobs_done(store, &run).await?.into_iter().collect();
        let noted = enqueue::noted(store, &run).await?;
        let open = noted.keys().filter(|id| !done.contains(*id)).count();
        if open > 0 {
            found.push(Open { run, open, all: noted.len() });
        }
    }
    Ok(found)
}

/// `3x224x224`
fn sides(model: &Model) -> String {
    let input: Vec<String> = model.config.input.iter().map(ToString::to_string).collect();
    input.join("x")
}

async fn list(store: &dyn Store, listed: Listed) -> anyhow::Result<()> {
    let mut listing = Listing::new(["model", "version", "input", "outputs", "parameters"]);
    let names = models::names(store).await?;
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
        json!(models::short(reference.sha256)),
        json!(sides(model)),
        json!(model.labels.len()),
        json!(parameters),
    ]
}
