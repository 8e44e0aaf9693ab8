//! A collector of traces: OTLP over HTTP, protobuf, as real ones speak it. Keeps what it hears.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::Message as _;
use tokio::net::TcpListener;

/// A span, as it was heard.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The name of the program, as it gives it.
    pub service: String,
    /// Its trace, in hexadecimal.
    pub trace: String,
    /// Its own id, likewise.
    pub id: String,
    /// Its parent's; empty where it has none.
    pub parent: String,
    /// What it is called.
    pub name: String,
    /// Its attributes, as text.
    pub attributes: BTreeMap<String, String>,
    /// The spans it has links to: trace and id.
    pub links: Vec<(String, String)>,
    /// What it failed of, if it did.
    pub error: Option<String>,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Likewise.
    pub end: u64,
}

/// A running collector.
#[derive(Debug)]
pub struct Collector {
    endpoint: String,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Collector {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// There is none.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind the collector")?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let kept = Arc::clone(&seen);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let kept = Arc::clone(&kept);
                let hear = service_fn(move |request| hear(request, Arc::clone(&kept)));
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), hear));
            }
        });
        Ok(Self { endpoint, seen })
    }

    /// The variables of a program that sends its traces here.
    pub fn env(&self) -> Vec<(String, String)> {
        vec![("OTEL_EXPORTER_OTLP_ENDPOINT".into(), self.endpoint.clone())]
    }

    /// All spans that were heard so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic holds it").clone()
    }
}

async fn hear(request: Request<Incoming>, kept: Arc<Mutex<Vec<Seen>>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let is_otlp = head.uri.path() == "/v1/traces"
        && head.headers.get("content-type").is_some_and(|media| media == "application/x-protobuf");
    let decoded = match body.collect().await {
        Ok(body) if is_otlp => ExportTraceServiceRequest::decode(body.to_bytes()).ok(),
        _ => None,
    };
    let mut response = Response::new(Full::default());
    match decoded {
        Some(request) => kept.lock().expect("no panic holds it").extend(spans(request)),
        None => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

fn spans(request: ExportTraceServiceRequest) -> Vec<Seen> {
    let mut seen = Vec::new();
    for resource in request.resource_spans {
        let about = resource.resource.map(|resource| texts(resource.attributes)).unwrap_or_default();
        let service = about.get("service.name").cloned().unwrap_or_default();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            seen.push(Seen {
                service: service.clone(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                name: span.name,
                attributes: texts(span.attributes),
                links: span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
                // 2: an error.
                error: span.status.filter(|status| status.code == 2).map(|status| status.message),
                start: span.start_time_unix_nano,
                end: span.end_time_unix_nano,
            });
        }
    }
    seen
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|pair| (pair.key, text(pair.value.and_then(|value| value.value)))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
