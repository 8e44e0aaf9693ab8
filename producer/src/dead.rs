//! Dead letters: which ones are meant, and what a job needs to be put back.

use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::Value;
use shared::contract::{Job, JobResult, Kind, Status};
use shared::names::{JobId, Key, Name};
use shared::queue::{DeadLetter, Headers, Letter, fresh_message_id};
use shared::store::{Store, StoreError, get_json, get_optional, get_optional_json, layout};
use shared::strict;

/// A dead letter, with what can be told of it.
#[derive(Debug, Clone)]
pub struct Dead {
    /// What it goes by.
    pub id: String,
    /// The run that its job names; a message that is no job may name none.
    pub run: Option<String>,
    /// Its job's id, likewise.
    pub job: Option<String>,
    /// The letter.
    pub letter: DeadLetter,
}

impl Dead {
    /// Reads what the letter tells.
    pub fn new(letter: DeadLetter) -> Self {
        let body: Value = letter.job.as_deref().and_then(|job| serde_json::from_str(job).ok()).unwrap_or_default();
        let text = |key: &str| body.get(key).and_then(Value::as_str).map(str::to_owned);
        Self { id: letter.id(), run: text("run"), job: text("id"), letter }
    }

    /// How people call it: `RUN/JOB` where it has one.
    pub fn name(&self) -> Option<String> {
        Some(format!("{}/{}", self.run.as_ref()?, self.job.as_ref()?))
    }
}

/// Which dead letters are meant: those that fit everything that is set.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Ids, beginnings of ids, or `RUN/JOB`.
    pub ids: Vec<String>,
    /// Of this run.
    pub run: Option<Name>,
    /// Of this kind.
    pub kind: Option<Kind>,
    /// Put away for this reason.
    pub reason: Option<String>,
    /// Put away longer ago.
    pub older: Option<Duration>,
}

impl Filter {
    /// Whether it means all there are.
    pub fn is_everything(&self) -> bool {
        self.ids.is_empty()
            && self.run.is_none()
            && self.kind.is_none()
            && self.reason.is_none()
            && self.older.is_none()
    }

    /// Those of `letters` that are meant.
    ///
    /// # Errors
    /// An id that none goes by; the error names the nearest.
    pub fn choose(&self, letters: Vec<Dead>, now: Timestamp) -> anyhow::Result<Vec<Dead>> {
        for id in &self.ids {
            if !letters.iter().any(|dead| is_called(dead, id)) {
                let names = letters.iter().flat_map(|dead| dead.name().into_iter().chain([dead.id.clone()]));
                let names: Vec<String> = names.collect();
                let hint = match strict::nearest(id, names.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("`gannet dead list` shows them ({} there)", letters.len()),
                };
                bail!("no dead letter `{id}`: {hint}");
            }
        }
        Ok(letters.into_iter().filter(|dead| self.takes(dead, now)).collect())
    }

    fn takes(&self, dead: &Dead, now: Timestamp) -> bool {
        let age = Duration::try_from(now - dead.letter.at).unwrap_or_default();
        (self.ids.is_empty() || self.ids.iter().any(|id| is_called(dead, id)))
            && self.run.as_ref().is_none_or(|run| dead.run.as_deref() == Some(run.as_str()))
            && self.kind.is_none_or(|kind| dead.letter.kind == kind)
            && self.reason.as_ref().is_none_or(|reason| dead.letter.reason == *reason)
            && self.older.is_none_or(|older| age > older)
    }
}

/// The shortest beginning of an id that stands for it.
const SHORTEST: usize = 4;

fn is_called(dead: &Dead, id: &str) -> bool {
    (id.len() >= SHORTEST && dead.id.starts_with(id)) || dead.name().is_some_and(|name| name == id)
}

/// The job of a dead letter.
///
/// # Errors
/// It is none.
pub fn job_of(dead: &DeadLetter) -> anyhow::Result<Job> {
    let Some(body) = &dead.job else { bail!("the message is no job: it can only be dropped") };
    Job::parse(body.as_bytes()).context("the message is no job: it can only be dropped")
}

/// What puts a job back on its queue, as if it had never been tried; a trial goes on from its last checkpoint.
#[derive(Debug)]
pub struct Revived {
    /// To be published.
    pub letter: Letter,
    /// Why its result could not be read: it counted as none, and is removed.
    pub damaged: Option<String>,
}

