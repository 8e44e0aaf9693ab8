//! Sends spans to a collector: OTLP over HTTP, protobuf. On a thread of its own, through the HTTP client and the TLS that
//! the programs have anyway.

use std::fmt;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SpanProcessor as _};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Spans that may wait: those of a command that enqueues two thousand jobs at once, and of a worker's busiest seconds.
const QUEUE: usize = 8192;
/// What the specification says for `OTEL_EXPORTER_OTLP_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A collector that is down is told of at most this often.
const SAY_EVERY: Duration = Duration::from_secs(60);
/// Of an answer.
const LONGEST: u64 = 1 << 20;

/// Whether the environment names a collector.
pub(super) fn is_wanted(lookup: Lookup<'_>) -> bool {
    let says = |name: &str, value: &str| lookup(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
    let named = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
    named.iter().any(|name| lookup(name).is_some())
        && !says("OTEL_SDK_DISABLED", "true")
        && !says("OTEL_TRACES_EXPORTER", "none")
}

/// The queue, its thread, and the way to the collector.
///
/// # Errors
/// A variable that cannot be used.
pub(super) fn processor(
    service: &'static str,
    instance: &str,
    lookup: Lookup<'_>,
) -> Result<BatchSpanProcessor, String> {
    for name in ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"] {
        if let Some(protocol) = lookup(name).filter(|protocol| protocol != "http/protobuf") {
            return Err(format!(
                "{name} is `{protocol}`: http/protobuf is accepted (most collectors listen for it at port 4318)"
            ));
        }
    }
    let exporter = SpanExporter::builder().with_http().with_http_client(Client::new(lookup)?).build();
    let exporter = exporter.map_err(|error| {
        format!("{error} (the variables are OTEL_EXPORTER_OTLP_…: an endpoint like http://localhost:4318 is accepted)")
    })?;
    let config = BatchConfigBuilder::default();
    let config = if lookup("OTEL_BSP_MAX_QUEUE_SIZE").is_none() { config.with_max_queue_size(QUEUE) } else { config };
    let mut processor = BatchSpanProcessor::new(exporter, config.build());
    processor.set_resource(&resource(service, instance, lookup));
    Ok(processor)
}

fn resource(service: &'static str, instance: &str, lookup: Lookup<'_>) -> Resource {
    // Reads OTEL_RESOURCE_ATTRIBUTES and OTEL_SERVICE_NAME.
    let resource = Resource::builder();
    let named = lookup("OTEL_SERVICE_NAME").is_some()
        || lookup("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|text| text.contains("service.name="));
    let resource = if named { resource } else { resource.with_service_name(service) };
    let own = [("service.version", env!("CARGO_PKG_VERSION")), ("service.instance.id", instance)];
    resource.with_attributes(own.map(|(key, value)| KeyValue::new(key, value.to_owned()))).build()
}

struct Client {
    agent: ureq::Agent,
    /// When it was last said that the collector does not take them.
    said: Mutex<Option<Instant>>,
}

impl Client {
    fn new(lookup: Lookup<'_>) -> Result<Self, String> {
        let either = |end: &str| {
            let names = ["TRACES_", ""].map(|part| format!("OTEL_EXPORTER_OTLP_{part}{end}"));
            names.into_iter().find_map(|name| lookup(&name).map(|value| (name, value)))
        };
        let timeout = match either("TIMEOUT") {
            None => TIMEOUT,
            Some((name, text)) => Duration::from_millis(
                text.parse().map_err(|_| format!("{name} is `{text}`: milliseconds are accepted, like 10000"))?,
            ),
        };
        let mut config = ureq::Agent::config_builder().timeout_global(Some(timeout)).http_status_as_error(false);
        if let Some((name, path)) = either("CERTIFICATE") {
            let roots =
                certificates(&path).map_err(|why| format!("{name} is `{path}`: {why}; a PEM file is accepted"))?;
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        Ok(Self { agent: config.build().into(), said: Mutex::default() })
    }

    fn say(&self, why: &dyn fmt::Display) {
        let mut said = self.said.lock().expect("no panic holds it");
        if said.is_none_or(|said| said.elapsed() >= SAY_EVERY) {
            *said = Some(Instant::now());
            tracing::warn!(error = %why, "the collector does not take traces: they are dropped meanwhile");
        }
    }
}

fn certificates(path: &str) -> Result<RootCerts, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let mut found = Vec::new();
    for item in parse_pem(&pem) {
        if let PemItem::Certificate(certificate) = item.map_err(|error| error.to_string())? {
            found.push(certificate);
        }
    }
    if found.is_empty() { Err("it holds no certificate".into()) } else { Ok(RootCerts::new_with_certs(&found)) }
}

#[async_trait]
impl HttpClient for Client {
    /// Blocks: it is called by the spans' own thread alone.
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let sent = self.agent.run(request.map(|body| body.to_vec())).and_then(|response| {
            let (head, mut body) = response.into_parts();
            Ok(Response::from_parts(head, Bytes::from(body.with_config().limit(LONGEST).read_to_vec()?)))
        });
        match &sent {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => self.say(&format!("it answers {}", response.status())),
            Err(error) => self.say(error),
        }
        Ok(sent?)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}
