//! What a VM may use, as lines for the files of its control group. Pure.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// The limits of one VM. `None` and 0 mean that there is no limit, or the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CgroupLimits {
    /// Share of CPU time among those that want it, 1 to 10,000.
    pub cpu_weight: Option<u32>,
    /// Upper bound in hundredths of a CPU.
    pub cpu_quota_percent: Option<u32>,
    /// Host CPUs that it may run on, such as `0-3,8`.
    pub cpus: Option<String>,
    /// Everything that the process may use, in bytes: guest memory and the VMM's own.
    pub memory_max_bytes: Option<u64>,
    /// Threads (and processes, of which there is one).
    pub pids_max: Option<u32>,
    /// Limits of block devices.
    pub io: Vec<BlockLimit>,
}

/// What may be read from and written to one block device.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockLimit {
    /// Its number: major and minor.
    pub device: (u32, u32),
    /// Bytes a second.
    pub bytes_per_second: Option<u64>,
    /// Operations a second.
    pub operations_per_second: Option<u64>,
}

/// One line for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The controller that brings the file.
    pub controller: &'static str,
    /// The file.
    pub file: &'static str,
    /// What is written to it.
    pub value: String,
    /// Older kernels lack the file, and the VM runs all the same.
    pub optional: bool,
}

/// Period of a CPU quota in microseconds: the kernel's default.
const PERIOD: u64 = 100_000;

impl CgroupLimits {
    /// The lines, in the order in which they are written.
    pub fn settings(&self) -> Vec<Setting> {
        let mut settings = Vec::new();
        let mut set = |controller, file, value: String, optional| {
            settings.push(Setting { controller, file, value, optional });
        };
        if let Some(weight) = self.cpu_weight.filter(|weight| *weight > 0) {
            set("cpu", "cpu.weight", weight.clamp(1, 10_000).to_string(), false);
        }
        if let Some(percent) = self.cpu_quota_percent.filter(|percent| *percent > 0) {
            // The kernel refuses less than a millisecond a period.
            let quota = (u64::from(percent) * PERIOD / 100).max(1_000);
            set("cpu", "cpu.max", format!("{quota} {PERIOD}"), false);
        }
        if let Some(cpus) = self.cpus.as_deref().filter(|cpus| !cpus.is_empty()) {
            set("cpuset", "cpuset.cpus", cpus.to_owned(), false);
        }
        if let Some(bytes) = self.memory_max_bytes.filter(|bytes| *bytes > 0) {
            set("memory", "memory.max", bytes.to_string(), false);
            // A guest is slowed by the host's swap at no warning; killed halves of a VMM are worse.
            set("memory", "memory.oom.group", "1".to_owned(), true);
        }
        if let Some(pids) = self.pids_max.filter(|pids| *pids > 0) {
            set("pids", "pids.max", pids.to_string(), false);
        }
        for limit in &self.io {
            if let Some(value) = limit.line() {
                set("io", "io.max", value, false);
            }
        }
        settings
    }
}

impl BlockLimit {
    fn line(&self) -> Option<String> {
        let mut parts = Vec::new();
        if let Some(bytes) = self.bytes_per_second.filter(|bytes| *bytes > 0) {
            parts.push(format!("rbps={bytes} wbps={bytes}"));
        }
        if let Some(operations) = self.operations_per_second.filter(|operations| *operations > 0) {
            parts.push(format!("riops={operations} wiops={operations}"));
        }
        let (major, minor) = self.device;
        (!parts.is_empty()).then(|| format!("{major}:{minor} {}", parts.join(" ")))
    }
}
