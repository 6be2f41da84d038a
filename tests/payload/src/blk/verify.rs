//! The disk keeps what it is given: through the driver crate, then the requests that the crate does not know.

use alloc::format;
use alloc::string::String;
use alloc::vec;

use payload_logic::pattern;
use virtio_drivers::device::blk::VirtIOBlk;
use virtio_drivers::transport::DeviceType;

use super::{DISCARD, Disk, FLUSH, IO_ERROR, Kind, OK, READ_ONLY, SECTOR, WRITE_ZEROES};
use crate::dma::Identity;
use crate::ensure;
use crate::machine::Machine;
use crate::report::{Outcome, Report};

const PIECE: usize = 64 << 10;

/// `blk-verify`: writes the first `mib=` MiB (default 16, at most the disk) in pieces, flushes, reads them back.
pub fn verify(machine: &mut Machine<'_>, report: &mut Report) -> Outcome {
    let seed = machine.options.number("seed").unwrap_or(1);
    let read_only = through_the_crate(machine, report, seed)?;
    let mut disk = Disk::start(machine, 1, PIECE as u32)?;
    beyond_the_end(machine, &mut disk)?;
    let serial = disk.request(machine, Kind::GetId, 0, 20)?;
    ensure!(serial == OK, "Asking for the serial number gave status {serial}");
    if read_only {
        return refusals(machine, &mut disk);
    }
    if disk.features & WRITE_ZEROES != 0 {
        range_request(machine, &mut disk, Kind::WriteZeroes)?;
        let zeroed = read_sectors(machine, &mut disk, 8, 16)?.iter().all(|byte| *byte == 0);
        ensure!(zeroed, "Write-zeroes left other bytes");
    }
    if disk.features & DISCARD != 0 {
        range_request(machine, &mut disk, Kind::Discard)?;
    }
    report.value("write_zeroes", disk.features & WRITE_ZEROES != 0).value("discard", disk.features & DISCARD != 0);
    // The neighbours of the zeroed and discarded range are as written.
    let before = read_sectors(machine, &mut disk, 0, 8)?;
    let mut expected = vec![0; PIECE];
    pattern::fill(&mut expected, seed << 32);
    ensure!(
        before == expected.get(..8 * SECTOR as usize).unwrap_or_default(),
        "The range request changed its neighbours"
    );
    // What the range requests took away is put back: a later run with `keep=1` reads it all.
    let taken = expected.get(8 * SECTOR as usize..24 * SECTOR as usize).unwrap_or_default();
    disk.data(0)[..taken.len()].copy_from_slice(taken);
    ensure!(disk.request(machine, Kind::Write, 8, taken.len() as u32)? == OK, "Writing the range back failed");
    if disk.features & FLUSH != 0 {
        ensure!(disk.request(machine, Kind::Flush, 0, 0)? == OK, "A flush failed");
    }
    Ok(())
}

/// Capacity, serial number, write, flush, read back. Returns whether the disk is read-only.
fn through_the_crate(machine: &mut Machine<'_>, report: &mut Report, seed: u64) -> Result<bool, String> {
    let words = |error| move |what| format!("{error} failed: {what}");
    let transport = machine.transport(DeviceType::Block)?;
    let mut disk = VirtIOBlk::<Identity, _>::new(transport).map_err(words("Starting the disk"))?;
    let mut id = [0; 20];
    let id_length = disk.device_id(&mut id).unwrap_or(0);
    let id = str::from_utf8(id.get(..id_length).unwrap_or_default()).unwrap_or("?");
    let bytes = disk.capacity() * SECTOR;
    let read_only = disk.readonly();
    report.value("capacity", bytes).text("id", id).value("read_only", read_only);
    let most = machine.options.number("mib").unwrap_or(16) << 20;
    let pieces = (bytes.min(most) as usize / PIECE).max(1);
    let mut buffer = vec![0; PIECE.min(bytes as usize)];
    if !read_only && machine.options.text("keep").is_none() {
        for piece in 0..pieces {
            pattern::fill(&mut buffer, (seed << 32) + piece as u64);
            disk.write_blocks(piece * PIECE / SECTOR as usize, &buffer).map_err(words("A write"))?;
        }
        disk.flush().map_err(words("A flush"))?;
    }
    if read_only && machine.options.text("keep").is_none() {
        disk.read_blocks(0, &mut buffer).map_err(words("A read"))?;
        return Ok(true);
    }
    for piece in 0..pieces {
        buffer.fill(0);
        disk.read_blocks(piece * PIECE / SECTOR as usize, &mut buffer).map_err(words("A read"))?;
        if let Some(offset) = pattern::first_difference(&buffer, (seed << 32) + piece as u64) {
            return Err(format!("Byte {} is not what was written", piece * PIECE + offset));
        }
    }
    report.value("verified", pieces * PIECE);
    Ok(read_only)
}

fn read_sectors<'a>(machine: &Machine<'_>, disk: &'a mut Disk, sector: u64, count: u32) -> Result<&'a [u8], String> {
    let length = count * SECTOR as u32;
    ensure!(disk.request(machine, Kind::Read, sector, length)? == OK, "A read of sector {sector} failed");
    Ok(disk.data(0).get(..length as usize).unwrap_or_default())
}

/// Sectors 8 to 23, told in the 16 bytes that range requests carry.
fn range_request(machine: &Machine<'_>, disk: &mut Disk, kind: Kind) -> Outcome {
    let mut range = [0_u8; 16];
    range[0] = 8;
    range[8] = 16;
    disk.data(0)[..16].copy_from_slice(&range);
    let status = disk.request(machine, kind, 0, 16)?;
    ensure!(status == OK, "{kind:?} failed with status {status}");
    Ok(())
}

fn beyond_the_end(machine: &Machine<'_>, disk: &mut Disk) -> Outcome {
    let status = disk.request(machine, Kind::Read, disk.sectors(), SECTOR as u32)?;
    ensure!(status == IO_ERROR, "A read beyond the end came back with status {status}");
    Ok(())
}

fn refusals(machine: &Machine<'_>, disk: &mut Disk) -> Outcome {
    ensure!(disk.features & READ_ONLY != 0, "The disk says read-only only to the driver crate");
    let before = read_sectors(machine, disk, 0, 1)?.to_vec();
    disk.data(0).fill(0xa5);
    let status = disk.request(machine, Kind::Write, 0, SECTOR as u32)?;
    ensure!(status == IO_ERROR, "A write to a read-only disk came back with status {status}");
    ensure!(read_sectors(machine, disk, 0, 1)? == before, "A refused write changed the disk");
    Ok(())
}
