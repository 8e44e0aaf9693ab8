//! The contract's JSON Schemas, generated from the types themselves.

use schemars::{Schema, generate::SchemaSettings};

use super::{Control, Dataset, Heartbeat, JobResult, Model, Progress, job::Wire};

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
        document!("job", "queues gannet.v1.trials and gannet.v1.batches", Wire),
        document!("result", "exchange gannet.v1.results, reply_to queues, runs/<run>/results/<job>.json", JobResult),
        document!("progress", "exchange gannet.v1.progress, key <run>.progress", Progress),
        document!("heartbeat", "exchange gannet.v1.progress, key workers.heartbeat", Heartbeat),
        document!("control", "exchange gannet.v1.control", Control),
        document!("dataset", "datasets/<name>/<digest>/dataset.json", Dataset),
        document!("model", "models/<name>/<digest>/model.json", Model),
    ]
}
