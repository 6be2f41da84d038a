//! What a machine is made of: the wire configuration and the validated plan.
//!
//! ```text
//! JSON file ─┐
//!            ├─► MachineConfig (wire) ──check──► Plan ──► machine/ opens and builds it
//! options ───┘
//! ```
//!
//! Arrows go one way: a [`Plan`] never turns back into a [`MachineConfig`], and nothing here turns into a live object.
//! Runs on the main thread, before anything exists. It is pure: it must not open a file, ask the host or read a clock.

#![forbid(unsafe_code)]

mod check;
mod claims;
mod error;
mod numa;
mod option;
mod parse;
mod plan;
#[cfg(test)]
mod tests;
mod wire;

pub use error::ConfigError;
pub use option::{balloon, cpus, disk, fd_grant, memory, net, numa, vsock, word};
pub use parse::{
    Cmdline, CpuRange, DeviceId, DiskSerial, Endpoint, FdName, GuestCid, MacAddress, ParseError, QueueCount, Source,
    TapName, size,
};
pub use plan::{
    BalloonPlan, BootPlan, CpuPlan, DiskPlan, FdGrant, MAX_CPUS, MAX_PCI_DEVICES, MemoryPlan, NetPlan, NumaPlan, Plan,
    TapSource, Topology, VsockPlan,
};
pub use wire::{
    BalloonConfig, CpuConfig, DiskConfig, DiskFormat, HugePages, LogLevel, MachineConfig, MemoryConfig, NetConfig,
    NumaConfig, TopologyConfig, VhostMode, VsockConfig,
};

/// From the bytes of a JSON configuration to a validated plan: the whole path that untrusted bytes can take.
pub fn plan_from_json(bytes: &[u8]) -> Result<Plan, ConfigError> {
    Plan::try_from(&MachineConfig::from_json(bytes)?)
}
