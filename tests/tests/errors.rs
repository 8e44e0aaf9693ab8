//! What bad input gets: nothing is enqueued, standard output stays empty, and the message says what to do.

use anyhow::{Result, ensure};
use tests::{Folder, LIMIT, Process, studies};

/// Runs a program that must fail without printing anything, and returns what it said.
async fn refused(folder: &Folder, program: &str, args: &[&str], env: &[(&str, &str)]) -> Result<String> {
    let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut process = Process::start("refused", program, args, &env, folder.path())?;
    let status = process.wait(LIMIT).await?;
    ensure!(!status.success(), "{program} {args:?} must fail");
    ensure!(status.code().is_some_and(|code| code != 101), "{program} {args:?} panicked: {}", process.stderr());
    ensure!(process.stdout().is_empty(), "nothing belongs on stdout: {}", process.stdout());
    Ok(process.stderr())
}

fn says(message: &str, words: &[&str]) -> Result<()> {
    for word in words {
        ensure!(message.contains(word), "the message must name `{word}`:\n{message}");
    }
    Ok(())
}

#[tokio::test]
async fn a_study_with_a_misspelt_key_is_refused_with_the_right_one() {
    Folder::run(async |folder| {
        let study = studies::quick().replace("batch_size", "batch_sise");
        std::fs::write(folder.path().join("bad.toml"), study)?;
        let message = refused(folder, "gannet", &["tune", "bad.toml"], &[]).await?;
        says(&message, &["bad.toml", "batch_sise", "did you mean `batch_size`"])?;
        ensure!(!folder.path().join(".gannet/queue.sqlite").exists(), "nothing is enqueued");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_study_with_a_value_out_of_range_is_refused_with_what_is_accepted() {
    Folder::run(async |folder| {
        std::fs::write(folder.path().join("bad.toml"), studies::quick().replace("epochs = 3", "epochs = 0"))?;
        let message = refused(folder, "gannet", &["tune", "bad.toml"], &[]).await?;
        says(&message, &["bad.toml", "epochs", "0", "1 to 100000"])
    })
    .await;
}

#[tokio::test]
async fn a_study_that_is_not_there_is_named() {
    Folder::run(async |folder| {
        let message = refused(folder, "gannet", &["tune", "missing.toml"], &[]).await?;
        says(&message, &["missing.toml"])
    })
    .await;
}

#[tokio::test]
async fn a_wrong_variable_is_named_with_an_accepted_value() {
    Folder::run(async |folder| {
        std::fs::write(folder.path().join("study.toml"), studies::quick())?;
        for (variable, value, accepted) in
            [("GANNET_AMQP_URL", "localhost:5672", "amqp://"), ("GANNET_STORE", "bucket", "s3://bucket")]
        {
            let message = refused(folder, "gannet", &["tune", "study.toml"], &[(variable, value)]).await?;
            says(&message, &[variable, value, accepted])?;
            let message = refused(folder, "gannet-worker", &[], &[(variable, value)]).await?;
            says(&message, &[variable, value, accepted])?;
        }
        let message = refused(folder, "gannet-worker", &[], &[("GANNET_SLOTS", "many")]).await?;
        says(&message, &["GANNET_SLOTS", "many"])
    })
    .await;
}

#[tokio::test]
async fn a_misspelt_variable_is_told_once_and_nothing_else_changes() {
    Folder::run(async |folder| {
        let env = [("GANNET_STOER".to_owned(), "s3://bucket".to_owned())];
        for (program, args) in [("gannet", &["run", "list"][..]), ("gannet-worker", &["--version"])] {
            let mut process = Process::start("misspelt", program, args, &env, folder.path())?;
            ensure!(process.wait(LIMIT).await?.success(), "{program} goes on: {}", process.stderr());
            let said = process.stderr();
            says(&said, &[program, "GANNET_STOER", "did you mean GANNET_STORE?"])?;
            ensure!(said.matches("GANNET_STOER").count() == 1, "once is enough:\n{said}");
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn without_a_broker_a_command_says_where_it_looked_and_how_to_start_one() {
    Folder::run(async |folder| {
        std::fs::write(folder.path().join("study.toml"), studies::quick())?;
        let store = format!("file://{}", folder.path().join("store").display());
        // Port 1 (tcpmux) is free on every machine that people use.
        let env = [("GANNET_AMQP_URL", "amqp://somebody:secret@127.0.0.1:1/%2f"), ("GANNET_STORE", store.as_str())];
        let message = refused(folder, "gannet", &["tune", "study.toml"], &env).await?;
        says(&message, &["127.0.0.1:1", "rabbitmq"])?;
        ensure!(!message.contains("secret"), "a password is never shown:\n{message}");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_misspelt_command_gets_a_hint() {
    Folder::run(async |folder| {
        let message = refused(folder, "gannet", &["tuen", "study.toml"], &[]).await?;
        says(&message, &["tuen", "tune"])
    })
    .await;
}
