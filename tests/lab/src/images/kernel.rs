//! Debian's unmodified cloud kernel, for L1 and for the guests: fetched as a package, unpacked, never installed. The ELF
//! `vmlinux` is taken out of the bzImage, so that every boot protocol can be tried on the same kernel.

use crate::cache::{Cache, Recipe};
use crate::error::{IoContext, LabError};
use crate::tool::Tool;
use std::fs;
use std::path::{Path, PathBuf};

const META_PACKAGE: &str = "linux-image-cloud-amd64";
const APT_LISTS: &str = "/var/lib/apt/lists";
const BUILDER_VERSION: &str = "2";
/// Offset of `setup_sects` in a bzImage (x86 boot protocol, "The Real-Mode Kernel Header").
const SETUP_SECTS: usize = 0x1f1;
/// Offset of `payload_offset`; `payload_length` follows it.
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;
/// `XEN_ELFNOTE_PHYS32_ENTRY` (Xen, `public/elfnote.h`).
const PVH_NOTE: u32 = 18;
const LZ4_LEGACY_MAGIC: [u8; 4] = [0x02, 0x21, 0x4c, 0x18];
/// The legacy LZ4 frame has blocks of 8 MiB.
const LZ4_BLOCK: usize = 8 << 20;

/// An unpacked kernel.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Holds `lib/modules/VERSION`.
    pub directory: PathBuf,
    /// As `uname -r` says it.
    pub version: String,
    /// The kernel as an ELF file with a PVH note.
    pub vmlinux: PathBuf,
    /// The same without the note: only the 64-bit Linux protocol can start it.
    pub vmlinux_without_pvh: PathBuf,
    /// The kernel as a bzImage.
    pub bzimage: PathBuf,
}

impl Kernel {
    /// The newest kernel that apt knows, from the cache or from the archive.
    ///
    /// # Errors
    /// [`LabError::Tool`] when apt cannot fetch it, [`LabError::Image`] when the package is not what it should be.
    pub fn fetch(cache: &Cache) -> Result<Self, LabError> {
        let (package, version) = remembered(cache)?;
        let recipe =
            Recipe::new("kernel").with("package", &package).with("version", &version).with("builder", BUILDER_VERSION);
        let directory = cache.entry(&recipe, |dir| unpack(dir, &package))?;
        let release = package.trim_start_matches("linux-image-").to_string();
        Ok(Self {
            vmlinux: directory.join("vmlinux"),
            vmlinux_without_pvh: directory.join("vmlinux-without-pvh"),
            bzimage: directory.join(format!("boot/vmlinuz-{release}")),
            directory,
            version: release,
        })
    }

    /// The directory that holds `modules.dep`.
    pub fn module_tree(&self) -> PathBuf {
        self.directory.join("lib/modules").join(&self.version)
    }
}

/// Asks apt once for each state of its package lists: the question takes seconds on a busy machine.
fn remembered(cache: &Cache) -> Result<(String, String), LabError> {
    let lists = fs::metadata(APT_LISTS).and_then(|meta| meta.modified());
    let state = lists.map_or_else(|_| String::new(), |time| format!("{time:?}"));
    let note = cache.root().join("newest-kernel");
    let text = fs::read_to_string(&note).unwrap_or_default();
    if let [noted, package, version] = text.lines().collect::<Vec<_>>()[..]
        && noted == state
    {
        return Ok((package.into(), version.into()));
    }
    let (package, version) = newest()?;
    // Two at once write the same; a reader of half a note asks again.
    fs::write(&note, format!("{state}\n{package}\n{version}\n")).on("write", note)?;
    Ok((package, version))
}

/// The real package behind the meta package, and its version.
fn newest() -> Result<(String, String), LabError> {
    let missing = || LabError::Image {
        what: "kernel",
        reason: format!("apt does not know {META_PACKAGE}; `apt-get update` or `make setup` helps on Debian"),
    };
    let depends = Tool::new("apt-cache").args(["depends", META_PACKAGE]).run()?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image-"))
        .ok_or_else(missing)?
        .to_string();
    let shown = Tool::new("apt-cache").args(["show", "--no-all-versions", &package]).run()?;
    let version = shown.lines().find_map(|line| line.strip_prefix("Version: ")).ok_or_else(missing)?.to_string();
    Ok((package, version))
}

fn unpack(dir: &Path, package: &str) -> Result<(), LabError> {
    Tool::new("apt-get").args(["download", "-q", package]).in_directory(dir).run()?;
    let archive = fs::read_dir(dir)
        .on("read", dir)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or_else(|| LabError::Image { what: "kernel", reason: format!("apt-get fetched no {package}") })?;
    Tool::new("dpkg").arg("-x").arg(&archive).arg(dir).run()?;
    fs::remove_file(&archive).on("remove", &archive)?;
    let release = package.trim_start_matches("linux-image-");
    Tool::new("depmod").arg("-b").arg(dir).arg(release).run()?;
    let bzimage = dir.join(format!("boot/vmlinuz-{release}"));
    let vmlinux = extract(&fs::read(&bzimage).on("read", &bzimage)?)
        .map_err(|reason| LabError::Image { what: "vmlinux", reason: format!("{}: {reason}", bzimage.display()) })?;
    let plain = hide_pvh_note(&vmlinux)
        .ok_or_else(|| LabError::Image { what: "vmlinux", reason: "it has no PVH note".into() })?;
    for (file, content) in [("vmlinux", vmlinux), ("vmlinux-without-pvh", plain)] {
        fs::write(dir.join(file), content).on("write", dir.join(file))?;
    }
    Ok(())
}

