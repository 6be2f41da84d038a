//! One request on its way: which step comes next, and what its end means.
//!
//! Used by [`super::raw`] on a reactor thread. Performs nothing itself: it says what the kernel should do next and takes
//! the result. A request needs more than one step when the kernel moved less than asked for, when buffers are not aligned for
//! direct I/O and go through a bounce buffer, or when the file system has no fast way to write zeros.

use std::io;

use super::ring::Step;
use super::{DiskRequest, SECTOR};
use crate::memory::GuestSlice;

/// Bytes moved through a bounce buffer at a time: bounds what a guest can make us allocate for one request.
const BOUNCE_BYTES: usize = 64 << 10;
/// iovecs in one system call (`UIO_MAXIOV`).
const IOVECS_MAX: usize = 1024;
/// Times that the zero buffer is repeated in one write.
const ZERO_REPEATS: usize = 64;
/// Longest request in bytes: what one system call can move, and more than any driver asks for.
const REQUEST_MAX: u64 = 0x7fff_f000;

/// What direct I/O asks of addresses; both powers of two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Alignment {
    /// Of buffers in memory, in bytes.
    pub memory: usize,
    /// Of offsets and lengths on the disk, in bytes.
    pub offset: u64,
}

impl Alignment {
    /// Page-cache I/O asks for nothing.
    pub(super) const NONE: Self = Self { memory: 1, offset: 1 };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ZeroWay {
    Punch,
    ZeroRange,
    Write,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Job {
    Read,
    Write,
    Flush,
    Discard,
    Zero(ZeroWay),
}

/// What the end of a step means for its request.
#[derive(Debug)]
pub(super) enum Outcome {
    /// There is more to do.
    Again,
    /// The request has ended.
    Finished(io::Result<u32>),
}

/// A plain iovec that may be handed from thread to thread together with its slot.
#[repr(transparent)]
struct Iovec(libc::iovec);

// SAFETY: an address and a length. The memory is guest RAM (mapped until the process ends) or the slot's own bounce
// buffer; only the queue that owns the slot uses it, on one thread at a time.
unsafe impl Send for Iovec {}

/// See the module's header.
pub(super) struct Slot {
    pub(super) tag: u32,
    pub(super) job: Job,
    /// Where the rest begins.
    pub(super) offset: u64,
    /// Bytes still to do.
    left: u64,
    /// Bytes to report at the end.
    total: u32,
    /// The guest's buffers; those before `first` are done.
    buffers: Vec<GuestSlice>,
    first: usize,
    iovecs: Vec<Iovec>,
    /// Allocated when first needed, then kept.
    bounce: Vec<u8>,
    /// Where on the disk the step through the bounce buffer began; `None` for a step without.
    window: Option<u64>,
}

impl Slot {
    pub(super) fn new() -> Self {
        Self {
            tag: 0,
            job: Job::Flush,
            offset: 0,
            left: 0,
            total: 0,
            buffers: Vec::new(),
            first: 0,
            iovecs: Vec::new(),
            bounce: Vec::new(),
            window: None,
        }
    }

    /// Takes a request on, if it lies within `capacity` bytes.
    pub(super) fn load(&mut self, request: DiskRequest<'_>, tag: u32, capacity: u64) -> io::Result<()> {
        self.tag = tag;
        self.first = 0;
        self.window = None;
        self.buffers.clear();
        (self.job, self.offset, self.left) = match request {
            DiskRequest::Read { offset, to } => (Job::Read, offset, self.take_buffers(to)),
            DiskRequest::Write { offset, from } => (Job::Write, offset, self.take_buffers(from)),
            DiskRequest::Flush => (Job::Flush, 0, 0),
            DiskRequest::Discard { offset, len } => (Job::Discard, offset, len),
            DiskRequest::WriteZeroes { offset, len, unmap } => {
                let way = if unmap { ZeroWay::Punch } else { ZeroWay::ZeroRange };
                (Job::Zero(way), offset, len)
            }
        };
        let moves_data = matches!(self.job, Job::Read | Job::Write);
        let inside = self.offset.checked_add(self.left).is_some_and(|end| end <= capacity);
        if !inside || (moves_data && self.left > REQUEST_MAX) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.total = if moves_data { self.left as u32 } else { 0 };
        Ok(())
    }

    fn take_buffers(&mut self, buffers: &[GuestSlice]) -> u64 {
        self.buffers.extend_from_slice(buffers);
        buffers.iter().map(|b| b.len() as u64).sum()
    }

    /// Bytes still to do.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Whether there is nothing to ask the kernel for.
    pub(super) fn is_empty(&self) -> bool {
        self.left == 0 && self.job != Job::Flush
    }

    fn rest(&self) -> &[GuestSlice] {
        self.buffers.get(self.first..).unwrap_or_default()
    }

    fn buffers_aligned(&self, alignment: Alignment) -> bool {
        let aligned = |b: &GuestSlice| {
            (b.as_ptr() as usize).is_multiple_of(alignment.memory) && (b.len() as u64).is_multiple_of(alignment.offset)
        };
        alignment == Alignment::NONE || self.rest().iter().all(aligned)
    }

    /// Whether writing it needs old data around it, because its ends lie within the disk's blocks.
    pub(super) fn needs_patching(&self, alignment: Alignment) -> bool {
        let writes = matches!(self.job, Job::Write | Job::Zero(ZeroWay::Write));
        writes && !(self.offset | self.left).is_multiple_of(alignment.offset)
    }

    /// What the kernel is to do next. The step's pointers stay valid until the slot is asked again.
    pub(super) fn next_step(&mut self, alignment: Alignment) -> Step {
        self.window = None;
        match self.job {
            Job::Flush => Step::Sync,
            Job::Discard | Job::Zero(ZeroWay::Punch) => {
                Step::Fallocate(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE, self.offset, self.left)
            }
            Job::Zero(ZeroWay::ZeroRange) => {
                Step::Fallocate(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE, self.offset, self.left)
            }
            Job::Zero(ZeroWay::Write) => self.zero_step(alignment),
            Job::Read | Job::Write => {
                let straight = self.offset.is_multiple_of(alignment.offset) && self.buffers_aligned(alignment);
                if straight { self.straight_step() } else { self.bounce_step(alignment) }
            }
        }
    }

    fn straight_step(&mut self) -> Step {
        self.iovecs.clear();
        let rest = self.buffers.iter().skip(self.first).take(IOVECS_MAX);
        let iovec = |b: &GuestSlice| Iovec(libc::iovec { iov_base: b.as_ptr().cast(), iov_len: b.len() });
        self.iovecs.extend(rest.map(iovec));
        self.iovec_step(self.offset)
    }

    fn iovec_step(&self, offset: u64) -> Step {
        let (iovecs, count) = (self.iovecs.as_ptr().cast(), self.iovecs.len() as u32);
        if self.job == Job::Read { Step::Read(iovecs, count, offset) } else { Step::Write(iovecs, count, offset) }
    }

    /// The bounce buffer's aligned part.
    fn bounce(&mut self, alignment: Alignment) -> &mut [u8] {
        if self.bounce.is_empty() {
            self.bounce = vec![0; BOUNCE_BYTES + alignment.memory];
        }
        let skip = self.bounce.as_ptr().align_offset(alignment.memory);
        self.bounce.get_mut(skip..).and_then(|b| b.get_mut(..BOUNCE_BYTES)).unwrap_or_default()
    }

    /// The aligned window of the disk that a step through the bounce buffer covers: start, length, and the number of bytes
    /// of the request inside it.
    fn window_at(&self, alignment: Alignment) -> (u64, usize, usize) {
        let start = self.offset - self.offset % alignment.offset;
        let end = self.offset.saturating_add(self.left).next_multiple_of(alignment.offset);
        let len = (end - start).min(BOUNCE_BYTES as u64);
        let inside = (start + len - self.offset).min(self.left);
        (start, len as usize, inside as usize)
    }

    fn bounce_step(&mut self, alignment: Alignment) -> Step {
        let (start, len, _) = self.window_at(alignment);
        if self.job == Job::Write {
            self.copy_in(alignment);
        }
        self.bounce_iovecs(alignment, len, 1);
        self.window = Some(start);
        self.iovec_step(start)
    }

    fn bounce_iovecs(&mut self, alignment: Alignment, len: usize, repeats: usize) {
        let base = self.bounce(alignment).as_mut_ptr();
        self.iovecs.clear();
        let iovec = || Iovec(libc::iovec { iov_base: base.cast(), iov_len: len });
        self.iovecs.extend(std::iter::repeat_with(iovec).take(repeats));
    }

    fn zero_step(&mut self, alignment: Alignment) -> Step {
        self.bounce(alignment).fill(0);
        let whole = BOUNCE_BYTES as u64;
        if self.left < whole {
            self.bounce_iovecs(alignment, self.left as usize, 1);
        } else {
            let repeats = (self.left / whole).min(ZERO_REPEATS as u64);
            self.bounce_iovecs(alignment, BOUNCE_BYTES, repeats as usize);
        }
        self.iovec_step(self.offset)
    }

    /// Copies the request's bytes (zeros for a zero job) over the window that the bounce buffer holds.
    pub(super) fn copy_in(&mut self, alignment: Alignment) {
        let (start, _, inside) = self.window_at(alignment);
        let skip = (self.offset - start) as usize;
        let (buffers, first) = (std::mem::take(&mut self.buffers), self.first);
        if let Some(to) = self.bounce(alignment).get_mut(skip..skip + inside) {
            let mut done = 0;
            to.fill(0);
            for buffer in buffers.iter().skip(first) {
                done += to.get_mut(done..).map_or(0, |rest| buffer.read(0, rest));
            }
        }
        self.buffers = buffers;
    }

    /// Steps that read the window around the rest into the bounce buffer and write it back.
    pub(super) fn patch_steps(&mut self, alignment: Alignment) -> (Step, Step) {
        let (start, len, _) = self.window_at(alignment);
        self.bounce_iovecs(alignment, len, 1);
        self.window = Some(start);
        let (iovecs, count) = (self.iovecs.as_ptr().cast(), 1);
        (Step::Read(iovecs, count, start), Step::Write(iovecs, count, start))
    }

    /// A step has ended.
    pub(super) fn complete(&mut self, result: io::Result<u32>, alignment: Alignment) -> Outcome {
        match (self.job, result) {
            (_, Err(e)) if matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => Outcome::Again,
            (Job::Flush, result) => Outcome::Finished(result.map(|_| 0)),
            // Discarding is a hint (virtio 1.3 section 5.2.6): a file system without holes keeps the data.
            (Job::Discard, Err(e)) if is_unsupported(&e) => Outcome::Finished(Ok(0)),
            (Job::Zero(way @ (ZeroWay::Punch | ZeroWay::ZeroRange)), Err(e)) if is_unsupported(&e) => {
                let next = if way == ZeroWay::Punch { ZeroWay::ZeroRange } else { ZeroWay::Write };
                self.job = Job::Zero(next);
                Outcome::Again
            }
            (Job::Discard | Job::Zero(ZeroWay::Punch | ZeroWay::ZeroRange), Ok(_)) => Outcome::Finished(Ok(0)),
            (_, Err(e)) => Outcome::Finished(Err(e)),
            (Job::Read | Job::Write | Job::Zero(_), Ok(moved)) => self.moved(moved as usize, alignment),
        }
    }

    fn moved(&mut self, moved: usize, alignment: Alignment) -> Outcome {
        let done = match self.window {
            None => moved as u64,
            Some(start) => {
                let skip = (self.offset - start) as usize;
                let inside = self.window_at(alignment).2.min(moved.saturating_sub(skip));
                if self.job == Job::Read {
                    self.copy_out(alignment, skip, inside);
                }
                inside as u64
            }
        };
        if done == 0 {
            // The file is shorter than it was when it was opened, or a write went nowhere.
            let short = if self.job == Job::Read { io::ErrorKind::UnexpectedEof } else { io::ErrorKind::WriteZero };
            return Outcome::Finished(Err(short.into()));
        }
        self.advance(done);
        if self.left == 0 { Outcome::Finished(Ok(self.total)) } else { Outcome::Again }
    }

    fn copy_out(&mut self, alignment: Alignment, skip: usize, len: usize) {
        let (buffers, first) = (std::mem::take(&mut self.buffers), self.first);
        let mut from = self.bounce(alignment).get(skip..skip + len).unwrap_or_default();
        for buffer in buffers.iter().skip(first) {
            let copied = buffer.write(0, from);
            from = from.get(copied..).unwrap_or_default();
        }
        self.buffers = buffers;
    }

    fn advance(&mut self, done: u64) {
        self.offset = self.offset.saturating_add(done);
        self.left = self.left.saturating_sub(done);
        let mut done = done as usize;
        while let Some(buffer) = self.buffers.get_mut(self.first) {
            if done < buffer.len() {
                if let Some(rest) = buffer.sub(done, buffer.len() - done) {
                    *buffer = rest;
                }
                return;
            }
            done -= buffer.len();
            self.first += 1;
        }
    }
}

/// Whether the file system (or the device) has no such operation, or not at this granularity.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ENOSYS | libc::ENODEV))
}

const _: () = assert!((BOUNCE_BYTES as u64).is_multiple_of(SECTOR));
