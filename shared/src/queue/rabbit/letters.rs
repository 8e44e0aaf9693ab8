//! Letters as AMQP messages: properties and headers, written strictly and read with patience, since foreign clients
//! write them too. Moves no messages.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use crate::contract::Kind;
use crate::queue::{Attempts, DeadLetter, Headers, Letter, Reply, fresh_message_id, topology};

const SLICE: &str = "gannet-slice";
const ATTEMPTS: &str = "gannet-attempts";
const TRACEPARENT: &str = "traceparent";
const PREVIOUS: &str = "gannet-previous";
/// Milliseconds since 1970. The property `timestamp`, which other clients may set, has whole seconds only.
const ENQUEUED: &str = "gannet-enqueued";

/// W3C's has 55 characters. A client's long one beside our own headers could outgrow a frame, which costs the connection.
const LONGEST_TRACEPARENT: usize = 64;

/// The properties of a persistent JSON message.
pub(super) fn json_properties(message_id: &str) -> BasicProperties {
    let id = if message_id.is_empty() { fresh_message_id() } else { message_id.to_owned() };
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_delivery_mode(2)
        .with_message_id(ShortString::try_new(id).unwrap_or_else(|_| fresh_message_id().into()))
}

/// The properties of a letter that is due at `due`. Only our own headers go out again: `x-death` and a client's others stay behind.
pub(super) fn properties(headers: &Headers, due: SystemTime) -> BasicProperties {
    let mut table = FieldTable::default();
    table.insert(SLICE.into(), AMQPValue::LongLongInt(headers.slice.into()));
    let attempts = serde_json::to_string(&headers.attempts).expect("three numbers");
    table.insert(ATTEMPTS.into(), AMQPValue::LongString(attempts.into()));
    for (name, value) in [(TRACEPARENT, &headers.traceparent), (PREVIOUS, &headers.previous)] {
        if let Some(value) = value {
            table.insert(name.into(), AMQPValue::LongString(value.as_str().into()));
        }
    }
    let since_1970 = due.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    table.insert(ENQUEUED.into(), AMQPValue::LongLongInt(i64::try_from(since_1970).unwrap_or(i64::MAX)));
    let properties = json_properties(&headers.message_id).with_headers(table);
    match &headers.reply {
        None => properties,
        Some(reply) => with_correlation(properties.with_reply_to(topology::short(&reply.queue)), reply),
    }
}

/// Repeats a client's correlation id.
pub(super) fn with_correlation(properties: BasicProperties, reply: &Reply) -> BasicProperties {
    match reply.correlation_id.as_ref().map(ShortString::try_new) {
        Some(Ok(id)) => properties.with_correlation_id(id),
        _ => properties,
    }
}

/// A delivered letter, whoever wrote it.
pub(super) fn read(kind: Kind, properties: &BasicProperties, body: Vec<u8>) -> Letter {
    let text = |value: &Option<ShortString>| value.as_ref().map(ToString::to_string);
    let header = |name: &str| properties.headers().as_ref().and_then(|table| table.inner().get(name));
    let reply = text(properties.reply_to()).filter(|queue| !queue.is_empty());
    let short = |name: &str| header(name).and_then(words).filter(|words| words.len() <= LONGEST_TRACEPARENT);
    Letter {
        kind,
        body,
        headers: Headers {
            message_id: text(properties.message_id()).unwrap_or_default(),
            reply: reply.map(|queue| Reply { queue, correlation_id: text(properties.correlation_id()) }),
            traceparent: short(TRACEPARENT),
            previous: short(PREVIOUS),
            slice: header(SLICE).and_then(number).and_then(|slice| u32::try_from(slice).ok()).unwrap_or(0),
            attempts: header(ATTEMPTS).and_then(words).map_or_else(Attempts::default, |json| attempts(&json)),
        },
    }
}

/// When a letter was enqueued, where it says so.
pub(super) fn enqueued(properties: &BasicProperties) -> Option<SystemTime> {
    let header = properties.headers().as_ref().and_then(|table| table.inner().get(ENQUEUED)).and_then(number);
    let after_1970 = match (header, properties.timestamp()) {
        (Some(millis), _) => Duration::from_millis(u64::try_from(millis).ok()?),
        (None, Some(seconds)) => Duration::from_secs(*seconds),
        (None, None) => return None,
    };
    UNIX_EPOCH.checked_add(after_1970)
}

/// A dead letter: ours as it was written, or a job that the broker itself put away.
pub(super) fn read_dead(delivery: &Delivery) -> DeadLetter {
    if let Ok(dead) = serde_json::from_slice(&delivery.data) {
        return dead;
    }
    let key = delivery.routing_key.as_str();
    let kind = Kind::ALL.into_iter().find(|kind| topology::queue_of(*kind) == key).unwrap_or(Kind::Trial);
    let letter = read(kind, &delivery.properties, delivery.data.clone());
    let death = death(&delivery.properties);
    let reason = death.and_then(|death| death.inner().get("reason")).and_then(words);
    let errors = vec![format!("put away by the broker: {}", reason.unwrap_or_else(|| "unknown".into()))];
    // However often it is read: its id follows from its content.
    let at = match death.and_then(|death| death.inner().get("time")) {
        Some(AMQPValue::Timestamp(seconds)) => i64::try_from(*seconds).ok(),
        _ => None,
    };
    let at = at.and_then(|seconds| jiff::Timestamp::from_second(seconds).ok()).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
    DeadLetter { at, ..DeadLetter::of(&letter, "broker", errors, "") }
}

