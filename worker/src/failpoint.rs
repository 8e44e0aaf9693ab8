//! Points where a test lets a worker die, as a crash would: before and after each step of the protocol, and in the cache.
//!
//! `GANNET_TEST_FAIL_AT=after-CommitResult` ends the process the first time it comes there. Nothing else reads the
//! variable, and without it a point costs a comparison.

use std::sync::LazyLock;

use crate::protocol::Ask;

static FAIL_AT: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("GANNET_TEST_FAIL_AT").ok());

/// Before or after a step.
#[derive(Debug, Clone, Copy)]
pub(crate) enum When {
    /// Nothing of it has happened.
    Before,
    /// All of it has happened, and nobody was told.
    After,
}

/// Dies here if a test wants it so.
pub(crate) fn reach(when: When, ask: Ask) {
    let Some(point) = FAIL_AT.as_deref() else { return };
    let prefix = match when {
        When::Before => "before-",
        When::After => "after-",
    };
    if point.strip_prefix(prefix) == Some(ask.name()) {
        die(point);
    }
}

/// Likewise, at a place with a name.
pub(crate) fn pass(place: &str) {
    if FAIL_AT.as_deref() == Some(place) {
        die(place);
    }
}

fn die(point: &str) -> ! {
    tracing::error!(point, "dies here, as a test wants it");
    std::process::abort();
}
