//! Which version a model's name stands for: moves of a pointer, one after the other, of which the last counts.
//!
//! Each is an object of its own, `models/<name>/pointer/<number>.json` with numbers from 1, created by a conditional
//! write: of two people who move a pointer at once one comes second and goes behind the other, and neither's move is lost.
//! Only the last [`KEPT`] are kept.

use std::collections::BTreeMap;

use futures::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use shared::digest::Digest;
use shared::names::Name;
use shared::store::{Store, StoreError, get_optional_json, layout, settle_json};

/// Moves that are kept of each model.
const KEPT: u32 = 20;

/// One move.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Move {
    /// The version that the name stands for from now on.
    pub digest: Digest,
    /// Why.
    pub change: Change,
    /// When.
    pub at: Timestamp,
    /// Only its writer's: a write whose answer was lost knows itself again.
    nonce: String,
}

/// What moves a pointer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A folder was pushed.
    Push,
    /// A trial, or a version that was there, was promoted.
    Promote,
    /// Back to the version before.
    Rollback,
}

/// What a move came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// What the name stood for before.
    pub before: Option<Digest>,
    /// What it stands for now.
    pub now: Digest,
}

/// Somebody else moved the pointer after it was looked at.
#[derive(Debug, thiserror::Error)]
#[error("somebody moved the model `{name}` meanwhile: look again with `gannet model show {name}`")]
pub struct MovedMeanwhile {
    /// The model.
    pub name: Name,
}

/// The moves of a model that are kept, by number.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct History(BTreeMap<u32, Move>);

impl History {
    /// Reads them.
    ///
    /// # Errors
    /// The store fails, or a move cannot be read.
    pub async fn read(store: &dyn Store, name: &Name) -> Result<Self, StoreError> {
        let moves = stream::iter(numbers(store, name).await?).map(async |number| {
            let found = get_optional_json::<Move>(store, &layout::model_move(name, number)).await?;
            Ok::<_, StoreError>(found.map(|found| (number, found)))
        });
        let moves: Vec<_> = moves.buffered(KEPT as usize).try_collect().await?;
        Ok(Self(moves.into_iter().flatten().collect()))
    }

    /// The moves, first to last.
    pub fn moves(&self) -> impl DoubleEndedIterator<Item = &Move> {
        self.0.values()
    }

    /// What the name stands for.
    pub fn current(&self) -> Option<Digest> {
        self.0.values().last().map(|last| last.digest)
    }

    /// What it stood for before, the latest first: a rollback takes the last push or promotion back, another one that before
    /// it.
    pub fn earlier(&self) -> Vec<Digest> {
        let mut stack: Vec<Digest> = Vec::new();
        for Move { digest, change, .. } in self.0.values() {
            match (change, stack.iter().rposition(|earlier| earlier == digest)) {
                (Change::Rollback, Some(at)) => stack.truncate(at + 1),
                // What it went back to is no longer known.
                (Change::Rollback, None) => stack = vec![*digest],
                (Change::Push | Change::Promote, _) => stack.push(*digest),
            }
        }
        stack.pop();
        stack.reverse();
        stack.dedup();
        stack
    }

    /// Moves the pointer behind these moves.
    ///
    /// # Errors
    /// [`MovedMeanwhile`], or the store fails.
    pub(super) async fn then(
        &self,
        store: &dyn Store,
        name: &Name,
        now: Digest,
        change: Change,
    ) -> anyhow::Result<Moved> {
        let last = self.0.keys().last().copied().unwrap_or(0);
        if !append(store, name, last, now, change).await? {
            return Err(MovedMeanwhile { name: name.clone() }.into());
        }
        Ok(Moved { before: self.current(), now })
    }
}

/// Lets a name stand for `now`, whoever else moves it; nothing is written where it does already.
///
/// # Errors
/// The store fails.
pub(super) async fn advance(store: &dyn Store, name: &Name, now: Digest, change: Change) -> Result<Moved, StoreError> {
    loop {
        let last = last(store, name).await?;
        let before = last.as_ref().map(|(_, last)| last.digest);
        let number = last.map_or(0, |(number, _)| number);
        if before == Some(now) || append(store, name, number, now, change).await? {
            return Ok(Moved { before, now });
        }
    }
}

/// What a name stands for.
///
/// # Errors
/// The store fails, or the move cannot be read.
pub(super) async fn current(store: &dyn Store, name: &Name) -> Result<Option<Digest>, StoreError> {
    Ok(last(store, name).await?.map(|(_, last)| last.digest))
}

async fn last(store: &dyn Store, name: &Name) -> Result<Option<(u32, Move)>, StoreError> {
    loop {
        let Some(number) = numbers(store, name).await?.pop() else { return Ok(None) };
        // One that is gone was forgotten behind many others, or with the whole model: look again.
        if let Some(found) = get_optional_json(store, &layout::model_move(name, number)).await? {
            return Ok(Some((number, found)));
        }
    }
}

