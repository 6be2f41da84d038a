//! The node itself: what it is made of and how it stands, read from the kernel. Any task; changes nothing.

#![forbid(unsafe_code)]

mod capacity;
mod hardware;
mod kvm;
pub mod procfs;
mod roots;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use crate::model::{Failure, Id, Time};
use crate::store::Store;
use crate::telemetry::{Report, Timeline};

pub use capacity::{Capacity, HugePool, NumaNode};
pub(crate) use hardware::is_disk;
pub use hardware::{BlockDevice, Hardware, NetworkInterface, PciDevice};
pub use kvm::Kvm;
pub use roots::Roots;

/// Key of the node's id in the inventory.
const ID_KEY: &str = "node_id";

/// Facts of this node; cheap to clone.
#[derive(Clone)]
pub struct Host {
    shared: Arc<Shared>,
}

struct Shared {
    roots: Roots,
    id: Id,
    start_time: Time,
    start: Timeline,
    kvm: RwLock<Kvm>,
    certificate: RwLock<String>,
}

/// What does not change while the machine is up, but for its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of this node, made at the first start.
    pub id: Id,
    /// As the kernel says.
    pub hostname: String,
    /// Version of the kernel.
    pub kernel: String,
    /// When the machine was started.
    pub boot_time: Option<Time>,
    /// When the daemon was started.
    pub start_time: Time,
}

impl Host {
    /// Finds out who this node is; at the first start it is given an id. `start` is the daemon's own start.
    ///
    /// # Errors
    /// What the store says.
    pub async fn new(store: &Store, roots: Roots, start: Timeline) -> Result<Self, Failure> {
        let id = store
            .write(|tx| {
                if let Some(id) = tx.meta(ID_KEY)? {
                    return Id::try_from(id).map_err(|error| Failure::internal("The node's id is damaged", error));
                }
                let id = Id::new();
                tx.set_meta(ID_KEY, id.as_str())?;
                Ok(id)
            })
            .await?;
        let shared = Shared {
            roots,
            id,
            start_time: Time::now(),
            start,
            kvm: RwLock::new(Kvm::unknown()),
            certificate: RwLock::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Who this node is.
    pub fn identity(&self) -> Identity {
        let roots = &self.shared.roots;
        let boot = roots.read_proc("stat").and_then(|text| procfs::field(&text, "btime").and_then(|v| v.parse().ok()));
        let seconds = |seconds: i64| Time::from_micros(seconds.saturating_mul(1_000_000));
        Identity {
            id: self.shared.id.clone(),
            hostname: roots.line_proc("sys/kernel/hostname"),
            kernel: roots.line_proc("sys/kernel/osrelease"),
            boot_time: boot.map(seconds),
            start_time: self.shared.start_time,
        }
    }

    /// What there is for VMs.
    pub fn capacity(&self) -> Capacity {
        capacity::read(&self.shared.roots)
    }

    /// What it is made of. Reads some hundred small files: call it on a blocking thread.
    pub fn hardware(&self) -> Hardware {
        hardware::read(&self.shared.roots)
    }

    /// Where facts are read.
    pub fn roots(&self) -> &Roots {
        &self.shared.roots
    }

    /// What KVM can do here.
    pub fn kvm(&self) -> Kvm {
        self.shared.kvm.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the VMM what KVM can do here, in the background: it runs a guest of its own for that.
    pub fn examine_kvm(&self, vmm: PathBuf) {
        let host = self.clone();
        tokio::spawn(async move {
            let found = kvm::examine(&vmm).await;
            tracing::info!("KVM: {}", found.summary);
            *host.shared.kvm.write().unwrap_or_else(PoisonError::into_inner) = found;
        });
    }

    /// SHA-256 of the TLS certificate in lower-case hexadecimal; empty without TLS.
    pub fn certificate(&self) -> String {
        self.shared.certificate.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says which TLS certificate is in use.
    pub fn set_certificate(&self, sha256: String) {
        *self.shared.certificate.write().unwrap_or_else(PoisonError::into_inner) = sha256;
    }

    /// When each step of the daemon's start happened.
    pub fn boot_report(&self) -> Report {
        self.shared.start.report()
    }
}
