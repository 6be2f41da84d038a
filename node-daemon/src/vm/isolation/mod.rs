//! The isolation receipt: what the kernel says now of the process that runs a VM, each fact beside what it must be.
//!
//! ```text
//!  launch record ─┐
//!  /proc/PID ─────┼─► read (files of /proc, nothing else) ─► Measured ─► judge (pure) ─► Receipt
//!  neighbours ────┘                                                          │
//!                        watch: every VM once an interval, spread ───────────┴─► event on each change
//! ```
//!
//! Nothing here believes the VMM, with one exception that the receipt names: the kernel shows no process's Landlock rules to
//! another, so that fact is what the VMM reported before its guest ran.
//!
//! Reading blocks for about a millisecond: on the blocking pool. Must not change anything about the process.

#![forbid(unsafe_code)]

mod fds;
mod judge;
mod read;
#[cfg(test)]
mod tests;
mod watch;

pub use read::{IsolationError, Namespaces};
pub use watch::IsolationWatch;

use std::collections::BTreeSet;
use std::collections::HashMap;

use super::launch::LaunchRecord;
use crate::model::Id;

/// What a VMM must be like.
#[derive(Clone, Debug)]
pub struct Expected {
    /// What was decided when it was launched. Descriptors that it was given later are added to its `grants`.
    pub record: LaunchRecord,
    /// Whether the VMM said, before its guest ran, that Landlock rules are in force (`Sandbox.landlock` of its
    /// control protocol); `None` when it was not asked.
    pub landlock_reported: Option<bool>,
}

/// One measured fact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// `uid`, `capabilities`, `namespace.pid`, `rlimit.nofile`, ….
    pub name: String,
    /// What it must be, in words or as the kernel writes it.
    pub expected: String,
    /// What it is.
    pub measured: String,
    /// They agree.
    pub ok: bool,
}

/// One open descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FdFact {
    /// Its number in the VMM.
    pub number: i32,
    /// What the kernel calls it, with paths of the host.
    pub target: String,
    /// Name under which it was given; empty for what the VMM made itself.
    pub name: String,
    /// It should not be there.
    pub unexpected: bool,
}

/// The isolation receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The process, in the daemon's pid namespace.
    pub pid: u32,
    /// One row a fact.
    pub facts: Vec<Fact>,
    /// One row a descriptor.
    pub fds: Vec<FdFact>,
    /// Its namespaces, to be held against those of others.
    pub namespaces: Namespaces,
}

impl Receipt {
    /// Everything is as it must be.
    pub fn intact(&self) -> bool {
        self.facts.iter().all(|fact| fact.ok)
    }

    /// What is not as it must be, one text a fact: two receipts with the same texts are broken in the same way.
    pub fn broken(&self) -> BTreeSet<String> {
        let broken = self.facts.iter().filter(|fact| !fact.ok);
        broken.map(|fact| format!("{}: {} instead of {}", fact.name, fact.measured, fact.expected)).collect()
    }
}

/// Which VM has which namespaces, so that two that share one are found.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    owners: HashMap<String, Id>,
}

impl Neighbours {
    /// Takes down what a VM has now.
    pub fn learn(&mut self, vm: &Id, namespaces: &Namespaces) {
        self.forget(vm);
        for (_, link) in namespaces.iter() {
            // The first one keeps it: then the other is the one that shares.
            self.owners.entry(link.to_owned()).or_insert_with(|| vm.clone());
        }
    }

    /// A VM has ended.
    pub fn forget(&mut self, vm: &Id) {
        self.owners.retain(|_, owner| owner != vm);
    }

    /// Another VM that has this namespace.
    pub(super) fn other(&self, vm: &Id, link: &str) -> Option<&Id> {
        self.owners.get(link).filter(|owner| *owner != vm)
    }
}

/// Reads everything about process `pid` and holds it against what it must be. Blocks for about a millisecond.
///
/// # Errors
/// The process has ended, or `/proc` cannot be read.
pub fn measure(pid: u32, expected: &Expected, neighbours: &Neighbours) -> Result<Receipt, IsolationError> {
    let measured = read::read(pid)?;
    let host = read::own_namespaces()?;
    Ok(judge::judge(pid, &measured, expected, &judge::Surroundings { host: &host, neighbours }))
}
