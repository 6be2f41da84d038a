//! The marker in a pool's directory: which pool it is, and that one daemon uses it. Runs on a pool's thread.
//!
//! It keeps a directory from becoming two pools, a mount point that lost its server from being taken for the pool, and two daemons
//! (also on two nodes, where the server has locks) from cleaning up what the other is just making.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::super::lock::{Lock, Sharing, try_lock};
use super::super::place::sync_directory;
use super::super::{StorageError, StorageFault};
use crate::model::Id;

const NAME: &str = "quantix-pool.json";
/// While it is written.
const PART: &str = ".quantix-pool.json.part";
/// A marker has far less.
const BYTES_MAX: u64 = 64 << 10;

/// What the marker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marker {
    /// The pool.
    pub pool: Id,
    /// The node that it belongs to: machine-id(5), empty where there is none.
    #[serde(default)]
    pub node: String,
}

impl Marker {
    /// Where it is in a pool's directory.
    pub fn path(root: &Path) -> PathBuf {
        root.join(NAME)
    }

    /// The marker of a directory; nothing when it has none.
    ///
    /// # Errors
    /// When it cannot be read, or is no marker.
    pub fn read(root: &Path) -> Result<Option<Self>, StorageError> {
        let path = root.join(NAME);
        match File::open(&path) {
            Ok(file) => Self::parse(&file, &path).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StorageError::io("open", &path, error)),
        }
    }

    fn parse(file: &File, path: &Path) -> Result<Self, StorageError> {
        let mut text = String::new();
        let read = file.take(BYTES_MAX).read_to_string(&mut text);
        read.map_err(|error| StorageError::io("read", path, error))?;
        serde_json::from_str(&text).map_err(|error| {
            let what =
                format!("{} is no marker of a pool ({error}): put the right one back, or remove it", path.display());
            StorageError::new(StorageFault::Refused, what)
        })
    }

    /// Makes a pool of an empty directory.
    ///
    /// # Errors
    /// When there is something in it, or what the kernel said.
    pub fn write(&self, root: &Path) -> Result<(), StorageError> {
        // mkfs leaves that behind.
        const ALLOWED: [&str; 3] = ["lost+found", PART, ".snapshot"];
        let entries = fs::read_dir(root).map_err(|error| StorageError::io("read the directory", root, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| StorageError::io("read the directory", root, error))?;
            if !ALLOWED.iter().any(|name| entry.file_name() == **name) {
                let name = entry.file_name().to_string_lossy().into_owned();
                let what = format!(
                    "{} is not empty (there is {name:?}): a pool begins with an empty directory",
                    root.display()
                );
                return Err(StorageError::new(StorageFault::Refused, what));
            }
        }
        self.rewrite(root)
    }

    /// Writes it, whatever was there before.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn rewrite(&self, root: &Path) -> Result<(), StorageError> {
        let part = root.join(PART);
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let text = format!("{}\n", serde_json::json!(self));
        let written = options.open(&part).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        written.map_err(|error| StorageError::io("write", &part, error))?;
        fs::rename(&part, root.join(NAME)).map_err(|error| StorageError::io("rename", &part, error))?;
        sync_directory(root)
    }

    /// Takes the pool for this daemon, as long as the returned file is open.
    ///
    /// # Errors
    /// When it is another pool, another node's, or in use by another daemon.
    pub fn hold(&self, root: &Path) -> Result<File, StorageError> {
        let path = root.join(NAME);
        let refused = |reason: &str| StorageError::new(StorageFault::Refused, format!("{}: {reason}", root.display()));
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let mut file = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let what = format!(
                    "{} has no {NAME}: the pool's disk is not mounted there, or its files are gone",
                    root.display()
                );
                return Err(StorageError::new(StorageFault::Unavailable, what));
            }
            other => other.map_err(|error| StorageError::io("open", &path, error))?,
        };
        let found = Self::parse(&file, &path)?;
        if found.pool != self.pool {
            return Err(refused(&format!(
                "this is pool {}, not {}: the wrong disk is mounted there",
                found.pool, self.pool
            )));
        }
        if !found.node.is_empty() && !self.node.is_empty() && found.node != self.node {
            return Err(refused(&format!(
                "the pool belongs to the node with machine-id {}: if that node is gone, write {} into its {NAME}",
                found.node, self.node
            )));
        }
        let locked = try_lock(&file, Sharing::Nobody).map_err(|error| StorageError::io("lock", &path, error))?;
        match locked {
            Lock::Held => return Err(refused("another quantix-node uses this pool")),
            Lock::Unsupported => tracing::warn!("{} has no locks: let no other node use this pool", root.display()),
            Lock::Taken => {}
        }
        file.rewind().map_err(|error| StorageError::io("read", &path, error))?;
        Ok(file)
    }
}

/// This machine, as machine-id(5) says; empty where there is none.
pub fn this_node() -> String {
    fs::read_to_string("/etc/machine-id").map(|text| text.trim().to_owned()).unwrap_or_default()
}
