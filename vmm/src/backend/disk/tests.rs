//! Disks on real files: what is written is read back on every path, and nothing moves outside of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use super::open::{DiskAccess, DiskFile};
use super::raw::{RawDisk, Ways};
use super::{Disk, DiskError, DiskQueue, DiskRequest, Started};
use crate::memory::{Backing, GuestMemory, GuestSlice};

const SIZE: u64 = 1 << 20;

/// A file with a pattern in it, beside the test binary: /tmp may be a memory file system.
pub(super) fn pattern_file() -> tempfile::NamedTempFile {
    let binary = std::env::current_exe().unwrap();
    let file = tempfile::NamedTempFile::new_in(binary.parent().unwrap()).unwrap();
    file.as_file().write_all_at(&pattern(0, SIZE as usize), 0).unwrap();
    file
}

pub(super) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    (0..len as u64).map(|i| ((i + seed) / 7 % 251) as u8).collect()
}

pub(super) fn memory() -> GuestMemory {
    GuestMemory::map(&[(0, 4 << 20)], Backing::default()).unwrap()
}

pub(super) fn slices(memory: GuestMemory, parts: &[(u64, u64)]) -> Vec<GuestSlice> {
    parts.iter().map(|&(at, len)| memory.slice(at, len).unwrap()).collect()
}

/// Runs one request to its end.
pub(super) fn run(queue: &mut dyn DiskQueue, request: DiskRequest<'_>) -> io::Result<u32> {
    match queue.start(request, 77) {
        Started::Done(result) => result,
        Started::Pending => {
            let mut end = None;
            queue.submit().unwrap();
            queue
                .drain(&mut |tag, result| {
                    assert_eq!(tag, 77);
                    assert!(end.replace(result).is_none(), "told twice");
                })
                .unwrap();
            end.expect("an end is told")
        }
    }
}

pub(super) fn read(queue: &mut dyn DiskQueue, memory: GuestMemory, offset: u64, parts: &[(u64, u64)]) -> Vec<u8> {
    let to = slices(memory, parts);
    let len: u64 = parts.iter().map(|p| p.1).sum();
    for slice in &to {
        slice.zero();
    }
    assert_eq!(run(queue, DiskRequest::Read { offset, to: &to }).unwrap(), len as u32);
    let mut all = Vec::new();
    for slice in &to {
        let mut bytes = vec![0; slice.len()];
        slice.read(0, &mut bytes);
        all.extend(bytes);
    }
    all
}

fn open(path: &Path, access: DiskAccess) -> Box<dyn DiskQueue> {
    RawDisk::new(DiskFile::open(path, access).unwrap(), Ways::Both).unwrap().open_queue(8).unwrap()
}

