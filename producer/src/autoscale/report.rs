//! What the autoscaler tells: log lines for people, decisions as JSON lines for programs, metrics.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;

use super::metrics::Metrics;
use super::policy::{Action, Answers, Cause, Decision, Turn};

/// Tells.
#[derive(Debug)]
pub struct Report {
    /// Whether decisions go to standard output, a JSON object a line.
    json: bool,
    metrics: Arc<Metrics>,
    /// What every pool waits for: said when it changes.
    waits: BTreeMap<Option<String>, Cause>,
    /// What a dry run said last: it comes to the same again and again.
    pondered: Vec<(&'static str, Cause)>,
    is_seen: Option<bool>,
}

impl Report {
    /// Tells what happens, and counts it in `metrics`.
    pub fn new(json: bool, metrics: Arc<Metrics>) -> Self {
        Self { json, metrics, waits: BTreeMap::new(), pondered: Vec::new(), is_seen: None }
    }

    /// Tells what was decided.
    pub(super) fn tell(&mut self, turn: &Turn, is_dry: bool) {
        if is_dry {
            let pondered: Vec<_> = turn.decisions.iter().map(|one| (one.action.name(), one.cause)).collect();
            if pondered == self.pondered {
                return;
            }
            self.pondered = pondered;
        }
        let mut waits = BTreeMap::new();
        for decision in &turn.decisions {
            if let Action::Wait { pool } = &decision.action {
                let is_new = self.waits.get(pool) != Some(&decision.cause) && !waits.contains_key(pool);
                waits.entry(pool.clone()).or_insert(decision.cause);
                if !is_new {
                    continue;
                }
            }
            self.say(decision, turn, is_dry);
            self.metrics.decided(decision, is_dry);
        }
        self.waits = waits;
        self.metrics.figures(turn);
    }

    fn say(&self, decision: &Decision, turn: &Turn, is_dry: bool) {
        let Decision { action, cause, why } = decision;
        let pool = match action {
            Action::Start { pool, .. } => Some(pool.as_str()),
            Action::Wait { pool } => pool.as_deref(),
            _ => None,
        };
        let figures = turn.pools.iter().find(|figures| pool == Some(figures.pool.as_str()));
        let (desired, actual) = (figures.map(|figures| figures.desired), figures.map(|figures| figures.actual));
        let (worker, would) = (action.worker(), if is_dry { "would " } else { "" });
        let (action, cause) = (action.name(), cause.to_string());
        match decision.cause {
            Cause::Died | Cause::Mute | Cause::Silent | Cause::Hung | Cause::Failed | Cause::Backoff => {
                tracing::warn!(pool, worker, cause, desired, actual, "{would}{action}: {why}");
            }
            _ => tracing::info!(pool, worker, cause, desired, actual, "{would}{action}: {why}"),
        }
        if self.json {
            let line = json!({
                "at": jiff::Timestamp::now(), "action": action, "cause": cause, "why": why, "pool": pool, "worker": worker,
                "desired": desired, "actual": actual, "ready": turn.ready, "in_flight": turn.in_flight, "dry_run": is_dry,
            });
            // A reader that has gone is no reason to leave the fleet alone.
            let _ = writeln!(std::io::stdout().lock(), "{line}");
        }
    }

    /// The queue and the workers are seen.
    pub(super) fn seen(&mut self) {
        if self.is_seen == Some(false) {
            tracing::info!("the queue is seen again");
        }
        self.is_seen = Some(true);
        self.metrics.seen(Ok(()));
    }

    /// One of them is not.
    pub(super) fn unseen(&mut self, why: &str) {
        if self.is_seen != Some(false) {
            tracing::warn!(why, "does not see what there is to do: nobody is started, and nobody told to leave");
        }
        self.is_seen = Some(false);
        self.metrics.seen(Err(why.into()));
    }

    pub(super) fn not_started(&self, worker: &str, error: &anyhow::Error) {
        tracing::error!(worker, error = format!("{error:#}"), "a worker does not start");
        self.metrics.not_started();
    }

    /// So long after something came where there was nobody, the first worker was started.
    pub(super) fn first_start(&self, after: Duration) {
        tracing::debug!(?after, "the first worker was started");
        self.metrics.first_start(after);
    }

    pub(super) fn answers(&self, answers: Answers) {
        self.metrics.answers(answers);
    }
}
