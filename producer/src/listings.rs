//! The listings of the commands: which columns, and what stands in them.

use serde_json::{Value, json};
use shared::contract::{Heartbeat, Job, JobResult, Work};
use shared::names::Name;
use shared::queue::Depth;

use crate::report::Listing;
use crate::runs::Trials;

/// A study's trials: parameters, what they came to, and the test error of the chosen one.
pub fn trials(trials: &Trials) -> Listing {
    let parameters = parameter_names(trials);
    let fixed = ["validation_error", "validation_loss", "test_error", "epochs", "seconds", "worker", "error"];
    let columns = ["trial", "status"].into_iter().map(String::from).chain(parameters.iter().cloned()).chain(fixed.map(String::from));
    let mut listing = Listing::new(columns);
    let chosen = trials.winner().map(|(job, _)| job.id.clone());
    for (job, result) in &trials.trials {
        let mut row = vec![json!(job.id.as_str()), json!(result.as_ref().map_or("waiting", status))];
        row.extend(parameters.iter().map(|name| parameter(job, name)));
        let metrics = result.as_ref().and_then(JobResult::trial).and_then(|trial| trial.validation);
        row.push(json!(metrics.map(|metrics| metrics.error)));
        row.push(json!(metrics.map(|metrics| metrics.loss)));
        row.push(json!(if chosen.as_ref() == Some(&job.id) { trials.test_error() } else { None }));
        row.push(json!(result.as_ref().and_then(JobResult::trial).map(|trial| trial.epochs.len())));
        row.extend(common(result.as_ref()));
        listing.row(row);
    }
    listing
}

/// Results of any jobs.
pub fn results<'a>(results: impl Iterator<Item = &'a JobResult>) -> Listing {
    let mut listing = Listing::new(["job", "run", "kind", "status", "validation_error", "test_error", "images", "seconds", "worker", "error"]);
    for result in results {
        let trial = result.trial();
        let mut row = vec![
            json!(result.id.as_str()),
            json!(result.run.as_str()),
            json!(result.kind.as_str()),
            json!(status(result)),
            json!(trial.and_then(|trial| trial.validation).map(|metrics| metrics.error)),
            json!(trial.and_then(|trial| trial.test).map(|metrics| metrics.error)),
            json!(result.batch().map(|batch| batch.images.len())),
        ];
        row.extend(common(Some(result)));
        listing.row(row);
    }
    listing
}

/// Queues, workers and runs, told apart by the first column.
pub fn status<'a>(depths: &[Depth], workers: impl Iterator<Item = &'a Heartbeat>, runs: &[(Name, usize)]) -> Listing {
    let mut listing = Listing::new(["what", "name", "ready", "unsettled", "consumers", "slots", "running", "settled", "results"]);
    for depth in depths {
        let numbers = [json!(depth.ready), json!(depth.unsettled), json!(depth.consumers)];
        listing.row([json!("queue"), json!(depth.queue)].into_iter().chain(numbers).chain([Value::Null, Value::Null, Value::Null, Value::Null]).collect());
    }
    for worker in workers {
        let running: Vec<String> = worker.running.iter().map(|job| format!("{}/{}", job.run, job.id)).collect();
        let numbers = [json!(worker.slots), json!(running.join(" ")), json!(worker.settled), Value::Null];
        listing.row([json!("worker"), json!(worker.worker), Value::Null, Value::Null, Value::Null].into_iter().chain(numbers).collect());
    }
    for (run, results) in runs {
        let mut row = vec![json!("run"), json!(run.as_str())];
        row.extend([Value::Null, Value::Null, Value::Null, Value::Null, Value::Null, Value::Null, json!(results)]);
        listing.row(row);
    }
    listing
}

fn common(result: Option<&JobResult>) -> [Value; 3] {
    let seconds = result.map(|result| (result.durations.compute_ms as f64 / 100.0).round() / 10.0);
    let error = result.and_then(|result| result.error.as_ref()).map(ToString::to_string);
    [json!(seconds), json!(result.map(|result| &result.worker)), json!(error)]
}

fn status(result: &JobResult) -> &'static str {
    use shared::contract::Status;
    match result.status {
        Status::Done => "done",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
    }
}

fn parameter_names(trials: &Trials) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (job, _) in &trials.trials {
        let Work::Trial(trial) = &job.work else { continue };
        names.extend(trial.parameters.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
    }
    names
}

fn parameter(job: &Job, name: &str) -> Value {
    let Work::Trial(trial) = &job.work else { return Value::Null };
    trial.parameters.get(name).cloned().unwrap_or(Value::Null)
}
