//! The sample files in `infra/` are what the programs accept.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use shared::settings::{COMPOSE_VARIABLES, Places, QueuePlace, StorePlace, VARIABLES};
use tests::{Folder, LIMIT, Process};

/// `NAME=value` lines; those that are commented out too when `all`.
fn variables(all: bool) -> BTreeMap<&'static str, &'static str> {
    let sample = include_str!("../../infra/worker.env.sample");
    let line = |line: &'static str| {
        let line = if all { line.strip_prefix('#').unwrap_or(line) } else { line };
        line.split_once('=')
            .filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
    };
    sample.lines().filter_map(line).collect()
}

#[test]
fn the_workers_sample_is_a_fleet() -> Result<()> {
    for all in [false, true] {
        let variables = variables(all);
        // The same from a file, which is not here.
        let set = |name: &str| variables.get(name).filter(|_| !name.ends_with("_FILE"));
        let places = Places::read(&|name| set(name).map(|value| (*value).to_owned()))?;
        ensure!(matches!(places.queue, QueuePlace::Amqp(_)), "{places:?}");
        ensure!(matches!(places.store, StorePlace::S3 { .. }), "{places:?}");
    }
    Ok(())
}

#[test]
fn the_workers_sample_names_each_variable_of_the_compose_file() -> Result<()> {
    let documented = variables(true);
    let compose =
        [include_str!("../../infra/docker-compose.yml"), include_str!("../../infra/docker-compose.tls.yml")].concat();
    let words = compose.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    for name in words.filter(|word| word.starts_with("GANNET_") || word.starts_with("AWS_")) {
        let of_compose = COMPOSE_VARIABLES.contains(&name);
        ensure!(
            of_compose || documented.contains_key(name),
            "{name} stands in docker-compose.yml and not in worker.env.sample"
        );
    }
    Ok(())
}

#[tokio::test]
async fn the_workers_sample_names_each_variable_of_its_help() {
    Folder::run(async |folder| {
        let help = Process::start("help", "gannet-worker", &["--help"], &[], folder.path())?.succeed(LIMIT).await?;
        let documented = variables(true);
        let named: Vec<&str> = help.split("[env: ").skip(1).filter_map(|rest| rest.split('=').next()).collect();
        ensure!(!named.is_empty(), "the help names variables:\n{help}");
        for name in &named {
            ensure!(documented.contains_key(name), "{name} stands in the worker's help and not in worker.env.sample");
        }
        for name in named.iter().chain(documented.keys()).filter(|name| name.starts_with("GANNET_")) {
            ensure!(VARIABLES.contains(name), "{name} is read and would be told to be misspelt");
        }
        Ok(())
    })
    .await;
}
