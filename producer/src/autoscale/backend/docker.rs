//! Workers as containers, through the Docker Engine's API on its unix socket. A label says which are ours: no other
//! container is ever touched. An autoscaler that starts again finds those that its name started.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use bollard::models::{
    ContainerCreateBody, ContainerSummary, ContainerSummaryStateEnum, DeviceRequest, EndpointSettings, HostConfig,
    NetworkingConfig,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder,
};
use bollard::{API_DEFAULT_VERSION, Docker};
use shared::contract::Kind;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::{Backend, Launch};
use crate::autoscale::policy::{Member, State};

/// Whose container it is.
const OWNER: &str = "gannet.autoscaler";
/// Which pool's.
const POOL: &str = "gannet.pool";
/// What all are called on their network: who looks the name up finds each, as those of Compose's service of this name.
const ALIAS: &str = "worker";
/// An answer of the engine takes milliseconds, the start of a container a second.
const ANSWER_LIMIT_S: u64 = 30;
/// Who has done nothing asks the engine only so often: each question is a connection, and a list of all containers.
const LIST_EVERY: Duration = Duration::from_secs(1);

/// What all containers of an autoscaler share.
#[derive(Clone, Default)]
pub struct Containers {
    /// The image, unless a pool has its own.
    pub image: String,
    /// The network that they join.
    pub network: Option<String>,
    /// `NAME:/path`, `/host/path:/path` or either with `:ro`.
    pub volumes: Vec<String>,
    /// The user that they run as, unless the image's.
    pub user: Option<String>,
    /// The runtime, like `nvidia`, unless the engine's own.
    pub runtime: Option<String>,
    /// How long a container has to end, for whoever else stops it.
    pub stop_grace: Duration,
}

/// Starts containers.
pub struct Containered {
    docker: Docker,
    socket: String,
    owner: String,
    containers: Containers,
    pools: BTreeMap<String, Launch>,
    /// The last list, unless something was done since. Held while the engine is asked.
    listed: Mutex<Option<(Instant, Vec<Member>)>>,
}

impl Containered {
    /// Containers on the engine behind `socket`, like `unix:///var/run/docker.sock`, labelled as those of `owner`.
    ///
    /// # Errors
    /// There is no such socket, or no engine answers there.
    pub async fn new(
        socket: &str,
        owner: String,
        containers: Containers,
        pools: BTreeMap<String, Launch>,
    ) -> anyhow::Result<Self> {
        if !socket.starts_with("unix://") {
            bail!(
                "the engine's address is `{socket}`: one like unix:///var/run/docker.sock is accepted (--docker-host, DOCKER_HOST)"
            );
        }
        let hint = || format!("reach the Docker engine at {socket} (does it run, and may this user use its socket?)");
        let docker = Docker::connect_with_unix(socket, ANSWER_LIMIT_S, API_DEFAULT_VERSION).with_context(hint)?;
        // An engine that is older than this client is spoken to as it can.
        let docker = docker.negotiate_version().await.with_context(hint)?;
        Ok(Self { docker, socket: socket.into(), owner, containers, pools, listed: Mutex::new(None) })
    }

    async fn forget_list(&self) {
        *self.listed.lock().await = None;
    }

