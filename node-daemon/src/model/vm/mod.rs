//! What a VM shall be and what is known of it. Pure types; every value in a [`VmSpec`] was checked when it came in.
//!
//! A [`VmDraft`] is a checked wish whose volumes, images and networks are names or ids of the caller's, some of them still to
//! be made. A [`VmSpec`] has ids only. The draft becomes the spec when all names were found ([`VmSpec::resolve`]).

mod cpu_set;
mod record;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{FirewallRule, Id, Mac, Name};

pub use cpu_set::CpuSet;
pub use record::{Begun, ExitCause, VmExit, VmRecord};

/// What a VM shall be. `R` is how images and networks are named, `S` where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSpec<R = Id, S = DiskSource> {
    /// Its vCPUs.
    pub cpus: CpuSpec,
    /// Its memory.
    pub memory: MemorySpec,
    /// What is booted.
    pub boot: BootSpec<R>,
    /// Its disks, in the order in which the guest sees them.
    pub disks: Vec<DiskSpec<S>>,
    /// Its NICs, in the order in which the guest sees them.
    pub nics: Vec<NicSpec<R>>,
    /// The seed for cloud-init.
    pub cloud_init: Option<CloudInit>,
    /// What happens after an end that nobody asked for.
    pub restart: RestartPolicy,
    /// Whether and when it starts with the node.
    pub autostart: Autostart,
    /// It has an entropy device.
    pub rng: bool,
    /// It has a memory balloon.
    pub balloon: bool,
    /// It has a vsock.
    pub vsock: bool,
}

/// A checked wish with names of the caller's.
pub type VmDraft = VmSpec<String, DraftSource>;

/// vCPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CpuSpec {
    /// 1 to 128.
    pub count: u32,
    /// How they are arranged; one socket when absent. The product is `count`.
    pub topology: Option<Topology>,
    /// Share of CPU time, 1 to 10,000.
    pub weight: u32,
    /// Upper bound in hundredths of a CPU.
    pub quota_percent: Option<u32>,
    /// Host CPUs that they may run on; at least `count`.
    pub pinning: Option<CpuSet>,
}

/// Sockets, cores a socket, threads a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// Sockets.
    pub sockets: u32,
    /// Cores in a socket.
    pub cores: u32,
    /// Threads in a core.
    pub threads: u32,
}

/// Guest memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemorySpec {
    /// Size in bytes, a multiple of the page size.
    pub size_bytes: u64,
    /// What pages it is made of.
    pub huge_pages: HugePages,
    /// All of it is touched before the guest runs.
    pub prefault: bool,
}

/// Pages behind guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum HugePages {
    /// Ordinary ones.
    None,
    /// Of 2 MiB.
    Size2M,
    /// Of 1 GiB.
    Size1G,
}

impl HugePages {
    /// Size of a huge page in bytes; [`None`] for ordinary pages.
    pub const fn page_bytes(self) -> Option<u64> {
        match self {
            Self::None => None,
            Self::Size2M => Some(2 << 20),
            Self::Size1G => Some(1 << 30),
        }
    }
}

/// What is booted; what is absent is taken from the first disk's image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootSpec<R = Id> {
    /// Image of the kernel.
    pub kernel: Option<R>,
    /// Image of the initial RAM disk.
    pub initrd: Option<R>,
    /// Kernel command line.
    pub cmdline: Option<String>,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpec<S = DiskSource> {
    /// Its name in the VM, and its serial number in the guest; at most 20 characters.
    pub id: Name,
    /// Where its bytes are.
    pub source: S,
    /// The guest may not write.
    pub readonly: bool,
    /// The host's page cache is bypassed.
    pub direct: bool,
    /// 1 to 16.
    pub queues: u32,
    /// Upper bounds.
    pub limit: Limit,
}

/// Upper bounds of a disk or a NIC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// Operations or packets a second.
    pub operations: Option<u64>,
    /// Bytes a second.
    pub bytes: Option<u64>,
}

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskSource {
    /// In a volume.
    Volume(Id),
    /// In an image, read-only.
    Image(Id),
}

/// Where a disk's bytes are or shall be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DraftSource {
    /// In a volume, by name or id.
    Volume(String),
    /// In an image, by name or id.
    Image(String),
    /// In a volume that is to be made.
    New(NewVolume),
}

/// A volume to be made with a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Its name; [`None`] for one made of the VM's and the disk's.
    pub name: Option<Name>,
    /// The pool, by name or id; [`None`] for the default.
    pub pool: Option<String>,
    /// How it is kept; [`None`] for what suits.
    pub format: Option<VolumeFormat>,
    /// Its size in bytes; 0 for the image's.
    pub size_bytes: u64,
    /// The image to start from, by name or id.
    pub image: Option<String>,
    /// The image is copied.
    pub full_copy: bool,
}

/// How a new volume is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeFormat {
    /// The bytes of the disk.
    Raw,
    /// Copy-on-write.
    Qcow2,
}

/// A NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicSpec<R = Id> {
    /// Its name in the VM.
    pub id: Name,
    /// What it is plugged into.
    pub network: R,
    /// Its hardware address; [`None`] only in drafts, for one of ours.
    pub mac: Option<Mac>,
    /// 1 to 8 pairs.
    pub queues: u32,
    /// The address that DHCP gives.
    pub address: Option<Ipv4Addr>,
    /// Frames with other source addresses pass too.
    pub allow_spoofing: bool,
    /// What may pass; the first match wins.
    pub rules: Vec<FirewallRule>,
    /// Upper bounds.
    pub limit: Limit,
}

