//! Seccomp filters: one allow-list per thread role, turned into BPF while the program is compiled.
//!
//! The lists are data (`lists/`): one entry a line, each with its reason. `compile` makes them into BPF in a
//! `const fn`, so a filter costs nothing at start and lies in read-only memory. What is not listed kills the
//! process, so a hijacked thread cannot probe and go on.
//!
//! Why the seccompiler crate does not compile them, though it installs them: it writes a linear program of
//! four times the length, and the kernel's price for installing one grows with its length; and it cannot answer
//! one call with an error while it kills for the rest, as `clone3` needs. The tests hold both compilers'
//! programs against each other. `cargo nextest run --run-ignored only filter_cost --no-capture` prints what
//! each costs: 30 to 35 µs to install ours here, 170 to 220 µs the crate's, after 25 to 40 µs to compile it.
//!
//! Runs on whichever thread calls [`install`]; must not open, read or allocate anything: the thread may be
//! about to lose the right to.

#![forbid(unsafe_code)]

mod compile;
#[cfg(test)]
mod tests;

use super::lists;
use compile::{Program, compile};

/// What a thread does, and so what it may ask of the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The control loop: control socket, timers, signals, the machine's phases.
    Main,
    /// A device worker: queues, disks, taps, vsock streams.
    Io,
    /// A thread that runs one vCPU and handles its exits.
    Vcpu,
}

impl Role {
    /// Every role, for tests and reports.
    pub const ALL: [Self; 3] = [Self::Main, Self::Io, Self::Vcpu];

    /// The role's lists: its own first (hot calls lead), then what the language run time needs.
    pub const fn lists(self) -> &'static [&'static [Entry]] {
        match self {
            Self::Main => &[lists::MAIN, lists::RUNTIME, lists::ANSWERED],
            Self::Io => &[lists::IO, lists::RUNTIME, lists::ANSWERED],
            Self::Vcpu => &[lists::VCPU, lists::RUNTIME, lists::ANSWERED],
        }
    }

    /// Every entry of the role's lists, in the order in which the filter tries them.
    pub fn entries(self) -> impl Iterator<Item = &'static Entry> {
        self.lists().iter().copied().flatten()
    }

    const fn program(self) -> &'static Program {
        static MAIN: Program = compile(Role::Main.lists());
        static IO: Program = compile(Role::Io.lists());
        static VCPU: Program = compile(Role::Vcpu.lists());
        match self {
            Self::Main => &MAIN,
            Self::Io => &IO,
            Self::Vcpu => &VCPU,
        }
    }
}

/// One line of a list.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// The call as `libc` names it, for example `SYS_futex`.
    pub name: &'static str,
    /// Its number on x86-64.
    pub number: u32,
    /// Which uses of the call the entry is for.
    pub when: When,
    /// `when` as the list spells it, so that a trace can be matched against request names.
    pub spelling: &'static str,
    /// Why the role needs it.
    pub reason: &'static str,
}

impl Entry {
    /// Whether a run of a few seconds on any one host is not expected to need it: its reason says so first.
    pub fn is_seldom(&self) -> bool {
        self.reason.starts_with("Seldom: ")
    }
}

/// A condition on one argument (0 to 5).
///
/// Only the low 32 bits are compared. That is exact: each argument that a list tests is an `int`, or one of
/// which the kernel itself looks at the low half only.
#[derive(Clone, Copy, Debug)]
pub enum When {
    /// Whatever the arguments are.
    Always,
    /// The argument equals the value.
    Equal {
        /// Position of the argument.
        arg: u8,
        /// The one value that is let through.
        value: u32,
    },
    /// None of these bits are set in the argument.
    Without {
        /// Position of the argument.
        arg: u8,
        /// The bits that must be clear.
        bits: u32,
    },
    /// The argument is this process's own id.
    OwnProcess {
        /// Position of the argument.
        arg: u8,
    },
    /// Not let through, but answered with this error instead of death: callers are known to ask and go on.
    Answer {
        /// The error number.
        errno: u16,
    },
}

/// Why a thread's filter is not in force.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// Landlock refused to end the reading of files.
    #[error("Cannot forbid files to a {role:?} thread")]
    Landlock {
        /// The thread's role.
        role: Role,
        /// What was refused.
        source: landlock::RulesetError,
    },
    /// The kernel refused the filter.
    #[error("Cannot install the system-call filter of a {role:?} thread")]
    Filter {
        /// The thread's role.
        role: Role,
        /// What was refused.
        source: seccompiler::Error,
    },
}

/// Ends the reading of files for the calling thread, and puts the role's filter on it, for good.
///
/// Also sets `no_new_privs`, without which an unprivileged thread may not install a filter.
///
/// # Errors
/// The kernel has no seccomp filters, or refuses one more.
pub fn install(role: Role) -> Result<(), SeccompError> {
    super::forbid_reading().map_err(|source| SeccompError::Landlock { role, source })?;
    let program = role.program();
    let mut code = program.code.clone();
    // A process id is the one operand that is not known before the process runs.
    if let Some(instruction) = program.own_process.and_then(|at| code.get_mut(at)) {
        instruction.k = std::process::id();
    }
    let filter = code.get(..program.len).unwrap_or(&code);
    seccompiler::apply_filter(filter).map_err(|source| SeccompError::Filter { role, source })
}
