//! What callers ask for, checked against the records and reserved there: the first half of making volumes and images. Store thread.
//!
//! A reservation is a record in phase `Creating`: it keeps the name, and tells the next start what to clean up. The second half is in
//! `volumes.rs` and `images.rs`.

use std::collections::BTreeMap;

use super::records::{self, DiskUsers};
use crate::model::{
    Base, Failure, Id, Image, ImageBoot, ImageFormat, ImageKind, ImagePhase, Name, Sha256Hex, Volume, VolumeFormat,
    VolumePhase, check_cmdline, check_labels, check_size, whole_sectors,
};
use crate::store::{ReadTx, WriteTx};

/// A volume to be made.
#[derive(Clone, Debug, Default)]
pub struct NewVolume {
    /// Its name.
    pub name: String,
    /// By name or id; empty for the default pool.
    pub pool: String,
    /// Nothing: raw for an empty volume, qcow2 for one from an image.
    pub format: Option<VolumeFormat>,
    /// In bytes; 0 for the image's own size.
    pub size_bytes: u64,
    /// By name or id; empty for none.
    pub image: String,
    /// Whether it shall hold only the differences to the image.
    pub linked: bool,
    /// The user's.
    pub labels: BTreeMap<String, String>,
}

/// A copy of a volume to be made.
#[derive(Clone, Debug, Default)]
pub struct NewClone {
    /// The origin, by name or id.
    pub volume: String,
    /// The copy's name.
    pub name: String,
    /// By name or id; empty for the origin's pool.
    pub pool: String,
    /// Whether it shall hold only the differences.
    pub linked: bool,
}

/// An image to be taken.
#[derive(Clone, Debug)]
pub struct NewImage {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub kind: ImageKind,
    /// By name or id; empty for the default pool.
    pub pool: String,
    /// In hexadecimal; empty for any.
    pub sha256: String,
    /// Bytes that must come; 0 for any number.
    pub size_bytes: u64,
    /// Kernel and initrd by name or id, and the command line; nothing when there is no such default.
    pub boot: Option<(String, String, String)>,
    /// The user's.
    pub labels: BTreeMap<String, String>,
    /// Where it is fetched from; empty for an upload.
    pub url: String,
}

/// How a reserved volume gets its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It is empty.
    Empty,
    /// It holds the differences to its base.
    Linked,
    /// It is a copy.
    CopyOf(Base),
}

/// A reserved volume, to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// Its record.
    pub volume: Volume,
    /// Its contents.
    pub origin: Origin,
}

/// Reserves a volume.
///
/// # Errors
/// The field at fault; `AlreadyExists` when the name is taken.
pub fn reserve_volume(tx: &WriteTx<'_>, new: &NewVolume) -> Result<Recipe, Failure> {
    let name = Name::parse("name", &new.name)?;
    check_labels("labels", &new.labels)?;
    let pool = records::pool(tx, &new.pool)?.record;
    let (origin, format, size_bytes, image) = match new.image.as_str() {
        "" => empty(new)?,
        image => from_image(tx, new, image)?,
    };
    let base = match &image {
        Some(id) if origin == Origin::Linked => Some(Base::Image(id.clone())),
        _ => None,
    };
    let phase = VolumePhase::Creating;
    let labels = new.labels.clone();
    let volume = Volume { id: Id::new(), name, pool: pool.id, format, size_bytes, base, image, labels, phase };
    tx.insert(&volume)?;
    Ok(Recipe { volume, origin })
}

type Contents = (Origin, VolumeFormat, u64, Option<Id>);

fn empty(new: &NewVolume) -> Result<Contents, Failure> {
    if new.linked {
        return Err(Failure::invalid("linked", new.linked, "needs an image to be linked to: give one in `image`"));
    }
    check_size("size_bytes", new.size_bytes)?;
    Ok((Origin::Empty, new.format.unwrap_or(VolumeFormat::Raw), new.size_bytes, None))
}

fn from_image(tx: &ReadTx<'_>, new: &NewVolume, image: &str) -> Result<Contents, Failure> {
    let image = records::image_of_kind(tx, "image", image, ImageKind::Disk)?.record;
    let least = whole_sectors(image.virtual_size_bytes);
    let size_bytes = if new.size_bytes == 0 { least } else { new.size_bytes };
    check_size("size_bytes", size_bytes)?;
    if size_bytes < least {
        let reason =
            format!("is less than the disk of image {}, which has {least} bytes: give 0 or more than that", image.name);
        return Err(Failure::invalid("size_bytes", size_bytes, reason));
    }
    let format = new.format.unwrap_or(VolumeFormat::Qcow2);
    if !new.linked {
        return Ok((Origin::CopyOf(Base::Image(image.id.clone())), format, size_bytes, Some(image.id)));
    }
    if format != VolumeFormat::Qcow2 {
        return Err(Failure::invalid("format", format.as_str(), "cannot be linked: only qcow2 can hold differences"));
    }
    records::check_depth(tx, &Base::Image(image.id.clone()))?;
    Ok((Origin::Linked, format, size_bytes, Some(image.id)))
}

