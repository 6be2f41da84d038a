//! A network namespace for one case: it has a tap, and it is gone with its last thread and process, whatever happens.

use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::process::Command;

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, unshare};

/// The name of the tap in there.
pub const TAP: &str = "tap0";

/// Runs `work` on a thread of its own, in a new network namespace with the tap [`TAP`], which is up. What `work` starts is
/// in the namespace as well.
///
/// # Errors
///
/// Without `CAP_NET_ADMIN` or the program `ip`; else what `work` says.
pub fn in_own_network<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).context("Cannot make a network namespace")?;
            ip(&["tuntap", "add", "dev", TAP, "mode", "tap"])?;
            ip(&["link", "set", TAP, "up"])?;
            work()
        });
        thread.join().map_err(|_| anyhow!("The case panicked"))?
    })
}

fn ip(arguments: &[&str]) -> Result<()> {
    let status = Command::new("ip").args(arguments).status().context("ip does not start")?;
    ensure!(status.success(), "ip {} ended with {status}", arguments.join(" "));
    Ok(())
}

/// Attaches to the tap [`TAP`], as whoever starts a VMM and passes it a queue does.
///
/// # Errors
///
/// Outside of [`in_own_network`], or if somebody has it.
pub fn attached_tap() -> Result<OwnedFd> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun").context("Cannot open /dev/net/tun")?;
    // SAFETY: `ifreq` is a plain C struct of integers and unions of them: all zeros is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(TAP.bytes()) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
    // SAFETY: the request reads and writes one `ifreq`, which outlives the call.
    let result = unsafe { libc::ioctl(tun.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) };
    ensure!(result == 0, "Cannot attach to {TAP}: {}", std::io::Error::last_os_error());
    Ok(tun.into())
}
