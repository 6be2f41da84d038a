//! Where the files of each network's DHCP server are, and as whom it may read them. Any thread; small files only.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::dhcp::ServerFiles;
use super::error::NetworkError;
use crate::model::Id;

/// The room's own directories.
#[derive(Debug)]
pub struct Places {
    /// How dnsmasq is called.
    pub dnsmasq: PathBuf,
    /// What lives as long as the machine is up.
    pub run_dir: PathBuf,
    /// What survives a reboot.
    pub state_dir: PathBuf,
}

impl Places {
    /// The files of one network.
    pub fn of(&self, id: &Id) -> DhcpFiles {
        let (run, state) = (self.run_dir.join(id.as_str()), self.state_dir.join(id.as_str()));
        DhcpFiles { program: self.dnsmasq.clone(), run, leases: state.join("leases"), state }
    }
}

/// Files of one network.
#[derive(Debug)]
pub struct DhcpFiles {
    program: PathBuf,
    run: PathBuf,
    /// The directory of the leases.
    pub state: PathBuf,
    /// What was given.
    pub leases: PathBuf,
}

impl DhcpFiles {
    /// Those that the server's supervisor needs.
    pub fn server(&self) -> ServerFiles {
        let file = |name: &str| self.run.join(name);
        ServerFiles {
            program: self.program.clone(),
            config: file("dnsmasq.conf"),
            pid: file("dnsmasq.pid"),
            log: file("dnsmasq.log"),
        }
    }

    /// Makes the directories.
    pub fn make(&self) -> Result<(), NetworkError> {
        for directory in [&self.run, &self.state] {
            let failed = || NetworkError::io(format!("Cannot make {}", directory.display()));
            fs::create_dir_all(directory).map_err(failed())?;
            // dnsmasq reads its hosts again as its own user.
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755)).map_err(failed())?;
        }
        Ok(())
    }

    /// Fixed addresses and names.
    pub fn hosts(&self) -> PathBuf {
        self.run.join("hosts")
    }

    /// The user that the server shall become: its own, unless that one cannot read its files.
    pub fn user(&self) -> &'static str {
        if is_reachable_by_all(&self.run) { own_user() } else { "root" }
    }

    /// Removes the directories; it is no error when they are gone.
    pub fn remove(&self) -> Result<(), NetworkError> {
        for directory in [&self.run, &self.state] {
            match fs::remove_dir_all(directory) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(NetworkError::io(format!("Cannot remove {}", directory.display()))(error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Whether every user may go into this directory.
fn is_reachable_by_all(directory: &Path) -> bool {
    directory.ancestors().all(|part| fs::metadata(part).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
}

/// The user that dnsmasq becomes: its own where the host has one.
fn own_user() -> &'static str {
    let known = fs::read_to_string("/etc/passwd").unwrap_or_default();
    if known.lines().any(|line| line.starts_with("dnsmasq:")) { "dnsmasq" } else { "nobody" }
}
