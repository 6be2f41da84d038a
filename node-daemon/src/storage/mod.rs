//! Pools, volumes, images and seeds. The only room that touches what pools hold. See `README.md`.
//!
//! Async runtime; everything that may block goes through a pool's gate (`pool/gate.rs`). Must not know VMs: who uses what is asked
//! through [`DiskUsers`].

#![forbid(unsafe_code)]

mod content;
mod copy;
mod error;
mod fetch;
mod images;
mod intake;
mod lock;
mod meter;
mod open;
mod place;
mod pool;
mod pools;
mod qcow2;
pub mod records;
mod recover;
mod requests;
pub mod seed;
#[cfg(test)]
mod tests;
mod volumes;

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use error::{StorageError, StorageFault};
pub use fetch::check_url;
pub use meter::Meter;
pub use open::DiskFds;
pub use pool::{Health, LivePool, Space, Usage};
pub use pools::{forget_pool, reserve_pool};
pub use records::{DiskUsers, Layer, NoUsers, Uses};
pub use requests::{
    NewClone, NewImage, NewVolume, Origin, Recipe, reserve_clone, reserve_deletion, reserve_image,
    reserve_image_deletion, reserve_resize, reserve_volume,
};

use crate::events::Events;
use crate::model::Failure;
use crate::store::Store;
use pool::Pools;

/// What the room needs of others.
pub struct StorageParts {
    /// The inventory.
    pub store: Store,
    /// Where it tells what happens.
    pub events: Events,
    /// What has to survive a reboot: the default pool is in it.
    pub state_dir: PathBuf,
    /// What lives as long as the machine is up: mount points are in it.
    pub run_dir: PathBuf,
    /// Who uses volumes and images.
    pub users: Arc<dyn DiskUsers>,
    /// Ends supervision.
    pub shutdown: CancellationToken,
}

/// The room; cheap to clone.
#[derive(Clone)]
pub struct Storage(Arc<Inner>);

struct Inner {
    parts: StorageParts,
    pools: Pools,
}

impl Storage {
    /// Takes the pools into use, and brings to an end what the last daemon left half-made there. Returns when each directory was
    /// looked at; servers may take longer.
    ///
    /// # Errors
    /// What the store says. A pool that cannot be used is no error.
    pub async fn start(parts: StorageParts) -> Result<Self, Failure> {
        let storage = Self(Arc::new(Inner { parts, pools: Pools::default() }));
        storage.start_pools().await?;
        Ok(storage)
    }

    /// The inventory.
    pub(crate) fn store(&self) -> &Store {
        &self.0.parts.store
    }

    /// Who uses volumes and images.
    pub fn users(&self) -> Arc<dyn DiskUsers> {
        self.0.parts.users.clone()
    }

    fn events(&self) -> &Events {
        &self.0.parts.events
    }

    fn pools(&self) -> &Pools {
        &self.0.pools
    }

    fn shutdown(&self) -> &CancellationToken {
        &self.0.parts.shutdown
    }

    /// Where the daemon mounts pools.
    fn mounts(&self) -> PathBuf {
        self.0.parts.run_dir.join("pools")
    }
}
