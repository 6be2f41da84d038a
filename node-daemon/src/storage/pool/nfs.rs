//! Mounting an export of an NFS server, by mount.nfs(8): it negotiates versions and finds the server's address. Async runtime; what
//! might hang in the kernel is done in child processes and on a pool's threads.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::process::Command;
use tokio::time::timeout;

use super::super::{StorageError, StorageFault};

/// How long mount.nfs may take: it tries for two minutes by itself when a server does not answer.
const MOUNT_PATIENCE: Duration = Duration::from_secs(30);
/// Set by us whatever the user says; the last word counts.
const SAFE_OPTIONS: &str = "nosuid,nodev,noexec";
/// Where Debian has it; not in every PATH.
const MOUNT_PROGRAM: &str = "/sbin/mount.nfs";

/// Whether an NFS file system is mounted at this directory, as `/proc/self/mountinfo` tells: asking the directory itself might hang.
///
/// # Errors
/// When the kernel's table cannot be read.
pub fn is_mounted(at: &Path) -> Result<bool, StorageError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = std::fs::read_to_string(table).map_err(|error| StorageError::io("read", table, error))?;
    Ok(mounted_in(&text, at))
}

/// `proc_pid_mountinfo(5)`: the fifth field is the mount point, and the type follows a field that is a hyphen.
fn mounted_in(table: &str, at: &Path) -> bool {
    // Blanks in paths are written as octal; our mount points have none.
    let at = at.to_string_lossy();
    table.lines().any(|line| {
        let point = line.split(' ').nth(4).is_some_and(|point| point == at);
        let kind = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').next()).unwrap_or_default();
        point && kind.starts_with("nfs")
    })
}

/// Mounts `server:export` at a directory.
///
/// # Errors
/// What mount.nfs said; `Deadline` when the server did not answer.
pub async fn mount(server: &str, export: &str, options: &str, at: &Path) -> Result<(), StorageError> {
    std::fs::create_dir_all(at).map_err(|error| StorageError::io("make the mount point", at, error))?;
    let source = format!("{server}:{export}");
    let options = if options.is_empty() { SAFE_OPTIONS.to_owned() } else { format!("{options},{SAFE_OPTIONS}") };
    let mut command = Command::new(MOUNT_PROGRAM);
    command.arg(&source).arg(at).args(["-o", &options]);
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| {
        let what = format!("Could not start {MOUNT_PROGRAM} (package nfs-common): {error}");
        StorageError::new(StorageFault::Unavailable, what)
    })?;
    let mut stderr = child.stderr.take();
    let run = async {
        let mut said = String::new();
        if let Some(pipe) = &mut stderr {
            // What it says is only for the message.
            drop(pipe.take(4096).read_to_string(&mut said).await);
        }
        (child.wait().await, said)
    };
    let failed = |what: String| StorageError::new(StorageFault::Unavailable, what);
    match timeout(MOUNT_PATIENCE, run).await {
        Ok((Ok(status), _)) if status.success() => Ok(()),
        Ok((Ok(status), said)) => {
            let said = said.trim().replace('\n', "; ");
            Err(failed(format!("Could not mount {source} ({status}): {said}")))
        }
        Ok((Err(error), _)) => Err(failed(format!("Could not mount {source}: {error}"))),
        Err(_) => {
            let what =
                format!("Could not mount {source}: the server did not answer within {} s", MOUNT_PATIENCE.as_secs());
            Err(StorageError::new(StorageFault::Deadline, what))
        }
    }
}

/// Takes a mount away, also from a server that does not answer. Open files keep working.
///
/// # Errors
/// What the kernel said.
pub fn unmount(at: &Path) -> Result<(), StorageError> {
    if is_mounted(at)? {
        rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH)
            .map_err(|errno| StorageError::io("unmount", at, errno.into()))?;
    }
    match std::fs::remove_dir(at) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StorageError::io("remove the mount point", at, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_is_found_by_its_place_and_type() {
        let table = "36 35 98:0 / /run/quantix/pools/a rw,noatime shared:1 - nfs4 nas:/vm rw,vers=4.2\n\
                     37 35 0:1 / /run/quantix/pools/b rw - ext4 /dev/sdb rw\n";
        let at = |path: &str| mounted_in(table, Path::new(path));
        assert!(at("/run/quantix/pools/a"));
        assert!(!at("/run/quantix/pools/b"));
        assert!(!at("/run/quantix/pools"));
    }
}
