//! A job's trace in its letter's headers.
//!
//! `traceparent` is the `enqueue` span, or a client's own; the `receive` spans of all deliveries, slices and attempts are its
//! children. Without one the trace's id is taken from the message's digest, so that a job that no client traces has one
//! trace all the same. `gannet-previous` is the span of the delivery that published the letter: the next one has a link
//! to it. A delivery that comes again has a link to the first one of its letter, whose span's id follows from the letter.

use std::time::SystemTime;

use opentelemetry::trace::{SpanId, SpanKind, TraceId};

use super::{Place, Span, TRACES, begin, fresh_span};
use crate::contract::{Job, JobResult};
use crate::digest::Digest;
use crate::queue::Letter;

/// Whether somebody enqueues a job for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Time {
    /// For the first time: the span's id follows from the job, so that whoever collects its result finds it.
    First,
    /// Not for the first time.
    Again,
}

/// Begins the spans of letters that are about to be published, one for each job, and puts them into the headers. A letter
/// that has a `traceparent` goes on from there.
pub fn enqueue<'a>(letters: &mut [Letter], jobs: impl IntoIterator<Item = &'a Job>, time: Time) -> Vec<Span> {
    let Some(traces) = TRACES.get() else { return Vec::new() };
    let each = letters.iter_mut().zip(jobs).map(|(letter, job)| {
        let parent = letter.headers.traceparent.as_deref().and_then(Place::parse);
        let trace = parent.map_or_else(|| trace_of(&letter.body), |parent| parent.trace);
        let sampled = traces.sampler.takes(trace, parent.map(|parent| parent.sampled));
        let span = if time == Time::First { enqueue_span(&letter.body) } else { fresh_span() };
        let place = Place { trace, span, sampled };
        let parent = parent.map(|parent| (parent.span, true));
        let mut span = begin("enqueue".into(), SpanKind::Producer, place, parent, SystemTime::now());
        describe(&mut span, job);
        letter.headers.traceparent = Some(place.to_string());
        span
    });
    each.collect()
}

/// Begins the span of a delivery. `identity` tells its letter from others, and `redelivered` that it was delivered before.
pub fn receive(letter: &Letter, job: &Job, identity: &str, redelivered: bool) -> Span {
    let Some(traces) = TRACES.get() else { return Span::default() };
    let headers = &letter.headers;
    let parent = headers.traceparent.as_deref().and_then(Place::parse);
    let trace = parent.map_or_else(|| trace_of(&letter.body), |parent| parent.trace);
    let sampled = traces.sampler.takes(trace, parent.map(|parent| parent.sampled));
    let first = first_span(identity, headers.slice, headers.previous.as_deref());
    let place = Place { trace, span: if redelivered { fresh_span() } else { first }, sampled };
    let parent = parent.map(|parent| (parent.span, true));
    let mut span = begin("receive".into(), SpanKind::Consumer, place, parent, SystemTime::now());
    describe(&mut span, job);
    span.set("gannet.slice", i64::from(headers.slice));
    span.set("gannet.redelivered", redelivered);
    if redelivered {
        span.link(Place { span: first, ..place });
    } else if let Some(before) = headers.previous.as_deref().and_then(|hex| SpanId::from_hex(hex).ok()) {
        span.link(Place { span: before, ..place });
    }
    span
}

/// Notes in a letter that the delivery of `span` publishes which one that is.
pub fn hand_on(next: &mut Letter, span: &Span) {
    next.headers.previous = span.data.as_ref().map(|data| data.span_context.span_id().to_string());
}

/// The span of a result that the producer of its job has heard of: a child of the one that enqueued it.
pub fn collect(job: &Job, result: &JobResult) -> Span {
    let Some(traces) = TRACES.get() else { return Span::default() };
    let body = Letter::new(job).body;
    let trace = trace_of(&body);
    let place = Place { trace, span: fresh_span(), sampled: traces.sampler.takes(trace, None) };
    let parent = Some((enqueue_span(&body), true));
    let mut span = begin("collect".into(), SpanKind::Consumer, place, parent, SystemTime::now());
    describe(&mut span, job);
    span.set("gannet.status", result.status.as_str());
    span
}

fn describe(span: &mut Span, job: &Job) {
    if span.is_seen() {
        span.set("gannet.run", job.run.to_string());
        span.set("gannet.job", job.id.to_string());
        span.set("gannet.kind", job.kind().as_str());
    }
}

fn trace_of(body: &[u8]) -> TraceId {
    TraceId::from_bytes(beginning(body))
}

fn enqueue_span(body: &[u8]) -> SpanId {
    let digest: [u8; 24] = beginning(body);
    SpanId::from_bytes(digest[16..].try_into().expect("eight bytes"))
}

fn first_span(identity: &str, slice: u32, previous: Option<&str>) -> SpanId {
    SpanId::from_bytes(beginning(format!("{identity}/{slice}/{}", previous.unwrap_or_default()).as_bytes()))
}

/// The first bytes of a digest.
fn beginning<const N: usize>(of: &[u8]) -> [u8; N] {
    let digest = Digest::of(of).to_string();
    let mut bytes = [0; N];
    hex::decode_to_slice(&digest[..2 * N], &mut bytes).expect("a digest is hexadecimal");
    bytes
}
