//! Traces: a job's way from `enqueue` to its result as spans of one trace, sent to an OpenTelemetry collector over OTLP.
//!
//! Off unless `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is set, and then a [`Span`] is nothing and costs nothing. The other
//! standard variables are read, too: <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>. Ended
//! spans go to a bounded queue that a thread empties; what a slow or dead collector leaves no room for is dropped, and
//! nobody waits.
//!
//! A job's trace follows from its message unless its client began one ([`letters`]), so that whoever has the message
//! finds the trace: no state is kept anywhere.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

pub use opentelemetry::KeyValue;
use opentelemetry::trace::{Link, SpanContext, SpanId, SpanKind, Status, TraceFlags, TraceId, TraceState};
use opentelemetry::{InstrumentationScope, Value};
use opentelemetry_sdk::trace::{BatchSpanProcessor, SpanData, SpanEvents, SpanLinks, SpanProcessor as _};
use rand::RngExt as _;

use self::sampler::Sampler;

mod exporter;
pub mod letters;
mod sampler;

static TRACES: OnceLock<Traces> = OnceLock::new();

#[derive(Debug)]
struct Traces {
    processor: BatchSpanProcessor,
    sampler: Sampler,
    scope: InstrumentationScope,
}

/// Starts to send traces, where the environment asks for it, as `service` unless that says another name. `instance` tells
/// this process from others of its sort. To be called once.
///
/// # Errors
/// A variable that cannot be used, and what is accepted.
pub fn start(service: &'static str, instance: &str) -> Result<(), String> {
    let lookup = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if !exporter::is_wanted(&lookup) {
        return Ok(());
    }
    let traces = Traces {
        sampler: Sampler::read(&lookup)?,
        processor: exporter::processor(service, instance, &lookup)?,
        scope: InstrumentationScope::builder("gannet").with_version(env!("CARGO_PKG_VERSION")).build(),
    };
    drop(TRACES.set(traces));
    Ok(())
}

/// Sends what is left, for at most so long.
pub fn finish(limit: Duration) {
    if let Some(traces) = TRACES.get()
        && let Err(error) = traces.processor.shutdown_with_timeout(limit)
    {
        tracing::debug!(%error, "the last spans are lost");
    }
}

/// Whether traces are sent at all.
pub fn are_on() -> bool {
    TRACES.get().is_some()
}

/// A span of a trace, as it travels: <https://www.w3.org/TR/trace-context/#traceparent-header>.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    trace: TraceId,
    span: SpanId,
    sampled: bool,
}

