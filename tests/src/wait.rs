//! Waiting for something to become true, however fast the machine is.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// The generous limit: far more than any condition takes on a slow and busy machine.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Looks again and again until there is something, and returns it.
///
/// # Errors
/// What `look` failed with, or that `limit` passed without `what`.
pub async fn eventually<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if began.elapsed() > limit {
            bail!("{what}: not within {} s", limit.as_secs());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
