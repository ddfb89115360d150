//! How much memory a run may take. A step that cannot fit is refused before anything is allocated: the system would kill
//! it later, and with it whatever else it finds.

/// Bytes that the system can still give, with what the process's control group allows; `None` where it does not tell.
#[must_use]
pub fn available_bytes() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let free = line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024;
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let group = || Some(number("/sys/fs/cgroup/memory.max")?.saturating_sub(number("/sys/fs/cgroup/memory.current")?));
    Some(group().map_or(free, |group| group.min(free)))
}
