//! Who holds what. A process that takes jobs is a row in `holders` and counts up its `beat`; jobs name their holder.
//! When a holder is gone, anybody on the file gives its jobs back.
//!
//! Gone is a holder whose process no longer runs (seen at once on this host), or whose beat stands still for
//! [`SILENCE`] ticks of the observer. No clock is read: neither a changed system time nor a suspended machine makes a
//! living holder look dead, since an observer that slept has not ticked either.

use std::collections::HashMap;

use rusqlite::{Connection, TransactionBehavior, named_params};
use tokio_util::sync::CancellationToken;

use crate::contract::Kind;

/// Ticks (seconds) between two beats.
const BEAT: u32 = 5;

/// Ticks (seconds) without a beat after which a holder is gone.
const SILENCE: u32 = 15;

/// This process's side.
#[derive(Default)]
pub(super) struct Lease {
    /// The row in `holders`, once something was to be taken.
    holder: Option<i64>,
    /// Cancelled when the row was taken away: everything taken under it is lost.
    lost: CancellationToken,
    /// Consumers: trials, batches.
    consumers: [u32; 2],
    since_beat: u32,
    /// Other holders: the beat seen last and how many ticks ago it changed.
    others: HashMap<i64, (i64, u32)>,
}

impl Lease {
    /// The holder to take jobs as, and what is cancelled when it loses them.
    pub(super) fn hold(&mut self, file: &Connection) -> rusqlite::Result<(i64, CancellationToken)> {
        let holder =
            match self.holder {
                Some(holder) => holder,
                None => {
                    let [trials, batches] = self.consumers;
                    file.prepare_cached("INSERT INTO holders (process, trials, batches) VALUES (?, ?, ?)")?
                        .execute((process::this(), trials, batches))?;
                    self.since_beat = 0;
                    *self.holder.insert(file.last_insert_rowid())
                }
            };
        Ok((holder, self.lost.child_token()))
    }

    /// Somebody has given this process's jobs away.
    pub(super) fn is_lost(&mut self) {
        if self.holder.take().is_some() {
            tracing::warn!("the embedded queue gave this process's jobs to another: it did not run for a while");
        }
        std::mem::take(&mut self.lost).cancel();
    }

    /// A consumer came (`1`) or went (`-1`).
    pub(super) fn count(&mut self, file: &Connection, kind: Kind, change: i32) -> rusqlite::Result<()> {
        let consumers = &mut self.consumers[usize::from(kind == Kind::Batch)];
        *consumers = consumers.saturating_add_signed(change);
        let (holder, _) = self.hold(file)?;
        let [trials, batches] = self.consumers;
        file.prepare_cached("UPDATE holders SET trials = ?, batches = ? WHERE id = ?")?
            .execute((trials, batches, holder))?;
        Ok(())
    }

    /// Once a second: beats, and gives back what gone holders had. A process that never took anything does neither.
    pub(super) fn tick(&mut self, file: &mut Connection) -> rusqlite::Result<()> {
        let Some(holder) = self.holder else { return Ok(()) };
        self.since_beat += 1;
        if self.since_beat >= BEAT {
            self.since_beat = 0;
            let beaten = file.prepare_cached("UPDATE holders SET beat = beat + 1 WHERE id = ?")?.execute([holder])?;
            if beaten == 0 {
                self.is_lost();
                return Ok(());
            }
        }
        let rows: Vec<Holder> = file
            .prepare_cached("SELECT id, process, beat FROM holders WHERE id <> ?")?
            .query_map([holder], |row| Ok(Holder { id: row.get(0)?, process: row.get(1)?, beat: row.get(2)? }))?
            .collect::<rusqlite::Result<_>>()?;
        for gone in self.observe(&rows) {
            let returned = give_back(file, gone.id, Some(gone.beat))?;
            tracing::info!(returned, process = gone.process, "a process has gone: its jobs are given back");
        }
        Ok(())
    }