/// The first entry of `x-death`; its `reason` is `delivery_limit`, `expired` or `rejected`.
fn death(properties: &BasicProperties) -> Option<&FieldTable> {
    let AMQPValue::FieldArray(deaths) = properties.headers().as_ref()?.inner().get("x-death")? else { return None };
    let AMQPValue::FieldTable(death) = deaths.as_slice().first()? else { return None };
    Some(death)
}

fn words(value: &AMQPValue) -> Option<String> {
    match value {
        AMQPValue::LongString(text) => Some(text.to_string()),
        AMQPValue::ShortString(text) => Some(text.to_string()),
        AMQPValue::ByteArray(bytes) => String::from_utf8(bytes.as_slice().to_vec()).ok(),
        _ => None,
    }
}

/// Clients write whole numbers in whatever width their library prefers, some as text.
fn number(value: &AMQPValue) -> Option<i64> {
    match value {
        AMQPValue::ShortShortInt(n) => Some((*n).into()),
        AMQPValue::ShortShortUInt(n) => Some((*n).into()),
        AMQPValue::ShortInt(n) => Some((*n).into()),
        AMQPValue::ShortUInt(n) => Some((*n).into()),
        AMQPValue::LongInt(n) => Some((*n).into()),
        AMQPValue::LongUInt(n) => Some((*n).into()),
        AMQPValue::LongLongInt(n) => Some(*n),
        other => words(other)?.trim().parse().ok(),
    }
}

/// What cannot be read counts as no attempts: the store has its own record of the crashes.
fn attempts(json: &str) -> Attempts {
    serde_json::from_str(json).unwrap_or_else(|error| {
        tracing::debug!(%error, "the header {ATTEMPTS} cannot be read: counted as no attempts");
        Attempts::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_header(name: &str, value: AMQPValue) -> Letter {
        let mut table = FieldTable::default();
        table.insert(name.into(), value);
        read(Kind::Batch, &BasicProperties::default().with_headers(table), b"{}".to_vec())
    }

    #[test]
    fn our_own_headers_come_back_as_they_were() {
        let headers = Headers {
            message_id: "an-id".into(),
            reply: Some(Reply { queue: "answers".into(), correlation_id: Some("7".into()) }),
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            previous: Some("b7ad6b7169203331".into()),
            slice: 3,
            attempts: Attempts { errors: 1, crashes: 2, preemptions: 3 },
        };
        let due = UNIX_EPOCH + Duration::from_millis(1_234_567);
        let properties = properties(&headers, due);
        assert_eq!(read(Kind::Trial, &properties, Vec::new()).headers, headers);
        assert_eq!(enqueued(&properties), Some(due));
    }

    #[test]
    fn a_message_without_anything_is_read() {
        let letter = read(Kind::Trial, &BasicProperties::default(), b"x".to_vec());
        assert_eq!(letter, Letter { kind: Kind::Trial, body: b"x".to_vec(), headers: Headers::default() });
    }

    #[test]
    fn a_client_may_say_when_it_enqueued_in_whole_seconds() {
        let stamped = BasicProperties::default().with_timestamp(7);
        assert_eq!(enqueued(&stamped), Some(UNIX_EPOCH + Duration::from_secs(7)));
        assert_eq!(enqueued(&BasicProperties::default()), None);
        assert_eq!(enqueued(&BasicProperties::default().with_timestamp(u64::MAX)), None, "no such time");
    }

    #[test]
    fn whole_numbers_of_any_width_are_a_slice_and_nonsense_is_none() {
        for (value, slice) in [
            (AMQPValue::ShortShortInt(2), 2),
            (AMQPValue::ShortShortUInt(2), 2),
            (AMQPValue::ShortInt(2), 2),
            (AMQPValue::ShortUInt(2), 2),
            (AMQPValue::LongInt(2), 2),
            (AMQPValue::LongUInt(2), 2),
            (AMQPValue::LongLongInt(2), 2),
            (AMQPValue::LongString("2".into()), 2),
            (AMQPValue::LongLongInt(-2), 0),
            (AMQPValue::LongLongInt(i64::MAX), 0),
            (AMQPValue::Double(2.0), 0),
            (AMQPValue::Void, 0),
        ] {
            assert_eq!(with_header(SLICE, value.clone()).headers.slice, slice, "{value:?}");
        }
    }

    #[test]
    fn attempts_that_cannot_be_read_are_none() {
        let read = |text: &str| with_header(ATTEMPTS, AMQPValue::LongString(text.into())).headers.attempts;
        assert_eq!(read(r#"{"errors": 2}"#), Attempts { errors: 2, ..Attempts::default() });
        for broken in ["", "2", "{", r#"{"errors": -1}"#, r#"{"other": 1}"#] {
            assert_eq!(read(broken), Attempts::default(), "{broken}");
        }
    }

    #[test]
    fn a_job_that_the_broker_put_away_says_why() {
        let mut death = FieldTable::default();
        death.insert("reason".into(), AMQPValue::LongString("delivery_limit".into()));
        let mut table = FieldTable::default();
        table.insert("x-death".into(), AMQPValue::FieldArray(vec![AMQPValue::FieldTable(death)].into()));
        let key = topology::queue_of(Kind::Batch);
        let mut delivery = Delivery::mock(1, "".into(), key.into(), false, b"{\"id\": 1}".to_vec());
        delivery.properties = BasicProperties::default().with_headers(table);
        let dead = read_dead(&delivery);
        assert_eq!((dead.kind, dead.job.as_deref()), (Kind::Batch, Some("{\"id\": 1}")));
        assert_eq!(dead.errors, ["put away by the broker: delivery_limit"]);
    }
}
