//! What is said of containers.

use std::path::PathBuf;

use anyhow::{Context as _, bail};

use crate::autoscale::backend::Launch;
use crate::autoscale::backend::docker::Containers;

/// How containers of workers are made. Each has a root file system that is read only, `/tmp` in memory, no capabilities, and
/// no way to new privileges.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "With --docker")]
pub(super) struct DockerArguments {
    /// The engine
    #[arg(long, env = "DOCKER_HOST", value_name = "ADDRESS", default_value = "unix:///var/run/docker.sock")]
    docker_host: String,
    /// The workers' image
    #[arg(long, default_value = "gannet-worker")]
    image: String,
    /// The network that they join, where `worker` is a name of each [default: the engine's]
    #[arg(long)]
    network: Option<String>,
    /// A volume or a folder, NAME:/path or /folder:/path, with `:ro` to be read only; again for more
    #[arg(long, value_name = "VOLUME")]
    volume: Vec<String>,
    /// A file of the workers' variables, NAME=VALUE a line
    #[arg(long, value_name = "FILE")]
    env_file: Option<PathBuf>,
    /// The user that they run as [default: the image's]
    #[arg(long)]
    user: Option<String>,
    /// The container runtime, like `nvidia` [default: the engine's]
    #[arg(long)]
    runtime: Option<String>,
    /// NVIDIA's GPUs: `all` or their numbers
    #[arg(long)]
    gpus: Option<String>,
    /// Memory of a worker, in MiB
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(16..1 << 30))]
    memory_mib: Option<u64>,
    /// Processors of a worker, like 1.5
    #[arg(long, value_name = "N")]
    cpus: Option<f64>,
    /// How long a container may take to end when somebody else stops it
    #[arg(long, value_name = "TIME", default_value = "60s")]
    stop_grace: humantime::Duration,
}

impl DockerArguments {
    /// The engine, and what all containers share.
    pub(super) fn read(&self) -> anyhow::Result<(String, Containers)> {
        for volume in &self.volume {
            let is_one = volume.split(':').nth(1).is_some_and(|path| path.starts_with('/'));
            if !is_one {
                bail!("--volume {volume}: NAME:/path or /folder:/path is accepted, with :ro to be read only");
            }
        }
        let containers = Containers {
            image: self.image.clone(),
            network: self.network.clone(),
            volumes: self.volume.clone(),
            user: self.user.clone(),
            runtime: self.runtime.clone(),
            stop_grace: self.stop_grace.into(),
        };
        Ok((self.docker_host.clone(), containers))
    }

    /// What every pool has unless it says otherwise.
    pub(super) fn fill(&self, launch: &mut Launch) -> anyhow::Result<()> {
        launch.gpus.clone_from(&self.gpus);
        launch.memory = self.memory_mib.map(|mib| mib << 20);
        launch.cpus = self.cpus;
        let Some(file) = &self.env_file else { return Ok(()) };
        let text =
            std::fs::read_to_string(file).with_context(|| format!("read the variables of `{}`", file.display()))?;
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            // The line itself may hold a secret.
            let Some((name, value)) = line.split_once('=').filter(|(name, _)| !name.is_empty()) else {
                bail!("line {} of `{}` is no variable: NAME=VALUE is accepted", number + 1, file.display());
            };
            // What stands on the command line counts more.
            launch.env.entry(name.trim().into()).or_insert_with(|| value.to_owned());
        }
        Ok(())
    }
}
