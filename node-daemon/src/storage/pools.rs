//! Pools come and go: the default one at the first start, others by request. Async runtime.

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pool::{LivePool, Marker, PATIENCE, this_node};
use super::{Storage, StorageError, StorageFault, records};
use crate::model::{Failure, Id, Image, Name, NewEvent, Pool, PoolPhase, PoolSource, Volume};
use crate::store::{ReadTx, Record as _, WriteTx};

/// Name of the pool that is made at the first start.
const DEFAULT: &str = "default";
/// Set in the inventory once that was done: a default pool that somebody deleted stays away.
const DEFAULT_MADE: &str = "storage.default-pool-made";

impl Storage {
    /// Takes all recorded pools into use.
    pub(super) async fn start_pools(&self) -> Result<(), Failure> {
        let pools = self
            .store()
            .write(|tx| {
                let mut ready = Vec::new();
                for pool in tx.all::<Pool>()? {
                    match pool.record.phase {
                        PoolPhase::Ready => ready.push(pool.record),
                        // The daemon ended before it was looked at.
                        PoolPhase::Creating => drop(tx.delete::<Pool>(&pool.record.id, None)?),
                    }
                }
                Ok((ready, tx.meta(DEFAULT_MADE)?.is_some()))
            })
            .await?;
        let (records, default_made) = pools;
        self.drop_strays(&records);
        let mut looks = tokio::task::JoinSet::new();
        for record in records {
            match record.source {
                PoolSource::Nfs { .. } => self.adopt_later(&record),
                PoolSource::Directory { .. } => {
                    let storage = self.clone();
                    looks.spawn(async move { storage.adopt(&record).await });
                }
            }
        }
        while looks.join_next().await.is_some() {}
        if !default_made && let Err(failure) = self.make_default().await {
            let message =
                format!("The default pool could not be made, the next start tries again: {}", failure.chain());
            tracing::error!("{message}");
            self.events().tell(NewEvent::alarm("pool.failed", message)).await;
        }
        Ok(())
    }

    /// Mounts of pools that are not known any more: the daemon ended while it deleted them.
    fn drop_strays(&self, known: &[Pool]) {
        let Ok(entries) = std::fs::read_dir(self.mounts()) else { return };
        for path in entries.flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if !known.iter().any(|pool| pool.id.as_str() == name)
                && let Err(error) = super::pool::unmount(&path)
            {
                tracing::warn!("The mount of a pool that was deleted stays: {error}");
            }
        }
    }

    async fn make_default(&self) -> Result<(), Failure> {
        let root = self.0.parts.state_dir.join("pools").join(DEFAULT);
        let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&root);
        made.map_err(|error| StorageError::io("make the directory", &root, error))?;
        let source = PoolSource::directory(&root.to_string_lossy())?;
        let name = Name::parse("name", DEFAULT)?;
        let pool = self.store().write(move |tx| reserve_pool(tx, name, source)).await?;
        self.make_pool(&pool).await
    }

    /// Makes a reserved pool usable. When it fails, its record is gone again.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub async fn make_pool(&self, record: &Pool) -> Result<(), Failure> {
        let made = self.found_pool(record).await;
        if let Err(failure) = made {
            if let Err(error) = self.abandon(&record.id).await {
                tracing::warn!("A mount stays for now: {error}");
            }
            let id = record.id.clone();
            self.store().write(move |tx| tx.delete::<Pool>(&id, None).map(drop)).await?;
            return Err(failure);
        }
        Ok(())
    }

    async fn found_pool(&self, record: &Pool) -> Result<(), Failure> {
        let prepared = LivePool::new(record, &self.mounts());
        super::pool::supervise::mount(&prepared).await?;
        let known =
            self.store().read(|tx| Ok(tx.all::<Pool>()?.into_iter().map(|s| s.record.id).collect::<Vec<_>>())).await?;
        let (root, id) = (prepared.place().root().to_owned(), record.id.clone());
        prepared.gate().call("look into it", PATIENCE, move || claim(&root, &id, &known)).await?;
        let live = self.adopt(record).await;
        live.ready()?;
        let mut ready = record.clone();
        ready.phase = PoolPhase::Ready;
        self.store()
            .write(move |tx| {
                tx.update(&ready, None)?;
                if ready.name.as_str() == DEFAULT {
                    tx.set_meta(DEFAULT_MADE, "yes")?;
                }
                let event = NewEvent::info("pool.created", format!("Pool {} was added", ready.name));
                tx.event(event.on(ready.reference())).map(drop)
            })
            .await
    }

    /// Ends the use of a pool whose record is gone. Nothing in it is touched.
    ///
    /// # Errors
    /// When its mount stays.
    pub async fn leave_pool(&self, id: &Id) -> Result<(), Failure> {
        Ok(self.abandon(id).await?)
    }

    /// A pool as it is now.
    ///
    /// # Errors
    /// `Unavailable` when it is not known (any more).
    pub fn live_pool(&self, id: &Id) -> Result<Arc<LivePool>, Failure> {
        Ok(self.pools().get(id)?)
    }
}

