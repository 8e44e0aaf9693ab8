//! What every queue must do, checked on each implementation by [`suite!`].
//!
//! A check gets a [`Place`]: an empty queue that several handles may open, as several processes would.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures::FutureExt;
use tokio::time::{sleep, timeout};

use super::{
    Attempts, Controls, DeadLetter, Deliveries, Delivery, Event, Events, Headers, Letter, Queue, QueueError, Reply,
    by_name, fresh_message_id, topology,
};
use crate::contract::{Control, Cost, Durations, Heartbeat, JobResult, Kind, Progress, Spare, Status};
use crate::names::{JobId, Name};

/// An empty queue.
#[async_trait]
pub(super) trait Place: Send + Sync {
    /// Another handle on it.
    async fn open(&self) -> Arc<dyn Queue>;

    /// Makes a queue for a client's answers.
    async fn reply_queue(&self, name: &str);

    /// Takes an answer from it: correlation id and body.
    async fn take_reply(&self, name: &str) -> Option<(Option<String>, Vec<u8>)>;
}

/// Makes a test of every check. `$place` is an expression that gives `Option<impl Place>` for a test's name, and has
/// printed why where it gives none.
macro_rules! suite {
    ($place:path) => {
        $crate::queue::contract_suite::suite!($place:
            publish_take_ack, prefetch_is_honoured, what_was_not_taken_is_handed_over, a_released_delivery_comes_again, a_dropped_receipt_is_released,
            a_dropped_consumer_gives_back, receipts_outlive_their_consumer, a_lost_handle_gives_back,
            next_is_cancel_safe, a_body_is_not_touched, headers_go_round, kinds_have_their_own_queues,
            a_retry_comes_after_its_delay, a_dead_letter_stays_where_it_is, a_huge_letter_can_be_buried,
            dead_letters_are_removed_by_id,
            a_watcher_sees_its_run_only, heartbeats_come_alone, control_reaches_all_listeners,
            a_client_gets_its_answer, an_answer_that_nobody_takes_is_no_error, what_is_too_large_is_said,
            depths_count, many_letters_are_taken_once
        );
    };
    ($place:path: $($check:ident),+) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $check() {
                if let Some(place) = $place(stringify!($check)).await {
                    $crate::queue::contract_suite::$check(&place).await;
                }
            }
        )+
    };
}
pub(super) use suite;

/// Longer than anything takes on a machine under load.
const LIMIT: Duration = Duration::from_secs(60);

/// Long enough for something wrong to show, where nothing must happen.
const QUIET: Duration = Duration::from_millis(400);

pub(super) async fn publish_take_ack(place: &dyn Place) {
    let queue = place.open().await;
    let sent = letter(Kind::Trial, b"{\"n\": 1}");
    queue.publish(std::slice::from_ref(&sent)).await.expect("publish");
    let mut deliveries = queue.consume(Kind::Trial, 1).await.expect("consume");
    let delivery = next(&mut deliveries).await;
    assert_eq!(delivery.letter, sent);
    assert!(!delivery.redelivered && !delivery.lost.is_cancelled());
    delivery.receipt.ack().await.expect("ack");
    until_ready(&queue, Kind::Trial, 0).await;
    drop(deliveries);
    let mut others = place.open().await.consume(Kind::Trial, 1).await.expect("consume");
    nothing_comes(&mut others).await;
}

pub(super) async fn prefetch_is_honoured(place: &dyn Place) {
    let queue = place.open().await;
    queue.publish(&letters(Kind::Batch, 5)).await.expect("publish");
    let mut deliveries = queue.consume(Kind::Batch, 2).await.expect("consume");
    let first = next(&mut deliveries).await;
    let _second = next(&mut deliveries).await;
    nothing_comes(&mut deliveries).await;
    first.receipt.ack().await.expect("ack");
    let _third = next(&mut deliveries).await;
    nothing_comes(&mut deliveries).await;
}

