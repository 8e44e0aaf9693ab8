//! What `gannet classify` promises about its lines, and about a run that is broken off, taken up or gone.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tests::{
    Fleet, Folder, LIMIT, Process, binary, eventually, json_lines, signal, write_colour, write_folder, write_large,
    write_model,
};

const RED: [u8; 3] = [250, 10, 10];
const BLUE: [u8; 3] = [10, 10, 250];

/// A command in a folder without a fleet.
fn start(folder: &Folder, args: &[&str]) -> Result<Process> {
    Process::start("gannet", "gannet", args, &[], folder.path())
}

async fn gannet(folder: &Folder, args: &[&str]) -> Result<String> {
    start(folder, args)?.succeed(LIMIT).await
}

/// Runs a command that must fail, and returns what it said.
async fn refused(mut command: Process) -> Result<String> {
    let status = command.wait(LIMIT).await?;
    ensure!(status.code() == Some(1), "it must fail, not end with {status}: {}", command.stderr());
    Ok(command.stderr())
}

/// Pushes the model `colours`, which knows red from blue.
async fn push_colours(folder: &Folder) -> Result<()> {
    write_model(&folder.path().join("colours"), ["red", "blue"])?;
    gannet(folder, &["model", "push", "colours", "colours"]).await.map(|_| ())
}

/// Writes `count` pictures of one colour.
fn write_some(dir: &Path, count: usize, colour: [u8; 3]) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    (0..count).try_for_each(|number| write_colour(&dir.join(format!("{number}.bmp")), 6 + number, colour))
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

/// The pictures of these lines, each once.
fn images(lines: &[Value]) -> Result<BTreeSet<&str>> {
    let images: BTreeSet<&str> = lines.iter().filter_map(|line| line["image"].as_str()).collect();
    ensure!(images.len() == lines.len(), "{} lines of {} pictures", lines.len(), images.len());
    Ok(images)
}

#[tokio::test]
async fn lines_are_as_promised() {
    Folder::run(async |folder| {
        push_colours(folder).await?;
        write_some(&folder.path().join("red"), 3, RED)?;
        write_some(&folder.path().join("blue"), 2, BLUE)?;
        std::fs::write(folder.path().join("words.txt"), "These are words.")?;
        let args = ["classify", "red", "blue", "--model", "colours", "--batch-size", "2"];

        let mut all = start(folder, &args)?;
        ensure!(all.wait(LIMIT).await?.success(), "{}", all.stderr());
        ensure!(all.stderr().ends_with("5 pictures labelled\n"), "{}", all.stderr());
        let lines = json_lines(&all.stdout())?;
        ensure!(images(&lines)?.len() == 5, "{lines:?}");
        for line in &lines {
            ensure!(keys(line) == ["image", "model", "predictions"], "{line}");
            let predictions = line["predictions"].as_array().context("a list")?;
            ensure!(predictions.iter().all(|one| keys(one) == ["label", "index", "score"]), "{line}");
            let scores: Vec<f64> = predictions.iter().filter_map(|one| one["score"].as_f64()).collect();
            ensure!(scores.len() == 2 && scores[0] > scores[1] && (scores[0] + scores[1] - 1.0).abs() < 1e-6, "{line}");
        }

        // The best label alone, and only where it is likely; broken ones have their reason instead.
        let mut some = start(folder, &[&args[..], &["words.txt", "none.png", "--top-k", "1"]].concat())?;
        ensure!(some.wait(LIMIT).await?.code() == Some(1), "{}", some.stderr());
        let last = "gannet: 2 of 7 pictures have no labels: 1 not_found, 1 unsupported_format\n";
        ensure!(some.stderr().ends_with(last), "{}", some.stderr());
        let lines = json_lines(&some.stdout())?;
        ensure!(images(&lines)?.len() == 7, "{lines:?}");
        for line in &lines {
            let right = match line["image"].as_str().unwrap_or_default().split_once('/') {
                Some((colour, _)) => {
                    line["predictions"].as_array().is_some_and(|all| all.len() == 1 && all[0]["label"] == colour)
                }
                None => keys(line) == ["image", "model", "error"] && keys(&line["error"]) == ["code", "message"],
            };
            ensure!(right, "{line}");
        }
        Ok(())
    })
    .await;
}

