//! What the operating system reports about this process, and what it allows: metrics, limits, and free disk space.

use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::families::MetricFamilies;
#[cfg(target_os = "linux")]
use super::families::{integer_to_float, unlabeled_sample};

/// The free space available to this process on the file system that contains `path`, in bytes. `None` if the
/// operating system can't report the free space.
pub(crate) fn free_disk_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Raises the soft limit on open files of this process to its hard limit: the usual soft limit, 1,024, is only for
/// programs that use `select`. Returns the limit in effect; `None` if open files aren't limited.
pub(crate) fn raise_open_file_limit() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current, // macOS, for example, accepts no unlimited soft limit.
    }
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
pub(crate) fn add_process_metrics(_: &mut MetricFamilies) {}

/// The memory limit of this process, in bytes; `None` if its memory isn't limited. It is the lowest limit of
/// the process's cgroups and of their ancestors, as set by a container runtime or a service manager.
#[cfg(target_os = "linux")]
pub(crate) fn memory_limit_bytes() -> Option<u64> {
    let process = procfs::process::Process::myself().ok()?;
    let cgroups = process.cgroups().ok()?;
    let mounts = process.mountinfo().ok()?;
    lowest_memory_limit(&cgroups, &mounts)
}

/// Returns `None`: memory limits are read on Linux only.
#[cfg(not(target_os = "linux"))]
pub(crate) fn memory_limit_bytes() -> Option<u64> {
    None
}

#[cfg(target_os = "linux")]
fn lowest_memory_limit(
    cgroups: &procfs::ProcessCGroups,
    mounts: &procfs::process::MountInfos,
) -> Option<u64> {
    let limits =
        cgroups.0.iter().flat_map(|cgroup| mounts.0.iter().filter_map(|mount| limit_in_mount(cgroup, mount)));
    limits.min()
}

/// The lowest memory limit of a cgroup and its ancestors, as far as `mount` contains them; `None` if the
/// mount is not a cgroup hierarchy that limits memory. cgroup version 2 has one hierarchy; version 1 has a
/// hierarchy for memory.
#[cfg(target_os = "linux")]
fn limit_in_mount(cgroup: &procfs::ProcessCGroup, mount: &procfs::process::MountInfo) -> Option<u64> {
    let file = match mount.fs_type.as_str() {
        "cgroup2" if cgroup.hierarchy == 0 => "memory.max",
        "cgroup"
            if cgroup.controllers.iter().any(|name| name == "memory")
                && mount.super_options.contains_key("memory") =>
        {
            "memory.limit_in_bytes"
        }
        _ => return None,
    };
    // In a container, the mount may contain only the container's own cgroup, whose path may lie outside of
    // the mount. Then the root of the mount is used.
    let relative = Path::new(&cgroup.pathname).strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let relative = relative.strip_prefix("/").unwrap_or(relative);
    let directory = mount.mount_point.join(relative);
    let directories = directory.ancestors().take_while(|directory| directory.starts_with(&mount.mount_point));
    let limit = |directory: &Path| {
        let text = std::fs::read_to_string(directory.join(file)).ok()?;
        // "max" in version 2, and almost 2^63 in version 1, mean that there is no limit.
        text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
    };
    directories.filter_map(limit).min()
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::fs;

    use procfs::process::MountInfos;
    use procfs::{FromBufRead as _, ProcessCGroups};

    use super::*;

    /// The memory limit of a process in `cgroups` with `mounts` below `root`.
    fn cgroup_memory_limit_bytes(cgroups: &str, mounts: &str, root: &Path) -> Option<u64> {
        let cgroups = ProcessCGroups::from_buf_read(cgroups.as_bytes()).unwrap();
        let mounts = mounts.replace("ROOT", root.to_str().unwrap());
        let mounts = MountInfos::from_buf_read(mounts.as_bytes()).unwrap();
        lowest_memory_limit(&cgroups, &mounts)
    }

    fn write(root: &Path, file: &str, text: &str) {
        let file = root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn the_memory_limit_is_the_lowest_limit_of_the_cgroups_of_either_version() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let v2 = "30 23 0:29 / ROOT rw,nosuid - cgroup2 cgroup rw\n";
        write(root, "a.slice/memory.max", "500000000\n");
        write(root, "a.slice/b.service/memory.max", "max\n");
        write(root, "c/memory.max", "max\n");
        assert_eq!(cgroup_memory_limit_bytes("0::/a.slice/b.service\n", v2, root), Some(500_000_000));
        write(root, "a.slice/b.service/memory.max", "300000000\n");
        assert_eq!(cgroup_memory_limit_bytes("0::/a.slice/b.service\n", v2, root), Some(300_000_000));
        assert_eq!(cgroup_memory_limit_bytes("0::/c\n", v2, root), None);
        assert_eq!(cgroup_memory_limit_bytes("0::/none\n", v2, root), None);
        // In a container with its own cgroup namespace, the root is the container's cgroup.
        write(root, "memory.max", "200000000\n");
        assert_eq!(cgroup_memory_limit_bytes("0::/\n", v2, root), Some(200_000_000));

        let v1 = "35 31 0:32 / ROOT/cpu rw - cgroup cgroup rw,cpu\n35 31 0:32 / ROOT/v1 rw - cgroup cgroup rw,memory\n";
        let groups = "4:memory:/docker/7\n1:cpu:/docker/7\n0::/\n";
        write(root, "v1/docker/7/memory.limit_in_bytes", "100000000\n");
        write(root, "v1/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(cgroup_memory_limit_bytes(groups, v1, root), Some(100_000_000));
        // In a container without its own namespace, the mount contains only the container's cgroup.
        let bound = "35 31 0:32 /docker/7 ROOT/v1/docker/7 rw - cgroup cgroup rw,memory\n";
        assert_eq!(cgroup_memory_limit_bytes(groups, bound, root), Some(100_000_000));
        assert_eq!(cgroup_memory_limit_bytes("4:memory:/\n", v1, root), None);
        assert_eq!(cgroup_memory_limit_bytes(groups, "", root), None);
    }
}
