//! `quantix-vmm check`: what this host can do for a guest, in plain words.
//!
//! Three steps, one file each: facts are gathered (`host`, and `kvm::probe`), judged (`verdict`, pure), and shown
//! (`text`, or JSON). The exit status says whether ordinary kernels can run.
//!
//! Runs on the main thread, outside the sandbox; the probe has a thread of its own, because a KVM that hangs must not
//! take the answer with it. Must not change anything on the host.

#![forbid(unsafe_code)]

mod host;
mod text;
mod verdict;

use std::io::{self, Write};
use std::sync::mpsc;
use std::time::Duration;

pub use host::{Access, Host, HugePages};
pub use verdict::{Finding, Kvm, Report, State, Topic, judge};

use crate::kvm::probe::{Probe, ProbeError};

/// How long the probe may take; it needs 0.1 s on the slowest KVM known.
const PATIENCE: Duration = Duration::from_secs(20);

/// In which form the report is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// For scripts: one object.
    Json,
}

/// Examines the host and writes the report. Returns whether ordinary kernels can run, for the exit status (0 or 1).
///
/// # Errors
/// The report cannot be written.
pub fn run(format: Format, out: &mut impl Write) -> io::Result<bool> {
    let report = judge(&examine(), &Host::look());
    match format {
        Format::Text => text::write(&report, out)?,
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
        }
    }
    Ok(report.ordinary_kernels)
}

/// What there is to say of KVM.
fn examine() -> Kvm {
    let (answer, wait) = mpsc::channel();
    let probe = move || {
        // Nobody listens any more when this took too long.
        let _ = answer.send(Probe::open().and_then(|probe| Ok((probe.offer(), probe.ring0()?))));
    };
    if let Err(error) = std::thread::Builder::new().name("probe".into()).spawn(probe) {
        return Kvm::Unusable { because: format!("Cannot start a thread: {error}") };
    }
    match wait.recv_timeout(PATIENCE) {
        Ok(Ok((offer, ring0))) => Kvm::Open { offer, ring0 },
        Ok(Err(error)) => unusable(&error),
        Err(_) => Kvm::Unusable { because: format!("KVM did not come back from a test guest within {PATIENCE:?}") },
    }
}

fn unusable(error: &ProbeError) -> Kvm {
    if let ProbeError::Open(source) = error {
        match source.errno() {
            libc::ENOENT | libc::ENODEV | libc::ENXIO => return Kvm::Absent,
            libc::EACCES | libc::EPERM => return Kvm::Forbidden,
            _ => {}
        }
    }
    let source = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    Kvm::Unusable { because: format!("{error}{source}") }
}
