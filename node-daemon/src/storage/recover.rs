//! Brings to an end what the last daemon left half-made in a pool, and tells of what does not fit the records. Async runtime; once
//! for each pool, before it is used.
//!
//! Files in the making were swept when the pool was taken. Here records and files are brought together:
//!
//! | record | file | what is done |
//! |---|---|---|
//! | being made, being deleted | any | both are removed |
//! | being resized | there | the resize is done again |
//! | ready | missing | told, nothing is changed: the disk may come back |
//! | none | there | told, never deleted: it may be somebody's data |

use std::collections::HashSet;

use super::place::{Place, remove};
use super::pool::{LivePool, PATIENCE};
use super::volumes::grow_volume;
use super::{Meter, Storage};
use crate::model::{Failure, Image, ImagePhase, NewEvent, ResourceKind, ResourceRef, Volume, VolumePhase};

/// Names that are told in one event at most.
const TOLD: usize = 20;

impl Storage {
    /// See the file's header.
    pub(super) async fn recover(&self, pool: &LivePool) -> Result<(), Failure> {
        let id = pool.id().clone();
        let (volumes, images) = self
            .store()
            .read(move |tx| {
                let volumes: Vec<Volume> = tx.all::<Volume>()?.into_iter().map(|stored| stored.record).collect();
                let images: Vec<Image> = tx.all::<Image>()?.into_iter().map(|stored| stored.record).collect();
                let here = |pool: &crate::model::Id| *pool == id;
                Ok((
                    volumes.into_iter().filter(|volume| here(&volume.pool)).collect::<Vec<_>>(),
                    images.into_iter().filter(|image| here(&image.pool)).collect::<Vec<_>>(),
                ))
            })
            .await?;
        let mut wanted = HashSet::new();
        for volume in volumes {
            let name = Place::volume_name(&volume.id, volume.format);
            if self.recover_volume(pool, volume).await? {
                wanted.insert(name);
            }
        }
        for image in images {
            let name = image.id.to_string();
            if self.recover_image(pool, image).await? {
                wanted.insert(name);
            }
        }
        self.compare(pool, wanted).await
    }

    /// Whether the volume is still there afterwards.
    async fn recover_volume(&self, pool: &LivePool, mut volume: Volume) -> Result<bool, Failure> {
        let path = pool.place().volume(&volume.id, volume.format);
        match volume.phase {
            VolumePhase::Ready => return Ok(true),
            VolumePhase::Creating | VolumePhase::Deleting => {
                pool.gate().call("remove a volume", PATIENCE, move || remove(&path)).await?;
                tracing::info!("Volume {} was half-made or half-deleted: it is removed", volume.name);
                self.store().write(move |tx| tx.delete::<Volume>(&volume.id, None).map(drop)).await?;
                return Ok(false);
            }
            VolumePhase::Resizing { to } => {
                // The VM that has it may run by now; then it is as large as it was, and can be resized again.
                match grow_volume(pool, &volume, to, &Meter::silent()).await {
                    Ok(()) => volume.size_bytes = to,
                    Err(failure) => {
                        tracing::warn!("Volume {} stays {} bytes: {}", volume.name, volume.size_bytes, failure.chain());
                    }
                }
                volume.phase = VolumePhase::Ready;
                self.store().write(move |tx| tx.update(&volume, None).map(drop)).await?;
            }
        }
        Ok(true)
    }

    /// Whether the image is still there afterwards.
    async fn recover_image(&self, pool: &LivePool, image: Image) -> Result<bool, Failure> {
        if image.phase == ImagePhase::Ready {
            return Ok(true);
        }
        let path = pool.place().image(&image.id);
        pool.gate().call("remove an image", PATIENCE, move || remove(&path)).await?;
        tracing::info!("Image {} was half-made or half-deleted: it is removed", image.name);
        self.store().write(move |tx| tx.delete::<Image>(&image.id, None).map(drop)).await?;
        Ok(false)
    }

    async fn compare(&self, pool: &LivePool, mut wanted: HashSet<String>) -> Result<(), Failure> {
        let place = pool.place().clone();
        let entries = pool.gate().call("list it", PATIENCE, move || place.entries()).await?;
        let mut strays = Vec::new();
        for entry in entries {
            if !wanted.remove(&entry.name) {
                strays.push(entry.name);
            }
        }
        let resource = ResourceRef::new(ResourceKind::Pool, pool.id(), pool.name().as_str());
        if !strays.is_empty() {
            let message = format!(
                "Pool {} has files that belong to nothing known; they are left alone: {}",
                pool.name(),
                list(&strays)
            );
            let event = NewEvent::warning("pool.stray-files", message).with("count", strays.len());
            self.events().tell(event.on(resource.clone())).await;
        }
        let missing: Vec<String> = wanted.into_iter().collect();
        if !missing.is_empty() {
            let message = format!("Pool {} lacks files of its volumes or images: {}", pool.name(), list(&missing));
            let event = NewEvent::alarm("pool.missing-files", message).with("count", missing.len());
            self.events().tell(event.on(resource)).await;
        }
        Ok(())
    }
}

fn list(names: &[String]) -> String {
    let mut shown: Vec<&str> = names.iter().take(TOLD).map(String::as_str).collect();
    shown.sort_unstable();
    let more = names.len().saturating_sub(TOLD);
    if more > 0 { format!("{} and {more} more", shown.join(", ")) } else { shown.join(", ") }
}