/// Drops the file's pages from the page cache, so that reads must wait.
fn make_cold(file: &File) {
    file.sync_all().unwrap();
    nix::fcntl::posix_fadvise(file, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
}

const DIRECT: DiskAccess = DiskAccess { read_only: false, direct: true };
const BUFFERED: DiskAccess = DiskAccess { read_only: false, direct: false };

/// Scatter lists: one page; odd pieces; pieces at odd addresses; one that is longer than the bounce buffer.
const SCATTERS: [&[(u64, u64)]; 4] = [
    &[(0x1000, 4096)],
    &[(0x1000, 512), (0x5000, 1024), (0x9000, 2560)],
    &[(0x1001, 511), (0x5003, 1), (0x9005, 3584)],
    &[(0x10_0000, 200 << 10), (0x20_0007, 56 << 10)],
];

#[test]
fn what_is_written_is_read_back_on_every_path() {
    let every_way = [Ways::Both, Ways::RingOnly, Ways::InlineOnly];
    for (access, ways) in [BUFFERED, DIRECT].into_iter().flat_map(|a| every_way.map(|w| (a, w))) {
        let file = pattern_file();
        let mut model = pattern(0, SIZE as usize);
        let disk = RawDisk::new(DiskFile::open(file.path(), access).unwrap(), ways).unwrap();
        let mut queue = disk.open_queue(8).unwrap();
        let memory = memory();
        for (round, parts) in SCATTERS.iter().enumerate() {
            for offset in [0, 4096, 512 * 3, SIZE - (256 << 10)] {
                make_cold(file.as_file());
                let len: u64 = parts.iter().map(|p| p.1).sum();
                let range = offset as usize..(offset + len) as usize;
                let context = format!("{access:?} {ways:?} {parts:?} at {offset}");
                assert!(read(queue.as_mut(), memory, offset, parts) == model[range.clone()], "cold {context}");
                let new = pattern(1000 + round as u64, len as usize);
                let from = slices(memory, parts);
                let mut rest = &new[..];
                for slice in &from {
                    rest = &rest[slice.write(0, rest)..];
                }
                assert_eq!(run(queue.as_mut(), DiskRequest::Write { offset, from: &from }).unwrap(), len as u32);
                model[range.clone()].copy_from_slice(&new);
                assert!(read(queue.as_mut(), memory, offset, parts) == model[range], "again {context}");
            }
        }
        assert_eq!(run(queue.as_mut(), DiskRequest::Flush).unwrap(), 0);
        assert!(std::fs::read(file.path()).unwrap() == model, "{access:?}");
    }
}

#[test]
fn zeroes_and_discards_change_their_range_only() {
    for access in [BUFFERED, DIRECT] {
        for (offset, len) in [(4096, 8192), (512, 1024), (65536 + 512, 70000 / 512 * 512)] {
            for unmap in [false, true] {
                let file = pattern_file();
                let mut queue = open(file.path(), access);
                run(queue.as_mut(), DiskRequest::WriteZeroes { offset, len, unmap }).unwrap();
                let mut expected = pattern(0, SIZE as usize);
                expected[offset as usize..(offset + len) as usize].fill(0);
                assert!(std::fs::read(file.path()).unwrap() == expected, "{access:?} {offset}+{len} {unmap}");
                run(queue.as_mut(), DiskRequest::Discard { offset, len }).unwrap();
                assert!(std::fs::read(file.path()).unwrap() == expected, "{access:?} {offset}+{len} discard");
            }
        }
    }
}

#[test]
fn a_file_system_without_zero_range_gets_zeros_written() {
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    file.as_file().write_all_at(&pattern(0, SIZE as usize), 0).unwrap();
    let mut queue = open(file.path(), BUFFERED);
    run(queue.as_mut(), DiskRequest::WriteZeroes { offset: 512, len: 300 << 10, unmap: false }).unwrap();
    let mut expected = pattern(0, SIZE as usize);
    expected[512..512 + (300 << 10)].fill(0);
    assert!(std::fs::read(file.path()).unwrap() == expected);
}

#[test]
fn requests_out_of_bounds_and_writes_to_a_read_only_disk_are_refused() {
    let file = pattern_file();
    let memory = memory();
    let page = slices(memory, &[(0, 4096)]);
    let mut queue = open(file.path(), BUFFERED);
    for offset in [SIZE, SIZE - 512, u64::MAX, u64::MAX - 4095] {
        for request in [
            DiskRequest::Read { offset, to: &page },
            DiskRequest::Write { offset, from: &page },
            DiskRequest::Discard { offset, len: 4096 },
            DiskRequest::WriteZeroes { offset, len: u64::MAX, unmap: true },
        ] {
            let error = run(queue.as_mut(), request).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{request:?}");
        }
    }
    drop(queue);
    let mut queue = open(file.path(), DiskAccess { read_only: true, direct: false });
    let error = run(queue.as_mut(), DiskRequest::Write { offset: 0, from: &page }).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem);
    assert_eq!(file.as_file().metadata().unwrap().len(), SIZE);
}

#[test]
fn a_file_that_shrank_is_an_error_not_a_hang() {
    let file = pattern_file();
    let memory = memory();
    let mut queue = open(file.path(), BUFFERED);
    file.as_file().set_len(6144).unwrap();
    let page = slices(memory, &[(0, 4096)]);
    for offset in [4096, 8192] {
        let error = run(queue.as_mut(), DiskRequest::Read { offset, to: &page }).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset}");
    }
}

