//! The report of a study, from jobs and results to the page.

use producer::report::{Ending, Format, StudySummary, study_html};
use producer::study::{Study, test_job, winner};
use proptest::prelude::*;
use serde_json::{Value, json};
use shared::contract::{
    Cost, Dataset, Durations, ElementType, ErrorCode, ErrorReport, Job, JobResult, Kind, Metrics, Outcome, Split,
    Status, TrialOutcome, Work,
};
use shared::digest::Digest;
use shared::names::{Key, Name, ObjectRef};

const STUDY: &str = r#"
name = "s"
[data]
dataset = "mnist"
[training]
epochs = 2
batch_size = 10
optimizer = { type = "sgd", learning_rate = "$rate" }
[space]
rate = { choice = [0.1, 0.2, 0.3, 0.4, 0.5] }
[[network.layers]]
type = "linear"
units = "$classes"
"#;

fn object(key: &str) -> ObjectRef {
    ObjectRef { key: Key::new(key).expect("a key"), sha256: Digest::of(b"") }
}

fn jobs() -> Vec<Job> {
    let dataset = Dataset {
        name: Name::new("mnist").expect("a name"),
        shape: vec![4],
        elements: ElementType::F32,
        classes: 3,
        labels: Vec::new(),
        mean: vec![0.0; 4],
        std: vec![1.0; 4],
        luma: None,
        splits: [("train".to_owned(), Split { object: object("train"), rows: 100 })].into(),
    };
    let study = Study::parse(STUDY, "s.toml").expect("a good study");
    study.trials(&dataset, &object("datasets/mnist/0/dataset.json"), &study.name).expect("good trials")
}

fn result(job: &Job, outcome: Result<Metrics, &str>) -> JobResult {
    let is_test = matches!(&job.work, Work::Trial(trial) if trial.evaluate.is_some());
    JobResult {
        id: job.id.clone(),
        run: job.run.clone(),
        kind: Kind::Trial,
        status: if outcome.is_ok() { Status::Done } else { Status::Failed },
        worker: "w".into(),
        attempt: 1,
        simd: None,
        finished_at: "2026-01-01T00:00:00Z".parse().expect("a time"),
        durations: Durations { fetch_ms: 0, compute_ms: 1500 },
        costs: Cost::default(),
        outcome: outcome.ok().map(|metrics| {
            Outcome::Trial(Box::new(TrialOutcome {
                epochs: Vec::new(),
                best_epoch: 1,
                validation: (!is_test).then_some(metrics),
                test: is_test.then_some(metrics),
                checkpoint: object("checkpoint"),
                parameter_count: 15,
                slices: 1,
                stopped_early: false,
            }))
        }),
        outcome_ref: None,
        error: outcome.err().map(|message| ErrorReport {
            code: ErrorCode::Failed,
            message: message.into(),
            causes: Vec::new(),
        }),
        nonce: "n".into(),
    }
}

fn metrics(error: f64) -> Metrics {
    Metrics { loss: error * 2.0, error, rows: 10 }
}

/// Five trials: 0.3, 0.1 (the best), 0.1, one that failed, one that is open; and the best one's test.
fn study() -> Vec<(Job, Option<JobResult>)> {
    let outcomes =
        [Some(Ok(metrics(0.3))), Some(Ok(metrics(0.1))), Some(Ok(metrics(0.1))), Some(Err("it <b>broke</b>")), None];
    let mut all: Vec<_> = jobs()
        .into_iter()
        .zip(outcomes)
        .map(|(job, outcome)| {
            let result = outcome.map(|outcome| result(&job, outcome));
            (job, result)
        })
        .collect();
    let best = winner(&all).expect("a winner");
    let test = test_job(&all[best].0, object("checkpoint")).expect("a trial");
    let measured = result(&test, Ok(metrics(0.125)));
    all.push((test, Some(measured)));
    all
}

