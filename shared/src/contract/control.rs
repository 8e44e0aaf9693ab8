//! What is said to every worker at once. It only makes things quick: the truth is in the store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::Name;

/// A word to all workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Control {
    /// The run has been cancelled: look at its marker now.
    Cancelled {
        /// The run.
        run: Name,
    },
    /// The worker of this name takes no more jobs, lets what it runs make a checkpoint, and ends.
    Drain {
        /// Its name.
        worker: String,
    },
}