impl Place {
    /// Reads a `traceparent`. `None` where it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('-').collect();
        let [version, trace, span, flags, more @ ..] = parts.as_slice() else { return None };
        let is_hex = |text: &str, length| {
            text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        };
        let fits = is_hex(version, 2) && is_hex(trace, 32) && is_hex(span, 16) && is_hex(flags, 2);
        // Later versions may say more.
        if !fits || *version == "ff" || (*version == "00" && !more.is_empty()) {
            return None;
        }
        let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
        let sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        (trace != TraceId::INVALID && span != SpanId::INVALID).then_some(Self { trace, span, sampled })
    }

    fn context(self, is_remote: bool) -> SpanContext {
        let flags = if self.sampled { TraceFlags::SAMPLED } else { TraceFlags::NOT_SAMPLED };
        SpanContext::new(self.trace, self.span, flags, is_remote, TraceState::NONE)
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// Something that takes time. It ends when it is dropped. Nothing where traces are off, or this one is not sampled.
#[derive(Debug, Default)]
pub struct Span {
    /// Known also where the trace is not sampled: whoever comes next must not sample it either.
    place: Option<Place>,
    data: Option<Box<SpanData>>,
}

impl Span {
    /// Whether anybody will see it.
    pub fn is_seen(&self) -> bool {
        self.data.is_some()
    }

    /// Where it is, for whoever goes on from there.
    pub fn place(&self) -> Option<Place> {
        self.place
    }

    /// Its trace's id, for a log line.
    pub fn trace(&self) -> Option<String> {
        self.data.is_some().then(|| self.place.map(|place| place.trace.to_string())).flatten()
    }

    /// A part of it that begins now.
    #[must_use]
    pub fn child(&self, name: &'static str) -> Self {
        self.child_at(name, SystemTime::now())
    }

    /// A part of it that began at `since`.
    #[must_use]
    pub fn child_since(&self, name: &'static str, since: Instant) -> Self {
        self.child_at(name, at(since))
    }

    /// A part of it that is over.
    pub fn child_between(&self, name: &'static str, from: Instant, to: Instant, attributes: Vec<KeyValue>) {
        let mut child = self.child_at(name, at(from));
        if let Some(data) = child.data.take() {
            send(SpanData { end_time: at(to), attributes, ..*data });
        }
    }

    fn child_at(&self, name: &'static str, start: SystemTime) -> Self {
        let (Some(place), true) = (self.place, self.data.is_some()) else { return Self::default() };
        let kind = SpanKind::Internal;
        begin(name.into(), kind, Place { span: fresh_span(), ..place }, Some((place.span, false)), start)
    }

    /// Says more of it.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        if let Some(data) = &mut self.data {
            data.attributes.push(KeyValue::new(key, value));
        }
    }

    /// It failed.
    pub fn fail(&mut self, why: impl fmt::Display) {
        if let Some(data) = &mut self.data {
            data.status = Status::error(why.to_string());
        }
    }

    fn link(&mut self, to: Place) {
        if let Some(data) = &mut self.data {
            data.links.links.push(Link::with_context(to.context(true)));
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(data) = self.data.take() {
            send(SpanData { end_time: SystemTime::now(), ..*data });
        }
    }
}

/// A span at `place`; `parent` says also whether it is another process's.
fn begin(
    name: Cow<'static, str>,
    kind: SpanKind,
    place: Place,
    parent: Option<(SpanId, bool)>,
    start: SystemTime,
) -> Span {
    let Some(traces) = TRACES.get() else { return Span::default() };
    let (parent_span_id, parent_span_is_remote) = parent.unwrap_or((SpanId::INVALID, false));
    let data = place.sampled.then(|| SpanData {
        span_context: place.context(false),
        parent_span_id,
        parent_span_is_remote,
        span_kind: kind,
        name,
        start_time: start,
        end_time: start,
        attributes: Vec::new(),
        dropped_attributes_count: 0,
        events: SpanEvents::default(),
        links: SpanLinks::default(),
        status: Status::Unset,
        instrumentation_scope: traces.scope.clone(),
    });
    Span { place: Some(place), data: data.map(Box::new) }
}

/// Never waits: where the queue is full the span is dropped.
fn send(span: SpanData) {
    if let Some(traces) = TRACES.get() {
        traces.processor.on_end(span);
    }
}

fn fresh_span() -> SpanId {
    // All zeros are none; that never happens.
    SpanId::from_bytes(rand::rng().random_range(1..=u64::MAX).to_be_bytes())
}

fn at(then: Instant) -> SystemTime {
    SystemTime::now() - then.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_goes_round_and_nothing_else_is_one() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let place = Place::parse(text).expect("W3C's example");
        assert_eq!(place.to_string(), text);
        assert!(place.sampled && !Place::parse(&text.replace("-01", "-00")).expect("not sampled").sampled);
        assert!(Place::parse(&text.replace("-01", "-03")).expect("other flags are ignored").sampled);
        assert!(Place::parse(&text.replace("00-", "cc-")).is_some(), "a later version");
        assert!(Place::parse(&format!("{}-more", text.replace("00-0", "cc-0"))).is_some(), "which may say more");
        for wrong in [
            "",
            "00",
            &text.to_uppercase(),
            &text.replace("00-0", "ff-0"),
            &format!("{text}-more"),
            &text[..text.len() - 1],
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319ä-b7ad6b7169203331-01",
        ] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn where_traces_are_off_a_span_is_nothing() {
        let mut span = Span::default().child("x");
        span.set("key", "value");
        span.fail("why");
        assert!(!span.is_seen() && span.place().is_none() && span.trace().is_none());
    }
}
