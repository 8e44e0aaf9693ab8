//! `config.json` of a model's folder: which network, on what input, with which labels.
//!
//! Gannet's own form, and as much of Hugging Face's as names a network that is known here.

use serde_json::{Map, Value, json};
use shared::contract::{Architecture, Network, Scores, Shape};
use shared::strict::{self, Problem};

/// What a `config.json` says.
#[derive(Debug, Default)]
pub(super) struct Config {
    pub(super) network: Described,
    pub(super) input: Option<Shape>,
    /// From `id2label`, or timm's `label_names`.
    pub(super) labels: Option<Vec<String>>,
    /// From `problem_type`.
    pub(super) scores: Option<Scores>,
    /// timm's account of what pictures become.
    pub(super) pretrained: Option<Value>,
    /// From `num_labels` or `num_classes`.
    pub(super) classes: Option<usize>,
    /// Keys that nothing is done with.
    pub(super) unused: Vec<String>,
}

/// How the network is described.
#[derive(Debug, Default)]
pub(super) enum Described {
    ByName(Architecture),
    ByLayers(Network),
    /// By the file beside it.
    #[default]
    Elsewhere,
}

/// What is accepted in the place of a network, for messages.
pub(super) const ACCEPTED: &str = "{\"architecture\": \"resnet18\"} or {\"input\": [3, 32, 32], \"layers\": [...]}";

/// Keys that name an architecture; the first that is there counts.
const NAMES: [&str; 3] = ["architecture", "architectures", "model_type"];
const KNOWN: [&str; 13] = [
    "architecture",
    "architectures",
    "model_type",
    "layers",
    "input",
    "id2label",
    "label2id",
    "num_labels",
    "num_classes",
    "label_names",
    "pretrained_cfg",
    "problem_type",
    "transform_input",
];
/// Keys that other libraries write and that change no number.
const HARMLESS: [&str; 12] = [
    "_name_or_path",
    "aux_logits",
    "description",
    "dtype",
    "finetuning_task",
    "label2id",
    "label_descriptions",
    "license",
    "name",
    "source",
    "torch_dtype",
    "transformers_version",
];

/// Reads the document.
pub(super) fn read(text: &[u8]) -> Result<Config, Problem> {
    let map: Map<String, Value> = strict::json(text)?;
    if map.get("transform_input").is_some_and(|value| *value != json!(false)) {
        return Err(Problem::new(
            "transform_input",
            &map["transform_input"],
            "false is accepted: with true, leave it out and write \"image_mean\" and \"image_std\" of [0.5, 0.5, 0.5] into preprocessor_config.json, which computes the same",
        ));
    }
    // Other libraries write keys of their own beside a network that goes by name. Without one a near miss matters.
    let by_name = NAMES.iter().any(|key| map.contains_key(*key));
    let mut unused = Vec::new();
    for key in map.keys().filter(|key| !KNOWN.contains(&key.as_str()) && !HARMLESS.contains(&key.as_str())) {
        match strict::nearest(key, KNOWN) {
            Some(near) if !by_name || map.contains_key("layers") => {
                return Err(Problem { at: key.clone(), what: format!("is no known key: did you mean `{near}`?") });
            }
            _ => unused.push(key.clone()),
        }
    }
    let classes =
        match map.get("num_labels").map(|n| ("num_labels", n)).or(map.get("num_classes").map(|n| ("num_classes", n))) {
            None => None,
            Some((key, value)) => Some(strict::from_value(value).map_err(|problem| problem.inside(key))?),
        };
    Ok(Config { network: network(&map)?, classes, unused, ..common(&map)? })
}

