//! Studies and jobs over [`crate::Pictures`], as a person would write them.

use serde_json::{Value, json};

/// Four short trials.
pub fn quick() -> String {
    study(4, 3)
}

/// Two trials long enough to be caught in the middle: many short epochs, so that progress is told often, and not so
/// many that a result outgrows a message; and many filters, since the usual ones are trained in two seconds.
pub fn long() -> String {
    study(2, 600).replace("filters = 16", "filters = 48").replace("filters = 32", "filters = 96")
}

fn study(trials: u32, epochs: u32) -> String {
    format!(
        r#"name = "bars"
seed = 7

[data]
dataset = "bars"
validation = 60

[search]
sampler = "random"
trials = {trials}

[training]
epochs = {epochs}
batch_size = 16
optimizer = {{ type = "sgd", learning_rate = "$learning_rate" }}

[space]
hidden = {{ int = [8, 32] }}
learning_rate = {{ log = [5e-3, 5e-2] }}

[network]
layers = [
    {{ type = "conv", filters = 16, kernel = 5, padding = "same" }},
    {{ type = "relu" }},
    {{ type = "max_pool", kernel = 2 }},
    {{ type = "conv", filters = 32, kernel = 5, padding = "same" }},
    {{ type = "relu" }},
    {{ type = "max_pool", kernel = 2 }},
    {{ type = "flatten" }},
    {{ type = "linear", units = "$hidden" }},
    {{ type = "relu" }},
    {{ type = "linear", units = "$classes" }},
]
"#
    )
}

/// Two trials on the dataset `shapes`, a folder of pictures.
pub fn pictures() -> String {
    let text = study(2, 6).replace("\"bars\"", "\"shapes\"").replace("conv\", filters = 16", "conv\", filters = 8");
    text.replace("validation = 60", "validation = 0.2\nimage = { size = 20, resize = { shortest_edge = 22 } }")
}

/// Two trials on the dataset `points`, a table.
pub fn table() -> String {
    let text = study(2, 10).replace("\"bars\"", "\"points\"");
    let (head, _) = text.split_once("[network]").unwrap_or_default();
    let layers =
        r#"{ type = "linear", units = "$hidden" }, { type = "relu" }, { type = "linear", units = "$classes" }"#;
    format!("{head}[network]\nlayers = [{layers}]\n")
}

/// A trial that keeps everything that a slice has to hand on: dropout, shuffling, Adam's moments, batch norm.
pub fn stateful_job(id: &str, run: &str, dataset: &Value, epochs: u32) -> Value {
    let mut job = job(id, run, dataset);
    job["trial"]["network"] = json!({"layers": [
        {"type": "conv", "filters": 4, "kernel": 3, "padding": "same"},
        {"type": "batch_norm"},
        {"type": "relu"},
        {"type": "max_pool", "kernel": 2},
        {"type": "flatten"},
        {"type": "dropout", "rate": 0.3},
        {"type": "linear", "units": 3},
    ]});
    job["trial"]["training"] =
        json!({"epochs": epochs, "batch_size": 50, "optimizer": {"type": "adam", "learning_rate": 0.002}});
    job
}

/// One small trial, written by hand: `dataset` is the reference to a manifest.
pub fn job(id: &str, run: &str, dataset: &Value) -> Value {
    json!({
        "id": id,
        "run": run,
        "kind": "trial",
        "trial": {
            "network": {"layers": [{"type": "flatten"}, {"type": "linear", "units": 3}]},
            "data": {"dataset": dataset, "validation_rows": 60},
            "training": {"epochs": 1, "batch_size": 16, "optimizer": {"type": "sgd", "learning_rate": 0.05}},
            "seed": 1,
        },
    })
}
