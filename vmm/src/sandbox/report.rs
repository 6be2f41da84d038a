//! What of the sandbox is in force, read back from the kernel: for the log line and for `info`.
//!
//! Runs on the main thread, inside or outside the sandbox. Must not open anything.

#![forbid(unsafe_code)]

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// The Landlock restriction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Landlock {
    /// The version of Landlock in force; 0 when the kernel has none.
    pub abi: u32,
}

impl Landlock {
    /// What this version lets a ruleset forbid, in words.
    pub fn covers(self) -> &'static str {
        match self.abi {
            0 => "nothing",
            1..=3 => "files",
            4..=5 => "files and TCP",
            _ => "files, TCP, abstract sockets and signals",
        }
    }
}

/// The five capability sets, one bit a capability (`capabilities(7)`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Those in force.
    pub effective: u64,
    /// Those that could be put in force.
    pub permitted: u64,
    /// Those that would be kept across `execve` by a file that has them.
    pub inheritable: u64,
    /// Those that `execve` could add.
    pub bounding: u64,
    /// Those that `execve` would keep.
    pub ambient: u64,
}

/// What the kernel says about one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How many seccomp filters are in force; 0 means that any system call is let through.
    pub seccomp_filters: u32,
    /// No program that this one could execute would gain rights.
    pub no_new_privs: bool,
    /// What the thread holds.
    pub capabilities: Capabilities,
    /// What the thread is forbidden to name.
    pub landlock: Landlock,
    /// The kernel refuses to make any memory executable, whatever the filter says.
    pub memory_deny_write_execute: bool,
}

/// Why the report cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The status file cannot be read.
    #[error("Cannot read the thread's status")]
    Read(#[from] io::Error),
    /// A line is missing from it, or is not a number.
    #[error("The thread's status has no usable line {0:?}")]
    Line(&'static str),
}

impl Report {
    pub(super) fn read(status: &File, landlock: Landlock, mdwe: bool) -> Result<Self, ReportError> {
        // The file has some 1.5 KiB, more with very many processors.
        let mut bytes = vec![0; 16 << 10];
        let length = status.read_at(&mut bytes, 0)?;
        bytes.truncate(length);
        Self::parse(&String::from_utf8_lossy(&bytes), landlock, mdwe)
    }

    fn parse(status: &str, landlock: Landlock, memory_deny_write_execute: bool) -> Result<Self, ReportError> {
        let number = |name: &'static str, radix| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .and_then(|value| u64::from_str_radix(value.trim(), radix).ok())
                .ok_or(ReportError::Line(name))
        };
        Ok(Self {
            // The count is newer (Linux 5.9) than the mode.
            seccomp_filters: number("Seccomp_filters", 10)
                .or_else(|_| number("Seccomp", 10).map(|mode| u64::from(mode == 2)))?
                as u32,
            no_new_privs: number("NoNewPrivs", 10)? == 1,
            capabilities: Capabilities {
                effective: number("CapEff", 16)?,
                permitted: number("CapPrm", 16)?,
                inheritable: number("CapInh", 16)?,
                bounding: number("CapBnd", 16)?,
                ambient: number("CapAmb", 16)?,
            },
            landlock,
            memory_deny_write_execute,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.capabilities.effective | self.capabilities.permitted | self.capabilities.inheritable;
        write!(
            f,
            "{} seccomp filter(s), no_new_privs {}, {} capabilities, Landlock {} ({}), executable memory {}",
            self.seccomp_filters,
            if self.no_new_privs { "on" } else { "off" },
            (held | self.capabilities.ambient).count_ones(),
            self.landlock.abi,
            self.landlock.covers(),
            if self.memory_deny_write_execute { "denied" } else { "not denied by the kernel" },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tquantix-vmm\nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\n\
        CapEff:\t0000000000000003\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\n\
        Seccomp:\t2\n";

    #[test]
    fn a_status_without_a_filter_count_falls_back_to_the_mode() {
        let report = Report::parse(STATUS, Landlock { abi: 7 }, true).unwrap();
        assert_eq!(report.seccomp_filters, 1);
        assert_eq!(report.capabilities.bounding.count_ones(), 41);
        assert_eq!(
            report.to_string(),
            "1 seccomp filter(s), no_new_privs on, 2 capabilities, Landlock 7 \
             (files, TCP, abstract sockets and signals), executable memory denied"
        );
    }

    #[test]
    fn a_missing_line_is_named() {
        let status = STATUS.replace("CapEff", "CapFoo");
        let error = Report::parse(&status, Landlock { abi: 0 }, false).unwrap_err();
        assert_eq!(error.to_string(), "The thread's status has no usable line \"CapEff\"");
    }
}
