//! Seccomp filters: one allow-list per thread role, turned into BPF while the program is compiled.
//!
//! The lists are data (`lists/`): one entry a line, each with its reason. [`compile`] is a `const fn`, so a
//! filter costs nothing at start and lies in read-only memory. What is not listed kills the process, so a
//! hijacked thread cannot probe and go on.
//!
//! Why not let the seccompiler crate compile them at start: it emits five instructions an unconditional
//! call where one will do, and the kernel walks the whole program for each system call number when a
//! filter is installed, so a short program is what makes installing cheap (`cargo nextest run --run-ignored only
//! filter_cost --no-capture` prints both). It also has no way to answer one call with an error and
//! kill for the rest, which `clone3` needs. Its installer and its instruction type are used here, and
//! the tests hold both compilers' programs against each other.
//!
//! Runs on whichever thread calls [`install`]; must not open, read or allocate anything: the thread may be
//! about to lose the right to.

#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;

use seccompiler::sock_filter;

use super::lists;

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

/// Why a filter is not in force.
#[derive(Debug, thiserror::Error)]
#[error("Cannot install the system-call filter of a {role:?} thread")]
pub struct SeccompError {
    role: Role,
    source: seccompiler::Error,
}

/// Puts the role's filter on the calling thread, for good.
///
/// Also sets `no_new_privs`, without which an unprivileged thread may not install a filter.
///
/// # Errors
/// The kernel has no seccomp filters, or refuses one more.
pub fn install(role: Role) -> Result<(), SeccompError> {
    let program = role.program();
    let mut code = program.code.clone();
    // A process id is the one operand that is not known before the process runs.
    if let Some(instruction) = program.own_process.and_then(|at| code.get_mut(at)) {
        instruction.k = std::process::id();
    }
    let filter = code.get(..program.len).unwrap_or(&code);
    seccompiler::apply_filter(filter).map_err(|source| SeccompError { role, source })
}

/// Most instructions a program may have: conditional jumps reach no further.
const LIMIT: usize = 255;

/// A compiled filter.
struct Program {
    code: [sock_filter; LIMIT],
    len: usize,
    /// The instruction whose operand becomes the process id when the filter is installed.
    own_process: Option<usize>,
}

// Classic BPF as seccomp takes it: <linux/bpf_common.h>, <linux/seccomp.h>, <linux/audit.h>.
const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const X86_64: u32 = 0xc000_003e;

/// Where a jump goes; resolved when the length of the program is known.
#[derive(Clone, Copy)]
enum Target {
    Next,
    Skip(u8),
    Allow,
    Kill,
}

/// A program under construction.
struct Builder {
    code: [sock_filter; LIMIT],
    targets: [(Target, Target); LIMIT],
    len: usize,
    own_process: Option<usize>,
}

impl Builder {
    const fn push(&mut self, code: u16, operand: u32, yes: Target, no: Target) {
        assert!(self.len < LIMIT, "the list makes a filter that is too long for one jump");
        self.code[self.len] = sock_filter { code, jt: 0, jf: 0, k: operand };
        self.targets[self.len] = (yes, no);
        self.len += 1;
    }

    const fn statement(&mut self, code: u16, operand: u32) {
        self.push(code, operand, Target::Next, Target::Next);
    }