/// Removes from the store what would settle the job of `dead` at once, or count against it. The dead letter stays: whoever
/// asked for this publishes the letter and then removes it, and where he dies in between may ask again.
///
/// # Errors
/// It cannot be put back: its run is cancelled, or it has a result that is no failure.
pub async fn revive(store: &dyn Store, dead: &DeadLetter, job: &Job) -> anyhow::Result<Revived> {
    let (run, id) = (&job.run, &job.id);
    if get_optional(store, &layout::cancelled(run)).await?.is_some() {
        bail!("the run `{run}` is cancelled or deleted: its jobs would be dropped");
    }
    let result = layout::result(run, id);
    let mut damaged = None;
    match get_optional_json::<JobResult>(store, &result).await {
        Ok(Some(found)) if found.status != Status::Failed => {
            bail!("the job has a result ({}): there is nothing to do", found.status.as_str())
        }
        Ok(_) => {}
        Err(error @ StoreError::Unreadable { .. }) => damaged = Some(error.to_string()),
        Err(error) => return Err(error.into()),
    }
    let slice = next_slice(store, run, id).await?;
    for attempt in store.list(&layout::attempts(run, id)).await? {
        store.delete(&attempt.key).await?;
    }
    store.delete(&layout::buried(run, id)).await?;
    store.delete(&result).await?;
    // Should it be put back twice after all, whoever takes it second finds the result.
    store.put(&layout::look(run), Bytes::from_static(b"{}")).await?;
    let headers = Headers {
        message_id: fresh_message_id(),
        slice,
        reply: dead.reply.clone(),
        traceparent: dead.traceparent.clone(),
        previous: dead.previous.clone(),
        ..Headers::default()
    };
    let body = dead.job.clone().unwrap_or_default().into_bytes();
    Ok(Revived { letter: Letter { kind: job.kind(), body, headers }, damaged })
}

/// The slice to go on with. Where what it would begin with is gone or cannot be read, so are the records of all slices: with them a
/// worker would take the job for somebody else's.
async fn next_slice(store: &dyn Store, run: &Name, id: &JobId) -> anyhow::Result<u32> {
    let there: Vec<Key> =
        store.list(&layout::job_checkpoints(run, id)).await?.into_iter().map(|entry| entry.key).collect();
    let slice_of = |key: &Key| key.as_str().rsplit('/').next()?.strip_suffix(".json")?.parse::<u32>().ok();
    let Some(last) = there.iter().filter_map(slice_of).max() else { return Ok(0) };
    let record: Value = match get_json(store, &layout::checkpoint_record(run, id, last)).await {
        Err(StoreError::Unreadable { .. }) => Value::Null,
        record => record?,
    };
    let tensors = record["tensors"]["key"].as_str();
    if there.iter().any(|key| Some(key.as_str()) == tensors) {
        return Ok(last + 1);
    }
    for key in &there {
        store.delete(key).await?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn dead(kind: Kind, run: &str, id: &str, reason: &str, hours: i64) -> Dead {
        let body = json!({"id": id, "run": run}).to_string().into_bytes();
        let letter = Letter { kind, body, headers: Headers::default() };
        let at = Timestamp::UNIX_EPOCH - jiff::SignedDuration::from_hours(hours);
        Dead::new(DeadLetter { at, ..DeadLetter::of(&letter, reason, Vec::new(), "w") })
    }

    fn chosen(filter: &Filter) -> Vec<String> {
        let letters = vec![
            dead(Kind::Trial, "a", "t1", "crashed", 1),
            dead(Kind::Trial, "b", "t1", "failed", 30),
            dead(Kind::Batch, "b", "b1", "crashed", 50),
        ];
        let chosen = filter.choose(letters, Timestamp::UNIX_EPOCH).expect("they are there");
        chosen.iter().filter_map(Dead::name).collect()
    }

    #[test]
    fn filters_all_must_fit() {
        let all = Filter::default();
        assert!(all.is_everything());
        assert_eq!(chosen(&all).len(), 3);
        let of_b = Filter { run: Some(Name::new("b").expect("a name")), ..Filter::default() };
        assert_eq!(chosen(&of_b), ["b/t1", "b/b1"]);
        assert_eq!(chosen(&Filter { kind: Some(Kind::Trial), ..of_b.clone() }), ["b/t1"]);
        assert_eq!(chosen(&Filter { reason: Some("crashed".into()), ..of_b }), ["b/b1"]);
        let older = Filter { older: Some(Duration::from_secs(86_400)), ..Filter::default() };
        assert_eq!(chosen(&older), ["b/t1", "b/b1"]);
        assert!(!older.is_everything());
    }

    #[test]
    fn a_letter_goes_by_its_id_or_its_job() {
        let letter = dead(Kind::Trial, "a", "t1", "crashed", 1);
        for id in [&letter.id[..], &letter.id[..5], "a/t1"] {
            assert_eq!(chosen(&Filter { ids: vec![id.into()], ..Filter::default() }), ["a/t1"], "{id}");
        }
        let filter = Filter { ids: vec!["a/t2".into()], ..Filter::default() };
        let error = filter.choose(vec![letter], Timestamp::UNIX_EPOCH).expect_err("there is none").to_string();
        assert!(error.contains("no dead letter `a/t2`: did you mean `a/t1`?"), "{error}");
    }
}
