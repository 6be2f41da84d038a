//! Copies of files: by reflink where the file system shares blocks, else only the parts that hold data, in the kernel where it can.
//!
//! Runs on a pool's thread and blocks. Asks after each chunk whether to go on.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

use super::{Meter, StorageError};

/// Bytes between two questions whether to go on.
const CHUNK: u64 = 8 << 20;
/// Bytes that go through our memory at a time where the kernel cannot copy.
const BUFFER: usize = 1 << 20;
/// Zeros of this length are left out.
const BLOCK: usize = 4096;

/// How a copy was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyWay {
    /// The two share their blocks.
    Reflink,
    /// Byte by byte.
    Bytes,
}

/// Makes `target`, an empty file, a copy of `source`. Holes stay holes. `path` is the target's, for messages.
///
/// # Errors
/// No room, somebody's wish to stop, what the kernel said.
pub fn copy_file(source: &File, target: &File, path: &Path, meter: &Meter) -> Result<CopyWay, StorageError> {
    let fail = |error| StorageError::io("copy to", path, error);
    let length = source.metadata().map_err(fail)?.len();
    meter.expect(length);
    meter.reached(0)?;
    if length > 0 && rustix::fs::ioctl_ficlone(target, source).is_ok() {
        meter.reached(length)?;
        return Ok(CopyWay::Reflink);
    }
    target.set_len(length).map_err(fail)?;
    let mut kernel = true;
    let mut at = 0;
    while let Some((start, end)) = data_from(source, at, length).map_err(fail)? {
        let mut done = start;
        while done < end {
            let want = (end - done).min(CHUNK);
            done += copy_range(source, target, done, want, &mut kernel).map_err(fail)?;
            meter.reached(done)?;
        }
        at = end;
    }
    meter.reached(length)?;
    Ok(CopyWay::Bytes)
}

/// The first stretch of data at or after `at`.
fn data_from(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match rustix::fs::seek(file, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // A file system that does not know holes has none.
        Err(Errno::INVAL | Errno::NOTSUP) => return Ok(Some((at, length))),
        Err(errno) => return Err(errno.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?.min(length);
    Ok((start < end).then_some((start, end)))
}

/// Copies up to `want` bytes at `at` and says how many it were: at least one.
fn copy_range(source: &File, target: &File, at: u64, want: u64, kernel: &mut bool) -> io::Result<u64> {
    if *kernel {
        let (mut from, mut to) = (at, at);
        match rustix::fs::copy_file_range(source, Some(&mut from), target, Some(&mut to), want as usize) {
            Ok(0) => return Err(shrank()),
            Ok(count) => return Ok(count as u64),
            Err(Errno::INTR) => return copy_range(source, target, at, want, kernel),
            Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::NOTSUP | Errno::PERM) => *kernel = false,
            Err(errno) => return Err(errno.into()),
        }
    }
    let mut buffer = vec![0; BUFFER.min(want as usize)];
    let count = source.read_at(&mut buffer, at)?;
    if count == 0 {
        return Err(shrank());
    }
    write_sparse(&buffer[..count], at, |bytes, offset| target.write_all_at(bytes, offset))?;
    Ok(count as u64)
}

fn shrank() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was copied")
}

/// Writes what is not zero, in stretches as long as possible: the target reads as zeros already.
pub(super) fn write_sparse(
    bytes: &[u8],
    at: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> io::Result<()> {
    let mut rest = bytes;
    let mut offset = at;
    while !rest.is_empty() {
        let zeros = run(rest, true);
        offset += zeros as u64;
        rest = &rest[zeros..];
        let data = run(rest, false);
        if data > 0 {
            write(&rest[..data], offset)?;
        }
        offset += data as u64;
        rest = &rest[data..];
    }
    Ok(())
}

/// Length of the stretch of whole blocks at the beginning that are all zero, or all not.
fn run(bytes: &[u8], zero: bool) -> usize {
    let blocks = bytes.chunks(BLOCK).take_while(|block| is_zero(block) == zero);
    blocks.map(<[u8]>::len).sum()
}

fn is_zero(bytes: &[u8]) -> bool {
    // Comparing a slice with itself, shifted by one, is a memcmp: much faster than a loop over bytes.
    bytes.first().is_none_or(|first| *first == 0)
        && bytes.get(1..).unwrap_or_default() == &bytes[..bytes.len().saturating_sub(1)]
}
