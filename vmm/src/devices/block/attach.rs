//! The registry's row: opens the disks of a plan.
//!
//! Main thread, before the sandbox. The one place of this room that knows paths, fds and formats.

use std::error::Error as _;
use std::fs::File;
use std::num::NonZeroU64;
use std::path::Path;

use super::device::BlockError;
use super::{Block, BlockOptions};
use crate::backend::disk::chain::Backing;
use crate::backend::disk::open::{DiskAccess, DiskFile};
use crate::backend::disk::qcow2::Qcow2Disk;
use crate::backend::disk::raw::{RawDisk, Ways};
use crate::backend::disk::{Disk, DiskError};
use crate::config::{DiskFormat, DiskPlan, FdName, Source};
use crate::devices::registry::Opener;
use crate::machine::OpenError;
use crate::virtio::Device;
use crate::virtio::rate_limit::RateLimit;

/// Makes a device of each disk in the plan.
pub fn attach(opener: &mut Opener<'_>) -> Result<Vec<Box<dyn Device>>, OpenError> {
    let plans = opener.plan.disks.clone();
    plans.iter().map(|plan| Ok(Box::new(attach_one(opener, plan)?) as Box<dyn Device>)).collect()
}

fn attach_one(opener: &mut Opener<'_>, plan: &DiskPlan) -> Result<Block, OpenError> {
    let access = DiskAccess { read_only: plan.readonly, direct: plan.direct };
    let disk = match &plan.source {
        Source::Path(path) => open_path(path, plan.format, access),
        Source::Fd(name) => {
            let below = plan.below.iter().map(|name| Ok((name, File::from(opener.passed("--disk", name)?))));
            let below = below.collect::<Result<Vec<_>, OpenError>>()?;
            let file = File::from(opener.passed("--disk", name)?);
            use_files(DiskFile::adopt(format!("fd:{name}"), file, access), below, plan.format)
        }
    };
    let options = BlockOptions {
        id: plan.id.as_str().to_owned(),
        serial: plan.serial.as_str().to_owned(),
        queues: plan.queues.get(),
        limit: RateLimit { operations: plan.iops.and_then(NonZeroU64::new), bytes: plan.bps.and_then(NonZeroU64::new) },
    };
    let block = disk.map_err(BlockError::from).and_then(|disk| Block::new(disk, options));
    let block = block.map_err(|error| refused(plan, &error))?;
    opener.handles.limits.insert(plan.id.as_str().to_owned(), Box::new(block.limits()));
    Ok(block)
}

fn open_path(path: &Path, format: DiskFormat, access: DiskAccess) -> Result<Box<dyn Disk>, DiskError> {
    match format {
        DiskFormat::Raw => use_files(DiskFile::open(path, access), Vec::new(), format),
        DiskFormat::Qcow2 => Ok(Box::new(Qcow2Disk::open(path, access, Backing::default())?)),
    }
}

/// A disk of files that are open: the image, and those below it in order.
fn use_files(
    top: Result<DiskFile, DiskError>,
    below: Vec<(&FdName, File)>,
    format: DiskFormat,
) -> Result<Box<dyn Disk>, DiskError> {
    let top = top?;
    match format {
        DiskFormat::Raw => Ok(Box::new(RawDisk::new(top, Ways::Both)?)),
        DiskFormat::Qcow2 => {
            let access = DiskAccess { read_only: true, direct: top.is_direct() };
            let below = below.into_iter().map(|(name, file)| DiskFile::adopt(format!("fd:{name}"), file, access));
            Ok(Box::new(Qcow2Disk::adopt(top, below.collect::<Result<_, _>>()?)?))
        }
    }
}

fn refused(plan: &DiskPlan, error: &BlockError) -> OpenError {
    let value = match &plan.source {
        Source::Path(path) => format!("path={}", path.display()),
        Source::Fd(name) => format!("path=fd:{name}"),
    };
    let mut reason = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        reason = format!("{reason}: {cause}");
        source = cause.source();
    }
    OpenError::new("--disk", value, reason)
}
