//! Raw disks: bytes of the disk are bytes of the file.
//!
//! Opened by the main thread; a queue runs on one reactor thread. Which way a request goes was measured
//! (`cargo run --release --example disk_ways FILE`, figures in `vmm/src/backend/README.md`):
//!
//! - What is in the page cache is read on the spot by `preadv2(RWF_NOWAIT)`: nothing is faster, at any depth. What is not
//!   there answers `EAGAIN` and goes to `io_uring`, so that a slow disk never holds up the thread.
//! - Buffered writes go the same way where the file system knows `RWF_NOWAIT` for them (XFS, btrfs). Where it does not (ext4),
//!   `io_uring` would hand each write to a kernel thread, 40 times as slow: they are written on the spot while that is quick
//!   ([`super::inline_gate`]) and needs no reading.
//! - Direct I/O, flushes and (de)allocation go to `io_uring`, one system call for the batch.
//!
//! Without `io_uring` (some containers and hardened hosts) everything is done on the spot, which may block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::inline_gate::InlineGate;
use super::open::{DiskFile, LockedFile};
use super::ring::Ring;
use super::slot::{Alignment, Job, Outcome, Slot};
use super::{Disk, DiskError, DiskQueue, DiskRequest, DiskShape, OnDone, Started};

/// Granularity of the page cache in bytes.
const PAGE: u64 = 4096;

/// Which ways requests may take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ways {
    /// Each the one that suits it.
    #[default]
    Both,
    /// All over the ring: to measure what the other way is worth.
    RingOnly,
    /// All on the spot, which may block: for a disk that comes when no ring can be made any more.
    InlineOnly,
}

/// A raw disk; see the module's header.
pub struct RawDisk {
    name: String,
    backing: Arc<RawFile>,
    shape: DiskShape,
    ways: Ways,
}

/// What the queues of a disk share.
struct RawFile {
    file: LockedFile,
    capacity: u64,
    alignment: Alignment,
    direct: bool,
    /// The file lives in memory: nothing blocks.
    in_memory: bool,
    read_only: bool,
    /// Held while old data around a small direct write is read and written back.
    patching: Mutex<()>,
}

impl RawDisk {
    /// A raw disk on an opened file.
    pub fn new(opened: DiskFile, ways: Ways) -> Result<Self, DiskError> {
        let mut shape = opened.shape()?;
        shape.may_block = ways == Ways::InlineOnly;
        let alignment = opened.alignment();
        if !shape.capacity_bytes.is_multiple_of(alignment.offset) {
            let reason = "direct I/O needs a multiple of the host's block size";
            return Err(DiskError::Size { name: opened.name, size_bytes: shape.capacity_bytes, reason });
        }
        let backing = RawFile {
            capacity: shape.capacity_bytes,
            alignment,
            direct: opened.direct,
            in_memory: opened.in_memory(),
            read_only: shape.read_only,
            patching: Mutex::new(()),
            file: opened.file,
        };
        Ok(Self { name: opened.name, backing: Arc::new(backing), shape, ways })
    }
}

impl Disk for RawDisk {
    fn shape(&self) -> DiskShape {
        self.shape
    }

    fn open_queue(&self, depth: u16) -> Result<Box<dyn DiskQueue>, DiskError> {
        let mut queue = RawQueue::new(self.backing.clone(), depth);
        if self.ways == Ways::InlineOnly {
            return Ok(Box::new(queue));
        }
        match Ring::new(self.backing.file.as_fd(), depth) {
            Ok(ring) => queue.ring = Some(ring),
            Err(error) => log::warn!("Disk {} goes without io_uring, which this host refuses: {error}", self.name),
        }
        queue.inline = self.ways == Ways::Both;
        Ok(Box::new(queue))
    }
}

/// A queue of a raw disk.
pub(super) struct RawQueue {
    backing: Arc<RawFile>,
    ring: Option<Ring>,
    /// Whether requests may be tried on the spot although there is a ring.
    inline: bool,
    slots: Vec<Slot>,
    free: Vec<u16>,
    nowait_reads: bool,
    nowait_writes: bool,
    gate: InlineGate,
}