#[test]
fn the_first_of_the_best_wins_and_its_test_error_is_told() {
    let all = study();
    let summary = StudySummary::new(&all[0].0.run, &all);
    assert_eq!((winner(&all), summary.winner), (Some(1), Some(1)));
    assert_eq!(summary.test.map(|metrics| metrics.error), Some(0.125));
    assert_eq!((summary.dataset.as_deref(), summary.validation_rows), (Some("mnist"), 10));
    let endings: Vec<Ending> = summary.trials.iter().map(|trial| trial.ending).collect();
    assert_eq!(endings, [Ending::Done, Ending::Done, Ending::Done, Ending::Failed, Ending::Open]);
    let ranked: Vec<&str> = summary.ranked().iter().map(|trial| trial.id.as_str()).collect();
    assert_eq!(ranked, ["t0001", "t0002", "t0000", "t0003", "t0004"]);
}

#[test]
fn trials_are_listed_for_programs() {
    let all = study();
    let mut text = Vec::new();
    StudySummary::new(&all[0].0.run, &all).listing().write(Format::Json, &mut text).expect("memory");
    let lines: Vec<Value> =
        text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    assert_eq!(lines.len(), 5);
    assert_eq!(
        lines[1],
        json!({"trial": "t0001", "rate": 0.2, "status": "done", "validation_error": 0.1, "validation_loss": 0.2,
               "test_error": 0.125, "epochs": null, "seconds": 1.5, "problem": null})
    );
    assert_eq!(lines[3]["problem"], "failed: it <b>broke</b>");
}

#[test]
fn the_page_tells_the_study_and_needs_nothing_else() {
    let all = study();
    let mut summary = StudySummary::new(&all[0].0.run, &all);
    summary.scaling = vec![(2, 3.0)];
    summary.notes = vec!["<script>alert(1)</script>".into()];
    let page = study_html(&summary);
    for text in ["10.00 %", "12.50 %", "t0001", "Time against number of workers", "Validation error against rate"] {
        assert!(page.contains(text), "{text}");
    }
    assert_eq!(page.matches("<svg ").count(), 2);
    assert!(page.contains("failed: it &lt;b&gt;broke&lt;/b&gt;"));
    for foreign in ["<script", "http:", "https:", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(foreign), "{foreign}");
    }
    assert!(page.len() < 100_000, "{} bytes", page.len());
}

#[test]
fn a_study_without_results_has_a_page() {
    let all: Vec<_> = jobs().into_iter().map(|job| (job, None)).collect();
    let page = study_html(&StudySummary::new(&all[0].0.run, &all));
    assert!(page.contains("No trial has finished with a value yet."));
    assert!(!page.contains("<svg"));
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<f64>().prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number)),
        (-3i32..3).prop_map(|exponent| json!(10f64.powi(exponent))),
        "[<>&'\"a\\PC]{0,8}".prop_map(|text| json!(text)),
        Just(json!({"</svg><script>": ["\u{0}"]})),
        Just(Value::Null),
    ]
}

proptest! {
    #[test]
    fn any_values_make_a_page(
        values in proptest::collection::vec((any_value(), any_value(), any::<f64>()), 5),
        scaling in proptest::collection::vec((any::<u32>(), any::<f64>()), 0..3),
    ) {
        let mut all = study();
        for ((job, result), (a, b, value)) in all.iter_mut().zip(values) {
            let Work::Trial(trial) = &mut job.work else { unreachable!("trials only") };
            trial.parameters = [("<rate>".to_owned(), a), ("b\"&".to_owned(), b)].into_iter().collect();
            if let Some(Outcome::Trial(outcome)) = result.as_mut().and_then(|result| result.outcome.as_mut()) {
                outcome.validation = Some(Metrics { loss: value, error: value, rows: 1 });
            }
        }
        let mut summary = StudySummary::new(&all[0].0.run, &all);
        summary.scaling = scaling;
        let page = study_html(&summary);
        prop_assert!(!page.contains("<script") && !page.contains("<rate>"));
        prop_assert_eq!(page.matches("<svg ").count(), page.matches("</svg>").count());
        let mut text = Vec::new();
        summary.listing().write(Format::Table, &mut text).expect("memory");
    }
}
