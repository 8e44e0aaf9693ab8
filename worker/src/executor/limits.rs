//! What an executor may take: so much memory, and no longer than its supervisor lives.

use std::alloc::{GlobalAlloc, Layout, System};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// The exit code of an executor whose memory is full (`ENOMEM`).
pub(super) const OUT_OF_MEMORY: i32 = 12;

/// Names its memory in bytes, and its supervisor's process id, to an executor.
pub(super) const MEMORY: &str = "GANNET_EXECUTOR_MEMORY";
pub(super) const SUPERVISOR: &str = "GANNET_EXECUTOR_SUPERVISOR";

/// Lays them on this process.
///
/// # Errors
/// The system refuses one, or the supervisor has died already.
pub(super) fn enter() -> io::Result<()> {
    end_with(number(SUPERVISOR))?;
    be_the_first_to_go();
    if let Some(memory) = given() {
        limit_memory(memory)?;
    }
    IS_EXECUTOR.store(true, Ordering::Relaxed);
    Ok(())
}

/// The memory that this executor was given, in bytes.
pub(super) fn given() -> Option<u64> {
    number(MEMORY)
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The kernel kills this process when the thread that started it ends. Its standard input closes, too, but a process
/// that hangs would not see it.
#[cfg(target_os = "linux")]
fn end_with(supervisor: Option<u64>) -> io::Result<()> {
    let Some(supervisor) = supervisor else { return Ok(()) };
    // SAFETY: these take numbers and keep no pointer.
    let (asked, parent) =
        unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong), libc::getppid()) };
    if asked != 0 {
        return Err(io::Error::last_os_error());
    }
    // It may have died before.
    if u64::try_from(parent).is_ok_and(|parent| parent == supervisor) {
        return Ok(());
    }
    Err(io::Error::other("the supervisor has died"))
}

#[cfg(not(target_os = "linux"))]
fn end_with(_: Option<u64>) -> io::Result<()> {
    Ok(())
}

/// When the machine's memory is full the kernel takes an executor, and not the supervisor, which has to report it. And a
/// death leaves no image of gigabytes, which would be written before anybody hears of the death.
fn be_the_first_to_go() {
    #[cfg(target_os = "linux")]
    {
        // Where the system does not let us the order is the kernel's own.
        let _ = std::fs::write("/proc/self/oom_score_adj", "500");
        // SAFETY: it takes numbers and keeps no pointer.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) };
    }
}

/// `RLIMIT_DATA`: what is allocated, mapped files and the program itself apart.
fn limit_memory(bytes: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the struct outlives the call.
    match unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Memory that this process holds, in bytes, mapped files apart; 0 where the system does not tell.
pub(super) fn held() -> u64 {
    // Pages: all, those in memory, those of them that belong to files.
    let read = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = read.split(' ').skip(1).map_while(|field| field.parse::<u64>().ok());
    let own = pages.next().unwrap_or(0).saturating_sub(pages.next().unwrap_or(0));
    // SAFETY: it takes a number.
    own * u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(0)
}

static IS_EXECUTOR: AtomicBool = AtomicBool::new(false);

/// The system's allocator, which in an executor has a last word: one that gets no memory ends with [`OUT_OF_MEMORY`],
/// so that its supervisor knows. Also where a caller could do without: an answer that hangs on how much memory a
/// machine happens to have is none.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

/// Ends an executor that got nothing.
#[inline]
fn or_end(pointer: *mut u8) -> *mut u8 {
    if pointer.is_null() && IS_EXECUTOR.load(Ordering::Relaxed) {
        // SAFETY: it takes a number, runs nothing and allocates nothing.
        unsafe { libc::_exit(OUT_OF_MEMORY) };
    }
    pointer
}

// SAFETY: every call is handed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps the contract, which is the same.
        or_end(unsafe { System.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: likewise.
        or_end(unsafe { System.alloc_zeroed(layout) })
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: likewise.
        or_end(unsafe { System.realloc(pointer, layout, size) })
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: likewise.
        unsafe { System.dealloc(pointer, layout) }
    }
}
