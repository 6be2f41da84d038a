//! Backing chains of qcow2 images: which files an image may pull in, and their opening.
//!
//! Main thread, before the sandbox is entered. An image is data that a stranger may have written: whatever its header
//! says is a wish. The wish is granted only in one of two ways:
//!
//! - *By path* (stand-alone use): the header names a file, and [`Backing`] says where that may be. By default it must lie in
//!   the directory of the image that the operator named, or below it, symlinks and `..` included: the kernel checks
//!   (`openat2`, `RESOLVE_BENEATH`). So an image can make us read only its neighbours.
//! - *By fd* (under the daemon): whoever starts us gives every layer, in order. Names in headers are not looked at; formats
//!   are, so a header that lies can make us read the given files in another way, and no other file.
//!
//! In both, formats are never guessed (a guest could write a qcow2 header into its raw disk), layers are opened read-only,
//! external data files are refused, and a chain is at most [`LAYERS_MAX`] long.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use imago::file::File as ImageFile;
use imago::qcow2::Qcow2;
use imago::raw::Raw;
use imago::{FormatAccess, StorageOpenOptions};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};

use super::DiskError;
use super::open::{DiskAccess, DiskFile};

/// Most images in a chain, the top one included. Each costs a lock, two fds and up to 10 MiB of metadata caches.
pub const LAYERS_MAX: usize = 32;

/// Which backing files may be opened by the path that an image names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backing {
    /// None.
    Refuse,
    /// Those in the top image's directory, or below it.
    #[default]
    Beside,
    /// Any that this process can read: only for images whose origin is trusted.
    Anywhere,
}

/// Format of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LayerFormat {
    /// The bytes of the disk.
    Raw,
    /// An image that may have a backing file itself.
    Qcow2,
}

/// An opened chain, ready for I/O, and the locked files that it is made of.
pub(super) struct Chain {
    pub access: FormatAccess<ImageFile>,
    pub files: Vec<DiskFile>,
}

/// What an image's header says about the image below it.
struct Wish {
    name: String,
    backing: String,
    format: Option<String>,
}

impl Wish {
    fn refused(&self, reason: &'static str) -> DiskError {
        DiskError::Backing { name: self.name.clone(), backing: self.backing.clone(), reason }
    }

    fn layer_format(&self) -> Result<LayerFormat, DiskError> {
        match self.format.as_deref() {
            Some("qcow2") => Ok(LayerFormat::Qcow2),
            Some("raw") => Ok(LayerFormat::Raw),
            Some(_) => Err(self.refused("its format is neither raw nor qcow2")),
            None => Err(self.refused("its format is not given and never guessed; set it by `qemu-img rebase -u -F`")),
        }
    }
}

/// Grants wishes by opening paths.
struct ByPath {
    policy: Backing,
    direct: bool,
    /// The top image's directory.
    root: PathBuf,
    /// The directory of the image whose wish comes next: relative names start there.
    here: PathBuf,
}

impl ByPath {
    fn grant(&mut self, wish: &Wish) -> Result<(DiskFile, LayerFormat), DiskError> {
        let format = wish.layer_format()?;
        let path = self.here.join(&wish.backing);
        path.parent().unwrap_or(Path::new("/")).clone_into(&mut self.here);
        let access = DiskAccess { read_only: true, direct: self.direct };
        let opened = match self.policy {
            Backing::Refuse => return Err(wish.refused("backing files are not allowed for this disk")),
            Backing::Anywhere => DiskFile::open(&path, access)?,
            Backing::Beside => DiskFile::adopt(path.display().to_string(), self.open_beside(&path, wish)?, access)?,
        };
        Ok((opened, format))
    }

    fn open_beside(&self, path: &Path, wish: &Wish) -> Result<File, DiskError> {
        let outside = "it is not in the image's directory or below it; put it there, or pass each layer as a file";
        let name = || path.display().to_string();
        let canonical = self.root.canonicalize().map_err(|source| DiskError::Open { name: name(), source })?;
        let relative = path.strip_prefix(&self.root).or_else(|_| path.strip_prefix(canonical));
        let relative = relative.map_err(|_| wish.refused(outside))?;
        let root = File::open(&self.root).map_err(|source| DiskError::Open { name: name(), source })?;
        // NONBLOCK: a named pipe in the file's place must not stop us; it is found out and refused later.
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        let how =
            OpenHow::new().flags(flags).resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let opened: Result<OwnedFd, _> = nix::fcntl::openat2(&root, relative, how);
        match opened {
            Ok(fd) => Ok(File::from(fd)),
            Err(nix::errno::Errno::EXDEV) => Err(wish.refused(outside)),
            Err(errno) => Err(DiskError::Open { name: name(), source: errno.into() }),
        }
    }
}