/// What stands beside every network.
fn common(map: &Map<String, Value>) -> Result<Config, Problem> {
    let pretrained = map.get("pretrained_cfg").filter(|value| !value.is_null()).cloned();
    let named = map.get("id2label").map(labels).transpose()?;
    let listed = |key: &str, value: Option<&Value>| {
        let value = value.and_then(|value| value.get("label_names")).filter(|value| !value.is_null());
        value.map(|value| strict::from_value(value).map_err(|p| p.inside("label_names").inside(key))).transpose()
    };
    let labels = match (named, map.get("label_names").filter(|value| !value.is_null())) {
        (Some(named), _) => Some(named),
        (None, Some(value)) => Some(strict::from_value(value).map_err(|p| p.inside("label_names"))?),
        (None, None) => listed("pretrained_cfg", pretrained.as_ref())?,
    };
    let scores = match map.get("problem_type").filter(|value| !value.is_null()) {
        None => None,
        Some(value) => match value.as_str() {
            Some("single_label_classification") => Some(Scores::Softmax),
            Some("multi_label_classification") => Some(Scores::Sigmoid),
            Some("regression") => Some(Scores::Raw),
            _ => {
                let accepted = "single_label_classification (softmax), multi_label_classification (sigmoid) and regression \
                                (raw outputs) are accepted";
                return Err(Problem::new("problem_type", value, accepted));
            }
        },
    };
    let input = map.get("input").map(|value| strict::from_value(value).map_err(|p| p.inside("input"))).transpose()?;
    Ok(Config { input, labels, scores, pretrained, ..Config::default() })
}

/// Reads the document beside an ONNX file, which has the network itself.
pub(super) fn beside_onnx(text: &[u8]) -> Result<Config, Problem> {
    let map: Map<String, Value> = strict::json(text)?;
    if map.contains_key("layers") {
        let what = "stands beside an ONNX file, which holds its network: take out one of them".into();
        return Err(Problem { at: "layers".into(), what });
    }
    common(&map)
}

fn network(map: &Map<String, Value>) -> Result<Described, Problem> {
    let named = NAMES.into_iter().find(|key| map.contains_key(*key));
    match (map.get("layers"), named) {
        (Some(layers), None) => Ok(Described::ByLayers(strict::from_value(&json!({"layers": layers}))?)),
        (Some(_), Some(key)) => {
            Err(Problem { at: key.into(), what: "stands beside `layers`: one of them is accepted".into() })
        }
        (None, Some(key)) => by_name(key, &map[key]).map(Described::ByName),
        (None, None) => Err(Problem { at: String::new(), what: format!("names no network: {ACCEPTED} is accepted") }),
    }
}

fn by_name(key: &str, value: &Value) -> Result<Architecture, Problem> {
    let accepted = Architecture::ALL.map(Architecture::name);
    let name = match value {
        Value::String(name) => Some(name),
        Value::Array(names) => match names.as_slice() {
            [Value::String(name)] => Some(name),
            _ => None,
        },
        _ => None,
    };
    let list = accepted.join(", ");
    let Some(name) = name else { return Err(Problem::new(key, value, format!("one of {list} is accepted"))) };
    Architecture::find(name).ok_or_else(|| {
        let mut advice =
            format!("{list} are known, with torchvision's tensor names; describe another one with `layers`");
        if let Some(near) = strict::nearest(name, accepted) {
            advice.push_str(&format!("; did you mean `{near}`?"));
        }
        Problem::new(key, format!("{name:?}"), advice)
    })
}

/// `{"0": "cat", "1": "dog"}`
fn labels(value: &Value) -> Result<Vec<String>, Problem> {
    let map: Map<String, Value> = strict::from_value(value).map_err(|problem| problem.inside("id2label"))?;
    let label = |index: usize| match map.get(&index.to_string()) {
        Some(Value::String(label)) => Ok(label.clone()),
        Some(other) => Err(Problem::new(format!("id2label.{index}"), other, "a text is accepted")),
        None => Err(Problem {
            at: "id2label".into(),
            what: format!(
                "has {} labels but none for {index}: the keys 0 to {} are accepted",
                map.len(),
                map.len() - 1
            ),
        }),
    };
    (0..map.len()).map(label).collect()
}
