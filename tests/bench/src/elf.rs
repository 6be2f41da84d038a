//! The payload's file, changed: pure.

use anyhow::{Context, Result};

/// Header of the PVH note: name size, value size, type (`XEN_ELFNOTE_PHYS32_ENTRY`), name.
const PVH_NOTE: &[u8] = b"\x04\0\0\0\x08\0\0\0\x12\0\0\0Xen\0";
const TYPE: usize = 8;
const NO_TYPE: u8 = 0x63;

/// Makes the PVH note unrecognisable, so that a VMM falls back to the 64-bit Linux protocol.
///
/// # Errors
///
/// If the file has no PVH note.
pub fn without_pvh(mut file: Vec<u8>) -> Result<Vec<u8>> {
    let note = file.windows(PVH_NOTE.len()).position(|bytes| bytes == PVH_NOTE).context("The file has no PVH note")?;
    file[note + TYPE] = NO_TYPE;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_note_is_found_and_spoilt_once() {
        let file = [b"\x7fELF...", PVH_NOTE, b"rest"].concat();
        let changed = without_pvh(file.clone()).unwrap();
        assert_eq!(changed.iter().zip(&file).filter(|(left, right)| left != right).count(), 1);
        assert!(without_pvh(changed).is_err());
    }
}