    async fn list(&self) -> anyhow::Result<Vec<ContainerSummary>> {
        let filters = HashMap::from([("label", vec![format!("{OWNER}={}", self.owner)])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        self.docker.list_containers(Some(options)).await.context("list the containers")
    }

    /// The id of a worker's container, if it is ours.
    async fn id(&self, worker: &str) -> anyhow::Result<Option<String>> {
        let ours = self.list().await?;
        Ok(ours
            .into_iter()
            .find(|container| name(container).as_deref() == Some(worker))
            .and_then(|container| container.id))
    }

    async fn state(&self, container: &ContainerSummary) -> anyhow::Result<State> {
        use ContainerSummaryStateEnum::{CREATED, DEAD, EXITED};
        if container.state == Some(CREATED) {
            // Whoever made it died before it was started.
            return Ok(State::Ended { well: true, how: "it was never started".into() });
        }
        if !matches!(container.state, Some(EXITED | DEAD)) {
            return Ok(State::Runs);
        }
        let id = container.id.as_deref().context("a container has an id")?;
        let seen = self.docker.inspect_container(id, None).await.context("look at a container that has ended")?;
        let state = seen.state.unwrap_or_default();
        let code = state.exit_code.unwrap_or(-1);
        let killed = if state.oom_killed == Some(true) { ", for lack of memory" } else { "" };
        Ok(State::Ended { well: code == 0, how: format!("exit code {code}{killed}") })
    }

    async fn signal(&self, worker: &str, signal: &str) -> anyhow::Result<()> {
        self.forget_list().await;
        let Some(id) = self.id(worker).await? else { return Ok(()) };
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        match self.docker.kill_container(&id, Some(options)).await {
            // 404: gone; 409: it does not run.
            Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
            sent => sent.with_context(|| format!("send {signal} to {worker}")),
        }
    }

    fn body(&self, pool: &str, launch: &Launch, worker: &str, kinds: &[Kind]) -> anyhow::Result<ContainerCreateBody> {
        let shared = &self.containers;
        let env = launch.variables(worker, kinds).into_iter().map(|(variable, value)| format!("{variable}={value}"));
        let gpus = launch.gpus.as_ref().map(|gpus| {
            let numbers = (gpus != "all").then(|| gpus.split(',').map(str::to_owned).collect());
            vec![DeviceRequest {
                driver: Some("nvidia".into()),
                count: numbers.is_none().then_some(-1),
                device_ids: numbers,
                capabilities: Some(vec![vec!["gpu".into()]]),
                options: None,
            }]
        });
        let networking = shared.network.as_deref().filter(|network| has_names(network)).map(|network| {
            let endpoint = EndpointSettings { aliases: Some(vec![ALIAS.into()]), ..EndpointSettings::default() };
            NetworkingConfig { endpoints_config: Some(HashMap::from([(network.into(), endpoint)])) }
        });
        let host = HostConfig {
            binds: Some(shared.volumes.clone()),
            network_mode: shared.network.clone(),
            runtime: shared.runtime.clone(),
            memory: launch.memory.map(i64::try_from).transpose().context("read the memory limit")?,
            // Without this as much again may be swapped.
            memory_swap: launch.memory.map(i64::try_from).transpose().context("read the memory limit")?,
            nano_cpus: launch.cpus.map(|cpus| (cpus * 1e9) as i64),
            device_requests: gpus,
            readonly_rootfs: Some(true),
            tmpfs: Some(HashMap::from([("/tmp".into(), String::new())])),
            security_opt: Some(vec!["no-new-privileges:true".into()]),
            cap_drop: Some(vec!["ALL".into()]),
            ..HostConfig::default()
        };
        Ok(ContainerCreateBody {
            image: Some(launch.image.clone().unwrap_or_else(|| shared.image.clone())),
            user: shared.user.clone(),
            env: Some(env.collect()),
            labels: Some(HashMap::from([(OWNER.into(), self.owner.clone()), (POOL.into(), pool.into())])),
            stop_timeout: Some(shared.stop_grace.as_secs().try_into().unwrap_or(i64::MAX)),
            host_config: Some(host),
            networking_config: networking,
            ..ContainerCreateBody::default()
        })
    }
}

#[async_trait]
impl Backend for Containered {
    fn place(&self) -> String {
        format!("containers of {}", self.socket)
    }

    async fn members(&self) -> anyhow::Result<Vec<Member>> {
        let mut listed = self.listed.lock().await;
        if let Some((at, members)) = listed.as_ref()
            && at.elapsed() < LIST_EVERY
        {
            return Ok(members.clone());
        }
        let mut members = Vec::new();
        for container in self.list().await? {
            let labels = container.labels.as_ref();
            let pool = labels.and_then(|labels| labels.get(POOL)).cloned().unwrap_or_default();
            let Some(name) = name(&container) else { continue };
            let state = self.state(&container).await?;
            members.push(Member { name, pool, state });
        }
        *listed = Some((Instant::now(), members.clone()));
        Ok(members)
    }

    async fn start(&self, pool: &str, worker: &str, kinds: &[Kind]) -> anyhow::Result<()> {
        let launch = self.pools.get(pool).with_context(|| format!("find the pool {pool}"))?;
        let body = self.body(pool, launch, worker, kinds)?;
        let image = body.image.clone().unwrap_or_default();
        let options = CreateContainerOptionsBuilder::new().name(worker).build();
        let created = self.docker.create_container(Some(options), body).await;
        let created = created.with_context(|| {
            format!("create a container of `{image}` (is the image there? `docker pull` or `docker build` it, or name another with --image)")
        })?;
        let started = self.docker.start_container(&created.id, None).await;
        self.forget_list().await;
        if let Err(error) = started {
            let forced = RemoveContainerOptionsBuilder::new().force(true).build();
            if let Err(error) = self.docker.remove_container(&created.id, Some(forced)).await {
                tracing::warn!(worker, %error, "a container that did not start is left");
            }
            return Err(error).with_context(|| format!("start a container of `{image}`"));
        }
        Ok(())
    }

    async fn stop(&self, worker: &str) -> anyhow::Result<()> {
        self.signal(worker, "SIGTERM").await
    }

    async fn kill(&self, worker: &str) -> anyhow::Result<()> {
        self.signal(worker, "SIGKILL").await
    }

    async fn remove(&self, worker: &str) -> anyhow::Result<()> {
        self.forget_list().await;
        let Some(id) = self.id(worker).await? else { return Ok(()) };
        // Its anonymous volumes go, too. Not by force: what runs is not removed.
        let options = RemoveContainerOptionsBuilder::new().v(true).build();
        match self.docker.remove_container(&id, Some(options)).await {
            Err(error) if status(&error) == Some(404) => Ok(()),
            removed => removed.with_context(|| format!("remove the container {worker}")),
        }
    }
}

/// Whether containers may have names of their own there: on the engine's own networks it refuses them.
fn has_names(network: &str) -> bool {
    !matches!(network, "bridge" | "default" | "host" | "none") && !network.starts_with("container:")
}

/// A container's name as it was given: lists have a slash before it.
fn name(container: &ContainerSummary) -> Option<String> {
    Some(container.names.as_ref()?.first()?.trim_start_matches('/').to_owned())
}

fn status(error: &bollard::errors::Error) -> Option<u16> {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