pub(super) async fn what_was_not_taken_is_handed_over(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    let mut deliveries = here.consume(Kind::Trial, 3).await.expect("consume");
    let letters = [letter(Kind::Trial, b"1"), letter(Kind::Trial, b"2"), letter(Kind::Trial, b"3")];
    here.publish(&letters).await.expect("publish");
    let first = next(&mut deliveries).await;
    // However much has come by now: each is in somebody's hands once, and nobody's is marked as lost by another.
    let left = deliveries.stop().await;
    assert!(left.len() <= 2, "{}", left.len());
    for delivery in left.into_iter().chain([first]) {
        assert!(!delivery.redelivered);
        there.publish(std::slice::from_ref(&delivery.letter)).await.expect("publish");
        delivery.receipt.ack().await.expect("ack");
    }
    let mut others = there.consume(Kind::Trial, 1).await.expect("consume");
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut others).await;
        bodies.push(delivery.letter.body.clone());
        assert!(!delivery.redelivered, "a stop looks like a loss");
        delivery.receipt.ack().await.expect("ack");
    }
    bodies.sort();
    assert_eq!(bodies, [b"1", b"2", b"3"]);
    nothing_comes(&mut others).await;
}

pub(super) async fn a_released_delivery_comes_again(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    here.publish(&letters(Kind::Trial, 1)).await.expect("publish");
    let mut deliveries = here.consume(Kind::Trial, 1).await.expect("consume");
    let delivery = next(&mut deliveries).await;
    let id = delivery.letter.headers.message_id.clone();
    drop(deliveries);
    let mut others = there.consume(Kind::Trial, 1).await.expect("consume");
    nothing_comes(&mut others).await;
    delivery.receipt.release().await.expect("release");
    let again = next(&mut others).await;
    assert!(again.redelivered);
    assert_eq!(again.letter.headers.message_id, id, "a redelivery keeps its message id");
    again.receipt.ack().await.expect("ack");
}

pub(super) async fn a_dropped_receipt_is_released(place: &dyn Place) {
    let queue = place.open().await;
    queue.publish(&letters(Kind::Trial, 1)).await.expect("publish");
    let mut deliveries = queue.consume(Kind::Trial, 1).await.expect("consume");
    drop(next(&mut deliveries).await);
    let again = next(&mut deliveries).await;
    assert!(again.redelivered);
    again.receipt.ack().await.expect("ack");
}

pub(super) async fn a_dropped_consumer_gives_back(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    here.publish(&letters(Kind::Trial, 3)).await.expect("publish");
    let mut deliveries = here.consume(Kind::Trial, 3).await.expect("consume");
    let first = next(&mut deliveries).await;
    drop(first);
    drop(deliveries);
    let mut others = there.consume(Kind::Trial, 3).await.expect("consume");
    let mut bodies = HashSet::new();
    for _ in 0..3 {
        let delivery = next(&mut others).await;
        bodies.insert(delivery.letter.body.clone());
        delivery.receipt.ack().await.expect("ack");
    }
    assert_eq!(bodies.len(), 3);
    nothing_comes(&mut others).await;
}

pub(super) async fn receipts_outlive_their_consumer(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    here.publish(&letters(Kind::Trial, 2)).await.expect("publish");
    let mut deliveries = here.consume(Kind::Trial, 2).await.expect("consume");
    let delivery = next(&mut deliveries).await;
    drop(deliveries);
    let mut others = there.consume(Kind::Trial, 2).await.expect("consume");
    let second = next(&mut others).await;
    assert_ne!(second.letter.body, delivery.letter.body, "what was handed out stays where it is");
    nothing_comes(&mut others).await;
    assert!(!delivery.lost.is_cancelled());
    delivery.receipt.ack().await.expect("still its own");
    second.receipt.ack().await.expect("ack");
    drop(others);
    let mut third = there.consume(Kind::Trial, 1).await.expect("consume");
    nothing_comes(&mut third).await;
}

pub(super) async fn a_lost_handle_gives_back(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    here.publish(&letters(Kind::Batch, 1)).await.expect("publish");
    let mut deliveries = here.consume(Kind::Batch, 1).await.expect("consume");
    let delivery = next(&mut deliveries).await;
    drop((here, deliveries, delivery));
    let again = next(&mut there.consume(Kind::Batch, 1).await.expect("consume")).await;
    assert!(again.redelivered);
    again.receipt.ack().await.expect("ack");
}

