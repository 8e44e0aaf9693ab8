//! Pictures to labels, on one machine and on a fleet whose workers go away in the middle: one line a picture.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lapin::BasicProperties;
use serde_json::{Value, json};
use tests::{
    Fleet, Folder, Inbox, LIMIT, Process, binary, children_of, eventually, full, json_lines, signal, skipped,
    write_colour, write_large, write_model,
};

/// A line's label, or its error's code.
fn verdict(line: &Value) -> String {
    let said = line["predictions"][0]["label"].as_str().or(line["error"]["code"].as_str());
    said.unwrap_or("nothing").to_owned()
}

/// Red and blue pictures, and some that are none.
fn write_photos(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir.join("photos/deep"))?;
    for number in 0..7 {
        write_colour(&dir.join(format!("photos/red-{number}.bmp")), 5 + number, [250, 10, 10])?;
        write_colour(&dir.join(format!("photos/deep/blue-{number}.bmp")), 40 + number, [10, 10, 250])?;
    }
    write_colour(&dir.join("one [1].bmp"), 30, [255, 0, 0])?;
    std::fs::write(dir.join("photos/broken.jpg"), b"\xff\xd8\xff\xe0\0\x10JFIF\0")?;
    std::fs::write(dir.join("photos/words.txt"), "These are words.")?;
    let mut huge = std::fs::read(dir.join("photos/red-0.bmp"))?;
    huge[18..26].copy_from_slice(&[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]);
    std::fs::write(dir.join("photos/huge.bmp"), huge)?;
    std::fs::write(dir.join("list.txt"), "one [1].bmp\nnowhere.png\n")?;
    Ok(())
}

/// What the pictures are, however they are named.
fn expected(name: &str) -> &'static str {
    match name.rsplit('/').next().unwrap_or(name) {
        name if name.starts_with("red") || name.starts_with("one") => "red",
        name if name.starts_with("blue") => "blue",
        "broken.jpg" => "decode_failed",
        "words.txt" => "unsupported_format",
        "huge.bmp" => "too_large",
        _ => "not_found",
    }
}

/// Runs one classification of everything and returns what it printed; some pictures are broken, and it says so.
async fn label_all(mut command: Process) -> Result<String> {
    let status = command.wait(LIMIT).await?;
    ensure!(status.code() == Some(1), "broken pictures are a failure, not {status}: {}", command.stderr());
    let stderr = command.stderr();
    let last = stderr.lines().last().unwrap_or_default();
    for words in ["4 of 19 pictures", "1 decode_failed", "1 not_found", "1 too_large", "1 unsupported_format"] {
        ensure!(last.contains(words), "the last line must hold `{words}`: {stderr}");
    }
    Ok(command.stdout())
}

const EVERYTHING: [&str; 8] =
    ["classify", "photos/deep", "photos/*.*", "@list.txt", "--model", "colours", "--ordered", "--batch-size=4"];

