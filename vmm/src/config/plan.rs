//! The validated plan of a machine: what `machine/` opens and builds.
//!
//! Runs on the main thread. A `Plan` exists only when every rule of `check.rs` holds, so its readers check nothing again.
//! It must not hold a descriptor or a mapping: those belong to the live objects.

use super::parse::{
    Cmdline, CpuRange, DeviceId, DiskSerial, Endpoint, FdName, GuestCid, MacAddress, QueueCount, Source, TapName,
};
use super::wire::{DiskFormat, HugePages, VhostMode};

/// Most vCPUs of one machine.
pub const MAX_CPUS: u32 = 128;

/// Devices that one PCI bus has room for, besides the host bridge in slot 0.
pub const MAX_PCI_DEVICES: usize = 31;

/// One machine, ready to be opened and built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the guest starts with.
    pub boot: BootPlan,
    /// Virtual CPUs.
    pub cpus: CpuPlan,
    /// Guest memory.
    pub memory: MemoryPlan,
    /// Disks, in PCI order; ids are unique among all devices.
    pub disks: Vec<DiskPlan>,
    /// NICs, in PCI order.
    pub nets: Vec<NetPlan>,
    /// The vsock device.
    pub vsock: Option<VsockPlan>,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// The memory balloon.
    pub balloon: Option<BalloonPlan>,
    /// The virtio console; absent when [`Endpoint::Off`].
    pub console: Endpoint,
    /// The serial port; with [`Endpoint::Off`] its output goes nowhere.
    pub serial: Endpoint,
    /// Control socket.
    pub api_socket: Option<Source>,
    /// Whether a guest's reset starts it again.
    pub reboot: bool,
    /// Whether the process gives up its rights before the guest runs.
    pub sandbox: bool,
    /// How much goes to stderr.
    pub log_level: log::LevelFilter,
}

/// What the guest starts with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootPlan {
    /// Kernel image.
    pub kernel: Source,
    /// Initial RAM disk.
    pub initrd: Option<Source>,
    /// Kernel command line.
    pub cmdline: Cmdline,
}

/// Virtual CPUs and their arrangement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuPlan {
    /// How many: 1 to [`MAX_CPUS`].
    pub count: u8,
    /// How they are arranged.
    pub topology: Topology,
}

/// The product of the three is the number of vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Topology {
    /// Sockets.
    pub sockets: u8,
    /// Cores in a socket.
    pub cores: u8,
    /// Threads in a core.
    pub threads: u8,
}

/// Guest memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// Bytes; a multiple of the page size.
    pub size_bytes: u64,
    /// Page size of the backing.
    pub hugepages: HugePages,
    /// Whether all of it is touched before the guest runs.
    pub prefault: bool,
    /// Whether other processes may map it.
    pub shared: bool,
    /// NUMA nodes in order. Empty, or their memory adds up to all memory and their vCPUs to all vCPUs.
    pub numa: Vec<NumaPlan>,
}

/// One NUMA node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NumaPlan {
    /// Bytes; a multiple of the page size.
    pub size_bytes: u64,
    /// vCPUs of the node.
    pub cpus: CpuRange,
    /// Distance to every node, in node order (ACPI 6.5 section 5.2.17).
    pub distances: Vec<u8>,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlan {
    /// Name on the control socket.
    pub id: DeviceId,
    /// Image or block device.
    pub source: Source,
    /// Descriptors of the images below it, in order; empty when it comes by path, and its header names them.
    pub below: Vec<FdName>,
    /// Format of the image.
    pub format: DiskFormat,
    /// Whether writes are refused.
    pub readonly: bool,
    /// Whether the host's page cache is bypassed.
    pub direct: bool,
    /// Request queues.
    pub queues: QueueCount,
    /// Limit in operations a second.
    pub iops: Option<u64>,
    /// Limit in bytes a second.
    pub bps: Option<u64>,
    /// Serial number; the first 20 bytes of the id unless one was given.
    pub serial: DiskSerial,
}

/// One NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetPlan {
    /// Name on the control socket.
    pub id: DeviceId,
    /// The tap.
    pub tap: TapSource,
    /// Address; the builder draws a random one when absent.
    pub mac: Option<MacAddress>,
    /// Queue pairs.
    pub queues: QueueCount,
    /// Use of vhost-net.
    pub vhost: VhostMode,
}

/// Where the queues of a tap come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TapSource {
    /// An interface of the host, attached to once a queue.
    Name(TapName),
    /// Descriptors that were passed, one a queue.
    Fds(Vec<FdName>),
}

/// The vsock device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VsockPlan {
    /// Context id of the guest.
    pub cid: GuestCid,
    /// Unix socket of the host side.
    pub socket: Source,
}

/// The memory balloon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BalloonPlan {
    /// Bytes taken at the start: below the size of memory and a multiple of 4 KiB.
    pub size_bytes: u64,
    /// Whether the guest gets memory back instead of killing a process.
    pub deflate_on_oom: bool,
    /// Whether the guest reports free pages.
    pub free_page_reporting: bool,
}

/// A descriptor that the process inherited, and its name in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdGrant {
    /// Name, used as `fd:NAME`.
    pub name: FdName,
    /// Number in this process; above 2.
    pub number: i32,
}
