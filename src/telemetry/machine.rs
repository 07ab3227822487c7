//! Figures of the operating system about this process and the disk.

use std::path::Path;

use super::families::Families;
#[cfg(target_os = "linux")]
use super::families::{float, single};

/// Free space available to this process on the file system of `path`, in bytes.
pub(crate) fn free_bytes(path: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(path).ok()?;
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Adds the standard process metrics of Prometheus client libraries.
#[cfg(target_os = "linux")]
pub(crate) fn add_process(families: &mut Families) {
    use procfs::process::{LimitValue, Process};

    let Ok(process) = Process::myself() else { return };
    if let Ok(stat) = process.stat() {
        let ticks = float(procfs::ticks_per_second());
        let cpu = float(stat.utime + stat.stime) / ticks;
        families.counter(
            "process_cpu_seconds_total",
            "CPU time used, user and system, in seconds.",
            single(cpu),
        );
        let resident = stat.rss.saturating_mul(procfs::page_size());
        families.gauge(
            "process_resident_memory_bytes",
            "Resident memory, in bytes.",
            single(float(resident)),
        );
        families.gauge(
            "process_virtual_memory_bytes",
            "Virtual memory, in bytes.",
            single(float(stat.vsize)),
        );
        if let Ok(boot) = procfs::boot_time_secs() {
            let start = float(boot) + float(stat.starttime) / ticks;
            families.gauge(
                "process_start_time_seconds",
                "Start time of the process, in Unix time.",
                single(start),
            );
        }
        let threads = u64::try_from(stat.num_threads).unwrap_or(0);
        families.gauge("process_threads", "Number of threads.", single(float(threads)));
    }
    if let Ok(open) = process.fd_count() {
        families.gauge(
            "process_open_fds",
            "Open file descriptors; each connection uses single.",
            single(float(open as u64)),
        );
    }
    if let Ok(limits) = process.limits()
        && let LimitValue::Value(max) = limits.max_open_files.soft_limit
    {
        families.gauge("process_max_fds", "The largest number of open file descriptors.", single(float(max)));
    }
}

/// Available on Linux only.
#[cfg(not(target_os = "linux"))]
pub(crate) fn add_process(_: &mut Families) {}

/// The memory that this process may use, in bytes, if its control groups limit it: a container's limit, or a
/// service's. The lowest of its groups and of the groups above them counts.
#[cfg(target_os = "linux")]
pub(crate) fn memory_limit() -> Option<u64> {
    let process = procfs::process::Process::myself().ok()?;
    let groups = process.cgroups().ok()?;
    let mounts = process.mountinfo().ok()?;
    let limits = groups.0.iter().flat_map(|group| mounts.0.iter().filter_map(|mount| limit_in(group, mount)));
    limits.min()
}

/// Known on Linux only.
#[cfg(not(target_os = "linux"))]
pub(crate) fn memory_limit() -> Option<u64> {
    None
}

/// The lowest limit of a group and those above it, if this mount shows them: version 2 of control groups has
/// one hierarchy, version 1 has one for memory.
#[cfg(target_os = "linux")]
fn limit_in(group: &procfs::ProcessCGroup, mount: &procfs::process::MountInfo) -> Option<u64> {
    let file = match mount.fs_type.as_str() {
        "cgroup2" if group.hierarchy == 0 => "memory.max",
        "cgroup"
            if group.controllers.iter().any(|name| name == "memory")
                && mount.super_options.contains_key("memory") =>
        {
            "memory.limit_in_bytes"
        }
        _ => return None,
    };
    // In a container, the mount may show only its own group, or the path may lead out of what it shows.
    let inside = Path::new(&group.pathname).strip_prefix(&mount.root).unwrap_or(Path::new(""));
    let inside = inside.strip_prefix("/").unwrap_or(inside);
    let directory = mount.mount_point.join(inside);
    let directories = directory.ancestors().take_while(|above| above.starts_with(&mount.mount_point));
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

    /// The limit that a process in these groups finds with these mounts below `root`.
    fn limit(groups: &str, mounts: &str, root: &Path) -> Option<u64> {
        let groups = ProcessCGroups::from_buf_read(groups.as_bytes()).unwrap();
        let mounts = mounts.replace("ROOT", root.to_str().unwrap());
        let mounts = MountInfos::from_buf_read(mounts.as_bytes()).unwrap();
        let limits =
            groups.0.iter().flat_map(|group| mounts.0.iter().filter_map(|mount| limit_in(group, mount)));
        limits.min()
    }

    fn write(root: &Path, file: &str, text: &str) {
        let file = root.join(file);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }

    #[test]
    fn the_memory_limit_is_the_lowest_of_the_groups_of_either_version() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path();
        let v2 = "30 23 0:29 / ROOT rw,nosuid - cgroup2 cgroup rw\n";
        write(root, "a.slice/memory.max", "500000000\n");
        write(root, "a.slice/b.service/memory.max", "max\n");
        write(root, "c/memory.max", "max\n");
        assert_eq!(limit("0::/a.slice/b.service\n", v2, root), Some(500_000_000));
        write(root, "a.slice/b.service/memory.max", "300000000\n");
        assert_eq!(limit("0::/a.slice/b.service\n", v2, root), Some(300_000_000));
        assert_eq!(limit("0::/c\n", v2, root), None);
        assert_eq!(limit("0::/none\n", v2, root), None);
        // With a namespace of its own, a container sees its group as the root.
        write(root, "memory.max", "200000000\n");
        assert_eq!(limit("0::/\n", v2, root), Some(200_000_000));

        let v1 = "35 31 0:32 / ROOT/cpu rw - cgroup cgroup rw,cpu\n35 31 0:32 / ROOT/v1 rw - cgroup cgroup rw,memory\n";
        let groups = "4:memory:/docker/7\n1:cpu:/docker/7\n0::/\n";
        write(root, "v1/docker/7/memory.limit_in_bytes", "100000000\n");
        write(root, "v1/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(limit(groups, v1, root), Some(100_000_000));
        // Without a namespace, the mount shows only the container's group.
        let bound = "35 31 0:32 /docker/7 ROOT/v1/docker/7 rw - cgroup cgroup rw,memory\n";
        assert_eq!(limit(groups, bound, root), Some(100_000_000));
        assert_eq!(limit("4:memory:/\n", v1, root), None);
        assert_eq!(limit(groups, "", root), None);
    }
}