    /// The holders that are gone, after one more tick.
    fn observe<'a>(&mut self, rows: &'a [Holder]) -> Vec<&'a Holder> {
        self.others.retain(|id, _| rows.iter().any(|row| row.id == *id));
        let mut gone = Vec::new();
        for row in rows {
            let (beat, ticks) = self.others.entry(row.id).or_insert((row.beat, 0));
            *ticks = if *beat == row.beat { *ticks + 1 } else { 0 };
            *beat = row.beat;
            if *ticks > SILENCE || process::is_gone(&row.process) {
                gone.push(row);
            }
        }
        gone
    }

    /// Gives everything back; at the end of this process's use of the file.
    pub(super) fn give_up(&mut self, file: &mut Connection) -> rusqlite::Result<()> {
        if let Some(holder) = self.holder.take() {
            give_back(file, holder, None)?;
        }
        Ok(())
    }
}

struct Holder {
    id: i64,
    process: String,
    beat: i64,
}

/// Makes a holder's jobs ready again and removes it, unless it has beaten since `beat`.
fn give_back(file: &mut Connection, id: i64, beat: Option<i64>) -> rusqlite::Result<usize> {
    let change = file.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let removed = change.execute(
        "DELETE FROM holders WHERE id = :id AND (:beat IS NULL OR beat = :beat)",
        named_params! {":id": id, ":beat": beat},
    )?;
    if removed == 0 {
        return Ok(0);
    }
    let returned = change.execute("UPDATE jobs SET holder = NULL, redelivered = 1 WHERE holder = ?", [id])?;
    change.commit()?;
    Ok(returned)
}

/// Processes of this host, by what Linux tells of them. Elsewhere only the beat tells.
mod process {
    use std::fs;
    use std::sync::LazyLock;

    /// This process: where its id means something (boot and id namespace), its id, and when it started, since ids are
    /// used again.
    pub(super) fn this() -> &'static str {
        static THIS: LazyLock<String> = LazyLock::new(|| {
            let pid = std::process::id();
            match (scope(), started(pid)) {
                (Some(scope), Some(started)) => format!("{scope} {pid} {started}"),
                _ => format!("? {pid}"),
            }
        });
        &THIS
    }

    /// Whether it surely runs no more. Of another machine's or container's processes nobody here can say.
    pub(super) fn is_gone(process: &str) -> bool {
        let parts: Vec<&str> = process.split(' ').collect();
        let [scope_then, pid, started_then] = parts[..] else { return false };
        let (Some(scope_now), Ok(pid)) = (scope(), pid.parse()) else { return false };
        scope_then == scope_now && started(pid).as_deref() != Some(started_then)
    }

    pub(super) fn scope() -> Option<String> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        Some(format!("{}/{}", boot.trim(), namespace.display()))
    }

    /// When a running process started, in ticks since boot; a zombie does not run.
    fn started(pid: u32) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name stands in brackets and may hold anything; fields are counted after it (proc(5): 3 state, 22 start).
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let state = fields.first()?;
        if matches!(*state, "Z" | "X") { None } else { fields.get(19).map(ToString::to_string) }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn this_process_runs_and_one_that_has_ended_does_not() {
            if scope().is_none() {
                eprintln!("SKIPPED this_process_runs_and_one_that_has_ended_does_not: /proc is not Linux's here");
                return;
            }
            assert!(!is_gone(this()));
            let parts: Vec<&str> = this().split(' ').collect();
            assert!(is_gone(&format!("{} {} {}", parts[0], parts[1], "1")), "the id is used by a later process");
            assert!(is_gone(&format!("{} {} {}", parts[0], u32::MAX, "1")), "no process of this id");
            assert!(!is_gone(&format!("elsewhere/pid:[1] {} 1", u32::MAX)), "another machine's");
            assert!(!is_gone("? 1"));
        }
    }
}

/// Where this host's process ids mean something, for tests that write of processes that are gone.
#[cfg(test)]
pub(super) fn scope_of_this_host() -> Option<String> {
    process::scope()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(beat: i64) -> [Holder; 1] {
        [Holder { id: 1, process: "elsewhere 1 1".into(), beat }]
    }

    #[test]
    fn a_holder_is_gone_when_its_beat_stands_still() {
        let mut lease = Lease::default();
        for _ in 0..SILENCE {
            assert!(lease.observe(&row(7)).is_empty());
        }
        assert!(lease.observe(&row(8)).is_empty(), "it lives");
        for _ in 0..SILENCE {
            assert!(lease.observe(&row(8)).is_empty());
        }
        assert_eq!(lease.observe(&row(8)).len(), 1);
        assert!(lease.observe(&[]).is_empty() && lease.others.is_empty());
    }
}