/// The labels and scores of a line.
fn of(line: &Value) -> Vec<(&str, f64)> {
    let all = line["predictions"].as_array().into_iter().flatten();
    all.filter_map(|one| Some((one["label"].as_str()?, one["score"].as_f64()?))).collect()
}

fn scored(lines: &[Value]) -> Vec<Vec<(&str, f64)>> {
    lines.iter().map(of).collect()
}

#[tokio::test]
async fn scores_and_embeddings_are_what_was_asked_for() {
    Folder::run(async |folder| {
        push_colours(folder).await?;
        write_some(&folder.path().join("red"), 2, RED)?;
        let run = async |more: &[&str]| -> Result<Vec<Value>> {
            json_lines(&gannet(folder, &[&["classify", "red", "--ordered"], more].concat()).await?)
        };
        // (250, 10, 10) is (0.96, -0.92, -0.92) to the network, whose outputs are red - blue and blue - red.
        let close = |found: f64, expected: f64| (found - expected).abs() < 0.01;
        let raw = run(&["--model", "colours", "--scores", "raw"]).await?;
        for both in scored(&raw) {
            ensure!(both[0].0 == "red" && close(both[0].1, 1.88) && close(both[1].1, -1.88), "{raw:?}");
        }
        let above = run(&["--model", "colours", "--scores", "raw", "--threshold", "-1.5"]).await?;
        ensure!(scored(&above).iter().all(|one| one.len() == 1), "{above:?}");
        let vectors = run(&["--model", "colours", "--output", "embedding"]).await?;
        for line in &vectors {
            ensure!(keys(line) == ["image", "model", "embedding"], "{line}");
            let numbers: Vec<f64> =
                line["embedding"].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
            ensure!(numbers.len() == 3 && close(numbers[0], 0.96) && close(numbers[2], -0.92), "{line}");
        }
        for (option, value) in [("--top-k", "3"), ("--threshold", "0.5"), ("--scores", "raw")] {
            let args = ["classify", "red", "--model", "colours", "--output", "embedding", option, value];
            let refused = refused(start(folder, &args)?).await?;
            ensure!(refused.contains(&format!("{option} is for labels: --output embedding goes without")), "{refused}");
        }

        // A model of several labels: all that are more likely than not, or than what is asked for. Without names they are numbers.
        let config = folder.path().join("colours/config.json");
        let text = std::fs::read_to_string(&config)?;
        std::fs::write(&config, text.replacen('{', r#"{"problem_type": "multi_label_classification", "#, 1))?;
        std::fs::remove_file(folder.path().join("colours/labels.txt"))?;
        let mut push = start(folder, &["model", "push", "colours", "tags"])?;
        ensure!(push.wait(LIMIT).await?.success(), "{}", push.stderr());
        ensure!(push.stderr().contains("there are no labels"), "{}", push.stderr());
        let sure = run(&["--model", "tags"]).await?;
        ensure!(
            scored(&sure).iter().all(|all| all.len() == 1 && all[0].0 == "0" && close(all[0].1, 0.8676)),
            "{sure:?}"
        );
        let all = run(&["--model", "tags", "--threshold", "0.1"]).await?;
        ensure!(scored(&all).iter().all(|all| all.len() == 2 && close(all[1].1, 0.1324)), "{all:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_run_that_is_taken_up_answers_for_the_pictures_it_is_asked_about() {
    Folder::run(async |folder| {
        push_colours(folder).await?;
        write_some(&folder.path().join("red"), 6, RED)?;
        write_some(&folder.path().join("blue"), 6, BLUE)?;
        let label = async |colour: &str, batch: &str| -> Result<()> {
            let args =
                ["classify", colour, "--model", "colours", "--run", "mine", "--batch-size", batch, "--top-k", "1"];
            let lines = json_lines(&gannet(folder, &args).await?)?;
            let right = lines.iter().all(|line| {
                let ours = line["image"].as_str().is_some_and(|image| image.starts_with(colour));
                ours && line["predictions"][0]["label"] == colour
            });
            ensure!(right && images(&lines)?.len() == 6, "{lines:?}");
            Ok(())
        };
        let results = || {
            Ok::<_, std::io::Error>(std::fs::read_dir(folder.path().join(".gannet/store/runs/mine/results"))?.count())
        };
        label("red", "2").await?;
        ensure!(results()? == 3, "three batches of two");
        label("blue", "3").await?;
        ensure!(results()? == 5, "other pictures are other jobs");
        label("red", "2").await?;
        ensure!(results()? == 5, "what is done is not computed again");

        let more = refused(start(folder, &["classify", "red", "blue", "--model", "colours", "--run", "mine"])?).await?;
        ensure!(more.contains("asked for something else (6 pictures, not 12)") && more.contains("--run"), "{more}");
        gannet(folder, &["run", "delete", "mine"]).await?;
        let gone = refused(start(folder, &["classify", "red", "--model", "colours", "--run", "mine"])?).await?;
        ensure!(gone.contains("was deleted") && gone.contains("--run"), "{gone}");
        let left: Vec<_> =
            std::fs::read_dir(folder.path().join(".gannet/store/runs/mine"))?.collect::<Result<_, _>>()?;
        ensure!(left.len() == 1 && left[0].file_name() == "cancelled", "a deleted run stays deleted: {left:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_picture_that_was_changed_is_labelled_again() {
    Folder::run(async |folder| {
        push_colours(folder).await?;
        let label = async |colour| -> Result<String> {
            // Of one size: only the time of the change tells.
            write_colour(&folder.path().join("x.bmp"), 8, colour)?;
            let lines = gannet(folder, &["classify", "x.bmp", "--model", "colours", "--run", "mine"]).await?;
            Ok(json_lines(&lines)?[0]["predictions"][0]["label"].as_str().unwrap_or_default().to_owned())
        };
        ensure!(label(RED).await? == "red" && label(BLUE).await? == "blue", "an old answer for a new picture");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn what_is_odd_is_a_line_and_not_the_end_of_the_run() {
    Folder::run(async |folder| {
        push_colours(folder).await?;
        let dir = folder.path().join("odd");
        write_some(&dir, 2, RED)?;
        // A name that is not UTF-8, a list that Notepad wrote, with a name that would be a pattern, and a pipe.
        write_colour(&dir.join(OsStr::from_bytes(b"bad\xff.bmp")), 9, RED)?;
        std::fs::write(folder.path().join("list.txt"), "\u{feff}odd/0.bmp\r\nphoto[1].jpg\r\n")?;
        ensure!(Command::new("mkfifo").arg(folder.path().join("pipe")).status()?.success(), "a pipe");
        std::os::unix::fs::symlink("nowhere", dir.join("lost"))?;
        let args = ["classify", "odd", "@list.txt", "pipe", "--model", "colours", "--ordered", "--top-k", "1"];
        let mut command = start(folder, &args)?;
        ensure!(command.wait(LIMIT).await?.code() == Some(1), "{}", command.stderr());
        let lines = json_lines(&command.stdout())?;
        let verdict = |line: &Value| {
            let said = line["predictions"][0]["label"].as_str().or(line["error"]["code"].as_str());
            format!("{} {}", line["image"].as_str().unwrap_or_default(), said.unwrap_or_default())
        };
        let expected = [
            "odd/0.bmp red",
            "odd/1.bmp red",
            "odd/bad\u{fffd}.bmp red",
            "odd/0.bmp red",
            "photo[1].jpg not_found",
            "pipe unsupported_format",
        ];
        ensure!(lines.iter().map(verdict).collect::<Vec<_>>() == expected, "{lines:?}");
        let said = command.stderr();
        ensure!(said.contains("note: left out of the folders: 1 link to nothing"), "{said}");
        ensure!(said.ends_with("2 of 6 pictures have no labels: 1 not_found, 1 unsupported_format\n"), "{said}");

        // Where there are none, there is no run either.
        std::fs::create_dir(folder.path().join("empty"))?;
        let runs = std::fs::read_dir(folder.path().join(".gannet/store/runs"))?.count();
        let mut none = start(folder, &["classify", "empty", "--model", "colours"])?;
        ensure!(
            none.wait(LIMIT).await?.success() && none.stderr().contains("no pictures in empty"),
            "{}",
            none.stderr()
        );
        ensure!(std::fs::read_dir(folder.path().join(".gannet/store/runs"))?.count() == runs, "a run of nothing");
        let sure = ["classify", "odd/0.bmp", "--model", "colours", "--threshold"];
        let mut unsure = start(folder, &[&sure[..], &["1"]].concat())?;
        ensure!(unsure.wait(LIMIT).await?.success(), "{}", unsure.stderr());
        let said = unsure.stderr();
        ensure!(
            said.contains("1 of 1 picture without an error got no label") && said.contains("0 pictures l"),
            "{said}"
        );
        let refused = refused(start(folder, &[&sure[..], &["-1"]].concat())?).await?;
        ensure!(refused.contains("--threshold is -1: 0 to 1 is accepted"), "{refused}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_run_that_is_broken_off_leaves_jobs_until_it_is_cancelled() {
    Folder::run(async |folder| {
        push_colours(folder).await?;
        write_large(&folder.path().join("large"), 200)?;
        let args = ["classify", "large", "--model", "colours", "--batch-size", "5", "--run", "left"];
        let mut classify = start(folder, &args)?;
        eventually(LIMIT, "the first lines are out", async || {
            classify.must_run()?;
            Ok((!classify.stdout().is_empty()).then_some(()))
        })
        .await?;
        classify.terminate()?;
        let said = refused(classify).await?;
        ensure!(said.contains("interrupted: the same command with --run left takes it up again"), "{said}");
        let waiting = async || -> Result<u64> {
            let rows = json_lines(&gannet(folder, &["status", "--format", "json"]).await?)?;
            let row = rows.iter().find(|row| row["name"] == "gannet.v1.batches").context("the queue is listed")?;
            row["ready"].as_u64().context("a number")
        };
        ensure!(waiting().await? > 0, "it is to be taken up");
        gannet(folder, &["gc"]).await?;
        ensure!(waiting().await? > 0, "and not to be cleaned away");
        let mut cancel = start(folder, &["cancel", "left"])?;
        ensure!(cancel.wait(LIMIT).await?.success(), "{}", cancel.stderr());
        let said = cancel.stderr();
        ensure!(said.contains(" dropped, 0 stopped, ") && !said.contains("not heard"), "nothing ran: {said}");
        ensure!(waiting().await? == 0, "nobody needs them");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_ends_the_run() {
    Folder::run(async |folder| {
        push_colours(folder).await?;
        write_large(&folder.path().join("large"), 200)?;
        // It starts when nobody reads any more.
        let script =
            "trap '' PIPE; { until ! echo; do sleep 0.05; done 2>/dev/null; \"$0\" \"$@\"; echo $? >status; } | true";
        let mut shell = Command::new("sh");
        shell.args(["-c", script]).arg(binary("gannet")?);
        shell.args(["classify", "large", "--model", "colours", "--batch-size", "1", "--run", "unread"]);
        let mut shell = Process::spawn("shell", &mut shell, &[], folder.path())?;
        shell.wait(LIMIT).await?;
        let status = eventually(LIMIT, "the command ends", async || {
            Ok(std::fs::read_to_string(folder.path().join("status")).ok())
        })
        .await?;
        let said = shell.stderr();
        ensure!(
            status.trim() == "0" && said.contains("0 of 200 pictures have a line: nobody reads more"),
            "{status}{said}"
        );
        let computed = std::fs::read_dir(folder.path().join(".gannet/store/runs/unread/results"))?.count();
        ensure!(computed < 200, "nobody reads them, and all are computed");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn names_and_labels_of_any_length_travel() {
    Fleet::run("names_and_labels_of_any_length_travel", async |fleet| {
        let _worker = fleet.worker("one")?;
        // A job of a thousand such names, and the result of as many as fit, are larger than a message.
        let long = [["x"; 200].concat(), ["y"; 200].concat(), ["z"; 200].concat()].join("/");
        let dir = fleet.path().join("long").join(&long);
        write_some(&dir, 1, RED)?;
        for number in 1..500 {
            std::fs::hard_link(dir.join("0.bmp"), dir.join(format!("{number}.bmp")))?;
        }
        let labels = [["r"; 600].concat(), ["b"; 600].concat()];
        write_model(&fleet.path().join("wordy"), [&labels[0], &labels[1]])?;
        fleet.gannet(&["model", "push", "wordy", "wordy"]).await?;
        let args = ["classify", "long", "--model", "wordy", "--batch-size", "1000", "--ordered", "--run", "long"];
        let lines = json_lines(&fleet.gannet(&args).await?)?;
        ensure!(images(&lines)?.len() == 500, "each has its line");
        ensure!(lines.is_sorted_by_key(|line| line["image"].as_str()), "in the order of the folder");
        ensure!(lines.iter().all(|line| line["predictions"][0]["label"] == labels[0]), "{}", lines[0]);
        let sizes: Vec<usize> = fleet.results("long")?.iter().map(|result| result.to_string().len()).collect();
        ensure!(sizes.len() > 1 && sizes[0] > 256 * 1024, "the results are larger than a message: {sizes:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_fleet_goes_on_when_nobody_waits() {
    Fleet::run("a_fleet_goes_on_when_nobody_waits", async |fleet| {
        write_large(&fleet.path().join("large"), 200)?;
        write_model(&fleet.path().join("colours"), ["red", "blue"])?;
        fleet.gannet(&["model", "push", "colours", "colours"]).await?;
        let mut worker = fleet.worker("one")?;
        let args = ["classify", "large", "--model", "colours", "--batch-size", "20", "--run", "left"];
        let mut left = fleet.start(&args)?;
        eventually(LIMIT, "the first lines are out", async || {
            left.must_run()?;
            Ok((!left.stdout().is_empty()).then_some(()))
        })
        .await?;
        signal("INT", left.pid())?;
        let said = refused(left).await?;
        for words in ["of 200 pictures have a line", "--run left takes it up again", "gannet cancel left"] {
            ensure!(said.contains(words), "it says `{words}`: {said}");
        }
        eventually(LIMIT, "the worker does all of it", async || Ok((fleet.results("left")?.len() == 10).then_some(())))
            .await?;
        let uploads = || -> Result<usize> {
            let pictures = fleet.names("runs/left/images")?;
            pictures.iter().map(|picture| fleet.s3.requests("PutObject", picture)).sum()
        };
        let sent = uploads()?;
        let lines = json_lines(&fleet.gannet(&args).await?)?;
        ensure!(images(&lines)?.len() == 200, "each has its line");
        ensure!((2..200).contains(&sent) && uploads()? == sent, "what is in the store is not sent again: {sent}");
        let results = fleet.results("left")?;
        ensure!(results.len() == 10 && results.iter().all(|result| result["attempt"] == 1), "none is computed again");
        worker.must_run()
    })
    .await;
}

#[tokio::test]
async fn a_trial_of_choice_becomes_a_model() {
    Folder::run(async |folder| {
        write_folder(&folder.path().join("shapes"), 60)?;
        std::fs::write(folder.path().join("study.toml"), tests::studies::pictures())?;
        gannet(folder, &["data", "push", "shapes"]).await?;
        gannet(folder, &["tune", "study.toml", "--run", "shapes"]).await?;
        let rows = json_lines(&gannet(folder, &["results", "shapes", "--format", "json"]).await?)?;
        let error = |row: &&Value| row["validation_error"].as_f64().filter(|_| row["trial"].is_string());
        let best = rows
            .iter()
            .filter(|row| error(row).is_some())
            .min_by(|a, b| error(a).partial_cmp(&error(b)).expect("numbers"));
        let trial =
            best.and_then(|row| row["trial"].as_str()).with_context(|| format!("a trial has ended: {rows:?}"))?;
        gannet(folder, &["model", "promote", &format!("shapes/{trial}"), "chosen"]).await?;
        let lines = json_lines(&gannet(folder, &["classify", "shapes", "--model", "chosen"]).await?)?;
        let right = |line: &&Value| {
            line["image"].as_str().and_then(|name| name.split('/').nth(1)) == line["predictions"][0]["label"].as_str()
        };
        let right = lines.iter().filter(right).count();
        ensure!(images(&lines)?.len() == 180 && right >= 153, "{right} of {} are labelled rightly", lines.len());
        let unknown = refused(start(folder, &["model", "promote", "shapes/t9999", "chosen"])?).await?;
        ensure!(unknown.contains("no trial `t9999`") && unknown.contains("gannet results shapes"), "{unknown}");
        Ok(())
    })
    .await;
}
