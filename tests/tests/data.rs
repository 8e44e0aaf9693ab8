//! Data of one's own: a folder of pictures and a table, from `data push` to labels, on one machine and on a fleet.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{CLASSES, Fleet, Folder, LIMIT, Process, studies, write_folder};

async fn embedded(folder: &Folder, args: &[&str]) -> Result<String> {
    Process::start("gannet", "gannet", args, &[], folder.path())?.succeed(LIMIT).await
}

fn lines(text: &str) -> Result<Vec<Value>> {
    text.lines().map(|line| serde_json::from_str(line).with_context(|| format!("read {line}"))).collect()
}

/// The smallest validation error among a run's trials.
fn best(listing: &str) -> Result<f64> {
    let errors = lines(listing)?.iter().filter_map(|row| row["validation_error"].as_f64()).fold(1.0, f64::min);
    Ok(errors)
}

/// A folder with a broken picture and a text in it becomes a model that knows its pictures.
async fn pictures(dir: &Path, gannet: impl AsyncFn(&[&str]) -> Result<String>) -> Result<()> {
    write_folder(&dir.join("shapes"), 60)?;
    std::fs::write(dir.join("shapes/both/broken.png"), b"\x89PNG\r\n\x1a\n and no more")?;
    std::fs::write(dir.join("shapes/README.txt"), "Drawn by a test.")?;
    std::fs::write(dir.join("pictures.toml"), studies::pictures())?;
    let refused = gannet(&["data", "push", "shapes"]).await.err().context("a broken picture is refused")?.to_string();
    for words in ["1 broken picture among 181 files", "both/broken.png: the file is", "--skip-broken"] {
        ensure!(refused.contains(words), "the error must hold `{words}`: {refused}");
    }
    gannet(&["data", "push", "shapes", "--skip-broken"]).await?;
    let datasets = lines(&gannet(&["data", "list", "--format", "json"]).await?)?;
    let row = &datasets[0];
    ensure!(row["shape"] == "pictures" && row["train"] == 162 && row["test"] == 18, "{row}");

    gannet(&["tune", "pictures.toml", "--run", "shapes"]).await?;
    let error = best(&gannet(&["results", "shapes", "--format", "json"]).await?)?;
    ensure!(error < 0.15, "pictures that anybody can tell apart are not learnt: {error}");
    gannet(&["model", "promote", "shapes", "shapes"]).await?;
    let inputs: Vec<String> = CLASSES.iter().map(|class| format!("shapes/{class}/*.bmp")).collect();
    let mut args = vec!["classify", "--model", "shapes", "--top-k", "1"];
    args.extend(inputs.iter().map(String::as_str));
    let labelled = lines(&gannet(&args).await?)?;
    let right = |line: &&Value| {
        let label = line["predictions"][0]["label"].as_str().unwrap_or("none");
        line["image"].as_str().is_some_and(|image| image.contains(&format!("/{label}/")))
    };
    let right = labelled.iter().filter(right).count();
    ensure!(labelled.len() == 180 && right >= 153, "{right} of {} pictures are labelled rightly", labelled.len());
    Ok(())
}

/// Three clouds of points, one far from the others, as text.
fn points(rows: u32) -> String {
    let mut state = 1u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f64 / (1u64 << 24) as f64 - 0.5
    };
    let mut text = "x,y,constant,kind\n".to_owned();
    for row in 0..rows {
        let (kind, x, y) = [("near", 0.0, 1000.0), ("far", 4.0, 1000.0), ("high", 0.0, 5000.0)][row as usize % 3];
        text.push_str(&format!("{:.3},{:.1},7,{kind}\n", x + noise(), y + 900.0 * noise()));
    }
    text
}

async fn table(dir: &Path, gannet: impl AsyncFn(&[&str]) -> Result<String>) -> Result<()> {
    std::fs::write(dir.join("points.csv"), points(600))?;
    std::fs::write(dir.join("table.toml"), studies::table())?;
    gannet(&["data", "push", "points.csv"]).await?;
    gannet(&["tune", "table.toml", "--run", "points"]).await?;
    let error = best(&gannet(&["results", "points", "--format", "json"]).await?)?;
    ensure!(error < 0.02, "clouds that lie apart are not learnt: {error}");
    gannet(&["model", "promote", "points", "points"]).await?;
    let refused = gannet(&["classify", "points.csv", "--model", "points"]).await.err().context("it is refused")?;
    ensure!(refused.to_string().contains("the model `points` is for no pictures: its input is [3]"), "{refused}");
    Ok(())
}

#[tokio::test]
async fn a_folder_of_pictures_becomes_a_model_on_one_machine() {
    Folder::run(async |folder| pictures(folder.path(), async |args| embedded(folder, args).await).await).await;
}

#[tokio::test]
async fn a_table_is_tuned_on_one_machine() {
    Folder::run(async |folder| table(folder.path(), async |args| embedded(folder, args).await).await).await;
}

#[tokio::test]
async fn a_folder_of_pictures_and_a_table_are_tuned_on_a_fleet() {
    Fleet::run("a_folder_of_pictures_and_a_table_are_tuned_on_a_fleet", async |fleet| {
        let _worker = fleet.worker("one")?;
        pictures(fleet.path(), async |args| fleet.gannet(args).await).await?;
        table(fleet.path(), async |args| fleet.gannet(args).await).await
    })
    .await;
}
