//! What an operator sees of it, beside the log: `/metrics`, `/healthz`, `/readyz`.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use shared::metrics::{Counter, Family, Gauge, Histogram, Observed, Registry, Unit, registry};

use super::policy::{Answers, Decision, Turn};

/// A pool's name: as many as the operator's file has.
type OfPool = [(&'static str, String); 1];
/// What was decided and why, or an answer: words of closed lists.
type Of<const N: usize> = [(&'static str, String); N];

/// The autoscaler's metrics.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    desired: Family<OfPool, Gauge>,
    actual: Family<OfPool, Gauge>,
    ready: Gauge,
    in_flight: Gauge,
    decisions: Family<Of<2>, Counter>,
    answers: Family<Of<1>, Counter>,
    not_started: Counter,
    first_start: Histogram,
    /// Why it does not see what there is to do.
    unseen: Mutex<Option<String>>,
    /// What was counted of the answers so far.
    counted: Mutex<Answers>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut all = Self {
            registry: registry(),
            desired: Family::default(),
            actual: Family::default(),
            ready: Gauge::default(),
            in_flight: Gauge::default(),
            decisions: Family::default(),
            answers: Family::default(),
            not_started: Counter::default(),
            first_start: Histogram::new([0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0]),
            unseen: Mutex::new(Some("the queue was not seen yet".into())),
            counted: Mutex::default(),
        };
        let to = &mut all.registry;
        let name = |what: &str| format!("gannet_autoscale_{what}");
        to.register(
            name("desired_workers"),
            "Workers that a pool should have for what there is to do",
            all.desired.clone(),
        );
        to.register(name("actual_workers"), "Workers of a pool that run, start or leave", all.actual.clone());
        to.register(name("ready_jobs"), "Jobs that nobody has taken", all.ready.clone());
        to.register(name("in_flight_jobs"), "Jobs in workers' hands, as far as they were heard", all.in_flight.clone());
        to.register(name("decisions"), "Decisions, by what was decided and why", all.decisions.clone());
        to.register(
            name("answers"),
            "Answers of workers that were asked to leave: accepted, refused (a job came), raced (accepted, and a job came), unanswered",
            all.answers.clone(),
        );
        to.register(name("failed_starts"), "Workers that could not be started", all.not_started.clone());
        to.register_with_unit(
            name("first_start"),
            "Time from the last look at nothing to do to the start of the first worker",
            Unit::Seconds,
            all.first_start.clone(),
        );
        all
    }
}

impl Metrics {
    pub(super) fn decided(&self, decision: &Decision, is_dry: bool) {
        if !is_dry {
            let labels = [("action", decision.action.name().into()), ("cause", decision.cause.to_string())];
            self.decisions.get_or_create(&labels).inc();
        }
    }

    pub(super) fn figures(&self, turn: &Turn) {
        for figures in &turn.pools {
            let label = [("pool", figures.pool.clone())];
            self.desired.get_or_create(&label).set(figures.desired.into());
            self.actual.get_or_create(&label).set(figures.actual.into());
        }
        if !turn.pools.is_empty() {
            self.ready.set(turn.ready.try_into().unwrap_or(i64::MAX));
            self.in_flight.set(turn.in_flight.try_into().unwrap_or(i64::MAX));
        }
    }

    pub(super) fn seen(&self, seen: Result<(), String>) {
        *self.unseen.lock().unwrap_or_else(PoisonError::into_inner) = seen.err();
    }

    pub(super) fn not_started(&self) {
        self.not_started.inc();
    }

    pub(super) fn first_start(&self, after: Duration) {
        self.first_start.observe(after.as_secs_f64());
    }

    pub(super) fn answers(&self, answers: Answers) {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        for (answer, now, before) in [
            ("accepted", answers.accepted, counted.accepted),
            ("refused", answers.refused, counted.refused),
            ("raced", answers.raced, counted.raced),
            ("unanswered", answers.unanswered, counted.unanswered),
        ] {
            self.answers.get_or_create(&[("answer", answer.into())]).inc_by(now.saturating_sub(before));
        }
        *counted = answers;
    }
}

impl Observed for Metrics {
    fn registry(&self) -> &Registry {
        &self.registry
    }

    /// It lives as long as it answers: there is one thread.
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }

    fn ready(&self) -> Result<(), String> {
        self.unseen.lock().unwrap_or_else(PoisonError::into_inner).clone().map_or(Ok(()), Err)
    }
}