impl RawQueue {
    fn new(backing: Arc<RawFile>, depth: u16) -> Self {
        Self {
            backing,
            ring: None,
            inline: true,
            slots: (0..depth).map(|_| Slot::new()).collect(),
            free: (0..depth).rev().collect(),
            nowait_reads: true,
            nowait_writes: true,
            gate: InlineGate::default(),
        }
    }

    /// `preadv2` flags with which the slot's request may be tried on the spot; `None` if it may not.
    fn inline_flags(&mut self, slot: &Slot) -> Option<i32> {
        let RawFile { direct, in_memory, .. } = *self.backing;
        match slot.job {
            _ if !self.inline => None,
            Job::Read | Job::Write if in_memory => Some(0),
            Job::Read if !direct && self.nowait_reads => Some(libc::RWF_NOWAIT),
            Job::Write if !direct && self.nowait_writes => Some(libc::RWF_NOWAIT),
            Job::Write if !direct && self.needs_no_reading(slot) && self.gate.is_open(Instant::now()) => Some(0),
            _ => None,
        }
    }

    /// Whether the pages that a write covers in part are in the page cache already.
    fn needs_no_reading(&self, slot: &Slot) -> bool {
        [slot.offset, slot.offset + slot.left()].into_iter().all(|end| {
            let mut byte = 0_u8;
            let iovec = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
            let step = super::ring::Step::Read(&raw const iovec, 1, end);
            // SAFETY: the iovec and its byte are on this stack frame.
            end.is_multiple_of(PAGE) || unsafe { step.run(self.backing.file.as_fd(), libc::RWF_NOWAIT) }.is_ok()
        })
    }

    /// Tries a request on the spot; `None` if it, or the rest of it, must go to the ring.
    fn try_inline(&mut self, slot: &mut Slot) -> Option<io::Result<u32>> {
        if slot.needs_patching(self.backing.alignment) {
            return Some(self.patch(slot));
        }
        loop {
            let flags = match &self.ring {
                None => 0,
                Some(_) => self.inline_flags(slot)?,
            };
            let plain_write = flags == 0 && slot.job == Job::Write;
            let start = plain_write.then(Instant::now);
            let step = slot.next_step(self.backing.alignment);
            // SAFETY: the step points to the slot's iovecs, those to guest RAM or the slot's bounce buffer; all outlive
            // the call.
            let result = unsafe { step.run(self.backing.file.as_fd(), flags) };
            if let Some(start) = start {
                self.gate.record(start, Instant::now());
            }
            match result {
                Err(e) if flags != 0 && e.kind() == io::ErrorKind::WouldBlock => return None,
                Err(e) if flags != 0 && e.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                    let nowait = if slot.job == Job::Read { &mut self.nowait_reads } else { &mut self.nowait_writes };
                    *nowait = false;
                }
                result => {
                    if let Outcome::Finished(result) = slot.complete(result, self.backing.alignment) {
                        return Some(result);
                    }
                }
            }
        }
    }

    /// Writes a request whose ends lie within the host's blocks: reads what is around it and writes it back. Blocks;
    /// only drivers that ignore the block size come here. As on hardware, writes to one block that are in flight
    /// together end in either order.
    fn patch(&mut self, slot: &mut Slot) -> io::Result<u32> {
        let backing = self.backing.clone();
        let _alone = backing.patching.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let (read, write) = slot.patch_steps(backing.alignment);
            // SAFETY: both steps point to the slot's bounce buffer, which outlives the calls.
            unsafe { read.run(backing.file.as_fd(), 0) }?;
            slot.copy_in(backing.alignment);
            // SAFETY: as above.
            let written = unsafe { write.run(backing.file.as_fd(), 0) };
            if let Outcome::Finished(result) = slot.complete(written, backing.alignment) {
                return result;
            }
        }
    }

    /// Hands the slot's next step to the ring; an error when that is impossible.
    fn issue(&mut self, index: u16) -> io::Result<()> {
        let full = || io::Error::from(io::ErrorKind::ResourceBusy);
        let slot = self.slots.get_mut(usize::from(index)).ok_or_else(full)?;
        let ring = self.ring.as_mut().ok_or_else(full)?;
        let step = slot.next_step(self.backing.alignment);
        // SAFETY: the step points to the slot's iovecs, which change only when its end was told; those point to guest RAM,
        // mapped until the process ends, or to the slot's bounce buffer, kept until `drop` has drained the queue.
        if unsafe { ring.push(step, u64::from(index)) } { Ok(()) } else { Err(full()) }
    }

    /// The end of one step of the ring: tells of the request's end or sends the next step.
    fn on_step(&mut self, name: u64, result: io::Result<u32>, done: OnDone<'_>) {
        let index = name as u16;
        let alignment = self.backing.alignment;
        let Some(slot) = self.slots.get_mut(usize::from(index)) else { return };
        let tag = slot.tag;
        let ended = match slot.complete(result, alignment) {
            Outcome::Finished(result) => Some(result),
            Outcome::Again if slot.needs_patching(alignment) => {
                let mut slot = std::mem::replace(slot, Slot::new());
                Some(self.patch(&mut slot))
            }
            Outcome::Again => self.issue(index).err().map(Err),
        };
        if let Some(result) = ended {
            self.free.push(index);
            done(tag, result);
        }
    }

    fn reap_waiting(&mut self, wait_for: usize, done: OnDone<'_>) -> io::Result<()> {
        let Some(ring) = self.ring.as_mut() else { return Ok(()) };
        if wait_for > 0 {
            ring.submit(wait_for)?;
        } else {
            ring.collect()?;
        }
        while let Some((name, result)) = self.ring.as_mut().and_then(Ring::next) {
            self.on_step(name, result, done);
        }
        self.submit()
    }
}

