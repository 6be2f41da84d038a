//! Queues of tap devices. Any thread, calls do not block. It makes the device and hands its queues out; links, addresses
//! and filters are next door, and frames are the VMM's.
//!
//! The device is not persistent: it lives as long as somebody holds a queue, so a VMM that ends takes its tap with it.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;

use super::error::NetworkError;

/// Makes the tap `name` with `queues` queues of frames that begin with a virtio header, as the VMM expects them.
///
/// # Errors
/// When there is such an interface already, or the kernel refuses.
pub fn make(name: &str, queues: u16) -> Result<Vec<OwnedFd>, NetworkError> {
    let queues = queues.max(1);
    (0..queues)
        .map(|index| {
            let fd = open().map_err(NetworkError::io("Cannot open /dev/net/tun: is the kernel's tun module there?"))?;
            // Attaching to somebody else's device would be silent without this.
            let exclusive = if index == 0 { libc::IFF_TUN_EXCL } else { 0 };
            let several = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
            let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | several | exclusive;
            attach(&fd, name, flags)
                .map_err(NetworkError::io(format!("Cannot make queue {index} of the tap {name}")))?;
            Ok(fd)
        })
        .collect()
}

fn open() -> io::Result<OwnedFd> {
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    Ok(file.into())
}

fn attach(fd: &OwnedFd, name: &str, flags: libc::c_int) -> io::Result<()> {
    // SAFETY: `ifreq` is a plain C struct of integers and unions of them: all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = flags as i16;
    // SAFETY: TUNSETIFF reads and writes one `ifreq`, which `request` is and stays for the call.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
