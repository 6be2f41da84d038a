//! The steps of a launch, and what to do when one fails. Data.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

/// One step on the way to a running VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub enum Step {
    Plan,
    Directory,
    Program,
    Kvm,
    Control,
    Config,
    Cgroup,
    Stage,
    EmptyRoot,
    Order,
    Clone,
    Limits,
    Memory,
    IdMaps,
    Session,
    CgroupNamespace,
    LastNamespaces,
    HostName,
    Keyring,
    Signals,
    Ids,
    Privileges,
    Descriptors,
    Execute,
    Record,
}

/// Step, what was tried, what to do when it fails.
const STEPS: [(Step, &str, &str); 25] = [
    (Step::Plan, "check the launch plan", "this is a fault of the node daemon; report it"),
    (Step::Directory, "make the VM's run directory", "check that the run directory exists and is the daemon's own"),
    (Step::Program, "open the VMM program", "check the setting `vmm` and that the file may be read and executed"),
    (Step::Kvm, "open /dev/kvm", "switch on virtualisation in the firmware, and load kvm-intel or kvm-amd"),
    (
        Step::Control,
        "listen at the VM's control socket",
        "check the run directory; its path may have 90 characters at most",
    ),
    (Step::Config, "write the VMM's configuration into memory", "check that the node has memory left"),
    (
        Step::Cgroup,
        "make the VM's control group",
        "check the cgroup v2 hierarchy and the VM's CPU, memory and I/O limits",
    ),
    (
        Step::Stage,
        "start the launcher stage",
        "check that the daemon's own program may be executed, and the limit on processes",
    ),
    (
        Step::EmptyRoot,
        "make an empty root directory",
        "run the daemon as root in a mount namespace whose root is not the initial ramfs",
    ),
    (
        Step::Order,
        "tell the launcher stage what to start",
        "the stage ended; try again, and look into the daemon's log",
    ),
    (
        Step::Clone,
        "make a process in namespaces of its own",
        "check the limits in /proc/sys/user, kernel.pid_max and that user namespaces are allowed",
    ),
    (
        Step::Limits,
        "set the process's resource limits",
        "the daemon's own hard limits are lower; raise them or grant CAP_SYS_RESOURCE",
    ),
    (Step::Memory, "set the process's out-of-memory score", "the daemon's own score is protected; run it as root"),
    (Step::IdMaps, "map the VM's user and group", "run the daemon as root, with CAP_SETUID and CAP_SETGID"),
    (Step::Session, "make a session", "this should not fail; report it"),
    (Step::CgroupNamespace, "hide the other control groups", "check /proc/sys/user/max_cgroup_namespaces"),
    (
        Step::LastNamespaces,
        "forbid to make further namespaces",
        "check that /proc is mounted read-write, with /proc/sys/user",
    ),
    (Step::HostName, "hide the node's name", "this should not fail; report it"),
    (Step::Keyring, "make a keyring of its own", "check /proc/sys/kernel/keys/maxkeys"),
    (Step::Signals, "put all signals back to their defaults", "this should not fail; report it"),
    (Step::Ids, "become the VM's own user", "this should not fail; report it"),
    (Step::Privileges, "give up all capabilities", "this should not fail; report it"),
    (
        Step::Descriptors,
        "put the VM's files in their places",
        "the limit on open files is too low for this many disks and queues",
    ),
    (
        Step::Execute,
        "execute the VMM program",
        "it must be a static program that everybody may execute, on a file system without noexec",
    ),
    (Step::Record, "write down what was started", "check that the file system of the run directory has room"),
];

impl Step {
    fn row(self) -> (&'static str, &'static str) {
        STEPS.iter().find(|row| row.0 == self).map_or(("start the VMM", "report this"), |row| (row.1, row.2))
    }

    /// What was tried, in words.
    pub fn doing(self) -> &'static str {
        self.row().0
    }

    /// What somebody can do about it.
    pub fn advice(self) -> &'static str {
        self.row().1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_has_one_row() {
        for (index, (step, ..)) in STEPS.iter().enumerate() {
            assert_eq!(STEPS.iter().position(|row| row.0 == *step), Some(index), "{step:?} is there twice");
            assert_eq!(*step as usize, index, "{step:?} is out of order");
        }
        assert_eq!(Step::Record as usize + 1, STEPS.len());
    }
}
