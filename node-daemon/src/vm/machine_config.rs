//! A VM's spec as the VMM's configuration. Pure. Every file in it is `fd:NAME`: the VMM opens nothing.

use serde_json::{Map, Value, json};

use super::resources::OpenDisk;
use crate::model::vm::{DiskSpec, HugePages, Limit, NicSpec, VmRecord};

/// Name of the kernel in the VMM's store.
pub const KERNEL_FD: &str = "kernel";
/// Name of the initial RAM disk.
pub const INITRD_FD: &str = "initrd";
/// Name of the serial port's socket.
pub const SERIAL_FD: &str = "serial";
/// Name of the seed for cloud-init; also the disk's id.
pub const SEED: &str = "cidata";

/// What was opened, as far as the configuration says it.
#[derive(Debug)]
pub struct Opened<'a> {
    /// There is an initial RAM disk.
    pub initrd: bool,
    /// The kernel's command line.
    pub cmdline: &'a str,
    /// The disks, in the order of the spec.
    pub disks: &'a [OpenDisk],
    /// There is a seed.
    pub seed: bool,
}

/// Name of a NIC's queue in the VMM's store.
pub fn queue_fd(nic: usize, queue: usize) -> String {
    format!("nic{nic}-q{queue}")
}

/// The configuration, JSON.
pub fn machine_config(record: &VmRecord, opened: &Opened<'_>) -> String {
    let spec = &record.spec;
    let mut config = Map::new();
    let mut set = |key: &str, value: Value| config.insert(key.to_owned(), value);
    set("kernel", json!(format!("fd:{KERNEL_FD}")));
    if opened.initrd {
        set("initrd", json!(format!("fd:{INITRD_FD}")));
    }
    set("cmdline", json!(opened.cmdline));
    let topology = spec.cpus.topology;
    let topology = topology.map(|t| json!({"sockets": t.sockets, "cores": t.cores, "threads": t.threads}));
    set("cpus", json!({"count": spec.cpus.count, "topology": topology}));
    let huge_pages = match spec.memory.huge_pages {
        HugePages::None => "none",
        HugePages::Size2M => "2M",
        HugePages::Size1G => "1G",
    };
    let memory = &spec.memory;
    set("memory", json!({"size_bytes": memory.size_bytes, "hugepages": huge_pages, "prefault": memory.prefault}));
    let mut disks: Vec<Value> =
        spec.disks.iter().zip(opened.disks).map(|(disk, open)| self::disk(disk, open)).collect();
    if opened.seed {
        disks.push(json!({"path": format!("fd:{SEED}"), "id": SEED, "readonly": true, "format": "raw"}));
    }
    set("disks", disks.into());
    set("nets", spec.nics.iter().enumerate().map(|(index, nic)| self::nic(index, nic)).collect());
    if let Some(cid) = record.cid() {
        set("vsock", json!({"cid": cid, "socket": format!("fd:{}", super::vsock::LISTENER_FD)}));
    }
    set("rng", json!(spec.rng));
    if spec.balloon {
        set("balloon", json!({}));
    }
    set("serial", json!(format!("fd:{SERIAL_FD}")));
    set("console", json!("off"));
    set("api_socket", json!(format!("fd:{}", super::launch::CONTROL_FD)));
    // A guest that resets itself is started again by its VMM: that is no end.
    set("reboot", json!(true));
    Value::Object(config).to_string()
}

fn disk(disk: &DiskSpec, open: &OpenDisk) -> Value {
    let Limit { operations, bytes } = disk.limit;
    json!({
        "path": open.path,
        "id": disk.id.as_str(),
        "readonly": open.readonly,
        "format": open.format,
        "direct": disk.direct,
        "queues": disk.queues,
        "iops": operations,
        "bps": bytes,
        "serial": disk.id.as_str(),
    })
}

fn nic(index: usize, nic: &NicSpec) -> Value {
    let queues: Vec<String> = (0..nic.queues as usize).map(|queue| queue_fd(index, queue)).collect();
    json!({
        "tap": format!("fd:{}", queues.join("+")),
        "id": nic.id.as_str(),
        "mac": nic.mac.map(|mac| mac.to_string()),
        "queues": nic.queues,
    })
}
