//! What a worker's log says of its jobs: the steps that it took, as JSON lines (`worker::settle=trace`, and
//! `worker::receive=debug` for its consumers). The log is written before a step begins, so it is right about a worker that was killed.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde_json::Value;

/// The filter of a worker's log that is to be read here.
pub(super) const FILTER: &str = "info,worker::settle=trace,worker::receive=debug";

/// A line of a log.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// When.
    pub(super) at: Timestamp,
    /// What.
    pub(super) what: What,
}

/// What a worker did.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum What {
    /// It began a step of a job (`run/id`).
    Step(String, String),
    /// It has no more to do with the job.
    Left(String),
    /// It consumes from a queue.
    Consumes,
    /// It says that it cannot go on.
    Error(String),
    /// At the last call of a drain it dropped what it had in hand.
    Aborted,
}

/// Reads a log; other lines are skipped.
pub(super) fn read(log: &str) -> Vec<Entry> {
    log.lines().filter_map(entry).collect()
}

fn entry(line: &str) -> Option<Entry> {
    let line: Value = serde_json::from_str(line).ok()?;
    let at = line["timestamp"].as_str()?.parse().ok()?;
    let job = || Some(format!("{}/{}", line["run"].as_str()?, line["job.id"].as_str()?));
    let what = if let Some(ask) = line["ask"].as_str() {
        What::Step(job()?, ask.to_owned())
    } else if line["settled"].is_boolean() {
        What::Left(job()?)
    } else if line["consumes"].is_string() {
        What::Consumes
    } else if line["message"].as_str().is_some_and(|message| message.starts_with("some slots do not end")) {
        What::Aborted
    } else if line["level"] == "ERROR" {
        What::Error(format!("{} {}", line["message"].as_str()?, line["error"].as_str().unwrap_or_default()))
    } else {
        return None;
    };
    Some(Entry { at, what })
}

/// The jobs that a worker had in hand when its log ended, each with the step that it was in. Whoever was about to
/// acknowledge is not counted.
pub(super) fn in_hand(log: &[Entry]) -> BTreeMap<&str, &str> {
    let mut jobs = BTreeMap::new();
    for entry in log {
        match &entry.what {
            What::Step(job, step) if step == "Ack" => drop(jobs.remove(job.as_str())),
            What::Step(job, step) => drop(jobs.insert(job.as_str(), step.as_str())),
            What::Left(job) => drop(jobs.remove(job.as_str())),
            What::Consumes | What::Error(_) | What::Aborted => {}
        }
    }
    jobs
}

/// Whether a drain ended with jobs in hand that the broker did not take back in time.
pub(super) fn was_aborted(log: &[Entry]) -> bool {
    log.iter().any(|entry| entry.what == What::Aborted)
}

/// How often a worker began to compute.
pub(super) fn computations(log: &[Entry]) -> usize {
    log.iter().filter(|entry| matches!(&entry.what, What::Step(_, step) if step == "Compute")).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_tells_what_was_in_hand() {
        let log = r#"{"timestamp":"2026-11-24T21:30:00.1Z","level":"DEBUG","consumes":"trial","target":"worker::receive"}
not JSON
{"timestamp":"2026-11-24T21:30:00.2Z","level":"TRACE","job.id":"a","run":"r","ask":"LookCancelled","target":"worker::settle"}
{"timestamp":"2026-11-24T21:30:00.3Z","level":"TRACE","job.id":"a","run":"r","ask":"Compute","target":"worker::settle"}
{"timestamp":"2026-11-24T21:30:00.4Z","level":"TRACE","job.id":"b","run":"r","ask":"Compute","target":"worker::settle"}
{"timestamp":"2026-11-24T21:30:00.5Z","level":"TRACE","job.id":"c","run":"r","ask":"Compute","target":"worker::settle"}
{"timestamp":"2026-11-24T21:30:00.6Z","level":"TRACE","job.id":"b","run":"r","ask":"Ack","target":"worker::settle"}
{"timestamp":"2026-11-24T21:30:00.7Z","level":"TRACE","job.id":"c","run":"r","settled":false,"target":"worker::settle"}
{"timestamp":"2026-11-24T21:30:00.8Z","level":"INFO","message":"has ended","settled":3,"target":"worker"}
{"timestamp":"2026-11-24T21:30:00.9Z","level":"WARN","message":"some slots do not end: their jobs go back to the queue","slots":1,"target":"worker::supervisor"}"#;
        let log = read(log);
        assert_eq!(log.len(), 8);
        assert!(was_aborted(&log) && !was_aborted(&log[..7]));
        assert_eq!(log[0].what, What::Consumes);
        assert_eq!(in_hand(&log), BTreeMap::from([("r/a", "Compute")]));
        assert_eq!(computations(&log), 3);
    }
}
