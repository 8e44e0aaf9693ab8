//! The listings of the commands: which columns, and what stands in them.

use serde_json::{Value, json};
use shared::contract::{Heartbeat, JobResult};
use shared::queue::Depth;

use crate::report::Listing;
use crate::runs::Overview;

/// Results of any jobs.
pub fn results<'a>(results: impl Iterator<Item = &'a JobResult>) -> Listing {
    let mut listing = Listing::new([
        "job",
        "run",
        "kind",
        "status",
        "validation_error",
        "test_error",
        "images",
        "model",
        "precision",
        "compared",
        "agreed",
        "seconds",
        "worker",
        "error",
    ]);
    for result in results {
        let (trial, batch) = (result.trial(), result.batch());
        let agreement = batch.and_then(|batch| batch.agreement);
        let mut row = vec![
            json!(result.id.as_str()),
            json!(result.run.as_str()),
            json!(result.kind.as_str()),
            json!(result.status.as_str()),
            json!(trial.and_then(|trial| trial.validation).map(|metrics| metrics.error)),
            json!(trial.and_then(|trial| trial.test).map(|metrics| metrics.error)),
            json!(batch.map(|batch| batch.images.len())),
            json!(batch.map(|batch| batch.model)),
            json!(batch.map(|batch| batch.precision)),
            json!(agreement.map(|agreement| agreement.compared)),
            json!(agreement.map(|agreement| agreement.agreed)),
        ];
        row.extend(common(Some(result)));
        listing.push(row);
    }
    listing
}

/// Queues, workers and runs, told apart by the first column.
pub fn status<'a>(depths: &[Depth], workers: impl Iterator<Item = &'a Heartbeat>, runs: &[Overview]) -> Listing {
    let mut listing =
        Listing::new(["what", "name", "ready", "unsettled", "consumers", "slots", "running", "settled", "results"]);
    for depth in depths {
        let numbers = [json!(depth.ready), json!(depth.unsettled), json!(depth.consumers)];
        listing.push(
            [json!("queue"), json!(depth.queue)]
                .into_iter()
                .chain(numbers)
                .chain([Value::Null, Value::Null, Value::Null, Value::Null])
                .collect(),
        );
    }
    for worker in workers {
        let running: Vec<String> = worker.running.iter().map(|job| format!("{}/{}", job.run, job.id)).collect();
        let more = if worker.names_all() { "" } else { " …" };
        let running = running.join(" ") + more;
        let numbers = [json!(worker.slots), json!(running), json!(worker.settled), Value::Null];
        listing.push(
            [json!("worker"), json!(worker.worker), Value::Null, Value::Null, Value::Null]
                .into_iter()
                .chain(numbers)
                .collect(),
        );
    }
    for Overview { run, done, .. } in runs {
        let mut row = vec![json!("run"), json!(run.as_str())];
        row.extend([Value::Null, Value::Null, Value::Null, Value::Null, Value::Null, Value::Null, json!(done)]);
        listing.push(row);
    }
    listing
}

fn common(result: Option<&JobResult>) -> [Value; 3] {
    let seconds = result.map(|result| (result.durations.compute_ms as f64 / 100.0).round() / 10.0);
    let error = result.and_then(|result| result.error.as_ref()).map(ToString::to_string);
    [json!(seconds), json!(result.map(|result| &result.worker)), json!(error)]
}
