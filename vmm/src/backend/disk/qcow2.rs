//! qcow2 disks, with their backing chains, by the crate `imago`.
//!
//! Opened by the main thread before the sandbox is entered ([`super::chain`] says what may be opened); used on reactor threads.
//!
//! Every request is done on the spot and may block, because what a request needs is known only while its metadata is being
//! read; [`DiskShape::may_block`] says so, and several queues work at the same time. Data goes through a buffer
//! of ours: the library takes Rust slices, and nothing may make those of guest memory, which can change and overlap.

use std::io;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use imago::FormatAccess;
use imago::file::File as ImageFile;
use imago::io_buffers::IoBuffer;

use super::chain::{self, Backing, Chain};
use super::open::{DiskAccess, DiskFile};
use super::{Disk, DiskError, DiskQueue, DiskRequest, DiskShape, OnDone, SECTOR, Started};
use crate::memory::GuestSlice;

/// Bytes moved at a time.
const BUFFER_BYTES: usize = 128 << 10;
/// Granularity at which writes are cheapest: the usual cluster size in bytes.
const CLUSTER_BYTES: u32 = 64 << 10;

/// A qcow2 disk; see the module's header.
pub struct Qcow2Disk {
    image: Arc<Image>,
    shape: DiskShape,
}

/// What the queues of a disk share.
struct Image {
    /// Written-locked only for discards, which may move clusters under a concurrent request's feet.
    access: RwLock<FormatAccess<ImageFile>>,
    capacity: u64,
    read_only: bool,
    name: String,
    // Hold the locks; let go after `access` has written its metadata back.
    _files: Vec<DiskFile>,
}

impl Qcow2Disk {
    /// Opens the image at `path` and the backing files that it names and `backing` allows.
    pub fn open(path: &Path, access: DiskAccess, backing: Backing) -> Result<Self, DiskError> {
        Self::new(chain::open_by_path(path, access, backing)?)
    }

    /// Uses an image and the layers below it, in order, all opened by somebody else. Their formats are in the headers.
    pub fn adopt(top: DiskFile, below: Vec<DiskFile>) -> Result<Self, DiskError> {
        Self::new(chain::open_given(top, below)?)
    }

    fn new(chain: Chain) -> Result<Self, DiskError> {
        let Chain { access, files } = chain;
        let size_bytes = access.size();
        let capacity = size_bytes - size_bytes % SECTOR;
        let (name, read_only) = files.first().map(|top| (top.name.clone(), top.read_only)).unwrap_or_default();
        if capacity == 0 {
            let reason = "a disk has at least one sector of 512 bytes";
            return Err(DiskError::Size { name, size_bytes, reason });
        }
        let block_size = u32::try_from(access.req_align()).unwrap_or(4096).max(SECTOR as u32);
        let shape = DiskShape {
            capacity_bytes: capacity,
            read_only,
            block_size,
            physical_block_size: block_size.max(CLUSTER_BYTES),
            discard: !read_only,
            may_block: true,
        };
        let image = Image { access: RwLock::new(access), capacity, read_only, name, _files: files };
        Ok(Self { image: Arc::new(image), shape })
    }
}

impl Disk for Qcow2Disk {
    fn shape(&self) -> DiskShape {
        self.shape
    }

    fn open_queue(&self, _depth: u16) -> Result<Box<dyn DiskQueue>, DiskError> {
        Ok(Box::new(Qcow2Queue { image: self.image.clone(), buffer: None }))
    }
}

impl Image {
    fn check(&self, offset: u64, len: u64) -> io::Result<()> {
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.capacity);
        if inside { Ok(()) } else { Err(io::ErrorKind::InvalidInput.into()) }
    }

    /// Writes metadata back that is only in memory, and makes all durable if asked to.
    fn flush(&self, durable: bool) -> io::Result<()> {
        if self.read_only {
            return Ok(());
        }
        let access = self.access.read().unwrap_or_else(PoisonError::into_inner);
        access.flush()?;
        if durable { access.sync() } else { Ok(()) }
    }

    fn clear(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.check(offset, len)?;
        if unmap {
            return self.access.write().unwrap_or_else(PoisonError::into_inner).discard_to_zero(offset, len);
        }
        self.access.read().unwrap_or_else(PoisonError::into_inner).write_zeroes(offset, len)
    }
}

