//! What this node has for VMs, read from the kernel. A few short reads of `/proc` and `/sys`; decides nothing.

use std::fs;
use std::path::Path;

use crate::model::vm::CpuSet;
use crate::reconcile::admission::{Capacity, HugePool, Node};

const NODES: &str = "/sys/devices/system/node";
const HUGE_PAGES: &str = "/sys/kernel/mm/hugepages";

/// Reads it. What the kernel does not tell counts as not there.
pub fn read() -> Capacity {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    Capacity {
        cpus: cpus(Path::new("/sys/devices/system/cpu/online")),
        memory_bytes: kib(&meminfo, "MemTotal:"),
        huge_pages: huge_pages(),
        nodes: nodes(),
    }
}

/// What the kernel says is available now, in bytes.
pub fn memory_available_bytes() -> u64 {
    kib(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable:")
}

fn kib(text: &str, key: &str) -> u64 {
    let line = text.lines().find_map(|line| line.split_once(key));
    line.and_then(|(_, rest)| rest.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn cpus(path: &Path) -> CpuSet {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or_default()
}

fn number(path: &Path) -> u64 {
    fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)
}

/// The entries of a directory whose names are `prefix`, a number, and perhaps more.
fn numbered(directory: &str, prefix: &str) -> Vec<(u64, std::path::PathBuf)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut found: Vec<_> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            let rest = name.to_str()?.strip_prefix(prefix)?.trim_end_matches("kB");
            Some((rest.parse().ok()?, entry.path()))
        })
        .collect();
    found.sort();
    found
}

fn huge_pages() -> Vec<HugePool> {
    let pools = numbered(HUGE_PAGES, "hugepages-").into_iter();
    pools
        .map(|(kib, path)| HugePool {
            page_bytes: kib << 10,
            total: number(&path.join("nr_hugepages")),
            free: number(&path.join("free_hugepages")),
        })
        .collect()
}

fn nodes() -> Vec<Node> {
    let nodes = numbered(NODES, "node").into_iter();
    nodes
        .map(|(id, path)| Node {
            id: u32::try_from(id).unwrap_or(u32::MAX),
            cpus: cpus(&path.join("cpulist")),
            memory_bytes: kib(&fs::read_to_string(path.join("meminfo")).unwrap_or_default(), "MemTotal:"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_something() {
        let capacity = read();
        assert!(!capacity.cpus.is_empty() && capacity.memory_bytes > 1 << 28, "{capacity:?}");
        assert!(memory_available_bytes() <= capacity.memory_bytes);
    }

    #[test]
    fn a_line_of_meminfo_is_found_by_its_key() {
        assert_eq!(kib("Node 0 MemTotal:  16 kB\nMemFree: 4 kB\n", "MemTotal:"), 16 << 10);
        assert_eq!(kib("MemTotal: x", "MemTotal:"), 0);
    }
}
