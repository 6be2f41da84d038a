//! Where the kernel's facts are read: `/proc` and `/sys`, or copies of them in tests. Any task.

use std::io;
use std::path::{Path, PathBuf};

/// Where `/proc` and `/sys` are.
#[derive(Clone, Debug)]
pub struct Roots {
    proc: PathBuf,
    sys: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into() }
    }
}

impl Roots {
    /// Copies elsewhere.
    pub fn at(proc: impl Into<PathBuf>, sys: impl Into<PathBuf>) -> Self {
        Self { proc: proc.into(), sys: sys.into() }
    }

    /// A file of `/proc`; nothing when this kernel has none.
    pub fn read_proc(&self, path: &str) -> Option<String> {
        read(&self.proc.join(path))
    }

    /// A file of `/sys`; nothing when this kernel has none.
    pub fn read_sys(&self, path: &str) -> Option<String> {
        read(&self.sys.join(path))
    }

    /// A file of one line in `/proc`; empty when there is none.
    pub fn line_proc(&self, path: &str) -> String {
        self.read_proc(path).unwrap_or_default().trim().to_owned()
    }

    /// A file of one line in `/sys`; empty when there is none.
    pub fn line_sys(&self, path: &str) -> String {
        self.read_sys(path).unwrap_or_default().trim().to_owned()
    }

    /// A file with one number in `/sys`.
    pub fn number_sys(&self, path: &str) -> Option<u64> {
        self.read_sys(path)?.trim().parse().ok()
    }

    /// Names in a directory of `/sys`, sorted; none when there is no such directory.
    pub fn list_sys(&self, path: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.sys.join(path)) else { return Vec::new() };
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The last part of where a link in `/sys` leads: a device's driver.
    pub fn link_sys(&self, path: &str) -> String {
        let target = std::fs::read_link(self.sys.join(path)).unwrap_or_default();
        target.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Whether there is such a thing in `/sys`.
    pub fn has_sys(&self, path: &str) -> bool {
        self.sys.join(path).exists()
    }
}

fn read(path: &Path) -> Option<String> {
    match std::fs::read(path) {
        // Model names of disks are not always UTF-8.
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            // A device without that attribute, or one that went away meanwhile, is no failure.
            if error.kind() != io::ErrorKind::NotFound {
                tracing::debug!("Cannot read {}: {error}", path.display());
            }
            None
        }
    }
}
