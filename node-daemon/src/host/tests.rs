//! Facts from copies of `/proc` and `/sys`, and from this machine.

use std::path::Path;

use super::procfs::{self, Moved};
use super::*;

/// Writes files below a directory.
fn lay(root: &Path, files: &[(&str, &str)]) {
    for (path, text) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

fn roots(files: &[(&str, &str)]) -> (tempfile::TempDir, Roots) {
    let directory = tempfile::tempdir().unwrap();
    lay(directory.path(), files);
    let roots = Roots::at(directory.path().join("proc"), directory.path().join("sys"));
    (directory, roots)
}

#[test]
fn capacity_has_pools_and_nodes() {
    let (_directory, roots) = roots(&[
        ("proc/meminfo", "MemTotal:       1000 kB\nMemFree:         300 kB\nMemAvailable:    500 kB\n"),
        ("sys/devices/system/cpu/online", "0-3,8\n"),
        ("sys/devices/system/node/node0/cpulist", "0-3\n"),
        ("sys/devices/system/node/node0/meminfo", "Node 0 MemTotal:   600 kB\nNode 0 MemFree:   100 kB\n"),
        ("sys/devices/system/node/node1/cpulist", "8\n"),
        ("sys/devices/system/node/node1/meminfo", "Node 1 MemTotal:   400 kB\nNode 1 MemFree:   200 kB\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages", "10\n"),
        ("sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages", "4\n"),
    ]);
    let capacity = capacity::read(&roots);
    assert_eq!((capacity.cpus.len(), capacity.memory_bytes, capacity.memory_available_bytes), (5, 1_024_000, 512_000));
    assert_eq!(capacity.huge_pages, [HugePool { page_bytes: 2 << 20, total: 10, free: 4 }]);
    let nodes: Vec<_> = capacity.numa_nodes.iter().map(|n| (n.id, n.cpus.to_string(), n.memory_free_bytes)).collect();
    assert_eq!(nodes, [(0, "0-3".to_owned(), 102_400), (1, "8".to_owned(), 204_800)]);
}

#[test]
fn a_kernel_without_numa_has_one_node() {
    let (_directory, roots) =
        roots(&[("proc/meminfo", "MemTotal: 8 kB\nMemFree: 4 kB\n"), ("sys/devices/system/cpu/online", "0\n")]);
    let nodes = capacity::read(&roots).numa_nodes;
    assert_eq!((nodes.len(), nodes[0].memory_bytes, nodes[0].cpus.len()), (1, 8192, 1));
}

#[test]
fn hardware_is_counted_once() {
    let cpu = |n: u32, core: u32| {
        format!(
            "processor\t: {n}\nmodel name\t: Fast 9000\nphysical id\t: 0\ncore id\t\t: {core}\nflags\t\t: fpu svm\n\n"
        )
    };
    let cpuinfo: String = [(0, 0), (1, 1), (2, 0), (3, 1)].map(|(n, core)| cpu(n, core)).concat();
    let (_directory, roots) = roots(&[
        ("proc/cpuinfo", &cpuinfo),
        ("proc/self/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"),
        ("sys/block/sda/size", "2048\n"),
        ("sys/block/sda/queue/rotational", "1\n"),
        ("sys/block/sda/device/model", "Disk  \n"),
        ("sys/block/sda/sda1/size", "1024\n"),
        ("sys/block/sdb/size", "4096\n"),
        ("sys/block/loop0/size", "8\n"),
        ("sys/class/net/eth0/address", "52:54:00:00:00:01\n"),
        ("sys/class/net/eth0/mtu", "1500\n"),
        ("sys/class/net/eth0/speed", "-1\n"),
        ("sys/class/net/eth0/operstate", "down\n"),
        ("sys/class/net/eth0/device/vendor", "0x1af4\n"),
        ("sys/class/net/virbr0/address", "52:54:00:00:00:02\n"),
        ("sys/bus/pci/devices/0000:00:1f.0/vendor", "0x8086\n"),
        ("sys/bus/pci/devices/0000:00:1f.0/class", "0x060100\n"),
    ]);
    let hardware = hardware::read(&roots);
    assert_eq!((hardware.sockets, hardware.cores, hardware.threads), (1, 2, 4));
    assert_eq!((hardware.cpu_model.as_str(), hardware.virtualization.as_str()), ("Fast 9000", "svm"));
    let disks: Vec<_> = hardware.block_devices.iter().map(|d| (d.name.as_str(), d.size_bytes, d.in_use)).collect();
    assert_eq!(disks, [("sda", 1 << 20, true), ("sdb", 2 << 20, false)]);
    assert_eq!(hardware.network_interfaces.len(), 1);
    let nic = &hardware.network_interfaces[0];
    assert_eq!((nic.name.as_str(), nic.mtu, nic.up, nic.speed_bits_per_second), ("eth0", 1500, false, 0));
    assert_eq!(
        (hardware.pci_devices[0].vendor_id.as_str(), hardware.pci_devices[0].class.as_str()),
        ("8086", "060100")
    );
}

#[test]
fn counters_are_read_and_nonsense_is_not() {
    let ticks = procfs::cpu("cpu  10 5 15 60 10 0 0 0 7 0\ncpu0 1 1 1 1\n");
    assert_eq!((ticks.busy, ticks.total), (30, 100));
    let disks = procfs::disks("8 0 sda 10 0 4 0 20 0 8 0 0 0 0\n8 1 sda1 1 0 1 0 1 0 1 0\n 7\n", |name| name == "sda");
    assert_eq!(disks, Moved { in_bytes: 2048, out_bytes: 4096, in_operations: 10, out_operations: 20 });
    let net = procfs::interfaces("h|\n h|\n  eth0: 1 2 0 0 0 0 0 0 3 4 0\n lo: 9 9\n", |_| true);
    assert_eq!(net, Moved { in_bytes: 1, out_bytes: 3, in_operations: 2, out_operations: 4 });
    assert_eq!(procfs::pressure("some avg10=0.00 avg60=0.00 avg300=0.00 total=42\nfull total=1\n"), Some(42));
    assert_eq!((procfs::pressure(""), procfs::cpu("")), (None, procfs::CpuTicks::default()));
    assert_eq!(procfs::memory("MemTotal: x kB\n", "MemTotal:"), 0);
}

#[tokio::test]
async fn a_node_keeps_its_id_and_this_machine_can_be_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("node.db");
    let store = tokio::task::spawn_blocking(move || Store::open(&path)).await.unwrap().unwrap();
    let first = Host::new(&store, Roots::default(), Timeline::begin()).await.unwrap();
    let second = Host::new(&store, Roots::default(), Timeline::begin()).await.unwrap();
    assert_eq!(first.identity().id, second.identity().id);
    assert!(!first.identity().kernel.is_empty() && first.identity().boot_time.is_some());
    let capacity = first.capacity();
    assert!(!capacity.cpus.is_empty() && capacity.memory_bytes > capacity.memory_available_bytes);
    assert!(first.hardware().threads > 0);
}
