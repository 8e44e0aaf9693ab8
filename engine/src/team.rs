//! The threads that compute: one team a process, whose members wait for the next piece of work awake for a while.
//!
//! A step of a small network has dozens of pieces of work of a few microseconds each; to wake a thread that sleeps
//! takes longer than that. Between steps, when nothing comes, the members sleep.

use std::cell::Cell;
use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, TryLockError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a member waits awake.
const AWAKE: Duration = Duration::from_micros(200);
/// Looks at the clock, or lets others run, once in so many rounds of waiting.
const ROUNDS: usize = 64;

/// The process's team; none computes alone.
static TEAM: RwLock<Option<Arc<Team>>> = RwLock::new(None);

thread_local! {
    /// Whether this thread does a piece of a team's work: what it does is not shared out once more.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
    /// This thread's number in its team; a leader's is zero.
    static NUMBER: Cell<usize> = const { Cell::new(0) };
}

/// Lets `threads` threads compute from now on, that of the caller among them; one is what a process begins with.
///
/// Their number changes no bit of any result, only the time.
pub fn set_threads(threads: usize) {
    let team = (threads > 1).then(|| Arc::new(Team::new(threads - 1)));
    *TEAM.write().unwrap_or_else(PoisonError::into_inner) = team;
}

fn team() -> Option<Arc<Team>> {
    if INSIDE.get() { None } else { TEAM.read().unwrap_or_else(PoisonError::into_inner).clone() }
}

/// How many threads would share a piece of work of the caller's.
pub fn threads() -> usize {
    team().map_or(1, |team| team.members.len() + 1)
}

/// Calls `work(index)` once for each index below `count`, on all threads of the team.
///
/// Each thread begins with a share of its own, the same in every call with the same count, and only then takes of others' shares:
/// what it wrote in one call lies in its cache in the next.
pub(crate) fn each(count: usize, work: impl Fn(usize) + Sync) {
    match team() {
        Some(team) if count > 1 => {
            let shares = team.members.len() + 1;
            let next: Vec<Share> = (0..shares).map(|share| Share::from(count * share / shares)).collect();
            team.run(&|| {
                for turn in 0..shares {
                    let share = (NUMBER.get() + turn) % shares;
                    let end = count * (share + 1) / shares;
                    let claim = || Some(next[share].0.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < end);
                    while let Some(index) = claim() {
                        work(index);
                    }
                }
            });
        }
        _ => (0..count).for_each(work),
    }
}

/// The next index of a thread's share, on a cache line of its own.
#[repr(align(64))]
struct Share(AtomicUsize);

impl From<usize> for Share {
    fn from(first: usize) -> Self {
        Self(AtomicUsize::new(first))
    }
}

type Work<'a> = dyn Fn() + Sync + 'a;

/// Threads that wait for work.
struct Team {
    shared: Arc<Shared>,
    members: Vec<JoinHandle<()>>,
    /// Held by whose work is done: others who have some do it alone.
    leading: Mutex<()>,
}

/// How members learn of work. The word `state` says which piece is open to them, if any, and how many are at it: a member that comes
/// too late, when the leader has closed it, is not waited for.
#[derive(Default)]
struct Shared {
    state: AtomicU64,
    /// The open piece. Read only between joining and leaving.
    work: Mutex<Option<&'static Work<'static>>>,
    /// A member's share has panicked.
    failed: AtomicBool,
    asleep: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

/// Members at the piece that is open.
const AT_WORK: u64 = 0xffff;
/// Set while members may join.
const OPEN: u64 = 1 << 16;
/// One piece after another. The rest of the word.
const PIECE: u64 = 1 << 17;
/// A member is to end.
const END: u64 = 1 << 63;

impl Team {
    fn new(members: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let start = |number: usize| {
            let shared = shared.clone();
            std::thread::Builder::new().name(format!("team-{number}")).spawn(move || shared.member(number))
        };
        // With fewer threads the work takes longer, no more.
        let members = (1..=members.min(AT_WORK as usize)).map_while(|number| start(number).ok()).collect();
        Self { shared, members, leading: Mutex::new(()) }
    }

    /// Does `work` on this thread and on all members that come before this one is done with it. The work shares itself out.
    fn run(&self, work: &Work<'_>) {
        let _leading = match self.leading.try_lock() {
            Ok(leading) => leading,
            // Who led before has panicked, and has cleared up.
            Err(TryLockError::Poisoned(leading)) => leading.into_inner(),
            Err(TryLockError::WouldBlock) => return work(),
        };
        // SAFETY: nobody reads it after `Piece` has closed it and waited, which it does before `work` ends, also while a panic unwinds.
        let lasting = unsafe { std::mem::transmute::<&Work<'_>, &'static Work<'static>>(work) };
        let piece = Piece::open(&self.shared, lasting);
        inside(work);
        drop(piece);
        assert!(!self.shared.failed.swap(false, Ordering::Relaxed), "another thread's share of the work panicked");
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.state.fetch_or(END, Ordering::SeqCst);
        self.shared.wake_all();
        for member in self.members.drain(..) {
            // It does not panic: its work's panics are caught.
            let _ = member.join();
        }
    }
}

/// Marks this thread as one that does a share.
fn inside(work: &Work<'_>) {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            INSIDE.set(false);
        }
    }
    INSIDE.set(true);
    let _leave = Leave;
    work();
}

/// A piece that members may join, until it is dropped.
struct Piece<'a> {
    shared: &'a Shared,
}