impl DiskQueue for RawQueue {
    fn start(&mut self, request: DiskRequest<'_>, tag: u32) -> Started {
        let writes = !matches!(request, DiskRequest::Read { .. } | DiskRequest::Flush);
        if writes && self.backing.read_only {
            return Started::Done(Err(io::ErrorKind::ReadOnlyFilesystem.into()));
        }
        let Some(index) = self.free.pop() else { return Started::Done(Err(io::ErrorKind::ResourceBusy.into())) };
        let Some(slot) = self.slots.get_mut(usize::from(index)) else {
            return Started::Done(Err(io::ErrorKind::ResourceBusy.into()));
        };
        let mut slot = std::mem::replace(slot, Slot::new());
        let result = match slot.load(request, tag, self.backing.capacity) {
            Err(e) => Some(Err(e)),
            Ok(()) if slot.is_empty() => Some(Ok(0)),
            Ok(()) => self.try_inline(&mut slot),
        };
        if let Some(home) = self.slots.get_mut(usize::from(index)) {
            *home = slot;
        }
        let ended = result.or_else(|| self.issue(index).err().map(Err));
        match ended {
            None => Started::Pending,
            Some(result) => {
                self.free.push(index);
                Started::Done(result)
            }
        }
    }

    fn submit(&mut self) -> io::Result<()> {
        self.ring.as_mut().map_or(Ok(()), |ring| ring.submit(0))
    }

    fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        self.ring.as_ref().map(Ring::as_fd)
    }

    fn reap(&mut self, done: OnDone<'_>) -> io::Result<()> {
        self.reap_waiting(0, done)
    }

    fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    fn drain(&mut self, done: OnDone<'_>) -> io::Result<()> {
        while self.in_flight() > 0 {
            self.reap_waiting(1, done)?;
        }
        Ok(())
    }
}

impl Drop for RawQueue {
    fn drop(&mut self) {
        if self.drain(&mut |_, _| ()).is_err() {
            // The kernel may still use bounce buffers: better lost than handed to somebody else.
            std::mem::forget(std::mem::take(&mut self.slots));
        }
    }
}
