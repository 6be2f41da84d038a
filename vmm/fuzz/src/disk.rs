//! Disks for the block device's target: one in memory, whose requests are done on the spot, and one on a file system,
//! whose requests may go through the ring.

use std::fs::File;
use std::sync::OnceLock;

use nix::sys::memfd::{MFdFlags, memfd_create};
use quantix_vmm::backend::disk::Disk;
use quantix_vmm::backend::disk::open::{DiskAccess, DiskFile};
use quantix_vmm::backend::disk::raw::{RawDisk, Ways};

/// Size of the disks in bytes.
pub const DISK_BYTES: u64 = 64 << 10;

/// An empty disk.
pub fn empty(in_memory: bool, access: DiskAccess, ways: Ways) -> Box<dyn Disk> {
    static FILE: OnceLock<File> = OnceLock::new();
    let file = if in_memory {
        File::from(memfd_create(c"disk", MFdFlags::MFD_CLOEXEC).expect("a memfd"))
    } else {
        FILE.get_or_init(file_beside_the_program).try_clone().expect("a second descriptor")
    };
    // Cut first: what the last input wrote is not there for this one.
    file.set_len(0).and_then(|()| file.set_len(DISK_BYTES)).expect("an empty file");
    let opened = DiskFile::adopt("disk0".to_owned(), file, access).expect("a file that can be a disk");
    Box::new(RawDisk::new(opened, ways).expect("a disk"))
}

/// A file without a name, on the file system that the program is on.
fn file_beside_the_program() -> File {
    let program = std::env::current_exe().expect("the program's path");
    let path = program.with_extension(format!("disk-{}", std::process::id()));
    let file = File::options().read(true).write(true).create_new(true).open(&path).expect("a new file");
    std::fs::remove_file(path).expect("the file just made");
    file
}
