//! Asks a store or a queue that cannot be reached again, ever more slowly.

use std::time::Duration;

use shared::store::StoreError;
use tokio::time::sleep;

/// The first pause; each next one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Calls until it succeeds or fails with an error that does not pass.
pub(crate) async fn patiently<T, E>(
    mut call: impl AsyncFnMut() -> Result<T, E>,
    is_passing: impl Fn(&E) -> bool,
) -> Result<T, E> {
    let mut wait = FIRST_PAUSE;
    loop {
        match call().await {
            Err(error) if is_passing(&error) => {
                sleep(wait).await;
                wait = (2 * wait).min(LONGEST_PAUSE);
            }
            other => return other,
        }
    }
}

/// Likewise for the store, which is said.
pub(crate) async fn ask_store<T>(call: impl AsyncFnMut() -> Result<T, StoreError>) -> Result<T, StoreError> {
    patiently(call, |error| {
        let is_passing = error.is_passing();
        if is_passing {
            tracing::warn!(%error, "asks the store again");
        }
        is_passing
    })
    .await
}
