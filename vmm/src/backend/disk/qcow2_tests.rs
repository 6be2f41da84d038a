//! qcow2 disks and their chains, on images made by the library itself.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::{FormatCreateBuilder as _, StorageOpenOptions};

use super::chain::Backing;
use super::open::{DiskAccess, DiskFile};
use super::qcow2::Qcow2Disk;
use super::tests::{memory, pattern, read, run, slices};
use super::{Disk, DiskError, DiskRequest};

const SIZE: u64 = 4 << 20;
const WRITABLE: DiskAccess = DiskAccess { read_only: false, direct: false };
const READ_ONLY: DiskAccess = DiskAccess { read_only: true, direct: false };

/// Makes an empty image; `backing` is (file name, format) as the header shall say.
fn image(path: &Path, backing: Option<(&str, &str)>) -> PathBuf {
    let file = File::options().read(true).write(true).create_new(true).open(path).unwrap();
    let storage = ImageFile::from_open_file(file, StorageOpenOptions::new().write(true)).unwrap();
    let mut builder = Qcow2::<ImageFile>::create_builder(storage).size(SIZE);
    if let Some((name, format)) = backing {
        builder = builder.backing(name.into(), format.into());
    }
    builder.create().unwrap();
    path.to_owned()
}

fn raw(path: &Path) -> PathBuf {
    std::fs::write(path, pattern(0, SIZE as usize)).unwrap();
    path.to_owned()
}

fn write(disk: &dyn Disk, offset: u64, byte: u8, len: u64) {
    let memory = memory();
    let from = slices(memory, &[(0, len)]);
    from[0].write(0, &vec![byte; len as usize]);
    let mut queue = disk.open_queue(8).unwrap();
    assert_eq!(run(queue.as_mut(), DiskRequest::Write { offset, from: &from }).unwrap(), len as u32);
}

fn refusal(path: &Path, backing: Backing) -> String {
    match Qcow2Disk::open(path, WRITABLE, backing) {
        Ok(_) => panic!("{} was opened", path.display()),
        Err(error) => match std::error::Error::source(&error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        },
    }
}

#[test]
fn a_chain_reads_through_and_only_its_top_is_written() {
    for direct in [false, true] {
        let binary = std::env::current_exe().unwrap();
        let directory = tempfile::tempdir_in(binary.parent().unwrap()).unwrap();
        let base = raw(&directory.path().join("base.raw"));
        image(&directory.path().join("middle.qcow2"), Some(("base.raw", "raw")));
        let top = image(&directory.path().join("top.qcow2"), Some(("middle.qcow2", "qcow2")));
        let mut model = pattern(0, SIZE as usize);
        {
            let disk = Qcow2Disk::open(&top, DiskAccess { read_only: false, direct }, Backing::Beside).unwrap();
            assert_eq!(disk.shape().capacity_bytes, SIZE);
            for (offset, byte, len) in [(0, 1, 512), (65536 - 512, 2, 1024), (1 << 20, 3, 300 << 10)] {
                write(&disk, offset, byte, len);
                model[offset as usize..(offset + len) as usize].fill(byte);
            }
            let mut queue = disk.open_queue(8).unwrap();
            let parts = [(0x1001, 100_003), (0x10_0000, 99_709)];
            for offset in [0, 65536 - 1024, (1 << 20) - 512] {
                let len = 199_712;
                let got = read(queue.as_mut(), memory(), offset, &parts);
                assert!(got == model[offset as usize..offset as usize + len], "direct={direct} {offset}");
            }
            for (offset, len, unmap) in [(65536, 131_072, true), (3 << 20, 70_144, false), (512, 512, true)] {
                run(queue.as_mut(), DiskRequest::WriteZeroes { offset, len, unmap }).unwrap();
                model[offset as usize..(offset + len) as usize].fill(0);
            }
            run(queue.as_mut(), DiskRequest::Discard { offset: 2 << 20, len: 65536 }).unwrap();
            model[2 << 20..(2 << 20) + 65536].fill(0);
            run(queue.as_mut(), DiskRequest::Flush).unwrap();
        }
        let disk = Qcow2Disk::open(&top, READ_ONLY, Backing::Beside).unwrap();
        let mut queue = disk.open_queue(8).unwrap();
        let whole = read(queue.as_mut(), memory(), 0, &[(0, SIZE)]);
        assert!(whole == model, "after reopening, direct={direct}");
        assert!(std::fs::read(base).unwrap() == pattern(0, SIZE as usize), "the base is untouched");
    }
}

