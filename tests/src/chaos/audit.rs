//! What became of every job, by what the store and the broker hold at the end, and by nothing else.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::Value;

/// A job that was enqueued, and what it must come to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Asked {
    /// `run/id`.
    pub(super) job: String,
    /// What a quiet run of the same work came to.
    pub(super) expected: Expected,
}

/// What a job must come to, whatever happened.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expected {
    /// A trained network, by the sha256 of its parameters: equal to the bit.
    Network(String),
    /// The pictures of a batch with their labels and scores.
    Labels(Value),
}

impl Expected {
    /// What `result` came to; nothing where it has no outcome.
    pub(super) fn of(result: &Value) -> Option<Self> {
        let outcome = &result["outcome"];
        let network = || Some(Self::Network(outcome["trial"]["checkpoint"]["sha256"].as_str()?.to_owned()));
        let labels = || outcome["batch"]["images"].is_array().then(|| Self::Labels(outcome["batch"]["images"].clone()));
        network().or_else(labels)
    }
}

/// What was found at the end.
#[derive(Debug, Clone, Default)]
pub(super) struct Evidence {
    /// The results in the store.
    pub(super) stored: Vec<Value>,
    /// All results that the broker was told, in its durable queue.
    pub(super) told: Vec<Value>,
    /// The dead letters.
    pub(super) dead: Vec<Value>,
    /// Messages that wait in the queues of jobs and in the retry queues, by queue.
    pub(super) left: BTreeMap<String, u32>,
    /// The sha256 of each network in the store, by the key that its result names; none where there is no such object.
    pub(super) networks: BTreeMap<String, Option<String>>,
}

/// What is wrong, by the names of the jobs.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Verdict {
    /// No result stands in the store.
    pub lost: BTreeSet<String>,
    /// A result stands in the store and nobody was told of it.
    pub untold: BTreeSet<String>,
    /// Two different results were told, or one that is not the one in the store. The same result told twice is none: a
    /// worker that finds a result publishes it again.
    pub doubled: BTreeSet<String>,
    /// The job is healthy and did not end well.
    pub failed: BTreeSet<String>,
    /// It ended well and came to something else than in the quiet run, or its network is not in the store as it says.
    pub differing: BTreeSet<String>,
    /// A dead letter of a healthy job.
    pub dead: Vec<String>,
    /// A result of a job that nobody asked for.
    pub unasked: BTreeSet<String>,
    /// Queues that are not empty.
    pub left: BTreeMap<String, u32>,
}

impl Verdict {
    /// Whether nothing is wrong.
    pub fn is_good(&self) -> bool {
        *self == Self::default()
    }
}

/// Looks what became of the jobs that were `asked` for, all of them healthy.
pub(super) fn audit(asked: &[Asked], found: &Evidence) -> Verdict {
    let mut verdict = Verdict {
        dead: found.dead.iter().map(ToString::to_string).collect(),
        left: found.left.iter().filter(|(_, left)| **left > 0).map(|(queue, left)| (queue.clone(), *left)).collect(),
        ..Verdict::default()
    };
    let stored: BTreeMap<String, &Value> = found.stored.iter().map(|result| (job_of(result), result)).collect();
    let mut told: BTreeMap<String, Vec<&Value>> = BTreeMap::new();
    for result in &found.told {
        told.entry(job_of(result)).or_default().push(result);
    }
    for (job, results) in &told {
        let one = stored.get(job).copied().unwrap_or(results[0]);
        if results.iter().any(|result| *result != one) {
            verdict.doubled.insert(job.clone());
        }
    }
    let names: BTreeSet<&str> = asked.iter().map(|asked| asked.job.as_str()).collect();
    let others = stored.keys().chain(told.keys()).filter(|job| !names.contains(job.as_str()));
    verdict.unasked = others.cloned().collect();
    for Asked { job, expected } in asked {
        let Some(result) = stored.get(job) else {
            verdict.lost.insert(job.clone());
            continue;
        };
        if !told.contains_key(job) {
            verdict.untold.insert(job.clone());
        }
        if result["status"] != "done" {
            verdict.failed.insert(format!("{job}: {} {}", result["status"], result["error"]));
        } else if Expected::of(result).as_ref() != Some(expected) || !has_its_network(result, found) {
            verdict.differing.insert(job.clone());
        }
    }
    verdict
}

/// Whether the network that a trial's result names is what it says; a batch has none.
fn has_its_network(result: &Value, found: &Evidence) -> bool {
    let network = &result["outcome"]["trial"]["checkpoint"];
    let Some(key) = network["key"].as_str() else { return true };
    found.networks.get(key).and_then(|sha256| sha256.as_deref()) == network["sha256"].as_str()
}

