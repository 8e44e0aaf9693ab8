use serde_json::json;
use shared::contract::Metrics;
use shared::names::Name;

use super::*;
use crate::report::Ending;

/// A study whose trials have these parameters and validation errors; `None` is a failed one.
fn summary(trials: &[(Value, Option<f64>)]) -> StudySummary {
    let mut summary = StudySummary::new(&Name::new("s").expect("a name"), &[]);
    for (index, (parameters, error)) in trials.iter().enumerate() {
        let parameters = parameters.as_object().expect("an object").clone();
        for name in parameters.keys() {
            if !summary.parameters.contains(name) {
                summary.parameters.push(name.clone());
            }
        }
        summary.trials.push(TrialRow {
            id: format!("t{index:04}"),
            parameters,
            ending: if error.is_some() { Ending::Done } else { Ending::Failed },
            problem: None,
            validation: error.map(|error| Metrics { loss: error, error, rows: 100 }),
            epochs: Vec::new(),
            seconds: None,
            worker: None,
        });
    }
    summary
}

fn labels(axis: &Axis) -> Vec<&str> {
    axis.ticks.iter().map(|(_, label)| label.as_str()).collect()
}

fn names(plot: &Plot) -> Vec<&str> {
    plot.series.iter().map(|series| series.name.as_str()).collect()
}

#[test]
fn error_against_learning_rate_has_a_line_for_each_number_of_neurons() {
    let mut trials = Vec::new();
    for hidden in [256, 128] {
        for rate in [0.1, 0.001, 0.01] {
            trials.push((json!({"hidden": hidden, "learning_rate": rate}), Some(rate / 2.0 + 0.01)));
        }
    }
    trials.push((json!({"hidden": 128, "learning_rate": 1.0}), None));
    let plot = objective_plot(&summary(&trials)).expect("a plot");
    assert_eq!(plot.title, "Validation error against learning_rate, for each value of hidden");
    assert_eq!((plot.x.label.as_str(), plot.y.label.as_str()), ("learning_rate (log scale)", "validation error, %"));
    assert_eq!(labels(&plot.x), ["0.001", "0.003", "0.01", "0.03", "0.1"]);
    assert_eq!(labels(&plot.y), ["0", "2", "4", "6"]);
    assert_eq!((plot.legend.as_deref(), names(&plot)), (Some("hidden"), vec!["128", "256"]));
    let expected = [(-3.0, 1.05), (-2.0, 1.5), (-1.0, 6.0)];
    for series in &plot.series {
        let near = |(found, wanted): (&(f64, f64), (f64, f64))| {
            (found.0 - wanted.0).abs() < 1e-9 && (found.1 - wanted.1).abs() < 1e-9
        };
        assert!(series.points.len() == 3 && series.points.iter().zip(expected).all(near), "{:?}", series.points);
        assert!(matches!(series.look, Look::Coloured { joined: true, .. }));
    }
    assert_eq!(plot.caption, "1 trial (failed) left out.");
}

#[test]
fn other_studies_fall_back() {
    let plot = |trials: &[(Value, Option<f64>)]| objective_plot(&summary(trials));
    assert_eq!(plot(&[]), None);
    assert_eq!(plot(&[(json!({}), Some(0.1))]), None, "no parameters");
    assert_eq!(plot(&[(json!({"a": 1}), Some(0.1)), (json!({"a": 1}), Some(0.2))]), None, "nothing varies");
    assert_eq!(plot(&[(json!({"a": 1}), None), (json!({"a": 2}), None)]), None, "nothing was measured");

    let whole =
        plot(&[(json!({"kind": "b", "n": 1}), Some(0.1)), (json!({"kind": "a", "n": 2}), Some(0.2))]).expect("whole");
    assert_eq!((whole.x.label.as_str(), names(&whole)), ("n", vec!["b", "a"]));

    let words =
        plot(&[(json!({"kind": "b"}), Some(0.1)), (json!({"kind": {"type": "adam"}}), Some(0.2))]).expect("words");
    assert_eq!(labels(&words.x), ["b", "{\"type\":\"adam\"}"]);
    assert_eq!(words.legend, None);
    assert_eq!(words.series[0].points, [(0.0, 10.0), (1.0, 20.0)]);
    assert!(matches!(words.series[0].look, Look::Coloured { joined: false, .. }));
}

