//! What listings say of a store that is not as it should be, or full.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{Folder, LIMIT, Process};

const RESULT: &str = include_str!("../../shared/golden/v1/result-trial.json");

fn put(folder: &Path, key: &str, content: &str) -> Result<()> {
    let file = folder.join(".gannet/store").join(key);
    std::fs::create_dir_all(file.parent().context("a key has parts")?)?;
    Ok(std::fs::write(file, content)?)
}

/// A result of the job `id`, as the contract's golden one.
fn result(folder: &Path, run: &str, id: &str) -> Result<()> {
    let mut result: Value = serde_json::from_str(RESULT)?;
    result["run"] = run.into();
    result["id"] = id.into();
    put(folder, &format!("runs/{run}/results/{id}.json"), &result.to_string())
}

fn rows(listing: &str) -> Result<Vec<Value>> {
    Ok(listing.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

#[tokio::test]
async fn an_unreadable_result_is_named_and_the_others_are_listed() {
    Folder::run(async |folder| {
        result(folder.path(), "by-hand", "one")?;
        result(folder.path(), "by-hand", "three")?;
        put(folder.path(), "runs/by-hand/results/two.json", r#"{"id": "two", "run": 7}"#)?;
        let args = ["results", "by-hand", "--format", "json"];
        let mut process = Process::start("results", "gannet", &args, &[], folder.path())?;
        let status = process.wait(LIMIT).await?;
        ensure!(status.code() == Some(1), "the command must fail: {status}");
        let listed = rows(&process.stdout())?;
        ensure!(listed.len() == 2 && listed[0]["job"] == "one" && listed[1]["job"] == "three", "{listed:?}");
        let said = process.stderr();
        for word in ["runs/by-hand/results/two.json", "`run`", "1 of the results"] {
            ensure!(said.contains(word), "the message must name {word}:\n{said}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_test_of_a_studys_chosen_trial_is_not_counted_as_a_trial() {
    Folder::run(async |folder| {
        for id in ["t0000", "t0001", "test-t0001"] {
            result(folder.path(), "night", id)?;
            result(folder.path(), "by-hand", id)?;
        }
        let manifest = json!({
            "run": "night",
            "created_at": "2026-11-24T21:30:00Z",
            "made_by": "0.1.0",
            "asked": {"study": {"text": "", "dataset": {"key": "datasets/a/b", "sha256": "0".repeat(64)}}},
        });
        put(folder.path(), "runs/night/run.json", &manifest.to_string())?;
        put(folder.path(), "runs/deleted/cancelled", "{}")?;
        for (command, name) in [(&["run", "list"][..], "run"), (&["status"], "name")] {
            let args = [command, &["--format", "json"]].concat();
            let listed = rows(&Process::start("list", "gannet", &args, &[], folder.path())?.succeed(LIMIT).await?)?;
            let runs: Vec<_> = listed
                .iter()
                .filter(|row| !row["results"].is_null())
                .map(|row| (&row[name], &row["results"]))
                .collect();
            // Jobs of another client may be called anything.
            ensure!(runs == [(&json!("by-hand"), &json!(3)), (&json!("night"), &json!(2))], "{command:?}: {runs:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn hundreds_of_runs_are_listed_in_their_order() {
    Folder::run(async |folder| {
        for number in 0..300 {
            result(folder.path(), &format!("run-{number:03}"), "t0000")?;
        }
        put(folder.path(), "runs/run-123/run.json", "{}")?;
        let args = ["run", "list", "--format", "json"];
        let mut process = Process::start("list", "gannet", &args, &[], folder.path())?;
        ensure!(process.wait(LIMIT).await?.code() == Some(1), "a run was left out");
        let listed = rows(&process.stdout())?;
        ensure!(listed.len() == 299, "{} of 299 are listed", listed.len());
        ensure!(listed.is_sorted_by_key(|row| row["run"].as_str().map(str::to_owned)), "in their order: {listed:?}");
        ensure!(process.stderr().contains("runs/run-123/run.json"), "what was left out is named: {}", process.stderr());
        Ok(())
    })
    .await;
}
