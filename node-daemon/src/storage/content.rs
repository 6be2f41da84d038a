//! What a file is, by its first bytes, and whether that fits what it was said to be. Pure; every byte may be a stranger's.

use super::StorageError;
use crate::model::{ImageFormat, ImageKind};

/// Bytes from the beginning of a file that [`recognise`] looks at.
pub const HEAD_BYTES: usize = ISO_AT + 5;

/// Where an ISO 9660 file says what it is: byte 1 of its 17th sector (ECMA-119 section 8.1).
const ISO_AT: usize = 16 * 2048 + 1;

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// No bytes at all.
    Empty,
    /// QEMU's copy-on-write format.
    Qcow2,
    /// ISO 9660.
    Iso,
    /// An ELF program for x86-64.
    Elf,
    /// A Linux kernel with its boot header.
    BzImage,
    /// A cpio archive, "newc".
    Cpio,
    /// Something compressed; the name says by what.
    Compressed(&'static str),
    /// A disk in a format that is not supported; the name says which.
    ForeignDisk(&'static str),
    /// Anything else: the bytes of a disk, perhaps.
    Unknown,
}

/// Where a mark is, the mark, and what it means. The first that fits counts.
const MARKS: &[(usize, &[u8], Content)] = &[
    (0, b"QFI\xfb", Content::Qcow2),
    (0, b"070701", Content::Cpio),
    (0, b"070702", Content::Cpio),
    (0, b"\x1f\x8b", Content::Compressed("gzip")),
    (0, b"\x28\xb5\x2f\xfd", Content::Compressed("zstd")),
    (0, b"\xfd7zXZ\0", Content::Compressed("xz")),
    (0, b"BZh", Content::Compressed("bzip2")),
    (0, b"\x02\x21\x4c\x18", Content::Compressed("lz4")),
    (0, b"\x04\x22\x4d\x18", Content::Compressed("lz4 (frames, which kernels cannot read)")),
    (0, b"\x89LZO\0", Content::Compressed("lzo")),
    (0, b"\x5d\0\0", Content::Compressed("lzma")),
    (0, b"PK\x03\x04", Content::Compressed("zip (which kernels cannot read)")),
    (0, b"KDMV", Content::ForeignDisk("VMDK")),
    (0, b"# Disk DescriptorFile", Content::ForeignDisk("VMDK")),
    (0, b"conectix", Content::ForeignDisk("VHD")),
    (0, b"vhdxfile", Content::ForeignDisk("VHDX")),
    (0x40, b"\x7f\x10\xda\xbe", Content::ForeignDisk("VDI")),
    (0, b"QED\0", Content::ForeignDisk("QED")),
    (ISO_AT, b"CD001", Content::Iso),
];

/// What a file that begins with `head` is. `head` is the whole file when it is shorter than [`HEAD_BYTES`].
pub fn recognise(head: &[u8]) -> Content {
    let at = |offset: usize, mark: &[u8]| head.get(offset..).is_some_and(|rest| rest.starts_with(mark));
    if head.is_empty() {
        return Content::Empty;
    }
    // Class 64 bit, little-endian, machine x86-64 (62).
    if at(0, b"\x7fELF\x02\x01") && at(18, b"\x3e\0") {
        return Content::Elf;
    }
    if at(0x1fe, b"\x55\xaa") && at(0x202, b"HdrS") {
        return Content::BzImage;
    }
    MARKS.iter().find(|(offset, mark, _)| at(*offset, mark)).map_or(Content::Unknown, |(_, _, content)| *content)
}

impl Content {
    fn words(self) -> String {
        match self {
            Self::Empty => "empty".into(),
            Self::Qcow2 => "a qcow2 disk".into(),
            Self::Iso => "an ISO 9660 file".into(),
            Self::Elf => "an ELF program".into(),
            Self::BzImage => "a Linux kernel (bzImage)".into(),
            Self::Cpio => "a cpio archive".into(),
            Self::Compressed(how) => format!("compressed by {how}"),
            Self::ForeignDisk(format) => format!("a {format} disk"),
            Self::Unknown => "nothing that is known".into(),
        }
    }
}

/// How the bytes of an image of this kind are to be read.
///
/// # Errors
/// When this is no image of that kind; the sentence says what it is and what to do.
pub fn format_of(kind: ImageKind, content: Content) -> Result<ImageFormat, StorageError> {
    let hint = match (kind, content) {
        (ImageKind::Disk, Content::Qcow2) => return Ok(ImageFormat::Qcow2),
        (ImageKind::Disk, Content::Unknown)
        | (ImageKind::Kernel, Content::Elf | Content::BzImage)
        | (ImageKind::Initrd, Content::Cpio)
        | (ImageKind::Iso, Content::Iso) => return Ok(ImageFormat::Raw),
        (ImageKind::Initrd, Content::Compressed(how)) if !how.contains("cannot") => return Ok(ImageFormat::Raw),
        (_, Content::Empty) => "give its bytes",
        (ImageKind::Disk, Content::Compressed(_)) => "unpack it first",
        (ImageKind::Disk, Content::ForeignDisk(_)) => "convert it by `qemu-img convert -O qcow2` first",
        (ImageKind::Disk, Content::Iso) => "add it with kind ISO",
        (ImageKind::Disk, Content::Elf | Content::BzImage) => "add it with kind KERNEL",
        (ImageKind::Disk, Content::Cpio) => "add it with kind INITRD",
        (ImageKind::Kernel, _) => "a kernel is an ELF vmlinux for x86-64 or a bzImage",
        (ImageKind::Initrd, _) => {
            "an initial RAM disk is a cpio archive (newc), plain or compressed by gzip, zstd, xz, lz4 -l"
        }
        (ImageKind::Iso, _) => "an ISO image is an ISO 9660 file",
    };
    Err(StorageError::content(format!(
        "These bytes are no image of kind {}: they are {}; {hint}",
        kind.as_str(),
        content.words()
    )))
}
