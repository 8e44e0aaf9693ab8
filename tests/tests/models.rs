//! Versions of models, and how they are computed: pointers that move while work runs, precision, instruction sets.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tests::{
    Fleet, Folder, LIMIT, Process, eventually, json_lines, write_colour, write_fine_model, write_large, write_model,
};

/// What ended badly says.
async fn refused(mut command: Process) -> Result<String> {
    let status = command.wait(LIMIT).await?;
    ensure!(status.code() == Some(1), "{status}: {}", command.stderr());
    Ok(command.stderr())
}

/// The digest that a model's name stands for.
async fn current(fleet: &Fleet, name: &str) -> Result<String> {
    Ok(fleet.model(name).await?["sha256"].as_str().context("a digest")?.to_owned())
}

/// The digests that lines name.
fn models_of(lines: &[Value]) -> BTreeSet<&str> {
    lines.iter().map(|line| line["model"].as_str().unwrap_or("none")).collect()
}

#[tokio::test]
async fn a_pointer_that_moves_while_work_runs_mixes_nothing() {
    Fleet::run("a_pointer_that_moves_while_work_runs_mixes_nothing", async |fleet| {
        const COUNT: usize = 240;
        write_large(&fleet.path().join("large"), COUNT)?;
        for (folder, labels) in [("english", ["red", "blue"]), ("german", ["rot", "blau"])] {
            write_model(&fleet.path().join(folder), labels)?;
        }
        let _workers = [fleet.worker("one")?, fleet.worker("two")?];
        let mut progress = fleet.amqp().await?.listen("gannet.v1.progress", "#", LIMIT).await?;
        fleet.gannet(&["model", "push", "english", "colours"]).await?;
        let english = current(fleet, "colours").await?;
        let classify = |run| ["classify", "large", "--model", "colours", "--batch-size", "20", "--run", run];
        let first = fleet.start(&classify("first"))?;
        let begun = |word: &Value| word["run"] == "first" && word["fraction"].as_f64().is_some_and(|done| done > 0.0);
        progress.find(LIMIT, begun).await.context("a worker is in the middle of a batch")?;
        fleet.gannet(&["model", "push", "german", "colours"]).await?;
        let german = current(fleet, "colours").await?;
        let second = fleet.start(&classify("second"))?;
        eventually(LIMIT, "the second run has its model", async || {
            Ok(fleet.object("runs/second/run.json").is_ok().then_some(()))
        })
        .await?;
        // Once more to and fro, while both run.
        fleet.gannet(&["model", "rollback", "colours"]).await?;
        fleet.gannet(&["model", "promote", &format!("colours@{}", &german[..8])]).await?;
        fleet.gannet(&["model", "rollback", "colours"]).await?;
        ensure!(current(fleet, "colours").await? == english, "a rollback takes the promotion back");
        for (run, command, digest, labels) in
            [("first", first, &english, ["red", "blue"]), ("second", second, &german, ["rot", "blau"])]
        {
            let lines = json_lines(&command.succeed(2 * LIMIT).await?)?;
            ensure!(
                lines.len() == COUNT && models_of(&lines) == [digest.as_str()].into(),
                "{run}: {:?}",
                models_of(&lines)
            );
            let known = |line: &Value| labels.iter().any(|label| line["predictions"][0]["label"] == *label);
            ensure!(lines.iter().all(known), "the labels of {run} are another version's");
            let results = fleet.results(run)?;
            ensure!(results.len() == COUNT / 20, "{} batches", results.len());
            for result in &results {
                ensure!(result["outcome"]["batch"]["model"] == *digest, "{result}");
            }
            let rows = json_lines(&fleet.gannet(&["results", run, "--format", "json"]).await?)?;
            ensure!(models_of(&rows) == [digest.as_str()].into(), "{rows:?}");
        }
        // Who takes the first run up gets its version, whatever the name stands for now.
        let again = json_lines(&fleet.gannet(&classify("first")).await?)?;
        ensure!(models_of(&again) == [english.as_str()].into() && again.len() == COUNT, "{:?}", models_of(&again));
        ensure!(fleet.results("first")?.len() == COUNT / 20, "nothing is computed twice");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_version_is_shown_used_and_deleted() {
    Fleet::run("a_version_is_shown_used_and_deleted", async |fleet| {
        write_colour(&fleet.path().join("red.bmp"), 30, [255, 0, 0])?;
        let mut digests = Vec::new();
        for labels in [["red", "blue"], ["rot", "blau"], ["ruber", "caeruleus"]] {
            write_model(&fleet.path().join("colours"), labels)?;
            fleet.gannet(&["model", "push", "colours", "colours"]).await?;
            digests.push(current(fleet, "colours").await?);
        }
        let version = |index: usize| format!("colours@{}", &digests[index][..8]);
        let shown: Value = serde_json::from_str(&fleet.gannet(&["model", "show", &version(0)]).await?)?;
        ensure!(shown["digest"] == digests[0] && shown["key"] == format!("models/colours/{}/model.json", digests[0]));
        ensure!(shown["current"] == false, "{shown}");
        ensure!(shown["origin"]["of"]["folder"] == "colours", "{shown}");
        ensure!(shown["manifest"]["labels"] == json!(["red", "blue"]), "{shown}");
        let history: Vec<&Value> =
            shown["history"].as_array().context("a history")?.iter().map(|one| &one["digest"]).collect();
        ensure!(history == [&json!(digests[2]), &json!(digests[1]), &json!(digests[0])], "{shown}");

        let mut worker = fleet.worker("one")?;
        let line = json_lines(&fleet.gannet(&["classify", "red.bmp", "--model", &version(0)]).await?)?.remove(0);
        worker.terminate()?;
        worker.wait(LIMIT).await?;
        ensure!(line["model"] == digests[0] && line["predictions"][0]["label"] == "red", "{line}");

        let said = refused(fleet.start(&["model", "delete", &version(2), "--yes"])?).await?;
        ensure!(said.contains("`colours` stands for") && said.contains("rollback"), "{said}");
        let said = refused(fleet.start(&["model", "delete", &version(1)])?).await?;
        ensure!(said.contains("say --yes"), "nobody can be asked: {said}");
        // A job that waits.
        let _waiting = fleet.start(&["classify", "red.bmp", "--model", &version(1), "--run", "waits"])?;
        eventually(LIMIT, "the job is enqueued", async || {
            Ok(fleet.names("runs/waits/enqueued").is_ok_and(|notes| !notes.is_empty()).then_some(()))
        })
        .await?;
        let mut delete = fleet.start(&["model", "delete", &version(1), "--yes"])?;
        ensure!(delete.wait(LIMIT).await?.success(), "{}", delete.stderr());
        let said = delete.stderr();
        ensure!(said.contains("1 of 1 batch job of the run waits have no result yet"), "{said}");
        let said = refused(fleet.start(&["classify", "red.bmp", "--model", &version(1)])?).await?;
        ensure!(said.contains("no version `"), "{said}");

        // Weights are shared by all of them, and stay until nobody needs them.
        let gc = ["gc", "--versions", "--older", "0s", "--format", "json"];
        let removed = fleet.gannet(&gc).await?;
        ensure!(!removed.contains("models/colours"), "{removed}");
        fleet.gannet(&["model", "delete", "colours", "--yes"]).await?;
        fleet.gannet(&["run", "delete", "waits"]).await?;
        let said = refused(fleet.start(&["model", "show", "colours"])?).await?;
        ensure!(said.contains("no model `colours`"), "{said}");
        let left = fleet.gannet(&["model", "list", "--format", "json"]).await?;
        ensure!(left.is_empty(), "{left}");
        let removed = fleet.gannet(&gc).await?;
        ensure!(removed.contains("/model.safetensors"), "{removed}");
        ensure!(fleet.names("models/colours")?.is_empty(), "{:?}", fleet.names("models/colours")?);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn bf16_is_compared_with_fp32_and_refused_where_it_is_too_coarse() {
    Folder::run(async |folder| {
        std::fs::create_dir_all(folder.path().join("photos"))?;
        for number in 0..30u8 {
            write_colour(&folder.path().join(format!("photos/{number:02}.bmp")), 8, [100 + 5 * number, 9, 9])?;
        }
        write_fine_model(&folder.path().join("fine"))?;
        write_model(&folder.path().join("colours"), ["red", "blue"])?;
        let start =
            |args: &[&str], env: &[(String, String)]| Process::start("gannet", "gannet", args, env, folder.path());
        for model in ["fine", "colours"] {
            start(&["model", "push", model, model], &[])?.succeed(LIMIT).await?;
        }
        let label = |model, more: &[&'static str]| {
            let args =
                ["classify", "photos", "--model", model, "--top-k", "1", "--batch-size", "2", "--precision", "bf16"];
            [&args[..], more].concat()
        };
        // A network in which nothing is multiplied in bf16.
        let mut full = start(&label("colours", &["--run", "full"]), &[])?;
        ensure!(
            full.wait(LIMIT).await?.success() && full.stderr().contains("all was computed in fp32"),
            "{}",
            full.stderr()
        );
        let lines = json_lines(&full.stdout())?;
        ensure!(lines.len() == 30 && lines.iter().all(|line| line["precision"] == "fp32"), "{lines:?}");

        // As on a machine without.
        let env = [("GANNET_SIMD".to_owned(), "portable".to_owned())];
        let mut portable = start(&label("fine", &["--run", "portable"]), &env)?;
        ensure!(portable.wait(LIMIT).await?.success(), "{}", portable.stderr());
        ensure!(portable.stderr().contains("all was computed in fp32"), "{}", portable.stderr());
        let lines = json_lines(&portable.stdout())?;
        ensure!(lines.iter().all(|line| line["predictions"][0]["label"] == "more"), "{lines:?}");
        let rows = json_lines(&start(&["results", "portable", "--format", "json"], &[])?.succeed(LIMIT).await?)?;
        ensure!(rows.iter().all(|row| row["precision"] == "fp32" && row["compared"].is_null()), "{rows:?}");
        if !engine::Path::best().has_bf16() {
            let test = "bf16_is_compared_with_fp32_and_refused_where_it_is_too_coarse";
            tests::skipped(test, "the rest needs AVX-512 BF16");
            return Ok(());
        }

        let said = refused(start(&label("fine", &["--run", "coarse"]), &[])?).await?;
        ensure!(said.contains("bf16 is too coarse for this model") && said.contains("--precision fp32"), "{said}");
        let mut anyway = start(&label("fine", &["--run", "anyway", "--min-agreement", "0"]), &[])?;
        ensure!(anyway.wait(LIMIT).await?.success(), "{}", anyway.stderr());
        let said = anyway.stderr();
        ensure!(said.contains("bf16: 0 of 30 pictures") && said.contains("(0.0 %)"), "{said}");
        let lines = json_lines(&anyway.stdout())?;
        let coarse = |line: &Value| line["predictions"][0]["label"] == "less" && line["precision"] == "bf16";
        ensure!(lines.len() == 30 && lines.iter().all(coarse), "{lines:?}");
        let rows = json_lines(&start(&["results", "anyway", "--format", "json"], &[])?.succeed(LIMIT).await?)?;
        let sum = |key: &str| rows.iter().filter_map(|row| row[key].as_u64()).sum::<u64>();
        ensure!((sum("compared"), sum("agreed")) == (30, 0), "{rows:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn int8_is_calibrated_on_pictures_and_says_how_it_agrees() {
    const TEST: &str = "int8_is_calibrated_on_pictures_and_says_how_it_agrees";
    Fleet::run(TEST, async |fleet| {
        for folder in ["photos", "samples"] {
            std::fs::create_dir_all(fleet.path().join(folder))?;
        }
        for number in 0..30u8 {
            write_colour(&fleet.path().join(format!("photos/{number:02}.bmp")), 8, [100 + 5 * number, 9, 9])?;
            write_colour(&fleet.path().join(format!("samples/{number:02}.bmp")), 8, [50 + 6 * number, 20, 9])?;
        }
        write_fine_model(&fleet.path().join("fine"))?;
        fleet.gannet(&["model", "push", "fine", "fine"]).await?;
        let mut first = fleet.worker("first")?;
        let label = |run, more: &[&'static str]| {
            let args = ["--model", "fine", "--precision", "int8", "--batch-size", "8", "--ordered", "--scores", "raw"];
            [&["classify"][..], more, &args, &["--min-agreement", "0", "--run", run]].concat()
        };
        let others = ["--calibrate-on", "samples"];
        let wrong = ["classify", "photos", "--model", "fine", "--calibrate-on", "samples"];
        let said = refused(fleet.start(&wrong)?).await?;
        ensure!(said.contains("--calibrate-on is for --precision int8"), "{said}");
        // Files that are no pictures tell nothing.
        let mut blind = fleet.start(&label("blind", &["photos", "--calibrate-on", "fine/labels.txt"]))?;
        ensure!(blind.wait(LIMIT).await?.success(), "{}", blind.stderr());
        ensure!(blind.stderr().contains("no picture to calibrate on can be read"), "{}", blind.stderr());

        let mut own = fleet.start(&label("own", &["photos"]))?;
        ensure!(own.wait(LIMIT).await?.success(), "{}", own.stderr());
        let said = own.stderr();
        ensure!(said.contains("int8 is calibrated on 30 pictures of this run"), "{said}");
        if !engine::Path::best().has_int8() {
            ensure!(said.contains("all was computed in fp32"), "{said}");
            tests::skipped(TEST, "the rest needs AVX-512 VNNI and VBMI");
            return Ok(());
        }
        ensure!(said.contains("int8: ") && said.contains("of 8 pictures that were computed in fp32, too"), "{said}");
        let lines = json_lines(&own.stdout())?;
        ensure!(lines.len() == 30 && lines.iter().all(|line| line["precision"] == "int8"), "{lines:?}");

        // A picture's numbers follow from what it is calibrated on, in whatever company: here alone, by another worker.
        let mut all = fleet.start(&label("all", &[&["photos"][..], &others].concat()))?;
        ensure!(all.wait(LIMIT).await?.success(), "{}", all.stderr());
        ensure!(!all.stderr().contains("of this run:"), "{}", all.stderr());
        let all = json_lines(&all.stdout())?;
        ensure!(
            all.iter().zip(&lines).any(|(a, b)| a["predictions"] != b["predictions"]),
            "other ranges, other scores"
        );
        // Where there was nothing to calibrate on, the run is none the worse for it.
        let late = label("late", &["late.bmp"]);
        let mut early = fleet.start(&late)?;
        ensure!(!early.wait(LIMIT).await?.success() && early.stdout().contains("not_found"), "{}", early.stderr());
        write_colour(&fleet.path().join("late.bmp"), 8, [90, 9, 9])?;
        let found = json_lines(&fleet.gannet(&late).await?)?;
        ensure!(found[0]["precision"] == "int8", "{found:?}");
        first.terminate()?;
        ensure!(first.wait(LIMIT).await?.success(), "{}", first.stderr());
        let _second = fleet.worker("second")?;
        let alone = fleet.gannet(&label("alone", &[&["photos/07.bmp"][..], &others].concat())).await?;
        ensure!(json_lines(&alone)?[0]["predictions"] == all[7]["predictions"], "{alone}");
        // Taken up with one picture more, it is calibrated as when it began: what is done is not done again.
        write_colour(&fleet.path().join("photos/30.bmp"), 8, [250, 9, 9])?;
        let mut again = fleet.start(&label("own", &["photos"]))?;
        ensure!(
            !again.wait(LIMIT).await?.success() && again.stderr().contains("asked for something else"),
            "{}",
            again.stderr()
        );
        std::fs::remove_file(fleet.path().join("photos/30.bmp"))?;
        let mut again = fleet.start(&label("own", &["photos", "--calibrate-on", "samples"]))?;
        ensure!(again.wait(LIMIT).await?.success(), "{}", again.stderr());
        ensure!(again.stderr().contains("stays calibrated on the 30 pictures"), "{}", again.stderr());
        ensure!(json_lines(&again.stdout())? == lines, "the same run, the same lines");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_worker_computes_with_the_instructions_that_it_is_told() {
    Fleet::run("a_worker_computes_with_the_instructions_that_it_is_told", async |fleet| {
        write_colour(&fleet.path().join("red.bmp"), 30, [255, 0, 0])?;
        write_model(&fleet.path().join("colours"), ["red", "blue"])?;
        fleet.gannet(&["model", "push", "colours", "colours"]).await?;
        for path in engine::Path::available() {
            let mut worker = fleet.worker_with(path.name(), &[("GANNET_SIMD", path.name())])?;
            fleet.gannet(&["classify", "red.bmp", "--model", "colours", "--run", path.name()]).await?;
            let results = fleet.results(path.name())?;
            ensure!(results[0]["simd"] == path.name(), "{results:?}");
            worker.terminate()?;
            ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.stderr());
        }
        let mut worker = fleet.worker_with("none", &[("GANNET_SIMD", "sse2")])?;
        ensure!(!worker.wait(LIMIT).await?.success(), "there is no such path");
        let said = worker.stderr();
        ensure!(said.contains("'sse2'") && said.contains("on this machine `") && said.contains("`portable`"), "{said}");
        Ok(())
    })
    .await;
}
