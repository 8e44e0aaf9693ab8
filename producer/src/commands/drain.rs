//! `gannet drain`: workers take no more jobs, pass on what they run, and end.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context as _, bail};
use shared::contract::{Control, Heartbeat};
use shared::queue::Queue;
use shared::strict;
use tokio::time::Instant;

use crate::session::Session;
use crate::workers::{ALL_HEARD, Workers};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  gannet drain host-1-4242\n  gannet drain --all\n\nRunning trials write a checkpoint and go on elsewhere; no attempt is charged. A worker ends within ten seconds; this command waits for it, and it hears of workers only every five seconds."
)]
pub(super) struct Arguments {
    /// Workers, as `gannet status` names them
    #[arg(value_name = "WORKER", required_unless_present = "all", conflicts_with = "all")]
    workers: Vec<String>,
    /// All workers that are heard
    #[arg(long)]
    all: bool,
    /// Longest wait for their end
    #[arg(long, value_name = "TIME", default_value = "60s")]
    wait: humantime::Duration,
}

/// How often the word is said while a worker is waited for.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// Three heartbeats: who is not heard for so long has ended without a word, or is cut off.
const SILENCE: Duration = Duration::from_secs(15);

pub(super) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let session = Session::open().await?;
    let queue = session.queue.as_ref();
    let mut workers = Workers::listen(queue).await?;
    let begun = Instant::now();
    let mut drain = Drain { all: arguments.all, waits: BTreeMap::new(), said: begun, ended: 0 };
    eprintln!("waits for the workers' word: each says something every 5 s");
    for worker in arguments.workers {
        drain.ask(queue, worker).await?;
    }
    let deadline = begun + arguments.wait.into();
    let mut roll_is_open = true;
    while roll_is_open || !drain.waits.is_empty() {
        let look = Instant::now() + Duration::from_secs(1);
        let until = if roll_is_open { look.min(begun + ALL_HEARD) } else { look.min(deadline) };
        if let Some(heartbeat) = workers.next(until).await? {
            drain.hear(queue, heartbeat, roll_is_open).await?;
        }
        let now = Instant::now();
        if roll_is_open && (now >= begun + ALL_HEARD || (!drain.all && drain.waits.is_empty())) {
            roll_is_open = false;
            drain.check_names(&workers)?;
        }
        drain.drop_silent(now);
        drain.say_again(queue, now).await?;
        if now >= deadline && !drain.waits.is_empty() {
            let names: Vec<&str> = drain.waits.keys().map(String::as_str).collect();
            bail!("{} still run after {}: look at their logs", names.join(", "), arguments.wait);
        }
    }
    eprintln!("{} workers have ended", drain.ended);
    Ok(())
}

struct Drain {
    all: bool,
    /// Those that were asked and have not ended, and when each was heard last.
    waits: BTreeMap<String, Option<Instant>>,
    /// When the word was said last.
    said: Instant,
    ended: usize,
}

impl Drain {
    async fn ask(&mut self, queue: &dyn Queue, worker: String) -> anyhow::Result<()> {
        queue
            .publish_control(&Control::Drain { worker: worker.clone(), only_if: None })
            .await
            .context("tell the workers")?;
        self.waits.insert(worker, None);
        Ok(())
    }

    /// The word may be lost, and a worker that connects again does not hear what was said before. Its end is its answer.
    async fn say_again(&mut self, queue: &dyn Queue, now: Instant) -> anyhow::Result<()> {
        if now - self.said < SAY_EVERY {
            return Ok(());
        }
        self.said = now;
        for worker in self.waits.keys() {
            let word = Control::Drain { worker: worker.clone(), only_if: None };
            queue.publish_control(&word).await.context("tell the workers again")?;
        }
        Ok(())
    }

    async fn hear(&mut self, queue: &dyn Queue, heartbeat: Heartbeat, roll_is_open: bool) -> anyhow::Result<()> {
        let worker = heartbeat.worker;
        if heartbeat.slots == 0 {
            if self.waits.remove(&worker).is_some() {
                self.ended += 1;
                eprintln!("{worker} has ended");
            }
            return Ok(());
        }
        if self.all && roll_is_open && !self.waits.contains_key(&worker) {
            self.ask(queue, worker.clone()).await?;
        }
        if let Some(heard) = self.waits.get_mut(&worker) {
            if heard.is_none() {
                eprintln!("{worker} drains");
            }
            *heard = Some(Instant::now());
        }
        Ok(())
    }

    /// By now everybody was heard.
    fn check_names(&self, workers: &Workers) -> anyhow::Result<()> {
        let unknown = self.waits.iter().find(|(_, heard)| heard.is_none());
        let others: BTreeSet<&str> = workers.heard.keys().map(String::as_str).collect();
        if let Some((name, _)) = unknown {
            let hint = match strict::nearest(name, others.iter().copied()) {
                Some(near) => format!("did you mean `{near}`?"),
                None if others.is_empty() => "no worker is heard".into(),
                None => format!("{} are heard", Vec::from_iter(others).join(", ")),
            };
            bail!("no worker `{name}` was heard within {} s: {hint}", ALL_HEARD.as_secs());
        }
        if self.all && self.waits.is_empty() && self.ended == 0 {
            bail!("no worker was heard within {} s", ALL_HEARD.as_secs());
        }
        Ok(())
    }

    fn drop_silent(&mut self, now: Instant) {
        let silent = |heard: &Option<Instant>| heard.is_some_and(|heard| now - heard > SILENCE);
        let names: Vec<String> =
            self.waits.iter().filter(|(_, heard)| silent(heard)).map(|(name, _)| name.clone()).collect();
        for name in names {
            self.waits.remove(&name);
            self.ended += 1;
            eprintln!("{name} was not heard for {} s: it has ended without a word, or is cut off", SILENCE.as_secs());
        }
    }
}
