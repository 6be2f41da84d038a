//! Takes pools into use, and keeps an eye on them: one task per pool, for as long as the daemon knows it.
//!
//! ```text
//!            ┌───────────── mounted? held? ◄──────────┐
//!            ▼ no                                     │ every 10 s
//!   mount, hold the marker, sweep, recover ──► Ready ─┤
//!            │ fails                                  │ does not answer, is another file system now
//!            └──────────────► Unavailable(reason) ◄───┘
//! ```
//!
//! Async runtime. Never waits for a pool without a deadline. What recovery means for volumes and images is `recover.rs`.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::Duration;

use super::super::place::Place;
use super::super::{Storage, StorageError, StorageFault};
use super::{Health, LivePool, Marker, PATIENCE, Space, has_reflink, nfs, this_node};
use crate::model::{NewEvent, Pool, PoolSource, ResourceKind, ResourceRef};

/// Between two looks at a pool.
const EVERY: Duration = Duration::from_secs(10);

impl Storage {
    /// Begins to look after a pool. Returns when it was looked at once.
    pub(in super::super) async fn adopt(&self, record: &Pool) -> Arc<LivePool> {
        let pool = Arc::new(LivePool::new(record, &self.mounts()));
        self.look(&pool).await;
        self.watch_over(pool.clone());
        pool
    }

    /// As [`Self::adopt`], without waiting for the first look.
    pub(in super::super) fn adopt_later(&self, record: &Pool) {
        self.watch_over(Arc::new(LivePool::new(record, &self.mounts())));
    }

    fn watch_over(&self, pool: Arc<LivePool>) {
        self.pools().add(pool.clone());
        let (storage, shutdown) = (self.clone(), self.shutdown().clone());
        tokio::spawn(async move {
            let looked = pool.state().held.is_some();
            if !looked {
                storage.look(&pool).await;
            }
            loop {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = pool.forgotten.cancelled() => return,
                    () = tokio::time::sleep(EVERY) => storage.look(&pool).await,
                }
            }
        });
    }

    /// Ends the use of a pool and takes its mount away.
    ///
    /// # Errors
    /// When the mount stays.
    pub(in super::super) async fn abandon(&self, id: &crate::model::Id) -> Result<(), StorageError> {
        let Some(pool) = self.pools().remove(id) else { return Ok(()) };
        pool.release();
        match &pool.source {
            PoolSource::Directory { .. } => Ok(()),
            PoolSource::Nfs { .. } => {
                let root = pool.place.root().to_owned();
                pool.gate.call("unmount", PATIENCE, move || nfs::unmount(&root)).await
            }
        }
    }

    /// One look; what it finds is the pool's health from then on.
    async fn look(&self, pool: &Arc<LivePool>) {
        let health = match self.bring_up(pool).await {
            Ok(()) => Health::Ready,
            Err(error) => Health::Unavailable(chain(&error)),
        };
        let before = std::mem::replace(&mut pool.state().health, health.clone());
        if before == health {
            return;
        }
        let resource = ResourceRef::new(ResourceKind::Pool, &pool.id, pool.name.as_str());
        let event = match &health {
            Health::Ready => NewEvent::info("pool.ready", format!("Pool {} can be used", pool.name)),
            Health::Unavailable(reason) => {
                NewEvent::alarm("pool.unavailable", format!("Pool {} cannot be used: {reason}", pool.name))
            }
        };
        self.events().tell(event.on(resource)).await;
    }

    async fn bring_up(&self, pool: &Arc<LivePool>) -> Result<(), StorageError> {
        mount(pool).await?;
        if pool.state().held.is_none() {
            hold(pool).await?;
        }
        let looked = probe(pool).await;
        if let Err(error) = &looked
            && error.fault() != StorageFault::Deadline
        {
            // Another file system is there, or none: begin anew with the next look.
            pool.release();
        }
        looked?;
        let recovered = pool.state().recovered;
        if !recovered {
            self.recover(pool)
                .await
                .map_err(|failure| StorageError::new(StorageFault::Unavailable, failure.chain()))?;
            pool.state().recovered = true;
        }
        Ok(())
    }
}

/// Mounts what has to be mounted.
pub(in super::super) async fn mount(pool: &LivePool) -> Result<(), StorageError> {
    let PoolSource::Nfs { server, export, options } = &pool.source else { return Ok(()) };
    let root = pool.place.root();
    if !nfs::is_mounted(root)? {
        pool.release();
        nfs::mount(server, export, options, root).await?;
    }
    Ok(())
}

/// Takes the pool for this daemon and finds out what it can.
async fn hold(pool: &Arc<LivePool>) -> Result<(), StorageError> {
    let (place, sweep) = (pool.place.clone(), !pool.state().recovered);
    let marker = Marker { pool: pool.id.clone(), node: this_node() };
    let take = move || {
        let held = marker.hold(place.root())?;
        place.furnish()?;
        if sweep {
            for path in place.sweep()? {
                tracing::info!("Removed what was in the making when the daemon ended: {}", path.display());
            }
        }
        let reflink = has_reflink(&place)?;
        Ok((held, reflink))
    };
    // After the deadline the marker would be held by a thread that nobody waits for; it lets go when its answer is dropped.
    let (held, reflink) = pool.gate.call("take it into use", PATIENCE, take).await?;
    let mut state = pool.state();
    state.held = Some(held);
    state.reflink = reflink;
    Ok(())
}

/// Looks whether the pool still is what it was.
async fn probe(pool: &Arc<LivePool>) -> Result<(), StorageError> {
    let place = pool.place.clone();
    let held = pool.state().held.as_ref().map(std::fs::File::try_clone);
    let held = held.transpose().map_err(|error| StorageError::io("look at", place.root(), error))?;
    let look = move || {
        let space = Space::of(place.root())?;
        if let Some(held) = held {
            same_file(&place, &held)?;
        }
        Ok(space)
    };
    let space = pool.gate.call("look at it", PATIENCE, look).await?;
    pool.state().space = space;
    Ok(())
}

fn same_file(place: &Place, held: &std::fs::File) -> Result<(), StorageError> {
    let path = Marker::path(place.root());
    let fail = |error| StorageError::io("look at", &path, error);
    let (there, ours) = (std::fs::metadata(&path).map_err(fail)?, held.metadata().map_err(fail)?);
    if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) {
        return Ok(());
    }
    let what =
        format!("{} is on another file system than before: something was mounted or unmounted there", path.display());
    Err(StorageError::new(StorageFault::Unavailable, what))
}

/// An error with its causes, in one line.
fn chain(error: &StorageError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