/// `run/id`.
pub(super) fn job_of(result: &Value) -> String {
    format!("{}/{}", result["run"].as_str().unwrap_or("?"), result["id"].as_str().unwrap_or("?"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn result(job: &str, weights: &str, nonce: &str) -> Value {
        let checkpoint = json!({"key": format!("networks/{weights}"), "sha256": weights});
        json!({"run": "r", "id": job, "status": "done", "nonce": nonce, "outcome": {"trial": {"checkpoint": checkpoint}}})
    }

    /// Three jobs that went well, the second one told twice.
    fn sound() -> (Vec<Asked>, Evidence) {
        let jobs = ["a", "b", "c"];
        let asked = |job: &&str| Asked { job: format!("r/{job}"), expected: Expected::Network((*job).into()) };
        let stored: Vec<Value> = jobs.iter().map(|job| result(job, job, "1")).collect();
        let mut told = stored.clone();
        told.push(stored[1].clone());
        let networks = jobs.iter().map(|job| (format!("networks/{job}"), Some((*job).to_owned()))).collect();
        let left = BTreeMap::from([("trials".to_owned(), 0)]);
        (jobs.iter().map(asked).collect(), Evidence { stored, told, networks, left, ..Evidence::default() })
    }

    /// The verdict on what is left of a sound end after `plant`.
    fn with(plant: impl FnOnce(&mut Evidence)) -> Verdict {
        let (asked, mut found) = sound();
        plant(&mut found);
        audit(&asked, &found)
    }

    fn one(job: &str) -> BTreeSet<String> {
        BTreeSet::from([job.to_owned()])
    }

    #[test]
    fn a_sound_end_is_good_also_where_a_result_was_told_twice() {
        assert!(with(|_| {}).is_good());
    }

    #[test]
    fn a_lost_job_is_found() {
        let verdict = with(|found| {
            found.stored.remove(0);
            found.told.remove(0);
        });
        assert_eq!(verdict, Verdict { lost: one("r/a"), ..Verdict::default() });
        let verdict = with(|found| drop(found.told.remove(0)));
        assert_eq!(verdict, Verdict { untold: one("r/a"), ..Verdict::default() });
    }

    #[test]
    fn a_doubled_result_is_found() {
        let verdict = with(|found| found.told.push(result("b", "b", "2")));
        assert_eq!(verdict, Verdict { doubled: one("r/b"), ..Verdict::default() });
        let verdict = with(|found| found.stored[2] = result("c", "c", "2"));
        assert_eq!(verdict, Verdict { doubled: one("r/c"), ..Verdict::default() });
        let verdict = with(|found| found.told.push(result("d", "d", "1")));
        assert_eq!(verdict, Verdict { unasked: one("r/d"), ..Verdict::default() });
    }

    #[test]
    fn other_weights_are_found() {
        let verdict = with(|found| {
            found.networks.insert("networks/x".into(), Some("x".into()));
            found.stored[0] = result("a", "x", "1");
            found.told[0] = result("a", "x", "1");
        });
        assert_eq!(verdict, Verdict { differing: one("r/a"), ..Verdict::default() });
        for network in [None, Some("rotten".to_owned())] {
            let verdict = with(|found| drop(found.networks.insert("networks/b".into(), network)));
            assert_eq!(verdict, Verdict { differing: one("r/b"), ..Verdict::default() });
        }
    }

    #[test]
    fn other_labels_are_found() {
        let labels = |label: &str| json!([{"image": "1", "predictions": [{"label": label}]}]);
        let batch = json!({"run": "r", "id": "p", "status": "done", "outcome": {"batch": {"images": labels("red")}}});
        let found = Evidence { stored: vec![batch.clone()], told: vec![batch], ..Evidence::default() };
        let asked = |label| [Asked { job: "r/p".into(), expected: Expected::Labels(labels(label)) }];
        assert!(audit(&asked("red"), &found).is_good());
        assert_eq!(audit(&asked("blue"), &found).differing, one("r/p"));
    }

    #[test]
    fn a_healthy_job_that_failed_and_what_is_left_over_are_found() {
        let verdict = with(|found| {
            let failed = json!({"run": "r", "id": "a", "status": "failed", "error": {"code": "preempted"}});
            found.stored[0] = failed.clone();
            found.told[0] = failed;
            found.dead.push(json!({"reason": "preempted"}));
            found.left.insert("trials".into(), 2);
        });
        assert_eq!(verdict.failed.len(), 1);
        assert_eq!(verdict.dead, [r#"{"reason":"preempted"}"#]);
        assert_eq!(verdict.left, BTreeMap::from([("trials".to_owned(), 2)]));
        assert!(verdict.lost.is_empty() && verdict.doubled.is_empty() && !verdict.is_good());
    }
}
