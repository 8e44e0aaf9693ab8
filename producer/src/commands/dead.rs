//! `gannet dead`: jobs that could not be done, and messages that are none.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use shared::contract::{Job, Kind};
use shared::names::{JobId, Name};
use shared::queue::{DeadLetter, Queue};
use shared::traces::letters::{Time, enqueue};

use super::{Listed, completions};
use crate::dead::{Dead, Filter, Revived, job_of, revive};
use crate::report::{Format, Listing};
use crate::session::Session;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List dead letters, oldest first
    #[command(
        after_help = "Examples:\n  gannet dead list\n  gannet dead list --run night-1 --reason crashed --format json"
    )]
    List {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        listed: Listed,
    },
    /// Show why: reason, errors, attempts, and the job itself
    #[command(after_help = "Examples:\n  gannet dead show night-1/t0007\n  gannet dead show 4f1c2ab --format json")]
    Show {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        listed: Listed,
    },
    /// Put jobs back on their queues with fresh budgets
    #[command(
        after_help = "Examples:\n  gannet dead replay night-1/t0007\n  gannet dead replay --run night-1 --reason crashed\n  gannet dead replay --yes\n\nThe failed result is removed, and what was counted against the job; a trial goes on from its last checkpoint, and the answer goes to whom it was promised (`reply_to`). A job with several dead letters is put back once, and all of them are removed. A result that cannot be read counts as none. `gannet tune` with the same --run collects the new results."
    )]
    Replay {
        #[command(flatten)]
        which: Which,
        /// Does not ask, also where everything is meant
        #[arg(long)]
        yes: bool,
    },
    /// Remove dead letters for good; results stay
    #[command(
        after_help = "Examples:\n  gannet dead drop 4f1c2ab\n  gannet dead drop --older 30d\n  gannet dead drop --yes"
    )]
    Drop {
        #[command(flatten)]
        which: Which,
        /// Does not ask, also where everything is meant
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Debug, Clone, Args)]
pub(super) struct Which {
    /// Ids as `gannet dead list` shows them, or RUN/JOB
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// Only of this run
    #[arg(long, add = completions::runs())]
    run: Option<Name>,
    /// Only of this kind: `trial` or `batch`
    #[arg(long, value_parser = super::kind)]
    kind: Option<Kind>,
    /// Only for this reason: `unreadable`, `failed`, `crashed`, `out_of_memory`, `time_limit`, `preempted`, `invalid_job`,
    /// `missing_object`, `altered_object`, `broker`
    #[arg(long)]
    reason: Option<String>,
    /// Only those that are dead for longer, like 2h or 7d
    #[arg(long, value_name = "TIME")]
    older: Option<humantime::Duration>,
}

impl Which {
    fn filter(self) -> Filter {
        let Self { ids, run, kind, reason, older } = self;
        Filter { ids, run, kind, reason, older: older.map(Into::into) }
    }
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    let session = Session::open().await?;
    match command {
        Command::List { which, listed } => {
            let letters = chosen(session.queue.as_ref(), &which.filter()).await?;
            super::print(&list(&letters), listed.format)
        }
        Command::Show { which, listed } => {
            let letters = chosen(session.queue.as_ref(), &which.filter()).await?;
            if letters.is_empty() {
                bail!("no such dead letter: `gannet dead list` shows them");
            }
            show(&letters, listed.format)
        }
        Command::Replay { which, yes } => put_back(&session, &which.filter(), yes).await,
        Command::Drop { which, yes } => drop_all(&session, &which.filter(), yes).await,
    }
}

async fn chosen(queue: &dyn Queue, filter: &Filter) -> anyhow::Result<Vec<Dead>> {
    let letters = queue.dead(usize::MAX).await?.into_iter().map(Dead::new).collect();
    filter.choose(letters, Timestamp::now())
}

