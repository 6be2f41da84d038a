//! The wire configuration: what a JSON file, the command line or the node daemon says, before anybody checked it.
//!
//! Runs on the main thread. It must not judge values: a number out of bounds is refused by `check.rs`, with a better
//! sentence than a decoder has. Unknown fields are refused here, because a misspelt limit is a limit that is not there.

use serde::{Deserialize, Serialize};

use super::error::ConfigError;

/// One machine. Every field has a default but the kernel, so `{"kernel": "/boot/vmlinux"}` is a whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MachineConfig {
    /// Kernel image: an ELF `vmlinux` or a `bzImage`; a path or `fd:NAME`.
    pub kernel: Option<String>,
    /// UEFI firmware image. Read so that the refusal can say why; see `check.rs`.
    pub firmware: Option<String>,
    /// Initial RAM disk; a path or `fd:NAME`.
    pub initrd: Option<String>,
    /// Kernel command line.
    pub cmdline: String,
    /// Virtual CPUs.
    pub cpus: CpuConfig,
    /// Guest memory.
    pub memory: MemoryConfig,
    /// Disks, in PCI order.
    pub disks: Vec<DiskConfig>,
    /// NICs, in PCI order, after the disks.
    pub nets: Vec<NetConfig>,
    /// The vsock device.
    pub vsock: Option<VsockConfig>,
    /// Whether there is an entropy device.
    pub rng: bool,
    /// The memory balloon.
    pub balloon: Option<BalloonConfig>,
    /// Where the virtio console goes: as [`MachineConfig::serial`].
    pub console: String,
    /// Where the serial port goes: `stdio`, `off`, `file=PATH`, `socket=PATH` or `fd:NAME`.
    pub serial: String,
    /// Control socket: a path or `fd:NAME`.
    pub api_socket: Option<String>,
    /// Whether a guest's reset starts it again instead of ending the process.
    pub reboot: bool,
    /// Whether the process gives up its rights before the guest runs.
    pub sandbox: bool,
    /// How much goes to stderr.
    pub log_level: LogLevel,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            kernel: None,
            firmware: None,
            initrd: None,
            cmdline: String::new(),
            cpus: CpuConfig::default(),
            memory: MemoryConfig::default(),
            disks: Vec::new(),
            nets: Vec::new(),
            vsock: None,
            rng: false,
            balloon: None,
            console: "off".to_owned(),
            serial: "stdio".to_owned(),
            api_socket: None,
            reboot: false,
            sandbox: true,
            log_level: LogLevel::Info,
        }
    }
}

impl MachineConfig {
    /// Decodes a JSON document. The error names line and column.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        serde_json::from_slice(bytes).map_err(|error| ConfigError::new("--config", "", error))
    }

    /// The document that [`MachineConfig::from_json`] reads back, indented, with a final newline.
    pub fn to_json(&self) -> String {
        // The type holds only strings, numbers, booleans and lists of them: encoding it cannot fail.
        serde_json::to_string_pretty(self).map(|text| text + "\n").unwrap_or_default()
    }
}

/// Virtual CPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CpuConfig {
    /// How many.
    pub count: u32,
    /// How they are arranged; one socket of single-threaded cores when absent.
    pub topology: Option<TopologyConfig>,
}

impl Default for CpuConfig {
    fn default() -> Self {
        Self { count: 1, topology: None }
    }
}

/// Sockets, cores a socket, threads a core; the product is the number of vCPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopologyConfig {
    /// Sockets.
    #[serde(default = "one")]
    pub sockets: u32,
    /// Cores in a socket.
    #[serde(default = "one")]
    pub cores: u32,
    /// Threads in a core.
    #[serde(default = "one")]
    pub threads: u32,
}

/// Guest memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemoryConfig {
    /// Size in bytes.
    pub size_bytes: u64,
    /// Page size of the backing.
    pub hugepages: HugePages,
    /// Whether all of it is touched before the guest runs.
    pub prefault: bool,
    /// Whether other processes may map it (vhost-user back ends, migration).
    pub shared: bool,
    /// NUMA nodes; one node with everything when empty.
    pub numa: Vec<NumaConfig>,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self { size_bytes: 512 << 20, hugepages: HugePages::None, prefault: false, shared: false, numa: Vec::new() }
    }
}

