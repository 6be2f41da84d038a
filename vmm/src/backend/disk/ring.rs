//! One `io_uring` that can reach one file.
//!
//! Made by the main thread before the sandbox is entered, used by a disk queue on its reactor thread.
//!
//! A ring is a second way into the kernel that seccomp does not see: an ordinary one can open files and connect sockets.
//! Ours is restricted by the kernel before it is enabled: only reading, writing, syncing and (de)allocating, and only on the
//! one file that was registered. No registration is possible afterwards.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue, types};

/// Kernel threads for what cannot be done without blocking, for bounded and unbounded work.
const KERNEL_WORKERS: u32 = 4;

/// What the kernel is asked to do, with plain addresses.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Read at an offset into iovecs.
    Read(*const libc::iovec, u32, u64),
    /// Write iovecs to an offset.
    Write(*const libc::iovec, u32, u64),
    /// Make data durable.
    Sync,
    /// `fallocate` with a mode on offset and length.
    Fallocate(i32, u64, u64),
}

impl Step {
    fn entry(self) -> squeue::Entry {
        let file = types::Fixed(0);
        match self {
            Self::Read(iovecs, count, offset) => opcode::Readv::new(file, iovecs, count).offset(offset).build(),
            Self::Write(iovecs, count, offset) => opcode::Writev::new(file, iovecs, count).offset(offset).build(),
            Self::Sync => opcode::Fsync::new(file).flags(types::FsyncFlags::DATASYNC).build(),
            Self::Fallocate(mode, offset, len) => opcode::Fallocate::new(file, len).offset(offset).mode(mode).build(),
        }
    }

    /// Does it at once, blocking; the bytes moved.
    ///
    /// # Safety
    /// The iovecs must be valid for the call, and so must the memory that they point to.
    pub(super) unsafe fn run(self, file: BorrowedFd<'_>, flags: i32) -> io::Result<u32> {
        let fd = file.as_raw_fd();
        let moved = match self {
            // SAFETY: the caller vouches for iovecs and buffers; the fd is borrowed, so it is open.
            Self::Read(iovecs, count, at) => unsafe {
                libc::preadv2(fd, iovecs, count.cast_signed(), at.cast_signed(), flags)
            },
            // SAFETY: as above.
            Self::Write(iovecs, count, at) => unsafe {
                libc::pwritev2(fd, iovecs, count.cast_signed(), at.cast_signed(), flags)
            },
            // SAFETY: takes no pointers.
            Self::Sync => unsafe { libc::fdatasync(fd) as isize },
            // SAFETY: takes no pointers.
            Self::Fallocate(mode, at, len) => unsafe {
                libc::fallocate(fd, mode, at.cast_signed(), len.cast_signed()) as isize
            },
        };
        u32::try_from(moved).map_err(|_| io::Error::last_os_error())
    }
}

/// See the module's header.
pub(super) struct Ring {
    ring: IoUring,
}

impl Ring {
    /// A ring on `file` for `depth` requests in flight.
    pub(super) fn new(file: BorrowedFd<'_>, depth: u16) -> io::Result<Self> {
        let mut builder = IoUring::builder();
        builder.dontfork().setup_r_disabled().setup_clamp().setup_submit_all();
        // Ends are told when we enter the kernel anyway, not by interrupting us; the flag says that some are waiting.
        builder.setup_coop_taskrun().setup_taskrun_flag();
        let ring = builder.build(u32::from(depth))?;
        let submitter = ring.submitter();
        submitter.register_files(&[file.as_raw_fd()])?;
        submitter.register_iowq_max_workers(&mut [KERNEL_WORKERS, KERNEL_WORKERS])?;
        let operations = [opcode::Readv::CODE, opcode::Writev::CODE, opcode::Fsync::CODE, opcode::Fallocate::CODE];
        let mut restrictions: Vec<_> = operations.into_iter().map(Restriction::sqe_op).collect();
        restrictions.push(Restriction::sqe_flags_required(squeue::Flags::FIXED_FILE.bits()));
        submitter.register_restrictions(&mut restrictions)?;
        submitter.register_enable_rings()?;
        Ok(Self { ring })
    }

    /// Queues a step; its end is told under `name`. False when the ring is full.
    ///
    /// # Safety
    /// The iovecs must stay where they are until the next successful [`Self::submit`], the memory that they
    /// point to until the step's end is told.
    pub(super) unsafe fn push(&mut self, step: Step, name: u64) -> bool {
        let entry = step.entry().user_data(name);
        // SAFETY: the entry's pointers are the step's, for which the caller vouches.
        unsafe { self.ring.submission().push(&entry).is_ok() }
    }

    /// Gives what was queued to the kernel and waits until `wait_for` ends can be told.
    pub(super) fn submit(&mut self, wait_for: usize) -> io::Result<()> {
        loop {
            if wait_for == 0 && self.ring.submission().is_empty() {
                return Ok(());
            }
            match self.ring.submit_and_wait(wait_for) {
                Ok(_) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Makes ends that the kernel holds back visible; never blocks.
    pub(super) fn collect(&mut self) -> io::Result<()> {
        if self.ring.submission().taskrun() {
            self.ring.submit()?;
        }
        Ok(())
    }

    /// The next end: name and result as a system call would give it.
    pub(super) fn next(&mut self) -> Option<(u64, io::Result<u32>)> {
        let end = self.ring.completion().next()?;
        let result = u32::try_from(end.result()).map_err(|_| io::Error::from_raw_os_error(-end.result()));
        Some((end.user_data(), result))
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the ring owns its fd and lives as long as the borrow.
        unsafe { BorrowedFd::borrow_raw(self.ring.as_raw_fd()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_reads_its_own_file_and_can_do_nothing_else() {
        let file = tempfile::tempfile().unwrap();
        let mut ring = Ring::new(file.as_fd(), 4).unwrap();
        let mut result_of = |entry: squeue::Entry| {
            // SAFETY: the entries below have constant or no pointers.
            unsafe { ring.ring.submission().push(&entry).unwrap() };
            ring.submit(1).unwrap();
            ring.next().unwrap().1.map_err(|e| e.raw_os_error().unwrap())
        };
        assert_eq!(result_of(Step::Sync.entry()), Ok(0));
        let open = opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), c"/etc/passwd".as_ptr()).build();
        assert_eq!(result_of(open), Err(libc::EACCES));
        let socket = opcode::Socket::new(libc::AF_UNIX, libc::SOCK_STREAM, 0).build();
        assert_eq!(result_of(socket), Err(libc::EACCES));
        let other_file = opcode::Fsync::new(types::Fd(file.as_raw_fd())).build();
        assert_eq!(result_of(other_file), Err(libc::EACCES));
        let register = ring.ring.submitter().register_eventfd(0).unwrap_err();
        assert_eq!(register.raw_os_error(), Some(libc::EACCES));
    }
}
