//! What starts and ends workers. Decides nothing.
//!
//! Two of them, [`processes`] of this machine and [`docker`], pass one suite (`suite`, compiled for tests).

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use shared::contract::Kind;

use super::policy::Member;

pub mod docker;
pub mod processes;
#[cfg(test)]
mod suite;

/// Starts and ends workers, and knows which are ours, also those that an earlier autoscaler of the same name left. Never
/// touches one that is not.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Where workers run, for people.
    fn place(&self) -> String;

    /// All workers of ours, those that have ended as well until they are removed.
    ///
    /// # Errors
    /// It cannot be found out now.
    async fn members(&self) -> anyhow::Result<Vec<Member>>;

    /// Starts a worker of a pool under a name, which takes these kinds of jobs.
    ///
    /// # Errors
    /// It does not start; nothing of it is left.
    async fn start(&self, pool: &str, worker: &str, kinds: &[Kind]) -> anyhow::Result<()>;

    /// Tells a worker to end in order (SIGTERM); does not wait. One that has ended is no error.
    ///
    /// # Errors
    /// It cannot be told.
    async fn stop(&self, worker: &str) -> anyhow::Result<()>;

    /// Ends a worker at once. One that has ended is no error.
    ///
    /// # Errors
    /// It cannot be ended.
    async fn kill(&self, worker: &str) -> anyhow::Result<()>;

    /// Puts away what is left of a worker that has ended. One that is not there is no error.
    ///
    /// # Errors
    /// Something is left.
    async fn remove(&self, worker: &str) -> anyhow::Result<()>;
}

/// How the workers of a pool are started, whatever starts them.
#[derive(Clone, Default)]
pub struct Launch {
    /// Jobs at once.
    pub slots: u32,
    /// What computes, as `gannet-worker --device` accepts.
    pub device: Option<String>,
    /// More variables. May hold secrets: never shown.
    pub env: BTreeMap<String, String>,
    /// The image, for Docker; its own without.
    pub image: Option<String>,
    /// NVIDIA's GPUs, for Docker: `all` or their numbers.
    pub gpus: Option<String>,
    /// Memory limit in bytes, for Docker.
    pub memory: Option<u64>,
    /// Processors, for Docker.
    pub cpus: Option<f64>,
    /// Workers at most that share the machine's memory with each one; `None` where it has a limit of its own.
    pub workers_here: Option<u32>,
}

impl Launch {
    /// The variables of one worker: the pool's own, and what only the autoscaler can know.
    pub(super) fn variables(&self, worker: &str, kinds: &[Kind]) -> Vec<(String, String)> {
        let mut variables: BTreeMap<String, String> = BTreeMap::new();
        if let Some(workers) = self.workers_here {
            variables.insert("GANNET_WORKERS_HERE".into(), workers.to_string());
        }
        variables.extend(self.env.clone());
        let kinds: Vec<&str> = kinds.iter().map(|kind| kind.as_str()).collect();
        variables.insert("GANNET_WORKER_NAME".into(), worker.into());
        variables.insert("GANNET_KINDS".into(), kinds.join(","));
        variables.insert("GANNET_SLOTS".into(), self.slots.to_string());
        if let Some(device) = &self.device {
            variables.insert("GANNET_DEVICE".into(), device.clone());
        }
        variables.into_iter().collect()
    }
}

impl fmt::Debug for Launch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variables: Vec<&String> = self.env.keys().collect();
        f.debug_struct("Launch").field("image", &self.image).field("variables", &variables).finish_non_exhaustive()
    }
}
