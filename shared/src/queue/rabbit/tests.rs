//! The contract suite on a real broker, and what only a broker does. `GANNET_TEST_AMQP_URL` names one for tests: its
//! queues are emptied.

use lapin::options::{BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeleteOptions};
use lapin::types::{AMQPValue, FieldArray};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties};
use tokio::sync::MutexGuard;

use super::*;
use crate::queue::contract_suite::{Place, suite};

/// A broker for one test at a time: topology and queues are one and the same.
struct Broker {
    url: String,
    channel: Channel,
    _turn: MutexGuard<'static, ()>,
}

async fn broker(test: &str) -> Option<Broker> {
    static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());
    let Ok(url) = std::env::var("GANNET_TEST_AMQP_URL") else {
        eprintln!("SKIPPED queue::rabbit::tests::{test}: GANNET_TEST_AMQP_URL is not set");
        return None;
    };
    let turn = TURN.lock().await;
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.expect("a broker");
    Topology::new().declare(&connection).await.expect("the topology");
    let channel = connection.create_channel().await.expect("a channel");
    channel.confirm_select(ConfirmSelectOptions::default()).await.expect("confirms");
    for queue in Topology::new().queues {
        channel.queue_purge(topology::short(&queue.name), Default::default()).await.expect("emptied");
    }
    Some(Broker { url, channel, _turn: turn })
}

#[async_trait]
impl Place for Broker {
    async fn open(&self) -> Arc<dyn Queue> {
        Arc::new(RabbitQueue::open(&self.url).await.expect("open"))
    }

    async fn reply_queue(&self, name: &str) {
        let options = QueueDeclareOptions::exclusive().auto_delete();
        self.channel.queue_declare(name.into(), options, FieldTable::default()).await.expect("a client's queue");
    }

    async fn take_reply(&self, name: &str) -> Option<(Option<String>, Vec<u8>)> {
        let got =
            self.channel.basic_get(name.into(), BasicGetOptions { no_ack: true }).await.expect("a client's queue");
        let delivery = got?.delivery;
        Some((delivery.properties.correlation_id().as_ref().map(ToString::to_string), delivery.data))
    }
}

suite!(broker);

const LIMIT: Duration = Duration::from_secs(60);

fn letter() -> Letter {
    Letter { kind: Kind::Trial, body: b"{}".to_vec(), headers: crate::queue::Headers::default() }
}

impl Broker {
    /// Publishes as a foreign client would, past the exchange.
    async fn send(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions::default();
        let sent = self.channel.basic_publish("".into(), topology::short(queue), options, body, properties).await;
        sent.expect("published").await.expect("confirmed");
    }

