//! The suite over an engine that is not one: it keeps containers in a list, and answers as Docker's does. With a real one
//! in `GANNET_TEST_DOCKER_HOST` and an image in `GANNET_TEST_DOCKER_IMAGE`, over that, too.

use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::super::suite::{self, Place};
use super::*;

/// Containers: what each was made of, and its state.
#[derive(Default)]
struct Engine(Mutex<Vec<(Value, String, i64)>>);

impl Engine {
    fn start(socket: &Path) -> Arc<Self> {
        let engine = Arc::new(Self::default());
        let listener = UnixListener::bind(socket).expect("a socket");
        let shared = Arc::clone(&engine);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(Arc::clone(&shared).converse(stream));
            }
        });
        engine
    }

    /// One request a connection.
    async fn converse(self: Arc<Self>, stream: UnixStream) {
        let mut stream = BufReader::new(stream);
        let (mut request, mut length) = (String::new(), 0);
        stream.read_line(&mut request).await.expect("a request");
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).await.expect("a header");
            if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().expect("a length");
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.expect("a body");
        let mut words = request.split_whitespace();
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, answer) = self.answer(method, target, &body);
        let text = if answer.is_null() { String::new() } else { answer.to_string() };
        let head = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
            text.len()
        );
        let _ = stream.write_all(format!("{head}{text}").as_bytes()).await;
    }

    fn answer(&self, method: &str, target: &str, body: &[u8]) -> (u16, Value) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        // A version stands before the path, once it was negotiated.
        let path = path.trim_start_matches('/');
        let path = if path.starts_with("v1.") { path.split_once('/').map_or("", |(_, rest)| rest) } else { path };
        let parts: Vec<&str> = path.split('/').collect();
        let mut containers = self.0.lock().expect("no panic holds it");
        match (method, parts.as_slice()) {
            (_, ["version"]) => (200, json!({"ApiVersion": "1.43", "MinAPIVersion": "1.24"})),
            ("POST", ["containers", "create"]) => {
                let mut made: Value = serde_json::from_slice(body).expect("JSON");
                if made["Image"] == "not-there" {
                    return (404, json!({"message": "No such image: not-there"}));
                }
                let name = query.split('&').find_map(|pair| pair.strip_prefix("name=")).expect("a name").to_owned();
                made["Name"] = name.clone().into();
                containers.push((made, "created".into(), 0));
                (201, json!({"Id": format!("id-{name}"), "Warnings": []}))
            }
            ("GET", ["containers", "json"]) => {
                let ours = |made: &Value| {
                    let labels = made["Labels"].as_object().expect("labels");
                    let owner = labels[OWNER].as_str().expect("an owner");
                    query.contains(&owner.replace('@', "%40").replace('/', "%2F"))
                };
                let listed = containers.iter().filter(|(made, _, _)| ours(made)).map(|(made, state, _)| {
                    let name = made["Name"].as_str().expect("a name");
                    json!({"Id": format!("id-{name}"), "Names": [format!("/{name}")], "Labels": made["Labels"], "State": state})
                });
                (200, listed.collect())
            }
            (method, ["containers", id, rest @ ..]) => {
                let of = |made: &Value| made["Name"].as_str().map(|name| format!("id-{name}")).as_deref() == Some(*id);
                let Some(at) = containers.iter().position(|(made, _, _)| of(made)) else {
                    return (404, json!({"message": "No such container"}));
                };
                let runs = containers[at].1 == "running";
                match (method, rest) {
                    ("POST", ["start"]) => containers[at].1 = "running".into(),
                    ("POST", ["kill"]) if !runs => return (409, json!({"message": "it is not running"})),
                    ("POST", ["kill"]) => {
                        let code = if query.contains("SIGKILL") { 137 } else { 0 };
                        containers[at].1 = "exited".into();
                        containers[at].2 = code;
                    }
                    ("DELETE", []) if runs => return (409, json!({"message": "stop it first"})),
                    ("DELETE", []) => drop(containers.remove(at)),
                    ("GET", ["json"]) => {
                        let state = json!({"ExitCode": containers[at].2, "OOMKilled": false});
                        return (200, json!({"Id": id, "State": state}));
                    }
                    other => return (500, json!({"message": format!("{other:?} is not known")})),
                }
                (204, Value::Null)
            }
            other => (500, json!({"message": format!("{other:?} is not known")})),
        }
    }
}

