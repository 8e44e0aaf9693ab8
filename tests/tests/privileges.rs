//! Users of least privilege: those of `infra/rabbitmq` and `infra/minio` do all that their programs need, and nothing of the
//! others'.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use lapin::options::{
    BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions, QueueDeclareOptions,
    QueueDeleteOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ErrorKind, ExchangeKind};
use serde_json::{Value, json};
use shared::queue::topology::{Argument, Topology};
use tests::{Fleet, Folder, LIMIT, Process, eventually, json_lines, skipped, studies, write_colour, write_model};

const DEFINITIONS: &str = include_str!("../../infra/rabbitmq/definitions.json");

/// The programs' users on the broker.
const USERS: [&str; 3] = ["producer", "worker", "autoscaler"];

/// The file as `start.sh` leaves it, for a test's virtual host in place of `/`.
fn definitions(vhost: &str) -> Result<String> {
    let text = ["ADMIN", "PRODUCER", "WORKER", "AUTOSCALER"]
        .iter()
        .fold(DEFINITIONS.to_owned(), |text, user| text.replace(&format!("@{user}@"), "for-tests"));
    ensure!(!text.contains('@'), "every password is put in");
    Ok(text
        .replace(r#""vhost": "/""#, &format!(r#""vhost": "{vhost}""#))
        .replace(r#""name": "/""#, &format!(r#""name": "{vhost}""#)))
}

/// Gives the fleet's virtual host these users and all that exists on a broker; returns the address of each user.
fn restrict(fleet: &Fleet) -> Result<impl Fn(&str) -> String + use<>> {
    restrict_to(fleet, "v1")
}

/// The same of a release that speaks another contract.
fn restrict_to(fleet: &Fleet, contract: &str) -> Result<impl Fn(&str) -> String + use<>> {
    let address = fleet.amqp_url();
    let (_, host) = address.split_once('@').context("an address with a user")?;
    let (host, vhost) = host.rsplit_once('/').context("an address with a virtual host")?;
    let given = definitions(vhost)?.replace("gannet.v1.", &format!("gannet.{contract}."));
    let file = fleet.write("definitions.json", &given)?;
    fleet.broker.import(&file)?;
    let place = format!("{host}/{vhost}");
    Ok(move |user: &str| format!("amqp://{user}:for-tests@{place}"))
}

#[test]
fn what_the_broker_is_given_is_the_topology() -> Result<()> {
    let given: Value = serde_json::from_str(DEFINITIONS)?;
    let topology = Topology::new();
    let rows = |key: &str| given[key].as_array().cloned().unwrap_or_default();
    let exchanges: Vec<(String, String)> = rows("exchanges")
        .iter()
        .map(|row| (row["name"].as_str().unwrap_or_default().into(), row["type"].as_str().unwrap_or_default().into()))
        .collect();
    let kind = |kind: &ExchangeKind| match kind {
        ExchangeKind::Direct => "direct",
        ExchangeKind::Fanout => "fanout",
        ExchangeKind::Topic => "topic",
        _ => "another",
    };
    let wanted: Vec<(String, String)> =
        topology.exchanges.iter().map(|(name, of)| (name.clone(), kind(of).to_owned())).collect();
    ensure!(exchanges == wanted, "exchanges are {exchanges:?}, not {wanted:?}");
    let (queues, bindings) = (rows("queues"), rows("bindings"));
    ensure!(queues.len() == topology.queues.len() && bindings.len() == queues.len(), "there is one binding a queue");
    for ((row, binding), queue) in queues.iter().zip(&bindings).zip(&topology.queues) {
        let mut arguments = json!({"x-queue-type": "quorum"});
        for (name, value) in &queue.arguments {
            arguments[*name] = match value {
                Argument::Text(text) => json!(text),
                Argument::Number(number) => json!(number),
            };
        }
        ensure!(row["name"] == queue.name && row["durable"] == true, "{row}");
        ensure!(row["arguments"] == arguments, "{}: {} is not {arguments}", queue.name, row["arguments"]);
        let (exchange, key) = &queue.binding;
        ensure!(
            binding["source"] == *exchange && binding["destination"] == queue.name && binding["routing_key"] == *key,
            "{binding}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn programs_work_as_users_of_least_privilege_on_the_broker() {
    let name = "programs_work_as_users_of_least_privilege_on_the_broker";
    Fleet::run(name, async |fleet| {
        let address = restrict(fleet)?;
        let mut env = fleet.env();
        env.retain(|(variable, _)| variable != "GANNET_AMQP_URL");
        env.push(("GANNET_AMQP_URL".into(), address("producer")));
        let gannet =
            async |args: &[&str]| Process::start("gannet", "gannet", args, &env, fleet.path())?.succeed(LIMIT).await;
        fleet.push_pictures().await?;
        let worker_env = [("GANNET_AMQP_URL", address("worker")), ("GANNET_LOG", "debug".into())];
        let worker_env = worker_env.iter().map(|(variable, value)| (*variable, value.as_str())).collect::<Vec<_>>();
        let mut worker = fleet.worker_with("least", &worker_env)?;

        fleet.write("study.toml", &studies::quick())?;
        gannet(&["tune", "study.toml", "--run", "least"]).await?;
        fleet.each_trial_once("least", 4)?;
        write_model(&fleet.path().join("model"), ["red", "blue"])?;
        write_colour(&fleet.path().join("red.png"), 8, [200, 10, 10])?;
        gannet(&["model", "push", "model", "colours"]).await?;
        let labelled = gannet(&["classify", "red.png", "--model", "colours"]).await?;
        ensure!(labelled.contains("\"red\""), "{labelled}");
        gannet(&["status"]).await?;
        gannet(&["cancel", "least"]).await?;

        // Something that is no job becomes a dead letter by the worker's hand, and goes by the producer's.
        let client = Connection::connect(&address("producer"), ConnectionProperties::default()).await?;
        let channel = client.create_channel().await?;
        let options = BasicPublishOptions::default();
        let properties = BasicProperties::default();
        channel
            .basic_publish("gannet.v1.jobs".into(), "gannet.v1.trials".into(), options, b"no job", properties)
            .await?;
        eventually(LIMIT, "there is a dead letter", async || {
            let listed = json_lines(&gannet(&["dead", "list", "--format", "json"]).await?)?;
            Ok(listed.iter().any(|dead| dead["reason"] == "unreadable").then_some(()))
        })
        .await?;
        gannet(&["dead", "drop", "--reason", "unreadable"]).await?;
        gannet(&["drain", "least"]).await?;
        ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.stderr());
        let refused = worker.stderr().lines().filter(|line| line.contains("not allowed to declare")).count();
        ensure!(refused == 1, "it asks once whether it may declare, then looks: {}", worker.stderr());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn the_same_users_serve_fleets_of_two_contracts() {
    Fleet::run("the_same_users_serve_fleets_of_two_contracts", async |fleet| {
        // An upgrade and, after it, the old release's file once more: neither takes the other's rights away.
        drop(restrict_to(fleet, "v2")?);
        let address = restrict_to(fleet, "v1")?;
        fleet.push_pictures().await?;
        fleet.write("study.toml", &studies::quick())?;
        for contract in ["v1", "v2"] {
            let (worker, producer) = (address("worker"), address("producer"));
            let spoken = ("GANNET_TEST_CONTRACT", contract);
            let mut worker = fleet.worker_with(contract, &[spoken, ("GANNET_AMQP_URL", worker.as_str())])?;
            let mut env = fleet.env();
            env.retain(|(variable, _)| variable != "GANNET_AMQP_URL");
            for (variable, value) in [spoken, ("GANNET_AMQP_URL", producer.as_str())] {
                env.push((variable.to_owned(), value.to_owned()));
            }
            let args = ["tune", "study.toml", "--run", contract];
            Process::start("gannet", "gannet", &args, &env, fleet.path())?.succeed(LIMIT).await?;
            fleet.each_trial_once(contract, 4)?;
            worker.terminate()?;
            ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.stderr());
        }
        // What an autoscaler hears is bounded on each progress exchange.
        let connection = Connection::connect(&address("autoscaler"), ConnectionProperties::default()).await?;
        for (exchange, key, may) in [
            ("gannet.v1.progress", "workers.heartbeat", true),
            ("gannet.v2.progress", "workers.heartbeat", true),
            ("gannet.v1.progress", "#", false),
            ("gannet.v2.progress", "#", false),
        ] {
            let channel = connection.create_channel().await?;
            let heard = attempt(&channel, "autoscaler", Deed::Hear(exchange, key)).await;
            ensure!(heard.is_ok() == may, "the autoscaler hears {key} on {exchange}: {heard:?}");
        }
        Ok(())
    })
    .await;
}

/// Something that a user may do, or not.
#[derive(Debug, Clone, Copy)]
enum Deed {
    /// Declare a queue.
    Make(&'static str),
    /// Delete a queue.
    Delete(&'static str),
    /// Take a message from a queue.
    Take(&'static str),
    /// Publish to an exchange.
    Say(&'static str, &'static str),
    /// Bind a queue of its own to an exchange.
    Hear(&'static str, &'static str),
}

/// What is done on the broker, and who may.
const DEEDS: [(Deed, &[&str]); 23] = [
    (Deed::Take("gannet.v1.trials"), &["worker"]),
    (Deed::Take("gannet.v1.batches"), &["worker"]),
    (Deed::Take("gannet.v1.dead"), &["producer"]),
    (Deed::Take("gannet.v1.results"), &["producer"]),
    (Deed::Take("gannet.v1.retry.5s"), &[]),
    (Deed::Say("gannet.v1.jobs", "gannet.v1.trials"), &["producer", "worker"]),
    (Deed::Say("gannet.v1.retry.5s", ""), &["worker"]),
    (Deed::Say("gannet.v1.dead", ""), &["worker"]),
    (Deed::Say("gannet.v1.results", "a.trial"), &["producer", "worker"]),
    (Deed::Say("gannet.v1.progress", "workers.heartbeat"), &["worker"]),
    (Deed::Say("gannet.v1.control", ""), &["producer", "autoscaler"]),
    (Deed::Say("", "somebodys.answers"), &["worker"]),
    (Deed::Hear("gannet.v1.results", "#"), &["producer"]),
    (Deed::Hear("gannet.v1.progress", "night.progress"), &["producer"]),
    (Deed::Hear("gannet.v1.progress", "#"), &["producer"]),
    (Deed::Hear("gannet.v1.progress", "workers.heartbeat"), &["producer", "autoscaler"]),
    (Deed::Hear("gannet.v1.control", ""), &["worker"]),
    (Deed::Hear("gannet.v1.dead", ""), &["producer"]),
    (Deed::Make("gannet.v1.watch.mine"), &["producer", "autoscaler"]),
    (Deed::Make("gannet.v1.listen.mine"), &["worker"]),
    (Deed::Make("another.queue"), &[]),
    (Deed::Delete("gannet.v1.trials"), &[]),
    (Deed::Delete("gannet.v1.dead"), &[]),
];

#[tokio::test]
async fn a_user_of_the_broker_cannot_do_what_is_others() {
    Fleet::run("a_user_of_the_broker_cannot_do_what_is_others", async |fleet| {
        let address = restrict(fleet)?;
        for user in USERS {
            let connection = Connection::connect(&address(user), ConnectionProperties::default()).await?;
            for (deed, allowed) in DEEDS {
                // A refusal closes its channel.
                let channel = connection.create_channel().await?;
                let done = attempt(&channel, user, deed).await;
                let refused = match &done {
                    Ok(()) => false,
                    Err(error) => match error.kind() {
                        ErrorKind::ProtocolError(protocol) if protocol.get_id() == 403 => true,
                        _ => anyhow::bail!("{user}: {deed:?} came to {error}"),
                    },
                };
                ensure!(
                    refused != allowed.contains(&user),
                    "{user}: {deed:?} is {}refused",
                    if refused { "" } else { "not " }
                );
            }
        }
        Ok(())
    })
    .await;
}

async fn attempt(channel: &Channel, user: &str, deed: Deed) -> lapin::Result<()> {
    let make = async |name: &str| {
        let options = QueueDeclareOptions::exclusive().auto_delete();
        channel.queue_declare(name.into(), options, FieldTable::default()).await.map(drop)
    };
    match deed {
        Deed::Make(queue) => {
            make(queue).await?;
            channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop)
        }
        Deed::Delete(queue) => channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await.map(drop),
        Deed::Take(queue) => channel.basic_get(queue.into(), BasicGetOptions::default()).await.map(drop),
        Deed::Say(exchange, key) => {
            channel.confirm_select(ConfirmSelectOptions::default()).await?;
            let (options, properties) = (BasicPublishOptions::default(), BasicProperties::default());
            channel.basic_publish(exchange.into(), key.into(), options, b"{}", properties).await?.await.map(drop)
        }
        Deed::Hear(exchange, key) => {
            let queue = if user == "worker" { "gannet.v1.listen.hears" } else { "gannet.v1.watch.hears" };
            make(queue).await?;
            let (options, arguments) = (QueueBindOptions::default(), FieldTable::default());
            let bound = channel.queue_bind(queue.into(), exchange.into(), key.into(), options, arguments).await;
            if bound.is_ok() {
                channel.queue_delete(queue.into(), QueueDeleteOptions::default()).await?;
            }
            bound
        }
    }
}

/// A store with the users and policies of `infra/minio`, and the environment of a program that uses it as one of them.
async fn store_with_users(folder: &Path) -> Result<Option<(Process, String)>> {
    let Some(python) = std::env::var_os("GANNET_TEST_PYTHON") else { return Ok(None) };
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(python);
    command.arg(here.join("python/store.py"));
    command.args(["worker", "producer"].map(|role| here.join(format!("../infra/minio/{role}.json"))));
    let mut server = Process::spawn("store", &mut command, &[], folder)?;
    let endpoint = eventually(LIMIT, "the store answers", async || {
        server.must_run()?;
        Ok(server.stdout().lines().find_map(|line| line.strip_prefix("listening on ").map(str::to_owned)))
    })
    .await?;
    Ok(Some((server, endpoint)))
}

fn keys(endpoint: &str, role: &str) -> Vec<(String, String)> {
    [
        ("GANNET_STORE", "s3://gannet"),
        ("GANNET_S3_ENDPOINT", endpoint),
        ("AWS_ACCESS_KEY_ID", &format!("gannet-{role}")),
        ("AWS_SECRET_ACCESS_KEY", "for-tests"),
    ]
    .map(|(variable, value)| (variable.to_owned(), value.to_owned()))
    .into()
}

#[tokio::test]
async fn programs_work_as_users_of_least_privilege_of_the_store() {
    let name = "programs_work_as_users_of_least_privilege_of_the_store";
    Fleet::run(name, async |fleet| {
        let Some((_server, endpoint)) = store_with_users(fleet.path()).await? else {
            skipped(name, "GANNET_TEST_PYTHON is not set: tests/run sets it where it can install moto");
            return Ok(());
        };
        let mut env = keys(&endpoint, "producer");
        env.push(("GANNET_AMQP_URL".into(), fleet.amqp_url()));
        let gannet =
            async |args: &[&str]| Process::start("gannet", "gannet", args, &env, fleet.path())?.succeed(LIMIT).await;
        tests::Pictures { train: 360, test: 90 }.write(&fleet.path().join("pictures"))?;
        gannet(&["data", "push", "pictures", "--name", "bars"]).await?;
        let worker_env = keys(&endpoint, "worker");
        let worker_env: Vec<_> =
            worker_env.iter().map(|(variable, value)| (variable.as_str(), value.as_str())).collect();
        // Slices, so that there are checkpoints to write and to remove.
        let mut worker = fleet.worker_with("least", &[&worker_env[..], &[("GANNET_SLICE", "500ms")]].concat())?;
        fleet.write("study.toml", &studies::quick())?;
        gannet(&["tune", "study.toml", "--run", "least"]).await?;
        gannet(&["model", "promote", "least", "bars"]).await?;
        write_model(&fleet.path().join("model"), ["red", "blue"])?;
        write_colour(&fleet.path().join("red.png"), 8, [200, 10, 10])?;
        gannet(&["model", "push", "model", "colours"]).await?;
        gannet(&["classify", "red.png", "--model", "colours", "--run", "labels"]).await?;
        gannet(&["run", "list"]).await?;
        gannet(&["gc", "--versions"]).await?;
        gannet(&["run", "delete", "labels"]).await?;
        worker.terminate()?;
        ensure!(worker.wait(LIMIT).await?.success(), "{}", worker.stderr());
        ensure!(!worker.stderr().contains("AccessDenied"), "{}", worker.stderr());
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn a_user_of_the_store_cannot_do_what_is_others() {
    let name = "a_user_of_the_store_cannot_do_what_is_others";
    Folder::run(async |folder| {
        let Some((_server, endpoint)) = store_with_users(folder.path()).await? else {
            skipped(name, "GANNET_TEST_PYTHON is not set: tests/run sets it where it can install moto");
            return Ok(());
        };
        let open = async |role: &str| {
            let key = format!("gannet-{role}");
            shared::store::s3::S3Store::with_keys("gannet", "", &endpoint, &key, "for-tests").await
        };
        let (producer, worker, autoscaler) = (open("producer").await, open("worker").await, open("autoscaler").await);
        let key = |text: &str| shared::names::Key::new(text).expect("a key");
        let body = bytes::Bytes::from_static(b"{}");
        // Who may write what; whoever may not is refused, and told what to check.
        for (object, producer_may, worker_may) in [
            ("models/m/pointer/000001.json", true, false),
            ("datasets/d/current", true, false),
            ("runs/r/run.json", true, false),
            ("runs/r/cancelled", true, false),
            ("runs/r/enqueued/a.json", true, false),
            ("runs/r/images/a", true, false),
            ("runs/r/results/t0000.json", true, true),
            ("runs/r/checkpoints/t0000/000000.json", false, true),
            ("runs/r/attempts/t0000/000000/a", false, true),
            ("runs/r/dead/t0000", false, true),
            ("probe/a", true, true),
        ] {
            for (user, store, may) in [
                ("producer", &producer, producer_may),
                ("worker", &worker, worker_may),
                ("autoscaler", &autoscaler, false),
            ] {
                let written = shared::store::Store::put(store, &key(object), body.clone()).await;
                ensure!(written.is_ok() == may, "{user} writes {object}: {written:?}");
                if let Err(error) = written {
                    let text = error.to_string();
                    ensure!(!error.is_passing() && text.contains("check AWS_ACCESS_KEY_ID"), "{text}");
                }
            }
        }
        for (object, worker_may) in [
            ("runs/r/results/t0000.json", false),
            ("models/m/pointer/000001.json", false),
            ("runs/r/run.json", false),
            ("runs/r/checkpoints/t0000/000000.json", true),
            ("probe/a", true),
        ] {
            let removed = shared::store::Store::delete(&worker, &key(object)).await;
            ensure!(removed.is_ok() == worker_may, "the worker removes {object}: {removed:?}");
        }
        let read = shared::store::Store::get(&autoscaler, &key("runs/r/run.json")).await;
        ensure!(read.is_err(), "the autoscaler has no key");
        Ok(())
    })
    .await;
}
