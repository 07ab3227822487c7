//! What the operating system tells of this process, and of the disk.

use std::path::Path;

use super::families::Families;
#[cfg(target_os = "linux")]
use super::families::{float, one};

/// Room on the disk of this path that we may fill, in bytes.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let disk = rustix::fs::statvfs(path).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Adds the figures that all of Prometheus's clients tell of their process.
#[cfg(target_os = "linux")]
pub(crate) fn add_process(families: &mut Families) {
    use procfs::process::{LimitValue, Process};

    let Ok(process) = Process::myself() else { return };
    if let Ok(stat) = process.stat() {
        let ticks = float(procfs::ticks_per_second());
        let cpu = float(stat.utime + stat.stime) / ticks;
        families.counter(
            "process_cpu_seconds_total",
            "Processor time used, user and system together.",
            one(cpu),
        );
        let resident = stat.rss.saturating_mul(procfs::page_size());
        families.gauge(
            "process_resident_memory_bytes",
            "Memory that is in use right now.",
            one(float(resident)),
        );
        families.gauge(
            "process_virtual_memory_bytes",
            "Addresses that are taken, used or not.",
            one(float(stat.vsize)),
        );
        if let Ok(boot) = procfs::boot_time_secs() {
            let start = float(boot) + float(stat.starttime) / ticks;
            families.gauge("process_start_time_seconds", "When the process began, in Unix time.", one(start));
        }
        let threads = u64::try_from(stat.num_threads).unwrap_or(0);
        families.gauge("process_threads", "Threads.", one(float(threads)));
    }
    if let Ok(open) = process.fd_count() {
        families.gauge(
            "process_open_fds",
            "Open file descriptors, one for each connection among them.",
            one(float(open as u64)),
        );
    }
    if let Ok(limits) = process.limits()
        && let LimitValue::Value(max) = limits.max_open_files.soft_limit
    {
        families.gauge("process_max_fds", "File descriptors that may be open.", one(float(max)));
    }
}

/// Only Linux tells them.
#[cfg(not(target_os = "linux"))]
pub(crate) fn add_process(_: &mut Families) {}
