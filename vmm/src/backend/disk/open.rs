//! Opening: a path or a given fd becomes a checked and locked [`DiskFile`].
//!
//! Main thread, before the sandbox is entered (or on an fd that came in later: nothing here needs a path then).
//! Never reads the contents.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek as _, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use super::slot::Alignment;
use super::{DiskError, DiskShape, SECTOR};

/// `statfs` type of memory file systems.
const MEMORY_FILE_SYSTEMS: [libc::c_long; 2] = [libc::TMPFS_MAGIC as libc::c_long, 0x8584_58f6];
/// What direct I/O is given when the kernel does not tell what it needs.
const SAFE_ALIGNMENT: Alignment = Alignment { memory: 4096, offset: 4096 };

/// How long a lock may be held against us before we give up: a VMM that was just killed keeps its locks until the
/// kernel has torn down its rings.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);

mod ioctls {
    //! Block-device questions, `linux/fs.h`.
    nix::ioctl_read_bad!(logical_block_size, libc::BLKSSZGET, libc::c_int);
    nix::ioctl_read_bad!(physical_block_size, libc::BLKPBSZGET, libc::c_uint);
}

/// How a disk is to be opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskAccess {
    /// The guest may not write.
    pub read_only: bool,
    /// Past the host's page cache (`O_DIRECT`).
    pub direct: bool,
}

/// A file or block device that was found fit to be a disk and is locked by us.
#[derive(Debug)]
pub struct DiskFile {
    /// What the operator called it, for messages.
    pub name: String,
    pub(super) file: LockedFile,
    pub(super) direct: bool,
    pub(super) read_only: bool,
    pub(super) size_bytes: u64,
    pub(super) block_device: bool,
}

impl DiskFile {
    /// Opens `path` and checks it.
    pub fn open(path: &Path, access: DiskAccess) -> Result<Self, DiskError> {
        let name = path.display().to_string();
        // Asked first: opening a named pipe or a tape drive has effects of its own.
        let metadata = std::fs::metadata(path).map_err(|source| DiskError::Open { name: name.clone(), source })?;
        check_kind(&name, &metadata)?;
        let mut options = OpenOptions::new();
        options.read(true).write(!access.read_only).custom_flags(libc::O_CLOEXEC | libc::O_NOCTTY);
        let file = match options.open(path) {
            Ok(file) => file,
            Err(e)
                if !access.read_only && matches!(e.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS)) =>
            {
                return Err(match OpenOptions::new().read(true).open(path) {
                    Ok(_) => DiskError::NotWritable { name },
                    Err(source) => DiskError::Open { name, source },
                });
            }
            Err(source) => return Err(DiskError::Open { name, source }),
        };
        Self::adopt(name, file, access)
    }

    /// Checks an fd that somebody else opened, and locks it.
    pub fn adopt(name: String, file: File, access: DiskAccess) -> Result<Self, DiskError> {
        let host = |action| {
            let name = name.clone();
            move |source| DiskError::Host { name, action, source }
        };
        let metadata = file.metadata().map_err(host("ask for the type"))?;
        check_kind(&name, &metadata)?;
        set_mode(&name, &file, access)?;
        let file = LockedFile::lock(&name, file, access.read_only)?;
        let size_bytes = (&file.0).seek(SeekFrom::End(0)).map_err(host("ask for the size"))?;
        if size_bytes < SECTOR {
            let reason = "a disk has at least one sector of 512 bytes";
            return Err(DiskError::Size { name, size_bytes, reason });
        }
        let block_device = metadata.file_type().is_block_device();
        Ok(Self { name, file, direct: access.direct, read_only: access.read_only, size_bytes, block_device })
    }

    /// Whether the host's page cache is bypassed.
    pub fn is_direct(&self) -> bool {
        self.direct
    }

    /// Another fd on the same open file.
    pub(super) fn duplicate(&self) -> io::Result<File> {
        self.file.0.try_clone()
    }

    /// What the file system says about it.
    pub(super) fn metadata(&self) -> io::Result<std::fs::Metadata> {
        self.file.0.metadata()
    }

    /// Whether the bytes live in memory anyway.
    pub(super) fn in_memory(&self) -> bool {
        let mut answer = MaybeUninit::<libc::statfs>::uninit();
        // SAFETY: the buffer has the type that the call fills.
        let code = unsafe { libc::fstatfs(self.file.0.as_raw_fd(), answer.as_mut_ptr()) };
        // SAFETY: filled when the call succeeded, and only read then.
        code == 0 && MEMORY_FILE_SYSTEMS.contains(&unsafe { answer.assume_init() }.f_type)
    }

    /// What direct I/O on this file asks for.
    pub(super) fn alignment(&self) -> Alignment {
        if !self.direct {
            return Alignment::NONE;
        }
        let mut answer = MaybeUninit::<libc::statx>::zeroed();
        // SAFETY: an empty path with AT_EMPTY_PATH asks about the fd; the buffer has the type that the call fills.
        let code = unsafe {
            let fd = self.file.0.as_raw_fd();
            libc::statx(fd, c"".as_ptr(), libc::AT_EMPTY_PATH, libc::STATX_DIOALIGN, answer.as_mut_ptr())
        };
        // SAFETY: all zeros is a valid statx, and the call may only have filled it.
        let answer = unsafe { answer.assume_init() };
        let (memory, offset) = (answer.stx_dio_mem_align as usize, u64::from(answer.stx_dio_offset_align));
        let told = code == 0 && answer.stx_mask & libc::STATX_DIOALIGN != 0;
        if told && memory.is_power_of_two() && offset.is_power_of_two() {
            Alignment { memory, offset }
        } else {
            SAFE_ALIGNMENT
        }
    }

    /// Logical and physical block size of the host's device or file system in bytes.
    fn block_sizes(&self) -> Result<(u32, u32), DiskError> {
        let logical_by_direct = (self.alignment().offset as u32).max(SECTOR as u32);
        if !self.block_device {
            let blocks = self.file.0.metadata().map_or(SAFE_ALIGNMENT.offset, |m| m.blksize());
            return Ok((logical_by_direct, u32::try_from(blocks).unwrap_or(4096)));
        }
        let (mut logical, mut physical) = (0, 0);
        let fd = self.file.0.as_raw_fd();
        // SAFETY: the call writes one int to the place given, which is one.
        unsafe { ioctls::logical_block_size(fd, &raw mut logical) }.map_err(|e| self.refused(e))?;
        // SAFETY: the call writes one unsigned int to the place given, which is one.
        unsafe { ioctls::physical_block_size(fd, &raw mut physical) }.map_err(|e| self.refused(e))?;
        Ok((logical_by_direct.max(u32::try_from(logical).unwrap_or(0)), physical))
    }

    fn refused(&self, error: nix::errno::Errno) -> DiskError {
        DiskError::Host { name: self.name.clone(), action: "ask for the block size", source: error.into() }
    }

    /// The disk that a raw format makes of it.
    pub(super) fn shape(&self) -> Result<DiskShape, DiskError> {
        let (block_size, physical) = self.block_sizes()?;
        let physical_block_size = if physical.is_power_of_two() { physical.max(block_size) } else { block_size };
        let capacity_bytes = self.size_bytes - self.size_bytes % SECTOR;
        if capacity_bytes != self.size_bytes {
            log::warn!(
                "Disk {} ends within a sector: its last {} bytes are hidden",
                self.name,
                self.size_bytes % SECTOR
            );
        }
        Ok(DiskShape {
            capacity_bytes,
            read_only: self.read_only,
            block_size,
            physical_block_size,
            discard: !self.read_only,
            may_block: false,
        })
    }
}