pub(super) async fn next_is_cancel_safe(place: &dyn Place) {
    let queue = place.open().await;
    let mut deliveries = queue.consume(Kind::Trial, 1).await.expect("consume");
    queue.publish(&letters(Kind::Trial, 20)).await.expect("publish");
    let mut taken = Vec::new();
    while taken.len() < 20 {
        // Gives up at any moment between the first poll and the arrival.
        let delivery = match deliveries.next().now_or_never() {
            Some(delivery) => delivery.expect("connected"),
            None => next(&mut deliveries).await,
        };
        assert!(!delivery.redelivered);
        taken.push(delivery.letter.body.clone());
        delivery.receipt.ack().await.expect("ack");
    }
    let expected: Vec<_> = letters(Kind::Trial, 20).into_iter().map(|letter| letter.body).collect();
    assert_eq!(taken, expected, "in order, none lost, none twice");
}

pub(super) async fn a_body_is_not_touched(place: &dyn Place) {
    let queue = place.open().await;
    let bodies: [&[u8]; 5] =
        [b"", b" {\"a\" : 1.0e5 , \"a\": 2}\r\n", b"not JSON", b"\xff\xfe\0\x01", &[0xab; 200_000]];
    for body in bodies {
        queue.publish(&[letter(Kind::Batch, body)]).await.expect("publish");
    }
    let mut deliveries = queue.consume(Kind::Batch, 10).await.expect("consume");
    for body in bodies {
        let delivery = next(&mut deliveries).await;
        assert!(delivery.letter.body == body, "{} bytes", body.len());
        delivery.receipt.ack().await.expect("ack");
    }
}

pub(super) async fn headers_go_round(place: &dyn Place) {
    let queue = place.open().await;
    let mut sent = letter(Kind::Trial, b"{}");
    sent.headers = Headers {
        message_id: fresh_message_id(),
        reply: Some(Reply { queue: "somebody.s-answers".into(), correlation_id: Some("ä-1".into()) }),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        previous: Some("b7ad6b7169203331".into()),
        slice: u32::MAX,
        attempts: Attempts { errors: 1, crashes: u32::MAX, preemptions: 3 },
    };
    let before = SystemTime::now() - Duration::from_millis(1);
    let bare = Letter { kind: Kind::Trial, body: b"{}".to_vec(), headers: Headers::default() };
    queue.publish(&[sent.clone(), bare]).await.expect("publish");
    let mut deliveries = queue.consume(Kind::Trial, 2).await.expect("consume");
    let (first, second) = (next(&mut deliveries).await, next(&mut deliveries).await);
    assert_eq!(first.letter, sent);
    // To the millisecond.
    let between = before..=SystemTime::now() + Duration::from_millis(1);
    assert!([&first, &second].iter().all(|delivery| delivery.enqueued.is_some_and(|at| between.contains(&at))));
    let received = second.letter.headers;
    assert!(!received.message_id.is_empty(), "a letter without an id got one");
    assert_eq!(Headers { message_id: String::new(), ..received }, Headers::default());
}

pub(super) async fn kinds_have_their_own_queues(place: &dyn Place) {
    let queue = place.open().await;
    queue.publish(&[letter(Kind::Trial, b"trial"), letter(Kind::Batch, b"batch")]).await.expect("publish");
    let mut batches = queue.consume(Kind::Batch, 5).await.expect("consume");
    let delivery = next(&mut batches).await;
    assert_eq!((delivery.letter.kind, &delivery.letter.body[..]), (Kind::Batch, &b"batch"[..]));
    nothing_comes(&mut batches).await;
}

pub(super) async fn a_retry_comes_after_its_delay(place: &dyn Place) {
    let queue = place.open().await;
    let mut deliveries = queue.consume(Kind::Batch, 1).await.expect("consume");
    let mut sent = letter(Kind::Batch, b"{\"again\": true}");
    sent.headers.attempts.errors = 1;
    let began = std::time::Instant::now();
    queue.retry(&sent, Duration::from_secs(5)).await.expect("retry");
    let delivery = next(&mut deliveries).await;
    assert!(began.elapsed() >= Duration::from_millis(4_900), "{:?}", began.elapsed());
    assert_eq!((&delivery.letter.body, delivery.letter.headers.attempts), (&sent.body, sent.headers.attempts));
    assert!(!delivery.redelivered, "another publish, not a redelivery");
    assert_eq!(delivery.letter.headers.message_id, sent.headers.message_id, "what is tried again keeps its id");
    delivery.receipt.ack().await.expect("ack");
}