/// What cloud-init finds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CloudInit {
    /// Taken as it is.
    pub user_data: Option<String>,
    /// Taken as it is.
    pub meta_data: Option<String>,
    /// Taken as it is.
    pub network_config: Option<String>,
    /// For user-data that is made; the VM's name when absent.
    pub hostname: Option<String>,
    /// For user-data that is made; the distribution's own when absent.
    pub user: Option<String>,
    /// Public keys that may log in.
    pub ssh_keys: Vec<String>,
    /// A hash as of mkpasswd(1).
    pub password_hash: Option<String>,
}

/// What happens after an end that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    /// When it is started again.
    pub mode: RestartMode,
    /// Attempts within ten minutes.
    pub max_attempts: u32,
    /// The wait before the first attempt.
    pub backoff: Duration,
}

/// When a VM is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RestartMode {
    /// Never.
    Never,
    /// After a failure.
    OnFailure,
    /// After every end that nobody asked for.
    Always,
}

/// Whether and when a VM starts with the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Autostart {
    /// It does.
    pub enabled: bool,
    /// Smaller first.
    pub order: i32,
    /// Wait after it before the next order.
    pub delay: Duration,
}

/// What a draft's names are looked up with.
pub trait Resolve {
    /// Why a name could not be found.
    type Failure;
    /// The image of this name; `field` is to blame.
    fn image(&mut self, field: &str, name: &str) -> Result<Id, Self::Failure>;
    /// The network of this name.
    fn network(&mut self, field: &str, name: &str) -> Result<Id, Self::Failure>;
    /// Where a disk's bytes are.
    fn disk(&mut self, field: &str, disk: &DiskSpec<DraftSource>) -> Result<DiskSource, Self::Failure>;
    /// The hardware address of a NIC, given or new.
    fn mac(&mut self, field: &str, mac: Option<Mac>) -> Result<Mac, Self::Failure>;
}

impl VmSpec {
    /// The spec of a draft: every name becomes an id.
    ///
    /// # Errors
    /// The first name that is not found.
    pub fn resolve<L: Resolve>(draft: &VmDraft, look: &mut L) -> Result<Self, L::Failure> {
        let mut boot_image =
            |field: &str, name: &Option<String>| name.as_ref().map(|n| look.image(field, n)).transpose();
        let boot = BootSpec {
            kernel: boot_image("boot.kernel", &draft.boot.kernel)?,
            initrd: boot_image("boot.initrd", &draft.boot.initrd)?,
            cmdline: draft.boot.cmdline.clone(),
        };
        let mut disks = Vec::with_capacity(draft.disks.len());
        for (index, disk) in draft.disks.iter().enumerate() {
            let source = look.disk(&format!("disks[{index}]"), disk)?;
            let readonly = disk.readonly || matches!(source, DiskSource::Image(_));
            disks.push(DiskSpec {
                id: disk.id.clone(),
                source,
                readonly,
                direct: disk.direct,
                queues: disk.queues,
                limit: disk.limit,
            });
        }
        let mut nics = Vec::with_capacity(draft.nics.len());
        for (index, nic) in draft.nics.iter().enumerate() {
            nics.push(NicSpec {
                id: nic.id.clone(),
                network: look.network(&format!("nics[{index}].network"), &nic.network)?,
                mac: Some(look.mac(&format!("nics[{index}].mac"), nic.mac)?),
                queues: nic.queues,
                address: nic.address,
                allow_spoofing: nic.allow_spoofing,
                rules: nic.rules.clone(),
                limit: nic.limit,
            });
        }
        Ok(Self {
            cpus: draft.cpus.clone(),
            memory: draft.memory.clone(),
            boot,
            disks,
            nics,
            cloud_init: draft.cloud_init.clone(),
            restart: draft.restart.clone(),
            autostart: draft.autostart,
            rng: draft.rng,
            balloon: draft.balloon,
            vsock: draft.vsock,
        })
    }

    /// The volumes that it has.
    pub fn volumes(&self) -> impl Iterator<Item = &Id> {
        self.disks.iter().filter_map(|disk| match &disk.source {
            DiskSource::Volume(id) => Some(id),
            DiskSource::Image(_) => None,
        })
    }

    /// The images that it has as disks or boots from.
    pub fn images(&self) -> impl Iterator<Item = &Id> {
        let disks = self.disks.iter().filter_map(|disk| match &disk.source {
            DiskSource::Image(id) => Some(id),
            DiskSource::Volume(_) => None,
        });
        disks.chain(&self.boot.kernel).chain(&self.boot.initrd)
    }

    /// Whether a run of `self` is also a run of `other`: all that only a start can bring is equal. What the daemon itself looks
    /// at (restart, autostart), what a running VMM takes (limits) and what the host filters may differ.
    pub fn same_run(&self, other: &Self) -> bool {
        let run = |spec: &Self| {
            let mut spec = spec.clone();
            spec.restart = RestartPolicy { mode: RestartMode::Never, max_attempts: 0, backoff: Duration::ZERO };
            spec.autostart = Autostart { enabled: false, order: 0, delay: Duration::ZERO };
            spec.disks.iter_mut().for_each(|disk| disk.limit = Limit::default());
            for nic in &mut spec.nics {
                (nic.limit, nic.allow_spoofing, nic.address) = (Limit::default(), false, None);
                nic.rules.clear();
            }
            spec
        };
        run(self) == run(other)
    }
}
