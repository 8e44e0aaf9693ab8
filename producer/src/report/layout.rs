//! What a report's plots show: which parameter goes where, scales, ticks, lines. Pure decisions, no
//! drawing.

use std::collections::BTreeMap;

use serde_json::Value;
use shared::contract::{EpochMetrics, Objective};

use self::axis::{Axis, number};
use super::display;
use super::summary::{StudySummary, TrialRow};
use crate::words::count;

mod axis;

/// A plot, in the units of its axes.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plot {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    /// What the colours stand for.
    pub(super) legend: Option<String>,
    pub(super) series: Vec<Series>,
    /// What the reader should know about what is not there.
    pub(super) caption: String,
}

/// Points of one colour.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    pub(super) look: Look,
}

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Points, joined or not, in colour `0…`.
    Coloured { colour: usize, joined: bool },
    /// A thin grey line.
    Quiet,
    /// A dashed line.
    Ideal,
}

/// Colours that people can tell apart, and so the most that a legend has.
pub(super) const MOST_COLOURS: usize = 8;
/// Distinct values along x up to which points belong to a grid and are joined.
const MOST_JOINED: usize = 12;
/// Trials that a plot draws: more are a blot, and megabytes.
const MOST_POINTS: usize = 2_000;
/// Lines among the learning curves.
const MOST_CURVES: usize = 60;

/// Objective against the first parameter with numbers that are not all whole (or else the first that
/// varies), a colour for each value of the next one.
///
/// `None` where no trial has a value or no parameter varies.
pub(super) fn objective_plot(summary: &StudySummary) -> Option<Plot> {
    let ranked = summary.ranked();
    let measured: Vec<(&TrialRow, f64)> = ranked
        .iter()
        .filter_map(|trial| Some((*trial, shown(summary.objective, summary.value(trial)?))))
        .take(MOST_POINTS)
        .collect();
    let varying: Vec<&String> = summary.parameters.iter().filter(|name| distinct(&measured, name).len() > 1).collect();
    let numeric: Vec<&&String> =
        varying.iter().filter(|name| distinct(&measured, name).iter().all(Value::is_number)).collect();
    let fractional = numeric.iter().find(|name| distinct(&measured, name).iter().any(Value::is_f64));
    let along = fractional.or(numeric.first()).copied().or(varying.first()).copied()?;
    let colour = varying.iter().find(|name| **name != along && distinct(&measured, name).len() <= MOST_COLOURS);
    let values = distinct(&measured, along);
    let x = Axis::of_parameter(along, &values)?;
    let y = objective_axis(summary.objective, measured.iter().map(|(_, value)| *value));
    let joined = values.iter().all(Value::is_number) && values.len() <= MOST_JOINED;
    // `None` stands for the trials that do not have the parameter, or for all where there is none.
    let named = colour.map(|name| distinct(&measured, name)).unwrap_or_default();
    let groups: Vec<Option<Value>> = named.into_iter().map(Some).chain([None]).collect();
    let series = groups.iter().enumerate().map(|(index, group)| {
        let belongs = |trial: &TrialRow| colour.is_none_or(|name| trial.parameters.get(*name) == group.as_ref());
        let mut points: Vec<(f64, f64)> = measured
            .iter()
            .filter(|(trial, _)| belongs(trial))
            .filter_map(|(trial, value)| Some((x.place_value(trial.parameters.get(along)?, &values)?, y.place(*value))))
            .collect();
        points.sort_by(|one, other| one.0.total_cmp(&other.0).then(one.1.total_cmp(&other.1)));
        let name = group.as_ref().map_or_else(|| "without it".to_owned(), display);
        Series { name, points, look: Look::Coloured { colour: index, joined } }
    });
    let series: Vec<Series> = series.filter(|series| !series.points.is_empty()).collect();
    let drawn: usize = series.iter().map(|series| series.points.len()).sum();
    let each = colour.map(|name| format!(", for each value of {name}")).unwrap_or_default();
    Some(Plot {
        title: format!("{} against {along}{each}", capitalised(objective_name(summary.objective))),
        x,
        y,
        legend: colour.map(|name| (*name).clone()),
        series,
        caption: omitted(summary, drawn),
    })
}

/// Seconds against workers, and what perfect sharing would give from the smallest number on. `None`
/// without a measurement.
pub(super) fn scaling_plot(summary: &StudySummary) -> Option<Plot> {
    let mut points: Vec<(u32, f64)> =
        summary.scaling.iter().copied().filter(|(workers, s)| *workers > 0 && s.is_finite() && *s > 0.0).collect();
    points.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
    let (first, last) = (*points.first()?, *points.last()?);
    let most = last.0.max(first.0.saturating_mul(2)).max(4);
    let ideal = |workers: f64| first.1 * f64::from(first.0) / workers;
    let curve = (0..=96).map(|step| {
        let workers = f64::from(first.0) + f64::from(most - first.0) * f64::from(step) / 96.0;
        (workers, ideal(workers))
    });
    let longest = points.iter().map(|(_, seconds)| *seconds).fold(0.0, f64::max);
    let mut x = Axis::linear("workers", 0.0, f64::from(most) * 1.04);
    x.ticks.retain(|(at, _)| at.fract() == 0.0);
    let alone = points.iter().all(|(workers, _)| *workers == first.0);
    let caption = if alone {
        format!(
            "One measurement so far, with {}: run the study with another number of workers to compare. The dashed line is what perfect sharing would give.",
            count(first.0 as usize, "worker")
        )
    } else {
        format!("The dashed line is what perfect sharing would give from {} on.", count(first.0 as usize, "worker"))
    };
    Some(Plot {
        title: "Time against number of workers".into(),
        x,
        y: Axis::linear("time, s", 0.0, longest * 1.08),
        legend: Some("time".into()),
        series: vec![
            Series { name: "perfect sharing".into(), points: curve.collect(), look: Look::Ideal },
            Series {
                name: "measured".into(),
                points: points.iter().map(|(workers, seconds)| (f64::from(*workers), *seconds)).collect(),
                look: Look::Coloured { colour: 0, joined: true },
            },
        ],
        caption,
    })
}

