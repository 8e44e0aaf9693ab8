//! `gannet data`: bring data into the store.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, bail};
use serde_json::json;
use shared::names::{Name, ObjectRef};
use shared::store::{Store, layout};

use super::Listed;
use crate::bar::Bar;
use crate::data::{self, Source, Table, Test, pictures::Pictures};
use crate::report::Listing;
use crate::session;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Push a dataset: a folder with one sub-folder of pictures per class, a CSV file, or a folder of IDX files
    #[command(after_help = PUSH_HELP)]
    Push(Push),
    /// List the datasets in the store
    List {
        #[command(flatten)]
        listed: Listed,
    },
}

#[derive(Debug, clap::Args)]
pub(super) struct Push {
    /// The folder, or the CSV file
    path: PathBuf,
    /// The dataset's name in the store [default: the folder's or file's]
    #[arg(long)]
    name: Option<Name>,
    /// The test split: a share of each class, or, for a CSV file, another one [default: 0.1, or the folder `test`]
    #[arg(long, value_name = "SHARE|FILE")]
    test: Option<Test>,
    /// A CSV file's column of labels [default: `label`, `class` or `target`, else the last one]
    #[arg(long, value_name = "COLUMN")]
    label: Option<String>,
    /// Leaves out pictures that cannot be decoded
    #[arg(long)]
    skip_broken: bool,
}

const PUSH_HELP: &str = "Examples:
  gannet data push flowers/                        flowers/rose/1.jpg, flowers/tulip/a.png, …
  gannet data push flowers/ --test 0.2             a fifth of each class is tested on
  gannet data push photos/                         photos/train/cat/…, photos/test/cat/…
  gannet data push iris.csv --label species        a header, numbers, a column of labels
  gannet data push train.csv.gz --test test.csv.gz --name sensors
  gannet data push mnist/                          train-images-idx3-ubyte and so on, also gzipped

Pictures stay as they are; a study says what they become, under [data]: image = { size = 64 }
The test split is kept apart: only the trial that a study chooses is ever measured on it.";

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Push(arguments) => push(arguments).await,
        Command::List { listed } => list(listed).await,
    }
}

async fn push(arguments: Push) -> anyhow::Result<()> {
    let source = Source::of(&arguments.path)?;
    arguments.check(source)?;
    let name = arguments.name.clone().map_or_else(|| default_name(&arguments.path), Ok)?;
    let store = session::open_store(&session::places()?).await?;
    let (read, notes) = tokio::task::spawn_blocking(move || read(source, &arguments)).await??;
    for note in notes {
        eprintln!("note: {note}");
    }
    let reference = send(store.as_ref(), &name, &read).await?;
    eprintln!("dataset {name}: {}, version {}", read.describe(), &reference.sha256.to_string()[..12]);
    if let Read::Pictures(_) = read {
        eprintln!(
            "next: a study with `dataset = \"{name}\"` and `image = {{ size = 64 }}`, or another size, under [data]"
        );
    }
    Ok(())
}

impl Push {
    fn check(&self, source: Source) -> anyhow::Result<()> {
        let path = self.path.display();
        if self.label.is_some() && source != Source::Csv {
            bail!("--label is accepted for a CSV file only: the folders of `{path}` are its labels");
        }
        if self.skip_broken && source != Source::Pictures {
            bail!("--skip-broken is accepted for folders of pictures only");
        }
        match (&self.test, source) {
            (Some(_), Source::Idx) => bail!("--test is not accepted for IDX files: the test split is in t10k-…"),
            (Some(Test::File(file)), Source::Pictures) => bail!(
                "--test is `{}`: a share above 0 and below 1 is accepted for a folder of pictures, or folders `train` and `test` in it",
                file.display()
            ),
            _ => Ok(()),
        }
    }
}

/// What was read.
enum Read {
    Table(Arc<Table>),
    Pictures(Arc<Pictures>),
}