/// A copy in which the note that offers PVH (owner "Xen", type 18) has another type.
fn hide_pvh_note(vmlinux: &[u8]) -> Option<Vec<u8>> {
    // Owner's length, the length of the entry address (4 or 8), type, owner.
    let note = |length: u32| [[4, length, PVH_NOTE].map(u32::to_le_bytes).concat(), b"Xen\0".to_vec()].concat();
    let notes = [note(4), note(8)];
    let at = vmlinux.windows(16).position(|window| notes.iter().any(|note| note == window))?;
    let mut copy = vmlinux.to_vec();
    *copy.get_mut(at + 8)? = 0;
    Some(copy)
}

/// Takes the ELF kernel out of a bzImage whose payload is LZ4.
fn extract(bzimage: &[u8]) -> Result<Vec<u8>, String> {
    let word = |offset: usize| {
        let bytes = bzimage.get(offset..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map(|bytes| u32::from_le_bytes(*bytes) as usize).ok_or("the header is cut off")
    };
    let sectors = match bzimage.get(SETUP_SECTS) {
        Some(0) => 4,
        Some(count) => usize::from(*count),
        None => return Err("the header is cut off".into()),
    };
    let start = (sectors + 1) * 512 + word(PAYLOAD_OFFSET)?;
    // The last four bytes hold the unpacked size.
    let end = start + word(PAYLOAD_LENGTH)?.saturating_sub(4);
    let payload = bzimage.get(start..end).ok_or("the payload is cut off")?;
    let vmlinux = unpack_lz4(payload)?;
    if vmlinux.starts_with(b"\x7fELF") { Ok(vmlinux) } else { Err("the payload is not an ELF file".into()) }
}

/// The legacy LZ4 frame: a magic, then blocks, each with its length before it.
fn unpack_lz4(payload: &[u8]) -> Result<Vec<u8>, String> {
    let mut rest = payload.strip_prefix(&LZ4_LEGACY_MAGIC).ok_or("the payload is not LZ4")?;
    let mut unpacked = Vec::new();
    while let Some((length, after)) = rest.split_first_chunk::<4>() {
        let length = u32::from_le_bytes(*length) as usize;
        let (block, after) = after.split_at_checked(length).ok_or("an LZ4 block is cut off")?;
        let bytes = lz4_flex::block::decompress(block, LZ4_BLOCK).map_err(|error| error.to_string())?;
        unpacked.extend_from_slice(&bytes);
        rest = after;
    }
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::{LZ4_LEGACY_MAGIC, PAYLOAD_LENGTH, PAYLOAD_OFFSET, SETUP_SECTS, extract, hide_pvh_note};

    /// A bzImage with one setup sector and `content` as one LZ4 block of literals.
    fn bzimage(content: &[u8]) -> Vec<u8> {
        assert!(content.len() < 15, "one token holds at most 14 literals");
        let mut payload = LZ4_LEGACY_MAGIC.to_vec();
        payload.extend_from_slice(&(content.len() as u32 + 1).to_le_bytes());
        payload.push((content.len() as u8) << 4);
        payload.extend_from_slice(content);
        payload.extend_from_slice(&(content.len() as u32).to_le_bytes());
        let mut image = vec![0; 1024];
        image[SETUP_SECTS] = 1;
        image[PAYLOAD_OFFSET..PAYLOAD_OFFSET + 4].copy_from_slice(&0_u32.to_le_bytes());
        image[PAYLOAD_LENGTH..PAYLOAD_LENGTH + 4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        image.extend_from_slice(&payload);
        image
    }

    #[test]
    fn the_elf_kernel_comes_out_of_a_bzimage() {
        assert_eq!(extract(&bzimage(b"\x7fELFkernel")).expect("it is one"), b"\x7fELFkernel");
    }

    #[test]
    fn broken_images_are_refused() {
        let good = bzimage(b"\x7fELFkernel");
        assert!(extract(&bzimage(b"no kernel")).is_err());
        for length in [0, 0x200, 1024, good.len() - 5] {
            assert!(extract(&good[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn the_pvh_note_is_hidden_and_nothing_else_changes() {
        let image = [b"\x7fELF....".as_slice(), b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0address.", b"rest"].concat();
        let hidden = hide_pvh_note(&image).expect("the note is there");
        let changed: Vec<_> = (0..image.len()).filter(|index| image[*index] != hidden[*index]).collect();
        assert_eq!(changed, [16]);
        assert_eq!(hide_pvh_note(&hidden), None);
    }
}
