//! The connections to the service: when one of them falls silent, all are given up.
//!
//! A line that dies without a word (a firewall that forgot it, a host that is gone) takes every kept connection with it. The
//! SDK replaces only the one that it waited for, and would wait for each of the others in turn.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aws_sdk_s3::config::{HttpClient, RuntimeComponents, SharedHttpClient};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::HttpRequest;

/// An outage is told of at most so often; who waits for its end has more to say.
const SAY_EVERY: Duration = Duration::from_secs(30);

/// An HTTP client that begins anew after a silence.
#[derive(Debug, Clone)]
pub(super) struct Lines(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// For messages to people.
    place: String,
    make: fn() -> SharedHttpClient,
    /// Held for moments.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    client: SharedHttpClient,
    /// Counts the clients: a silence on a line of an earlier one says nothing about this one's.
    number: u64,
    said: Option<Instant>,
}

impl Lines {
    /// Connections made by `make`, to the store at `place`.
    pub(super) fn new(place: &str, make: fn() -> SharedHttpClient) -> Self {
        let state = Mutex::new(State { client: make(), number: 0, said: None });
        Self(Arc::new(Inner { place: place.into(), make, state }))
    }
}

impl HttpClient for Lines {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        let state = self.0.state();
        let connector = state.client.http_connector(settings, components);
        SharedHttpConnector::new(Line { connector, number: state.number, lines: Arc::clone(&self.0) })
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A line of client `number` is silent.
    fn give_up(&self, number: u64) {
        let mut state = self.state();
        if state.number != number {
            return;
        }
        state.client = (self.make)();
        state.number += 1;
        let now = Instant::now();
        if state.said.is_none_or(|said| now - said >= SAY_EVERY) {
            state.said = Some(now);
            tracing::warn!(store = self.place, "the store does not answer: its connections are made anew");
        }
    }
}

/// What one request is sent with.
#[derive(Debug)]
struct Line {
    connector: SharedHttpConnector,
    number: u64,
    lines: Arc<Inner>,
}

impl HttpConnector for Line {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let answer = self.connector.call(request);
        let (number, lines) = (self.number, Arc::clone(&self.lines));
        HttpConnectorFuture::new(async move {
            let answer = answer.await;
            if answer.as_ref().is_err_and(aws_sdk_s3::error::ConnectorError::is_timeout) {
                lines.give_up(number);
            }
            answer
        })
    }
}