#[test]
fn a_full_queue_refuses_and_recovers() {
    let file = pattern_file();
    let memory = memory();
    let mut queue = open(file.path(), DIRECT);
    let to = slices(memory, &[(0, 4096)]);
    let mut tags = Vec::new();
    for tag in 0..8 {
        assert!(matches!(queue.start(DiskRequest::Read { offset: 0, to: &to }, tag), Started::Pending), "{tag}");
    }
    let refused = queue.start(DiskRequest::Read { offset: 0, to: &to }, 8);
    assert!(matches!(refused, Started::Done(Err(e)) if e.kind() == io::ErrorKind::ResourceBusy));
    queue.submit().unwrap();
    queue.drain(&mut |tag, result| tags.push((tag, result.unwrap()))).unwrap();
    tags.sort_unstable();
    assert_eq!(tags, (0..8).map(|tag| (tag, 4096)).collect::<Vec<_>>());
    assert_eq!(read(queue.as_mut(), memory, 0, &[(0, 4096)]), pattern(0, 4096));
}

#[test]
fn the_completion_fd_tells_of_ends() {
    let file = pattern_file();
    let memory = memory();
    let mut queue = open(file.path(), DIRECT);
    let to = slices(memory, &[(0, 4096)]);
    assert!(matches!(queue.start(DiskRequest::Read { offset: 0, to: &to }, 5), Started::Pending));
    queue.submit().unwrap();
    let mut told = Vec::new();
    while told.is_empty() {
        let fd = queue.completion_fd().unwrap();
        let mut poll = [nix::poll::PollFd::new(fd, nix::poll::PollFlags::POLLIN)];
        match nix::poll::poll(&mut poll, 5000_u16) {
            Err(nix::errno::Errno::EINTR) => {}
            n => assert_eq!(n, Ok(1), "nothing was told in time"),
        }
        queue.reap(&mut |tag, result| told.push((tag, result.unwrap()))).unwrap();
    }
    assert_eq!((told, queue.in_flight()), (vec![(5, 4096)], 0));
}

#[test]
fn a_bad_disk_is_refused_with_its_name_and_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    std::fs::write(path("short"), [0; 511]).unwrap();
    std::fs::write(path("odd"), [0; 5000]).unwrap();
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let refuse = |name: &str, access| {
        let error =
            DiskFile::open(&path(name), access).and_then(|file| RawDisk::new(file, Ways::Both)).err().expect(name);
        let text = error.to_string();
        assert!(text.contains(path(name).to_str().unwrap()), "{text}");
        text
    };
    assert!(refuse("missing", BUFFERED).contains("Could not open"));
    assert!(refuse(".", BUFFERED).contains("is a directory, not a regular file"));
    assert!(refuse("fifo", BUFFERED).contains("is a named pipe"));
    assert!(refuse("short", BUFFERED).contains("511 bytes long"));
    let odd = RawDisk::new(DiskFile::open(&path("odd"), BUFFERED).unwrap(), Ways::Both).unwrap();
    assert_eq!(odd.shape().capacity_bytes, 4608);
    let read_only_fd = File::open(path("odd")).unwrap();
    let refused = DiskFile::adopt("fd:disk".into(), read_only_fd, BUFFERED).unwrap_err();
    assert!(matches!(refused, DiskError::NotWritable { ref name } if name == "fd:disk"), "{refused}");
}

#[test]
fn two_readers_share_a_disk_and_a_writer_does_not() {
    let file = pattern_file();
    let read_only = DiskAccess { read_only: true, direct: false };
    let reader = DiskFile::open(file.path(), read_only).unwrap();
    let second = DiskFile::open(file.path(), read_only).unwrap();
    let refused = DiskFile::open(file.path(), BUFFERED).unwrap_err();
    assert!(refused.to_string().contains("holds a lock for reading"), "{refused}");
    drop((reader, second));
    let writer = DiskFile::open(file.path(), BUFFERED).unwrap();
    assert!(DiskFile::open(file.path(), read_only).unwrap_err().to_string().contains("holds a lock for writing"));
    drop(writer);
}
