//! The workers that can be heard: their heartbeats, for as long as a command listens. Says nothing to them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shared::contract::{Heartbeat, Kind};
use shared::names::{JobId, Name};
use shared::queue::{Depth, Heartbeats, Queue, QueueError, topology};
use tokio::time::{Instant, timeout_at};

/// Every worker says something within five seconds.
pub const ALL_HEARD: Duration = Duration::from_secs(6);

/// Hears the workers.
pub struct Workers {
    heartbeats: Box<dyn Heartbeats>,
    /// The last word of each that has not said that it ends.
    pub heard: BTreeMap<String, Heartbeat>,
}

impl Workers {
    /// Begins to listen: what was said before is not heard.
    ///
    /// # Errors
    /// The queue cannot be reached or refuses.
    pub async fn listen(queue: &dyn Queue) -> Result<Self, QueueError> {
        Ok(Self { heartbeats: queue.heartbeats().await?, heard: BTreeMap::new() })
    }

    /// The next word of a worker, unless none comes before `until`. Its last one has no slots.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn next(&mut self, until: Instant) -> Result<Option<Heartbeat>, QueueError> {
        // By the clock, too: where they never pause, the wait for one never ends in time.
        if Instant::now() >= until {
            return Ok(None);
        }
        let Ok(heartbeat) = timeout_at(until, self.heartbeats.next()).await else { return Ok(None) };
        let heartbeat = heartbeat?;
        if heartbeat.slots == 0 {
            self.heard.remove(&heartbeat.worker);
        } else {
            self.heard.insert(heartbeat.worker.clone(), heartbeat.clone());
        }
        Ok(Some(heartbeat))
    }

    /// Slots of all that were heard.
    pub fn slots(&self) -> u64 {
        self.heard.values().map(|heartbeat| u64::from(heartbeat.slots)).sum()
    }

    /// Listens until as many slots were heard as take jobs, and those of `jobs` (all of the run without) that were
    /// running have stopped; no longer than it takes.
    ///
    /// # Errors
    /// The queue cannot be reached.
    pub async fn roll_call(
        &mut self,
        queue: &dyn Queue,
        run: &Name,
        job: Option<&JobId>,
    ) -> Result<RollCall, QueueError> {
        let begun = Instant::now();
        let mut call = RollCall { slots: consumers(&queue.depths().await?), ..RollCall::default() };
        loop {
            let all_heard = call.answered.values().sum::<u64>() >= call.slots;
            let until = match (all_heard, call.running.is_empty()) {
                (true, true) => break,
                // Somebody who was not heard may be cut off, and so may one who does not stop.
                (false, true) => begun + ALL_HEARD,
                (_, false) => begun + 2 * ALL_HEARD,
            };
            let Some(heartbeat) = self.next(until).await? else { break };
            call.hear(&heartbeat, begun.elapsed(), |of, id| of == run && job.is_none_or(|job| job == id));
        }
        let silent = call.slots.saturating_sub(call.answered.values().sum());
        // Some of them may have ended without a word: then they run nothing.
        let silent =
            if silent > 0 { silent.min(consumers(&queue.depths().await?).saturating_sub(self.slots())) } else { 0 };
        call.heard = call.slots - silent;
        Ok(call)
    }
}

/// Slots that take jobs.
pub fn consumers(depths: &[Depth]) -> u64 {
    let takes_jobs = |depth: &&Depth| Kind::ALL.iter().any(|kind| topology::queue_of(*kind) == depth.queue);
    depths.iter().filter(takes_jobs).map(|depth| depth.consumers).sum()
}

/// What the workers said of some jobs.
#[derive(Debug, Default)]
pub struct RollCall {
    /// Slots that take jobs, by the queue.
    pub slots: u64,
    /// Those of them that were heard.
    pub heard: u64,
    /// Slots of each worker that was heard, also of those that have ended since.
    pub answered: BTreeMap<String, u64>,
    /// Jobs that were running and are no more, and who ran them.
    pub stopped: BTreeMap<JobId, String>,
    /// Jobs that still ran when they were heard of last.
    pub running: BTreeSet<(JobId, String)>,
    /// Workers that have more jobs in hand than they name.
    pub partly: BTreeSet<String>,
}

impl RollCall {
    /// Takes a word that came `after` so long. What a worker names in its first word was running, and what it has had for
    /// longer than that; anything else it has met since, and drops it.
    fn hear(&mut self, heartbeat: &Heartbeat, after: Duration, ours: impl Fn(&Name, &JobId) -> bool) {
        let worker = &heartbeat.worker;
        let first = !self.answered.contains_key(worker);
        if heartbeat.slots > 0 {
            self.answered.insert(worker.clone(), heartbeat.slots.into());
        }
        if !heartbeat.names_all() {
            self.partly.insert(worker.clone());
        }
        let running = heartbeat.running.iter().filter(|job| ours(&job.run, &job.id));
        let running =
            running.map(|job| (u128::from(job.for_ms) >= after.as_millis(), (job.id.clone(), worker.clone())));
        let running = running.filter(|(ran, job)| first || *ran || self.running.contains(job)).map(|(_, job)| job);
        let running: BTreeSet<(JobId, String)> = running.collect();
        let gone = self.running.iter().filter(|job| job.1 == *worker && !running.contains(job));
        let gone: Vec<(JobId, String)> = gone.cloned().collect();
        for job in gone {
            self.running.remove(&job);
            self.stopped.insert(job.0, job.1);
        }
        self.running.extend(running);
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use shared::contract::Running;

    use super::*;

    fn heartbeat(worker: &str, jobs: &[(&str, &str)]) -> Heartbeat {
        let running = jobs.iter().map(|(run, id)| Running {
            id: JobId::new(*id).expect("an id"),
            run: Name::new(*run).expect("a name"),
            kind: Kind::Trial,
            for_ms: 1,
        });
        Heartbeat {
            worker: worker.into(),
            host: "host".into(),
            pid: 1,
            version: "0".into(),
            slots: 2,
            kinds: Kind::ALL.to_vec(),
            draining: false,
            running: running.collect(),
            settled: 0,
            at: Timestamp::now(),
        }
    }

    #[test]
    fn a_job_has_stopped_once_its_worker_no_longer_names_it() {
        let mut call = RollCall::default();
        let ours = |run: &Name, _: &JobId| run.as_str() == "ours";
        let at_once = Duration::ZERO;
        call.hear(&heartbeat("a", &[("ours", "t1"), ("theirs", "t2")]), at_once, ours);
        call.hear(&heartbeat("b", &[("ours", "t3")]), at_once, ours);
        assert_eq!(call.running.len(), 2);
        // One that is met and dropped does not count, one that still runs does.
        let later = Duration::from_secs(3);
        call.hear(&heartbeat("a", &[("ours", "t1"), ("ours", "t4")]), later, ours);
        assert_eq!(call.running.len(), 2);
        call.hear(&heartbeat("b", &[("ours", "t5")]), later, ours);
        let stopped: Vec<&str> = call.stopped.keys().map(JobId::as_str).collect();
        assert_eq!(stopped, ["t3"]);
        assert_eq!(call.running.iter().map(|job| job.1.as_str()).collect::<Vec<_>>(), ["a"]);
    }
}