/// Makes the directory this pool's, or says why not.
fn claim(root: &Path, id: &Id, known: &[Id]) -> Result<(), StorageError> {
    let refused = |why: String| {
        Err(StorageError::new(StorageFault::Refused, format!("{} cannot be a pool: {why}", root.display())))
    };
    match std::fs::metadata(root) {
        Ok(metadata) if !metadata.is_dir() => return refused("it is no directory".into()),
        Ok(_) => {}
        Err(error) => return refused(format!("{error}; make the directory first")),
    }
    let marker = Marker { pool: id.clone(), node: this_node() };
    match Marker::read(root)? {
        None => marker.write(root),
        Some(found) if known.contains(&found.pool) => refused(format!("it is pool {} already", found.pool)),
        // A pool of this node from before: it goes on under its new id.
        Some(found) if found.node == marker.node => {
            let held = found.hold(root)?;
            let rewritten = marker.rewrite(root);
            drop(held);
            rewritten
        }
        Some(found) => refused(format!(
            "it is a pool of the node with machine-id {}; if that node is gone, remove {}",
            found.node,
            Marker::path(root).display()
        )),
    }
}

/// Reserves a pool.
///
/// # Errors
/// `AlreadyExists` when the name is taken, or another pool is there.
pub fn reserve_pool(tx: &WriteTx<'_>, name: Name, source: PoolSource) -> Result<Pool, Failure> {
    for other in tx.all::<Pool>()? {
        if overlap(&other.record.source, &source) {
            let message = format!("Pool {} is there already: give another directory or export", other.record.name);
            return Err(Failure::new(crate::model::FailureKind::AlreadyExists, message));
        }
    }
    let pool = Pool { id: Id::new(), name, source, phase: PoolPhase::Creating };
    tx.insert(&pool)?;
    Ok(pool)
}

/// Whether one lies in the other.
fn overlap(a: &PoolSource, b: &PoolSource) -> bool {
    match (a, b) {
        (PoolSource::Directory { path: a }, PoolSource::Directory { path: b }) => {
            let (a, b) = (PathBuf::from(a), PathBuf::from(b));
            a.starts_with(&b) || b.starts_with(&a)
        }
        (PoolSource::Nfs { server: a, export: x, .. }, PoolSource::Nfs { server: b, export: y, .. }) => {
            a == b && x == y
        }
        _ => false,
    }
}

/// Removes the record of an empty pool.
///
/// # Errors
/// `NotFound`, `Aborted`; `FailedPrecondition` while it has volumes or images.
pub fn forget_pool(tx: &WriteTx<'_>, asked: &str, expected: Option<u64>) -> Result<Pool, Failure> {
    let pool = records::pool(tx, asked)?.record;
    let (volumes, images) = contents(tx, &pool.id)?;
    if volumes + images > 0 {
        let message = format!("Pool {} has {volumes} volumes and {images} images: delete them first", pool.name);
        return Err(Failure::precondition(message));
    }
    tx.delete::<Pool>(&pool.id, expected)?;
    let event = NewEvent::info("pool.deleted", format!("Pool {} was removed; its files stay", pool.name));
    tx.event(event.on(pool.reference()))?;
    Ok(pool)
}

fn contents(tx: &ReadTx<'_>, pool: &Id) -> Result<(usize, usize), Failure> {
    let volumes = tx.all::<Volume>()?.iter().filter(|stored| stored.record.pool == *pool).count();
    let images = tx.all::<Image>()?.iter().filter(|stored| stored.record.pool == *pool).count();
    Ok((volumes, images))
}