fn list(letters: &[Dead]) -> Listing {
    let columns = ["id", "run", "job", "kind", "reason", "error", "errors", "crashes", "preemptions", "worker", "at"];
    let mut listing = Listing::new(columns);
    for Dead { id, run, job, letter } in letters {
        let attempts = letter.attempts;
        let mut row = vec![json!(id), json!(run), json!(job), json!(letter.kind), json!(letter.reason)];
        row.extend([json!(letter.errors.first()), json!(attempts.errors), json!(attempts.crashes)]);
        row.extend([json!(attempts.preemptions), json!(letter.worker), json!(letter.at)]);
        listing.push(row);
    }
    listing
}

fn show(letters: &[Dead], format: Format) -> anyhow::Result<()> {
    if format != Format::Table {
        let mut listing = Listing::new(["id", "kind", "reason", "errors", "attempts", "worker", "at", "job"]);
        for Dead { id, letter, .. } in letters {
            let mut row = vec![json!(id), json!(letter.kind), json!(letter.reason), json!(letter.errors)];
            row.extend([json!(letter.attempts), json!(letter.worker), json!(letter.at), body(letter)]);
            listing.push(row);
        }
        return super::print(&listing, format);
    }
    let mut text = String::new();
    for dead in letters {
        text.push_str(&told(dead));
    }
    super::write_out(&text)
}