pub(super) async fn a_dead_letter_stays_where_it_is(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    assert_eq!(here.dead(10).await.expect("none"), []);
    let mut dead: Vec<DeadLetter> = Vec::new();
    for body in [&b"not { JSON"[..], b"\xff\xfe", b"{}"] {
        dead.push(DeadLetter::of(&letter(Kind::Trial, body), "unreadable", vec!["outer".into(), "inner".into()], "w1"));
    }
    dead[2].reply = Some(Reply { queue: "answers".into(), correlation_id: Some("7".into()) });
    for letter in &dead {
        here.bury(letter).await.expect("bury");
    }
    for _ in 0..3 {
        assert_eq!(there.dead(10).await.expect("dead letters"), dead, "as often as somebody looks");
    }
    assert_eq!(here.dead(2).await.expect("dead letters"), dead[..2], "oldest first");
    assert_eq!(dead[1].job_hex.as_deref(), Some("fffe"));
}

pub(super) async fn dead_letters_are_removed_by_id(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    let dead: Vec<DeadLetter> = [&b"a"[..], b"b", b"\xff", b"d", b"e"]
        .into_iter()
        .map(|body| DeadLetter::of(&letter(Kind::Batch, body), "error", vec!["why".into()], "w1"))
        .collect();
    for letter in &dead {
        here.bury(letter).await.expect("bury");
    }
    let unknown = "0123456789ab".to_owned();
    assert_eq!(there.remove_dead(&[unknown.clone()].into()).await.expect("removed"), 0);
    let ids = [dead[0].id(), dead[2].id(), unknown].into();
    assert_eq!(there.remove_dead(&ids).await.expect("removed"), 2);
    let left = here.dead(10).await.expect("dead letters");
    assert_eq!(left, [dead[1].clone(), dead[3].clone(), dead[4].clone()], "in their order");
    assert_eq!(here.remove_dead(&ids).await.expect("removed"), 0);
    let ids = left.iter().map(DeadLetter::id).collect();
    assert_eq!(here.remove_dead(&ids).await.expect("removed"), 3);
    assert_eq!(there.dead(10).await.expect("none"), []);
}

pub(super) async fn a_huge_letter_can_be_buried(place: &dyn Place) {
    let queue = place.open().await;
    let letter = letter(Kind::Batch, &vec![0xff; 12 << 20]);
    queue.bury(&DeadLetter::of(&letter, "unreadable", Vec::new(), "w1")).await.expect("bury");
    let dead = queue.dead(1).await.expect("dead letters");
    assert_eq!(dead[0].job_hex.as_ref().map(String::len), Some(2 << 20));
    assert!(dead[0].errors[0].contains("12582912 bytes"), "{:?}", dead[0].errors);
}

pub(super) async fn a_watcher_sees_its_run_only(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    here.publish_result(&result("mine", "before"), None).await.expect("publish");
    let mut mine = there.watch(&name("mine")).await.expect("watch");
    for run in ["other", "mine", "mine-too"] {
        here.publish_result(&result(run, "a"), None).await.expect("publish");
        here.publish_progress(&progress(run, "b")).await;
    }
    here.publish_result(&result("mine", "end"), None).await.expect("publish");
    let (mut results, mut moved) = (Vec::new(), 0);
    // Results and progress take different ways: only each kind's own order is promised.
    while results.len() < 2 || moved < 1 {
        match event(&mut mine).await {
            Event::Result(result) => {
                assert_eq!(result.run, name("mine"));
                results.push(result.id.to_string());
            }
            Event::Progress(progress) => {
                assert_eq!((progress.run, progress.fraction), (name("mine"), 0.5));
                moved += 1;
            }
        }
    }
    assert_eq!(results, ["a", "end"], "nothing from before");
}

