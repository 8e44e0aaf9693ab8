//! `gannet schema`: the contract, for clients in any language.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use shared::contract::schema::{asyncapi, documents};
use shared::strict::nearest;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet schema\n  gannet schema job > job.schema.json\n  gannet schema --out schemas/"
)]
pub(super) struct Arguments {
    /// The document: job, result, progress, …, or `asyncapi` for all of them and where they travel [default: names all]
    document: Option<String>,
    /// Writes every schema into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "document")]
    out: Option<PathBuf>,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    let documents = documents();
    if let Some(folder) = &arguments.out {
        std::fs::create_dir_all(folder).with_context(|| format!("create `{}`", folder.display()))?;
        for document in &documents {
            let file = folder.join(format!("{}.schema.json", document.name));
            std::fs::write(&file, serde_json::to_string_pretty(&document.schema)?)
                .with_context(|| format!("write `{}`", file.display()))?;
            writeln!(out, "{}", file.display())?;
        }
        let file = folder.join("asyncapi.json");
        std::fs::write(&file, serde_json::to_string_pretty(&asyncapi())?)
            .with_context(|| format!("write `{}`", file.display()))?;
        writeln!(out, "{}", file.display())?;
        return Ok(());
    }
    let Some(name) = &arguments.document else {
        for document in &documents {
            writeln!(out, "{:<10} {}", document.name, document.place)?;
        }
        writeln!(out, "{:<10} all of them in one AsyncAPI page", "asyncapi")?;
        return Ok(());
    };
    if name == "asyncapi" {
        writeln!(out, "{}", serde_json::to_string_pretty(&asyncapi())?)?;
        return Ok(());
    }
    let Some(document) = documents.iter().find(|document| document.name == name) else {
        let names: Vec<&str> = documents.iter().map(|document| document.name).collect();
        let hint =
            nearest(name, names.iter().copied()).map_or(String::new(), |near| format!("; did you mean `{near}`?"));
        bail!("no document `{name}` in the contract: {} are{hint}", names.join(", "));
    };
    writeln!(out, "{}", serde_json::to_string_pretty(&document.schema)?)?;
    Ok(())
}