#[tokio::test]
async fn a_fleet_and_one_machine_write_the_same_lines() {
    Fleet::run("a_fleet_and_one_machine_write_the_same_lines", async |fleet| {
        write_photos(fleet.path())?;
        write_model(&fleet.path().join("colours"), ["red", "blue"])?;
        let _workers = [fleet.worker("one")?, fleet.worker("two")?];
        fleet.gannet(&["model", "push", "colours", "colours"]).await?;
        let on_a_fleet = label_all(fleet.start(&EVERYTHING)?).await?;

        let embedded = |args: &[&str]| Process::start("embedded", "gannet", args, &[], fleet.path());
        embedded(&["model", "push", "colours", "colours"])?.succeed(LIMIT).await?;
        let on_one = label_all(embedded(&EVERYTHING)?).await?;
        ensure!(on_a_fleet == on_one, "on a fleet:\n{on_a_fleet}\non one machine:\n{on_one}");
        for line in json_lines(&on_one)? {
            let name = line["image"].as_str().context("a line names its picture")?;
            ensure!(verdict(&line) == expected(name), "{line}");
        }
        let names: Vec<String> = json_lines(&on_one)?.iter().map(|line| line["image"].to_string()).collect();
        let mut sorted = names[..7].to_vec();
        sorted.sort();
        ensure!(names[..7] == sorted && names[17..] == ["\"one [1].bmp\"", "\"nowhere.png\""], "{names:?}");

        // Embeddings likewise, to the last digit.
        let vectors = [
            "classify",
            "photos/deep",
            "photos/broken.jpg",
            "--model",
            "colours",
            "--output",
            "embedding",
            "--ordered",
        ];
        let (mut fleets, mut ours) = (fleet.start(&vectors)?, embedded(&vectors)?);
        ensure!(fleets.wait(LIMIT).await?.code() == Some(1) && ours.wait(LIMIT).await?.code() == Some(1));
        ensure!(fleets.stdout() == ours.stdout(), "{}\n{}", fleets.stdout(), ours.stdout());
        ensure!(ours.stderr().contains("1 of 8 pictures has no embedding: 1 decode_failed"), "{}", ours.stderr());
        ensure!(json_lines(&ours.stdout())?[0]["embedding"].as_array().is_some_and(|numbers| numbers.len() == 3));

        // Names from standard input, one label each, and none that is not sure.
        let gannet = binary("gannet")?.display().to_string();
        let pipe = "find photos -name 'red*' | \"$0\" classify - --model colours --top-k 1 --threshold 0.99";
        let mut shell = Command::new("sh");
        shell.args(["-c", pipe, &gannet]);
        let piped = Process::spawn("shell", &mut shell, &fleet.env(), fleet.path())?.succeed(LIMIT).await?;
        let piped = json_lines(&piped)?;
        ensure!(piped.len() == 7 && piped.iter().all(|line| line["predictions"] == json!([])), "{piped:?}");
        Ok(())
    })
    .await;
}

/// Starts a classification of `count` large pictures in batches that take a while.
async fn long_run(fleet: &Fleet, run: &str, count: usize) -> Result<Process> {
    write_large(&fleet.path().join("large"), count)?;
    write_model(&fleet.path().join("colours"), ["red", "blue"])?;
    fleet.gannet(&["model", "push", "colours", "colours"]).await?;
    fleet.start(&["classify", "large", "--model", "colours", "--batch-size", "120", "--run", run])
}

/// Waits until a batch of `run` is under way.
async fn in_the_middle(progress: &mut Inbox, run: &str) -> Result<()> {
    let begun = |word: &Value| word["run"] == run && word["fraction"].as_f64().is_some_and(|fraction| fraction > 0.0);
    progress.find(LIMIT, begun).await.context("no worker came to the middle of a batch").map(|_| ())
}

