//! How a worker works: read and checked once, before any connection.

use std::path::PathBuf;
use std::time::Duration;

use shared::contract::Kind;

use crate::compute::Device;
use crate::executor::ExecutorSettings;
use crate::protocol::Budgets;

/// How a worker works.
#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Its name, unique in the fleet.
    pub name: String,
    /// Executors it keeps, one job each.
    pub slots: u32,
    /// The kinds of jobs it takes, the preferred first.
    pub kinds: Vec<Kind>,
    /// The cache's folder; processes of one host may share it.
    pub cache: PathBuf,
    /// The cache's size limit in bytes.
    pub cache_limit: u64,
    /// How long one delivery may train before the trial goes on as another delivery.
    pub slice: Duration,
    /// How long a batch or a test may be computed.
    pub time_limit: Duration,
    /// How many attempts a job has.
    pub budgets: Budgets,
    /// After how long without a job it ends by itself; never without.
    pub exit_when_idle: Option<Duration>,
    /// Whether jobs may name files of this machine: where the queue is a file of its owner's, too.
    pub local_files: bool,
    /// How executors are started.
    pub executor: ExecutorSettings,
}

/// Default of [`WorkerSettings::slice`]: far below any broker's consumer timeout (30 min), and short
/// enough that a lost worker costs little.
pub const SLICE: Duration = Duration::from_secs(5 * 60);
/// Default of [`WorkerSettings::cache_limit`].
pub const CACHE_LIMIT: u64 = 20 * 1024 * 1024 * 1024;
/// Default of [`WorkerSettings::time_limit`]: with [`ExecutorSettings::WAIT`] before it and [`ExecutorSettings::STALL`]
/// behind it, what the usual consumer timeout (30 min) allows.
pub const TIME_LIMIT: Duration = Duration::from_secs(15 * 60);
/// The least memory of an executor, in bytes: what its threads reserve, and a small network.
pub const LEAST_MEMORY: u64 = 256 << 20;

impl WorkerSettings {
    /// Defaults, with executors made of this very program on `device`; unless `slots` says otherwise, as many as there are
    /// cores, or one on a GPU.
    ///
    /// # Errors
    /// The program's own file cannot be found.
    pub fn new(cache: PathBuf, slots: Option<u32>, device: Device) -> std::io::Result<Self> {
        // The link outlives a replacement of the file by an upgrade, and names the program that runs.
        let link = PathBuf::from("/proc/self/exe");
        let program = if link.exists() { link } else { std::env::current_exe()? };
        let slots = slots.unwrap_or_else(|| device.slots());
        let mut executor = ExecutorSettings::new(program);
        executor.device = device;
        executor.limit_memory(memory_each(slots, device));
        Ok(Self {
            name: format!("{}-{}", hostname(), std::process::id()),
            slots,
            kinds: Kind::ALL.to_vec(),
            cache,
            cache_limit: CACHE_LIMIT,
            slice: SLICE,
            time_limit: TIME_LIMIT,
            budgets: Budgets::default(),
            exit_when_idle: None,
            local_files: false,
            executor,
        })
    }

    /// Executors' memory by default where so many workers of this one's kind share the machine.
    pub fn share_memory(&mut self, workers: u32) {
        self.executor.limit_memory(memory_each(self.slots.saturating_mul(workers), self.executor.device));
    }
}

/// An equal share of nine tenths of the memory, so that it is an executor that runs out of it and not the machine, where
/// the kernel may take the worker. On a machine with too little for all its slots each has enough for a small network.
fn memory_each(slots: u32, device: Device) -> Option<u64> {
    let share = crate::memory::available()? / 10 * 9 / u64::from(slots.max(1));
    let least = match device {
        Device::Cpu => 2 * LEAST_MEMORY,
        // A driver and its libraries take more than half a GiB of this machine's memory, too.
        Device::Cuda(_) => 4 * LEAST_MEMORY,
    };
    Some(share.max(least))
}

/// This machine's name.
pub fn hostname() -> String {
    let mut name = [0u8; 256];
    // SAFETY: the length passed is the buffer's, and a name that is cut short need not be terminated.
    let failed = unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len()) } != 0;
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    match std::str::from_utf8(&name[..end]) {
        Ok(name) if !failed && !name.is_empty() => name.to_owned(),
        _ => "localhost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_of_one_machine_share_its_memory() {
        let limits = |workers: u32| {
            let mut settings = WorkerSettings::new("cache".into(), Some(1), Device::Cpu).expect("this program");
            settings.share_memory(workers);
            (settings.executor.memory, settings.executor.recycle_memory)
        };
        let Some(available) = crate::memory::available() else { return };
        let all = available / 10 * 9;
        for workers in [1, 2, 1000] {
            let each = (all / u64::from(workers)).max(2 * LEAST_MEMORY);
            assert_eq!(limits(workers), (Some(each), Some(each / 2)), "{workers}");
        }
    }
}
