//! The form of `STUDY.toml`, and the checks that need nothing but the file.

use serde::Deserialize;
use serde_json::{Map, Value};
use shared::contract::{ImageInput, Objective};
use shared::names::Name;
use shared::strict::{self, Problem};

use super::sample::{MOST_TRIALS, Sampler};
use super::space::{RawParameter, Space};
use super::{Study, template};

/// How many training rows are held out.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Validation {
    /// So many.
    Rows(u32),
    /// So large a share, above 0 and below 1.
    Fraction(f64),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: Name,
    #[serde(default)]
    seed: u32,
    data: Data,
    #[serde(default)]
    search: Search,
    #[serde(default)]
    objective: Metric,
    #[serde(default)]
    space: Map<String, Value>,
    network: Value,
    training: Map<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    dataset: Name,
    validation: Option<serde_json::Number>,
    train_rows: Option<u32>,
    image: Option<ImageInput>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Search {
    #[serde(default)]
    sampler: SamplerName,
    trials: Option<u64>,
}

#[derive(Deserialize, Default, Clone, Copy)]
#[serde(rename_all = "snake_case")]
enum SamplerName {
    #[default]
    Grid,
    Random,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Metric {
    #[serde(default)]
    metric: Objective,
}

pub(super) fn parse(text: &str, file: &str) -> Result<Study, Problem> {
    let document: Value = strict::toml(text)?;
    only_json(&document, "")?;
    if let Some(Value::String(word)) = document.pointer("/data/image/resize") {
        let accepted = "`{ shortest_edge = 72 }` and `{ exact = [72, 72] }`, for example, are accepted; without it \
            pictures are resized straight to `size`";
        return Err(Problem::new("data.image.resize", format!("\"{word}\""), accepted));
    }
    let wire: File = strict::from_value(&document)?;
    if let Some(image) = &wire.data.image {
        image.check().map_err(|problem| problem.inside("data.image"))?;
    }
    let raw = wire.space.into_iter().map(|(name, value)| {
        let parameter: RawParameter =
            strict::from_value(&value).map_err(|problem| problem.inside(&format!("space.{name}")))?;
        Ok((name, parameter))
    });
    let space = Space::new(raw.collect::<Result<_, Problem>>()?)?;
    if let Some(metric) = wire.training.get("objective") {
        return Err(Problem::new("training.objective", metric, "write it as `metric` under `[objective]`"));
    }
    let study = Study {
        name: wire.name,
        seed: wire.seed,
        dataset: wire.data.dataset,
        validation: validation(wire.data.validation)?,
        train_rows: wire.data.train_rows,
        image: wire.data.image,
        sampler: sampler(&wire.search)?,
        objective: wire.objective.metric,
        space,
        network: wire.network,
        training: wire.training.into(),
        file: file.into(),
    };
    if let Sampler::Grid { .. } = study.sampler {
        study.space.check_grid()?;
    }
    template::check(&study.space, &[("network", &study.network), ("training", &study.training)])?;
    Ok(study)
}

/// TOML has dates and infinite numbers, JSON has not.
fn only_json(value: &Value, at: &str) -> Result<(), Problem> {
    let accepted = "texts, finite numbers, flags, lists and tables are accepted";
    match value {
        Value::Null => Err(Problem::new(at, "not a finite number", accepted)),
        Value::Object(map) if map.contains_key("$__toml_private_datetime") => Err(Problem::new(at, "a date", accepted)),
        Value::Object(map) => map.iter().try_for_each(|(key, value)| only_json(value, &template::join(at, key))),
        Value::Array(items) => {
            items.iter().enumerate().try_for_each(|(index, value)| only_json(value, &format!("{at}[{index}]")))
        }
        Value::Bool(_) | Value::Number(_) | Value::String(_) => Ok(()),
    }
}

fn validation(number: Option<serde_json::Number>) -> Result<Validation, Problem> {
    let Some(number) = number else { return Ok(Validation::Fraction(0.1)) };
    if let Some(rows) = number.as_u64().and_then(|rows| u32::try_from(rows).ok())
        && rows > 0
    {
        return Ok(Validation::Rows(rows));
    }
    match number.as_f64() {
        Some(share) if share > 0.0 && share < 1.0 => Ok(Validation::Fraction(share)),
        _ => Err(Problem::new(
            "data.validation",
            number,
            "a number of rows (1 or more), or a share of the training split above 0 and below 1, is accepted",
        )),
    }
}

fn sampler(search: &Search) -> Result<Sampler, Problem> {
    let trials = search.trials.map(|trials| match u32::try_from(trials) {
        Ok(trials) if (1..=MOST_TRIALS).contains(&trials) => Ok(trials),
        _ => Err(Problem::new("search.trials", trials, format!("1 to {MOST_TRIALS} is accepted"))),
    });
    match (search.sampler, trials.transpose()?) {
        (SamplerName::Grid, most) => Ok(Sampler::Grid { most }),
        (SamplerName::Random, Some(trials)) => Ok(Sampler::Random { trials }),
        (SamplerName::Random, None) => Err(Problem::new(
            "search.trials",
            "missing",
            format!("the sampler \"random\" needs a number of trials, 1 to {MOST_TRIALS}"),
        )),
    }
}