/// Every picture has one line, and the right one.
fn each_once(output: &str, count: usize) -> Result<()> {
    let lines = json_lines(output)?;
    let names: BTreeSet<&str> = lines.iter().filter_map(|line| line["image"].as_str()).collect();
    ensure!(lines.len() == count && names.len() == count, "{} lines of {} pictures", lines.len(), names.len());
    for line in &lines {
        ensure!(verdict(line) == expected(line["image"].as_str().unwrap_or_default()), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn a_worker_told_to_stop_in_a_batch_costs_nothing() {
    Fleet::run("a_worker_told_to_stop_in_a_batch_costs_nothing", async |fleet| {
        let mut first = fleet.worker("first")?;
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "#", LIMIT).await?;
        let classify = long_run(fleet, "stopped", 240).await?;
        in_the_middle(&mut progress, "stopped").await?;
        first.terminate()?;
        let _second = fleet.worker("second")?;
        let status = first.wait(LIMIT).await?;
        ensure!(status.success(), "a worker that was told to stop ends well, not with {status}: {}", first.stderr());
        each_once(&classify.succeed(LIMIT).await?, 240)?;
        ensure!(fleet.names("runs/stopped/attempts")?.is_empty(), "a stop costs no attempt");
        ensure!(fleet.results("stopped")?.iter().all(|result| result["attempt"] == 1), "nor does any result say so");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_killed_in_a_batch_loses_no_picture() {
    Fleet::run("a_worker_killed_in_a_batch_loses_no_picture", async |fleet| {
        let mut victim = fleet.worker("victim")?;
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "#", LIMIT).await?;
        let classify = long_run(fleet, "killed", 240).await?;
        in_the_middle(&mut progress, "killed").await?;
        victim.kill()?;
        let mut survivor = fleet.worker("survivor")?;
        each_once(&classify.succeed(LIMIT).await?, 240)?;
        survivor.must_run()
    })
    .await;
}

#[tokio::test]
async fn an_executor_killed_in_a_batch_is_replaced() {
    Fleet::run("an_executor_killed_in_a_batch_is_replaced", async |fleet| {
        let mut worker = fleet.worker("one")?;
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "#", LIMIT).await?;
        let classify = long_run(fleet, "replaced", 240).await?;
        in_the_middle(&mut progress, "replaced").await?;
        let executors = children_of(worker.pid());
        ensure!(executors.len() == 1, "one slot has one executor: {executors:?}");
        signal("KILL", executors[0])?;
        each_once(&classify.succeed(LIMIT).await?, 240)?;
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn models_that_are_pushed_while_workers_run_are_used_at_once() {
    Fleet::run("models_that_are_pushed_while_workers_run_are_used_at_once", async |fleet| {
        write_photos(fleet.path())?;
        // Before there is anything in the store.
        let mut worker = fleet.worker("one")?;
        let label = async |model: &str| -> Result<BTreeMap<String, u32>> {
            let args = ["classify", "photos/deep", "one [1].bmp", "--model", model, "--batch-size", "1"];
            let mut counts = BTreeMap::new();
            for line in json_lines(&fleet.gannet(&args).await?)? {
                *counts.entry(verdict(&line)).or_default() += 1;
            }
            Ok(counts)
        };
        let counts = |red: &str, blue: &str| BTreeMap::from([(red.to_owned(), 1), (blue.to_owned(), 7)]);
        for (folder, labels, model) in [
            ("english", ["red", "blue"], "colours"),
            ("german", ["rot", "blau"], "colours"),
            ("latin", ["ruber", "caeruleus"], "colores"),
        ] {
            write_model(&fleet.path().join(folder), labels)?;
            fleet.gannet(&["model", "push", folder, model]).await?;
            ensure!(label(model).await? == counts(labels[0], labels[1]), "the model pushed last is used");
        }
        // Two models in turn on one worker.
        let (german, latin) = tokio::join!(label("colours"), label("colores"));
        ensure!(german? == counts("rot", "blau") && latin? == counts("ruber", "caeruleus"), "each has its own labels");

        // None of that name, and one whose object is gone.
        let error = label("colour").await.err().context("there is no such model")?.to_string();
        ensure!(error.contains("no model `colour`") && error.contains("did you mean `colour"), "{error}");
        let amqp = fleet.amqp().await?;
        let model = json!({"key": format!("models/gone/{0}/model.json", "0".repeat(64)), "sha256": "0".repeat(64)});
        let image = json!({"image": "x", "object": {"key": "x", "sha256": "0".repeat(64)}});
        let job = json!({"id": "b0", "run": "gone", "kind": "batch", "batch": {"model": model, "images": [image]}});
        amqp.publish("gannet.v1.jobs", "gannet.v1.batches", job.to_string().as_bytes(), BasicProperties::default())
            .await?;
        let letter: Value = serde_json::from_slice(&amqp.take("gannet.v1.dead", LIMIT).await?.data)?;
        ensure!(
            letter["reason"] == "missing_object" && letter["errors"].to_string().contains("models/gone"),
            "{letter}"
        );
        ensure!(fleet.results("gone")?[0]["status"] == "failed", "its result says so, too");
        ensure!(label("colours").await? == counts("rot", "blau"), "nothing is stuck behind it");
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn a_cancelled_classification_ends_and_leaves_nothing() {
    Fleet::run("a_cancelled_classification_ends_and_leaves_nothing", async |fleet| {
        let mut worker = fleet.worker("one")?;
        let amqp = fleet.amqp().await?;
        let mut progress = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        let mut classify = long_run(fleet, "unwanted", 240).await?;
        in_the_middle(&mut progress, "unwanted").await?;
        fleet.gannet(&["cancel", "unwanted"]).await?;
        let status = classify.wait(LIMIT).await?;
        ensure!(!status.success(), "whoever waits for a cancelled run hears of it: {}", classify.stderr());
        let said = classify.stderr();
        ensure!(said.contains("cancelled") && said.contains(" of 240 pictures have a line"), "{said}");
        // A worker that joins later drops what is left.
        let _late = fleet.worker("late")?;
        eventually(LIMIT, "nothing is left on the queue", async || {
            Ok((amqp.ready("gannet.v1.batches").await? == 0).then_some(()))
        })
        .await?;
        let idle = |word: &Value| word["worker"] == "one" && word["running"].as_array().is_some_and(Vec::is_empty);
        let mut after = amqp.listen("gannet.v1.progress", "#", LIMIT).await?;
        after.find(LIMIT, idle).await.context("the worker goes on with what nobody wants")?;
        ensure!(fleet.results("unwanted")?.iter().all(|result| result["worker"] == "one"), "the late one began none");
        let listed = json_lines(&fleet.gannet(&["run", "list", "--format", "json"]).await?)?;
        ensure!(listed.iter().any(|row| row["run"] == "unwanted" && row["state"] == "cancelled"), "{listed:?}");
        fleet.gannet(&["run", "delete", "unwanted"]).await?;
        ensure!(fleet.names("runs/unwanted")? == ["cancelled"], "{:?}", fleet.names("runs/unwanted")?);
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn an_interrupted_classification_ends_and_can_be_run_again() {
    Folder::run(async |folder| {
        write_large(&folder.path().join("large"), 200)?;
        write_model(&folder.path().join("colours"), ["red", "blue"])?;
        let gannet = |args: &[&str]| Process::start("gannet", "gannet", args, &[], folder.path());
        gannet(&["model", "push", "colours", "colours"])?.succeed(LIMIT).await?;
        let args = ["classify", "large", "--model", "colours", "--batch-size", "20"];
        let mut classify = gannet(&args)?;
        eventually(LIMIT, "the first lines are out", async || {
            classify.must_run()?;
            Ok((!classify.stdout().is_empty()).then_some(()))
        })
        .await?;
        let executors = children_of(classify.pid());
        signal("INT", classify.pid())?;
        let status = classify.wait(LIMIT).await?;
        let said = classify.stderr();
        ensure!(!status.success() && said.contains("--run colours-") && said.contains(" of 200 pictures"), "{said}");
        eventually(LIMIT, "its executors are gone", async || {
            let alive = executors.iter().any(|pid| Path::new(&format!("/proc/{pid}/exe")).exists());
            Ok((!alive).then_some(()))
        })
        .await?;
        each_once(&gannet(&args)?.succeed(LIMIT).await?, 200)
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_pictures_have_ten_thousand_lines() {
    let name = "ten_thousand_pictures_have_ten_thousand_lines";
    if !full() {
        return skipped(name, "takes minutes: tests/run --full");
    }
    Fleet::run(name, async |fleet| {
        let dir = fleet.path().join("many");
        std::fs::create_dir_all(&dir)?;
        for number in 0..10_000 {
            let (name, colour) = if number % 2 == 0 { ("red", [250, 10, 10]) } else { ("blue", [10, 10, 250]) };
            write_colour(&dir.join(format!("{name}-{number:05}.bmp")), 8 + number % 50, colour)?;
        }
        write_model(&fleet.path().join("colours"), ["red", "blue"])?;
        fleet.gannet(&["model", "push", "colours", "colours"]).await?;
        let _workers = [fleet.worker("one")?, fleet.worker("two")?];
        let mut classify = fleet.start(&["classify", "many", "--model", "colours"])?;
        let mut most = 0;
        let status = eventually(4 * LIMIT, "ten thousand pictures are labelled", async || {
            most = most.max(peak_mib(classify.pid()));
            classify.has_ended()
        })
        .await?;
        let said = classify.stderr();
        ensure!(status.success(), "{said}");
        for words in ["10000/10000 pictures uploaded", "313/313 batches", "10000 pictures labelled"] {
            ensure!(said.contains(words), "it says `{words}`: {said}");
        }
        each_once(&classify.stdout(), 10_000)?;
        ensure!(most < 300, "the producer took {most} MiB");
        Ok(())
    })
    .await;
}

/// The most memory that a process has had so far, in MiB; 0 once it is gone.
fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}