struct Somewhere {
    socket: String,
    image: String,
    tail: String,
}

impl Somewhere {
    async fn with(&self, owner: &str, image: &str) -> Containered {
        let containers = Containers {
            image: image.into(),
            volumes: vec!["cache:/cache".into()],
            stop_grace: Duration::from_secs(60),
            ..Containers::default()
        };
        let launch = Launch { slots: 2, memory: Some(64 << 20), cpus: Some(0.5), ..Launch::default() };
        let pools = BTreeMap::from([("pool".into(), launch)]);
        let owner = format!("{owner}-{}", self.tail);
        Containered::new(&self.socket, owner, containers, pools).await.expect("an engine")
    }
}

impl Place for Somewhere {
    async fn open(&self) -> Box<dyn Backend> {
        Box::new(self.with("ours", &self.image).await)
    }

    async fn listens(&self, _worker: &str) {}

    async fn open_stranger(&self) -> Box<dyn Backend> {
        Box::new(self.with("theirs", &self.image).await)
    }
}

fn place(folder: &Path) -> Somewhere {
    Somewhere {
        socket: format!("unix://{}", folder.join("docker.sock").display()),
        image: "gannet-worker".into(),
        tail: std::process::id().to_string(),
    }
}

#[tokio::test]
async fn containers_are_a_backend() {
    let folder = tempfile::tempdir().expect("a folder");
    let _engine = Engine::start(&folder.path().join("docker.sock"));
    suite::check(&place(folder.path())).await;
}

#[tokio::test]
async fn containers_of_a_real_engine_are_a_backend() {
    let set = |name: &str| std::env::var(name).ok();
    let (Some(socket), Some(image)) = (set("GANNET_TEST_DOCKER_HOST"), set("GANNET_TEST_DOCKER_IMAGE")) else {
        eprintln!(
            "SKIPPED containers_of_a_real_engine_are_a_backend: GANNET_TEST_DOCKER_HOST and GANNET_TEST_DOCKER_IMAGE name no engine and image"
        );
        return;
    };
    suite::check(&Somewhere { socket, image, tail: std::process::id().to_string() }).await;
}

#[tokio::test]
async fn a_container_can_do_little_and_belongs_to_its_pool() {
    let folder = tempfile::tempdir().expect("a folder");
    let engine = Engine::start(&folder.path().join("docker.sock"));
    let place = place(folder.path());
    let mut backend = place.with("ours", "gannet-worker").await;
    backend.containers.network = Some("fleet".into());
    backend.start("pool", "one", &[Kind::Batch, Kind::Trial]).await.expect("a start");
    let made = engine.0.lock().expect("no panic holds it")[0].0.clone();
    let host = &made["HostConfig"];
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["CapDrop"], json!(["ALL"]));
    assert_eq!(host["SecurityOpt"], json!(["no-new-privileges:true"]));
    assert_eq!((&host["Memory"], &host["NanoCpus"]), (&json!(64 << 20), &json!(500_000_000)));
    assert_eq!(made["Labels"][POOL], "pool");
    let env: Vec<&str> = made["Env"].as_array().expect("variables").iter().filter_map(Value::as_str).collect();
    assert_eq!(env, ["GANNET_KINDS=batch,trial", "GANNET_SLOTS=2", "GANNET_WORKER_NAME=one"]);
    assert_eq!(made["NetworkingConfig"]["EndpointsConfig"]["fleet"]["Aliases"], json!([ALIAS]));
    // The engine refuses names on its own networks.
    backend.containers.network = Some("host".into());
    let body = backend.body("pool", &Launch::default(), "two", &[Kind::Trial]).expect("a body");
    assert_eq!(body.networking_config, None);

    let error = place.with("ours", "not-there").await.start("pool", "two", &[Kind::Trial]).await.expect_err("no image");
    let error = format!("{error:#}");
    assert!(error.contains("docker pull") && error.contains("No such image"), "{error}");
}
