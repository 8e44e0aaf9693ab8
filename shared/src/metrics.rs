//! What a running program tells its operators over HTTP: `/metrics`, `/healthz`, `/readyz`.
//!
//! A program fills a [`Registry`] and says how it is ([`Observed`]); [`serve`] answers. Nothing else can be asked, and nothing can
//! be changed. Labels come from closed lists only: never a run, a job, a key or an address, so that the number of series is
//! known beforehand.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

pub use prometheus_client::encoding::text::encode;
pub use prometheus_client::metrics::counter::Counter;
pub use prometheus_client::metrics::family::Family;
pub use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::metrics::histogram::Histogram;
pub use prometheus_client::metrics::info::Info;
pub use prometheus_client::registry::{Registry, Unit};

mod health;
mod process;
mod text;

pub use health::{NotHealthy, ask};

/// Labels: names and values, both known beforehand.
pub type Labels<const N: usize> = [(&'static str, &'static str); N];
/// A counter of seconds.
pub type Seconds = Counter<f64, std::sync::atomic::AtomicU64>;

/// A program that can be observed. Asked at any time, from the first moment on; answers at once.
pub trait Observed: Send + Sync + 'static {
    /// Its metrics.
    fn registry(&self) -> &Registry;

    /// Sets those metrics that are looked up instead of counted. Called before they are told.
    fn refresh(&self) {}

    /// Whether it lives; otherwise why it should be started again.
    ///
    /// # Errors
    /// It does not, for this reason.
    fn healthy(&self) -> Result<(), String>;

    /// Whether it does its work now; otherwise what it waits for.
    ///
    /// # Errors
    /// It does not, for this reason.
    fn ready(&self) -> Result<(), String>;
}

/// The command line's word on where to answer.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub struct MetricsArguments {
    /// Where to answer `/metrics` (Prometheus), `/healthz` and `/readyz`, like 127.0.0.1:9464; port 0 takes a free one and
    /// logs it [default: nowhere]
    #[arg(long, env = "GANNET_METRICS", value_name = "ADDRESS", value_parser = address)]
    pub metrics_address: Option<SocketAddr>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        "an IP address and a port are accepted, like 127.0.0.1:9464 (0.0.0.0:9464 or [::]:9464: every network)".into()
    })
}

/// A registry that has the process's own figures already. A program's own names begin with `gannet_`.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(process::Process));
    registry
}

/// Connections at once. A scraper and a health check have one each, for milliseconds. Whoever comes when all are taken has the
/// place of who has had one for longest: those that say nothing keep nobody out.
const MOST_CONNECTIONS: usize = 16;
/// For a request's headers, and for the whole of a connection: one request each.
const HEADERS_LIMIT: Duration = Duration::from_secs(5);
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// Bytes of a request's headers.
const LONGEST_HEADERS: usize = 16 * 1024;
/// After a failure to accept (no file descriptors are left, say).
const PAUSE: Duration = Duration::from_millis(100);

/// Answers at `address` for as long as the runtime lives. Returns where: another port than was asked for where that was 0.
///
/// # Errors
/// The address is taken, or none of this machine's.
pub async fn serve(address: SocketAddr, observed: Arc<dyn Observed>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        io::Error::new(error.kind(), format!("cannot answer at {address} (--metrics-address, GANNET_METRICS): {error}"))
    })?;
    let at = listener.local_addr()?;
    tracing::info!(address = %at, "answers /metrics, /healthz and /readyz");
    tokio::spawn(accept(listener, observed));
    Ok(at)
}

async fn accept(listener: TcpListener, observed: Arc<dyn Observed>) {
    let mut connections: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection for metrics");
                sleep(PAUSE).await;
                continue;
            }
        };
        connections.retain(|connection| !connection.is_finished());
        if connections.len() >= MOST_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        let observed = Arc::clone(&observed);
        let connection = tokio::spawn(async move {
            if timeout(CONNECTION_LIMIT, converse(stream, observed)).await.is_err() {
                tracing::debug!("a connection for metrics took too long");
            }
        });
        connections.push_back(connection.abort_handle());
    }
}

async fn converse(stream: TcpStream, observed: Arc<dyn Observed>) {
    let answers = service_fn(|request: Request<Incoming>| {
        let response = answer(&request, observed.as_ref());
        async move { Ok::<_, Infallible>(response) }
    });
    let mut http = http1::Builder::new();
    http.keep_alive(false).timer(TokioTimer::new()).header_read_timeout(HEADERS_LIMIT).max_buf_size(LONGEST_HEADERS);
    if let Err(error) = http.serve_connection(TokioIo::new(stream), answers).await {
        tracing::debug!(%error, "a connection for metrics has failed");
    }
}

fn answer<B>(request: &Request<B>, observed: &dyn Observed) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = plain(StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET is accepted\n".into());
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    let state = |state: Result<(), String>| match state {
        Ok(()) => plain(StatusCode::OK, TEXT, "ok\n".into()),
        Err(reason) => plain(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{reason}\n")),
    };
    match request.uri().path() {
        "/metrics" => {
            let accepts = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
            observed.refresh();
            let (media, page) = text::page(observed.registry(), accepts);
            plain(StatusCode::OK, media, page)
        }
        "/healthz" => state(observed.healthy()),
        "/readyz" => state(observed.ready()),
        _ => plain(StatusCode::NOT_FOUND, TEXT, "/metrics, /healthz and /readyz are answered\n".into()),
    }
}

fn plain(status: StatusCode, media: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests;