pub(super) async fn heartbeats_come_alone(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    let mut heard = there.heartbeats().await.expect("listen");
    let mut workers = there.watch(&name("workers")).await.expect("watch");
    // A run called `workers` is only a run.
    for run in ["one", "workers"] {
        here.publish_result(&result(run, "a"), None).await.expect("publish");
        here.publish_progress(&progress(run, "b")).await;
    }
    for worker in ["w1", "w2"] {
        here.publish_heartbeat(&heartbeat(worker)).await;
    }
    for worker in ["w1", "w2"] {
        let next = timeout(LIMIT, heard.next()).await.expect("one comes").expect("connected");
        assert_eq!(next.worker, worker, "and nothing that is no heartbeat was tried as one");
    }
    for _ in 0..2 {
        let run = match event(&mut workers).await {
            Event::Result(result) => result.run,
            Event::Progress(progress) => progress.run,
        };
        assert_eq!(run.as_str(), "workers");
    }
}

pub(super) async fn control_reaches_all_listeners(place: &dyn Place) {
    let (here, there) = (place.open().await, place.open().await);
    let mut listeners = [
        here.listen().await.expect("listen"),
        there.listen().await.expect("listen"),
        there.listen().await.expect("listen"),
    ];
    let words = [
        Control::Cancelled { run: name("mine"), job: None },
        Control::Report,
        Control::Drain { worker: "w1".into(), only_if: Some(Spare::Idle) },
    ];
    for word in &words {
        here.publish_control(word).await.expect("say");
    }
    for listener in &mut listeners {
        for word in &words {
            assert_eq!(&control(listener).await, word);
        }
    }
}

pub(super) async fn a_client_gets_its_answer(place: &dyn Place) {
    let queue = place.open().await;
    place.reply_queue("test-answers").await;
    let sent = result("mine", "a");
    let reply = Reply { queue: "test-answers".into(), correlation_id: Some("42".into()) };
    queue.publish_result(&sent, Some(&reply)).await.expect("publish");
    let give_up = std::time::Instant::now() + LIMIT;
    let (correlation, body) = loop {
        if let Some(answer) = place.take_reply("test-answers").await {
            break answer;
        }
        assert!(std::time::Instant::now() < give_up, "no answer");
        sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(correlation.as_deref(), Some("42"));
    assert_eq!(serde_json::from_slice::<JobResult>(&body).expect("a result"), sent);
}

pub(super) async fn an_answer_that_nobody_takes_is_no_error(place: &dyn Place) {
    let queue = place.open().await;
    let mut watcher = queue.watch(&name("mine")).await.expect("watch");
    let bad = ["nobody-has-this-queue", "gannet.v1.trials", "amq.gen-x", "amq.rabbitmq.reply-to.gone", ""];
    for reply in bad.map(|queue| Reply { queue: queue.into(), correlation_id: None }) {
        queue.publish_result(&result("mine", "a"), Some(&reply)).await.expect("the result itself is published");
        assert!(matches!(event(&mut watcher).await, Event::Result(_)));
    }
    until_ready(&queue, Kind::Trial, 0).await;
    queue.publish(&letters(Kind::Trial, 1)).await.expect("nothing is broken by it");
}

pub(super) async fn what_is_too_large_is_said(place: &dyn Place) {
    let queue = place.open().await;
    let mut large = result("mine", "a");
    large.nonce = "x".repeat(300_000);
    for error in [
        queue.publish_result(&large, None).await.expect_err("too large"),
        queue.publish(&[letter(Kind::Trial, &[b' '; 262_145])]).await.expect_err("too large"),
    ] {
        assert!(matches!(error, QueueError::TooLarge { limit: 262_144, .. }), "{error}");
        assert!(!error.is_passing());
    }
}

pub(super) async fn depths_count(place: &dyn Place) {
    let queue = place.open().await;
    queue.publish(&letters(Kind::Trial, 3)).await.expect("publish");
    queue.publish(&letters(Kind::Batch, 1)).await.expect("publish");
    let dead = DeadLetter::of(&letter(Kind::Trial, b"{}"), "error", Vec::new(), "w1");
    queue.bury(&dead).await.expect("bury");
    let mut deliveries = queue.consume(Kind::Trial, 1).await.expect("consume");
    let _held = next(&mut deliveries).await;
    until_ready(&queue, Kind::Trial, 2).await;
    until_ready(&queue, Kind::Batch, 1).await;
    let depths = by_name(queue.depths().await.expect("depths"));
    assert_eq!(depths[&topology::queue_of(Kind::Trial)].consumers, 1);
    assert_eq!(depths[&topology::queue_of(Kind::Batch)].consumers, 0);
    assert_eq!(depths[&topology::dead()].ready, 1);
}

pub(super) async fn many_letters_are_taken_once(place: &dyn Place) {
    const MANY: usize = 1_000;
    let queue = place.open().await;
    let mut consumers = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let queue = place.open().await;
        consumers.spawn(async move {
            let mut deliveries = queue.consume(Kind::Batch, 8).await.expect("consume");
            let mut bodies = Vec::new();
            loop {
                let delivery = next(&mut deliveries).await;
                let body = delivery.letter.body.clone();
                delivery.receipt.ack().await.expect("ack");
                if body == b"end" {
                    return bodies;
                }
                bodies.push(body);
            }
        });
    }
    queue.publish(&letters(Kind::Batch, MANY)).await.expect("publish");
    until_ready(&queue, Kind::Batch, 0).await;
    // One for each: whoever has it stops.
    for _ in 0..2 {
        queue.publish(&[letter(Kind::Batch, b"end")]).await.expect("publish");
        until_ready(&queue, Kind::Batch, 0).await;
    }
    let taken: Vec<Vec<u8>> = consumers.join_all().await.into_iter().flatten().collect();
    assert_eq!(taken.len(), MANY);
    assert_eq!(taken.into_iter().collect::<HashSet<_>>().len(), MANY);
}

