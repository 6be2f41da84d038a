//! A network namespace for one case: it has a tap, and it is gone with its last thread and process, whatever happens.

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
