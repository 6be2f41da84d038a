//! What the records say about volumes and images, and what they allow: functions on a transaction, for this room and for others that
//! refer to volumes and images. Store thread; must not touch a pool.

use std::collections::HashMap;

use crate::model::{
    Base, Failure, FailureKind, Id, Image, ImageFormat, ImageKind, ImagePhase, Name, Pool, PoolPhase, ResourceKind,
    Volume, VolumeFormat, VolumePhase,
};
use crate::store::{ReadTx, Record, Stored};

/// Most files in a chain; the VMM takes no longer one.
const LAYERS_MAX: usize = 32;
/// The pool that is meant when none is named.
const DEFAULT_POOL: &str = "default";

impl Record for Pool {
    const TABLE: &'static str = "pools";
    const KIND: ResourceKind = ResourceKind::Pool;

    fn id(&self) -> &Id {
        &self.id
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl Record for Volume {
    const TABLE: &'static str = "volumes";
    const KIND: ResourceKind = ResourceKind::Volume;

    fn id(&self) -> &Id {
        &self.id
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }
}

impl Record for Image {
    const TABLE: &'static str = "images";
    const KIND: ResourceKind = ResourceKind::Image;

    fn id(&self) -> &Id {
        &self.id
    }

    fn name(&self) -> &str {
        self.name.as_str()
    }
}

/// Who uses volumes and images: VMs by id, by what they use.
#[derive(Clone, Debug, Default)]
pub struct Uses {
    /// By volume.
    pub volumes: HashMap<Id, Vec<Id>>,
    /// By image.
    pub images: HashMap<Id, Vec<Id>>,
}

/// Knows who uses volumes and images; asked inside transactions, so that the answer holds until they end. `vm/` fills it.
pub trait DiskUsers: Send + Sync + 'static {
    /// All uses.
    ///
    /// # Errors
    /// What the store says.
    fn uses(&self, tx: &ReadTx<'_>) -> Result<Uses, Failure>;
}

/// Nobody uses anything.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoUsers;

impl DiskUsers for NoUsers {
    fn uses(&self, _: &ReadTx<'_>) -> Result<Uses, Failure> {
        Ok(Uses::default())
    }
}

/// A pool by name or id; empty means the default one.
///
/// # Errors
/// `NotFound`.
pub fn pool(tx: &ReadTx<'_>, pool: &str) -> Result<Stored<Pool>, Failure> {
    let asked = if pool.is_empty() { DEFAULT_POOL } else { pool };
    let found = tx.find::<Pool>(asked)?;
    if found.record.phase == PoolPhase::Creating {
        return Err(Failure::not_found(ResourceKind::Pool, asked));
    }
    Ok(found)
}

/// A volume by name or id, if callers see it.
///
/// # Errors
/// `NotFound`.
pub fn volume(tx: &ReadTx<'_>, volume: &str) -> Result<Stored<Volume>, Failure> {
    let found = tx.find::<Volume>(volume)?;
    if found.record.phase.is_visible() { Ok(found) } else { Err(Failure::not_found(ResourceKind::Volume, volume)) }
}

/// A volume that a VM may have: nothing goes on with it and, if it is to be written to, no other volume stands on it.
///
/// # Errors
/// `NotFound`, `FailedPrecondition`.
pub fn attachable_volume(tx: &ReadTx<'_>, asked: &str, readonly: bool) -> Result<Stored<Volume>, Failure> {
    let found = volume(tx, asked)?;
    idle(&found.record)?;
    if !readonly {
        free_of_links(tx, &Base::Volume(found.record.id.clone()), "be written to")?;
    }
    Ok(found)
}

/// An error while something goes on with a volume.
///
/// # Errors
/// `FailedPrecondition`.
pub fn idle(volume: &Volume) -> Result<(), Failure> {
    match volume.phase {
        VolumePhase::Ready => Ok(()),
        _ => Err(Failure::precondition(format!(
            "Volume {} is just being made, resized or deleted: try again",
            volume.name
        ))),
    }
}

/// An image by name or id, if callers see it.
///
/// # Errors
/// `NotFound`.
pub fn image(tx: &ReadTx<'_>, image: &str) -> Result<Stored<Image>, Failure> {
    let found = tx.find::<Image>(image)?;
    match found.record.phase {
        ImagePhase::Ready => Ok(found),
        _ => Err(Failure::not_found(ResourceKind::Image, image)),
    }
}

/// An image of a certain kind; `field` is the request's.
///
/// # Errors
/// `NotFound`; `InvalidArgument` when it is of another kind.
pub fn image_of_kind(tx: &ReadTx<'_>, field: &str, asked: &str, kind: ImageKind) -> Result<Stored<Image>, Failure> {
    let found = image(tx, asked)?;
    if found.record.kind == kind {
        return Ok(found);
    }
    let reason = format!("is an image of kind {}: one of kind {} is needed", found.record.kind.as_str(), kind.as_str());
    Err(Failure::invalid(field, asked, reason))
}

/// An error when a volume holds the differences to `base`; `action` is what is refused.
///
/// # Errors
/// `FailedPrecondition`, with the names of some of them.
pub fn free_of_links(tx: &ReadTx<'_>, base: &Base, action: &str) -> Result<(), Failure> {
    let linked =
        tx.all::<Volume>()?.into_iter().map(|stored| stored.record).filter(|volume| volume.base.as_ref() == Some(base));
    let names: Vec<Name> = linked.map(|volume| volume.name).collect();
    refuse(&names, action, "volumes that are linked to it", "delete them first, or make full copies of them")
}

/// An error when VMs use something; `users` are their ids.
///
/// # Errors
/// `FailedPrecondition`, with some of the ids.
pub fn free_of_vms(users: Option<&Vec<Id>>, action: &str) -> Result<(), Failure> {
    refuse(users.map_or(&[][..], Vec::as_slice), action, "VMs that have it", "take it from them first")
}

/// An error when other images boot by this one.
///
/// # Errors
/// `FailedPrecondition`, with the names of some of them.
pub fn free_of_boots(tx: &ReadTx<'_>, id: &Id) -> Result<(), Failure> {
    let boots =
        |image: &Image| image.boot.as_ref().is_some_and(|boot| boot.kernel == *id || boot.initrd.as_ref() == Some(id));
    let names: Vec<Name> =
        tx.all::<Image>()?.into_iter().map(|s| s.record).filter(boots).map(|image| image.name).collect();
    refuse(&names, "be deleted", "images that boot by it", "delete them first")
}

fn refuse<T: std::fmt::Display>(users: &[T], action: &str, who: &str, remedy: &str) -> Result<(), Failure> {
    const SHOWN: usize = 5;
    if users.is_empty() {
        return Ok(());
    }
    let mut names: Vec<String> = users.iter().take(SHOWN).map(ToString::to_string).collect();
    if users.len() > SHOWN {
        names.push(format!("and {} more", users.len() - SHOWN));
    }
    Err(Failure::precondition(format!("It cannot {action}: there are {who} ({}); {remedy}", names.join(", "))))
}

/// A file of a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    /// Where it is.
    pub pool: Id,
    /// Which file.
    pub file: Base,
    /// How it is to be read.
    pub format: VolumeFormat,
}

/// The chain of a volume or image, top first.
///
/// # Errors
/// `NotFound`; `FailedPrecondition` when it is too long.
pub fn chain(tx: &ReadTx<'_>, top: &Base) -> Result<Vec<Layer>, Failure> {
    let mut layers = Vec::new();
    let mut next = Some(top.clone());
    while let Some(file) = next.take() {
        if layers.len() == LAYERS_MAX {
            let message =
                format!("The chain of linked volumes would have more than {LAYERS_MAX} files: make a full copy");
            return Err(Failure::precondition(message));
        }
        let (pool, format) = match &file {
            Base::Volume(id) => {
                let volume = tx.get::<Volume>(id)?.record;
                next = volume.base;
                (volume.pool, volume.format)
            }
            Base::Image(id) => {
                let image = tx.get::<Image>(id)?.record;
                let format = match image.format {
                    ImageFormat::Raw => VolumeFormat::Raw,
                    ImageFormat::Qcow2 => VolumeFormat::Qcow2,
                };
                (image.pool, format)
            }
        };
        layers.push(Layer { pool, file, format });
    }
    Ok(layers)
}

/// As [`chain`], for a volume that is to be put on top of `base`: one file more has to fit.
///
/// # Errors
/// As [`chain`].
pub fn check_depth(tx: &ReadTx<'_>, base: &Base) -> Result<(), Failure> {
    if chain(tx, base)?.len() < LAYERS_MAX {
        return Ok(());
    }
    let message = format!("The chain of linked volumes would have more than {LAYERS_MAX} files: make a full copy");
    Err(Failure::new(FailureKind::FailedPrecondition, message))
}
