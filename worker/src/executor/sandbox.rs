//! What an executor may not do: reach a network, start programs, look into other processes.
//!
//! The executor parses pictures and models from anywhere; a hole in a decoder must not become a hole
//! in the fleet. A seccomp filter (Linux 3.17 or newer) answers the calls below with `EPERM`.

/// Why an executor cannot be locked in.
#[derive(Debug, thiserror::Error)]
#[error("this system cannot sandbox executors ({0}): start with --unsandboxed to run without, on trusted input only")]
pub(super) struct NoSandbox(String);

/// Locks all threads of this process in, and those that they start later.
#[cfg(target_os = "linux")]
pub(super) fn enter() -> Result<(), NoSandbox> {
    use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter_all_threads};
    use std::collections::BTreeMap;

    let forbidden = [
        libc::SYS_socket,
        libc::SYS_socketpair,
        libc::SYS_connect,
        libc::SYS_bind,
        libc::SYS_listen,
        libc::SYS_accept,
        libc::SYS_accept4,
        libc::SYS_execve,
        libc::SYS_execveat,
        libc::SYS_ptrace,
        libc::SYS_process_vm_readv,
        libc::SYS_process_vm_writev,
        // A ring can open sockets behind the filter's back.
        libc::SYS_io_uring_setup,
        libc::SYS_mount,
        libc::SYS_unshare,
        libc::SYS_setns,
        libc::SYS_bpf,
        libc::SYS_keyctl,
    ];
    let rules: BTreeMap<i64, Vec<seccompiler::SeccompRule>> =
        forbidden.into_iter().map(|call| (call, Vec::new())).collect();
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let architecture = std::env::consts::ARCH
        .try_into()
        .map_err(|_| NoSandbox(format!("no filter for {}", std::env::consts::ARCH)))?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)
        .map_err(|error| NoSandbox(error.to_string()))?;
    let program: BpfProgram =
        filter.try_into().map_err(|error: seccompiler::BackendError| NoSandbox(error.to_string()))?;
    apply_filter_all_threads(&program).map_err(|error| NoSandbox(error.to_string()))
}

/// There is no filter for this system yet.
#[cfg(not(target_os = "linux"))]
pub(super) fn enter() -> Result<(), NoSandbox> {
    Err(NoSandbox(format!("no filter for {}", std::env::consts::OS)))
}