/// A queue of a qcow2 disk.
struct Qcow2Queue {
    image: Arc<Image>,
    /// Allocated when first needed, then kept.
    buffer: Option<IoBuffer>,
}

impl Qcow2Queue {
    /// Moves data between the image and guest buffers, a bufferful at a time; the bytes moved.
    fn transfer(&mut self, offset: u64, buffers: &[GuestSlice], write: bool) -> io::Result<u32> {
        let total: u64 = buffers.iter().map(|b| b.len() as u64).sum();
        let moved = u32::try_from(total).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        self.image.check(offset, total)?;
        let access = self.image.access.read().unwrap_or_else(PoisonError::into_inner);
        let bounce = match &mut self.buffer {
            Some(buffer) => buffer,
            none => none.insert(IoBuffer::new(BUFFER_BYTES, access.mem_align())?),
        };
        let mut cursor = Cursor { buffers, skip: 0 };
        let mut done = 0;
        while done < total {
            let len = (total - done).min(BUFFER_BYTES as u64) as usize;
            let at = offset.saturating_add(done);
            if write {
                cursor.copy(bounce.as_mut_range(0..len).into_slice(), GuestSlice::read);
                access.write(bounce.as_ref_range(0..len), at)?;
            } else {
                access.read(bounce.as_mut_range(0..len), at)?;
                cursor.copy(bounce.as_mut_range(0..len).into_slice(), |slice, skip, bytes| slice.write(skip, bytes));
            }
            done += len as u64;
        }
        Ok(moved)
    }
}

/// A place in a list of guest buffers.
struct Cursor<'a> {
    buffers: &'a [GuestSlice],
    skip: usize,
}

impl Cursor<'_> {
    /// Calls `move_bytes(guest buffer, offset in it, bytes)` along the list until all of `bytes` are done.
    fn copy(&mut self, mut bytes: &mut [u8], move_bytes: impl Fn(&GuestSlice, usize, &mut [u8]) -> usize) {
        while let Some((first, rest)) = self.buffers.split_first() {
            let moved = move_bytes(first, self.skip, bytes);
            bytes = bytes.get_mut(moved..).unwrap_or_default();
            self.skip += moved;
            if self.skip < first.len() {
                return;
            }
            (self.buffers, self.skip) = (rest, 0);
        }
    }
}

impl DiskQueue for Qcow2Queue {
    fn start(&mut self, request: DiskRequest<'_>, _tag: u32) -> Started {
        let writes = !matches!(request, DiskRequest::Read { .. } | DiskRequest::Flush);
        if writes && self.image.read_only {
            return Started::Done(Err(io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        Started::Done(match request {
            DiskRequest::Read { offset, to } => self.transfer(offset, to, false),
            DiskRequest::Write { offset, from } => self.transfer(offset, from, true),
            DiskRequest::Flush => self.image.flush(true).map(|()| 0),
            DiskRequest::Discard { offset, len } => self.image.clear(offset, len, true).map(|()| 0),
            DiskRequest::WriteZeroes { offset, len, unmap } => self.image.clear(offset, len, unmap).map(|()| 0),
        })
    }

    fn submit(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn reap(&mut self, _done: OnDone<'_>) -> io::Result<()> {
        Ok(())
    }

    fn in_flight(&self) -> usize {
        0
    }

    /// Nothing is in flight; but a pause or an end should find the image whole on the host.
    fn drain(&mut self, _done: OnDone<'_>) -> io::Result<()> {
        self.image.flush(false)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(error) = self.flush(false) {
            log::error!("Disk {}: metadata could not be written back: {error}", self.name);
        }
    }
}