    async fn delete(&self, queue: &str) {
        let options = QueueDeleteOptions::default();
        self.channel.queue_delete(topology::short(queue), options).await.expect("deleted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_clients_headers_are_read_with_patience_and_go_no_further() {
    let Some(broker) = broker("a_foreign_clients_headers_are_read_with_patience_and_go_no_further").await else {
        return;
    };
    let mut table = FieldTable::default();
    table.insert("gannet-slice".into(), AMQPValue::ShortShortUInt(3));
    table.insert("gannet-attempts".into(), AMQPValue::LongString("{broken".into()));
    table.insert("x-death".into(), AMQPValue::FieldArray(FieldArray::default()));
    table.insert("colour".into(), AMQPValue::Boolean(true));
    let trials = topology::queue_of(Kind::Trial);
    let properties = BasicProperties::default().with_headers(table).with_reply_to("answers".into());
    broker.send(&trials, b"\xff", properties.with_delivery_mode(1).with_expiration("60000".into())).await;

    let queue = broker.open().await;
    let mut deliveries = queue.consume(Kind::Trial, 1).await.expect("consume");
    let delivery = deliveries.next().await.expect("a job");
    let headers = &delivery.letter.headers;
    assert_eq!((headers.slice, headers.attempts, headers.message_id.as_str()), (3, Default::default(), ""));
    assert_eq!(headers.reply, Some(Reply { queue: "answers".into(), correlation_id: None }));
    drop(deliveries);
    queue.publish(&[delivery.letter.again()]).await.expect("published again");
    delivery.receipt.ack().await.expect("ack");

    let got = broker.channel.basic_get(topology::short(&trials), BasicGetOptions { no_ack: true }).await.expect("get");
    let properties = got.expect("the second publish").delivery.properties;
    let has = |name| properties.headers().as_ref().is_some_and(|table| table.contains_key(name));
    assert_eq!(["gannet-slice", "gannet-attempts", "x-death", "colour"].map(has), [true, true, false, false]);
    assert_eq!(properties.content_type().as_ref().map(ToString::to_string).as_deref(), Some("application/json"));
    assert_eq!((*properties.delivery_mode(), properties.expiration()), (Some(2), &None));
    assert!(properties.message_id().is_some() && properties.reply_to().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn direct_reply_to_works() {
    let Some(broker) = broker("direct_reply_to_works").await else { return };
    let no_ack = BasicConsumeOptions { no_ack: true, ..Default::default() };
    let answers =
        broker.channel.basic_consume("amq.rabbitmq.reply-to".into(), "".into(), no_ack, FieldTable::default());
    let mut answers = answers.await.expect("consume");
    let properties = BasicProperties::default().with_reply_to("amq.rabbitmq.reply-to".into());
    broker.send(&topology::queue_of(Kind::Trial), b"{}", properties.with_correlation_id("7".into())).await;

    let queue = RabbitQueue::open(&broker.url).await.expect("open");
    let delivery = queue.consume(Kind::Trial, 1).await.expect("consume").next().await.expect("a job");
    let reply = delivery.letter.headers.reply.clone();
    let result = crate::queue::contract_suite::result("mine", "a");
    queue.publish_result(&result, reply.as_ref()).await.expect("publish");
    let answer = tokio::time::timeout(LIMIT, futures::StreamExt::next(&mut answers)).await.expect("an answer");
    let answer = answer.expect("open").expect("connected");
    assert_eq!(answer.properties.correlation_id().as_ref().map(ToString::to_string).as_deref(), Some("7"));
    assert_eq!(queue.lost_replies(), 0);
    let absent = Reply { queue: "nobody-has-this-queue".into(), correlation_id: None };
    queue.publish_result(&result, Some(&absent)).await.expect("publish");
    assert_eq!(queue.lost_replies(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_that_publish_at_once_share_a_few_channels() {
    let Some(broker) = broker("many_that_publish_at_once_share_a_few_channels").await else { return };
    // A broker that allows eight leaves room for two.
    let url = format!("{}?channel_max=8", broker.url);
    let queue = Arc::new(RabbitQueue::open(&url).await.expect("open"));
    let mut publishing = tokio::task::JoinSet::new();
    for _ in 0..200 {
        let queue = Arc::clone(&queue);
        publishing.spawn(async move { queue.publish(&[letter()]).await });
    }
    for published in publishing.join_all().await {
        published.expect("its turn comes");
    }
    let depths = crate::queue::by_name(queue.depths().await.expect("there is a channel left"));
    assert_eq!(depths[&topology::queue_of(Kind::Trial)].ready, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_noticed_and_made_again() {
    let Some(broker) = broker("a_deleted_queue_is_noticed_and_made_again").await else { return };
    let queue = broker.open().await;
    queue.publish(&[letter()]).await.expect("publish");
    let mut deliveries = queue.consume(Kind::Trial, 1).await.expect("consume");
    let delivery = deliveries.next().await.expect("a job");
    broker.delete(&topology::queue_of(Kind::Trial)).await;
    tokio::time::timeout(LIMIT, delivery.lost.cancelled()).await.expect("what was taken is lost");
    let error = deliveries.next().await.err().expect("the consumer is gone");
    assert!(error.is_passing(), "{error}");
    let error = queue.publish(&[letter()]).await.expect_err("no queue takes it");
    assert!(error.to_string().contains("no queue takes it (312 NO_ROUTE)"), "{error}");
    queue.publish(&[letter()]).await.expect("declared again");
    let mut deliveries = queue.consume(Kind::Trial, 1).await.expect("consume");
    deliveries.next().await.expect("a job").receipt.ack().await.expect("ack");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_another_shape_is_used_as_it_stands() {
    let Some(broker) = broker("a_queue_of_another_shape_is_used_as_it_stands").await else { return };
    let batches = topology::queue_of(Kind::Batch);
    broker.delete(&batches).await;
    let options = QueueDeclareOptions::durable();
    broker
        .channel
        .queue_declare(topology::short(&batches), options, FieldTable::default())
        .await
        .expect("a classic one");
    let queue = broker.open().await;
    queue.publish(&[Letter { kind: Kind::Batch, ..letter() }]).await.expect("bound and used");
    let mut deliveries = queue.consume(Kind::Batch, 1).await.expect("consume");
    deliveries.next().await.expect("a job").receipt.ack().await.expect("ack");
    drop(deliveries);
    broker.delete(&batches).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_the_broker_gives_up_is_a_dead_letter() {
    let Some(broker) = broker("a_job_that_the_broker_gives_up_is_a_dead_letter").await else { return };
    let queue = broker.open().await;
    queue.publish(&[letter()]).await.expect("publish");
    let trials = topology::queue_of(Kind::Trial);
    let got = broker.channel.basic_get(topology::short(&trials), BasicGetOptions::default()).await.expect("get");
    let reject = BasicNackOptions { multiple: false, requeue: false };
    got.expect("a job").delivery.acker.nack(reject).await.expect("rejected");
    let give_up = std::time::Instant::now() + LIMIT;
    let dead = loop {
        if let Some(dead) = queue.dead(1).await.expect("dead letters").pop() {
            break dead;
        }
        assert!(std::time::Instant::now() < give_up, "never dead-lettered");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((dead.kind, dead.reason.as_str(), dead.job.as_deref()), (Kind::Trial, "broker", Some("{}")));
    assert_eq!(dead.errors, ["put away by the broker: rejected"]);
    let again = queue.dead(1).await.expect("dead letters");
    assert_eq!(again[0].id(), dead.id(), "its id stays");
    assert_eq!(queue.remove_dead(&[dead.id()].into()).await.expect("removed"), 1);
    assert_eq!(queue.dead(1).await.expect("dead letters"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broker_refuses_is_told_apart_from_one_that_is_away() {
    let Some(broker) = broker("what_a_broker_refuses_is_told_apart_from_one_that_is_away").await else { return };
    let (_, host) = broker.url.rsplit_once('@').unwrap_or(("", broker.url.trim_start_matches("amqp://")));
    let host = host.split('/').next().expect("a host");
    let refusal = |error: QueueError| {
        assert!(!error.is_passing() && !error.to_string().contains("wrong-secret"), "{error}");
        error.to_string()
    };
    let error = RabbitQueue::open(&format!("amqp://nobody:wrong-secret@{host}/%2f")).await.expect_err("no such user");
    assert!(refusal(error).contains("ACCESS_REFUSED"));
    let base =
        broker.url.rsplit_once('/').filter(|(base, _)| base.contains(host)).map_or(broker.url.as_str(), |it| it.0);
    let error = RabbitQueue::open(&format!("{base}/no-such-vhost")).await.expect_err("no such virtual host");
    assert!(refusal(error).contains("no-such-vhost"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_said_with_what_was_tried() {
    // Bound and dropped: nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port");
    let error = RabbitQueue::open(&format!("amqp://u:secret@{free}/")).await.expect_err("nobody there");
    let text = error.to_string();
    assert!(error.is_passing() && text.contains(&format!("connecting to {free}")), "{text}");
    assert!(text.contains("refused") && !text.contains("secret"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_spoken_and_its_failure_is_an_error() {
    let server = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = server.local_addr().expect("bound").port();
    let first_bytes = tokio::spawn(async move {
        let (mut stream, _) = server.accept().await.expect("a client");
        let mut bytes = [0; 3];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut bytes).await.expect("its greeting");
        bytes
    });
    let error = RabbitQueue::open(&format!("amqps://u:secret@localhost:{port}/")).await.expect_err("no TLS there");
    assert!(error.is_passing(), "{error}");
    // Without any root certificate on the machine nothing is sent.
    match tokio::time::timeout(Duration::from_secs(5), first_bytes).await {
        Ok(bytes) => assert_eq!(bytes.expect("ended")[..2], [0x16, 0x03], "a TLS client hello"),
        Err(_) => eprintln!("SKIPPED tls_is_spoken_and_its_failure_is_an_error: no client hello came: {error}"),
    }
}