/// The objective epoch by epoch, the winner in colour. `None` where no trial has two epochs.
pub(super) fn curves_plot(summary: &StudySummary) -> Option<Plot> {
    let value = |epoch: &EpochMetrics| match summary.objective {
        Objective::ValidationError => shown(summary.objective, epoch.validation_error),
        Objective::ValidationLoss => epoch.validation_loss,
    };
    let ranked = summary.ranked();
    let curves: Vec<&TrialRow> =
        ranked.iter().copied().filter(|trial| trial.epochs.len() > 1 && summary.value(trial).is_some()).collect();
    let best = &curves[..curves.len().min(MOST_CURVES)];
    let epochs = best.iter().map(|trial| trial.epochs.len()).max()?;
    let finite = |trial: &TrialRow| trial.epochs.iter().map(value).filter(|v| v.is_finite()).collect::<Vec<_>>();
    let y = objective_axis(summary.objective, best.iter().flat_map(|trial| finite(trial)));
    let mut x = Axis::linear("epoch", 1.0, epochs as f64).padded();
    x.ticks.retain(|(at, _)| at.fract() == 0.0);
    let mut series: Vec<Series> = Vec::new();
    for (rank, trial) in best.iter().enumerate().rev() {
        let points = trial.epochs.iter().map(|epoch| (f64::from(epoch.epoch), value(epoch)));
        let points = points.filter(|(_, value)| value.is_finite()).map(|(epoch, value)| (epoch, y.place(value)));
        let (name, look) = match rank {
            0 => (format!("the best, {}", trial.id), Look::Coloured { colour: 0, joined: true }),
            _ => ("the others".to_owned(), Look::Quiet),
        };
        series.push(Series { name, points: points.collect(), look });
    }
    Some(Plot {
        title: format!("{} by epoch", capitalised(objective_name(summary.objective))),
        x,
        y,
        legend: Some("trial".into()),
        series,
        caption: if curves.len() > best.len() {
            format!("The best {} of {} trials.", best.len(), curves.len())
        } else {
            String::new()
        },
    })
}

pub(super) fn objective_name(objective: Objective) -> &'static str {
    match objective {
        Objective::ValidationError => "validation error",
        Objective::ValidationLoss => "validation loss",
    }
}

fn omitted(summary: &StudySummary, drawn: usize) -> String {
    let mut parts = Vec::new();
    let measured = summary.trials.iter().filter(|trial| summary.value(trial).is_some()).count();
    if measured > drawn {
        parts.push(format!("{drawn} of {measured} finished trials are drawn"));
    }
    let mut others: BTreeMap<&str, usize> = BTreeMap::new();
    for trial in summary.trials.iter().filter(|trial| summary.value(trial).is_none()) {
        *others.entry(trial.ending.as_str()).or_default() += 1;
    }
    parts.extend(others.iter().map(|(ending, number)| format!("{} ({ending}) left out", count(*number, "trial"))));
    if parts.is_empty() { String::new() } else { format!("{}.", capitalised(&parts.join("; "))) }
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// The values of a parameter: numbers upwards, others as they came.
fn distinct(trials: &[(&TrialRow, f64)], name: &str) -> Vec<Value> {
    let mut by_id: Vec<&TrialRow> = trials.iter().map(|(trial, _)| *trial).collect();
    by_id.sort_by(|one, other| one.id.cmp(&other.id));
    let mut seen = std::collections::BTreeSet::new();
    let mut values: Vec<Value> = Vec::new();
    for value in by_id.iter().filter_map(|trial| trial.parameters.get(name)) {
        if seen.insert(value.to_string()) {
            values.push(value.clone());
        }
    }
    if values.iter().all(Value::is_number) {
        values.sort_by(|one, other| number(one).total_cmp(&number(other)));
    }
    values
}

/// The axis of the objective for these values, in the units of [`shown`].
fn objective_axis(objective: Objective, values: impl Iterator<Item = f64>) -> Axis {
    let (low, high) = values.fold((f64::INFINITY, 0.0f64), |(low, high), value| (low.min(value), high.max(value)));
    let name = objective_name(objective);
    let label = match objective {
        Objective::ValidationError => format!("{name}, %"),
        Objective::ValidationLoss => name.to_owned(),
    };
    // One trial that learned nothing must not press all others onto the floor.
    if low > 0.0 && high / low > 12.0 {
        Axis::log(&label, low, high)
    } else {
        Axis::linear(&label, 0.0, if high > 0.0 { high * 1.08 } else { 1.0 })
    }
}

/// The objective as its axis shows it: errors in percent.
fn shown(objective: Objective, value: f64) -> f64 {
    match objective {
        Objective::ValidationError => value * 100.0,
        Objective::ValidationLoss => value,
    }
}

#[cfg(test)]
mod tests;
