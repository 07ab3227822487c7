//! Metrics that the operating system reports about this process, and the free disk space.

use std::path::Path;

use super::families::MetricFamilies;
#[cfg(target_os = "linux")]
use super::families::{integer_to_float, unlabeled_sample};

/// The free space available to this process on the file system that contains `path`, in bytes. `None` if the
/// operating system can't report the free space.
pub(crate) fn free_disk_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Adds the process metrics that Prometheus client libraries export by default (`process_…`).
#[cfg(target_os = "linux")]
pub(crate) fn add_process_metrics(families: &mut MetricFamilies) {
    use procfs::process::{LimitValue, Process};

    let Ok(process) = Process::myself() else { return };
    if let Ok(stat) = process.stat() {
        let ticks = integer_to_float(procfs::ticks_per_second());
        let cpu = integer_to_float(stat.utime + stat.stime) / ticks;
        families.add_counter(
            "process_cpu_seconds_total",
            "CPU time used, user and system, in seconds.",
            unlabeled_sample(cpu),
        );
        let resident = stat.rss.saturating_mul(procfs::page_size());
        families.add_gauge(
            "process_resident_memory_bytes",
            "Resident memory, in bytes.",
            unlabeled_sample(integer_to_float(resident)),
        );
        families.add_gauge(
            "process_virtual_memory_bytes",
            "Virtual memory, in bytes.",
            unlabeled_sample(integer_to_float(stat.vsize)),
        );
        if let Ok(boot) = procfs::boot_time_secs() {
            let start = integer_to_float(boot) + integer_to_float(stat.starttime) / ticks;
            families.add_gauge(
                "process_start_time_seconds",
                "Start time of the process, in Unix time.",
                unlabeled_sample(start),
            );
        }
        let threads = u64::try_from(stat.num_threads).unwrap_or(0);
        families.add_gauge(
            "process_threads",
            "Number of threads.",
            unlabeled_sample(integer_to_float(threads)),
        );
    }
    if let Ok(open) = process.fd_count() {
        families.add_gauge(
            "process_open_fds",
            "Open file descriptors; each connection uses one.",
            unlabeled_sample(integer_to_float(open as u64)),
        );
    }
    if let Ok(limits) = process.limits()
        && let LimitValue::Value(max) = limits.max_open_files.soft_limit
    {
        families.add_gauge(
            "process_max_fds",
            "The largest number of open file descriptors.",
            unlabeled_sample(integer_to_float(max)),
        );
    }
}

/// Adds nothing: process metrics are available on Linux only.
#[cfg(not(target_os = "linux"))]
pub(crate) fn add_process_metrics(_: &mut Families) {}