/// Page size behind guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// Ordinary pages; the kernel may still use transparent huge ones.
    #[serde(rename = "none")]
    None,
    /// 2 MiB pages from the host's pool.
    #[serde(rename = "2M")]
    Size2M,
    /// 1 GiB pages from the host's pool.
    #[serde(rename = "1G")]
    Size1G,
}

impl HugePages {
    /// Size of a page in bytes.
    pub fn page_bytes(self) -> u64 {
        match self {
            Self::None => 4 << 10,
            Self::Size2M => 2 << 20,
            Self::Size1G => 1 << 30,
        }
    }
}

/// One NUMA node of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NumaConfig {
    /// Memory of the node, in bytes.
    pub size_bytes: u64,
    /// vCPUs of the node: `3` or `0-3`.
    pub cpus: String,
    /// Distance to every node, in node order; 10 to itself, 20 to the others when empty.
    #[serde(default)]
    pub distances: Vec<u8>,
}

/// One virtio-blk disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskConfig {
    /// Image or block device: a path or `fd:NAME`. Of a qcow2 image that is passed, the images below it are passed as well and
    /// named in order, joined by `+` (`fd:root+base`).
    pub path: String,
    /// Name for the control socket; `diskN` when absent.
    #[serde(default)]
    pub id: Option<String>,
    /// Whether writes are refused.
    #[serde(default)]
    pub readonly: bool,
    /// Image format. It is never guessed: a guest could write a header into a raw disk.
    #[serde(default)]
    pub format: DiskFormat,
    /// Whether the host's page cache is bypassed.
    #[serde(default)]
    pub direct: bool,
    /// Request queues.
    #[serde(default = "one")]
    pub queues: u32,
    /// Limit in operations a second.
    #[serde(default)]
    pub iops: Option<u64>,
    /// Limit in bytes a second.
    #[serde(default)]
    pub bps: Option<u64>,
    /// Serial number that the guest sees; the id when absent.
    #[serde(default)]
    pub serial: Option<String>,
}

/// Format of a disk image.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskFormat {
    /// The bytes of the disk.
    #[default]
    Raw,
    /// QEMU's copy-on-write format, version 2 or 3.
    Qcow2,
}

/// One virtio-net NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetConfig {
    /// Tap interface: its name, or `fd:NAME`, with one name a queue joined by `+` (`fd:net0-q0+net0-q1`).
    pub tap: String,
    /// Name for the control socket; `netN` when absent.
    #[serde(default)]
    pub id: Option<String>,
    /// Address of the NIC; a random, locally administered one when absent.
    #[serde(default)]
    pub mac: Option<String>,
    /// Queue pairs.
    #[serde(default = "one")]
    pub queues: u32,
    /// Whether the host's kernel moves the packets.
    #[serde(default)]
    pub vhost: VhostMode,
}

/// Use of the host's vhost-net.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VhostMode {
    /// Used when the host has it.
    #[default]
    Auto,
    /// Demanded: no guest without it.
    On,
    /// Never.
    Off,
}

/// The vsock device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VsockConfig {
    /// Context id of the guest.
    pub cid: u64,
    /// Unix socket of the host side: a path or `fd:NAME`.
    pub socket: String,
}

/// The memory balloon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BalloonConfig {
    /// Bytes taken from the guest at the start.
    pub size_bytes: u64,
    /// Whether the guest gets memory back instead of killing a process.
    pub deflate_on_oom: bool,
    /// Whether the guest reports free pages, which the host takes back.
    pub free_page_reporting: bool,
}

impl Default for BalloonConfig {
    fn default() -> Self {
        Self { size_bytes: 0, deflate_on_oom: true, free_page_reporting: true }
    }
}

/// How much goes to the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing.
    Off,
    /// What stops the guest.
    Error,
    /// What goes wrong without stopping it.
    Warn,
    /// Milestones.
    Info,
    /// Decisions.
    Debug,
    /// Everything.
    Trace,
}

impl From<LogLevel> for log::LevelFilter {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Off => Self::Off,
            LogLevel::Error => Self::Error,
            LogLevel::Warn => Self::Warn,
            LogLevel::Info => Self::Info,
            LogLevel::Debug => Self::Debug,
            LogLevel::Trace => Self::Trace,
        }
    }
}

fn one() -> u32 {
    1
}
