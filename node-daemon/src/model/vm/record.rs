//! A VM as the inventory keeps it: what it shall be, what was begun, how it last ended. What changes from second to second
//! is not here: it is in memory, and found again in the kernel.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::VmSpec;
use crate::model::{Id, Name, ResourceKind, ResourceRef, Time};

/// A VM in the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmRecord {
    /// Its id.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// For people.
    pub description: String,
    /// For programs.
    pub labels: BTreeMap<String, String>,
    /// What it shall be.
    pub spec: VmSpec,
    /// Which user and group ids its VMM has: unique on this node while the VM exists.
    pub slot: u32,
    /// What was begun and may be half-done.
    pub begun: Begun,
    /// It shall be on.
    pub running: bool,
    /// Why nothing more is tried though it shall be on.
    pub failed: Option<String>,
    /// The volumes that were made with it.
    pub made_volumes: Vec<Id>,
    /// How the last run ended.
    pub last_exit: Option<VmExit>,
}

impl VmRecord {
    /// A reference to it.
    pub fn resource(&self) -> ResourceRef {
        ResourceRef::new(ResourceKind::Vm, &self.id, self.name.as_str())
    }

    /// Its context id on the vsock; [`None`] when it has none. 0 to 2 are reserved.
    pub fn cid(&self) -> Option<u32> {
        self.spec.vsock.then_some(self.slot.saturating_add(3))
    }
}

/// What was begun with a VM.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Begun {
    /// Nothing: it is whole.
    #[default]
    Nothing,
    /// Its creation: volumes may be missing.
    Creation,
    /// Its deletion: volumes may be missing.
    Deletion,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmExit {
    /// When it was noticed.
    pub time: Time,
    /// Why.
    pub cause: ExitCause,
    /// For people.
    pub message: String,
    /// Exit status of the VMM, when it ended by itself and the kernel told.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
}

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitCause {
    /// The guest switched itself off.
    GuestShutdown,
    /// The guest's kernel panicked.
    GuestPanic,
    /// Somebody asked for it.
    Stopped,
    /// KVM could not go on, or the VMM refused its configuration.
    VmmFailed,
    /// A signal ended the VMM.
    VmmKilled,
    /// It was gone when the daemon came back.
    Lost,
}

impl ExitCause {
    /// As events and logs write it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::GuestShutdown => "guest-shutdown",
            Self::GuestPanic => "guest-panic",
            Self::Stopped => "stopped",
            Self::VmmFailed => "vmm-failed",
            Self::VmmKilled => "vmm-killed",
            Self::Lost => "lost",
        }
    }
}
