//! What shells complete: the real program, asked by real shells in the way of their completion.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tests::{Fleet, Folder, LIMIT, Process, binary, skipped};

/// Calls what the script registered, like bash when Tab is pressed behind the last of `$@`.
const BASH: &str = r#"
source <("$0" completions bash)
function=$(complete -p gannet | sed 's/.*-F \([^ ]*\).*/\1/')
COMP_WORDS=(gannet "$@") COMP_CWORD=$# COMP_TYPE=9
compopt() { echo "[$1 $2]"; }
"$function" gannet "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
printf '%s\n' "${COMPREPLY[@]}"
"#;

/// In zsh words are described to the completion system, which exists in a terminal only.
const ZSH: &str = r#"
compdef() { function=$1 }
_describe() { print -rl -- "${(@P)argv[-1]}" }
source <("$0" completions zsh)
words=(gannet "$@") CURRENT=$(($# + 1))
$function
"#;

const FISH: &str = r#"
$argv[1] completions fish | source
complete --do-complete (string join -- ' ' gannet $argv[2..])
"#;

/// What `shell` offers behind `words`, each line up to its description.
async fn offers(shell: &str, words: &[&str], env: &[(String, String)], folder: &Path) -> Result<Vec<String>> {
    let gannet = binary("gannet")?;
    let mut command = Command::new(shell);
    match shell {
        "bash" => command.args(["--norc", "-c", BASH]),
        "zsh" => command.args(["--no-rcs", "-c", ZSH]),
        _ => command.args(["--no-config", "-c", FISH]),
    };
    command.arg(&gannet).args(words);
    let mut process = Process::spawn(shell, &mut command, env, folder)?;
    process.wait(LIMIT).await?;
    ensure!(process.stderr().is_empty(), "{shell} shows on the prompt: {}", process.stderr());
    let lines = process.stdout();
    let value = |line: &str| line.split(['\t', ':']).next().unwrap_or_default().to_owned();
    Ok(lines.lines().map(value).filter(|value| !value.is_empty()).collect())
}

fn is_installed(shell: &str) -> bool {
    Command::new(shell).arg("--version").output().is_ok()
}

fn object(folder: &Folder, key: &str) -> Result<()> {
    let file = folder.path().join(".gannet/store").join(key);
    std::fs::create_dir_all(file.parent().expect("a key has parts"))?;
    Ok(std::fs::write(file, "{}")?)
}

/// Two runs with trials, one that was deleted, two models.
fn store(folder: &Folder) -> Result<()> {
    for key in [
        "runs/night-1/run.json",
        "runs/night-1/results/t0000.json",
        "runs/night-1/results/t0001.json",
        "runs/night-1/results/test-t0001.json",
        "runs/night-2/run.json",
        "runs/night-2/cancelled",
        "runs/night-0/cancelled",
        "models/digits/pointer/000001.json",
        "models/squeezenet/pointer/000001.json",
        "models/squeezenet/bb615dbbcf17061ba8af06460daf66d3663e2751d2241a98e26e0ffb04e391d6/model.json",
        "models/spoilt/bb615dbbcf17061ba8af06460daf66d3663e2751d2241a98e26e0ffb04e391d6/model.safetensors",
    ] {
        object(folder, key)?;
    }
    Ok(())
}

async fn names_are_completed_in(test: &str, shell: &str) {
    if !is_installed(shell) {
        return skipped(test, &format!("{shell} is not installed"));
    }
    Folder::run(async |folder| {
        store(folder)?;
        for (words, expected) in [
            (vec!["results", "ni"], vec!["night-1", "night-2"]),
            (vec!["run", "delete", "night-1"], vec!["night-1"]),
            (vec!["model", "promote", "night-1/"], vec!["night-1/t0000", "night-1/t0001"]),
            (vec!["model", "promote", "night-1", "d"], vec!["digits"]),
            (vec!["classify", "a.png", "--model", "s"], vec!["squeezenet"]),
            (vec!["model", "promote", "squeezenet@b"], vec!["squeezenet@bb615dbbcf17"]),
            (vec!["tune", "study.toml", "--run", "n"], vec!["night-1", "night-2"]),
            (vec!["results", "night-1", "--form"], vec!["--format"]),
            (vec!["comp"], vec!["completions"]),
            (vec!["results", "zebra"], vec![]),
        ] {
            let offered = offers(shell, &words, &[], folder.path()).await?;
            ensure!(offered == expected, "{shell} offers {offered:?} behind {words:?}, not {expected:?}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn names_are_completed_in_bash() {
    names_are_completed_in("names_are_completed_in_bash", "bash").await;
}

#[tokio::test]
async fn names_are_completed_in_zsh() {
    names_are_completed_in("names_are_completed_in_zsh", "zsh").await;
}

#[tokio::test]
async fn names_are_completed_in_fish() {
    names_are_completed_in("names_are_completed_in_fish", "fish").await;
}

#[tokio::test]
async fn bash_splits_an_option_from_its_value_and_quotes_files() {
    Folder::run(async |folder| {
        store(folder)?;
        let offered = offers("bash", &["classify", "--model", "=", "s"], &[], folder.path()).await?;
        ensure!(offered == ["squeezenet"], "{offered:?}");
        let offered = offers("bash", &["classify", "--model", "="], &[], folder.path()).await?;
        ensure!(offered == ["digits", "squeezenet"], "{offered:?}");
        std::fs::create_dir_all(folder.path().join("my photos"))?;
        let offered = offers("bash", &["classify", "my"], &[], folder.path()).await?;
        ensure!(offered == ["[-o nospace]", "[-o filenames]", "my photos/"], "{offered:?}");
        let offered = offers("bash", &["classify", r"my\ ph"], &[], folder.path()).await?;
        ensure!(offered == ["[-o nospace]", "[-o filenames]", "my photos/"], "{offered:?}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_store_that_cannot_be_asked_gives_no_names_and_no_noise() {
    Folder::run(async |folder| {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let silent = format!("http://{}", listener.local_addr()?);
        let closed = "http://127.0.0.1:1".to_owned();
        let s3 = |endpoint: &str| {
            let pairs = [("GANNET_STORE", "s3://bucket"), ("GANNET_S3_ENDPOINT", endpoint), ("GANNET_LOG", "trace")];
            let keys = [("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")];
            pairs.into_iter().chain(keys).map(|(name, value)| (name.to_owned(), value.to_owned())).collect::<Vec<_>>()
        };
        let wrong = vec![("GANNET_STORE".to_owned(), "bucket".to_owned())];
        for env in [Vec::new(), wrong, s3(&closed), s3(&silent)] {
            let began = Instant::now();
            let offered = offers("bash", &["results", "n"], &env, folder.path()).await?;
            ensure!(offered.is_empty(), "{offered:?} with {env:?}");
            // One second by intent; the rest is for a busy machine. The store's own patience is minutes.
            ensure!(began.elapsed() < Duration::from_secs(20), "the shell hung for {:?}", began.elapsed());
        }
        ensure!(!folder.path().join(".gannet").exists(), "pressing Tab makes no folder");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn names_are_completed_from_s3() {
    Fleet::run("names_are_completed_from_s3", async |fleet| {
        let dataset = fleet.push_pictures().await?;
        fleet.write("job.json", &tests::studies::job("t0000", "by-hand", &dataset).to_string())?;
        let _worker = fleet.worker("one")?;
        fleet.gannet(&["submit", "job.json", "--wait"]).await?;
        let offered = offers("bash", &["results", ""], &fleet.env(), fleet.path()).await?;
        ensure!(offered.iter().any(|name| name == "by-hand"), "{offered:?}");
        let offered = offers("bash", &["model", "promote", "by-hand/"], &fleet.env(), fleet.path()).await?;
        ensure!(offered == ["by-hand/t0000"], "{offered:?}");
        Ok(())
    })
    .await;
}
