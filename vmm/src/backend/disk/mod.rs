//! Disks of the host: a file or block device, raw or qcow2, behind one pair of traits.
//!
//! A [`Disk`] is opened by the main thread before the sandbox is entered, with one [`DiskQueue`] for each virtqueue:
//! rings, fds and locks all exist by then. A queue belongs to one reactor thread at a time and never spawns a thread.
//!
//! ```text
//!   open::DiskFile ──► raw::RawDisk ─────┐                ┌── start ──► Done (page cache, or a short system call)
//!   (checked, locked)                    ├─► Disk ──► DiskQueue
//!   chain (what may be opened) ► Qcow2Disk ┘              └── start ──► Pending ──submit──► io_uring ──reap──► done
//! ```
//!
//! The kernel writes into guest buffers after `start` has returned. That is sound because a
//! [`GuestSlice`] stays mapped until the process ends; that nothing is written *after a reset or a pause* is what
//! [`DiskQueue::drain`] is for.

pub mod chain;
mod inline_gate;
pub mod open;
pub mod qcow2;
pub mod raw;
mod ring;
mod slot;

#[cfg(test)]
mod qcow2_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::BorrowedFd;

use crate::memory::GuestSlice;

/// Unit of addresses on a virtio disk in bytes (virtio 1.3 section 5.2).
pub const SECTOR: u64 = 512;

/// What a disk is like, for the guest's eyes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskShape {
    /// Size in bytes, a multiple of [`SECTOR`].
    pub capacity_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// Logical block size in bytes: smaller accesses work but cost a read before each write.
    pub block_size: u32,
    /// Size in bytes at which writes are cheapest, a power of two, at least `block_size`.
    pub physical_block_size: u32,
    /// `Discard` and `WriteZeroes` are possible.
    pub discard: bool,
    /// A request may block the thread that starts it: give each queue a thread of its own if other devices must not
    /// wait.
    pub may_block: bool,
}

/// One request to a disk. Buffers are given to the kernel as they are; lengths and offsets are in bytes.
#[derive(Clone, Copy, Debug)]
pub enum DiskRequest<'a> {
    /// Fill the buffers from the disk.
    Read {
        /// Where on the disk.
        offset: u64,
        /// Buffers to fill.
        to: &'a [GuestSlice],
    },
    /// Write the buffers to the disk.
    Write {
        /// Where on the disk.
        offset: u64,
        /// Buffers to write.
        from: &'a [GuestSlice],
    },
    /// Make everything that was completed before durable.
    Flush,
    /// The contents of a range are not needed any more.
    Discard {
        /// Where on the disk.
        offset: u64,
        /// Length.
        len: u64,
    },
    /// A range reads as zeros afterwards.
    WriteZeroes {
        /// Where on the disk.
        offset: u64,
        /// Length.
        len: u64,
        /// Whether the range may lose its space on the host.
        unmap: bool,
    },
}

/// What became of a request that was started.
#[derive(Debug)]
pub enum Started {
    /// It is finished: so many bytes were moved.
    Done(io::Result<u32>),
    /// It is on its way after the next [`DiskQueue::submit`]; [`DiskQueue::reap`] tells of its end.
    Pending,
}

/// Receives ends of requests: the tag, and the number of bytes moved.
pub type OnDone<'a> = &'a mut dyn FnMut(u32, io::Result<u32>);

/// An opened disk.
pub trait Disk: Send + Sync {
    /// Size, block sizes, abilities.
    fn shape(&self) -> DiskShape;

    /// Makes a queue that can have `depth` requests in flight. Called before the sandbox is entered.
    fn open_queue(&self, depth: u16) -> Result<Box<dyn DiskQueue>, DiskError>;
}

/// A line of requests to a disk, used by one thread at a time. Requests may end in any order.
///
/// Dropping a queue waits for what is in flight, as [`Self::drain`] does.
pub trait DiskQueue: Send {
    /// Starts a request. It may be finished when this returns; if not, `tag` names it until its end is told.
    /// A request too many, out of bounds or longer than 2^31 bytes ends with an error, nothing having happened.
    fn start(&mut self, request: DiskRequest<'_>, tag: u32) -> Started;

    /// Gives what was started to the kernel, in one system call for the whole batch.
    fn submit(&mut self) -> io::Result<()>;

    /// Readable (level-triggered) while ended requests wait to be reaped; `None` when nothing is ever pending.
    fn completion_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Tells of ended requests; never blocks.
    fn reap(&mut self, done: OnDone<'_>) -> io::Result<()>;

    /// Requests started and not ended.
    fn in_flight(&self) -> usize;

    /// Waits for everything in flight and tells of it: afterwards the kernel does not touch guest memory.
    fn drain(&mut self, done: OnDone<'_>) -> io::Result<()>;
}

/// Why a disk cannot be used. `name` is what the operator called it: a path or `fd:NAME`.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The host refused to open it.
    #[error("Could not open disk {name}")]
    Open {
        /// The disk.
        name: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is something else.
    #[error("Disk {name} is a {kind}, not a regular file or a block device")]
    NotADisk {
        /// The disk.
        name: String,
        /// What it is.
        kind: &'static str,
    },
    /// It can only be read.
    #[error("Disk {name} is not writable on this host and was not declared readonly")]
    NotWritable {
        /// The disk.
        name: String,
    },
    /// Somebody else uses it.
    #[error("Disk {name} is in use by {holder}")]
    Locked {
        /// The disk.
        name: String,
        /// Who holds the lock, as far as the kernel tells.
        holder: String,
    },
    /// Its size makes no disk.
    #[error("Disk {name} is {size_bytes} bytes long: {reason}")]
    Size {
        /// The disk.
        name: String,
        /// Size of the file in bytes.
        size_bytes: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A question or setting was refused by the kernel.
    #[error("Could not {action} on disk {name}")]
    Host {
        /// The disk.
        name: String,
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is not an image of the format that was asked for.
    #[error("Disk {name} is not a usable qcow2 image")]
    Format {
        /// The disk.
        name: String,
        /// What is wrong.
        source: io::Error,
    },
    /// Its backing chain is not allowed or not usable.
    #[error("Disk {name} is backed by {backing:?}: {reason}")]
    Backing {
        /// The image that names the backing file.
        name: String,
        /// The backing file as written in the image.
        backing: String,
        /// What is wrong with it.
        reason: &'static str,
    },
}
