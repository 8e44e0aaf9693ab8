//! What a process is told once, at its start: with which instructions and how many threads it computes, and that freed
//! memory is kept.

use std::sync::OnceLock;

use engine::Path as Simd;

/// What [`set_simd`] was told.
static SIMD: OnceLock<Simd> = OnceLock::new();

/// The instruction set of this name, where this machine has it: a parser for command lines.
///
/// # Errors
/// There is none of this name, or this machine does not have it; what is accepted.
pub fn find_simd(name: &str) -> Result<Simd, String> {
    let available = Simd::available();
    let names: Vec<&str> = available.iter().map(|path| path.name()).collect();
    let found = available.iter().find(|path| path.name() == name);
    found.copied().ok_or_else(|| match names.as_slice() {
        [only] => format!("on this machine `{only}` is accepted"),
        names => format!("on this machine `{}` are accepted", names.join("`, `")),
    })
}

/// Computes networks with `path` from now on: to be called once, at the start of a process. Its executors do the same.
/// Without this call it is the best one that the machine has.
pub fn set_simd(path: Simd) {
    if *SIMD.get_or_init(|| path) != path {
        tracing::warn!(path = path.name(), "too late to compute with it: another instruction set was chosen before");
    }
}

/// The instruction set that networks are computed with in this process.
pub(crate) fn simd() -> Simd {
    *SIMD.get_or_init(Simd::best)
}

/// Lets `threads` threads compute: to be called once, before anything else in a process.
///
/// Their number changes no bit of any result, only the time. Without this call networks are computed on one, and pictures
/// decoded on one a core.
pub fn set_threads(threads: usize) {
    let threads = threads.max(1);
    // candle has a pool of its own for large tensors and takes its size from the environment alone.
    if is_the_only_thread() {
        // SAFETY: no other thread exists that could read or change the environment meanwhile.
        unsafe { std::env::set_var("RAYON_NUM_THREADS", threads.to_string()) };
    } else {
        tracing::warn!(threads, "too late to tell candle its number of threads: RAYON_NUM_THREADS can");
    }
    engine::set_threads(threads);
    // For what decodes pictures. The pool can be built once. If it stands already its size is kept.
    if let Err(error) = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global() {
        tracing::warn!(error = %error, threads, "the number of threads was set before");
    }
}

/// Whether this process is known to have one thread.
fn is_the_only_thread() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}

/// Makes the allocator keep what is freed. Every large tensor is a fresh mapping otherwise, whose pages
/// the kernel clears one fault at a time: a quarter of a training step. Call it at the start of a process.
pub fn keep_pages() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let settings = [
            // Above any tensor: nothing is mapped on its own.
            (libc::M_MMAP_THRESHOLD, 1 << 30),
            // Freed memory at the heap's end stays.
            (libc::M_TRIM_THRESHOLD, libc::c_int::MAX),
            // The heap grows in steps of 64 MiB; pages that are never touched cost nothing.
            (libc::M_TOP_PAD, 64 << 20),
        ];
        for (parameter, value) in settings {
            // SAFETY: mallopt takes two numbers and keeps no pointer; it is safe at any time.
            let accepted = unsafe { libc::mallopt(parameter, value) };
            debug_assert_eq!(accepted, 1, "glibc knows these parameters");
        }
    }
}

/// The instruction set that networks are computed with here: `avx512`, `avx2` or `portable`. Results are
/// the same to the bit on machines of one path.
pub fn simd_path() -> &'static str {
    simd().name()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instruction_set_is_one_that_the_machine_has() {
        assert_eq!(find_simd("portable"), Ok(Simd::Portable));
        for path in Simd::available() {
            assert_eq!(find_simd(path.name()), Ok(path));
        }
        for wrong in ["", "sse2", "AVX2", "avx512f"] {
            let refused = find_simd(wrong).expect_err("there is none");
            assert!(refused.starts_with("on this machine `") && refused.contains("`portable`"), "{refused}");
        }
    }
}