impl Read {
    fn describe(&self) -> String {
        let rows = |split: &str, rows: usize| format!("{rows} {split} rows");
        let (rows, classes): (Vec<String>, usize) = match self {
            Self::Table(table) => {
                (table.splits.iter().map(|(split, r)| rows(split, r.labels.len())).collect(), table.classes as usize)
            }
            Self::Pictures(found) => {
                (found.splits.iter().map(|(split, r)| rows(split, r.len())).collect(), found.labels.len())
            }
        };
        format!("{}, {classes} classes", rows.join(", "))
    }
}

fn read(source: Source, arguments: &Push) -> anyhow::Result<(Read, Vec<String>)> {
    let path = &arguments.path;
    let (table, mut notes) = match source {
        Source::Pictures => {
            let share = match arguments.test {
                Some(Test::Share(share)) => Some(share),
                _ => None,
            };
            let mut found = with_bar(|progress| data::pictures::read(path, share, arguments.skip_broken, progress))?;
            let notes = std::mem::take(&mut found.notes);
            return Ok((Read::Pictures(Arc::new(found)), notes));
        }
        Source::Csv => {
            data::csv::read(path, arguments.label.as_deref(), arguments.test.as_ref().unwrap_or(&Test::DEFAULT))?
        }
        Source::Idx => (data::idx::read(path)?, Vec::new()),
    };
    let empty: Vec<String> = table.empty_classes().iter().map(ToString::to_string).collect();
    if !empty.is_empty() {
        notes.push(format!(
            "no row to train on has the label {}: a network still gets {} outputs",
            empty.join(", "),
            table.classes
        ));
    }
    Ok((Read::Table(Arc::new(table)), notes))
}

/// Decoding every picture takes a while: says how it moves on.
fn with_bar<T>(read: impl FnOnce(&(dyn Fn(usize, usize) + Sync)) -> T) -> T {
    let bar: Mutex<Option<Bar>> = Mutex::new(None);
    let locked = || bar.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let done = read(&|_, total| locked().get_or_insert_with(|| Bar::new("pictures read", total, None)).step());
    if let Some(bar) = locked().take() {
        bar.finish();
    }
    done
}

async fn send(store: &dyn Store, name: &Name, read: &Read) -> anyhow::Result<ObjectRef> {
    let bar = super::bytes_bar();
    let progress = |done, total| super::show_bytes(&bar, done, total);
    let sent = match read {
        Read::Table(table) => data::push(store, name, Arc::clone(table), &progress).await,
        Read::Pictures(found) => data::push_pictures(store, name, Arc::clone(found), &progress).await,
    };
    bar.finish_and_clear();
    Ok(sent?)
}

/// The name of the folder, or of the file without its endings.
fn default_name(path: &Path) -> anyhow::Result<Name> {
    let full = std::fs::canonicalize(path).with_context(|| format!("find `{}`", path.display()))?;
    let last = full.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let stem = if full.is_dir() { last.as_str() } else { last.split('.').next().unwrap_or_default() };
    Name::new(stem).map_err(|error| {
        anyhow::anyhow!("what is pushed cannot give the dataset its name ({error}): give one with --name")
    })
}

async fn list(listed: Listed) -> anyhow::Result<()> {
    let store = session::open_store(&session::places()?).await?;
    let mut listing = Listing::new(["dataset", "shape", "classes", "train", "test", "key", "sha256"]);
    for name in store.children(&layout::datasets()).await? {
        let Ok(name) = Name::new(name) else { continue };
        let (reference, dataset) = data::resolve(store.as_ref(), &name).await?;
        let shape: Vec<String> = dataset.shape.iter().map(ToString::to_string).collect();
        // Pictures as files have no shape before a study gives them one.
        let shape = if shape.is_empty() { "pictures".to_owned() } else { shape.join("x") };
        let rows = |split: &str| json!(dataset.splits.get(split).map(|split| split.rows));
        let (key, sha256) = (reference.key.as_str(), reference.sha256.to_string());
        let row = [json!(name.as_str()), json!(shape), json!(dataset.classes), rows("train"), rows("test")];
        listing.push(row.into_iter().chain([json!(key), json!(sha256)]).collect());
    }
    super::print(&listing, listed.format)
}
