//! Pools: places for volumes and images. Pure.

use serde::{Deserialize, Serialize};

use super::{Failure, Id, Name};

/// A place for volumes and images, as it is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its id; also in its marker file.
    pub id: Id,
    /// Its name.
    pub name: Name,
    /// What it is made of.
    pub source: PoolSource,
    /// What is being done with it.
    pub phase: PoolPhase,
}

/// What is being done with a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PoolPhase {
    /// It is looked at for the first time, and not there yet for anybody else. A daemon that dies meanwhile forgets it.
    Creating,
    /// It is a pool.
    Ready,
}

/// What a pool is made of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PoolSource {
    /// A directory of this node.
    Directory {
        /// Absolute.
        path: String,
    },
    /// An export of an NFS server, mounted by the daemon.
    Nfs {
        /// Name or address.
        server: String,
        /// Absolute, on the server.
        export: String,
        /// Mount options, joined by commas.
        options: String,
    },
}

/// Longest path of a directory, and of an export, in bytes.
const PATH_MAX: usize = 1024;

impl PoolSource {
    /// A directory.
    ///
    /// # Errors
    /// When the path is none that a pool may have.
    pub fn directory(path: &str) -> Result<Self, Failure> {
        check_path("directory.path", path)?;
        Ok(Self::Directory { path: path.to_owned() })
    }

    /// An export of an NFS server.
    ///
    /// # Errors
    /// When a part could be read as something else by mount(8), or is not allowed.
    pub fn nfs(server: &str, export: &str, options: &str) -> Result<Self, Failure> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-.:[]".contains(&b);
        if server.is_empty() || server.len() > 253 || server.starts_with('-') || !server.bytes().all(plain) {
            return Err(Failure::invalid("nfs.server", server, "is not a server: give a host name or an address"));
        }
        check_path("nfs.export", export)?;
        if export.contains([',', ' ']) {
            return Err(Failure::invalid(
                "nfs.export",
                export,
                "has a comma or a blank, which mount options cannot carry",
            ));
        }
        check_options(options)?;
        Ok(Self::Nfs { server: server.to_owned(), export: export.to_owned(), options: options.to_owned() })
    }
}

fn check_path(field: &str, path: &str) -> Result<(), Failure> {
    let reason = match path {
        _ if !path.starts_with('/') => "is not absolute: begin it with /",
        _ if path.len() > PATH_MAX => "is too long: a path has at most 1024 bytes",
        _ if path.chars().any(char::is_control) => "has a control character",
        _ if path.split('/').any(|part| part == ".." || part == ".") => "has . or .. in it: write it without",
        "/" => "is the root directory: give one below it",
        _ => return Ok(()),
    };
    Err(Failure::invalid(field, path, reason))
}

/// Mount options that may be given. What decides about safety is set by the daemon: nosuid, nodev, noexec.
const NFS_OPTIONS: &[&str] = &[
    "vers",
    "nfsvers",
    "proto",
    "port",
    "mountport",
    "rsize",
    "wsize",
    "timeo",
    "retrans",
    "nconnect",
    "max_connect",
    "sec",
    "hard",
    "soft",
    "softerr",
    "ac",
    "noac",
    "acregmin",
    "acregmax",
    "acdirmin",
    "acdirmax",
    "actimeo",
    "lookupcache",
    "lock",
    "nolock",
    "local_lock",
    "rw",
    "noatime",
    "nodiratime",
    "relatime",
    "fsc",
    "nofsc",
    "sharecache",
    "nosharecache",
    "clientaddr",
    "minorversion",
    "resvport",
    "noresvport",
    "tcp",
    "udp",
    "xprtsec",
    "cto",
    "nocto",
];

fn check_options(options: &str) -> Result<(), Failure> {
    if options.is_empty() {
        return Ok(());
    }
    for option in options.split(',') {
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:".contains(&b);
        if !NFS_OPTIONS.contains(&key) || !value.bytes().all(plain) {
            let reason = format!("has {option:?}, which is no mount option of NFS that may be given here");
            return Err(Failure::invalid("nfs.options", options, reason));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_mount_could_misread_is_refused() {
        let refused = [
            ("", "/x", ""),
            ("-oexec", "/x", ""),
            ("a b", "/x", ""),
            ("host,suid", "/x", ""),
            ("host", "x", ""),
            ("host", "/x,suid", ""),
            ("host", "/../x", ""),
            ("host", "/x", "suid"),
            ("host", "/x", "vers=4.2,exec"),
            ("host", "/x", "vers=4;reboot"),
            ("host", "/x", ",,"),
        ];
        for (server, export, options) in refused {
            assert!(PoolSource::nfs(server, export, options).is_err(), "{server} {export} {options}");
        }
        assert!(PoolSource::nfs("nas.example", "/export/vm", "vers=4.2,nconnect=4").is_ok());
        assert!(PoolSource::nfs("[fd00::1]", "/export", "").is_ok());
    }

    #[test]
    fn directories_are_absolute_and_plain() {
        for path in ["", "pool", "/", "/a/../b", "/a/./b", "/a\nb"] {
            assert!(PoolSource::directory(path).is_err(), "{path:?}");
        }
        assert!(PoolSource::directory("/srv/pool").is_ok());
    }
}
