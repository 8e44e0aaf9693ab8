//! What every backend must do, whatever starts workers. The "worker" is a program that ends well on SIGTERM.

use std::time::Duration;

use shared::contract::Kind;
use tokio::time::{Instant, sleep};

use super::Backend;
use crate::autoscale::policy::State;

const LIMIT: Duration = Duration::from_secs(60);

/// A place for workers.
pub(super) trait Place {
    /// A backend as another autoscaler of the same name would open it; it has the pool `pool`.
    async fn open(&self) -> Box<dyn Backend>;

    /// Waits until a worker of ours listens to signals.
    async fn listens(&self, worker: &str);

    /// A backend of another autoscaler.
    async fn open_stranger(&self) -> Box<dyn Backend>;
}

async fn state(backend: &dyn Backend, worker: &str) -> Option<State> {
    let members = backend.members().await.expect("a list");
    let member = members.into_iter().find(|member| member.name == worker)?;
    assert_eq!(member.pool, "pool");
    Some(member.state)
}

async fn ends(backend: &dyn Backend, worker: &str) -> (bool, String) {
    let begun = Instant::now();
    loop {
        match state(backend, worker).await {
            Some(State::Ended { well, how }) => return (well, how),
            Some(State::Runs) => assert!(begun.elapsed() < LIMIT, "{worker} does not end"),
            None => panic!("{worker} is not listed any more"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

pub(super) async fn check(place: &impl Place) {
    let backend = place.open().await;
    assert!(backend.members().await.expect("a list").is_empty());
    for worker in ["one", "two"] {
        backend.start("pool", worker, &[Kind::Batch, Kind::Trial]).await.expect("a start");
        assert_eq!(state(backend.as_ref(), worker).await, Some(State::Runs));
        place.listens(worker).await;
    }
    assert!(backend.start("no pool", "three", &[Kind::Trial]).await.is_err());

    // What runs is not put away.
    assert!(backend.remove("one").await.is_err());
    assert_eq!(state(backend.as_ref(), "one").await, Some(State::Runs));

    // In order.
    backend.stop("one").await.expect("told");
    let (well, how) = ends(backend.as_ref(), "one").await;
    assert!(well, "{how}");
    backend.stop("one").await.expect("one that has ended is no error");
    backend.kill("one").await.expect("nor now");
    backend.remove("one").await.expect("removed");
    assert_eq!(state(backend.as_ref(), "one").await, None);
    for done in [backend.remove("one").await, backend.stop("one").await, backend.kill("nobody").await] {
        done.expect("who is not there is no error");
    }

    // Others' are neither seen nor touched.
    let stranger = place.open_stranger().await;
    assert!(stranger.members().await.expect("a list").is_empty());
    stranger.kill("two").await.expect("nobody of that name");
    assert_eq!(state(backend.as_ref(), "two").await, Some(State::Runs));

    // At once, by another autoscaler of the same name.
    let again = place.open().await;
    assert_eq!(state(again.as_ref(), "two").await, Some(State::Runs));
    again.kill("two").await.expect("killed");
    let (_, how) = ends(again.as_ref(), "two").await;
    assert!(!how.is_empty());
    let (well, how) = ends(backend.as_ref(), "two").await;
    assert!(!well, "{how}");
    backend.remove("two").await.expect("removed");
    again.remove("two").await.expect("removed");
    assert!(backend.members().await.expect("a list").is_empty());
}