/// Reserves a copy of a volume.
///
/// # Errors
/// The field at fault; `NotFound`, `AlreadyExists`, `FailedPrecondition`.
pub fn reserve_clone(tx: &WriteTx<'_>, users: &dyn DiskUsers, new: &NewClone) -> Result<Recipe, Failure> {
    let name = Name::parse("name", &new.name)?;
    let from = records::volume(tx, &new.volume)?.record;
    records::idle(&from)?;
    let pool = if new.pool.is_empty() { from.pool.clone() } else { records::pool(tx, &new.pool)?.record.id };
    let base = Base::Volume(from.id.clone());
    if new.linked {
        let action = "become the base of a linked volume, because it must not be written to any more";
        records::free_of_vms(users.uses(tx)?.volumes.get(&from.id), action)?;
        records::check_depth(tx, &base)?;
    }
    let volume = Volume {
        id: Id::new(),
        name,
        pool,
        format: if new.linked { VolumeFormat::Qcow2 } else { from.format },
        size_bytes: from.size_bytes,
        base: new.linked.then(|| base.clone()),
        image: from.image,
        labels: from.labels,
        phase: VolumePhase::Creating,
    };
    tx.insert(&volume)?;
    let origin = if new.linked { Origin::Linked } else { Origin::CopyOf(base) };
    Ok(Recipe { volume, origin })
}

/// Notes that a volume is to become larger.
///
/// # Errors
/// The field at fault; `NotFound`, `FailedPrecondition`.
pub fn reserve_resize(tx: &WriteTx<'_>, asked: &str, size_bytes: u64) -> Result<Volume, Failure> {
    let mut volume = records::volume(tx, asked)?.record;
    check_size("size_bytes", size_bytes)?;
    if size_bytes < volume.size_bytes {
        let reason = format!("is less than the {} bytes that the volume has: volumes only grow", volume.size_bytes);
        return Err(Failure::invalid("size_bytes", size_bytes, reason));
    }
    records::idle(&volume)?;
    records::free_of_links(tx, &Base::Volume(volume.id.clone()), "be resized")?;
    volume.phase = VolumePhase::Resizing { to: size_bytes };
    tx.update(&volume, None)?;
    Ok(volume)
}

/// Notes that a volume is to be deleted; from then on callers do not see it.
///
/// # Errors
/// `NotFound`, `Aborted`, `FailedPrecondition`.
pub fn reserve_deletion(
    tx: &WriteTx<'_>,
    users: &dyn DiskUsers,
    asked: &str,
    expected: Option<u64>,
) -> Result<Volume, Failure> {
    let mut volume = records::volume(tx, asked)?.record;
    records::idle(&volume)?;
    records::free_of_vms(users.uses(tx)?.volumes.get(&volume.id), "be deleted")?;
    records::free_of_links(tx, &Base::Volume(volume.id.clone()), "be deleted")?;
    volume.phase = VolumePhase::Deleting;
    tx.update(&volume, expected)?;
    Ok(volume)
}

/// Reserves an image.
///
/// # Errors
/// The field at fault; `AlreadyExists` when the name is taken.
pub fn reserve_image(tx: &WriteTx<'_>, new: &NewImage) -> Result<Image, Failure> {
    let name = Name::parse("name", &new.name)?;
    check_labels("labels", &new.labels)?;
    let sha256 = Sha256Hex::parse("sha256", &new.sha256)?;
    let pool = records::pool(tx, &new.pool)?.record;
    let boot = match &new.boot {
        Some(_) if new.kind != ImageKind::Disk => {
            return Err(Failure::invalid(
                "boot",
                new.kind.as_str(),
                "images are not booted from: only disks have boot defaults",
            ));
        }
        Some((kernel, initrd, cmdline)) => Some(boot(tx, kernel, initrd, cmdline)?),
        None => None,
    };
    let image = Image {
        id: Id::new(),
        name,
        kind: new.kind,
        format: ImageFormat::Raw,
        pool: pool.id,
        file_size_bytes: new.size_bytes,
        virtual_size_bytes: 0,
        sha256,
        boot,
        url: new.url.clone(),
        labels: new.labels.clone(),
        phase: ImagePhase::Creating,
    };
    tx.insert(&image)?;
    Ok(image)
}

fn boot(tx: &ReadTx<'_>, kernel: &str, initrd: &str, cmdline: &str) -> Result<ImageBoot, Failure> {
    if kernel.is_empty() {
        return Err(Failure::invalid("boot.kernel", kernel, "is missing: name an image of kind KERNEL"));
    }
    check_cmdline("boot.cmdline", cmdline)?;
    let kernel = records::image_of_kind(tx, "boot.kernel", kernel, ImageKind::Kernel)?.record.id;
    let initrd = match initrd {
        "" => None,
        initrd => Some(records::image_of_kind(tx, "boot.initrd", initrd, ImageKind::Initrd)?.record.id),
    };
    Ok(ImageBoot { kernel, initrd, cmdline: cmdline.to_owned() })
}

/// Notes that an image is to be deleted; from then on callers do not see it.
///
/// # Errors
/// `NotFound`, `Aborted`, `FailedPrecondition`.
pub fn reserve_image_deletion(
    tx: &WriteTx<'_>,
    users: &dyn DiskUsers,
    asked: &str,
    expected: Option<u64>,
) -> Result<Image, Failure> {
    let mut image = records::image(tx, asked)?.record;
    records::free_of_vms(users.uses(tx)?.images.get(&image.id), "be deleted")?;
    records::free_of_links(tx, &Base::Image(image.id.clone()), "be deleted")?;
    records::free_of_boots(tx, &image.id)?;
    image.phase = ImagePhase::Deleting;
    tx.update(&image, expected)?;
    Ok(image)
}