#[test]
fn random_points_are_not_joined_and_a_parameter_with_many_values_gives_no_colours() {
    let trials: Vec<_> =
        (0..30).map(|n| (json!({"f": f64::from(n) * 0.01 + 0.001, "g": f64::from(n) * 0.5}), Some(0.1))).collect();
    let plot = objective_plot(&summary(&trials)).expect("a plot");
    assert_eq!((plot.legend, plot.series.len()), (None, 1));
    assert!(matches!(plot.series[0].look, Look::Coloured { joined: false, .. }));
}

#[test]
fn trials_without_the_parameter_have_a_colour_of_their_own() {
    let trials = [
        (json!({"f": 0.1, "when": 1}), Some(0.1)),
        (json!({"f": 0.2, "when": 2}), Some(0.1)),
        (json!({"f": 0.3}), Some(0.1)),
    ];
    assert_eq!(names(&objective_plot(&summary(&trials)).expect("a plot")), ["1", "2", "without it"]);
}

#[test]
fn one_bad_trial_turns_the_errors_to_a_log_scale() {
    let trials = [(json!({"f": 0.1}), Some(0.01)), (json!({"f": 0.2}), Some(0.9))];
    let plot = objective_plot(&summary(&trials)).expect("a plot");
    assert_eq!(plot.y.label, "validation error, % (log scale)");
    assert_eq!(labels(&plot.y), ["1", "3", "10", "30", "100"]);
}

#[test]
fn time_against_workers_has_an_ideal_line() {
    let mut summary = summary(&[]);
    assert_eq!(scaling_plot(&summary), None);
    summary.scaling = vec![(4, 30.0), (1, 100.0), (2, 55.0)];
    let plot = scaling_plot(&summary).expect("a plot");
    assert_eq!(plot.series[1].points, [(1.0, 100.0), (2.0, 55.0), (4.0, 30.0)]);
    let ideal = &plot.series[0];
    assert_eq!((ideal.look, ideal.points[0], ideal.points[96]), (Look::Ideal, (1.0, 100.0), (4.0, 25.0)));
    assert_eq!(labels(&plot.x), ["0", "1", "2", "3", "4"]);
    summary.scaling = vec![(2, 55.0)];
    let plot = scaling_plot(&summary).expect("a plot");
    assert!(plot.caption.starts_with("One measurement so far, with 2 workers"), "{}", plot.caption);
}

#[test]
fn curves_show_the_best_in_colour_on_top() {
    let epoch = |epoch: u32, validation_error: f64| EpochMetrics {
        epoch,
        train_loss: 1.0,
        validation_loss: 1.0,
        validation_error,
        learning_rate: 0.1,
        duration_ms: 1,
    };
    let mut summary = summary(&[(json!({}), Some(0.2)), (json!({}), Some(0.1)), (json!({}), None)]);
    assert_eq!(curves_plot(&summary), None);
    summary.trials[0].epochs = vec![epoch(1, 0.3), epoch(2, 0.2)];
    summary.trials[1].epochs = vec![epoch(1, 0.2), epoch(2, 0.1), epoch(3, f64::NAN)];
    summary.trials[2].epochs = vec![epoch(1, 0.2), epoch(2, 0.1)];
    let plot = curves_plot(&summary).expect("a plot");
    assert_eq!(names(&plot), ["the others", "the best, t0001"]);
    assert_eq!(plot.series[1].points, [(1.0, 20.0), (2.0, 10.0)]);
    assert_eq!(labels(&plot.x), ["1", "2", "3"]);
}
