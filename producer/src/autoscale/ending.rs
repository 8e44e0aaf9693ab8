//! The end of an autoscaler is its workers': in order, and not for ever.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::backend::Backend;
use super::policy::State;

/// A worker has ten seconds to end.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

/// Tells all workers of ours to end, waits for them, and kills those that do not.
pub(super) async fn end_all(backend: &dyn Backend) {
    let begun = Instant::now();
    let mut told = Vec::new();
    loop {
        let members = match backend.members().await {
            Ok(members) => members,
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "workers may be left: who is there cannot be found out");
                return;
            }
        };
        let mut runs = 0;
        for member in &members {
            let late = begun.elapsed() > ENDS_WITHIN;
            let done = match member.state {
                State::Ended { .. } => backend.remove(&member.name).await,
                State::Runs if late => backend.kill(&member.name).await,
                State::Runs if told.contains(&member.name) => Ok(()),
                State::Runs => {
                    told.push(member.name.clone());
                    backend.stop(&member.name).await
                }
            };
            runs += usize::from(member.state == State::Runs);
            if let Err(error) = done {
                tracing::warn!(worker = member.name, error = format!("{error:#}"), "cannot end a worker");
            }
        }
        if runs == 0 || begun.elapsed() > 2 * ENDS_WITHIN {
            tracing::info!(workers = told.len(), left = runs, "has ended its workers");
            return;
        }
        sleep(Duration::from_millis(100)).await;
    }
}
