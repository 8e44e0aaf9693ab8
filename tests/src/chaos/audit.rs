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
    /// Somebody tried to cancel it.
    pub(super) may_be_cancelled: bool,
}

/// What a job must come to, whatever happened.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expected {
    /// A trained network, by the sha256 of its parameters: equal to the bit.
    Network(String),
    /// The pictures of a batch with their labels and scores.
    Labels(Value),
    /// A failure of this code: the job cannot be done.
    Failure(String),
}

impl Expected {
    /// What `result` came to; nothing where it has neither an outcome nor an error.
    pub(super) fn of(result: &Value) -> Option<Self> {
        let outcome = &result["outcome"];
        let network = || Some(Self::Network(outcome["trial"]["checkpoint"]["sha256"].as_str()?.to_owned()));
        let labels = || outcome["batch"]["images"].is_array().then(|| Self::Labels(outcome["batch"]["images"].clone()));
        let failure =
            || (result["status"] == "failed").then_some(&result["error"]["code"])?.as_str().map(str::to_owned);
        network().or_else(labels).or_else(|| failure().map(Self::Failure))
    }

    /// Why its dead letter was put away, where it has one. A diverged trial has none: that is a result.
    fn burial(&self) -> Option<&str> {
        match self {
            Self::Failure(code) if code != "diverged" => Some(code),
            Self::Failure(_) | Self::Network(_) | Self::Labels(_) => None,
        }
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
    /// Runs that are cancelled.
    pub(super) cancelled_runs: BTreeSet<String>,
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
    /// The job did not end as it must: well, or with its own failure, or cancelled where somebody asked for that.
    pub failed: BTreeSet<String>,
    /// It ended well and came to something else than in the quiet run, or its network is not in the store as it says.
    pub differing: BTreeSet<String>,
    /// A dead letter of a job that must have none, or with another reason.
    pub dead: Vec<String>,
    /// The job failed as it must, and has no dead letter.
    pub unburied: BTreeSet<String>,
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

/// Looks what became of the jobs that were `asked` for. Those of a cancelled run may have ended or not.
pub(super) fn audit(asked: &[Asked], found: &Evidence) -> Verdict {
    let expected: BTreeMap<&str, &Expected> = asked.iter().map(|asked| (asked.job.as_str(), &asked.expected)).collect();
    let is_due = |letter: &Value| {
        let reason = letter["reason"].as_str();
        reason.is_some()
            && expected.get(job_of(&job_of_letter(letter)).as_str()).is_some_and(|job| job.burial() == reason)
    };
    let mut verdict = Verdict {
        dead: found.dead.iter().filter(|letter| !is_due(letter)).map(ToString::to_string).collect(),
        left: found.left.iter().filter(|(_, left)| **left > 0).map(|(queue, left)| (queue.clone(), *left)).collect(),
        ..Verdict::default()
    };
    let buried: BTreeSet<String> = found.dead.iter().map(|letter| job_of(&job_of_letter(letter))).collect();
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
    for Asked { job, expected, may_be_cancelled } in asked {
        let run_is_cancelled = job.split('/').next().is_some_and(|run| found.cancelled_runs.contains(run));
        let Some(result) = stored.get(job) else {
            if !run_is_cancelled {
                verdict.lost.insert(job.clone());
            }
            continue;
        };
        if !told.contains_key(job) && !run_is_cancelled {
            verdict.untold.insert(job.clone());
        }
        match (Expected::of(result), expected) {
            (None, _) if *may_be_cancelled && result["status"] == "cancelled" => {}
            (Some(Expected::Failure(code)), Expected::Failure(must)) if code == *must => {
                if expected.burial().is_some() && !buried.contains(job) && !run_is_cancelled {
                    verdict.unburied.insert(job.clone());
                }
            }
            (None | Some(Expected::Failure(_)), _) | (_, Expected::Failure(_)) => {
                verdict.failed.insert(format!("{job}: {} {}", result["status"], result["error"]));
            }
            (Some(outcome), expected) if outcome == *expected && has_its_network(result, found) => {}
            _ => drop(verdict.differing.insert(job.clone())),
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

/// The job of a dead letter; null where it has none.
pub(super) fn job_of_letter(letter: &Value) -> Value {
    letter["job"].as_str().and_then(|body| serde_json::from_str(body).ok()).unwrap_or_default()
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
        let asked = |job: &&str| Asked {
            job: format!("r/{job}"),
            expected: Expected::Network((*job).into()),
            may_be_cancelled: false,
        };
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
        let asked =
            |label| [Asked { job: "r/p".into(), expected: Expected::Labels(labels(label)), may_be_cancelled: false }];
        assert!(audit(&asked("red"), &found).is_good());
        assert_eq!(audit(&asked("blue"), &found).differing, one("r/p"));
    }

    /// The verdict on one job that must fail with `code`, by its result and its dead letters.
    fn failing(code: &str, result: &Value, reasons: &[&str]) -> Verdict {
        let asked = [Asked { job: "r/f".into(), expected: Expected::Failure(code.into()), may_be_cancelled: false }];
        let letter = |reason: &&str| json!({"reason": reason, "job": json!({"run": "r", "id": "f"}).to_string()});
        let dead = reasons.iter().map(letter).collect();
        let (stored, told) = (vec![result.clone()], vec![result.clone()]);
        audit(&asked, &Evidence { stored, told, dead, ..Evidence::default() })
    }

    #[test]
    fn a_job_that_must_fail_does_so_in_its_own_way_and_has_its_dead_letter() {
        let failed = |code: &str| json!({"run": "r", "id": "f", "status": "failed", "error": {"code": code}});
        let missing = failed("missing_object");
        assert!(failing("missing_object", &missing, &["missing_object"]).is_good());
        assert!(failing("missing_object", &missing, &["missing_object"; 2]).is_good(), "its worker died in between");
        assert_eq!(failing("missing_object", &missing, &[]).unburied, one("r/f"));
        assert_eq!(failing("missing_object", &missing, &["missing_object", "crashed"]).dead.len(), 1);
        assert_eq!(failing("missing_object", &failed("crashed"), &["missing_object"]).failed.len(), 1);
        assert_eq!(failing("missing_object", &result("f", "f", "1"), &[]).failed.len(), 1);
        assert!(failing("diverged", &failed("diverged"), &[]).is_good());
        assert_eq!(failing("diverged", &failed("diverged"), &["diverged"]).dead.len(), 1);
    }

    #[test]
    fn a_job_may_be_cancelled_where_somebody_asked_for_it() {
        let (mut asked, mut found) = sound();
        let cancelled = json!({"run": "r", "id": "a", "status": "cancelled"});
        found.stored[0] = cancelled.clone();
        found.told[0] = cancelled;
        assert_eq!(audit(&asked, &found).failed.len(), 1, "nobody asked");
        asked[0].may_be_cancelled = true;
        assert!(audit(&asked, &found).is_good());
        found.told.push(result("a", "a", "1"));
        assert_eq!(audit(&asked, &found).doubled, one("r/a"));
    }

    #[test]
    fn jobs_of_a_cancelled_run_may_be_dropped_and_not_be_wrong() {
        let (asked, mut found) = sound();
        found.stored.remove(0);
        found.told.remove(0);
        found.cancelled_runs.insert("r".into());
        assert!(audit(&asked, &found).is_good());
        found.stored[0] = result("b", "x", "1");
        assert!(!audit(&asked, &found).is_good());
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
