//! Switches of the kernel's networking under `/proc/sys/net`. Any thread; each call is one small file. What is switched on
//! for us is remembered in a file and put back when the daemon is told to go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::NetworkError;

const ROUTING: &str = "/proc/sys/net/ipv4/ip_forward";

/// Keeps IPv6 off an interface of ours: the host shall have no address there that nobody gave it. Frames of guests pass
/// all the same.
pub fn no_ipv6(interface: &str) -> Result<(), NetworkError> {
    for (switch, value) in [("accept_ra", "0"), ("autoconf", "0"), ("disable_ipv6", "1")] {
        let path = format!("/proc/sys/net/ipv6/conf/{interface}/{switch}");
        match fs::write(&path, value) {
            // A kernel without IPv6 gives no addresses either.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !Path::new("/proc/sys/net/ipv6").exists() => {}
            other => other.map_err(NetworkError::io(format!("Cannot write {value} to {path}")))?,
        }
    }
    Ok(())
}

/// Whether the host routes, and whether it does so because of us.
#[derive(Debug)]
pub struct Routing {
    /// Holds what was there before; absent while nothing was changed.
    before: PathBuf,
}

impl Routing {
    /// Remembers in `run_dir`, which is empty after a boot, as the switch is.
    pub fn new(run_dir: &Path) -> Self {
        Self { before: run_dir.join("ip_forward.before") }
    }

    /// Routing was off before we needed it.
    pub fn is_ours(&self) -> bool {
        self.before.exists()
    }

    /// Switches routing on.
    pub fn enable(&self) -> Result<(), NetworkError> {
        let now = fs::read_to_string(ROUTING).map_err(NetworkError::io(format!("Cannot read {ROUTING}")))?;
        if now.trim() != "0" {
            return Ok(());
        }
        // First the memory: a crash between the two leaves a note of a change that was not made, which harms nobody.
        fs::write(&self.before, now).map_err(NetworkError::io(format!("Cannot write {}", self.before.display())))?;
        fs::write(ROUTING, "1").map_err(NetworkError::io(format!("Cannot write 1 to {ROUTING}")))
    }

    /// Puts back what was there before.
    pub fn restore(&self) -> Result<(), NetworkError> {
        let before = match fs::read_to_string(&self.before) {
            Ok(before) => before,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(NetworkError::io(format!("Cannot read {}", self.before.display()))(e)),
        };
        fs::write(ROUTING, before.trim()).map_err(NetworkError::io(format!("Cannot write to {ROUTING}")))?;
        fs::remove_file(&self.before).map_err(NetworkError::io(format!("Cannot remove {}", self.before.display())))
    }
}
