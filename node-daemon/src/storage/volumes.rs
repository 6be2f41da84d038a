//! Volumes come into being, grow, and go: the second half, on the pools. Async runtime; the copying is done on a pool's thread.
//!
//! Order of things: the reservation is on disk first, then the file under its temporary name, then its name, then the record says
//! `Ready`. Whatever ends in between is undone at once, or by the next start.

use std::fs::File;
use std::path::{Path, PathBuf};

use super::copy::copy_file;
use super::lock::Sharing;
use super::open::{open_locked, path_of};
use super::place::{Part, remove};
use super::{LivePool, Meter, Origin, Recipe, Storage, StorageError, qcow2, records};
use crate::model::{Base, Failure, FailureKind, Id, NewEvent, Volume, VolumeFormat, VolumePhase};
use crate::store::{Record as _, Stored, WriteTx};
use crate::tasks::TaskContext;

/// A source that was opened and locked: its files, top first.
type Sources = Vec<(File, VolumeFormat)>;

impl Meter {
    /// A meter that reports to a task and stops with it.
    pub fn of_task(context: &TaskContext) -> Self {
        let told = context.clone();
        Self::new(context.cancelled(), move |done, total| told.progress(done, total, "bytes"))
    }
}

impl Storage {
    /// Reserves a volume and makes it: for work that has a task already.
    ///
    /// # Errors
    /// As [`super::reserve_volume`] and [`Self::make_volume`].
    pub async fn create_volume(&self, new: super::NewVolume, meter: &Meter) -> Result<Stored<Volume>, Failure> {
        let recipe = self.store().write(move |tx| super::reserve_volume(tx, &new)).await?;
        self.make_volume(recipe, meter).await
    }

    /// Makes a reserved volume. When it fails, nothing is left of it.
    ///
    /// # Errors
    /// No room, somebody's wish to stop, a pool that cannot be used.
    pub async fn make_volume(&self, recipe: Recipe, meter: &Meter) -> Result<Stored<Volume>, Failure> {
        let id = recipe.volume.id.clone();
        let made = match self.build_volume(&recipe, meter).await {
            Ok(()) => self.store().write(move |tx| announce(tx, recipe.volume)).await,
            Err(failure) => Err(failure),
        };
        if let Err(failure) = made {
            self.undo_volume(&id).await;
            return Err(failure);
        }
        made
    }

    async fn build_volume(&self, recipe: &Recipe, meter: &Meter) -> Result<(), Failure> {
        let volume = recipe.volume.clone();
        let pool = self.pools().ready(&volume.pool)?;
        let sources = match &recipe.origin {
            Origin::CopyOf(base) => self.open_sources(base).await?,
            Origin::Empty | Origin::Linked => Vec::new(),
        };
        let below = match &volume.base {
            Some(base) => Some(self.name_below(&volume, base).await?),
            None => None,
        };
        let target = pool.place().volume(&volume.id, volume.format);
        let work = move |meter: &Meter| {
            let part = Part::begin(target, &volume.id)?;
            match sources.as_slice() {
                [] => fill_empty(&part, &volume, below)?,
                sources => fill_copy(&part, &volume, sources, meter)?,
            }
            meter.check()?;
            part.publish()
        };
        pool.gate().long("make a volume", meter, work).await?;
        pool.usage_changed();
        Ok(())
    }

    /// Opens what is to be copied, each file by the way of its own pool.
    pub(super) async fn open_sources(&self, base: &Base) -> Result<Sources, Failure> {
        let top = base.clone();
        let layers = self.store().read(move |tx| records::chain(tx, &top)).await?;
        let mut sources = Vec::new();
        for layer in layers {
            let format = layer.format;
            sources.push((self.open_layer(&layer, Sharing::Readers, false).await?, format));
        }
        Ok(sources)
    }

