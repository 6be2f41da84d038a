//! A descriptor chain becomes a checked request (virtio 1.3 section 5.2.6).
//!
//! Called by the worker. Pure: the header is read once, and what comes out can be trusted.

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};

use crate::backend::disk::{DiskShape, SECTOR};
use crate::virtio::{Chain, GuestFault};

/// Length of the header in bytes: type, reserved, sector.
pub(super) const HEADER_BYTES: usize = 16;
/// Length of a discard or write-zeroes segment in bytes: sector, number of sectors, flags.
const SEGMENT_BYTES: u32 = 16;
/// Most sectors in one discard or write-zeroes segment: 1 GiB.
pub(super) const SEGMENT_SECTORS_MAX: u32 = 1 << 21;

/// The status byte of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = VIRTIO_BLK_S_OK as u8,
    IoError = VIRTIO_BLK_S_IOERR as u8,
    Unsupported = VIRTIO_BLK_S_UNSUPP as u8,
}

/// What the driver asks for; offsets and lengths in bytes, inside the disk. The data of a read is all of the chain's
/// writable part but its last byte, that of a write all of the readable part behind the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    Read {
        offset: u64,
        len: u32,
    },
    Write {
        offset: u64,
        len: u32,
    },
    Flush,
    Discard {
        offset: u64,
        len: u64,
    },
    WriteZeroes {
        offset: u64,
        len: u64,
        unmap: bool,
    },
    Identify {
        len: u32,
    },
    /// Well-formed, but the answer is no.
    Refuse(Status),
}

impl Request {
    /// Bytes that count against a rate limit and in statistics.
    pub(super) fn data_bytes(&self) -> u64 {
        match *self {
            Self::Read { len, .. } | Self::Write { len, .. } => u64::from(len),
            _ => 0,
        }
    }
}

/// Where data of `len` bytes at `sector` lies, if that is inside the disk.
fn range(sector: u64, len: u64, shape: &DiskShape) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR)?;
    let end = offset.checked_add(len)?;
    (len.is_multiple_of(SECTOR) && end <= shape.capacity_bytes).then_some(offset)
}

/// Reads a chain's request. A fault is a chain that no answer can be given to, or one whose buffers point the wrong way.
pub(super) fn parse(chain: &Chain, shape: &DiskShape) -> Result<Request, GuestFault> {
    let wrong = |reason| GuestFault::Length { head: chain.head(), reason };
    let data_in = chain.writable.len().checked_sub(1).ok_or(wrong("no room for the status byte"))?;
    let header: [u32; 4] = chain.readable.read_obj(0).ok_or(wrong("shorter than a request header"))?;
    let [kind, _reserved, sector_low, sector_high] = header.map(u32::from_le);
    let sector = u64::from(sector_low) | u64::from(sector_high) << 32;
    let data_out = chain.readable.len().saturating_sub(HEADER_BYTES as u32);
    let io_error = Request::Refuse(Status::IoError);
    Ok(match kind {
        VIRTIO_BLK_T_IN if data_out > 0 => return Err(GuestFault::Protocol("A disk read has device-readable data")),
        VIRTIO_BLK_T_OUT if data_in > 0 => return Err(GuestFault::Protocol("A disk write has device-writable data")),
        VIRTIO_BLK_T_IN => {
            range(sector, data_in.into(), shape).map_or(io_error, |offset| Request::Read { offset, len: data_in })
        }
        VIRTIO_BLK_T_OUT if shape.read_only => io_error,
        VIRTIO_BLK_T_OUT => {
            range(sector, data_out.into(), shape).map_or(io_error, |offset| Request::Write { offset, len: data_out })
        }
        VIRTIO_BLK_T_FLUSH => Request::Flush,
        VIRTIO_BLK_T_GET_ID => Request::Identify { len: data_in },
        VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES if shape.discard => {
            segment(chain, kind == VIRTIO_BLK_T_DISCARD, data_out, shape)?
        }
        _ => Request::Refuse(Status::Unsupported),
    })
}

/// The one segment of a discard or write-zeroes request (we say that we take one).
fn segment(chain: &Chain, discard: bool, data_out: u32, shape: &DiskShape) -> Result<Request, GuestFault> {
    if data_out != SEGMENT_BYTES {
        return Ok(Request::Refuse(Status::IoError));
    }
    let missing = GuestFault::Length { head: chain.head(), reason: "shorter than a segment" };
    let words: [u32; 4] = chain.readable.read_obj(HEADER_BYTES).ok_or(missing)?;
    let [sector_low, sector_high, sectors, flags] = words.map(u32::from_le);
    let unmap = flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0;
    // Section 5.2.6.2: unknown flags, and the unmap flag on a discard, are unsupported.
    if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP != 0 || (discard && unmap) {
        return Ok(Request::Refuse(Status::Unsupported));
    }
    let sector = u64::from(sector_low) | u64::from(sector_high) << 32;
    let len = u64::from(sectors).saturating_mul(SECTOR);
    Ok(match range(sector, len, shape) {
        Some(offset) if discard && sectors <= SEGMENT_SECTORS_MAX => Request::Discard { offset, len },
        Some(offset) if sectors <= SEGMENT_SECTORS_MAX => Request::WriteZeroes { offset, len, unmap },
        _ => Request::Refuse(Status::IoError),
    })
}
