//! Which NICs are plugged in, kept in the run directory: taps live as long as the machine is up, as that directory does. So
//! a daemon that comes back knows whose filters to write before it has met a single VM.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::error::NetworkError;
use super::naming;
use crate::model::{FirewallRule, Id, Mac, Name};

/// A NIC that shall be plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicPlan {
    /// Whose it is.
    pub vm: Id,
    /// The VM's name: what DNS calls it.
    pub vm_name: Name,
    /// The NIC's name in the VM.
    pub nic: String,
    /// The network's id.
    pub network: Id,
    /// Its link address.
    pub mac: Mac,
    /// Queue pairs, 1 to 8.
    pub queues: u16,
    /// Its fixed address.
    pub address: Option<Ipv4Addr>,
    /// What it sends is not checked.
    pub allow_spoofing: bool,
    /// What may pass.
    pub rules: Vec<FirewallRule>,
}

impl NicPlan {
    /// The name of its tap.
    pub fn tap(&self) -> String {
        naming::tap(&self.vm, &self.nic)
    }
}

/// The NICs by the names of their taps, as they are in the file.
#[derive(Debug, Default)]
pub struct PluggedNics {
    file: PathBuf,
    nics: BTreeMap<String, NicPlan>,
}

impl PluggedNics {
    /// Reads the file. One that cannot be read is as good as none: the NICs are told again when their VMs are adopted.
    pub fn read(run_dir: &Path) -> Self {
        let file = run_dir.join("plugged.json");
        let nics = match fs::read(&file) {
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::error!("{} is damaged, filters are written when VMs are adopted: {error}", file.display());
                BTreeMap::new()
            }),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::error!("cannot read {}: {error}", file.display());
                }
                BTreeMap::new()
            }
        };
        Self { file, nics }
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = (&String, &NicPlan)> {
        self.nics.iter()
    }

    /// Adds one, and returns what was there for the same tap.
    pub fn insert(&mut self, plan: NicPlan) -> Option<NicPlan> {
        self.nics.insert(plan.tap(), plan)
    }

    /// Removes one.
    pub fn remove(&mut self, tap: &str) -> Option<NicPlan> {
        self.nics.remove(tap)
    }

    /// Keeps only those that this is true of.
    pub fn retain(&mut self, keep: impl Fn(&str, &NicPlan) -> bool) {
        self.nics.retain(|tap, plan| keep(tap, plan));
    }

    /// Writes the file; whoever reads it sees the old one or the new one.
    pub fn save(&self) -> Result<(), NetworkError> {
        let failed = || NetworkError::io(format!("Cannot write {}", self.file.display()));
        let bytes = serde_json::to_vec(&self.nics).map_err(|error| failed()(error.into()))?;
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, bytes).and_then(|()| fs::rename(&fresh, &self.file)).map_err(failed())
    }
}
