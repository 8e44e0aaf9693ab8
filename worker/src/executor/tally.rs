//! What a worker's executors do, counted: for its metrics, and to see whether one hangs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shared::metrics::{Counter, Family, Gauge, Labels};

use super::Death;

/// Counts what executors do.
#[derive(Debug, Default)]
pub struct Tally {
    /// Executors that were started.
    pub starts: Counter,
    /// Executors that are gone, by what ended them.
    pub deaths: Family<Labels<1>, Counter>,
    /// Executors that carry out an order now.
    pub busy: Gauge,
    /// Their process ids.
    living: Mutex<BTreeSet<u32>>,
    /// When each order must have come to an end, whatever happens to its executor.
    due: Mutex<BTreeMap<u64, Instant>>,
    next: AtomicU64,
}

/// What ended an executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A signal, or an exit code of its own.
    Crashed,
    /// It, or the machine, had no more memory.
    OutOfMemory,
    /// It was silent, or did not end, for too long.
    TimeLimit,
    /// It could not be started.
    NotStarted,
    /// Nobody needs it: it was worn, its job was cancelled, or the worker ends.
    NotNeeded,
}

impl Cause {
    /// Every cause there is.
    pub const ALL: [Self; 5] = [Self::Crashed, Self::OutOfMemory, Self::TimeLimit, Self::NotStarted, Self::NotNeeded];

    /// Its label.
    pub fn labels(self) -> Labels<1> {
        let cause = match self {
            Self::Crashed => "crashed",
            Self::OutOfMemory => "out_of_memory",
            Self::TimeLimit => "time_limit",
            Self::NotStarted => "not_started",
            Self::NotNeeded => "not_needed",
        };
        [("cause", cause)]
    }

    fn of(death: &Death) -> Self {
        match death {
            Death::Died { .. } => Self::Crashed,
            Death::OutOfMemory { .. } => Self::OutOfMemory,
            Death::Silent(_) | Death::Overtime { .. } => Self::TimeLimit,
            Death::Start { .. } => Self::NotStarted,
            Death::GivenUp => Self::NotNeeded,
            Death::InCompany(death) => Self::of(death),
        }
    }
}

/// What the living executors use of the machine.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// Executors that live.
    pub executors: u64,
    /// Processor time of all there ever were.
    pub cpu: Duration,
    /// Resident memory of all, in bytes.
    pub memory: u64,
    /// The most resident memory that one of them has had, in bytes.
    pub peak: u64,
}

/// Marks an order as begun, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Watched<'a> {
    tally: &'a Tally,
    number: u64,
    busy: bool,
}

impl Tally {
    pub(super) fn started(&self, pid: u32) {
        self.starts.inc();
        lock(&self.living).insert(pid);
    }

    pub(super) fn ended(&self, pid: u32, death: &Death) {
        lock(&self.living).remove(&pid);
        self.failed(death);
    }

    pub(super) fn failed(&self, death: &Death) {
        self.deaths.get_or_create(&Cause::of(death).labels()).inc();
    }

    /// An order that must have ended within this time.
    pub(crate) fn watch(&self, within: Duration) -> Watched<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.due).insert(number, Instant::now() + within);
        Watched { tally: self, number, busy: false }
    }

    /// For how long an order is overdue that should have ended: its executor cannot even be killed, or its slot hangs.
    pub fn overdue(&self) -> Option<Duration> {
        lock(&self.due).values().min().and_then(|due| Instant::now().checked_duration_since(*due))
    }

    /// What the executors use now, as Linux tells; elsewhere nothing is known but their number.
    pub fn usage(&self) -> Usage {
        let living: Vec<u32> = lock(&self.living).iter().copied().collect();
        let mut usage = Usage { executors: living.len() as u64, cpu: ended_cpu(), ..Usage::default() };
        for pid in living {
            let file = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default();
            usage.cpu += cpu(&file("stat")).unwrap_or_default();
            let status = file("status");
            usage.memory += kib(&status, "VmRSS:").unwrap_or(0) << 10;
            usage.peak = usage.peak.max(kib(&status, "VmHWM:").unwrap_or(0) << 10);
        }
        usage
    }
}

impl Watched<'_> {
    /// Its turn has come.
    pub(super) fn begins(&mut self) {
        if !std::mem::replace(&mut self.busy, true) {
            self.tally.busy.inc();
        }
    }

    /// It has got this much time from now on.
    pub(super) fn extend(&self, within: Duration) {
        lock(&self.tally.due).insert(self.number, Instant::now() + within);
    }
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        lock(&self.tally.due).remove(&self.number);
        if self.busy {
            self.tally.busy.dec();
        }
    }
}

/// Held for look-ups only.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processor time of this process's children that have ended: a worker has no others than executors.
fn ended_cpu() -> Duration {
    // SAFETY: `getrusage` fills the struct it is given; all zeros is a valid one to begin with.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage);
        usage
    };
    [usage.ru_utime, usage.ru_stime]
        .map(|time| {
            let micros = u64::try_from(time.tv_usec).unwrap_or(0);
            Duration::from_secs(u64::try_from(time.tv_sec).unwrap_or(0)) + Duration::from_micros(micros)
        })
        .iter()
        .sum()
}

/// The processor time that a process's `stat` tells, in hundredths of a second.
fn cpu(stat: &str) -> Option<Duration> {
    // Behind the name, which may hold spaces; the state is the first.
    let words: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let ticks = |nth: usize| words.get(nth)?.parse::<u64>().ok();
    Some(Duration::from_millis(10 * (ticks(11)? + ticks(12)?)))
}

fn kib(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_is_overdue_once_its_time_is_over_and_not_when_it_has_ended() {
        let tally = Tally::default();
        assert_eq!(tally.overdue(), None);
        let mut late = tally.watch(Duration::ZERO);
        let early = tally.watch(Duration::from_secs(3600));
        assert!(tally.overdue().is_some());
        late.begins();
        late.begins();
        assert_eq!(tally.busy.get(), 1);
        late.extend(Duration::from_secs(3600));
        assert_eq!(tally.overdue(), None);
        drop((late, early));
        assert_eq!((tally.overdue(), tally.busy.get()), (None, 0));
    }

    #[test]
    fn what_linux_tells_is_read() {
        let stat = "42 (a name) with) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 1 0 100 1000 10";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(kib("Name:\tx\nVmHWM:\t  2048 kB\nVmRSS:\t   1024 kB\n", "VmRSS:"), Some(1024));
        let tally = Tally::default();
        tally.started(std::process::id());
        let usage = tally.usage();
        assert_eq!(usage.executors, 1);
        if cfg!(target_os = "linux") {
            assert!(usage.memory > 1 << 20 && usage.peak >= usage.memory, "{usage:?}");
        }
        tally.ended(std::process::id(), &Death::GivenUp);
        assert_eq!((tally.usage().executors, tally.deaths.get_or_create(&Cause::NotNeeded.labels()).get()), (0, 1));
    }
}