/// Opens the chain of the image at `path`.
pub(super) fn open_by_path(path: &Path, access: DiskAccess, policy: Backing) -> Result<Chain, DiskError> {
    let top = DiskFile::open(path, access)?;
    let fail = |source| DiskError::Open { name: path.display().to_string(), source };
    let root = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => std::path::absolute(parent),
        _ => std::env::current_dir(),
    };
    let root = root.map_err(fail)?;
    let mut by_path = ByPath { policy, direct: access.direct, here: root.clone(), root };
    build(top, |wish| by_path.grant(wish))
}

/// Makes a chain of files that were all given, the top one and those below it in order.
pub(super) fn open_given(top: DiskFile, below: Vec<DiskFile>) -> Result<Chain, DiskError> {
    let mut below = below.into_iter();
    let name = top.name.clone();
    let chain = build(top, |wish| {
        let format = wish.layer_format()?;
        Ok((below.next().ok_or_else(|| wish.refused("no file was given for it"))?, format))
    })?;
    if let Some(unused) = below.next() {
        let reason = "it was given, but no image of the chain has it as its backing file";
        return Err(DiskError::Backing { name, backing: unused.name, reason });
    }
    Ok(chain)
}

fn build(
    top: DiskFile,
    mut grant: impl FnMut(&Wish) -> Result<(DiskFile, LayerFormat), DiskError>,
) -> Result<Chain, DiskError> {
    let mut images: Vec<Qcow2<ImageFile>> = Vec::new();
    let mut files = Vec::new();
    let mut next = (top, LayerFormat::Qcow2);
    let mut access = loop {
        let (file, format) = next;
        let storage = storage(&file)?;
        let bad = |source| DiskError::Format { name: file.name.clone(), source };
        if format == LayerFormat::Raw {
            let raw = Raw::open_image(storage, false).map_err(bad)?;
            files.push(file);
            break Some(FormatAccess::new(raw));
        }
        let image = Qcow2::<ImageFile>::open_image(storage, !file.read_only).map_err(bad)?;
        if image.requires_external_data_file() {
            return Err(bad(io::Error::other("its data is in a second file, which is not supported")));
        }
        let wish = image.implicit_backing_file().cloned().map(|backing| Wish {
            name: file.name.clone(),
            backing,
            format: image.implicit_backing_format().cloned(),
        });
        images.push(image);
        files.push(file);
        let Some(wish) = wish else { break None };
        next = grant(&wish)?;
        if files.len() >= LAYERS_MAX {
            return Err(wish.refused("the chain is too long"));
        }
        if files.iter().any(|file| same_file(file, &next.0)) {
            return Err(wish.refused("it is in the chain already"));
        }
    };
    while let Some(mut image) = images.pop() {
        image.set_data_file(None);
        image.set_backing(access.take());
        access = Some(FormatAccess::new(image));
    }
    let nothing = || DiskError::Format { name: String::new(), source: io::ErrorKind::UnexpectedEof.into() };
    Ok(Chain { access: access.ok_or_else(nothing)?, files })
}

fn storage(file: &DiskFile) -> Result<ImageFile, DiskError> {
    let options = StorageOpenOptions::new().write(!file.read_only).direct(file.direct);
    let opened = file.duplicate().and_then(|duplicate| ImageFile::from_open_file(duplicate, options));
    opened.map_err(|source| DiskError::Host { name: file.name.clone(), action: "prepare reading", source })
}

fn same_file(a: &DiskFile, b: &DiskFile) -> bool {
    let identity = |file: &DiskFile| file.metadata().map(|m| (m.dev(), m.ino())).ok();
    identity(a).is_some() && identity(a) == identity(b)
}