fn letter(kind: Kind, body: &[u8]) -> Letter {
    let headers = Headers { message_id: fresh_message_id(), ..Headers::default() };
    Letter { kind, body: body.to_vec(), headers }
}

fn letters(kind: Kind, many: usize) -> Vec<Letter> {
    (0..many).map(|n| letter(kind, format!("{{\"n\": {n}}}").as_bytes())).collect()
}

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

pub(super) fn result(run: &str, id: &str) -> JobResult {
    JobResult {
        id: JobId::new(id).expect("an id"),
        run: name(run),
        kind: Kind::Trial,
        status: Status::Cancelled,
        worker: "w1".into(),
        attempt: 1,
        simd: None,
        finished_at: jiff::Timestamp::now(),
        durations: Durations::default(),
        costs: Cost::default(),
        outcome: None,
        outcome_ref: None,
        error: None,
        nonce: "n".into(),
    }
}

fn progress(run: &str, id: &str) -> Progress {
    let id = JobId::new(id).expect("an id");
    Progress { id, run: name(run), worker: "w1".into(), fraction: 0.5, epoch: None }
}

fn heartbeat(worker: &str) -> Heartbeat {
    Heartbeat {
        worker: worker.into(),
        host: "h".into(),
        pid: 1,
        version: "0".into(),
        slots: 1,
        kinds: Kind::ALL.to_vec(),
        draining: false,
        running: Vec::new(),
        settled: 0,
        at: jiff::Timestamp::now(),
    }
}

async fn next(deliveries: &mut Box<dyn Deliveries>) -> Delivery {
    timeout(LIMIT, deliveries.next()).await.expect("a delivery comes").expect("connected")
}

async fn event(events: &mut Box<dyn Events>) -> Event {
    timeout(LIMIT, events.next()).await.expect("an event comes").expect("connected")
}

async fn control(controls: &mut Box<dyn Controls>) -> Control {
    timeout(LIMIT, controls.next()).await.expect("a word comes").expect("connected")
}

async fn nothing_comes(deliveries: &mut Box<dyn Deliveries>) {
    if let Ok(delivery) = timeout(QUIET, deliveries.next()).await {
        let letter = delivery.expect("connected").letter;
        panic!("a delivery that should not come: {:?}", String::from_utf8_lossy(&letter.body));
    }
}

/// Waits until so many letters of `kind` wait for a consumer.
async fn until_ready(queue: &Arc<dyn Queue>, kind: Kind, expected: u64) {
    let give_up = std::time::Instant::now() + LIMIT;
    loop {
        let ready = by_name(queue.depths().await.expect("depths"))[&topology::queue_of(kind)].ready;
        if ready == expected {
            return;
        }
        assert!(std::time::Instant::now() < give_up, "{ready} letters wait, not {expected}");
        sleep(Duration::from_millis(20)).await;
    }
}