/// A letter in words.
fn told(dead: &Dead) -> String {
    let Dead { id, letter, .. } = dead;
    let DeadLetter { kind, reason, errors, attempts, worker, reply, at, .. } = letter;
    let name = dead.name().unwrap_or_else(|| "a message that names no job".into());
    let mut text = format!("{id}  {name} ({kind})\nreason   {reason}\n");
    for (depth, error) in errors.iter().enumerate() {
        let label = if depth == 0 { "error" } else { "because" };
        text.push_str(&format!("{label:<8} {error}\n"));
    }
    let (spent, lost) = (format!("{} errors, {} crashes", attempts.errors, attempts.crashes), attempts.preemptions);
    text.push_str(&format!("attempts {spent}, {lost} workers lost\nput away {at}"));
    if !worker.is_empty() {
        text.push_str(&format!(" by {worker}"));
    }
    if let Some(reply) = reply {
        text.push_str(&format!("\nreply to {}", reply.queue));
    }
    let job = serde_json::to_string_pretty(&body(letter)).unwrap_or_default();
    text.push_str(&format!("\n{job}\n\n"));
    // What others wrote must not move the terminal's cursor.
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// The job as a document where it is one, else its text, else its bytes in hexadecimal.
fn body(letter: &DeadLetter) -> Value {
    match (&letter.job, &letter.job_hex) {
        (Some(text), _) => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
        (None, hex) => json!(hex),
    }
}

/// Jobs that are put back before their dead letters are removed. Each removal goes over all letters there are; an
/// interruption leaves so many letters at most whose jobs are back.
const PART: usize = 500;

async fn put_back(session: &Session, filter: &Filter, yes: bool) -> anyhow::Result<()> {
    let (queue, store) = (session.queue.as_ref(), session.store.as_ref());
    let all: Vec<Dead> = queue.dead(usize::MAX).await?.into_iter().map(Dead::new).collect();
    let letters = filter.choose(all.clone(), Timestamp::now())?;
    confirm(filter, yes, letters.len(), "put back")?;
    let mut failed = 0;
    let mut stays = |name: String, error: anyhow::Error| {
        eprintln!("gannet: {name} stays: {error:#}");
        failed += 1;
    };
    // A job may have several: it is put back once, as the last one has it, and all of them go.
    let mut jobs: BTreeMap<(Name, JobId), (&Dead, Job)> = BTreeMap::new();
    for dead in &letters {
        match job_of(&dead.letter) {
            Ok(job) => drop(jobs.insert((job.run.clone(), job.id.clone()), (dead, job))),
            Err(error) => stays(dead.name().unwrap_or_else(|| dead.id.clone()), error),
        }
    }
    let mut letters_of: BTreeMap<(Name, JobId), BTreeSet<String>> = BTreeMap::new();
    for dead in &all {
        if let Ok(job) = job_of(&dead.letter) {
            letters_of.entry((job.run, job.id)).or_default().insert(dead.id.clone());
        }
    }
    let (mut back, mut removed) = (0, 0);
    let jobs: Vec<_> = jobs.into_iter().collect();
    for part in jobs.chunks(PART) {
        let (mut revived, mut of, mut ids) = (Vec::new(), Vec::new(), BTreeSet::new());
        for (key, (dead, job)) in part {
            let name = format!("{}/{}", key.0, key.1);
            match revive(store, &dead.letter, job).await {
                Ok(Revived { letter, damaged }) => {
                    if let Some(why) = damaged {
                        eprintln!("gannet: {name}: its result counts as none and is removed: {why}");
                    }
                    revived.push(letter);
                    of.push(job);
                    ids.extend(letters_of.remove(key).unwrap_or_default());
                }
                Err(error) => stays(name, error),
            }
        }
        if revived.is_empty() {
            continue;
        }
        let spans = enqueue(&mut revived, of, Time::Again);
        queue.publish(&revived).await.context("put jobs back (their dead letters stay: the same again goes on)")?;
        drop(spans);
        back += revived.len();
        // Only now: what is not on its queue must not be lost.
        removed +=
            queue.remove_dead(&ids).await.context("remove dead letters of jobs that are back on their queues")?;
    }
    eprintln!("{back} jobs are back on their queues at {}", queue.place());
    if removed > back as u64 {
        eprintln!("{removed} dead letters are removed: some jobs had several");
    }
    if failed > 0 {
        bail!("{failed} of {} dead letters could not be put back", letters.len());
    }
    Ok(())
}

async fn drop_all(session: &Session, filter: &Filter, yes: bool) -> anyhow::Result<()> {
    let queue = session.queue.as_ref();
    let letters = chosen(queue, filter).await?;
    confirm(filter, yes, letters.len(), "removed for good")?;
    let ids: BTreeSet<String> = letters.into_iter().map(|dead| dead.id).collect();
    let removed = if ids.is_empty() { 0 } else { queue.remove_dead(&ids).await? };
    eprintln!("{removed} dead letters are removed");
    Ok(())
}

/// Asks before something is done to all there are; where nobody can answer, refuses.
fn confirm(filter: &Filter, yes: bool, count: usize, done: &str) -> anyhow::Result<()> {
    if yes || !filter.is_everything() || count == 0 {
        return Ok(());
    }
    let otherwise = format!(
        "all {count} dead letters would be {done}: say --yes if you mean all, or which (ids, --run, --kind, --reason, --older)"
    );
    super::ask(&format!("All {count} dead letters will be {done}."), &otherwise)
}

#[cfg(test)]
mod tests {
    use shared::queue::{Headers, Letter};

    use super::*;

    #[test]
    fn a_letter_is_told_in_words_without_control_characters() {
        let letter = Letter {
            kind: Kind::Trial,
            body: br#"{"run": "night", "id": "t7"}"#.to_vec(),
            headers: Headers::default(),
        };
        let errors = vec!["outer \u{1b}[31m".into(), "inner".into()];
        let text = told(&Dead::new(DeadLetter::of(&letter, "crashed", errors, "w1")));
        for words in
            ["night/t7 (trial)", "reason   crashed", "error    outer", "because  inner", "by w1", "\"id\": \"t7\""]
        {
            assert!(text.contains(words), "{words} in {text}");
        }
        assert!(!text.contains('\u{1b}'));
    }

    #[test]
    fn everything_is_not_done_without_a_word() {
        let error =
            confirm(&Filter::default(), false, 3, "removed for good").expect_err("nobody can answer").to_string();
        assert!(error.contains("all 3 dead letters") && error.contains("--yes"), "{error}");
        assert!(confirm(&Filter::default(), true, 3, "removed").is_ok());
        let some = Filter { reason: Some("crashed".into()), ..Filter::default() };
        assert!(confirm(&some, false, 3, "removed").is_ok());
    }
}