#[test]
fn a_header_cannot_reach_out_of_the_images_directory() {
    let outside = tempfile::tempdir().unwrap();
    let secret = raw(&outside.path().join("secret"));
    let directory = tempfile::tempdir().unwrap();
    let inside = |name: &str| directory.path().join(name);
    std::os::unix::fs::symlink(&secret, inside("link")).unwrap();
    std::fs::create_dir(inside("sub")).unwrap();
    raw(&inside("base"));
    raw(&inside("sub/base"));
    let neighbour = format!("../{}/secret", outside.path().file_name().unwrap().to_str().unwrap());
    for (i, name) in
        [secret.to_str().unwrap(), &neighbour, "link", "sub/../../etc/passwd", "/proc/self/mem"].into_iter().enumerate()
    {
        let top = image(&inside(&format!("bad{i}")), Some((name, "raw")));
        let text = refusal(&top, Backing::Beside);
        assert!(text.contains("not in the image's directory"), "{name}: {text}");
    }
    let absolute = inside("base");
    for (i, name) in ["base", "sub/base", "sub/../base", "./base", absolute.to_str().unwrap()].into_iter().enumerate() {
        let top = image(&inside(&format!("good{i}")), Some((name, "raw")));
        assert!(Qcow2Disk::open(&top, WRITABLE, Backing::Beside).is_ok(), "{name}");
        assert!(refusal(&top, Backing::Refuse).contains("not allowed for this disk"));
    }
    let trusted = image(&inside("trusted"), Some((secret.to_str().unwrap(), "raw")));
    assert!(Qcow2Disk::open(&trusted, WRITABLE, Backing::Anywhere).is_ok());
}

#[test]
fn a_bad_image_or_chain_is_refused_with_the_reason() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let expect = |top: &Path, part: &str| {
        let text = refusal(top, Backing::Beside);
        assert!(text.contains(part) && text.contains(top.to_str().unwrap()), "{text} has not: {part}");
    };
    expect(&raw(&path("raw")), "not a usable qcow2 image");
    std::fs::write(path("short"), [b'Q'; 600]).unwrap();
    expect(&path("short"), "not a usable qcow2 image");
    expect(&image(&path("self"), Some(("self", "qcow2"))), "is in use by");
    image(&path("a"), Some(("b", "qcow2")));
    image(&path("b"), Some(("a", "qcow2")));
    let circle = Qcow2Disk::open(&path("a"), READ_ONLY, Backing::Beside).err().unwrap();
    assert!(circle.to_string().contains("in the chain already"), "{circle}");
    expect(&image(&path("odd"), Some(("raw", "vmdk"))), "neither raw nor qcow2");
    nix::unistd::mkfifo(&path("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    let fifo = refusal(&image(&path("on-fifo"), Some(("fifo", "raw"))), Backing::Beside);
    assert!(fifo.contains("is a named pipe"), "{fifo}");
    for i in 0..40 {
        image(&path(&format!("l{i}")), Some((&format!("l{}", i + 1), "qcow2")));
    }
    assert!(refusal(&path("l0"), Backing::Beside).contains("too long"));
    // Bit 2 of the incompatible features: the data is in another file, named by the header or not.
    let external = image(&path("external"), None);
    File::options().write(true).open(&external).unwrap().write_all_at(&[4], 79).unwrap();
    expect(&external, "second file");
}

#[test]
fn given_layers_replace_the_names_in_headers() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let base = raw(&path("renamed-base"));
    let top = image(&path("top"), Some(("/nowhere/base", "raw")));
    let adopt = |path: &Path, access: DiskAccess| {
        let file = File::options().read(true).write(!access.read_only).open(path).unwrap();
        DiskFile::adopt(format!("fd:{}", path.file_name().unwrap().display()), file, access).unwrap()
    };
    let disk = Qcow2Disk::adopt(adopt(&top, WRITABLE), vec![adopt(&base, READ_ONLY)]).unwrap();
    let mut queue = disk.open_queue(8).unwrap();
    assert_eq!(read(queue.as_mut(), memory(), 4096, &[(0, 512)]), pattern(4096, 512));
    drop((queue, disk));
    let missing = Qcow2Disk::adopt(adopt(&top, WRITABLE), Vec::new()).err().unwrap();
    assert!(missing.to_string().contains("no file was given"), "{missing}");
    let alone = image(&path("alone"), None);
    let too_many = Qcow2Disk::adopt(adopt(&alone, WRITABLE), vec![adopt(&base, READ_ONLY)]);
    assert!(matches!(too_many.err(), Some(DiskError::Backing { backing, .. }) if backing == "fd:renamed-base"));
}

#[test]
fn requests_out_of_bounds_or_to_a_read_only_image_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let top = image(&directory.path().join("top"), None);
    let page = slices(memory(), &[(0, 4096)]);
    let disk = Qcow2Disk::open(&top, WRITABLE, Backing::Beside).unwrap();
    let mut queue = disk.open_queue(8).unwrap();
    for offset in [SIZE, SIZE - 512, u64::MAX - 512] {
        for request in [
            DiskRequest::Read { offset, to: &page },
            DiskRequest::Write { offset, from: &page },
            DiskRequest::Discard { offset, len: 4096 },
            DiskRequest::WriteZeroes { offset, len: 4096, unmap: false },
        ] {
            assert_eq!(run(queue.as_mut(), request).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
        }
    }
    drop((queue, disk));
    let disk = Qcow2Disk::open(&top, READ_ONLY, Backing::Beside).unwrap();
    let mut queue = disk.open_queue(8).unwrap();
    let refused = run(queue.as_mut(), DiskRequest::Write { offset: 0, from: &page }).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
}
