//! What a VM's start needs of other rooms. They do not know VMs; this is how the VMs' room asks them, and where a test puts
//! something slow or broken in between.

use std::net::IpAddr;
use std::os::fd::OwnedFd;

use crate::model::vm::{DiskSpec, NicSpec, VmRecord};
use crate::model::{Failure, Id, Mac};

/// A disk, open.
#[derive(Debug)]
pub struct OpenDisk {
    /// Each file with its name in the VMM's store.
    pub fds: Vec<(String, OwnedFd)>,
    /// The configuration's `path`.
    pub path: String,
    /// The configuration's `format`: raw or qcow2.
    pub format: &'static str,
    /// The guest may not write.
    pub readonly: bool,
}

/// What is booted, open.
#[derive(Debug)]
pub struct OpenBoot {
    /// The kernel.
    pub kernel: OwnedFd,
    /// The initial RAM disk.
    pub initrd: Option<OwnedFd>,
    /// The command line.
    pub cmdline: String,
}

/// A NIC, plugged in.
#[derive(Debug)]
pub struct OpenNic {
    /// The tap's name on the host.
    pub tap: String,
    /// Its queues.
    pub fds: Vec<OwnedFd>,
}

/// Other rooms, as a start needs them. Each call has a deadline of its room.
#[tonic::async_trait]
pub trait Resources: Send + Sync + 'static {
    /// Opens a disk.
    async fn open_disk(&self, disk: &DiskSpec) -> Result<OpenDisk, Failure>;
    /// Opens what is booted: what the spec says, or else what the first disk's image says.
    async fn open_boot(&self, record: &VmRecord) -> Result<OpenBoot, Failure>;
    /// Makes the seed for cloud-init, when the spec has one.
    async fn build_seed(&self, record: &VmRecord) -> Result<Option<OwnedFd>, Failure>;
    /// Plugs a NIC in.
    async fn plug(&self, record: &VmRecord, nic: &NicSpec) -> Result<OpenNic, Failure>;
    /// Puts the filters of a NIC in order whose tap lives; returns the tap's name.
    async fn replug(&self, record: &VmRecord, nic: &NicSpec) -> Result<String, Failure>;
    /// Takes all NICs of a VM out.
    async fn unplug(&self, vm: &Id) -> Result<(), Failure>;
    /// Addresses that a NIC has.
    async fn addresses(&self, mac: Mac) -> Vec<IpAddr>;
    /// Deletes a volume that was made with a VM. One that is not there, or that something else uses by now, is no error.
    async fn delete_volume(&self, volume: &Id) -> Result<(), Failure>;
}
