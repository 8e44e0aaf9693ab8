//! How much memory this machine, or the container on it, has for a worker; and how often the kernel killed for lack of it.

use std::path::{Path, PathBuf};

/// Memory in bytes: the machine's, or what the control groups of this process leave of it. `None` where the system does
/// not tell.
pub(crate) fn available() -> Option<u64> {
    available_at(Path::new("/"))
}

/// How many processes the kernel has killed for lack of memory: of this process's control group, or, where that does not
/// tell, of this machine. Only whether it grows says something.
pub(crate) fn kills() -> u64 {
    kills_at(Path::new("/"))
}

fn available_at(root: &Path) -> Option<u64> {
    let meminfo = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let kib: u64 = field(&meminfo, "MemTotal:")?;
    let limits = groups(root).into_iter().flatten().flat_map(|folder| {
        // Version 2, and version 1; a group without a limit has a word, or a number larger than any memory.
        ["memory.max", "memory.limit_in_bytes"].map(|file| folder.join(file))
    });
    let limits = limits.filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse::<u64>().ok());
    limits.chain([kib.saturating_mul(1024)]).min()
}

fn kills_at(root: &Path) -> u64 {
    let own = groups(root).into_iter().filter_map(|group| group.into_iter().next());
    let files = own.flat_map(|folder| ["memory.events", "memory.oom_control"].map(|file| folder.join(file)));
    let mut told = files.chain([root.join("proc/vmstat")]).filter_map(|file| std::fs::read_to_string(file).ok());
    told.find_map(|text| field(&text, "oom_kill")).unwrap_or(0)
}

/// The number behind a name in lines of `name number`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The folders of this process's memory groups (one for each version of control groups), each with those above it. In a
/// container its own group is the topmost folder, whatever path the kernel gives.
fn groups(root: &Path) -> Vec<Vec<PathBuf>> {
    let text = std::fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let group = |line: &str| {
        // `number:controllers:/path`; version 2 has no controllers there.
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        let base = match controllers {
            "" => root.join("sys/fs/cgroup"),
            _ if controllers.split(',').any(|name| name == "memory") => root.join("sys/fs/cgroup/memory"),
            _ => return None,
        };
        let above = Path::new(path.trim_start_matches('/')).ancestors().map(|path| base.join(path));
        Some(above.filter(|folder| folder.is_dir()).collect())
    };
    text.lines().filter_map(group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("a folder");
        for (path, text) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder above")).expect("made");
            std::fs::write(path, text).expect("written");
        }
        root
    }

    const MEMINFO: (&str, &str) = ("proc/meminfo", "MemTotal:       16384 kB\nMemFree:        1 kB\n");
    const VMSTAT: (&str, &str) = ("proc/vmstat", "oom_kill_disable 9\noom_kill 7\n");

    #[test]
    fn a_machine_without_groups_has_all_its_memory() {
        let root = root(&[MEMINFO, VMSTAT]);
        assert_eq!((available_at(root.path()), kills_at(root.path())), (Some(16 << 20), 7));
    }

    #[test]
    fn the_lowest_limit_of_the_groups_above_counts() {
        let root = root(&[
            MEMINFO,
            VMSTAT,
            ("proc/self/cgroup", "0::/pods/one/\n"),
            ("sys/fs/cgroup/pods/memory.max", "8388608\n"),
            ("sys/fs/cgroup/pods/one/memory.max", "max\n"),
            ("sys/fs/cgroup/pods/one/memory.events", "low 0\noom 5\noom_kill 3\n"),
        ]);
        assert_eq!((available_at(root.path()), kills_at(root.path())), (Some(8 << 20), 3));
    }

    #[test]
    fn the_first_version_of_groups_and_a_container_of_its_own_are_known() {
        let root = root(&[
            MEMINFO,
            ("proc/self/cgroup", "9:name=systemd:/\n4:cpu,memory:/docker/abc\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4194304\n"),
            ("sys/fs/cgroup/memory/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        ]);
        assert_eq!((available_at(root.path()), kills_at(root.path())), (Some(4 << 20), 2));
    }

    #[test]
    fn a_system_that_does_not_tell_is_none() {
        let root = root(&[]);
        assert_eq!((available_at(root.path()), kills_at(root.path())), (None, 0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_machine_tells() {
        assert!(available().is_some_and(|bytes| bytes > 64 << 20));
    }
}