    /// What a linked volume's header says about its base, for people and tools.
    async fn name_below(&self, volume: &Volume, base: &Base) -> Result<(String, VolumeFormat), Failure> {
        let top = base.clone();
        let layers = self.store().read(move |tx| records::chain(tx, &top)).await?;
        let layer = layers.first().ok_or_else(|| Failure::bug("A chain has no files"))?;
        // It has to be there now, or the volume could never be used.
        drop(self.open_layer(layer, Sharing::Readers, false).await?);
        let path = path_of(self.pools().ready(&layer.pool)?.place(), layer);
        let name = if layer.pool == volume.pool { beside(&path) } else { path };
        Ok((name.to_string_lossy().into_owned(), layer.format))
    }

    /// Takes back a reservation and whatever file there is.
    async fn undo_volume(&self, id: &Id) {
        let id = id.clone();
        let undone = async {
            let volume = self
                .store()
                .read({
                    let id = id.clone();
                    move |tx| tx.get::<Volume>(&id)
                })
                .await?
                .record;
            self.remove_volume_file(&volume).await?;
            self.store().write(move |tx| tx.delete::<Volume>(&id, None).map(drop)).await
        };
        if let Err(failure) = undone.await {
            tracing::error!("A volume that could not be made is taken back at the next start: {}", failure.chain());
        }
    }

    async fn remove_volume_file(&self, volume: &Volume) -> Result<(), Failure> {
        let pool = self.pools().get(&volume.pool)?;
        let path = pool.place().volume(&volume.id, volume.format);
        pool.gate().call("remove a volume", super::pool::PATIENCE, move || remove(&path)).await?;
        pool.usage_changed();
        Ok(())
    }

    /// Makes a volume larger that was noted for it. When it fails, the volume is as it was.
    ///
    /// # Errors
    /// `FailedPrecondition` while somebody uses it; no room; a pool that cannot be used.
    pub async fn resize_volume(&self, volume: Volume, meter: &Meter) -> Result<(), Failure> {
        let VolumePhase::Resizing { to } = volume.phase else {
            return Err(Failure::bug("A volume is to be resized that was not noted for it"));
        };
        let grown = match self.pools().get(&volume.pool) {
            Ok(pool) => grow_volume(&pool, &volume, to, meter).await,
            Err(error) => Err(error.into()),
        };
        let mut after = volume;
        after.phase = VolumePhase::Ready;
        if grown.is_ok() {
            after.size_bytes = to;
        }
        let message = format!("Volume {} has {to} bytes now", after.name);
        let told = grown.is_ok();
        self.store()
            .write(move |tx| {
                tx.update(&after, None)?;
                if told {
                    tx.event(NewEvent::info("volume.resized", message).on(after.reference()))?;
                }
                Ok(())
            })
            .await?;
        grown
    }

    /// Deletes a volume that was noted for it. When it fails, the volume is as it was.
    ///
    /// # Errors
    /// `FailedPrecondition` while somebody uses it; a pool that cannot be used.
    pub async fn delete_volume(&self, mut volume: Volume) -> Result<(), Failure> {
        let deleted = self.erase_volume(&volume).await;
        if deleted.is_err() {
            volume.phase = VolumePhase::Ready;
            self.store().write(move |tx| tx.update(&volume, None).map(drop)).await?;
            return deleted;
        }
        self.store()
            .write(move |tx| {
                tx.delete::<Volume>(&volume.id, None)?;
                let event = NewEvent::info("volume.deleted", format!("Volume {} was deleted", volume.name));
                tx.event(event.on(volume.reference())).map(drop)
            })
            .await
    }

    /// Deletes a volume at once, for whoever made it along with something else. One that is gone is no error, nor is one that a VM
    /// or another volume needs by now: it stays.
    ///
    /// # Errors
    /// `FailedPrecondition` while somebody has it open; a pool that cannot be used.
    pub async fn discard_volume(&self, id: &Id) -> Result<(), Failure> {
        let (id, users) = (id.clone(), self.users());
        let reserved = self.store().write(move |tx| super::reserve_deletion(tx, &*users, id.as_str(), None)).await;
        match reserved {
            Ok(volume) => self.delete_volume(volume).await,
            Err(failure) if matches!(failure.kind(), FailureKind::NotFound | FailureKind::FailedPrecondition) => {
                tracing::info!("A volume is not deleted along: {failure}");
                Ok(())
            }
            Err(failure) => Err(failure),
        }
    }

