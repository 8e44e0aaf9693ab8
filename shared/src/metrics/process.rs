//! The process's own figures, by the names that all of Prometheus's clients give them. Read when they are asked for, from
//! Linux's `/proc`; elsewhere there are none.

use std::fmt;
use std::time::{Duration, SystemTime};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut tell = |name, help, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, None, metric.metric_type())?)
        };
        if let Some(seconds) = cpu_seconds() {
            tell(
                "process_cpu_seconds",
                "Processor time of this process, user and system.",
                &ConstCounter::new(seconds),
            )?;
        }
        if let Some(bytes) = resident() {
            tell("process_resident_memory_bytes", "Resident memory of this process.", &ConstGauge::new(bytes))?;
        }
        if let Some(count) = std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64) {
            tell("process_open_fds", "Open file descriptors.", &ConstGauge::new(count))?;
        }
        if let Some(started) = started() {
            let help = "When this process was started, in seconds since 1970.";
            tell("process_start_time_seconds", help, &ConstGauge::new(started))?;
        }
        Ok(())
    }
}

/// Hundredths of a second: what Linux counts in for programs, whatever the kernel's own tick is.
const TICK: f64 = 0.01;

/// The words of `/proc/self/stat` behind the name, which may hold spaces; the first is the state.
fn stat() -> Option<String> {
    Some(std::fs::read_to_string("/proc/self/stat").ok()?.rsplit_once(") ")?.1.to_owned())
}

fn cpu_seconds() -> Option<f64> {
    let stat = stat()?;
    let word = |nth: usize| stat.split(' ').nth(nth)?.parse::<u64>().ok();
    Some((word(11)? + word(12)?) as f64 * TICK)
}

fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?.trim();
    Some(kib.parse::<u64>().ok()? * 1024)
}

fn started() -> Option<f64> {
    let since_boot = Duration::from_secs_f64(stat()?.split(' ').nth(19)?.parse::<u64>().ok()? as f64 * TICK);
    let boots = std::fs::read_to_string("/proc/stat").ok()?;
    let boot: u64 = boots.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(boot) + since_boot;
    Some(at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64())
}