/// The numbers of the moves that are kept, in order.
async fn numbers(store: &dyn Store, name: &Name) -> Result<Vec<u32>, StoreError> {
    let files = store.children(&layout::model_pointer(name)).await?;
    // Other spellings of a number are no moves: `0999.json` would be looked for at `999.json` for ever. Nor is the last number there is:
    // nothing could go behind it.
    let number = |file: &String| -> Option<u32> {
        let number = file.strip_suffix(".json")?.parse().ok().filter(|number| *number < u32::MAX)?;
        layout::model_move(name, number).as_str().ends_with(&format!("/{file}")).then_some(number)
    };
    let mut numbers: Vec<u32> = files.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Writes the move behind number `last`, unless somebody else has written one there.
async fn append(store: &dyn Store, name: &Name, last: u32, digest: Digest, change: Change) -> Result<bool, StoreError> {
    let (number, nonce) = (last + 1, uuid::Uuid::new_v4().to_string());
    let key = layout::model_move(name, number);
    let stands = settle_json(store, &key, Move { digest, change, at: Timestamp::now(), nonce: nonce.clone() }).await?;
    if stands.nonce != nonce {
        return Ok(false);
    }
    let numbers = numbers(store, name).await?;
    let newest = numbers.last().copied().unwrap_or(number);
    // So many have gone on since `last` was read that this number was forgotten before it was written.
    if newest >= number + KEPT {
        store.delete(&key).await?;
        return Ok(false);
    }
    for old in numbers.into_iter().filter(|old| old + KEPT <= newest) {
        store.delete(&layout::model_move(name, old)).await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use shared::store::dir::DirStore;

    use super::*;

    fn name() -> Name {
        Name::new("m").expect("a name")
    }

    fn digest(of: &str) -> Digest {
        Digest::of(of.as_bytes())
    }

    fn store() -> (tempfile::TempDir, Arc<DirStore>) {
        let folder = tempfile::tempdir().expect("a folder");
        let store = DirStore::open(folder.path()).expect("a store");
        (folder, Arc::new(store))
    }

    async fn history(store: &DirStore) -> History {
        History::read(store, &name()).await.expect("read")
    }

    #[tokio::test]
    async fn a_rollback_takes_back_one_move_after_the_other() {
        let (_folder, store) = store();
        let store = store.as_ref();
        let push = async |of: &str| advance(store, &name(), digest(of), Change::Push).await.expect("moved");
        let back = async || {
            let history = history(store).await;
            let to = history.earlier().first().copied()?;
            Some(history.then(store, &name(), to, Change::Rollback).await.expect("moved").now)
        };
        assert_eq!(current(store, &name()).await.expect("read"), None);
        assert_eq!(back().await, None);
        assert_eq!(push("a").await, Moved { before: None, now: digest("a") });
        assert_eq!(back().await, None, "there is nothing before the first");
        push("b").await;
        push("c").await;
        assert_eq!(push("c").await.before, Some(digest("c")));
        assert_eq!(history(store).await.moves().count(), 3, "one that stands there already is no move");
        assert_eq!(back().await, Some(digest("b")));
        push("d").await;
        assert_eq!(history(store).await.earlier(), [digest("b"), digest("a")]);
        assert_eq!([back().await, back().await, back().await], [Some(digest("b")), Some(digest("a")), None]);
        assert_eq!(current(store, &name()).await.expect("read"), Some(digest("a")));
    }

    #[tokio::test]
    async fn only_the_last_moves_are_kept_and_one_that_comes_far_too_late_is_not_lost() {
        let (_folder, store) = store();
        let store = store.as_ref();
        for number in 1..=KEPT + 5 {
            advance(store, &name(), digest(&number.to_string()), Change::Push).await.expect("moved");
        }
        let kept = history(store).await;
        assert_eq!(kept.0.keys().copied().collect::<Vec<_>>(), (6..=KEPT + 5).collect::<Vec<_>>());
        // Read before all of these, written now: where number 2 stood nobody would see it.
        assert!(!append(store, &name(), 1, digest("late"), Change::Push).await.expect("answered"));
        assert_eq!(history(store).await, kept);
        advance(store, &name(), digest("late"), Change::Push).await.expect("moved");
        assert_eq!(current(store, &name()).await.expect("read"), Some(digest("late")));
        // A rollback says so instead: what it would take back is no longer what was seen.
        let refused = kept.then(store, &name(), digest("6"), Change::Rollback).await.expect_err("moved meanwhile");
        assert!(refused.to_string().contains("somebody moved the model `m` meanwhile"), "{refused}");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_many_at_once_nobody_is_lost() {
        let (_folder, store) = store();
        let all: Vec<Digest> = (0..12).map(|number| digest(&number.to_string())).collect();
        let mut moving = tokio::task::JoinSet::new();
        for digest in all.clone() {
            let store = Arc::clone(&store);
            moving.spawn(async move { advance(store.as_ref(), &name(), digest, Change::Push).await.expect("moved") });
        }
        let moved = moving.join_all().await;
        let history = history(&store).await;
        let mut found: Vec<Digest> = history.moves().map(|one| one.digest).collect();
        // Each saw the one before it.
        let mut chain: Vec<Option<Digest>> = vec![None];
        chain.extend(found[..11].iter().copied().map(Some));
        for one in moved {
            let at = found.iter().position(|digest| *digest == one.now).expect("its move is there");
            assert_eq!(one.before, chain[at]);
        }
        let mut expected = all;
        expected.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, expected);
    }
}