    async fn erase_volume(&self, volume: &Volume) -> Result<(), Failure> {
        let pool = self.pools().ready(&volume.pool)?;
        let path = pool.place().volume(&volume.id, volume.format);
        let work = move |_: &Meter| erase(&path);
        pool.gate().long("delete a volume", &Meter::silent(), work).await?;
        pool.usage_changed();
        Ok(())
    }
}

/// Makes a volume's file larger. Interrupted, it may be done again.
pub(super) async fn grow_volume(pool: &LivePool, volume: &Volume, to: u64, meter: &Meter) -> Result<(), Failure> {
    let (path, format) = (pool.place().volume(&volume.id, volume.format), volume.format);
    let work = move |meter: &Meter| {
        let file = open_locked(&path, Sharing::Nobody, false)?;
        meter.check()?;
        grow_file(&file, &path, format, to)
    };
    Ok(pool.gate().long("grow a volume", meter, work).await?)
}

/// Removes a file that nobody uses. One that is gone already is fine.
pub(super) fn erase(path: &Path) -> Result<(), StorageError> {
    match path.try_exists() {
        Ok(false) => Ok(()),
        Ok(true) => {
            let _lock = open_locked(path, Sharing::Nobody, false)?;
            remove(path)
        }
        Err(error) => Err(StorageError::io("look at", path, error)),
    }
}

fn announce(tx: &WriteTx<'_>, mut volume: Volume) -> Result<Stored<Volume>, Failure> {
    volume.phase = VolumePhase::Ready;
    let stored = tx.update(&volume, None)?;
    let event = NewEvent::info("volume.created", format!("Volume {} was made", volume.name));
    tx.event(event.on(volume.reference()))?;
    Ok(stored)
}

fn fill_empty(part: &Part, volume: &Volume, below: Option<(String, VolumeFormat)>) -> Result<(), StorageError> {
    match volume.format {
        VolumeFormat::Qcow2 => qcow2::create(part.file(), part.path(), volume.size_bytes, below),
        VolumeFormat::Raw => set_length(part.file(), part.path(), volume.size_bytes),
    }
}

/// Fills a new file with what its sources hold together.
pub(super) fn fill_copy(
    part: &Part,
    volume: &Volume,
    sources: &[(File, VolumeFormat)],
    meter: &Meter,
) -> Result<(), StorageError> {
    let (file, path) = (part.file(), part.path());
    if let [(source, format)] = sources
        && *format == volume.format
    {
        copy_file(source, file, path, meter)?;
        return grow_file(file, path, volume.format, volume.size_bytes);
    }
    fill_empty(part, volume, None)?;
    let source = qcow2::open_chain(sources, path)?;
    let target = qcow2::open_writable(file, volume.format, path)?;
    qcow2::convert(&source, &target, path, meter)
}

fn grow_file(file: &File, path: &Path, format: VolumeFormat, to: u64) -> Result<(), StorageError> {
    match format {
        VolumeFormat::Qcow2 => qcow2::grow(file, path, to),
        VolumeFormat::Raw => {
            let fail = |error| StorageError::io("ask for the size of", path, error);
            if file.metadata().map_err(fail)?.len() >= to {
                return Ok(());
            }
            set_length(file, path, to)?;
            file.sync_all().map_err(|error| StorageError::io("write out", path, error))
        }
    }
}

fn set_length(file: &File, path: &Path, length: u64) -> Result<(), StorageError> {
    file.set_len(length).map_err(|error| match error.raw_os_error() {
        Some(libc::EFBIG) => {
            let what =
                format!("{} cannot have {length} bytes: its file system has no files of that size", path.display());
            StorageError::new(super::StorageFault::Refused, what)
        }
        _ => StorageError::io("set the size of", path, error),
    })
}

/// A path of the same pool, seen from the directory of volumes.
fn beside(path: &Path) -> PathBuf {
    let (name, shelf) =
        (path.file_name().unwrap_or_default(), path.parent().and_then(Path::file_name).unwrap_or_default());
    Path::new("..").join(shelf).join(name)
}
