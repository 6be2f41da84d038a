//! Random bytes from the host's kernel.
//!
//! The worker of virtio-rng calls it on an I/O thread: it never blocks and opens no file.

use std::io;

/// Most bytes in one [`fill`]: up to this length getrandom(2) is neither short nor interrupted.
pub const MAX_FILL: usize = 256;

/// Fills `bytes` (at most [`MAX_FILL`]); `WouldBlock` when the host's pool is not initialised yet.
pub fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let len = bytes.len().min(MAX_FILL);
    // SAFETY: `bytes` is ours, writable and at least `len` long for the whole call.
    let got = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), len, libc::GRND_NONBLOCK) };
    match usize::try_from(got) {
        Err(_) => Err(io::Error::last_os_error()),
        Ok(got) if got == bytes.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fills_to_the_last_byte_and_refuses_what_could_be_short() {
        let mut bytes = [0; MAX_FILL];
        let mut touched = [false; MAX_FILL];
        // Each byte is zero once in 256 times: after 20 rounds all have been seen changed.
        for _ in 0..20 {
            fill(&mut bytes).unwrap();
            touched.iter_mut().zip(bytes).for_each(|(seen, byte)| *seen |= byte != 0);
        }
        assert!(touched.iter().all(|seen| *seen));
        assert_eq!(fill(&mut [0; MAX_FILL + 1]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
