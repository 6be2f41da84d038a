//! Writes initramfs archives (cpio `newc`, as the kernel's `Documentation/driver-api/early-userspace` describes them).
//! Pure: the archive is made in memory, the same entries always give the same bytes.

use std::collections::BTreeSet;

const TRAILER: &str = "TRAILER!!!";

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inodes: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a file and the directories above it; `path` has no leading slash, `mode` holds the permission bits.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.parents(path);
        self.record(path, 0o100_000 | mode, content);
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.record(path, 0o120_777, target.as_bytes());
    }

    /// Adds a directory and those above it.
    pub fn directory(&mut self, path: &str) {
        self.parents(path);
        if self.directories.insert(path.to_string()) {
            self.record(path, 0o040_755, &[]);
        }
    }

    /// The finished archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.record(TRAILER, 0, &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        for (index, _) in path.match_indices('/') {
            let parent = path.get(..index).unwrap_or_default().to_string();
            if self.directories.insert(parent.clone()) {
                self.record(&parent, 0o040_755, &[]);
            }
        }
    }

    fn record(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.inodes += 1;
        // ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
        let (size, name_size) = (content.len() as u32, path.len() as u32 + 1);
        let fields = [self.inodes, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::Archive;
    use std::fs;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    #[test]
    fn the_cpio_program_unpacks_what_was_written() {
        let mut archive = Archive::default();
        archive.file("bin/tool", 0o755, b"odd length");
        archive.symlink("bin/other", "tool");
        archive.directory("empty/inner");
        archive.file("bin/second", 0o644, &[7; 4097]);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut cpio = Command::new("cpio")
            .args(["-idm", "--quiet"])
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .expect("cpio starts");
        cpio.stdin.take().expect("piped").write_all(&archive.finish()).expect("cpio reads");
        assert!(cpio.wait().expect("cpio ends").success());
        let at = |path: &str| directory.path().join(path);
        assert_eq!(fs::read(at("bin/other")).expect("the link leads to the file"), b"odd length");
        assert_eq!(fs::read(at("bin/second")).expect("the file"), [7; 4097]);
        assert_eq!(at("bin/tool").metadata().expect("the file").permissions().mode() & 0o777, 0o755);
        assert!(at("empty/inner").is_dir());
    }
}
