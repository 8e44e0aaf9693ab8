//! What is said to every worker at once. It only makes things quick: the truth is in the store.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names::{JobId, Name};

/// A word to all workers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Control {
    /// A run, or one job of it, has been cancelled: say what you run, and look at the store now.
    Cancelled {
        /// The run.
        run: Name,
        /// The job; the whole run without one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job: Option<JobId>,
    },
    /// Say what you have in hand: every worker answers with a heartbeat at once.
    Report,
    /// The worker of this name takes no more jobs, lets what it runs make a checkpoint, and ends.
    Drain {
        /// Its name.
        worker: String,
        /// Only if so little is in its hands; in any case without this. The worker decides, since it alone knows, and says
        /// at once in a heartbeat what it does: it is `draining`, or goes on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        only_if: Option<Spare>,
    },
}

/// How little a worker has in hand that nobody would miss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Spare {
    /// Nothing.
    Idle,
    /// Nothing but slices of trials that have just begun: each goes on elsewhere from the checkpoint, or the letter, that it
    /// began with.
    Fresh,
}
