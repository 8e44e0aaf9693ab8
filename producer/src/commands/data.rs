//! `gannet data`: bring data into the store.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::json;
use shared::names::Name;
use shared::store::layout;

use super::Listed;
use crate::report::Listing;
use crate::{data, session};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Push a dataset: a folder of IDX files (train-images-idx3-ubyte and so on, also gzipped)
    #[command(
        after_help = "Examples:\n  gannet data push mnist/ --name mnist\n\nThe test split is kept apart: only the trial that a study chooses is ever measured on it."
    )]
    Push {
        /// The folder
        folder: PathBuf,
        /// The dataset's name in the store [default: the folder's]
        #[arg(long)]
        name: Option<Name>,
    },
    /// List the datasets in the store
    List {
        #[command(flatten)]
        listed: Listed,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    let store = session::open_store(&session::places()?).await?;
    match command {
        Command::Push { folder, name } => {
            anyhow::ensure!(folder.is_dir(), "`{}` is no folder: one with IDX files is accepted", folder.display());
            let name = match name {
                Some(name) => name,
                None => {
                    let last = folder
                        .canonicalize()
                        .ok()
                        .and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
                    Name::new(last.unwrap_or_default()).map_err(|error| {
                        anyhow::anyhow!("the folder's name cannot be the dataset's ({error}): give one with --name")
                    })?
                }
            };
            let table = Arc::new(tokio::task::spawn_blocking(move || data::idx::read(&folder)).await??);
            let bar = super::bytes_bar();
            let reference = data::push(store.as_ref(), &name, Arc::clone(&table), &|done, total| {
                super::show_bytes(&bar, done, total);
            })
            .await?;
            bar.finish_and_clear();
            let rows: Vec<String> =
                table.splits.iter().map(|(split, rows)| format!("{} {split} rows", rows.labels.len())).collect();
            eprintln!(
                "dataset {name}: {}, {} classes, version {}",
                rows.join(", "),
                table.classes,
                &reference.sha256.to_string()[..12]
            );
            Ok(())
        }
        Command::List { listed } => {
            let mut listing = Listing::new(["dataset", "shape", "classes", "train", "test", "key", "sha256"]);
            for name in store.children(&layout::datasets()).await? {
                let Ok(name) = Name::new(name) else { continue };
                let (reference, dataset) = data::resolve(store.as_ref(), &name).await?;
                let shape: Vec<String> = dataset.shape.iter().map(ToString::to_string).collect();
                let rows = |split: &str| json!(dataset.splits.get(split).map(|split| split.rows));
                let (key, sha256) = (reference.key.as_str(), reference.sha256.to_string());
                let row =
                    [json!(name.as_str()), json!(shape.join("x")), json!(dataset.classes), rows("train"), rows("test")];
                listing.push(row.into_iter().chain([json!(key), json!(sha256)]).collect());
            }
            super::print(&listing, listed.format)
        }
    }
}