    /// All entries of one call: its number, then each condition, then death.
    const fn call(&mut self, lists: &[&[Entry]], number: u32, alternatives: usize) {
        let head = self.len;
        self.push(IF_EQUAL, number, Target::Next, Target::Next);
        let mut loaded = None;
        let (mut list, mut i) = (0, 0);
        while list < lists.len() {
            if i == lists[list].len() {
                (list, i) = (list + 1, 0);
                continue;
            }
            let entry = &lists[list][i];
            i += 1;
            if entry.number != number {
                continue;
            }
            match entry.when {
                When::Always => {
                    assert!(alternatives == 1, "a call is listed both with and without a condition");
                    self.targets[head] = (Target::Allow, Target::Next);
                    return;
                }
                When::Answer { errno } => {
                    assert!(alternatives == 1, "a call is listed both as allowed and as answered");
                    self.statement(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32);
                }
                When::Equal { arg, value } => {
                    self.load(&mut loaded, arg);
                    self.push(IF_EQUAL, value, Target::Allow, Target::Next);
                }
                When::Without { arg, bits } => {
                    self.load(&mut loaded, arg);
                    self.push(IF_ANY_BIT, bits, Target::Next, Target::Allow);
                }
                When::OwnProcess { arg } => {
                    assert!(self.own_process.is_none(), "one operand for the process id is all there is");
                    self.load(&mut loaded, arg);
                    self.own_process = Some(self.len);
                    self.push(IF_EQUAL, 0, Target::Allow, Target::Next);
                }
            }
        }
        // The last test of the call kills where it would have gone on.
        let last = self.len - 1;
        if self.code[last].code != RETURN {
            let (yes, no) = self.targets[last];
            self.targets[last] = match yes {
                Target::Allow => (yes, Target::Kill),
                _ => (Target::Kill, no),
            };
        }
        self.targets[head] = (Target::Next, Target::Skip((self.len - head - 1) as u8));
    }

    /// Brings an argument into the accumulator unless it is there.
    const fn load(&mut self, loaded: &mut Option<u8>, arg: u8) {
        if !matches!(*loaded, Some(held) if held == arg) {
            assert!(arg < 6, "a call has six arguments");
            // `seccomp_data.args` starts at 16; the low half comes first on a little-endian machine.
            self.statement(LOAD, 16 + 8 * arg as u32);
            *loaded = Some(arg);
        }
    }

    /// Appends the two verdicts and resolves the jumps.
    const fn finish(mut self) -> Program {
        let kill = self.len;
        self.statement(RETURN, libc::SECCOMP_RET_KILL_PROCESS);
        let allow = self.len;
        self.statement(RETURN, libc::SECCOMP_RET_ALLOW);
        let mut at = 0;
        while at < kill {
            let (yes, no) = self.targets[at];
            self.code[at].jt = distance(at, yes, kill, allow);
            self.code[at].jf = distance(at, no, kill, allow);
            at += 1;
        }
        Program { code: self.code, len: self.len, own_process: self.own_process }
    }
}

const fn distance(at: usize, target: Target, kill: usize, allow: usize) -> u8 {
    match target {
        Target::Next => 0,
        Target::Skip(count) => count,
        // Fits: a program has at most LIMIT instructions.
        Target::Kill => (kill - at - 1) as u8,
        Target::Allow => (allow - at - 1) as u8,
    }
}

/// How many entries of `lists` before entry `until` (counted over all lists) are for `number`.
const fn mentions(lists: &[&[Entry]], number: u32, until: usize) -> usize {
    let (mut list, mut i, mut seen, mut found) = (0, 0, 0, 0);
    while list < lists.len() && seen < until {
        if i == lists[list].len() {
            (list, i) = (list + 1, 0);
            continue;
        }
        if lists[list][i].number == number {
            found += 1;
        }
        (i, seen) = (i + 1, seen + 1);
    }
    found
}

/// Compiles lists into one program. Calls are tried in the order of their first entry, so the first lines
/// of a list are the cheapest.
const fn compile(lists: &[&[Entry]]) -> Program {
    const BLANK: sock_filter = sock_filter { code: RETURN, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS };
    let mut builder =
        Builder { code: [BLANK; LIMIT], targets: [(Target::Next, Target::Next); LIMIT], len: 0, own_process: None };
    builder.statement(LOAD, ARCHITECTURE_AT);
    builder.push(IF_EQUAL, X86_64, Target::Next, Target::Kill);
    builder.statement(LOAD, NUMBER_AT);
    let (mut list, mut i, mut seen) = (0, 0, 0);
    while list < lists.len() {
        if i == lists[list].len() {
            (list, i) = (list + 1, 0);
            continue;
        }
        let number = lists[list][i].number;
        if mentions(lists, number, seen) == 0 {
            builder.call(lists, number, mentions(lists, number, usize::MAX));
        }
        (i, seen) = (i + 1, seen + 1);
    }
    builder.finish()
}