fn check_kind(name: &str, metadata: &std::fs::Metadata) -> Result<(), DiskError> {
    let kind = metadata.file_type();
    let kind = match () {
        () if kind.is_file() || kind.is_block_device() => return Ok(()),
        () if kind.is_dir() => "directory",
        () if kind.is_fifo() => "named pipe",
        () if kind.is_socket() => "socket",
        () if kind.is_char_device() => "character device",
        () => "special file",
    };
    Err(DiskError::NotADisk { name: name.to_owned(), kind })
}

/// Checks that the fd's access mode fits and sets or clears direct and non-blocking I/O.
fn set_mode(name: &str, file: &File, access: DiskAccess) -> Result<(), DiskError> {
    let fail = |action| DiskError::Host { name: name.to_owned(), action, source: io::Error::last_os_error() };
    // SAFETY: takes no pointers.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(fail("ask for the access mode"));
    }
    match flags & libc::O_ACCMODE {
        libc::O_RDWR => {}
        libc::O_RDONLY if access.read_only => {}
        _ => return Err(DiskError::NotWritable { name: name.to_owned() }),
    }
    // With NONBLOCK the ring would answer EAGAIN instead of waiting for the disk.
    let cleared = flags & !(libc::O_DIRECT | libc::O_NONBLOCK);
    let wanted = if access.direct { cleared | libc::O_DIRECT } else { cleared };
    // SAFETY: takes no pointers.
    if wanted != flags && unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, wanted) } < 0 {
        return Err(fail("set direct or blocking I/O"));
    }
    Ok(())
}

/// A file with an open-file-description lock on all of it: shared for readers, exclusive for writers. QEMU's locks are of
/// the same kind, so the two notice each other.
#[derive(Debug)]
pub(super) struct LockedFile(File);

impl LockedFile {
    fn lock(name: &str, file: File, read_only: bool) -> Result<Self, DiskError> {
        let kind = if read_only { libc::F_RDLCK } else { libc::F_WRLCK };
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            let Err(error) = set_lock(&file, kind) else { return Ok(Self(file)) };
            match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EACCES) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_PATIENCE / 20);
                }
                Some(libc::EAGAIN | libc::EACCES) => {
                    return Err(DiskError::Locked { name: name.to_owned(), holder: holder(&file, kind) });
                }
                Some(libc::ENOLCK | libc::ENOSYS | libc::EOPNOTSUPP | libc::EINVAL) => {
                    log::warn!("Disk {name} cannot be locked on its file system: {error}");
                    return Ok(Self(file));
                }
                _ => return Err(DiskError::Host { name: name.to_owned(), action: "take the lock", source: error }),
            }
        }
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing is not enough: the kernel lets go of a ring's files some time after the ring was closed.
        let _ = set_lock(&self.0, libc::F_UNLCK);
    }
}

impl AsFd for LockedFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    // SAFETY: all zeros is a valid flock: from the start to the end, whatever that is.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = kind as libc::c_short;
    lock
}

fn set_lock(file: &File, kind: libc::c_int) -> io::Result<()> {
    let lock = whole_file(kind);
    // SAFETY: the pointer is to a flock on this stack frame.
    let code = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw const lock) };
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Who keeps us from taking a lock of this kind, in words.
fn holder(file: &File, kind: libc::c_int) -> String {
    let mut lock = whole_file(kind);
    // SAFETY: the pointer is to a flock on this stack frame, which the call may change.
    unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    let what = if libc::c_int::from(lock.l_type) == libc::F_RDLCK { "reading" } else { "writing" };
    if lock.l_pid > 0 {
        format!("process {}, which holds a POSIX lock for {what}", lock.l_pid)
    } else {
        format!("another VM, another disk of this VM or another program, which holds a lock for {what}")
    }
}
