//! Gathers what the audit looks at, from the store and from the broker.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;
use shared::digest::Digest;

use super::audit::{Evidence, job_of_letter};
use super::producer::{Wave, is_cancelled};
use crate::{Amqp, Fleet};

/// Queues that are empty when nothing is left to do.
const QUEUES: [&str; 6] = ["trials", "batches", "retry.5s", "retry.30s", "retry.2m", "retry.10m"];

/// Reads the results of `waves`, everything that the broker was told, and the dead letters, which are taken out.
///
/// # Errors
/// The broker or the store's folder cannot be read.
pub(super) async fn gather(fleet: &Fleet, amqp: &Amqp, waves: &[Wave]) -> Result<Evidence> {
    let mut found = Evidence { left: left(amqp).await?, ..Evidence::default() };
    for wave in waves {
        found.stored.extend(fleet.results(&wave.run)?);
        if is_cancelled(fleet, &wave.run)? {
            found.cancelled_runs.insert(wave.run.clone());
        }
    }
    let told = json(&amqp.take_all("gannet.v1.results").await?)?;
    // The quiet run was told to the same queue.
    found.told = told.into_iter().filter(|result| result["run"] != "quiet").collect();
    let dead = json(&amqp.take_all("gannet.v1.dead").await?)?;
    found.dead = dead.into_iter().filter(|letter| job_of_letter(letter)["run"] != "quiet").collect();
    let keys = found.stored.iter().filter_map(|result| result["outcome"]["trial"]["checkpoint"]["key"].as_str());
    let digest = |key: &str| (key.to_owned(), fleet.object(key).ok().map(|bytes| Digest::of(&bytes).to_string()));
    found.networks = keys.map(digest).collect();
    Ok(found)
}

/// Messages that wait, by queue.
///
/// # Errors
/// The broker cannot be asked.
pub(super) async fn left(amqp: &Amqp) -> Result<BTreeMap<String, u32>> {
    let mut left = BTreeMap::new();
    for queue in QUEUES {
        left.insert(queue.to_owned(), amqp.ready(&format!("gannet.v1.{queue}")).await?);
    }
    Ok(left)
}

fn json(messages: &[Vec<u8>]) -> Result<Vec<Value>> {
    messages.iter().map(|message| serde_json::from_slice(message).context("read a message as JSON")).collect()
}
