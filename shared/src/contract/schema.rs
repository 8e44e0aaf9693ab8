//! The contract for clients in any language, generated from the types themselves: JSON Schemas of
//! every document, and an AsyncAPI description of where they travel.

use schemars::{Schema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{Control, Dataset, Heartbeat, JobResult, Model, Progress, VERSION, job::Wire};

/// A document of the contract and its schema.
pub struct Document {
    /// Its name: `job`, `result`, …
    pub name: &'static str,
    /// Where it travels or lies.
    pub place: &'static str,
    /// Its JSON Schema, 2020-12.
    pub schema: Schema,
}

/// Every document of the contract.
pub fn documents() -> Vec<Document> {
    macro_rules! document {
        ($name:literal, $place:literal, $type:ty) => {
            Document {
                name: $name,
                place: $place,
                schema: SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<$type>(),
            }
        };
    }
    vec![
        document!("job", "exchange gannet.v1.jobs, keys gannet.v1.trials and gannet.v1.batches", Wire),
        document!(
            "result",
            "exchange gannet.v1.results, key RUN.KIND; the job's reply_to; runs/RUN/results/JOB.json",
            JobResult
        ),
        document!("progress", "exchange gannet.v1.progress, key RUN.progress", Progress),
        document!("heartbeat", "exchange gannet.v1.progress, key workers.heartbeat", Heartbeat),
        document!("control", "exchange gannet.v1.control", Control),
        document!("dataset", "datasets/NAME/DIGEST/dataset.json", Dataset),
        document!("model", "models/NAME/DIGEST/model.json", Model),
    ]
}

/// The exchanges that a client meets: what it sends there or receives from there, and under which key.
const CHANNELS: [(&str, &str, &str, &[&str], &str); 5] = [
    ("jobs", "direct", "send", &["job"], "gannet.v1.trials for a trial, gannet.v1.batches for a batch"),
    ("results", "topic", "receive", &["result"], "RUN.trial and RUN.batch; bind RUN.* for a whole run"),
    ("progress", "topic", "receive", &["progress", "heartbeat"], "RUN.progress, workers.heartbeat; may be lost"),
    ("control", "fanout", "send", &["control"], "none"),
    ("replies", "default", "receive", &["result"], "the queue that a job names in reply_to"),
];

/// The contract as an AsyncAPI 3.0 document.
pub fn asyncapi() -> Value {
    let (mut channels, mut operations) = (Map::new(), Map::new());
    for (name, kind, action, messages, keys) in CHANNELS {
        let address = if kind == "default" { Value::Null } else { json!(format!("gannet.{VERSION}.{name}")) };
        let carried: Map<String, Value> = messages
            .iter()
            .map(|message| ((*message).into(), json!({"$ref": format!("#/components/messages/{message}")})))
            .collect();
        let exchange = json!({"name": address, "type": kind, "durable": true, "autoDelete": false, "vhost": "/"});
        channels.insert(
            name.into(),
            json!({
                "address": address,
                "description": format!("Routing keys: {keys}."),
                "messages": carried,
                "bindings": {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": "0.3.0"}},
            }),
        );
        operations.insert(
            format!("{action}-{name}"),
            json!({"action": action, "channel": {"$ref": format!("#/channels/{name}")}}),
        );
    }
    let (mut messages, mut schemas) = (Map::new(), Map::new());
    for document in documents() {
        messages.insert(
            document.name.into(),
            json!({
                "contentType": "application/json",
                "payload": {
                    "schemaFormat": "application/schema+json;version=2020-12",
                    "schema": {"$ref": format!("#/components/schemas/{}", document.name)},
                },
            }),
        );
        // A schema's references are to its own definitions, which now lie deeper.
        let text = serde_json::to_string(&document.schema).expect("a schema is plain data");
        let inside = text.replace("#/$defs/", &format!("#/components/schemas/{}/$defs/", document.name));
        schemas.insert(document.name.into(), serde_json::from_str(&inside).expect("still JSON"));
    }
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Gannet",
            "version": VERSION,
            "description": "Jobs to a fleet of stateless workers, and their results. Bodies are JSON of at most 256 KiB.",
        },
        "channels": channels,
        "operations": operations,
        "components": {"messages": messages, "schemas": schemas},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_of_the_asyncapi_page_leads_somewhere() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(map) => {
                    found.extend(map.get("$ref").and_then(Value::as_str).map(String::from));
                    map.values().for_each(|value| references(value, found));
                }
                Value::Array(values) => values.iter().for_each(|value| references(value, found)),
                _ => {}
            }
        }
        let page = asyncapi();
        let mut found = Vec::new();
        references(&page, &mut found);
        assert!(found.len() > 20);
        for reference in found {
            let pointer = reference.strip_prefix('#').expect("local");
            assert!(page.pointer(pointer).is_some(), "{reference}");
        }
    }
}