impl<'a> Piece<'a> {
    fn open(shared: &'a Shared, work: &'static Work<'static>) -> Self {
        *shared.work() = Some(work);
        // A leader that panicked itself has not looked.
        shared.failed.store(false, Ordering::Relaxed);
        // Nobody is at work, and nothing is open: the leader before has waited for that.
        shared.state.fetch_add(PIECE | OPEN, Ordering::SeqCst);
        shared.wake_all();
        Self { shared }
    }
}

impl Drop for Piece<'_> {
    fn drop(&mut self) {
        let mut state = self.shared.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0;
        while state & AT_WORK > 0 {
            wait(&mut rounds);
            state = self.shared.state.load(Ordering::Acquire);
        }
        *self.shared.work() = None;
    }
}

/// Waits a moment, and lets other threads run from time to time: they may be those that are waited for. Says when.
fn wait(rounds: &mut usize) -> bool {
    *rounds += 1;
    spin_loop();
    let yields = rounds.is_multiple_of(ROUNDS);
    if yields {
        std::thread::yield_now();
    }
    yields
}

impl Shared {
    fn work(&self) -> std::sync::MutexGuard<'_, Option<&'static Work<'static>>> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake_all(&self) {
        // A member counts itself before it looks at the state for the last time: either it sees what is new, or it is seen here.
        if self.asleep.load(Ordering::SeqCst) > 0 {
            drop(self.sleep.lock().unwrap_or_else(PoisonError::into_inner));
            self.wake.notify_all();
        }
    }

    fn member(&self, number: usize) {
        NUMBER.set(number);
        let mut seen = 0;
        loop {
            let state = self.next(seen);
            if state & END > 0 {
                return;
            }
            seen = state & !(AT_WORK | OPEN);
            if self.join(seen) {
                let work = *self.work();
                let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work.into_iter().for_each(inside)));
                if done.is_err() {
                    self.failed.store(true, Ordering::Relaxed);
                }
                self.state.fetch_sub(1, Ordering::AcqRel);
            }
        }
    }

    /// Joins a piece, if it is still open.
    fn join(&self, piece: u64) -> bool {
        let one_more = |state| (state & !AT_WORK == piece | OPEN).then_some(state + 1);
        self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    /// Waits for another piece than the one that was seen last.
    fn next(&self, seen: u64) -> u64 {
        let is_new = |state: u64| state & END > 0 || state & !(AT_WORK | OPEN) != seen;
        let begun = Instant::now();
        let mut rounds = 0;
        loop {
            let state = self.state.load(Ordering::Acquire);
            if is_new(state) {
                return state;
            }
            if wait(&mut rounds) && begun.elapsed() > AWAKE {
                break;
            }
        }
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.asleep.fetch_add(1, Ordering::SeqCst);
        let state = loop {
            let state = self.state.load(Ordering::SeqCst);
            if is_new(state) {
                break state;
            }
            guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
        };
        self.asleep.fetch_sub(1, Ordering::SeqCst);
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All indices once, whatever the members do: asleep, late, many pieces in a row, others that lead.
    #[test]
    fn every_index_is_worked_on_once() {
        let team = Team::new(3);
        for count in [1, 2, 3, 10, 1000] {
            for round in 0..200 {
                let seen: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                let next = AtomicUsize::new(0);
                team.run(&|| {
                    while let Some(seen) = seen.get(next.fetch_add(1, Ordering::Relaxed)) {
                        seen.fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(seen.iter().all(|seen| seen.load(Ordering::Relaxed) == 1), "{count} in round {round}");
            }
        }
    }

    #[test]
    fn members_that_sleep_are_woken() {
        let team = Team::new(1);
        let until = |condition: &dyn Fn() -> bool| {
            while !condition() {
                std::thread::yield_now();
            }
        };
        for _ in 0..3 {
            until(&|| team.shared.asleep.load(Ordering::SeqCst) == 1);
            let at_once = std::sync::Barrier::new(2);
            // Ends only when both threads are in it.
            team.run(&|| {
                at_once.wait();
            });
        }
    }

    #[test]
    fn two_leaders_and_work_inside_work_go_on_alone() {
        let team = Team::new(2);
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        team.run(&|| {
                            assert_eq!(threads(), 1, "work inside work is not shared");
                            count.fetch_add(1, Ordering::Relaxed);
                        });
                    }
                });
            }
        });
        assert!(count.load(Ordering::Relaxed) >= 300);
    }

    #[test]
    fn a_panic_reaches_who_asked() {
        let team = Team::new(1);
        let at_once = std::sync::Barrier::new(2);
        let main = std::thread::current().id();
        let work = || {
            at_once.wait();
            assert_eq!(std::thread::current().id(), main, "the member fails");
        };
        let run = std::panic::AssertUnwindSafe(|| team.run(&work));
        assert!(std::panic::catch_unwind(run).is_err());
        team.run(&|| {});
    }

    #[test]
    fn a_team_outlives_a_panic_of_all() {
        let team = Team::new(1);
        let all = || {
            // Both are at it, or it takes too long.
            let (here, begun) = (AtomicUsize::new(0), Instant::now());
            let wait = |fails: bool| {
                here.fetch_add(1, Ordering::Relaxed);
                while here.load(Ordering::Relaxed) < 2 && begun.elapsed() < Duration::from_secs(20) {
                    std::thread::yield_now();
                }
                assert!(!fails, "all fail");
            };
            let failing = std::panic::AssertUnwindSafe(|| team.run(&|| wait(true)));
            assert!(std::panic::catch_unwind(failing).is_err());
            here.store(0, Ordering::Relaxed);
            team.run(&|| wait(false));
            here.load(Ordering::Relaxed)
        };
        assert_eq!(all(), 2, "the member helps again");
    }
}
