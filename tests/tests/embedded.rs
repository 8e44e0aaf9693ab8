//! One machine, nothing installed: no broker, no S3, an empty folder.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{Folder, LIMIT, Pictures, Process, full, skipped, studies};

async fn gannet(folder: &Folder, args: &[&str]) -> Result<String> {
    Process::start("gannet", "gannet", args, &[], folder.path())?.succeed(LIMIT).await
}

/// The handwritten digits that developers have beside the tree.
fn digits() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/mnist");
    path.canonicalize().ok().filter(|path| path.is_dir())
}

/// Every HTML file under `folder`.
fn pages(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(pages(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "html") {
            found.push(path);
        }
    }
    Ok(found)
}

/// A report stands alone: two plots inside, nothing fetched from anywhere.
fn check_report(folder: &Path) -> Result<()> {
    let pages = pages(folder)?;
    let page = pages.first().context("the demo writes an HTML report")?;
    let html = std::fs::read_to_string(page)?;
    ensure!(html.matches("<svg").count() >= 2, "two plots stand in {}", page.display());
    for outside in ["src=\"http", "href=\"http", "url(http", "@import", "src=\"//"] {
        ensure!(!html.contains(outside), "the report opens offline, yet holds {outside}");
    }
    Ok(())
}

#[tokio::test]
async fn the_quick_demo_runs_on_real_digits() {
    let Some(digits) = digits() else {
        skipped("the_quick_demo_runs_on_real_digits", "no handwritten digits in ../shared/data/mnist");
        return;
    };
    Folder::run(async |folder| {
        let digits = digits.display().to_string();
        gannet(folder, &["demo", "--quick", "--data", &digits]).await?;
        check_report(folder.path())
    })
    .await;
}

#[tokio::test]
async fn the_whole_demo_runs_on_real_digits() {
    let name = "the_whole_demo_runs_on_real_digits";
    let Some(digits) = digits() else { return skipped(name, "no handwritten digits in ../shared/data/mnist") };
    if !full() {
        return skipped(name, "takes minutes: tests/run --full");
    }
    Folder::run(async |folder| {
        let digits = digits.display().to_string();
        let demo = Process::start("demo", "gannet", &["demo", "--data", &digits], &[], folder.path())?;
        demo.succeed(4 * LIMIT).await?;
        check_report(folder.path())
    })
    .await;
}

#[tokio::test]
async fn a_study_of_ones_own_runs_in_one_folder() {
    Folder::run(async |folder| {
        Pictures { train: 360, test: 90 }.write(&folder.path().join("pictures"))?;
        std::fs::write(folder.path().join("study.toml"), studies::quick())?;
        gannet(folder, &["data", "push", "pictures", "--name", "bars"]).await?;
        gannet(folder, &["tune", "study.toml", "--run", "own", "--format", "json"]).await?;
        let listing = gannet(folder, &["results", "own", "--format", "json"]).await?;
        let rows: Vec<Value> = listing.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(rows.len() >= 4, "each of four trials is listed:\n{listing}");
        ensure!(folder.path().join(".gannet/queue.sqlite").is_file(), "the queue is a file in ./.gannet");
        // The same run once more: everything is there, nothing is computed.
        gannet(folder, &["tune", "study.toml", "--run", "own", "--format", "json"]).await?;
        ensure!(
            gannet(folder, &["results", "own", "--format", "json"]).await? == listing,
            "a run that ended stays as it is"
        );
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn two_studies_with_one_seed_are_the_same_study() {
    Folder::run(async |folder| {
        Pictures { train: 360, test: 90 }.write(&folder.path().join("pictures"))?;
        std::fs::write(folder.path().join("study.toml"), studies::quick())?;
        gannet(folder, &["data", "push", "pictures", "--name", "bars"]).await?;
        let mut errors = Vec::new();
        for run in ["one", "two"] {
            gannet(folder, &["tune", "study.toml", "--run", run]).await?;
            errors.push(epochs_of(folder.path(), run)?);
        }
        ensure!(errors[0] == errors[1], "same study, same seed, other numbers: {errors:?}");
        Ok(())
    })
    .await;
}

/// The validation losses of every epoch of every trial, as committed: equal bits on one machine.
fn epochs_of(folder: &Path, run: &str) -> Result<Vec<Vec<Value>>> {
    let results = folder.join(".gannet/store/runs").join(run).join("results");
    let mut files: Vec<_> = std::fs::read_dir(results)?.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let result: Value = serde_json::from_slice(&std::fs::read(file)?)?;
        let epochs = result["outcome"]["trial"]["epochs"].as_array().cloned().unwrap_or_default();
        all.push(epochs.iter().map(|epoch| epoch["validation_loss"].clone()).collect());
    }
    // Job ids may hold the run's name: their order is not that of the trials.
    all.sort_by_key(|losses: &Vec<Value>| format!("{losses:?}"));
    ensure!(!all.is_empty(), "the run {run} has results");
    Ok(all)
}
