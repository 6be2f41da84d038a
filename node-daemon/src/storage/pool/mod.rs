//! Pools as they are now: where they are mounted, whether they answer, what they have.
//!
//! Async runtime; what touches a pool's files goes through its [`Gate`]. One supervisor per pool (`supervise.rs`) keeps
//! this up to date. Must not know volumes and images, but for the names of their files.

mod gate;
mod marker;
mod nfs;
mod space;
pub(super) mod supervise;

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

pub use gate::Gate;
pub use marker::{Marker, this_node};
pub use nfs::unmount;
pub use space::{Space, has_reflink};

use super::place::Place;
use super::{StorageError, StorageFault};
use crate::model::{Id, Name, Pool, PoolSource, Volume};

/// For short questions to a pool's file system.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// For numbers that are only shown: callers rather get the ones from before.
const SHOW_PATIENCE: Duration = Duration::from_secs(1);
/// How old numbers may be that are shown.
const SHOW_AGE: Duration = Duration::from_secs(1);

/// Whether a pool can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Ready,
    /// It cannot, and this is why.
    Unavailable(String),
}

/// Bytes on disk by file name, and their sum.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// By the file's name on its shelf.
    pub files: HashMap<String, u64>,
    /// Of all files.
    pub total_bytes: u64,
}

impl Usage {
    /// What a volume's file takes.
    pub fn of_volume(&self, volume: &Volume) -> u64 {
        self.files.get(&Place::volume_name(&volume.id, volume.format)).copied().unwrap_or_default()
    }
}

/// A pool as it is now.
pub struct LivePool {
    id: Id,
    name: Name,
    source: PoolSource,
    place: Place,
    gate: Gate,
    state: Mutex<State>,
    forgotten: CancellationToken,
}

struct State {
    health: Health,
    space: Space,
    reflink: bool,
    /// The marker, locked: the pool is ours while this is open.
    held: Option<File>,
    /// What the last daemon left was brought to an end.
    recovered: bool,
    usage: (Option<Instant>, Arc<Usage>),
}

impl LivePool {
    /// The pool of this record; `mounts` is where the daemon mounts pools.
    pub fn new(record: &Pool, mounts: &Path) -> Self {
        let root = match &record.source {
            PoolSource::Directory { path } => PathBuf::from(path),
            PoolSource::Nfs { .. } => mounts.join(record.id.as_str()),
        };
        let state = State {
            health: Health::Unavailable("it was not looked at yet".into()),
            space: Space::default(),
            reflink: false,
            held: None,
            recovered: false,
            usage: (None, Arc::default()),
        };
        Self {
            id: record.id.clone(),
            name: record.name.clone(),
            source: record.source.clone(),
            place: Place::new(root),
            gate: Gate::new(record.name.as_str()),
            state: Mutex::new(state),
            forgotten: CancellationToken::new(),
        }
    }

    /// Its id.
    pub fn id(&self) -> &Id {
        &self.id
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// Where its files are.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The way to its files.
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Whether it can be used.
    pub fn health(&self) -> Health {
        self.state().health.clone()
    }

    /// Room in its file system, as last seen.
    pub fn space(&self) -> Space {
        self.state().space
    }

    /// Whether copies share blocks.
    pub fn reflink(&self) -> bool {
        self.state().reflink
    }

    /// An error unless it can be used.
    ///
    /// # Errors
    /// `Unavailable`, with the reason.
    pub fn ready(&self) -> Result<(), StorageError> {
        match self.health() {
            Health::Ready => Ok(()),
            Health::Unavailable(reason) => {
                let what = format!("Pool {} cannot be used now: {reason}; the daemon goes on trying", self.name);
                Err(StorageError::new(StorageFault::Unavailable, what))
            }
        }
    }

    /// What its files take; numbers from before when it does not answer soon.
    pub async fn usage(&self) -> Arc<Usage> {
        let (age, known) = {
            let state = self.state();
            (state.usage.0.map(|at| at.elapsed()), state.usage.1.clone())
        };
        if age.is_some_and(|age| age < SHOW_AGE) || self.ready().is_err() {
            return known;
        }
        let place = self.place.clone();
        let look = move || Ok((place.entries()?, Space::of(place.root())?));
        match self.gate.call("ask for the usage", SHOW_PATIENCE, look).await {
            Ok((entries, space)) => {
                let total_bytes = entries.iter().map(|entry| entry.used_bytes).sum();
                let files = entries.into_iter().map(|entry| (entry.name, entry.used_bytes)).collect();
                let usage = Arc::new(Usage { files, total_bytes });
                let mut state = self.state();
                state.usage = (Some(Instant::now()), usage.clone());
                state.space = space;
                usage
            }
            Err(error) => {
                tracing::debug!("{error}");
                known
            }
        }
    }

    /// The numbers that are known are old from now on: something was made or deleted.
    pub fn usage_changed(&self) {
        self.state().usage.0 = None;
    }

    /// Lets go of the marker. Closing a file of a server that does not answer may hang, so a thread of its own does it.
    fn release(&self) {
        if let Some(held) = self.state().held.take() {
            let closing = std::thread::Builder::new().name("pool-close".into()).spawn(move || drop(held));
            if let Err(error) = closing {
                tracing::warn!("Could not start a thread for pool {}: {error}", self.name);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so a panic elsewhere cannot have left it half-changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pools of this node.
#[derive(Default)]
pub struct Pools {
    live: Mutex<HashMap<Id, Arc<LivePool>>>,
}

impl Pools {
    /// The pool with this id.
    ///
    /// # Errors
    /// `Unavailable` when there is none (any more).
    pub fn get(&self, id: &Id) -> Result<Arc<LivePool>, StorageError> {
        let gone = || StorageError::new(StorageFault::Unavailable, format!("There is no pool {id} any more"));
        self.all().get(id).cloned().ok_or_else(gone)
    }

    /// As [`Self::get`], when the pool can be used.
    ///
    /// # Errors
    /// `Unavailable`, with the reason.
    pub fn ready(&self, id: &Id) -> Result<Arc<LivePool>, StorageError> {
        let pool = self.get(id)?;
        pool.ready()?;
        Ok(pool)
    }

    fn add(&self, pool: Arc<LivePool>) {
        self.all().insert(pool.id.clone(), pool);
    }

    /// Forgets a pool and ends its supervision.
    fn remove(&self, id: &Id) -> Option<Arc<LivePool>> {
        let pool = self.all().remove(id)?;
        pool.forgotten.cancel();
        Some(pool)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<Id, Arc<LivePool>>> {
        // One operation at a time leaves the map whole.
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
