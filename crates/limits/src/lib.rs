//! What this process may have of its machine: how much memory, which is the least of several answers.
//!
//! ```text
//! the system              MemAvailable
//! control groups, v1, v2  memory.max and memory.high, or memory.limit_in_bytes, of the group and of all above it,
//!                         less what is used and cannot be taken back (files that are only cached can)
//! limits of the process   RLIMIT_AS and RLIMIT_DATA (`ulimit -v`, `ulimit -d`), less what is mapped
//! ```
//! Linux tells all of it in text files. **Absent on purpose:** any use of memory; who plans, prepares and trains asks here,
//! so that what one says fits is not what kills the other.

use std::path::{Path, PathBuf};

/// Of the address space that is left, what stacks and the reserves of allocators take without being memory: 64 MiB for each of
/// a few threads, and a share.
const KEPT_BYTES: u64 = 192 << 20;
const KEPT_SHARE: u64 = 8;

/// Bytes that this process can still take; `None` where the system does not tell.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    available(Path::new("/"))
}

/// As files under `root` tell it.
fn available(root: &Path) -> Option<u64> {
    let proc = |name: &str| std::fs::read_to_string(root.join("proc").join(name)).unwrap_or_default();
    let kilobytes = |text: &str, name: &str| Some(field(text, name)?.trim_end_matches("kB").trim().parse::<u64>().ok()? << 10);
    let status = proc("self/status");
    let limit = |name: &str, used: &str| {
        let limits = proc("self/limits");
        let soft: u64 = limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()?;
        Some(soft.saturating_sub(kilobytes(&status, used)?))
    };
    let addresses = limit("Max address space", "VmSize:").map(|left| (left - left / KEPT_SHARE).saturating_sub(KEPT_BYTES));
    [
        kilobytes(&proc("meminfo"), "MemAvailable:"),
        groups(root, &proc("self/cgroup"), &proc("self/mountinfo")),
        addresses,
        limit("Max data size", "VmData:"),
    ]
    .into_iter()
    .flatten()
    .min()
}

/// What stands behind `name`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// What the control groups leave.
fn groups(root: &Path, cgroup: &str, mountinfo: &str) -> Option<u64> {
    let mut left = Vec::new();
    for line in mountinfo.lines() {
        // 36 35 98:0 /group /mount/point options - type source options
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let (mut mount, mut kind) = (mount.split(' ').skip(3), kind.split(' '));
        let (Some(top), Some(point)) = (mount.next(), mount.next()) else { continue };
        let is_second = match (kind.next(), kind.nth(1)) {
            (Some("cgroup2"), _) => true,
            (Some("cgroup"), Some(options)) if options.split(',').any(|option| option == "memory") => false,
            _ => continue,
        };
        let own = cgroup.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            let is_it = if is_second { controllers.is_empty() } else { controllers.split(',').any(|name| name == "memory") };
            is_it.then_some(path)
        });
        let point = root.join(point.trim_start_matches('/'));
        // Inside a container the path may be the host's, which is not to be seen here: the mount is then the group itself.
        let below = own.and_then(|path| Path::new(path).strip_prefix(top).ok()).unwrap_or(Path::new(""));
        let mut group: PathBuf = point.join(below);
        while group.starts_with(&point) {
            left.extend(left_of(&group, is_second));
            if !group.pop() {
                break;
            }
        }
    }
    left.into_iter().min()
}

/// What one group leaves, if it limits memory.
fn left_of(group: &Path, is_second: bool) -> Option<u64> {
    let number = |name: &str| std::fs::read_to_string(group.join(name)).ok()?.trim().parse::<u64>().ok();
    let stat = std::fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let counted = |name: &str| field(&stat, name).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let (limit, used, cached) = if is_second {
        let limit = number("memory.max").into_iter().chain(number("memory.high")).min();
        (limit?, number("memory.current")?, counted("inactive_file ") + counted("active_file "))
    } else {
        let cached = counted("total_inactive_file ") + counted("total_active_file ");
        (number("memory.limit_in_bytes")?, number("memory.usage_in_bytes")?, cached)
    };
    Some(limit.saturating_sub(used.saturating_sub(cached)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_of_all_answers_counts() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let put = |path: &str, text: &str| {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let rlimits = |addresses: &str, data: &str| {
            let text = format!(
                "Limit    Soft Limit    Hard Limit    Units\nMax data size    {data}    unlimited    bytes\nMax address space    {addresses}    unlimited    bytes\n"
            );
            put("proc/self/limits", &text);
        };
        assert_eq!(available(root), None);
        put("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:     8000 kB\n");
        put("proc/self/status", "Name:\tx\nVmSize:\t     1000 kB\nVmData:\t  500 kB\n");
        rlimits("unlimited", "unlimited");
        assert_eq!(available(root), Some(8000 << 10));
        // The second version: the group above limits more than its own.
        put("proc/self/cgroup", "0::/up/own\n");
        put("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n");
        put("sys/fs/cgroup/up/own/memory.max", "max\n");
        put("sys/fs/cgroup/up/memory.max", "7000000\n");
        put("sys/fs/cgroup/up/memory.high", "6000000\n");
        put("sys/fs/cgroup/up/memory.current", "3000000\n");
        put("sys/fs/cgroup/up/memory.stat", "anon 2500000\ninactive_file 400000\nactive_file 100000\n");
        assert_eq!(available(root), Some(3_500_000));
        // The first version, of which a container sees its own group at the mount.
        put("proc/self/cgroup", "4:cpu,memory:/host/abc\n0::/up/own\n");
        let mounts = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n31 23 0:27 /else /sys/fs/memory rw - cgroup cgroup rw,memory\n";
        put("proc/self/mountinfo", mounts);
        put("sys/fs/memory/memory.limit_in_bytes", "5000000\n");
        put("sys/fs/memory/memory.usage_in_bytes", "2500000\n");
        put("sys/fs/memory/memory.stat", "inactive_file 1\ntotal_inactive_file 500000\ntotal_active_file 0\n");
        assert_eq!(available(root), Some(3_000_000));
        rlimits("233024000", "unlimited");
        assert_eq!(available(root), Some(232_000_000 * 7 / 8 - KEPT_BYTES));
        rlimits("unlimited", "600000");
        assert_eq!(available(root), Some(600_000 - 512_000));
    }
}
